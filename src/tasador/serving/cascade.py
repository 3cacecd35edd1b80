"""The cascade: the first source that can give a usable bundle gives it, in bounded time."""

from __future__ import annotations

import logging
import shutil
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

from tasador.core import clock as wall
from tasador.core.deadlines import BoundedCaller, Deadline
from tasador.core.errors import BundleError, NothingOfferedError, StorageError, TasadorError
from tasador.core.storage import storage_error
from tasador.inference.sources import BundleSource, LastGoodSource, build_sources
from tasador.registry.model_bundle import load_bundle
from tasador.registry.signature import TrustedKeys
from tasador.serving.circuit_breaker import (
    Backoff,
    Breaker,
    BreakerState,
    OpenCircuitError,
    call_again,
)
from tasador.serving.model_slot import LoadedModel
from tasador.settings.serving import SourceSettings

_MOST = 1000
_FIRST_S = 2.0


class RejectedBeforeError(BundleError):
    """A source still offers a bundle that was rejected before; it is not fetched again."""


@dataclass(frozen=True, slots=True)
class RejectedBundle:
    """Why a bundle was rejected, when by the clock of `Refusals`, and how often so far."""

    reason: str
    at: float
    times: int


class RejectedBundles:
    """Remembers rejected bundles by their source and identity; safe to use from several threads.

    Args:
        again_s: Most seconds until one is fetched again by a service that has no model at all:
            the download may have damaged it and not the source. The first time it is after
            2 s, and each time after twice as long.
        clock: Seconds that never run backwards.

    Attributes:
        on_new: Called with source, identity and reason of every newly rejected bundle.
    """

    def __init__(self, again_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.on_new: Callable[[str, str, str], None] = lambda *_: None
        self._again_s, self._clock = again_s, clock
        self._known: dict[tuple[str, str], RejectedBundle] = {}
        self._lock = threading.Lock()

    def check(self, source: str, identity: str, *, without_model: bool) -> None:
        """Stop before a bundle is fetched that was rejected before.

        Args:
            source: The source's name.
            identity: What it offers.
            without_model: Whether there is no model at all.

        Raises:
            RejectedBeforeError: It was.
        """
        with self._lock:
            known = self._known.get((source, identity))
        if known is None or (without_model and self._clock() - known.at >= self._pause(known)):
            return
        raise RejectedBeforeError(
            f"{identity} was refused before", got=known.reason,
            remedy=f"let {source} offer another bundle",
        )  # fmt: skip

    def _pause(self, known: RejectedBundle) -> float:
        return min(self._again_s, _FIRST_S * 2.0 ** min(known.times - 1, 60))

    def note(self, source: str, identity: str, error: BundleError) -> None:
        """Remember a bundle that turned out to be damaged or unfit."""
        with self._lock:
            before = self._known.get((source, identity))
            # a source that offers ever new damaged bundles must not fill the memory
            while len(self._known) >= _MOST:
                del self._known[next(iter(self._known))]
            times = 1 if before is None else before.times + 1
            self._known[source, identity] = RejectedBundle(str(error), self._clock(), times)
        if before is None:
            self.on_new(source, identity, str(error))

    def clear(self) -> None:
        """Forget all of them."""
        with self._lock:
            self._known.clear()


T = TypeVar("T")
CallResult = Literal["never", "ok", "nothing", "refused", "failed", "open"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SourceReport:
    """The result of the last call to one source.

    Attributes:
        source: The source's name.
        outcome: ``ok``, ``nothing`` (it answered, and has none), ``refused`` (its bundle is
            damaged or unfit), ``failed`` (no answer), ``open`` (left alone by the breaker) or
            ``never`` (not asked yet).
        action: ``identity`` or ``load``.
        attempts: How many attempts it took.
        latency_s: Seconds, with all attempts and pauses.
        error: What went wrong, in one line; None when nothing did.
        identity: What the source offered; None when it did not say.
        at: When, ISO 8601 in UTC; None when it was never asked.
        breaker: The breaker now.
    """

    source: str
    outcome: CallResult
    action: str
    attempts: int
    latency_s: float
    error: str | None
    identity: str | None
    at: str | None
    breaker: BreakerState


class GuardedSource:
    """One source with its breaker, its threads and its last result; for one caller at a time.

    Args:
        source: The source.
        settings: Deadlines, retries, breaker.
        clock: Seconds that never run backwards.
        on_report: Called with every report, e.g. to count it.
    """

    def __init__(
        self,
        source: BundleSource,
        settings: SourceSettings,
        clock: Callable[[], float] = time.monotonic,
        on_report: Callable[[SourceReport], None] = lambda _: None,
    ) -> None:
        self.source, self.settings = source, settings
        self.breaker = Breaker(
            source.name, settings.breaker_failures, settings.breaker_reset_s, clock
        )
        self._on_report = on_report
        self._trusted = TrustedKeys.read(settings.trusted_keys)
        self._backoff = Backoff(attempts=settings.attempts)
        # two callers: an identity can be asked while a load that hangs is still abandoned
        self._asking = BoundedCaller(f"{source.name} identity")
        self._loading = BoundedCaller(f"{source.name} load")
        self._last: SourceReport | None = None

    @property
    def name(self) -> str:
        """The source's name."""
        return self.source.name

    def report(self) -> SourceReport:
        """Return the result of the last call, with the breaker as it is now."""
        if self._last is None:
            return SourceReport(
                self.name, "never", "identity", 0, 0.0, None, None, None, self.breaker.state
            )
        return replace(self._last, breaker=self.breaker.state)

    def identity(
        self, deadline: Deadline | None = None, cancelled: threading.Event | None = None
    ) -> str:
        """Return what the source offers now, within ``answer_s``.

        Raises:
            TasadorError: See `BundleSource.identity`; `OpenCircuitError` when it is left alone.
        """
        ends = (deadline or Deadline.after(self.settings.answer_s)).sooner(self.settings.answer_s)
        return self._call(
            "identity", self._asking, lambda: self.source.identity(ends), ends, cancelled, str
        )

    def load(
        self, deadline: Deadline | None = None, cancelled: threading.Event | None = None
    ) -> LoadedModel:
        """Fetch, verify and load what the source offers, within ``hop_deadline_s``.

        Raises:
            TasadorError: See `BundleSource.fetch` and `load_bundle`.
        """
        limit = self.settings.hop_deadline_s
        ends = (deadline or Deadline.after(limit)).sooner(limit)
        return self._call(
            "load",
            self._loading,
            lambda: _load(self.source, ends, self.settings.threads, self._trusted),
            ends,
            cancelled,
            lambda loaded: loaded.identity,
        )

    def reject(self, error: BundleError, identity: str) -> None:
        """Note that what the source gave is not fit to serve."""
        self._note("load", "refused", 1, time.monotonic(), str(error), identity)

    def _call(
        self,
        action: str,
        caller: BoundedCaller,
        work: Callable[[], T],
        deadline: Deadline,
        cancelled: threading.Event | None,
        named: Callable[[T], str],
    ) -> T:
        """Make one call through breaker, retries and deadline, and note its result."""
        attempts: list[None] = []
        started = time.monotonic()

        def persist() -> T:
            return call_again(
                lambda: _translated(work),
                backoff=self._backoff,
                deadline=deadline,
                on_attempt=lambda: attempts.append(None),
            )

        try:
            # a damaged bundle came from a source that answers: it must not open the breaker
            with self.breaker.guard(harmless=(BundleError,)):
                result = caller.call(persist, deadline, cancelled)
        except Exception as error:
            outcome = _outcome(error)
            text = str(error) if isinstance(error, TasadorError) else repr(error)
            self._note(action, outcome, len(attempts), started, text, None)
            raise
        self._note(action, "ok", len(attempts), started, None, named(result))
        return result

    def _note(
        self,
        action: str,
        outcome: CallResult,
        attempts: int,
        started: float,
        error: str | None,
        identity: str | None,
    ) -> None:
        seconds = time.monotonic() - started
        before = self._last.outcome if self._last else None
        self._last = SourceReport(
            source=self.name,
            outcome=outcome,
            action=action,
            attempts=attempts,
            latency_s=seconds,
            error=error,
            identity=identity,
            at=wall.timestamp(),
            breaker=self.breaker.state,
        )
        self._on_report(self._last)
        if error is not None:
            # a source that stays down is logged loudly once, then at debug level
            level = logging.INFO if outcome == "nothing" else logging.WARNING
            level = logging.DEBUG if before == outcome else level
            _log.log(level, "source %s: %s: %s", self.name, outcome, error)


class Cascade:
    """All configured sources in their order.

    Args:
        sources: From `build_sources`.
        settings: Deadlines, retries, breakers.
        clock: Seconds that never run backwards.
        on_report: Called with the report of every call to a source, from the calling thread.

    Attributes:
        sources: The sources.
        rejected: What was refused.
        cancelled: Set once nobody waits for sources any more.
    """

    def __init__(
        self,
        sources: Sequence[BundleSource],
        settings: SourceSettings,
        *,
        clock: Callable[[], float] = time.monotonic,
        on_report: Callable[[SourceReport], None] = lambda _: None,
    ) -> None:
        self.settings = settings
        self.sources = tuple(GuardedSource(one, settings, clock, on_report) for one in sources)
        self._keepers = [one for one in sources if isinstance(one, LastGoodSource)]
        # its own caller: a disk that hangs must not keep a source from being asked
        self._keeping = BoundedCaller("last good copy")
        self.rejected = RejectedBundles(settings.refused_again_s, clock)
        self.cancelled = threading.Event()

    @classmethod
    def of(
        cls, settings: SourceSettings, on_report: Callable[[SourceReport], None] = lambda _: None
    ) -> Cascade:
        """Return the cascade that `settings` describe; nothing is contacted.

        Raises:
            ConfigError: An address is of an unknown kind.
            ModuleNotFoundError: The extra `serve` is not installed.
        """
        import stamina  # noqa: F401 - else each source would fail by itself for want of it

        return cls(build_sources(settings), settings, on_report=on_report)

    def report(self) -> tuple[SourceReport, ...]:
        """Return the result of the last call to every source, in their order."""
        return tuple(source.report() for source in self.sources)

    def source(self, name: str) -> GuardedSource:
        """Return the source called `name`; KeyError when it is not configured."""
        for source in self.sources:
            if source.name == name:
                return source
        raise KeyError(name)

    def cancel(self) -> None:
        """Stop waiting for sources, now and from now on."""
        self.cancelled.set()

    def load(self, accept: Callable[[LoadedModel], None] = lambda _: None) -> LoadedModel:
        """Load from the first source that can give a usable bundle.

        A bundle of synthetic origin is only used when no source has one of real origin. Takes at
        most ``answer_s + hop_deadline_s`` for each source.

        Args:
            accept: Raises `BundleError` for a bundle that must not be used, e.g. after warming it
                up; the next source is then tried.

        Raises:
            NothingOfferedError: No source could; the error of each of them is in the message.
        """
        synthetic: LoadedModel | None = None
        reasons = []
        for source in self.sources:
            try:
                loaded = self.load_from(source, accept, without_model=True)
            except TasadorError as error:
                reasons.append(f"{source.name}: {error.message}")
                continue
            if loaded.bundle.origin != "synthetic":
                return loaded
            # kept while the others are asked: a model of invented rows only answers where nothing
            # else does
            synthetic = synthetic or loaded
        if synthetic is not None:
            return synthetic
        raise NothingOfferedError(
            "no source can give a model",
            got="; ".join(reasons) or "no source is configured",
            remedy="train one with `tasador run`, or check the sources in the settings",
        )

    def load_from(
        self,
        source: GuardedSource,
        accept: Callable[[LoadedModel], None] = lambda _: None,
        *,
        identity: str | None = None,
        without_model: bool = False,
    ) -> LoadedModel:
        """Load what one source offers.

        Args:
            source: The source.
            accept: As for `load`.
            identity: What it offers, when that is known; otherwise it is asked.
            without_model: Whether there is no model at all.

        Raises:
            RejectedBeforeError: It still offers what was refused before.
            BundleError: What it gives is refused, which is remembered.
            TasadorError: As `GuardedSource.load`.
        """
        offered = identity or source.identity(cancelled=self.cancelled)
        self.rejected.check(source.name, offered, without_model=without_model)
        try:
            loaded = source.load(cancelled=self.cancelled)
        # nothing was offered, so there is nothing to remember as rejected
        except NothingOfferedError:
            raise
        except BundleError as error:
            self.rejected.note(source.name, offered, error)
            raise
        try:
            accept(loaded)
        except Exception as error:
            rejection = error if isinstance(error, TasadorError) else _unreadable(error)
            if isinstance(rejection, BundleError):
                source.reject(rejection, loaded.identity)
                self.rejected.note(source.name, loaded.identity, rejection)
            loaded.discard()
            raise rejection from error
        return loaded

    def keep(self, loaded: LoadedModel) -> str | None:
        """Keep a copy of a model that serves as the last good one; its download is discarded.

        Returns:
            Why there is no copy now, or None when there is (or none is wanted).
        """
        try:
            for keeper in self._keepers if loaded.source != "last_good" else []:
                work = partial(keeper.keep, loaded.bundle, loaded.source)
                deadline = Deadline.after(self.settings.hop_deadline_s)
                self._keeping.call(work, deadline, self.cancelled)
        except Exception as error:  # the model serves all the same
            _log.warning("the last good copy was not made: %s", error)
            return str(error)
        finally:
            loaded.discard()
        return None


def _load(
    source: BundleSource, deadline: Deadline, threads: int, trusted: TrustedKeys | None
) -> LoadedModel:
    """Fetch and load; what was downloaded goes when the model does, or is discarded before."""
    started = time.monotonic()
    download = Path(tempfile.mkdtemp(prefix="tasador-bundle-"))
    try:
        folder, identity = source.fetch(download / "bundle", deadline)
        # before the slow part: an abandoned download is not worth loading
        deadline.check(f"loading from {source.name}")
        bundle = load_bundle(folder, threads=threads, trusted=trusted)
    except BaseException:
        shutil.rmtree(download, ignore_errors=True)
        raise
    # an abandoned call's result is dropped unseen: its download goes with it
    discard = weakref.finalize(bundle, shutil.rmtree, download, ignore_errors=True)
    seconds = time.monotonic() - started
    now = wall.now().timestamp()
    return LoadedModel(bundle, source.name, identity, now, seconds, discard)


def _translated(work: Callable[[], T]) -> T:
    """Translate disk errors, and whatever else reading an answer raises, into our own errors."""
    try:
        return work()
    except TasadorError:
        raise
    except OSError as error:
        text = f"the disk refused: {error.strerror or error}"
        raise storage_error(error) or StorageError(text, got=error.filename) from error
    except Exception as error:
        raise _unreadable(error) from error


def _unreadable(error: Exception) -> BundleError:
    text = f"what the source gave cannot be used: {type(error).__name__}: {error}"
    return BundleError(text[:500], remedy="let the source offer another bundle")


def _outcome(error: Exception) -> CallResult:
    if isinstance(error, NothingOfferedError):
        return "nothing"
    if isinstance(error, BundleError):
        return "refused"
    return "open" if isinstance(error, OpenCircuitError) else "failed"
