"""Pictures of a model's result: errors, ratios, intervals, and what moves its estimates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasador.metrics.regression import share_interval
from tasador.reporting.cards import Figure, amount
from tasador.reporting.plots import (
    ACCENT,
    DENSITY,
    DIVERGING,
    GRID,
    INK,
    MUTED,
    SOFT,
    as_map,
    colormap,
    compact,
    drawn,
    format_axes,
    short,
)

Floats = NDArray[np.float64]
#: Percent errors beyond this share the outermost place or colour.
_CLIP = 40.0
#: So many rows without an error are added to each cell of the map: few rows prove little.
_PRIOR_ROWS = 3.0
_Z = 1.959964


@dataclass(frozen=True)
class Curve:
    """How estimates go with one column, everything else of the rows as it is.

    Attributes:
        name: The column.
        at: Shape (k,): its values; positions of `levels` for a category.
        estimates: Shape (n, k): the estimates of n rows with each of the values.
        levels: The levels of a category; empty for numbers.
    """

    name: str
    at: Floats
    estimates: Floats
    levels: tuple[str, ...] = ()


def residuals(predicted: Floats, percent_error: Floats, *, unit: str | None) -> Figure:
    """Draw errors in percent against the estimates, with their median and middle half.

    Args:
        predicted: Shape (n,).
        percent_error: Shape (n,), (estimated - actual) / actual * 100; clipped for the drawing.
        unit: The target's unit.
    """
    clipped = np.clip(percent_error, -_CLIP, _CLIP)
    parts = _tenths(predicted)
    middle = [float(np.median(predicted[part])) for part in parts]
    lines = np.array([np.quantile(percent_error[part], [0.25, 0.5, 0.75]) for part in parts])

    def draw(axes: Any) -> None:
        axes.hexbin(
            predicted, clipped, gridsize=(46, 26), bins="log", mincnt=1,
            cmap=colormap(DENSITY), linewidths=0.1, rasterized=True,
        )  # fmt: skip
        axes.axhline(0.0, color=MUTED, linewidth=0.9)
        axes.plot(middle, lines[:, 1], color=INK, marker="o", markersize=3, label="median")
        for place, name in ((0, "middle half"), (2, None)):
            axes.plot(middle, lines[:, place], color=INK, linewidth=0.9, linestyle=(0, (3, 2)),
                      label=name)  # fmt: skip
        axes.set_xlabel("estimated" + (f" ({short(unit)})" if unit else ""))
        axes.set_ylabel("error, %")
        format_axes(axes, x=True, y=True)
        axes.legend(loc="upper right", ncols=2)

    return drawn(
        "Errors against estimates",
        f"Test rows; above the line an estimate is too high. Errors beyond ±{_CLIP:g}% lie on the "
        "edge.",
        draw,
    )


def ratio_by_price(actual: Floats, predicted: Floats) -> Figure:
    """Draw the ratio of estimate to price in ten groups of rows, from cheap to dear.

    Groups are formed by half the price and half the estimate over the median ratio, as the IAAO
    does for the VEI: by price alone even fair estimates would be high for the cheap.

    Args:
        actual: Shape (n,), positive.
        predicted: Shape (n,).
    """
    ratio = predicted / actual
    overall = float(np.median(ratio))
    level = 0.5 * actual + 0.5 * predicted / overall
    parts = _tenths(level)
    found = np.array([_median_interval(ratio[part]) for part in parts])
    half = np.array([np.quantile(ratio[part], [0.25, 0.75]) for part in parts])
    place = np.arange(len(parts))

    def draw(axes: Any) -> None:
        axes.axhspan(overall * 0.95, overall * 1.05, color=GRID, alpha=0.6, linewidth=0)
        axes.axhline(overall, color=MUTED, linewidth=0.9, linestyle=(0, (3, 2)))
        axes.vlines(place, half[:, 0], half[:, 1], color=SOFT, linewidth=6)
        axes.vlines(place, found[:, 0], found[:, 2], color=INK, linewidth=1.2)
        axes.scatter(place, found[:, 1], s=18, color=ACCENT, zorder=3)
        tops = [f"≤{compact(float(level[part].max()))}" for part in parts]
        axes.set_xticks(place[::2], tops[::2])
        axes.set_xlabel("tenths of the rows by price")
        axes.set_ylabel("estimate / actual value")
        format_axes(axes)

    return drawn(
        "Are cheap and dear valued alike?",
        "Median ratio of each tenth with its 95% interval; pale: the middle half of the rows. In "
        "the grey band it is within 5% of that of all rows. Falling to the right: cheap things are "
        "valued higher than dear ones.",
        draw,
    )


def calibration_curve(promised: Sequence[float], held: Sequence[float], rows: int) -> Figure:
    """Draw what intervals hold of the test rows against what they promise.

    Args:
        promised: Shares in (0, 1).
        held: Shares of the test rows, in [0, 1].
        rows: How many test rows there are.
    """
    spread = np.array([share_interval(share, rows) for share in held]) * 100.0
    asked, found = np.asarray(promised) * 100.0, np.asarray(held) * 100.0

    def draw(axes: Any) -> None:
        low = float(min(asked.min(), spread.min())) - 4.0
        axes.plot([low, 100.0], [low, 100.0], color=MUTED, linewidth=0.9)
        axes.vlines(asked, spread[:, 0], spread[:, 1], color=INK, linewidth=1.2)
        axes.plot(asked, found, color=ACCENT, marker="o", markersize=4)
        for x, y in zip(asked, found, strict=True):
            axes.annotate(f"{y:.1f}", (x, y), (5, -9), textcoords="offset points", fontsize=7.5,
                          color=MUTED)  # fmt: skip
        axes.set_xlim(low, 100.0)
        axes.set_ylim(low, 101.0)
        axes.set_xlabel("promised, %")
        axes.set_ylabel("held, % of the test rows")
        format_axes(axes)

    return drawn(
        "Do the intervals hold what they promise?",
        "On the line they hold exactly what they promise, above it more, below it less; bars: 95% "
        "intervals of the share.",
        draw,
    )


def effects(
    labels: Sequence[str], money: Floats, values: Floats, *, unit: str | None, rows: int
) -> Figure:
    """Draw each meaning's part in estimates of some rows, a dot a row (a beeswarm).

    Args:
        labels: The meanings, at most a dozen are drawn, those of the largest mean effect.
        money: Shape (n, g): parts of the estimates, in the target's unit.
        values: Shape (n, g): places of the column's values in [0, 1]; NaN where a meaning has no
            one number.
        unit: The target's unit.
        rows: How many rows these are a sample of.
    """
    mean = np.abs(money).mean(axis=0)
    order = np.argsort(-mean, kind="stable")[:12]
    order = order[mean[order] > 0]
    reach = float(np.quantile(np.abs(money[:, order]), 0.995)) if len(order) else 1.0

    def draw(axes: Any) -> None:
        axes.axvline(0.0, color=MUTED, linewidth=0.9)
        for place, group in enumerate(order.tolist()):
            across = np.clip(money[:, group], -reach, reach)
            known = np.isfinite(values[:, group])
            up = place + _swarm(across, reach)
            axes.scatter(across[~known], up[~known], s=3.5, color=SOFT, linewidths=0,
                         rasterized=True)  # fmt: skip
            axes.scatter(across[known], up[known], s=3.5, c=values[known, group], vmin=0, vmax=1,
                         cmap=colormap(DIVERGING).resampled(9), linewidths=0,
                         rasterized=True)  # fmt: skip
            axes.text(1.02, place, amount(mean[group]), va="center", fontsize=7.5, color=MUTED,
                      transform=axes.get_yaxis_transform())  # fmt: skip
        axes.set_yticks(range(len(order)), [short(labels[i]) for i in order], color=INK)
        axes.set_ylim(len(order) - 0.4, -0.6)
        axes.set_xlim(-reach * 1.05, reach * 1.05)
        axes.set_xlabel("part in the estimate" + (f" ({short(unit)})" if unit else ""))
        axes.spines["left"].set_visible(False)
        format_axes(axes, x=True, grid="x")

    return drawn(
        "What moves the estimates",
        f"Each dot is one of {len(money):,} of {rows:,} test rows; TreeSHAP's parts by meaning, "
        "which add up to the estimate. Blue: low values of the column, orange: high ones, grey: "
        "no one number. On the right the mean size of the part.",
        draw,
        height=0.6 + 0.36 * max(len(order), 1),
    )


def partial_dependence(curves: Sequence[Curve], *, unit: str | None) -> Figure:
    """Draw how estimates go with the weightiest columns: the mean, and each row's own line.

    Args:
        curves: At most four.
        unit: The target's unit.
    """
    lines = (len(curves) + 1) // 2

    def draw(axes: Any) -> None:
        some = np.atleast_1d(axes)
        for axis, curve in zip(some, curves, strict=False):
            mean = curve.estimates.mean(axis=0)
            axis.plot(curve.at, curve.estimates.T, color=SOFT, linewidth=0.6, alpha=0.7,
                      rasterized=True)  # fmt: skip
            axis.plot(curve.at, mean, color=ACCENT, marker="o" * bool(curve.levels), markersize=4)
            axis.set_title(short(curve.name))
            if curve.levels:
                names = [short(level, 10) for level in curve.levels]
                axis.set_xticks(curve.at, names, rotation=35, ha="right")
            low, high = np.quantile(curve.estimates, [0.02, 0.97])
            low, high = min(low, mean.min()), max(high, mean.max())
            edge = 0.04 * (high - low) or 1.0
            axis.set_ylim(low - edge, high + edge)
            format_axes(axis, x=not curve.levels, y=True)
        for axis in some[len(curves) :]:
            axis.set_axis_off()

    return drawn(
        "How estimates go with the weightiest columns",
        "Partial dependence: the mean estimate"
        + (f" ({short(unit)})" if unit else "")
        + " when only this column changes; pale: single rows. What is derived from the column "
        "changes with it.",
        draw,
        height=0.2 + 1.75 * lines,
        shape=(lines, min(2, len(curves))),
    )


def error_map(longitude: Floats, latitude: Floats, percent_error: Floats) -> Figure:
    """Draw where estimates are too low or too high, smoothed by cell.

    Args:
        longitude: Shape (n,).
        latitude: Shape (n,).
        percent_error: Shape (n,), (estimated - actual) / actual * 100; clipped before the mean.
    """
    limit = 15.0

    def smoothed(errors: Any) -> float:
        return float(np.sum(errors) / (len(errors) + _PRIOR_ROWS))

    def draw(axes: Any) -> None:
        cells = axes.hexbin(
            longitude, latitude, C=np.clip(percent_error, -_CLIP, _CLIP), gridsize=34,
            reduce_C_function=smoothed, cmap=colormap(DIVERGING).resampled(9), vmin=-limit,
            vmax=limit, linewidths=0.1, rasterized=True,
        )  # fmt: skip
        as_map(axes, latitude)
        bar = axes.figure.colorbar(cells, ax=axes, shrink=0.6, pad=0.02, extend="both")
        bar.set_label("mean error, % (orange: too high)")
        bar.outline.set_visible(False)

    return drawn(
        "Errors on the map",
        "Test rows; the mean error of each cell, drawn towards zero where rows are few. Patches of "
        "one colour are places where the model is biased.",
        draw,
        height=3.9,
    )


def _tenths(values: Floats) -> list[NDArray[np.intp]]:
    order = np.argsort(values, kind="stable")
    return [part for part in np.array_split(order, min(10, len(order))) if len(part)]


def _median_interval(values: Floats) -> tuple[float, float, float]:
    """Return the median between its ends, the order statistics that hold it in 95% of samples."""
    ordered, n = np.sort(values), len(values)
    half = _Z * np.sqrt(n) / 2.0
    low, high = max(0, int(n / 2 - half)), min(n - 1, int(np.ceil(n / 2 + half)))
    return float(ordered[low]), float(np.median(ordered)), float(ordered[high])


def _swarm(values: Floats, reach: float) -> Floats:
    """Return how far from their line dots (n,) lie: side by side where many have one value."""
    bins = np.round(np.asarray(values) / max(reach, 1e-12) * 60.0).astype(int)
    offset = np.zeros(len(values))
    for one in np.unique(bins):
        members = np.flatnonzero(bins == one)
        side = np.arange(1, len(members) + 1) // 2 * np.where(np.arange(len(members)) % 2, 1, -1)
        offset[members] = side
    return offset * min(0.06, 0.36 / max(1.0, float(np.abs(offset).max(initial=0))))
