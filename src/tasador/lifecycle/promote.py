"""Promote a version: through the gates, then the alias.

A service promotes and rolls back in a process of its own (`call_apart`): that needs MLflow and two
whole models, seconds of processor and memory that requests under way should not pay for, and
packages that a service does not import.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tasador.core.errors import BundleError, ConfigError, RegistryError, TasadorError
from tasador.lifecycle.alias_updates import (
    ALIASES,
    CHALLENGER,
    Operation,
    OperationResult,
    new_operation_id,
    promotion,
)
from tasador.lifecycle.api import Lifecycle, Place, opened
from tasador.lifecycle.errors import GatesRefuseError, NotAllowedError
from tasador.registry.versions import (
    CHAMPION,
    REASON_TAG,
    REJECTED,
    ROLLED_BACK,
    ModelVersion,
    find_version,
)
from tasador.settings.run import GateSettings

if TYPE_CHECKING:
    from tasador.lifecycle.gate_evaluation import VersionEvaluation

#: A challenger gets some of the traffic: whether it is better is what that is to show.
SAFETY = frozenset(
    {"hash and parity", "contract compatible", "real only over real", "bundle size", "latency"}
)
Tell = Callable[["VersionEvaluation"], None]


@dataclass(frozen=True)
class PromotionRequest:
    """What somebody wants.

    Attributes:
        version: A number, alias or bundle's version.
        alias: The place it shall have.
        reason: Why.
        force: Although a gate refuses.
        gates: Which are asked for: the place's ``usual`` ones, ``all``, those of ``safety``, or
            for the ``first`` real model those that need no predecessor.
    """

    version: str
    alias: str = CHAMPION
    reason: str = ""
    force: bool = False
    gates: Literal["usual", "all", "safety", "first"] = "usual"


def promote(
    lifecycle: Lifecycle,
    request: PromotionRequest,
    *,
    settings: GateSettings | None = None,
    tell: Tell = lambda _: None,
) -> OperationResult:
    """Point an alias to a version that passes the gates.

    ``champion`` asks for all gates, ``challenger`` for those that keep clients safe, ``staging``
    for none. Force passes any gate, but what is damaged is never promoted. A version that has the
    alias already is left as it is, and nothing is evaluated or noted.

    Args:
        lifecycle: The model's.
        request: Which version, for which alias.
        settings: How strict the gates are.
        tell: Called with the gates' results before anything is changed.

    Raises:
        GateError: A gate refuses or cannot tell; noted in the history.
        BundleError: The version's bundle is damaged; noted in the history.
        ConfigError: No such version or alias, it was rejected, or force without a reason.
        RegistryError: See `lifecycle.alias_updates.carry_out`.
    """
    if request.force and not request.reason.strip():
        raise ConfigError("--force needs a reason", remedy='add --reason "..."; it is recorded')
    versions, who = lifecycle.versions, lifecycle.place.who
    version = find_version(versions, request.version)
    if version.status in (REJECTED, ROLLED_BACK) and not request.force:
        why = version.tags.get(REASON_TAG)
        raise NotAllowedError.of_status(version.number, version.status, why)
    present = versions.aliases().get(CHAMPION, "")
    details: dict[str, object] = {"forced": request.force}
    if request.alias not in ALIASES:
        raise NotAllowedError.unknown_place(request.alias, ALIASES)
    # a script that promotes twice must neither fail nor fill the history
    if version.number == versions.aliases().get(request.alias):
        same = Operation(
            "", "promote", version.number, present, present, (), who, "", {"alias": request.alias}
        )
        return OperationResult(same, (), changed=False)
    if request.alias in (CHAMPION, CHALLENGER):
        evaluated = _evaluated(lifecycle, version, present, request, settings)
        tell(evaluated)
        details |= evaluated.details()
        safe = request.gates == "safety" or (
            request.alias == CHALLENGER and request.gates == "usual"
        )
        asked = SAFETY if safe else None
        bad = [
            gate for gate in evaluated.report.gates
            if gate.state != "pass" and (asked is None or gate.name in asked)
        ]  # fmt: skip
        if bad and not request.force:
            _record_rejection(
                lifecycle, version, present, request, evaluated.report.summary, details
            )
            said = [f"{gate.name}: {gate.state}, {gate.text}" for gate in bad]
            raise GatesRefuseError.of(version.number, request.alias, said)
    plan = promotion(
        versions, version, request.alias, actor=who, reason=request.reason, expected=present,
        details=details,
    )  # fmt: skip
    # what was evaluated has just been loaded, and its signature checked
    return lifecycle.change(plan, checked=request.alias in (CHAMPION, CHALLENGER))


def _evaluated(
    lifecycle: Lifecycle,
    version: ModelVersion,
    present: str,
    request: PromotionRequest,
    settings: GateSettings | None,
) -> VersionEvaluation:
    # inside, since a service imports this module, and no Polars
    from tasador.lifecycle.gate_evaluation import evaluate_version

    known = {one.number: one for one in lifecycle.versions.all()}
    try:
        against = None if request.gates == "first" else known.get(present)
        return evaluate_version(lifecycle, version, against, settings)
    # a damaged bundle is refused before there are gates: the history shall say so all the same
    except BundleError as error:
        _record_rejection(lifecycle, version, present, request, str(error), {})
        raise


def _record_rejection(
    lifecycle: Lifecycle,
    version: ModelVersion,
    present: str,
    request: PromotionRequest,
    note: str,
    details: dict[str, object],
) -> None:
    operation = Operation(
        new_operation_id(), "promote", version.number, present, present, (),
        lifecycle.place.who, request.reason, {"alias": request.alias, **details},
    )  # fmt: skip
    lifecycle.ledger.note(operation, "refused", note)


def promote_at(place: Place, version: str, alias: str, reason: str, force: bool) -> dict[str, Any]:
    """Do what `tasador promote` does, and return what was done; errors as `promote` has them."""
    # inside, as above: no Hydra in a service
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
