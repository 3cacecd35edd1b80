"""Backtest: what a model would have said of sales that were still to come, origin by origin.

At each origin the trend, the features and the models of a bundle are fitted again on the sales
before it and value the sales up to the next one, as in use. What the bundle has from its own run
(the families and their parameters, how features are made, the width of intervals) was chosen with
later sales in sight; that flatters the figures a little, and is the price of seconds an origin.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from tasador.contract.formats import EPOCH, seconds_of
from tasador.core.errors import ConfigError, ValidationError
from tasador.core.storage import write_text
from tasador.data.row_groups import rival_values
from tasador.data.sources import read_stored
from tasador.data.table import Part
from tasador.features.pipeline import FeaturePipeline
from tasador.lifecycle.gate_evaluation import reference_table
from tasador.lifecycle.reproduce import settings_of
from tasador.metrics.ratio_study import rival_figures
from tasador.metrics.regression import Estimate, all_metrics, cod, label, prd
from tasador.modeling.conformal import ConformalInterval
from tasador.modeling.target_transform import TargetTransform
from tasador.modeling.trend import trend_of
from tasador.registry.model_bundle import ModelBundle
from tasador.selection.ensembling import Member
from tasador.selection.families.catalog import family
from tasador.selection.families.inputs import fit_model
from tasador.selection.feature_worth import BASELINE_FAMILY, BASELINE_PARAMS
from tasador.selection.grouped import fit_member
from tasador.selection.paired_tests import median_differences
from tasador.settings.run import RunSettings

Floats = NDArray[np.float64]
Span = Literal["month", "quarter", "year"]
SPANS: tuple[Span, ...] = get_args(Span)
_MONTHS = {"month": 1, "quarter": 3, "year": 12}
#: Fewer sales before an origin say too little, and fewer after it measure nothing.
_FEWEST_BEFORE, _FEWEST_AFTER = 200, 5
_COUNTED = ("median_ape", "mape", "within_10")
_TITLES = {"median_ratio": "median ratio", "coverage": "coverage"}


class BacktestError(ConfigError):
    """A backtest that cannot be made, or not be written."""

    @classmethod
    def unknown_file(cls, path: Path) -> BacktestError:
        """Return the error of a file's ending."""
        return cls("the backtest cannot be written in that format", expected="a .html file",
                   got=path.name)  # fmt: skip

    @classmethod
    def no_dates(cls, version: str) -> BacktestError:
        """Return the error of a model that knows no dates."""
        return cls(
            f"{version} cannot be backtested: its table has no dates",
            expected="a column with the role timestamp in its contract",
            got="none",
            remedy="give one `role: timestamp` and train again",
        )

    @classmethod
    def no_origin(cls, by: str, before: int) -> BacktestError:
        """Return the error of a table without an origin to begin at."""
        return cls(
            f"no {by} has enough sales before and in it",
            expected=f"{_FEWEST_BEFORE} sales before it and {_FEWEST_AFTER} in it",
            got=f"{before} sales with a date",
            remedy="take shorter spans with --by, or an earlier --from",
        )


@dataclass(frozen=True)
class Origin:
    """How the sales of one span were valued by what was known before it.

    Attributes:
        name: The span, e.g. ``2013`` or ``2013-07``.
        rows: Number of its sales.
        known: Number of sales before it.
        metrics: median_ape, mape, within_10 (percent); median_ratio, cod, prd; coverage in [0, 1],
            NaN where the features at the origin lack what scales the interval.
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
        origins: The spans.
        mean: The mean of each figure over the spans.
        random: median_ape, mape and within_10 by random cross-validation, as far as known.
        difference: The mean of the differences to the plain LightGBM, with its 95% interval.
        rivals: The mean of each rival over the spans in which it has a figure, and how many
            these are.
    """

    version: str
    by: Span
    origins: tuple[Origin, ...]
    mean: dict[str, float]
    random: dict[str, float]
    difference: Estimate
    rivals: dict[str, tuple[float, int]]


def backtest(
    bundle: ModelBundle,
    tables: Path,
    by: Span = "year",
    since: str | None = None,
    *,
    tell: Callable[[Origin], None] = lambda _: None,
) -> Backtest:
    """Fit at each origin what `bundle` is made of, and measure it on the sales that follow.

    Args:
        bundle: The model.
        tables: Where the workspace keeps training tables.
        by: Length of the spans.
        since: First day of the first span's month, e.g. ``2008-01-01``; None takes the first with
            enough sales before it.
        tell: Called with each origin.

    Raises:
        BacktestError: The table has no dates, or too few sales.
        StorageError, KeyError: The training table is gone, or the bundle does not say which it was.
    """
    at = bundle.contract.timestamp_position
    if at is None:
        raise BacktestError.no_dates(bundle.version)
    table = reference_table(bundle, tables)
    dates = table.X[:, at]
    settings, _ = settings_of(bundle)
    table = table.aged(settings.model.half_life)
    others = _rivals(bundle, tables, table.part)
    origins, pairs = [], []
    for name, start, end in _spans(dates, by, since):
        before = np.flatnonzero(dates < start)
        after = np.flatnonzero((dates >= start) & (dates < end))
        if len(before) < _FEWEST_BEFORE or len(after) < _FEWEST_AFTER:
            continue
        part = table.part.take(after)
        estimate, plain, coverage = _valued(bundle, settings, table.part.take(before), part)
        paid = part.y > 0
        price = part.y[paid]
        pairs.append((_errors(price, estimate[paid]), _errors(price, plain[paid])))
        (difference,), _ = median_differences(pairs[-1:], seed=settings.seed)
        known = rival_figures(part.y, estimate, {n: one[after] for n, one in others.items()})
        found = Origin(
            name,
            len(after),
            len(before),
            _metrics(part.y, estimate, coverage),
            all_metrics(part.y, plain)["median_ape"],
            difference,
            {one.name: one.levelled["median_ape"] for one in known if one.figures},
        )
        tell(found)
        origins.append(found)
    if not origins:
        raise BacktestError.no_origin(by, int((~np.isnan(dates)).sum()))
    names = list(origins[0].metrics)
    mean = {n: float(np.mean([origin.metrics[n] for origin in origins])) for n in names}
    mean["baseline"] = float(np.mean([origin.baseline for origin in origins]))
    random = bundle.manifest.metrics.get("random_cv") or {}
    by_chance = {name: float(random[name]) for name in _COUNTED if name in random}
    _, difference = median_differences(pairs, seed=settings.seed)
    each = {name: [one.rivals[name] for one in origins if name in one.rivals] for name in others}
    rivals = {name: (float(np.mean(some)), len(some)) for name, some in each.items() if some}
    return Backtest(bundle.version, by, tuple(origins), mean, by_chance, difference, rivals)


def _rivals(bundle: ModelBundle, tables: Path, part: Part) -> dict[str, Floats]:
    """Return other people's estimates of all rows (n,), by name."""
    if not bundle.contract.rivals:
        return {}
    frame = read_stored(tables, bundle.manifest.lineage["data_hash"])
    return rival_values(bundle.contract, part, frame)


def _errors(price: Floats, estimate: Floats) -> Floats:
    """Return absolute percentage errors (n,), in percent."""
    return 100.0 * np.abs(estimate / price - 1.0)


def _metrics(price: Floats, estimate: Floats, coverage: float) -> dict[str, float]:
    metrics, paid = all_metrics(price, estimate), price > 0
    return {name: metrics[name] for name in _COUNTED} | {
        "median_ratio": float(np.median(estimate[paid] / price[paid])),
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


def _valued(
    bundle: ModelBundle, settings: RunSettings, known: Part, asked: Part
) -> tuple[Floats, Floats, float]:
    """Fit on the sales that are `known` at an origin and value those `asked` for.

    Returns their estimates (n,), those of the plain LightGBM, and the share of intervals that hold.
    """
    contract, lineage = bundle.contract, bundle.manifest.lineage
    plain, raw = TargetTransform(contract.target.transform), known.y
    at = contract.timestamp_position
    assert at is not None  # noqa: S101 - a table without dates has no origins
    dates, trend = asked.X[:, at], None
    if bundle.target.trend is not None:
        trend = trend_of(
            contract,
            known.X,
            plain.forward(raw),
            known.property_hash,
            carry=bundle.target.trend.carry,
            seed=settings.seed,
        )
    transform = replace(plain, trend=trend)
    target = plain.forward(transform.at_newest_level(raw, known.X[:, at]))
    fitted, Z = _pipeline(bundle, settings).fit_transform(known.X, target)
    Z_asked = fitted.transform(asked.X)
    score, weight = np.zeros(len(asked)), known.fit_weight()
    members: list[dict[str, Any]] = lineage["members"]
    for member in members:
        group = contract.with_role("group")
        model = fit_member(
            Member(**member), Z, fitted.names, fitted.kinds, target, group, weight=weight
        )
        score += model.predict(Z_asked) / len(members)
    score += np.log(lineage.get("bias_factor", 1.0))
    if "stretch" in lineage:
        score = lineage["stretch"]["factor"] * score + lineage["stretch"]["shift"]
    estimate, coverage = transform.inverse(score, dates), float("nan")
    interval = _interval(bundle, fitted.names)
    if interval is not None:
        far, error = fitted.far(Z_asked), transform.level_error(dates)
        ends = interval.bounds(score, Z_asked, far, error)
        low, high = (transform.inverse(end, dates) for end in ends)
        coverage = float(np.mean((low <= asked.y) & (asked.y <= high)))
    bare, Z = _pipeline(bundle, settings, comparables=False).fit_transform(
        known.X, plain.forward(raw)
    )
    chosen = family(BASELINE_FAMILY)
    model = fit_model(
        chosen, BASELINE_PARAMS, Z, bare.kinds, plain.forward(raw), settings.seed, weight=weight
    )
    guess = plain.inverse(chosen.predict(model, bare.transform(asked.X)))
    return estimate, guess, coverage


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


def check_picture(path: Path) -> None:
    """Refuse a file before anything is computed for it.

    Raises:
        BacktestError: It is no HTML file.
    """
    if path.suffix.lower() != ".html":
        raise BacktestError.unknown_file(path)


def write_picture(path: Path, found: Backtest, title: str) -> None:
    """Write the figures of all spans, and their picture, as one HTML file.

    Raises:
        StorageError: The file cannot be written.
        MissingExtraError: jinja2 or matplotlib is not installed.
    """
    from tasador.reporting.cards import CardBuilder, render
    from tasador.reporting.evaluation_plots import origin_errors
    from tasador.reporting.plots import short

    card = CardBuilder("backtest", f"Backtest: {title}")
    card.fact("Model", found.version)
    card.fact("Mean of the median APE", f"{found.mean['median_ape']:.2f} %")
    if "median_ape" in found.random:
        card.fact("By random folds", f"{found.random['median_ape']:.2f} %")
    names = [origin.name for origin in found.origins]
    own = [origin.metrics["median_ape"] for origin in found.origins]
    ratios = [origin.metrics["median_ratio"] for origin in found.origins]
    plain = [origin.baseline for origin in found.origins]
    card.figure(origin_errors(names, own, plain, ratios, found.random.get("median_ape")))
    keys = list(found.mean)[:-1]
    card.table(
        "By span",
        (
            "span", "sales", *(_TITLES.get(key) or label(key) for key in keys), "plain LightGBM",
            "difference", "95% from", "to", *map(short, found.rivals),
        ),
        [
            (
                o.name, o.rows, *(round(o.metrics[key], 4) for key in keys), round(o.baseline, 4),
                *(round(value, 4) for value in (gap.value, gap.low, gap.high)),
                *(o.rivals.get(name) for name in found.rivals),
            )
            for o in found.origins for gap in [o.difference]
        ],
        note="Each span is valued by what was known before it. Errors in percent; coverage: share "
        "of prices inside the interval; plain LightGBM: its median APE at the same origin; "
        "difference: by how much the model's exceeds it, with its 95% interval by paired bootstrap."
        + (" Last, the median APE of somebody else's estimates, levelled by their median ratio on "
           "the same sales." if found.rivals else ""),
    )  # fmt: skip
    write_text(path, render("card.html.j2", card=card.build()))
