"""The training table of a retrained model: the reference rows, then those of recorded outcomes.

Who may send outcomes may try to teach the model something false. What is usable must meet the
contract, agree with itself, lie where other new rows lie, and come from clients of whom none can
outweigh the rest. What all clients report alike (prices rose) passes; what one reports alone
does not.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson
import polars as pl
from numpy.typing import NDArray

from tasador.contract.cells import decoded_cell
from tasador.contract.encoding import encode_values, sent_as
from tasador.contract.formats import PLAIN
from tasador.contract.row_check import RowCheck
from tasador.contract.target_check import TargetBounds
from tasador.core.errors import ValidationError
from tasador.metrics.regression import robust_spread
from tasador.records.store import RecordBatch
from tasador.registry.model_bundle import ModelBundle
from tasador.settings.run import RetrainSettings

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

#: Two outcomes of the same house that differ by more than this factor contradict each other.
CONTRADICTION = 1.2
_MIN_CLIENT_ROWS = 10
_MIN_CLIENTS = 3
_LEAST_SPREAD = 0.02


@dataclass(frozen=True)
class NewRows:
    """Rows with outcomes, oldest first.

    Attributes:
        X: Shape (n, p), encoded by the champion's contract.
        y: Shape (n,): what they turned out to be worth.
        predicted: Shape (n,): what was estimated.
        time: Shape (n,): when the outcome became known.
        client: Shape (n,): who reported it.
        left_out: How many were left out, by reason.
    """

    X: Floats
    y: Floats
    predicted: Floats
    time: Floats
    client: NDArray[np.object_]
    left_out: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.y)

    def keep(self, chosen: Flags, reason: str) -> NewRows:
        """Return the chosen rows, the others counted under `reason`."""
        lost = int(np.sum(~chosen))
        left_out = dict(self.left_out)
        if lost:
            left_out[reason] = left_out.get(reason, 0) + lost
        return NewRows(
            self.X[chosen], self.y[chosen], self.predicted[chosen], self.time[chosen],
            self.client[chosen], left_out,
        )  # fmt: skip


def read_rows(
    batches: Iterable[RecordBatch], conflicting: frozenset[str], bundle: ModelBundle
) -> NewRows:
    """Read recorded rows that have an outcome; what does not meet the contract is left out.

    Args:
        batches: Records with outcomes.
        conflicting: Prediction ids for which contradicting outcomes were sent.
        bundle: Encodes and checks them.
    """
    p, left_out = len(bundle.contract.features), Counter[str]()
    encoded: list[Floats] = []
    plain: list[tuple[float, float, float, str]] = []
    for every in batches:
        batch = every.of_model(bundle.manifest.name)
        for i in range(len(batch)):
            # a shadow answers a request that the champion answers too: its row would count twice
            if batch.variant[i] == "shadow" or not np.isfinite(batch.actual[i]):
                continue
            # which of the two is true cannot be known
            if batch.id[i] in conflicting:
                left_out["contradicting outcomes for one estimate"] += 1
                continue
            try:
                encoded.append(bundle.encoder.row(orjson.loads(batch.features[i]))[0])
            except (ValidationError, ValueError, TypeError):
                left_out["does not meet the contract"] += 1
                continue
            plain.append(
                (batch.actual[i], batch.prediction[i], batch.outcome_time[i], str(batch.client[i]))
            )
    client = np.array([one[3] for one in plain], dtype=object)
    columns = np.array([one[:3] for one in plain], dtype=np.float64).reshape(-1, 3)
    rows = NewRows(
        np.array(encoded).reshape(-1, p), columns[:, 0], columns[:, 1], columns[:, 2],
        client, dict(left_out),
    )  # fmt: skip
    good = RowCheck(bundle.encoder).accepts(rows.X) if len(rows) else np.zeros(0, np.bool_)
    rows = rows.keep(good, "does not meet the contract")
    possible = TargetBounds.of(bundle.contract.target).accepts(rows.y)
    rows = rows.keep(possible, "outcome outside the target's bounds")
    # stable: equal records give the same table, and so the same content hash
    order = np.argsort(rows.time, kind="stable")
    return NewRows(
        rows.X[order], rows.y[order], rows.predicted[order], rows.time[order], rows.client[order],
        rows.left_out,
    )  # fmt: skip


def usable_rows(
    rows: NewRows, known: Floats, bundle: ModelBundle, settings: RetrainSettings
) -> NewRows:
    """Return the rows that may be trained on.

    Args:
        rows: From `read_rows`.
        known: Shape (m, p + 1): rows of the reference table with their target.
        bundle: The champion, whose errors tell what new rows have in common.
        settings: The limits.
    """
    rows = rows.keep(~rows_in(np.column_stack([rows.X, rows.y]), known), "known already")
    rows = _without_repeats(rows)
    rows = _without_outliers(rows, bundle, settings)
    return _within_shares(rows, len(known), settings)


def rows_in(rows: Floats, known: Floats) -> Flags:
    """Tell which of `rows` (n, p) are among `known` (m, p), bit by bit; missing equals missing."""
    seen = set(_keys(known))
    return np.array([key in seen for key in _keys(rows)], dtype=np.bool_)


def _keys(rows: Floats) -> list[bytes]:
    plain = np.where(np.isnan(rows), np.float64("nan"), rows) + 0.0  # one NaN, one zero
    return [row.tobytes() for row in np.ascontiguousarray(plain)]


def _without_repeats(rows: NewRows) -> NewRows:
    """Keep the latest of several outcomes of one house, or none when they contradict."""
    places: dict[bytes, list[int]] = {}
    for place, key in enumerate(_keys(rows.X)):
        places.setdefault(key, []).append(place)
    agree, latest = np.ones(len(rows), np.bool_), np.ones(len(rows), np.bool_)
    for found in places.values():
        if len(found) == 1:
            continue
        values = rows.y[found]
        # of two values that differ so much at least one is wrong; which, cannot be known
        if np.max(values) > CONTRADICTION * np.min(values):
            agree[found] = False
        else:
            latest[found[:-1]] = False
    kept = rows.keep(agree, "contradicting outcomes for one house")
    return kept.keep(latest[agree], "repeated")


def _without_outliers(rows: NewRows, bundle: ModelBundle, settings: RetrainSettings) -> NewRows:
    """Leave out rows, then clients, that lie far from what new rows have in common."""
    if not len(rows):
        return rows
    error = _errors(rows, bundle)
    clients = _by_client(rows)
    medians = np.array([np.median(error[chosen]) for chosen in clients.values()])
    centre = float(np.median(medians))  # one client, one vote
    # the least spread keeps a few equal errors from making everything else an outlier
    spread = max(
        float(np.median([robust_spread(error[c]) for c in clients.values()])),
        _LEAST_SPREAD,
    )
    large = {name: c for name, c in clients.items() if c.sum() >= _MIN_CLIENT_ROWS}
    strange = np.zeros(len(rows), np.bool_)
    # of two clients that differ neither can be called the strange one
    if len(large) >= _MIN_CLIENTS:
        own = np.array([np.median(error[c]) for c in large.values()])
        between = max(robust_spread(own), _LEAST_SPREAD / 2)
        for (_, chosen), median in zip(large.items(), own, strict=True):
            # a client with few rows may differ by chance
            noise = spread / np.sqrt(float(chosen.sum()))
            if abs(median - np.median(own)) > settings.client_spreads * max(between, noise):
                strange |= chosen
    kept = rows.keep(~strange, "from a client whose outcomes differ from everybody else's")
    far = np.abs(error[~strange] - centre) > settings.outlier_spreads * spread
    return kept.keep(~far, "far from what new rows have in common")


def common_shift(rows: NewRows, bundle: ModelBundle, settings: RetrainSettings) -> float | None:
    """Return the factor by which values have moved since the reference; None when they have not.

    Sales of another time are brought to today's level before they are used: time adjustment, IAAO
    Standard on Ratio Studies (2013), section 4.6. The factor is the median over clients of their
    median ratio of outcome to estimate. It must be at least `level_from` away from 1, and so must
    be its 95% bound, with the standard error of a median.
    """
    few = len(rows) < settings.min_new_rows or settings.level_from <= 0
    # a factor is a shift on the logarithmic scale; on another one it would not fit all values
    if few or bundle.contract.target.transform != "log":
        return None
    error = _errors(rows, bundle)
    # by client first: one with many rows must not decide alone
    medians = [float(np.median(error[chosen])) for chosen in _by_client(rows).values()]
    shift = float(np.median(medians))
    # 1.2533 is the square root of pi / 2: standard error of a median over that of a mean
    noise = 1.96 * 1.2533 * robust_spread(error) / np.sqrt(len(rows))
    if abs(shift) - noise < np.log1p(settings.level_from):
        return None
    return float(np.exp(shift))


def _errors(rows: NewRows, bundle: ModelBundle) -> Floats:
    """Return relative errors, in logarithms when the target's scale is one."""
    estimates = bundle.predict(rows.X)  # recorded ones may be of several versions
    if bundle.contract.target.transform == "log":
        result: Floats = np.log(rows.y / np.maximum(estimates, 1e-300))
        return result
    scale = np.maximum(np.abs(estimates), 1e-12)
    return (rows.y - estimates) / scale


def _by_client(rows: NewRows) -> dict[str, Flags]:
    return {name: rows.client == name for name in sorted(set(rows.client.tolist()))}


def _within_shares(rows: NewRows, reference: int, settings: RetrainSettings) -> NewRows:
    """Cap each client's and all new rows' share of the table; the newest stay."""
    newest = np.arange(len(rows))[::-1]
    most = _most(reference, settings.max_new_share)
    # shares of the table as it will be, with no more new rows than are taken
    each = int(settings.max_client_share * (reference + min(len(rows), most)))
    taken, chosen = Counter[str](), np.zeros(len(rows), np.bool_)
    for place in newest:
        if taken[rows.client[place]] < each:
            taken[rows.client[place]] += 1
            chosen[place] = True
    rows = rows.keep(chosen, "beyond one client's share")
    chosen = np.arange(len(rows)) >= len(rows) - most
    return rows.keep(chosen, "beyond the share of new rows")


def _most(reference: int, share: float) -> int:
    return int(reference * share / (1.0 - share)) if share < 1.0 else 2**62


def extended_table(
    reference: pl.DataFrame, rows: NewRows, bundle: ModelBundle, level: float | None = None
) -> pl.DataFrame:
    """Return the contract's columns of `reference` with the new rows after them.

    New rows get their identifiers from the time of their outcome, since the reference's own kind of
    identifier is not recorded; text is left empty. Equal arguments give equal tables.

    Args:
        reference: The table that the champion was trained on, as it was stored.
        rows: What is added.
        bundle: The champion: its contract and encoder.
        level: What the reference's values are multiplied by; None leaves them. Values beyond the
            target's bounds or at its cap stay there.
    """
    contract = bundle.contract
    columns: dict[str, list[Any]] = dict(bundle.encoder.decode(rows.X))
    columns[contract.target.name] = rows.y.tolist()
    for column in contract.columns:
        if column.kind == "identifier":
            columns[column.name] = [f"outcome {time:.6f}" for time in rows.time.tolist()]
        elif column.name not in columns:
            columns[column.name] = [None] * len(rows)
    reference = _as_read(reference, bundle)
    names = [name for name in reference.columns if name in columns]
    kept = _levelled(reference.select(names), bundle, level)
    new = pl.DataFrame(
        {name: pl.Series(name, _values(columns[name]), strict=False) for name in names}
    )
    # an empty frame has no types of its own to which the reference could be widened
    if not len(rows):
        return kept
    return pl.concat([_fitted(kept, new), new.cast(_fitted(kept, new).schema)])


def _as_read(reference: pl.DataFrame, bundle: ModelBundle) -> pl.DataFrame:
    """Return the reference with values for texts that are written in a way of their own.

    New rows are values, and of the texts that features are parts of only the parts are known.
    """
    contract, made = bundle.contract, []
    for column in (contract.target.column, *contract.features):
        sent = sent_as(column, reference.columns)
        if sent is None or (column.format == PLAIN and not sent.from_text):
            continue
        codes, _ = encode_values(sent, reference[sent.field_name])
        values = [decoded_cell(column, code) for code in codes.tolist()]
        made.append(pl.Series(column.name, _values(values), strict=False))
    return reference.with_columns(made)


def _levelled(kept: pl.DataFrame, bundle: ModelBundle, level: float | None) -> pl.DataFrame:
    if level is None:
        return kept
    target = bundle.contract.target
    high = min(
        (bound for bound in (target.bounds[1], target.cap) if bound is not None), default=None
    )
    moved = pl.col(target.name).cast(pl.Float64) * level
    return kept.with_columns(moved.clip(target.bounds[0], high).alias(target.name))


def _values(values: list[Any]) -> list[Any]:
    return [v.isoformat() if isinstance(v, dt.datetime) else v for v in values]


def _fitted(kept: pl.DataFrame, new: pl.DataFrame) -> pl.DataFrame:
    """Widen the reference's columns where new values would not fit: whole numbers, times."""
    changes = []
    for name, kind in kept.schema.items():
        given = new.schema[name]
        if kind.is_integer() and given.is_float():
            changes.append(pl.col(name).cast(pl.Float64))
        elif kind.is_temporal():
            changes.append(pl.col(name).dt.to_string("iso:strict"))
    return kept.with_columns(changes)
