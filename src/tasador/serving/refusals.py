"""Bundles that were refused: remembered, so that they are not fetched in a loop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from tasador.core.errors import BundleError

_MOST = 1000
_FIRST_S = 2.0


class RefusedBeforeError(BundleError):
    """A source still offers a bundle that was refused before; it is not fetched again."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a bundle was refused, when by the clock of `Refusals`, and how often so far."""

    reason: str
    at: float
    times: int


class Refusals:
    """Remembers refused bundles by their source and identity; safe to use from several threads.

    Args:
        again_s: Most seconds until one is fetched again by a service that has no model at all:
            what damaged it may have been the way and not the source. The first time it is after
            2 s, and each time after twice as long.
        clock: Seconds that never run backwards.

    Attributes:
        on_new: Called with source, identity and reason of every new refusal.
    """

    def __init__(self, again_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.on_new: Callable[[str, str, str], None] = lambda *_: None
        self._again_s, self._clock = again_s, clock
        self._known: dict[tuple[str, str], Refusal] = {}
        self._lock = threading.Lock()

    def check(self, source: str, identity: str, *, desperate: bool) -> None:
        """Stop before a bundle is fetched that was refused before.

        Args:
            source: The source's name.
            identity: What it offers.
            desperate: Whether there is no model at all.

        Raises:
            RefusedBeforeError: It was.
        """
        with self._lock:
            known = self._known.get((source, identity))
        if known is None or (desperate and self._clock() - known.at >= self._pause(known)):
            return
        raise RefusedBeforeError(
            f"{identity} was refused before", got=known.reason,
            remedy=f"let {source} offer another bundle",
        )  # fmt: skip

    def _pause(self, known: Refusal) -> float:
        return min(self._again_s, _FIRST_S * 2.0 ** min(known.times - 1, 60))

    def note(self, source: str, identity: str, error: BundleError) -> None:
        """Remember a bundle that turned out to be damaged or unfit."""
        with self._lock:
            before = self._known.get((source, identity))
            while len(self._known) >= _MOST:
                del self._known[next(iter(self._known))]
            times = 1 if before is None else before.times + 1
            self._known[source, identity] = Refusal(str(error), self._clock(), times)
        if before is None:
            self.on_new(source, identity, str(error))

    def clear(self) -> None:
        """Forget all of them."""
        with self._lock:
            self._known.clear()
