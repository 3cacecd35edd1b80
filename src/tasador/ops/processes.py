"""`Stack`: several processes as one: started, waited for, watched and stopped together."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from tasador.core.errors import ConfigError, ServingError
from tasador.core.storage import make_private

_LOOK_S = 0.2
_TAIL = 12


@dataclass(frozen=True)
class Member:
    """One process of a stack.

    Attributes:
        name: For people, and for its log.
        command: What is run.
        port: Where it listens on loopback; None for one that does not.
        health: Path that answers 200 once it is ready; empty for one that is ready at once.
        environment: Variables beside those of this process.
    """

    name: str
    command: tuple[str, ...]
    port: int | None = None
    health: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Its address; empty for one that does not listen."""
        return "" if self.port is None else f"http://127.0.0.1:{self.port}"


class MemberError(ServingError):
    """A process of a stack that cannot start, is late, or ended."""

    @classmethod
    def port_taken(cls, member: Member, error: OSError) -> MemberError:
        """Return the error of a port on which something listens already."""
        return cls(
            f"{member.name} cannot have port {member.port}",
            got=str(error),
            remedy=f"stop what listens there, or choose another --{member.name}-port",
        )

    @classmethod
    def not_started(cls, member: Member, error: OSError) -> MemberError:
        """Return the error of a command that the system does not run."""
        return cls(f"{member.name} cannot be started", got=str(error))

    @classmethod
    def late(cls, member: Member, seconds: float, tail: str, log: Path) -> MemberError:
        """Return the error of a member that did not become ready, with the end of its log."""
        text = f"{member.name} was not ready within {seconds:.0f} s"
        return cls(text, got=tail, remedy=f"see {log}")

    @classmethod
    def ended(cls, member: Member, code: int, tail: str, log: Path) -> MemberError:
        """Return the error of a member that ended by itself, with the end of its log."""
        text = f"{member.name} ended with code {code}; the others were stopped"
        return cls(text, got=tail, remedy=f"see {log}")


class Stack:
    """Starts members, and ends all when one ends.

    Args:
        members: In the order in which they start; they stop in reverse.
        logs: Folder for what each prints.
        start_s: Seconds in which all must be ready.
        stop_s: Seconds that all get to end by themselves.
    """

    def __init__(
        self, members: Sequence[Member], logs: Path, *, start_s: float = 180.0, stop_s: float = 5.0
    ) -> None:
        self._members = tuple(members)
        self._logs = logs
        self._start_s = start_s
        self._stop_s = stop_s
        self._running: list[tuple[Member, subprocess.Popen[bytes], IO[bytes]]] = []
        self._ended = threading.Event()

    def run(
        self,
        ready: Callable[[], None] = lambda: None,
        stopping: Callable[[], None] = lambda: None,
    ) -> None:
        """Start all, call `ready` when they are, and go on until `stop`; then call `stopping`.

        Raises:
            ConfigError: Two members want one port.
            ServingError: A port is taken, a member did not become ready in time, or ended; its
                name and the last lines of its log are in the message. The others are stopped.
        """
        self._check_ports()
        try:
            for member in self._members:
                if self._ended.is_set():
                    return
                self._start(member)
            self._wait_ready()
            if not self._ended.is_set():
                ready()
            while not self._ended.wait(_LOOK_S):
                self._check_alive()
        finally:
            if self._ended.is_set():
                stopping()
            self._stop_all()

    def stop(self) -> None:
        """End `run`; may be called by a signal handler."""
        self._ended.set()

    def _check_ports(self) -> None:
        taken: dict[int, str] = {}
        for member in self._members:
            if member.port is None:
                continue
            if member.port in taken:
                names = f"{taken[member.port]} and {member.name}"
                raise ConfigError(f"{names} cannot both have port {member.port}")
            taken[member.port] = member.name
            with socket.socket() as probe:
                # connections of a stack stopped a moment ago (TIME_WAIT) do not count
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", member.port))
                except OSError as error:
                    raise MemberError.port_taken(member, error) from None

    def _start(self, member: Member) -> None:
        make_private(self._logs, folder=True)
        log = self._log(member).open("wb")
        try:
            # a session of its own: Ctrl-C reaches the supervisor only, which stops all in order
            process = subprocess.Popen(
                member.command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                env=os.environ | dict(member.environment), start_new_session=True,
                umask=0o077,  # databases, logs and artifacts are the owner's alone
            )  # fmt: skip
        except OSError as error:
            log.close()
            raise MemberError.not_started(member, error) from None
        self._running.append((member, process, log))

    def _wait_ready(self) -> None:
        end = time.monotonic() + self._start_s
        waiting = [member for member in self._members if member.health and member.port]
        while waiting and not self._ended.is_set():
            self._check_alive()
            waiting = [member for member in waiting if not _answers(member.url + member.health)]
            if waiting and time.monotonic() > end:
                late = waiting[0]
                raise MemberError.late(late, self._start_s, self._tail(late), self._log(late))
            if waiting:
                self._ended.wait(_LOOK_S)

    def _check_alive(self) -> None:
        for member, process, _ in self._running:
            code = process.poll()
            if code is not None:
                raise MemberError.ended(member, code, self._tail(member), self._log(member))

    def _log(self, member: Member) -> Path:
        return self._logs / f"{member.name}.log"

    def _tail(self, member: Member) -> str:
        try:
            text = self._log(member).read_text(errors="replace")
        except OSError:
            return ""
        return "\n" + "\n".join(text.splitlines()[-_TAIL:])

    def _stop_all(self) -> None:
        """End every member and what it started, politely first, then by force."""
        for _, process, _ in reversed(self._running):
            if process.poll() is None:
                _signal(process, signal.SIGTERM)
        end = time.monotonic() + self._stop_s
        for _, process, log in reversed(self._running):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, end - time.monotonic()))
            _signal(process, signal.SIGKILL)  # also what a member left behind in its session
            process.wait()
            log.close()
        self._running.clear()


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2.0) as answer:  # noqa: S310 - loopback
            return bool(answer.status == 200)
    except (OSError, urllib.error.HTTPError, ValueError):
        return False
