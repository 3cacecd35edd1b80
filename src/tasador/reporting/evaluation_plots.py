"""Pictures of how models did: candidates, trials, and errors by value, place and segment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasador.metrics.regression import median_ape, wmape
from tasador.reporting.cards import Figure
from tasador.reporting.plots import (
    ACCENT,
    DENSITY,
    INK,
    MUTED,
    SECOND,
    SOFT,
    TROUBLE,
    bars,
    colormap,
    compact,
    drawn,
    format_axes,
    short,
)

Floats = NDArray[np.float64]


def leaderboard_bars(
    labels: Sequence[str], folds: Sequence[Floats], *, metric: str, chosen: int
) -> Figure:
    """Draw candidates by their mean over the folds, with the spread between folds.

    Args:
        labels: Names of the candidates, best first.
        folds: The fold scores of each.
        metric: The metric's label.
        chosen: Position of the winner.
    """
    place = np.arange(len(labels))
    means = np.array([float(np.mean(scores)) for scores in folds])
    spread = np.array([[float(np.min(scores)), float(np.max(scores))] for scores in folds])
    colours = [ACCENT if position == chosen else MUTED for position in range(len(labels))]

    def draw(axes: Any) -> None:
        axes.hlines(place, spread[:, 0], spread[:, 1], color=SOFT, linewidth=2.5)
        axes.scatter(means, place, s=22, color=colours, zorder=3)
        for x, y in zip(means, place, strict=True):
            axes.annotate(compact(float(x)), (x, y), (0, 5), textcoords="offset points",
                          ha="center", fontsize=7, color=MUTED)  # fmt: skip
        axes.set_yticks(place, [_two_lines(label) for label in labels], color=INK, fontsize=7)
        axes.set_ylim(len(labels) - 0.4, -0.7)
        format_axes(axes, x=True, grid="x")

    return drawn(
        f"Candidates by {short(metric)}",
        "The dot is the mean over the folds, the line runs from the best fold to the worst; the "
        "axis does not begin at zero.",
        draw,
        height=0.45 + 0.34 * len(labels),
    )


def _two_lines(label: str) -> str:
    """Return a candidate's family, and below it the parameters that set it apart."""
    family, _, params = label.partition(" (")
    return short(family, 40) + (f"\n{short(params.removesuffix(')'), 48)}" if params else "")


def sweep_history(values: Floats, *, metric: str, higher_is_better: bool = False) -> Figure:
    """Draw each trial's value and the best so far; NaN is a trial that was pruned."""
    values = np.asarray(values, dtype=float)
    numbers = np.arange(1, len(values) + 1)
    best = (np.fmax if higher_is_better else np.fmin).accumulate(values)
    pruned = np.isnan(values)

    def draw(axes: Any) -> None:
        axes.scatter(numbers, values, s=12, color=SOFT, label="trial", linewidths=0)
        axes.step(numbers, best, where="post", color=ACCENT, label="best so far")
        if not pruned.all():
            low, high = np.nanquantile(values, [0.0, 0.9])
            margin = max(high - low, 1e-12)
            axes.set_ylim(low - 0.1 * margin, high + 0.25 * margin)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlabel("trial")
        axes.set_ylabel(short(metric))
        format_axes(axes, y=True)
        axes.legend(loc="upper right")

    caption = f"{len(values)} trials"
    caption += f", {int(pruned.sum())} of them stopped early." if pruned.any() else "."
    return drawn("Sweep", caption, draw)


def parameter_importance(importance: Mapping[str, float]) -> Figure:
    """Draw how much of the differences between trials each parameter explains."""
    names, shares = list(importance), np.array(list(importance.values()))

    def draw(axes: Any) -> None:
        bars(axes, names, shares, texts=[f"{share:.0%}" for share in shares])

    return drawn(
        "What mattered in the sweep",
        "Share of each parameter in the differences between whole trials (fANOVA).",
        draw,
        height=0.14 + 0.27 * len(names),
    )


def parallel_coordinates(
    params: Mapping[str, Sequence[Any]], values: Floats, *, metric: str
) -> Figure:
    """Draw each trial as a line through its parameters' values, the best ones in colour.

    Args:
        params: The trials' values of each parameter; numbers on their own scale, others by rank.
        values: What each trial reached, less is better.
        metric: The metric's label.
    """
    places = {name: _axis_places(found) for name, found in params.items()}
    best = np.argsort(values, kind="stable")
    ahead = set(best[: max(1, len(values) // 5)].tolist())

    def draw(axes: Any) -> None:
        columns = np.arange(len(places))
        heights = np.array([place for place, _, _ in places.values()])
        for trial in best[::-1].tolist():
            first = trial == best[0]
            axes.plot(
                columns,
                heights[:, trial],
                color=SECOND if first else ACCENT if trial in ahead else SOFT,
                linewidth=1.8 if first else 0.8,
                alpha=1.0 if trial in ahead else 0.5,
                zorder=3 if first else 2 if trial in ahead else 1,
            )
        for column, (_, low, high) in enumerate(places.values()):
            axes.annotate(low, (column, -0.03), ha="center", va="top", fontsize=6, color=MUTED)
            axes.annotate(high, (column, 1.03), ha="center", va="bottom", fontsize=6, color=MUTED)
        axes.set_xticks(columns, [short(name, 16) for name in places])
        axes.tick_params(axis="x", pad=12)
        axes.set_yticks([])
        axes.set_ylim(-0.12, 1.12)
        axes.set_xlim(-0.35, len(places) - 0.65)
        axes.grid(visible=True, axis="x")

    return drawn(
        "Trials",
        f"Each line is a trial, lowest and highest value at the ends of each axis. Blue: the best "
        f"fifth by {short(metric)}; orange: the best.",
        draw,
        height=2.6,
    )


def _axis_places(found: Sequence[Any]) -> tuple[Floats, str, str]:
    """Return places in [0, 1] and the texts of the ends; logarithmic over two decades or more.

    On a logarithmic axis zero lies where the smallest other value does.
    """
    numbers = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in found)
    if not numbers:
        levels = sorted({str(value) for value in found})
        ranks = np.array([levels.index(str(value)) for value in found], float)
        return ranks / max(len(levels) - 1, 1), short(levels[0], 12), short(levels[-1], 12)
    values = np.array(found, dtype=float)
    low, high = float(values.min()), float(values.max())
    positive = values[values > 0]
    logarithmic = low >= 0 and len(positive) > 0 and high / float(positive.min()) > 100
    scale = np.log(np.maximum(values, positive.min())) if logarithmic else values
    spread = float(np.ptp(scale)) or 1.0
    return (scale - scale.min()) / spread, f"{low:.3g}", f"{high:.3g}"


def cluster_evidence(
    counts: Sequence[int],
    means: Sequence[float],
    reach: Sequence[float],
    geometry: Mapping[str, Sequence[float]],
    *,
    metric: str,
    chosen: int,
) -> Figure:
    """Draw the model's error and the geometric measures over the number of clusters.

    Args:
        counts: The numbers of clusters; 0 for none.
        means: The model's mean error with each of them.
        reach: Standard error of each one's difference from the best.
        geometry: Three measures by title, NaN where there are no clusters.
        metric: The error's label.
        chosen: The number that was taken.
    """

    def draw(axes: Any) -> None:
        first, *others = axes.ravel()
        first.errorbar(counts, means, yerr=reach, color=SOFT, ecolor=SOFT, elinewidth=0.8)
        first.scatter(counts, means, s=12, color=ACCENT, zorder=3)
        first.set_title(short(metric))
        for axis, (title, values) in zip(others, geometry.items(), strict=True):
            axis.plot(counts, values, marker="o", markersize=3, color=SOFT)
            axis.set_title(short(title))
        for axis in axes.ravel():
            axis.axvline(chosen, color=SECOND, linewidth=1.0, linestyle=(0, (3, 2)))
            axis.xaxis.get_major_locator().set_params(integer=True)
            format_axes(axis, y=True)

    caption = (
        f"The dashed line is what was taken: {chosen or 'no'} clusters. The bars are one standard "
        "error of the difference from the best."
    )
    return drawn("Number of clusters", caption, draw, height=4.2, shape=(2, 2))


def learning_curve(
    sizes: Sequence[int], held: Sequence[float], fitted: Sequence[float], *, metric: str
) -> Figure:
    """Draw a metric over the number of training rows, on held-out and on fitted rows."""

    def draw(axes: Any) -> None:
        axes.plot(sizes, held, marker="o", markersize=3, color=ACCENT, label="held-out rows")
        axes.plot(sizes, fitted, marker="o", markersize=3, color=SOFT, label="fitted rows")
        axes.set_ylim(0.0, max([*held, *fitted, 1e-12]) * 1.15)
        axes.set_xlabel("training rows")
        axes.set_ylabel(short(metric))
        format_axes(axes, x=True, y=True)
        axes.legend(loc="lower right")

    return drawn(
        "Would more rows help?",
        "On held-out training rows. Where the upper line still falls on the right, they would. The "
        "gap between the lines is what the model knows by heart.",
        draw,
    )


def hit_rate_curve(
    shares: Sequence[float], median_ape: Sequence[float], within_10: Sequence[float]
) -> Figure:
    """Draw the errors, in percent, that are left where only the surest shares of rows are valued.

    Args:
        shares: Hit rates in (0, 1], the largest first.
        median_ape: Median absolute percentage error at each.
        within_10: Percentage of errors up to 10% at each.
    """

    def draw(axes: Any) -> None:
        percent = 100.0 * np.asarray(shares)
        for values, colour, name in (
            (within_10, SOFT, "within 10%"),
            (median_ape, ACCENT, "median APE"),
        ):
            axes.plot(percent, values, marker="o", markersize=3, color=colour, label=name)
            for at in (0, len(percent) - 1):
                axes.annotate(
                    f"{values[at]:.1f}", (percent[at], values[at]), (0, 5), ha="center",
                    textcoords="offset points", fontsize=7.5, color=MUTED,
                )  # fmt: skip
        axes.set_ylim(0.0, max([*within_10, *median_ape, 1e-12]) * 1.25)
        axes.set_xlim(percent[0] + 3.0, percent[-1] - 3.0)
        axes.set_xlabel("rows that get a value, the surest, %")
        axes.set_ylabel("%")
        format_axes(axes, x=True, y=True)
        axes.legend(loc="center right")

    return drawn(
        "Fewer values, smaller errors",
        "On the test rows, where those with the largest forecast standard deviation get no value. "
        "The limits (serve.max_fsd) stand in the table of errors by hit rate.",
        draw,
    )


def importance_bars(names: Sequence[str], values: Floats, *, metric: str) -> Figure:
    """Draw by how much a metric grows when a column is shuffled, the most important first."""
    grown = np.asarray(values, dtype=float)
    order = np.argsort(-grown, kind="stable")[:15]

    def draw(axes: Any) -> None:
        texts = [f"{grown[i]:+.2f}" for i in order]
        bars(axes, [names[i] for i in order], np.maximum(grown[order], 0.0), texts=texts)

    return drawn(
        "What the model relies on",
        f"Growth of {short(metric)} on held-out training rows when a column is shuffled, with all "
        f"that is derived from it; the first {len(order)} of {len(names)} columns.",
        draw,
        height=0.14 + 0.27 * len(order),
    )


def predicted_actual(
    actual: Floats, predicted: Floats, *, unit: str | None, cap: float | None = None
) -> Figure:
    """Draw estimates against actual values as a density, with the line of perfect estimates."""
    from matplotlib.ticker import FuncFormatter

    unit = short(unit) if unit else None
    low = float(min(actual.min(), predicted.min()))
    high = float(max(actual.max(), predicted.max()))

    def draw(axes: Any) -> None:
        cells = axes.hexbin(
            actual,
            predicted,
            gridsize=46,
            bins="log",
            mincnt=1,
            cmap=colormap(DENSITY),
            linewidths=0.1,
            extent=(low, high, low, high),
            rasterized=True,
        )
        axes.plot([low, high], [low, high], color=MUTED, linewidth=0.9)
        if cap is not None:
            axes.axvline(cap, color=TROUBLE, linewidth=0.8, linestyle=(0, (3, 2)))
        axes.set_aspect("equal")
        axes.set_xlabel("actual" + (f" ({unit})" if unit else ""))
        axes.set_ylabel("estimated")
        format_axes(axes, x=True, y=True)
        axes.grid(visible=True)
        bar = axes.figure.colorbar(
            cells, ax=axes, shrink=0.6, pad=0.02, label="rows", format=FuncFormatter(compact)
        )
        bar.ax.minorticks_off()
        bar.outline.set_visible(False)

    return drawn(
        "Estimated against actual",
        "Test rows; on the line an estimate is perfect, above it too high.",
        draw,
        height=3.4,
    )


def segment_bars(
    labels: Sequence[str], values: Floats, counts: Sequence[int], *, metric: str
) -> Figure:
    """Draw a metric for each segment, with the number of rows behind it."""
    texts = [
        f"{compact(float(value))}  (n={count:,})".replace(",", " ")
        for value, count in zip(values, counts, strict=True)
    ]
    colours = [ACCENT if count >= 30 else SOFT for count in counts]

    def draw(axes: Any) -> None:
        bars(axes, labels, np.asarray(values, float), colours=colours, texts=texts)
        axes.set_xlim(right=axes.get_xlim()[1] * 1.15)

    return drawn(
        f"{metric} by segment",
        "Test rows; pale bars rest on fewer than 30 rows and prove little.",
        draw,
        height=0.14 + 0.27 * len(labels),
    )


def decile_errors(actual: Floats, predicted: Floats) -> Figure:
    """Draw the relative error in ten groups of rows by actual value, the cheapest first."""
    order = np.argsort(actual, kind="stable")
    parts = [part for part in np.array_split(order, min(10, len(order))) if len(part)]
    lines = {
        "wMAPE": [wmape(actual[part], predicted[part]) for part in parts],
        "median APE": [median_ape(actual[part], predicted[part]) for part in parts],
    }

    def draw(axes: Any) -> None:
        place = np.arange(len(parts))
        for (name, values), colour in zip(lines.items(), (ACCENT, SECOND), strict=True):
            axes.plot(place, values, marker="o", markersize=3, color=colour, label=name)
        tops = [f"≤{compact(float(actual[part[-1]]))}" for part in parts]
        axes.set_xticks(place[::2], tops[::2])
        axes.set_ylim(bottom=0)
        axes.set_xlabel("tenths of the rows by actual value")
        axes.set_ylabel("%")
        format_axes(axes)
        axes.legend(loc="upper right")

    return drawn(
        "Errors by tenth of the prices",
        "A line that falls to the right means that cheap things are harder in relative terms.",
        draw,
        height=2.6,
    )


def origin_errors(
    names: Sequence[str],
    own: Sequence[float],
    ratios: Sequence[float],
    coverage: Sequence[float],
    plain: Sequence[float],
    random: float | None,
    promised: float,
) -> Figure:
    """Draw the errors of a backtest by span, and the level of its estimates.

    Args:
        names: The spans.
        own: Median absolute percentage error of each.
        ratios: Median ratio of estimate to price of each.
        coverage: Share of prices inside the interval of each; NaN where it is unknown.
        plain: Median absolute percentage error of the plain LightGBM; NaN where it was not
            measured.
        random: The median absolute percentage error by random folds, or None.
        promised: Share of prices that intervals are meant to hold.
    """
    at = np.arange(len(names))

    def draw(axes: Any) -> None:
        upper, middle, lower = axes
        upper.plot(at, plain, color=MUTED, marker="o", markersize=3, label="plain LightGBM")
        upper.plot(at, own, color=ACCENT, marker="o", markersize=4, label="this model")
        if random is not None:
            upper.axhline(random, color=SECOND, linewidth=1, linestyle="--", label="random folds")
        upper.set_ylabel("median error, %")
        upper.set_ylim(bottom=0)
        upper.legend(frameon=False, fontsize=7)
        for part, values, meant, name in (
            (middle, ratios, 1.0, "median ratio"),
            (lower, 100.0 * np.asarray(coverage), 100.0 * promised, "in interval, %"),
        ):
            part.axhline(meant, color=MUTED, linewidth=1)
            part.plot(at, values, color=ACCENT, marker="o", markersize=4)
            part.set_ylabel(name)
        upper.set_xticks([])
        middle.set_xticks([])
        step = max(1, len(names) // 12)
        lower.set_xticks(at[::step], [names[i] for i in at[::step]], rotation=45, ha="right")

    return drawn(
        "Errors on sales that were still to come",
        "Each span valued by what was known before it; below, estimate over price, and the share "
        f"of prices inside the interval, of which {promised:.0%} is promised.",
        draw,
        height=5.6,
        shape=(3, 1),
    )
