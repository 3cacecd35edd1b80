"""Backtest: what a model would have said of sales that were still to come, origin by origin.

At each origin the trend, the features and the models of a bundle are fitted again on the sales
before it and value the sales up to the next one, as in use. What the bundle has from its own run
(the families and their parameters, how features are made, how large errors are where) was chosen
with later sales in sight; that flatters the figures a little, and is the price of seconds an
origin.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from tasador.contract.formats import EPOCH, seconds_of
from tasador.core.errors import ValidationError
from tasador.core.parallel import in_parallel, one_blas_thread
from tasador.data.profile import reference_profile
from tasador.data.row_groups import rival_values
from tasador.data.sources import read_stored
from tasador.data.table import Part, ValidatedTable
from tasador.features.pipeline import FeaturePipeline
from tasador.metrics.ratio_study import rival_figures
from tasador.metrics.regression import (
    Estimate,
    all_metrics,
    cod,
    label,
    median_ratio,
    prd,
    relative_errors,
)
from tasador.modeling.confidence import ConfidenceModel, JointRange
from tasador.modeling.conformal import ConformalInterval
from tasador.modeling.target_transform import TargetTransform
from tasador.modeling.trend import trend_of
from tasador.registry.model_bundle import ModelBundle
from tasador.reporting.cards import CardBuilder
from tasador.reporting.evaluation_plots import origin_errors
from tasador.reporting.plots import short
from tasador.selection.ensembling import Member
from tasador.selection.families.catalog import family
from tasador.selection.families.inputs import fit_model
from tasador.selection.feature_worth import BASELINE_FAMILY, BASELINE_PARAMS
from tasador.selection.grouped import FittedMember, fit_member
from tasador.selection.paired_tests import median_differences
from tasador.settings.run import RunSettings
from tasador.training.errors import BacktestError
from tasador.trees.onnx_model import Regressor

Floats = NDArray[np.float64]
Span = Literal["month", "quarter", "year"]
SPANS: tuple[Span, ...] = get_args(Span)
_MONTHS = {"month": 1, "quarter": 3, "year": 12}
#: Fewer sales before an origin say too little, and fewer after it measure nothing.
_FEWEST_BEFORE, _FEWEST_AFTER = 200, 5
_COUNTED = ("median_ape", "mape", "within_10")
_TITLES = {
    "median_ratio": "median ratio",
    "median_ratio_level_kept": "median ratio, level kept",
    "coverage": "coverage",
}


@dataclass(frozen=True)
class Origin:
    """How the sales of one span were valued by what was known before it.

    Attributes:
        name: The span, e.g. ``2013`` or ``2013-07``.
        rows: Number of its sales.
        known: Number of sales before it.
        metrics: median_ape, mape, within_10 (percent); median_ratio, and the same without the
            trend beyond the origin (`median_ratio_level_kept`); cod, prd; coverage in [0, 1], that
            of the interval as it would have been served; NaN where a bundle without a model of the
            errors' size lacks at the origin what scales its interval.
        baseline: The median APE of the plain LightGBM at the same origin, in percent.
        difference: By how much the model's median APE exceeds that, with its 95% interval by
            paired bootstrap.
        rivals: The median APE, in percent, of other people's estimates levelled by their median
            ratio on the same sales, by name.
    """

    name: str
    rows: int
    known: int
    metrics: dict[str, float]
    baseline: float
    difference: Estimate
    rivals: dict[str, float]


@dataclass(frozen=True)
class Backtest:
    """All origins, the oldest first, and what random folds had promised.

    Attributes:
        version: The bundle's version.
        by: Length of the spans.
        promised: Share of prices that intervals are meant to hold.
        origins: The spans.
        mean: The mean of each figure over the spans.
        random: median_ape, mape and within_10 by random cross-validation, as far as known.
        difference: The mean of the differences to the plain LightGBM, with its 95% interval.
        rivals: The mean of each rival over the spans in which it has a figure, and how many
            these are.
    """

    version: str
    by: Span
    promised: float
    origins: tuple[Origin, ...]
    mean: dict[str, float]
    random: dict[str, float]
    difference: Estimate
    rivals: dict[str, tuple[float, int]]


def value_spans(
    bundle: ModelBundle,
    settings: RunSettings,
    table: ValidatedTable,
    tables: Path,
    by: Span = "year",
    since: str | None = None,
    *,
    newest: int | None = None,
    tell: Callable[[Origin], None] = lambda _: None,
) -> Backtest:
    """Fit at each origin what `bundle` is made of, and measure it on the sales that follow.

    Args:
        bundle: The model.
        settings: Those that it was trained with.
        table: All rows of its table.
        tables: Where the workspace keeps training tables; read for other people's estimates.
        by: Length of the spans.
        since: First day of the first span's month, e.g. ``2008-01-01``; None takes the first with
            enough sales before it.
        newest: How many spans there are at most, the last ones; None for all.
        tell: Called with each origin, as soon as it is measured.

    Raises:
        BacktestError: The table has no dates, or too few sales.
        ValidationError: `since` is no day.
        StorageError, KeyError: The training table is gone, or the bundle does not say which it was.
    """
    at = bundle.contract.timestamp_position
    if at is None:
        raise BacktestError.no_dates(bundle.version)
    every, dates = table.aged(settings.model.half_life).part, table.X[:, at]
    others = _rivals(bundle, tables, every)
    days = np.sort(dates)
    spans = [
        span
        for span in _spans(dates, by, since)
        for before, until in [days.searchsorted(span[1:])]
        if before >= _FEWEST_BEFORE and until - before >= _FEWEST_AFTER
    ]
    if not spans:
        known = int((~np.isnan(dates)).sum())
        raise BacktestError.no_origin(by, _FEWEST_BEFORE, _FEWEST_AFTER, known)

    def valued(span: tuple[str, float, float]) -> tuple[Origin, tuple[Floats, Floats]]:
        name, start, end = span
        before = every.take(np.flatnonzero(dates < start))
        rows = np.flatnonzero((dates >= start) & (dates < end))
        part = every.take(rows)
        estimate, kept, plain, coverage = _valued(bundle, settings, before, part)
        price = part.y[part.y > 0]
        pair = (
            100.0 * relative_errors(price, estimate[part.y > 0]),
            100.0 * relative_errors(price, plain[part.y > 0]),
        )
        (difference,), _ = median_differences([pair], seed=settings.seed)
        known = rival_figures(part.y, estimate, {n: one[rows] for n, one in others.items()})
        found = Origin(
            name,
            len(part),
            len(before),
            _metrics(part.y, estimate, kept, coverage),
            all_metrics(part.y, plain)["median_ape"],
            difference,
            {one.name: one.levelled["median_ape"] for one in known if one.figures},
        )
        tell(found)
        return found, pair

    # an origin a core: on few rows the threads of one fit wait for one another
    with one_blas_thread():
        made = dict(in_parallel(valued, spans[-newest if newest else 0 :]))
    origins, pairs = zip(*(made[i] for i in range(len(made))), strict=True)
    names = list(origins[0].metrics)
    mean = {n: float(np.mean([origin.metrics[n] for origin in origins])) for n in names}
    mean["baseline"] = float(np.mean([origin.baseline for origin in origins]))
    random = bundle.manifest.metrics.get("random_cv") or {}
    by_chance = {name: float(random[name]) for name in _COUNTED if name in random}
    _, difference = median_differences(pairs, seed=settings.seed)
    each = {name: [one.rivals[name] for one in origins if name in one.rivals] for name in others}
    rivals = {name: (float(np.mean(some)), len(some)) for name, some in each.items() if some}
    return Backtest(
        bundle.version, by, bundle.interval.coverage, tuple(origins), mean, by_chance, difference,
        rivals,
    )  # fmt: skip


def _rivals(bundle: ModelBundle, tables: Path, part: Part) -> dict[str, Floats]:
    """Return other people's estimates of all rows (n,), by name."""
    if not bundle.contract.rivals:
        return {}
    frame = read_stored(tables, bundle.manifest.lineage["data_hash"])
    return rival_values(bundle.contract, part, frame)


def _metrics(price: Floats, estimate: Floats, kept: Floats, coverage: float) -> dict[str, float]:
    metrics = all_metrics(price, estimate)
    return {name: metrics[name] for name in _COUNTED} | {
        "median_ratio": median_ratio(price, estimate),
        "median_ratio_level_kept": median_ratio(price, kept),
        "cod": cod(price, estimate),
        "prd": prd(price, estimate),
        "coverage": coverage,
    }


def _spans(dates: Floats, by: Span, since: str | None) -> list[tuple[str, float, float]]:
    """Return name, start and end of the calendar's spans in which sales lie."""
    known = dates[~np.isnan(dates)]
    if not len(known):
        return []
    first = EPOCH + dt.timedelta(seconds=float(known.min()))
    if since is not None:
        try:
            first = max(first, dt.datetime.fromisoformat(since).replace(tzinfo=dt.UTC))
        except ValueError:
            raise ValidationError(
                "the first origin cannot be read", expected="such as 2008-01-01", got=repr(since)
            ) from None
    months, last = _MONTHS[by], float(known.max())
    number = (first.year * 12 + first.month - 1) // months * months
    found = []
    while (start := seconds_of(dt.date(number // 12, number % 12 + 1, 1))) <= last:
        year, month = divmod(number, 12)
        following = number + months
        end = seconds_of(dt.date(following // 12, following % 12 + 1, 1))
        name = {
            "year": f"{year}", "quarter": f"{year}-Q{month // 3 + 1}",
            "month": f"{year}-{month + 1:02d}",
        }[by]  # fmt: skip
        found.append((name, start, end))
        number = following
    return found


class _Average(Regressor):
    """The models fitted at an origin, in place of a bundle's one model."""

    engine = "the training libraries"

    def __init__(self, members: Sequence[FittedMember], q: int, lineage: Mapping[str, Any]) -> None:
        super().__init__(q, threads=1)
        self._members, self._bias = members, float(np.log(lineage.get("bias_factor", 1.0)))
        self._stretch = lineage.get("stretch") or {"factor": 1.0, "shift": 0.0}

    def _run(self, Z: Floats) -> Floats:
        score = np.zeros(len(Z))
        for member in self._members:
            score += member.predict(Z) / len(self._members)
        result: Floats = self._stretch["factor"] * (score + self._bias) + self._stretch["shift"]
        return result


def _valued(
    bundle: ModelBundle, settings: RunSettings, known: Part, asked: Part
) -> tuple[Floats, Floats, Floats, float]:
    """Fit on the sales that are `known` at an origin and value those `asked` for.

    Returns their estimates (n,), the same at the level of the last known sales, those of the plain
    LightGBM, and the share of intervals that hold.
    """
    served = as_of(bundle, settings, known)
    estimate, low, high = served.value_arrays(asked.X)
    kept, trend = estimate, served.target.trend
    if trend is not None:
        level = replace(trend, level=trend.level - trend.level[-1])
        dates = asked.X[:, bundle.contract.timestamp_position]
        kept = replace(served.target, trend=level).at_newest_level(estimate, dates)
    coverage = float(np.mean((low <= asked.y) & (asked.y <= high)))
    if bundle.confidence is None and _interval(bundle, served.features.names) is None:
        coverage = float("nan")
    plain, weight = TargetTransform(bundle.contract.target.transform), known.fit_weight()
    target = plain.forward(known.y)
    bare, Z = _pipeline(bundle, settings, comparables=False).fit_transform(known.X, target)
    chosen, seed = family(BASELINE_FAMILY), settings.seed
    model = fit_model(chosen, BASELINE_PARAMS, Z, bare.kinds, target, seed, 1, weight)
    return estimate, kept, plain.inverse(chosen.predict(model, bare.transform(asked.X))), coverage


def as_of(bundle: ModelBundle, settings: RunSettings, known: Part) -> ModelBundle:
    """Return `bundle` as it would be served on the day after the last of some sales.

    Its model of the errors' size stays: it takes scores at the bundle's level of prices, so that
    the models of the origin are fitted at that too, by the trend that was known.

    Args:
        bundle: The model.
        settings: Those that it was trained with.
        known: The sales; their table has a date.
    """
    contract, lineage = bundle.contract, bundle.manifest.lineage
    at, carried = contract.timestamp_position, bundle.target.trend
    assert at is not None  # noqa: S101 - a table without dates has no origins
    plain, dates, trend = TargetTransform(contract.target.transform), known.X[:, at], None
    if carried is not None:
        trend = trend_of(
            contract,
            known.X,
            plain.forward(known.y),
            known.property_hash,
            carry=carried.carry,
            seed=settings.seed,
        )
    if carried is not None and trend is not None:
        newest = carried.at(np.nanmax(dates, keepdims=True))
        trend = replace(trend, level=trend.level + newest)
    transform = replace(plain, trend=trend)
    target = plain.forward(transform.at_newest_level(known.y, dates))
    fitted, Z = _pipeline(bundle, settings).fit_transform(known.X, target)
    group, weight = contract.with_role("group"), known.fit_weight()
    members = [
        fit_member(Member(**one), Z, fitted.names, fitted.kinds, target, group, 1, weight)
        for one in lineage["members"]
    ]
    return replace(
        bundle,
        features=fitted,
        model=_Average(members, len(fitted.names), lineage),
        target=transform,
        interval=_interval(bundle, fitted.names) or replace(bundle.interval, scale_index=None),
        profile=reference_profile(known.X, known.y, contract),
        training_rows=None,
        confidence=_confidence(bundle, fitted.names, known.X),
    )


def _pipeline(
    bundle: ModelBundle, settings: RunSettings, *, comparables: bool | None = None
) -> FeaturePipeline:
    """Return the unfitted features that the bundle's run decided on."""
    made = bundle.features
    clusters = 0 if made.clusters is None else len(made.clusters.centroids)
    chosen = replace(
        settings.features,
        clusters=clusters,
        comparables=made.index is not None if comparables is None else comparables,
    )
    imputation = bundle.manifest.lineage["config"]["impute"].get("chosen") or {}
    return FeaturePipeline(bundle.contract, chosen, settings.seed, imputation, made.monotone)


def _interval(bundle: ModelBundle, names: tuple[str, ...]) -> ConformalInterval | None:
    """Return the bundle's interval over features `names`; None where its scale is none of them."""
    index = bundle.interval.scale_index
    if index is None:
        return bundle.interval
    scale = bundle.features.names[index]
    if scale not in names:
        return None
    return replace(bundle.interval, scale_index=names.index(scale))


def _confidence(bundle: ModelBundle, names: tuple[str, ...], X: Floats) -> ConfidenceModel | None:
    """Return the bundle's model of the errors' size over features `names` and rows `X` (n, p)."""
    if bundle.confidence is None:
        return None
    columns = bundle.confidence.joint.columns
    joint = JointRange.of(X, columns[np.isfinite(X[:, columns]).any(axis=0)])
    return replace(bundle.confidence.of_features(bundle.features.names, names), joint=joint)


def show_backtest(card: CardBuilder, found: Backtest) -> None:
    """Put the figures of all spans, and their picture, into a card."""
    mean, said = found.mean["median_ape"], f"mean of {len(found.origins)} {found.by}s"
    if random := found.random.get("median_ape"):
        said += f"; by random folds {random:.2f}%: {mean / random - 1.0:+.0%}"
    card.fact("Median APE on sales to come", f"{mean:.2f}%", said)
    origins = found.origins
    own, ratios, coverage = (
        [origin.metrics[key] for origin in origins]
        for key in ("median_ape", "median_ratio", "coverage")
    )
    names, plain = [origin.name for origin in origins], [origin.baseline for origin in origins]
    card.figure(origin_errors(names, own, ratios, coverage, plain, random, found.promised))
    keys = list(found.mean)[:-1]
    card.table(
        f"Backtest: each {found.by} valued by what was known before it",
        (
            found.by, "sales", *(_TITLES.get(key) or label(key) for key in keys), "plain LightGBM",
            "difference", "95% from", "to", *map(short, found.rivals),
        ),
        [
            (
                o.name, o.rows, *(round(o.metrics[key], 4) for key in keys), round(o.baseline, 4),
                *(round(value, 4) for value in (gap.value, gap.low, gap.high)),
                *(o.rivals.get(name) for name in found.rivals),
            )
            for o in origins for gap in [o.difference]
        ],
        note="Errors in percent; coverage: share of prices inside the interval, as it would have "
        f"been served ({found.promised:.0%} promised); plain LightGBM: its median APE at the same "
        "origin; difference: by how much the model's exceeds it, with its 95% interval by paired "
        "bootstrap."
        + (" Last, the median APE of somebody else's estimates, levelled by their median ratio on "
           "the same sales." if found.rivals else ""),
    )  # fmt: skip
