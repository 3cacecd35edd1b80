"""The use cases that a service asks for, called in a process of their own.

Promoting needs MLflow and two whole models: seconds of processor and memory that requests under
way should not pay for, and packages that a service does not import.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tasador.core.errors import RegistryError, TasadorError
from tasador.lifecycle.api import Place, opened


def promote_at(place: Place, version: str, alias: str, reason: str, force: bool) -> dict[str, Any]:
    """Do what `tasador promote` does, and return what was done; errors as `promote` has them."""
    # inside, since a service imports this module, and neither Polars nor Hydra
    from tasador.lifecycle.promote import PromotionRequest, promote
    from tasador.settings.compose import compose

    with opened(place) as lifecycle:
        request = PromotionRequest(version, alias, reason, force)
        gates = compose([], project=Path.cwd()).gates
        return promote(lifecycle, request, settings=gates).operation.summary


def roll_back_at(place: Place, to: str | None, reason: str) -> dict[str, Any]:
    """Do what `tasador rollback` does, and return what was done."""
    with opened(place) as lifecycle:
        return lifecycle.roll_back(to, reason).operation.summary


def call_apart(
    work: Callable[..., dict[str, Any]], *arguments: object, seconds: float
) -> dict[str, Any]:
    """Call `work` in a new process and return what it returns.

    Args:
        work: A function of a module, which the process imports by its name.
        arguments: Its arguments.
        seconds: After that long the process is stopped.

    Raises:
        TasadorError: Whatever `work` raises of it.
        RegistryError: It took too long, or the process died.
    """
    # spawned: a copy of a service would share its sockets and the locks of its threads
    context = multiprocessing.get_context("spawn")
    answers, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(sender, work, arguments), daemon=True)
    process.start()
    sender.close()  # else the end of the process could not be seen
    try:
        if not answers.poll(seconds):
            raise _ended(f"did not end within {seconds:.0f} s and was stopped")
        answer = answers.recv()
    except EOFError:
        process.join(10)
        raise _ended(f"died with exit code {process.exitcode}") from None
    finally:
        answers.close()
        process.kill()
        process.join()
    if isinstance(answer, TasadorError):
        raise answer
    done: dict[str, Any] = answer
    return done


def _send(sender: Connection, work: Callable[..., Any], arguments: tuple[object, ...]) -> None:
    # Ctrl-C reaches the whole group: the service ends first, and this process with it
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        answer = work(*arguments)
    except TasadorError as error:
        answer = error
    sender.send(answer)


def _ended(how: str) -> RegistryError:
    return RegistryError(
        f"the process that changes the registry {how}",
        remedy="see the service's log and tasador models: the next change puts in order what is "
        "half done",
    )
