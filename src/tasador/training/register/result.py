"""The result of a run: a sentence, checks with their outcome, and the pictures that show it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tasador.contract.cells import decoded_cell
from tasador.core import seeds
from tasador.features.meaning import Meaning
from tasador.metrics.ratio_study import FEWEST_OF_GROUP, RatioFigure
from tasador.metrics.regression import label, share_interval
from tasador.registry.model_bundle import ModelBundle
from tasador.registry.versions import CHAMPION, ModelVersion
from tasador.reporting import evaluation_plots, result_plots
from tasador.reporting.cards import Figure
from tasador.reporting.evaluation_tables import figure_text
from tasador.reporting.reports import Check
from tasador.selection.diagnostics import Diagnostics
from tasador.selection.ensembling import BaselineComparison
from tasador.selection.test_metrics import EvaluationReport

Floats = NDArray[np.float64]

#: A training error this share below the held-out error counts as overfitting.
_GAP = 0.5
_EXPLAINED, _LINES, _STEPS, _MOST_LEVELS = 400, 40, 12, 8
_CURVES = 4


def result_sentence(report: EvaluationReport) -> str:
    """Say in one sentence how near the estimates of the test part are."""
    median, within = (report.test[name].value for name in ("median_ape", "within_10"))
    return (
        f"Half of the estimates are within {median:.1f}% of the actual value; "
        f"{within:.0f}% of them are within 10%."
    )


def checks_of(
    report: EvaluationReport,
    figures: Sequence[RatioFigure],
    found: Diagnostics,
    baseline: BaselineComparison,
) -> tuple[Check, ...]:
    """Return what the model was held against, each with its outcome and figures.

    Args:
        report: Figures of the test part.
        figures: The ratio study's.
        found: The errors on rows fitted on and on rows held out.
        baseline: How the final model compares with a plain LightGBM.
    """
    n = len(report.actual)
    judged = [f for f in figures if f.met is not None and f.accepted is not None]
    bad = [f for f in judged if f.met is False]
    said = "; ".join(_outside(f) for f in bad)
    if not bad:
        said = ", ".join(f"{label(f.name)} {figure_text(f.name, f.value)}" for f in judged)
    met = share_interval(report.coverage, n)[1] >= report.promised if n else None
    checks = [
        Check("Ratio study", not bad if judged else None, said),
        Check(
            "Coverage",
            met,
            f"{report.promised:.0%} intervals hold {report.coverage:.1%} of the test rows",
        ),
    ]
    if found.held and found.held[-1] > 0:
        gap = 1.0 - found.fitted[-1] / found.held[-1]
        less = "lower" if gap >= 0 else "higher"
        checks.append(
            Check(
                "Overfitting",
                gap <= _GAP,
                f"{label(found.metric)} is {abs(gap):.0%} {less} on rows fitted on than on rows "
                f"held out; up to {_GAP:.0%} is accepted",
            )
        )
    if baseline.error:
        less_error = 1.0 - baseline.error_final / baseline.error
        way = "lower" if less_error >= 0 else "higher"
        checks.append(
            Check(
                "Against the baseline",
                less_error >= 0,
                f"{label(baseline.metric)} is {abs(less_error):.1%} {way} than that of a plain "
                "LightGBM by cross-validation",
            )
        )
    return tuple(checks)


def against_champion(
    versions: Sequence[ModelVersion],
    bundle: str,
    metric: str,
    figures: Mapping[str, float],
    data_hash: str,
) -> tuple[Check, ...]:
    """Return how a bundle's error on the test part compares with that of the champion.

    Empty where there is no other champion, or where the champion's error is not known.

    Args:
        versions: The registered versions.
        bundle: The bundle's version.
        metric: The error that decides.
        figures: The bundle's test metrics.
        data_hash: Hash of the table it was trained on.
    """
    champion = next((one for one in versions if CHAMPION in one.aliases), None)
    if champion is None or champion.bundle == bundle:
        return ()
    try:
        before = float(champion.tags[f"test.{metric}"])
    except (KeyError, ValueError):
        return ()
    if not before > 0:
        return ()
    less = 1.0 - figures[metric] / before
    same = champion.tags.get("data_hash") == data_hash
    said = (
        f"{label(metric)} is {abs(less):.1%} {'lower' if less >= 0 else 'higher'} than that of "
        f"version {champion.number} on the test part"
    )
    other = "; that one was measured on another table: `tasador compare` values the same rows"
    return (Check("Against the champion", less >= 0 if same else None, said + other * (not same)),)


def _outside(figure: RatioFigure) -> str:
    assert figure.accepted is not None  # noqa: S101 - asked by the caller
    low, high = figure.accepted
    return (
        f"{label(figure.name)} {figure_text(figure.name, figure.value)} is outside {low:g} to "
        f"{high:g}"
    )


def result_figures(
    report: EvaluationReport,
    bundle: ModelBundle,
    held: Sequence[tuple[float, float, float, float]],
    found: Diagnostics,
    seed: int,
) -> Iterator[Figure]:
    """Yield the pictures of the result, the most telling first.

    Args:
        report: Figures of the test part.
        bundle: The model, whose TreeSHAP tells what moves estimates.
        held: What intervals promise and hold; see `measuring.calibration`.
        found: The importance of the columns: the weightiest are shown.
        seed: Of the sample of test rows.
    """
    contract, actual, predicted = bundle.contract, report.actual, report.predicted
    unit, some = contract.target.unit, actual != 0
    percent = (predicted[some] - actual[some]) / np.abs(actual[some]) * 100.0
    yield evaluation_plots.predicted_actual(actual, predicted, unit=unit, cap=contract.target.cap)
    if some.any():
        yield result_plots.residuals(predicted[some], percent, unit=unit)
    priced = (actual > 0) & (predicted > 0)
    if int(priced.sum()) >= FEWEST_OF_GROUP:
        yield result_plots.ratio_by_price(actual[priced], predicted[priced])
    if len(held) > 1:
        yield result_plots.calibration_curve([h[0] for h in held], [h[1] for h in held],
                                             len(actual))  # fmt: skip
    rows = seeds.generator(seed, "result").permutation(len(report.X))[:_EXPLAINED]
    X = report.X[np.sort(rows)]
    groups, money = _parts(bundle, X)
    if money.any():
        yield result_plots.effects([g.label for g in groups], money, _places(bundle, groups, X),
                                   unit=unit, rows=len(report.X))  # fmt: skip
    curves = _curves(bundle, X, found)
    if curves:
        yield result_plots.partial_dependence(curves, unit=unit)
    if contract.coordinates is not None and some.any():
        longitude, latitude = (report.X[:, contract.position(c.name)] for c in contract.coordinates)
        yield result_plots.error_map(longitude[some], latitude[some], percent)


def _parts(bundle: ModelBundle, X: Floats) -> tuple[tuple[Meaning, ...], Floats]:
    """Return what features mean, and their parts in the estimates of rows (n, p) in money."""
    Z, explainer = bundle.features.transform(X), bundle.explainer
    parts, score = bundle.contributions.of_rows(Z), bundle.model.predict(Z)
    money = explainer.in_money(parts, score, bundle.dates(X))[:, :-1]
    return explainer.money_groups[:-1], money


def _places(bundle: ModelBundle, groups: Sequence[Meaning], X: Floats) -> Floats:
    """Return the ranks in [0, 1] of the one number that each group is about; else NaN."""
    places = np.full((len(X), len(groups)), np.nan)
    for at, group in enumerate(groups):
        if len(group.columns) != 1 or group.columns[0] not in bundle.contract.feature_names:
            continue
        column = bundle.contract.column(group.columns[0])
        values = X[:, bundle.contract.position(column.name)]
        known = np.isfinite(values)
        if column.kind == "category" or not known.any():
            continue
        ordered = np.sort(values[known])
        left, right = (ordered.searchsorted(values[known], side) for side in ("left", "right"))
        places[known, at] = (left + right) / (2.0 * len(ordered))
    return places


def _curves(bundle: ModelBundle, X: Floats, found: Diagnostics) -> list[result_plots.Curve]:
    """Return how estimates go with the weightiest columns; coordinates say little alone."""
    contract, curves = bundle.contract, []
    places = {column.name for column in contract.coordinates or ()}
    order = np.argsort(-np.array(found.importance), kind="stable")
    sample = X[:_LINES]
    for name in (found.columns[i] for i in order if found.importance[i] > 0):
        column, at = contract.column(name), contract.position(name)
        values = X[np.isfinite(X[:, at]), at]
        if name in places or column.kind == "datetime" or len(np.unique(values)) < 2:
            continue
        if column.kind == "category":
            codes, counts = np.unique(values.astype(int), return_counts=True)
            most = np.sort(codes[np.argsort(-counts, kind="stable")[:_MOST_LEVELS]])
            asked = most.astype(float)
            levels = tuple(str(decoded_cell(column, code)) for code in asked.tolist())
        else:
            asked = np.unique(np.quantile(values, np.linspace(0.02, 0.98, _STEPS)))
            if column.kind == "integer":
                asked = np.unique(np.round(asked))
            levels = ()
        if len(asked) < 2:
            continue
        rows = np.repeat(sample, len(asked), axis=0)
        rows[:, at] = np.tile(asked, len(sample))
        score = bundle.model.predict(bundle.features.transform(rows))
        estimates = bundle.target.inverse(score, bundle.dates(rows))
        shown = np.arange(len(asked), dtype=float) if levels else asked
        curves.append(result_plots.Curve(name, shown, estimates.reshape(len(sample), -1), levels))
        if len(curves) == _CURVES:
            break
    return curves
