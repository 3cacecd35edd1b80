"""The refresher: watches what the sources offer and swaps the running model for a newer one."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from tasador.core import clock as wall
from tasador.core.errors import BundleError, TasadorError
from tasador.core.memory import give_memory_back
from tasador.serving.cascade import Cascade, GuardedSource
from tasador.serving.model_slot import (
    LoadedModel,
    ModelSlot,
    warm_up,
    warm_up_explanations,
)

_log = logging.getLogger(__name__)
#: Seconds between two rounds while there is no model at all.
_EAGER_S = 2.0
_MOST_VERSIONS = 1000


@dataclass(frozen=True)
class RefreshReport:
    """What the refresher has done so far.

    Attributes:
        polls: Rounds of looking at what the sources offer.
        swaps: Models that began to serve, the first included.
        refused: Bundles that were not taken: damaged, incompatible, synthetic over real.
        errors: How often a source that was asked did not answer.
        last_error: What went wrong in the last round, in one line: a source failed, offers nothing,
            or still offers what was refused; None when nothing did.
        last_poll_at: When the last round ended, ISO 8601 in UTC.
        copy_error: Why there is no last good copy of the running model; None when there is.
        running: Whether the thread is.
    """

    polls: int = 0
    swaps: int = 0
    refused: int = 0
    errors: int = 0
    last_error: str | None = None
    last_poll_at: str | None = None
    copy_error: str | None = None
    running: bool = False


@dataclass(frozen=True)
class RefreshEvents:
    """Called from the refresher's thread; whatever they raise is logged and ignored.

    Attributes:
        on_swap: A model began to serve: the new one, and the one before or None.
        on_refused: A bundle was not taken: source, identity, reason.
        on_poll: A round ended: its seconds, and what went wrong or None.
    """

    on_swap: Callable[[LoadedModel, LoadedModel | None], None] = lambda *_: None
    on_refused: Callable[[str, str, str], None] = lambda *_: None
    on_poll: Callable[[float, str | None], None] = lambda *_: None


class Refresher:
    """Keeps the slot's model the one that the first answering source offers.

    One round: sources are asked for their identity in the configured order, down to the one that
    the running model came from. Those below it are not: a registry that is down does not make a
    service go back to what an older store offers. The first source that offers something else than
    what runs gives it; it is loaded and warmed up beside the running model and swapped in. With
    no model, the whole cascade is tried every 2 s.

    A refused bundle is remembered by its identity and not fetched again until the source offers
    another one. Every failure leaves the running model alone.

    Args:
        cascade: The sources.
        slot: Where the running model is.
        events: Callbacks.
    """

    def __init__(
        self, cascade: Cascade, slot: ModelSlot, events: RefreshEvents | None = None
    ) -> None:
        self.cascade, self.slot = cascade, slot
        self._events = events or RefreshEvents()
        self._settings = cascade.settings
        self._report = RefreshReport()
        self._error: str | None = None
        self._ended = time.monotonic()
        self._versions: dict[tuple[str, str], str] = {}
        self._round = threading.Lock()
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        cascade.rejected.on_new = self._refused
        self._jitter = random.Random()  # noqa: S311 - spreads polls of many servers

    def start(self) -> None:
        """Start the thread; its first round begins at once. A second call changes nothing."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="tasador refresher", daemon=True)
            self._thread.start()

    def stop(self, timeout_s: float = 2.0) -> bool:
        """Stop the thread within `timeout_s`; whether it has ended.

        A source that hangs is not waited for; the model goes on serving.
        """
        self._stop.set()
        self.cascade.cancel()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout_s)
        return self._thread is None or not self._thread.is_alive()

    @property
    def idle_s(self) -> float:
        """Seconds since the last round ended, or since the refresher was made."""
        return time.monotonic() - self._ended

    def poll_soon(self) -> None:
        """Begin the next round now instead of after the pause."""
        self._wake.set()

    def report(self) -> RefreshReport:
        """Return what has been done so far."""
        running = self._thread is not None and self._thread.is_alive()
        return replace(self._report, running=running)

    def refresh(self, *, force: bool = False) -> bool:
        """Do one round in the calling thread; whether a model was swapped in.

        Args:
            force: Fetch again what was refused before.
        """
        with self._round:
            if force:
                self.cascade.rejected.clear()
            started = time.monotonic()
            before = self._report.swaps
            self._error = None
            try:
                self._look()
            except TasadorError as error:
                self._fail(error)
            except Exception as error:  # a bug of ours, which the health check must show
                _log.exception("a round of the refresher failed; the running model goes on")
                self._fail(error)
            if self._report.swaps > before:
                give_memory_back()
            self._report = replace(
                self._report, polls=self._report.polls + 1, last_error=self._error,
                last_poll_at=wall.timestamp(),
            )  # fmt: skip
            self._ended = time.monotonic()
            self._notify(self._events.on_poll, time.monotonic() - started, self._report.last_error)
            return self._report.swaps > before

    def _run(self) -> None:
        first = True
        while not self._stop.is_set():
            self._wake.clear()
            try:
                self.refresh()
            except Exception:
                _log.exception("a round of the refresher failed; the running model goes on")
            if first and self.slot.current is None:
                _log.warning("no model: 503 until a source offers one: %s", self._report.last_error)
            first = False
            self._wake.wait(self._pause())

    def _pause(self) -> float:
        pause = self._settings.poll_s
        if self.slot.current is None:
            # without a model every request fails: asking often costs less than that
            pause = min(pause, _EAGER_S)
        share = self._settings.poll_jitter
        # servers that started together must not ask the registry in the same second for ever
        return pause * self._jitter.uniform(1.0 - share, 1.0 + share)

    def _look(self) -> None:
        if self.slot.pinned is not None:
            return
        if self.slot.current is None:
            self._load_any()
            return
        for source in self._to_ask(self.slot.current):
            if self._stop.is_set() or self._follow(source, self.slot.current):
                return

    def _to_ask(self, running: LoadedModel) -> tuple[GuardedSource, ...]:
        sources = [source for source in self.cascade.sources if source.name != "last_good"]
        names = [source.name for source in sources]
        if running.source in names:
            return tuple(sources[: names.index(running.source) + 1])
        return tuple(sources)

    def _follow(self, source: GuardedSource, running: LoadedModel) -> bool:
        """Take what a source offers if it is new; True when no further source is to be asked."""
        try:
            identity = source.identity(cancelled=self.cascade.cancelled)
            if (source.name, identity) == (running.source, running.identity):
                return True
            # known by its identity, so that a barred version is not downloaded at every poll
            if self._versions.get((source.name, identity)) in self.slot.barred:
                return False
            loaded = self.cascade.load_from(source, self._accept, identity=identity)
            self._take(loaded, running)
        except BundleError as error:  # it answered: nothing there, or nothing fit to serve
            self._error = str(error)
            return False
        except TasadorError as error:
            self._fail(error)
            return False
        return True

    def _accept(self, loaded: LoadedModel) -> None:
        """Prove a model beside the running one.

        Raises:
            BundleError: It must not serve.
        """
        # only a memo: what is forgotten is downloaded once more
        if len(self._versions) > _MOST_VERSIONS:
            self._versions.clear()
        self._versions[loaded.source, loaded.identity] = loaded.version
        running = self.slot.current
        if running is None:
            warm_up(loaded.bundle)
        elif loaded.version != running.version and loaded.version not in self.slot.barred:
            self.slot.check(loaded)
            warm_up(loaded.bundle)
            warm_up_explanations(loaded.bundle)

    def _take(self, loaded: LoadedModel, running: LoadedModel) -> None:
        if loaded.version == running.version:
            self.slot.relabel(loaded)
            loaded.discard()
        elif loaded.version in self.slot.barred:
            loaded.discard()
        else:
            self._swap(loaded)

    def _load_any(self) -> None:
        """Take the first model that is available; explanations are warmed up once it serves."""
        loaded = self.cascade.load(self._accept)
        self._swap(loaded)
        # after it serves: half a second of waiting would delay the first answer
        warm_up_explanations(loaded.bundle)

    def _swap(self, loaded: LoadedModel) -> None:
        before = self.slot.swap(loaded)
        self._report = replace(self._report, swaps=self._report.swaps + 1)
        _log.info("serving %s from %s: %s", loaded.version, loaded.source, loaded.identity)
        self._notify(self._events.on_swap, loaded, before)
        self._report = replace(self._report, copy_error=self.cascade.keep(loaded))

    def _refused(self, source: str, identity: str, reason: str) -> None:
        self._report = replace(self._report, refused=self._report.refused + 1)
        self._notify(self._events.on_refused, source, identity, reason)

    def _fail(self, error: Exception) -> None:
        self._report = replace(self._report, errors=self._report.errors + 1)
        self._error = str(error) or type(error).__name__

    def _notify(self, listener: Callable[..., None], *what: object) -> None:
        try:
            listener(*what)
        except Exception:
            _log.exception("a callback of the refresher failed")
