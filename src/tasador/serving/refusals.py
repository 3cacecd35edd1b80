"""Bundles that were refused: remembered, so that they are not fetched in a loop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from tasador.core.errors import BundleError

_MOST = 1000


class RefusedBeforeError(BundleError):
    """A source still offers a bundle that was refused before; it is not fetched again."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a bundle was refused, and when by the clock of `Refusals`."""

    reason: str
    at: float


class Refusals:
    """Remembers refused bundles by their source and identity; safe to use from several threads.

    Args:
        again_s: Seconds after which one may be fetched again by a service that has no model at
            all: what damaged it may have been the way and not the source.
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
        if known is None or (desperate and self._clock() - known.at >= self._again_s):
            return
        raise RefusedBeforeError(
            f"{identity} was refused before", got=known.reason,
            remedy=f"let {source} offer another bundle",
        )  # fmt: skip

    def note(self, source: str, identity: str, error: BundleError) -> None:
        """Remember a bundle that turned out to be damaged or unfit."""
        with self._lock:
            new = (source, identity) not in self._known
            while len(self._known) >= _MOST:
                del self._known[next(iter(self._known))]
            self._known[source, identity] = Refusal(str(error), self._clock())
        if new:
            self.on_new(source, identity, str(error))

    def clear(self) -> None:
        """Forget all of them."""
        with self._lock:
            self._known.clear()
