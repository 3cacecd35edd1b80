"""`ModelSlot`: the model that serves now and the one before it; warming a bundle up."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from tasador.contract.compatibility import incompatibilities
from tasador.core.errors import BundleError, ConfigError
from tasador.modeling.parity import TOLERANCE
from tasador.registry.model_bundle import ModelBundle


@dataclass(frozen=True)
class LoadedModel:
    """A bundle that is ready to serve.

    Attributes:
        bundle: The bundle. What was downloaded is kept in memory; ``bundle.folder`` may be gone.
        source: Which source it came from: ``mlflow``, ``object_store``, ``local``, ``last_good``.
        identity: What that source called it.
        loaded_at: When, in seconds since 1970 UTC.
        load_s: Seconds that fetching, verifying and loading took.
        discard: Removes what was downloaded, once nobody needs the files any more.
    """

    bundle: ModelBundle
    source: str
    identity: str
    loaded_at: float
    load_s: float = 0.0
    discard: Callable[[], object] = field(default=lambda: None, repr=False, compare=False)

    @property
    def version(self) -> str:
        """The bundle's version."""
        return self.bundle.version


class IncompatibleError(BundleError):
    """A bundle whose contract would break the clients of the running one."""

    @classmethod
    def of(
        cls, new: LoadedModel, running: LoadedModel, reasons: Sequence[str]
    ) -> IncompatibleError:
        """Return the error with the first of the reasons."""
        return cls(
            f"{new.version} would break the clients of {running.version}",
            got="; ".join(reasons[:5]),
            remedy="restart the service with it once its clients are ready, or serve it "
            "under another address",
        )


def _synthetic(new: LoadedModel, running: LoadedModel) -> BundleError:
    return BundleError(
        f"{new.version} does not take the place of {running.version}",
        expected="a model trained on real rows",
        got="one trained on synthetic rows",
        remedy="train on the real table",
    )


class ModelSlot:
    """Holds the running model; readers take `current` once per request and use only that.

    One attribute read is atomic in Python, so a request needs no lock and is answered by one
    version from beginning to end, whatever is swapped meanwhile. Writers take a lock.

    Attributes:
        current: The model that serves; None until one could be loaded. Never assign to it.
        previous: The model before it, kept in memory for an instant rollback.
        pinned: The version to stay with whatever the sources offer; None follows them.
        barred: Versions that someone rolled back from; they are not taken again by themselves.
    """

    def __init__(self) -> None:
        self.current: LoadedModel | None = None
        self.previous: LoadedModel | None = None
        self.pinned: str | None = None
        self.barred: frozenset[str] = frozenset()
        self._lock = threading.Lock()

    def check(self, new: LoadedModel) -> None:
        """Refuse a model that may not take the place of the running one.

        Raises:
            IncompatibleError: Its contract would break clients.
            BundleError: It is of synthetic origin and the running one is real.
        """
        running = self.current
        if running is None:
            return
        if new.bundle.origin == "synthetic" and running.bundle.origin != "synthetic":
            raise _synthetic(new, running)
        reasons = incompatibilities(running.bundle.contract, new.bundle.contract)
        if reasons:
            raise IncompatibleError.of(new, running, reasons)

    def swap(self, new: LoadedModel) -> LoadedModel | None:
        """Let `new` serve from now on and return what served before.

        Raises:
            BundleError: See `check`.
            ConfigError: Another version is pinned.
        """
        with self._lock:
            self.check(new)
            if self.pinned is not None and new.version != self.pinned:
                raise ConfigError(
                    f"{new.version} does not serve", got=f"{self.pinned} is pinned",
                    remedy="unpin it first",
                )  # fmt: skip
            before = self.current
            self.previous, self.current = before, new
            return before

    def relabel(self, same: LoadedModel) -> None:
        """Note that the running version is now offered by another source, or again."""
        with self._lock:
            if self.current is not None and self.current.version == same.version:
                self.current = replace(self.current, source=same.source, identity=same.identity)

    def rollback(self) -> LoadedModel:
        """Let the previous model serve again, at once; a second call undoes the first.

        The version left is barred: sources that still offer it are not followed, while any other
        version that they come to offer is.

        Raises:
            ConfigError: There is no previous model, or the running one is pinned.
        """
        with self._lock:
            return self._return_to_previous()

    def pin(self, version: str) -> LoadedModel:
        """Stay with `version`, the running or the previous one, whatever the sources offer.

        Raises:
            ConfigError: No such version is in memory.
        """
        with self._lock:
            if self.current is None or self.current.version != version:
                if self.previous is None or self.previous.version != version:
                    held = [one.version for one in (self.current, self.previous) if one]
                    raise ConfigError(
                        f"the version {version!r} is not in memory",
                        expected=f"one of {', '.join(held)}" if held else "a model to be loaded",
                    )
                # a pin would refuse the change that it asks for
                self.pinned = None
                self._return_to_previous()
            self.pinned = version
            assert self.current is not None  # noqa: S101 - just found
            return self.current

    def unpin(self) -> None:
        """Follow the sources again; also those versions that were rolled back from."""
        with self._lock:
            self.pinned, self.barred = None, frozenset()

    def _return_to_previous(self) -> LoadedModel:
        if self.previous is None or self.current is None:
            raise ConfigError("there is no previous model to go back to")
        if self.pinned is not None:
            raise ConfigError(f"{self.pinned} is pinned", remedy="unpin it first")
        left, back = self.current, self.previous
        self.current, self.previous = back, left
        # or the next poll would bring back what somebody has just left
        self.barred = (self.barred | {left.version}) - {back.version}
        return back


_BATCHES = (1, 2, 8, 32, 128, 1000)


def warm_up(bundle: ModelBundle, batches: tuple[int, ...] = _BATCHES) -> None:
    """Value the bundle's golden rows in batches of several sizes, and check the answers.

    Caches are filled, the model's arenas grow to their size, and one row must get the same answer
    alone as among others.

    Raises:
        BundleError: An answer is no number, lies outside its interval, or depends on the batch.
    """
    # without golden rows there is nothing to compare with
    rows = bundle.golden
    if len(rows) == 0:
        return
    first: float | None = None
    for size in batches:
        answers = bundle.value_encoded(np.resize(rows, (size, rows.shape[1])))
        for answer in answers:
            values = (answer.lower, answer.prediction, answer.upper)
            if not (np.isfinite(values).all() and values == tuple(sorted(values))):
                raise _wrong("an estimate within its interval", str(values))
        got = answers[0].prediction
        # the same row in batches of all sizes: a kernel that vectorises differently shows here
        first = got if first is None else first
        if not math.isclose(got, first, rel_tol=TOLERANCE):
            raise _wrong(f"{first!r} for a row in any batch", f"{got!r} in one of {size}")


def warm_up_explanations(bundle: ModelBundle) -> None:
    """Explain one golden row, which prepares the paths of a bundle's trees (half a second).

    Raises:
        BundleError: The row cannot be explained.
    """
    if len(bundle.golden) == 0:
        return
    decoded = bundle.encoder.decode(bundle.golden[:1])
    row: dict[str, Any] = {name: values[0] for name, values in decoded.items()}
    try:
        bundle.explain(row)
    except Exception as error:
        raise _wrong("an explanation of a golden row", f"{type(error).__name__}: {error}") from None


def _wrong(expected: str, got: str) -> BundleError:
    return BundleError(
        "the bundle fails while it is warmed up",
        expected=expected,
        got=got,
        remedy="the running model goes on; train and register again",
    )
