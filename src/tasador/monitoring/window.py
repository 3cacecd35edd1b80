"""`Window`: a span of rows as they were asked and answered, with the outcomes known so far."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from tasador.contract.encoding import Encoder
from tasador.core.errors import ValidationError
from tasador.monitoring.verdict import Finding
from tasador.records.store import RecordBatch, RecordStore
from tasador.registry.model_bundle import ModelBundle

Floats = NDArray[np.float64]

_NUMBERS = ("prediction", "lower", "upper", "actual", "latency_ms", "time")


@dataclass(frozen=True)
class Window:
    """Rows of a window; entry i of every array is the same row.

    Attributes:
        columns: Names of the columns of `X`, in its order: those of the reference.
        X: Shape (n, p), encoded; NaN is missing.
        prediction: Shape (n,): the answer; NaN when there was none.
        lower: Lower end of its interval; NaN when there was none.
        upper: Upper end.
        actual: The known value; NaN while it is not known.
        latency_ms: How long the answer took, in milliseconds; NaN when not measured.
        time: Seconds since 1970 UTC; NaN when not known.
        failed: Whether the request failed; such rows have no answer.
        version: Shape (n,): position in `versions` of what answered; -1 when not known.
        versions: Names of the versions.
        problems: What was found wrong while the window was put together.
    """

    columns: tuple[str, ...]
    X: Floats
    prediction: Floats
    lower: Floats
    upper: Floats
    actual: Floats
    latency_ms: Floats
    time: Floats
    failed: NDArray[np.bool_]
    version: NDArray[np.int64]
    versions: tuple[str, ...] = ()
    problems: tuple[Finding, ...] = ()

    def __len__(self) -> int:
        return len(self.X)

    @classmethod
    def of(cls, columns: Sequence[str], X: Floats, **parts: Any) -> Window:
        """Put a window together; what is not given is not known.

        Args:
            columns: Names of the columns of `X`.
            X: Shape (n, p), encoded.
            **parts: Any other attribute of `Window`; arrays of n entries.

        Raises:
            ValueError: An array has another length.
        """
        n = len(X)
        values: dict[str, Any] = {name: np.full(n, np.nan) for name in _NUMBERS}
        values |= {"failed": np.zeros(n, dtype=np.bool_), "version": np.full(n, -1)}
        values |= parts
        for name in (*_NUMBERS, "failed", "version"):
            values[name] = np.asarray(values[name])
            if values[name].shape != (n,):
                raise ValueError(f"{name} has shape {values[name].shape}, expected ({n},)")
        if X.ndim != 2 or X.shape[1] != len(columns):
            raise ValueError(f"X has shape {X.shape}, expected (n, {len(columns)})")
        return cls(tuple(columns), X, **values)


@dataclass(frozen=True)
class JoinedOutcomes:
    """Outcomes joined to the rows they belong to.

    Attributes:
        actual: Shape (n,): the known value of each row, NaN where there is none.
        problems: How many joined, duplicates that contradict each other, ids that no row has, rows
            and outcomes without an id, values that are no numbers.
    """

    actual: Floats
    problems: tuple[Finding, ...]


def join_outcomes(ids: Sequence[Any], outcome_ids: Sequence[Any], values: Floats) -> JoinedOutcomes:
    """Join outcomes to rows by id.

    Of several outcomes of one id the last one counts, as a correction would; that there were
    several different ones is a warning. Ids that several rows share get the outcome in each. An id
    that is None joins nothing, and neither does an outcome that is no finite number.

    Args:
        ids: The rows' ids, n of them; None for none.
        outcome_ids: The outcomes' ids, k of them.
        values: Shape (k,): the outcomes.
    """
    known: dict[Any, float] = {}
    without_id = repeated = contradicting = bad = 0
    for key, value in zip(outcome_ids, values.tolist(), strict=True):
        if key is None:
            without_id += 1
        elif not np.isfinite(value):
            bad += 1
        else:
            if key in known:
                repeated += 1
                contradicting += known[key] != value
            known[key] = value
    found = {key for key in ids if key is not None}
    unmatched = [key for key in known if key not in found]
    missing = float("nan")
    actual = np.array([known.get(key, missing) for key in ids], dtype=np.float64)
    unnamed = sum(key is None for key in ids)
    problems = [_joined(len(known) - len(unmatched), known, unmatched, actual, unnamed)]
    # when none joined, `_joined` says so already
    if unmatched and len(unmatched) < len(known):
        problems.append(
            _problem(
                f"{len(unmatched)} outcomes belong to no row of the window, "
                f"such as {str(unmatched[0])[:40]!r}: left out",
                unknown_ids=len(unmatched),
            )
        )
    if without_id:
        problems.append(_problem(f"{without_id} outcomes have no id: left out", no_id=without_id))
    if repeated:
        problems.append(
            _problem(
                f"{repeated} outcomes repeat an id, {contradicting} of them with another value: "
                "the last one counts",
                repeated=repeated,
                contradicting=contradicting,
            )
        )
    if bad:
        problems.append(_problem(f"{bad} outcomes are no finite number: left out", not_finite=bad))
    shared = len(ids) - unnamed - len(found)
    if shared:
        problems.append(_problem(f"{shared} rows repeat an id of another row", shared_ids=shared))
    return JoinedOutcomes(actual, tuple(problems))


def _joined(
    joined: int, known: dict[Any, float], unmatched: list[Any], actual: Floats, unnamed: int
) -> Finding:
    """Say how many outcomes joined; when none did, nothing is known of the errors."""
    rows = int(np.isfinite(actual).sum())
    numbers = {"joined": joined, "not_joined": len(unmatched), "rows": rows, "rows_no_id": unnamed}
    without = f", {unnamed} rows have no id" if unnamed else ""
    if joined or not known:
        text = f"{joined} outcomes joined to {rows} of {len(actual)} rows{without}"
        return Finding("input", "outcomes", "ok", text, numbers)
    text = (
        f"none of the {len(known)} outcomes belongs to a row of the window{without}: expected ids "
        f"that the rows have, got such as {str(unmatched[0])[:40]!r}; check that both tables write "
        "ids alike"
    )
    return Finding("input", "outcomes", "cannot_tell", text, numbers)


def _problem(reason: str, **numbers: float) -> Finding:
    return Finding("input", "outcomes", "warn", reason, numbers)


def recorded_windows(
    store: RecordStore,
    bundle: ModelBundle,
    since: float,
    until: float,
    *,
    variant: str | None = None,
    batch: int = 10_000,
) -> Iterator[Window]:
    """Give the valuations of ``since <= time < until`` in batches, oldest first.

    Rows that another model answered are left out. The others are encoded by the contract of
    `bundle`; those that an older contract accepted and this one cannot read are counted as a
    problem and left out.

    Args:
        store: Where they were recorded.
        bundle: The model whose reference they are compared with.
        since: Seconds since the epoch.
        until: Seconds since the epoch.
        variant: ``champion`` for what was answered; None for all.
        batch: Rows at a time.
    """
    versions: dict[str, int] = {}
    for found in store.read(since, until, variant=variant, batch=batch):
        # one database may hold several models: their rows are no drift of this one
        own = found.of_model(bundle.manifest.name)
        if len(own):
            yield _window(own, bundle, versions)


def _window(found: RecordBatch, bundle: ModelBundle, versions: dict[str, int]) -> Window:
    codes, kept = _encoded(found.features, bundle.encoder)
    for version in found.version:
        # numbered over all batches, so that codes of different batches mean the same version
        versions.setdefault(version, len(versions))
    places = np.array([versions[version] for version in found.version], dtype=np.int64)
    problems = []
    lost = len(found) - len(kept)
    if lost:
        text = f"{lost} recorded rows do not fit the contract of {bundle.version}: left out"
        problems.append(Finding("input", "rows", "warn", text, {"rows": lost}))
    p = len(bundle.contract.feature_names)
    return Window.of(
        bundle.contract.feature_names,
        np.array(codes, dtype=np.float64).reshape(len(codes), p),
        prediction=found.prediction[kept],
        lower=found.lower[kept],
        upper=found.upper[kept],
        actual=found.actual[kept],
        latency_ms=found.latency_ms[kept],
        time=found.time[kept],
        version=places[kept],
        versions=tuple(versions),
        problems=tuple(problems),
    )


def _encoded(features: list[bytes], encoder: Encoder) -> tuple[list[list[float]], list[int]]:
    codes, kept = [], []
    for i, text in enumerate(features):
        try:
            codes.append(encoder.codes(orjson.loads(text)))
        except (ValidationError, orjson.JSONDecodeError, TypeError):
            continue  # counted by the caller: one row must not cost the window its verdict
        kept.append(i)
    return codes, kept
