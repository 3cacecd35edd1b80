"""How every picture looks: one quiet style, readable on a phone, on paper, in light and in dark.

Pictures are SVG with real text. Ink, grid and accents are a handful of named colours, and a style
sheet inside the SVG exchanges them when the reader's screen is dark; clouds of points are drawn
into an embedded bitmap, so that a picture stays far below 120 kB.

Here are also the pictures of the table and of what was learned about its columns; they take plain
arrays and labels.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasador.contract.model import Column, TableContract
from tasador.modeling.trend import Trend
from tasador.reporting.cards import MINUS, Figure

Floats = NDArray[np.float64]

#: Colour on light paper -> the same on a dark screen.
DARK = {
    "#1f2933": "#e6e9ed",  # ink
    "#5f6b7a": "#9fabb8",  # muted ink
    "#dfe3e8": "#333d48",  # grid
    "#2b6cb0": "#6fb0f2",  # accent
    "#c05621": "#f19a61",  # second accent
    "#b7c4d3": "#4a5868",  # background bars
    "#b42318": "#ff8a7a",  # trouble
}
INK, MUTED, GRID, ACCENT, SECOND, SOFT, TROUBLE = DARK
#: Seen on light and on dark ground alike: few to many, and below to above zero.
DENSITY = ("#8fb3d9", "#2b6cb0", "#7a4fa3", "#e07b39")
DIVERGING = ("#2166ac", "#67a3d1", "#b4b8bd", "#e39a5f", "#c0441a")

_MOST_BYTES = 85_000  # 113 kB once written as base64
_DPI = (150, 110, 80, 60)  # of the bitmaps; the first that stays small enough is taken
_NOT_XML = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_NO_DATE = {"Date": None}
WIDTH = 4.6  # inches; text keeps its size on a phone and is enlarged a little on a desktop
_RC = {
    "svg.fonttype": "none",
    "svg.hashsalt": "tasador",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.sans-serif": ["Helvetica Neue", "Arial", "Liberation Sans", "DejaVu Sans"],
    "font.size": 8.5,
    "axes.titlesize": 8.5,
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "legend.labelcolor": INK,
    "patch.linewidth": 0,
    "lines.linewidth": 1.6,
}


def drawn(
    title: str,
    caption: str,
    draw: Callable[[Any], None],
    *,
    height: float = 2.9,
    shape: tuple[int, int] = (1, 1),
) -> Figure:
    """Draw a picture and return it as a self-contained SVG.

    Args:
        title: Heading; shown by the report, not inside the picture.
        caption: What to see in it, in one or two sentences.
        draw: Called with the axes, or with the flat array of axes when `shape` has several.
        height: In inches, for a width of `WIDTH`.
        shape: Rows and columns of axes.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure as Canvas

    with mpl.rc_context(_RC), warnings.catch_warnings():
        # texts are set by the browser, which has the glyphs that matplotlib's font lacks
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        # how wide texts are depends on the machine's fonts; a picture without margins is still one
        warnings.filterwarnings("ignore", message="constrained_layout not applied")
        canvas = Canvas(figsize=(WIDTH, height), layout="constrained")
        FigureCanvasSVG(canvas)
        axes = canvas.subplots(*shape, squeeze=False).ravel()
        draw(axes[0] if shape == (1, 1) else axes)
        for dpi in _DPI:
            buffer = io.StringIO()
            canvas.savefig(buffer, format="svg", transparent=True, dpi=dpi, metadata=_NO_DATE)
            content = _adapted(buffer.getvalue()).encode()
            if len(content) <= _MOST_BYTES:
                break
    return Figure.from_bytes(title, content, "svg", caption)


def _adapted(svg: str) -> str:
    """Drop what points outside, and let the colours follow the reader's screen."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, count=1, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = _NOT_XML.sub(" ", svg)
    rules = "".join(
        f'[style*="fill: {light}"]{{fill:{dark}!important}}'
        f'[style*="stroke: {light}"]{{stroke:{dark}!important}}'
        for light, dark in DARK.items()
    )
    sheet = f"<style>@media screen and (prefers-color-scheme:dark){{{rules}}}</style>"
    end = svg.index(">") + 1
    return svg[:end] + sheet + svg[end:]


def colormap(colours: Sequence[str]) -> Any:
    """Return a matplotlib colour map through `colours`."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("tasador", list(colours))


def compact(value: float, _position: object = None) -> str:
    """Return a short number for an axis: ``250k``, ``1.5M``."""
    for limit, suffix in ((1e9, "B"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            scale = 1e3 if suffix == "k" else limit
            return f"{value / scale:.3g}{suffix}".replace("-", MINUS)
    return f"{value:.4g}".replace("-", MINUS)


def short(text: str, length: int = 26) -> str:
    """Return `text` on one line, without control characters, cut with an ellipsis."""
    line = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    return line if len(line) <= length else line[: length - 1] + "…"


def format_axes(axes: Any, *, x: bool = False, y: bool = False, grid: str = "y") -> None:
    """Use compact numbers on the given axes and keep the grid lines of one direction only."""
    from matplotlib.ticker import FuncFormatter

    for wanted, axis in ((x, axes.xaxis), (y, axes.yaxis)):
        if wanted:
            axis.set_major_formatter(FuncFormatter(compact))
    axes.grid(visible=False, axis="x" if grid == "y" else "y")


def bars(
    axes: Any,
    labels: Sequence[str],
    values: Floats,
    *,
    colours: Sequence[str] | str = ACCENT,
    texts: Sequence[str] | None = None,
    spread: Floats | None = None,
    label_length: int = 26,
) -> None:
    """Draw horizontal bars, the first on top, each with its value written beside it."""
    place = np.arange(len(values))
    axes.barh(place, values, height=0.62, color=colours)
    ends = np.asarray(values, dtype=float)
    if spread is not None:
        axes.hlines(place, spread[:, 0], spread[:, 1], color=INK, linewidth=1.2)
        ends = np.maximum(ends, spread[:, 1])
    axes.set_yticks(place, [short(label, label_length) for label in labels], color=INK)
    axes.set_ylim(len(values) - 0.45, -0.55)
    top = float(np.nanmax(ends)) if len(ends) and np.nanmax(ends) > 0 else 1.0
    low = min(0.0, float(np.nanmin(values))) if len(values) else 0.0
    axes.set_xlim(low * 1.1, top * 1.22)
    for position, end, text in zip(
        place, ends, texts or [compact(float(v)) for v in values], strict=True
    ):
        axes.text(
            max(end, 0.0) + top * 0.02, position, text, va="center", color=MUTED, fontsize=7.5
        )
    axes.spines["left"].set_visible(False)
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(labelbottom=False)
    axes.grid(visible=False)


_MOST_COLUMNS = 12
_MOST_BARS = 15


def column_histograms(contract: TableContract, X: Floats) -> Figure:
    """Draw a histogram of each column; the first dozen of a wide table.

    Args:
        contract: Names, kinds and units of the columns.
        X: Shape (n, p), encoded: categories as codes, missing as NaN.
    """
    shown = contract.features[:_MOST_COLUMNS]
    rows = max(1, (len(shown) + 1) // 2)

    def draw(axes: Any) -> None:
        for axis, column, values in zip(axes, shown, X.T, strict=False):
            _column_histogram(axis, column, values[np.isfinite(values)])
        for axis in axes[len(shown) :]:
            axis.set_axis_off()

    more = len(contract.features) - len(shown)
    caption = "Rows by value; the outermost 0.5% on each side are left out of the drawing."
    if more:
        caption += f" {more} more columns are not drawn."
    return drawn("Columns", caption, draw, height=1.15 * rows + 0.1, shape=(rows, 2))


def _column_histogram(axes: Any, column: Column, values: Floats) -> None:
    axes.set_title(short(column.name, 30))
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    format_axes(axes, x=True)
    if not len(values):
        axes.text(0.5, 0.5, "no values", ha="center", transform=axes.transAxes, color=MUTED)
    elif column.kind == "category":
        codes, counts = np.unique(values.astype(int), return_counts=True)
        most = np.argsort(-counts, kind="stable")[:6]
        names = [_category(column, int(codes[i])) for i in most]
        axes.barh(np.arange(len(most)), counts[most], color=ACCENT, height=0.7)
        for place, name in enumerate(names):
            axes.annotate(
                name,
                (float(counts[most[place]]), place),
                xytext=(3, 0),
                textcoords="offset points",
                va="center",
                color=MUTED,
                fontsize=7,
            )
        axes.set_xlim(right=float(counts.max()) * 1.55)
        axes.invert_yaxis()
        axes.grid(visible=False)
        format_axes(axes, x=True, grid="x")
    else:
        low, high = np.quantile(values, [0.005, 0.995])
        counts, edges = np.histogram(values, bins=30, range=(float(low), float(high)))
        axes.stairs(counts, edges, fill=True, color=ACCENT)


def _category(column: Column, code: int) -> str:
    return short(column.categories[code], 16) if 0 <= code < len(column.categories) else "?"


def target_histogram(y: Floats, *, name: str, unit: str | None, cap: float | None = None) -> Figure:
    """Draw the target's histogram, with the value at which it was cut off, if it was."""
    capped = float(np.mean(y >= cap)) if cap is not None else 0.0

    def draw(axes: Any) -> None:
        counts, edges = np.histogram(y, bins=50)
        axes.stairs(counts, edges, fill=True, color=ACCENT)
        format_axes(axes, x=True, y=True)
        axes.set_xlabel(short(f"{name} ({unit})" if unit else name, 50))
        axes.set_ylabel("rows")
        if cap is not None:
            axes.axvline(cap, color=TROUBLE, linestyle=(0, (3, 2)), linewidth=1.2)
            axes.annotate(
                f"cut off at {compact(cap)}",
                (cap, 0.97),
                xycoords=("data", "axes fraction"),
                xytext=(-4, 0),
                textcoords="offset points",
                ha="right",
                va="top",
                color=TROUBLE,
            )

    caption = f"Median {compact(float(np.median(y)))}."
    if cap is not None:
        caption += f" {capped:.1%} of the rows stand at the cap: their true value is not known."
    return drawn("Target", caption, draw)


def refused_bars(reasons: Mapping[str, int]) -> Figure:
    """Draw how many rows were refused for which reason."""
    most = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))[:_MOST_BARS]
    values = np.array([count for _, count in most], dtype=float)

    def draw(axes: Any) -> None:
        bars(axes, [reason for reason, _ in most], values, colours=TROUBLE)

    return drawn(
        "Rows refused, by reason",
        "A row counts under its first violation of the contract.",
        draw,
        height=_bars_height(len(most)),
    )


def missing_bars(contract: TableContract, X: Floats) -> Figure:
    """Draw the share of missing values of each column that has any; at least one has to."""
    shares = np.isnan(X).mean(axis=0) * 100.0 if len(X) else np.zeros(X.shape[1])
    order = [i for i in np.argsort(-shares, kind="stable") if shares[i] > 0][:_MOST_BARS]
    labels = [contract.feature_names[i] for i in order]

    def draw(axes: Any) -> None:
        texts = [f"{shares[i]:.2g}%" for i in order]
        bars(axes, labels, shares[order], texts=texts)

    return drawn(
        "Missing values",
        f"{len(order)} of {X.shape[1]} columns have missing values.",
        draw,
        height=_bars_height(len(order)),
    )


def imputer_bars(
    column: str,
    labels: Sequence[str],
    errors: Sequence[Floats],
    *,
    chosen: int | None,
    limit: float | None,
) -> Figure:
    """Draw how well each imputer restored masked values of a column.

    Args:
        column: The column's name.
        labels: The imputers.
        errors: The RMSE of each fold, for each imputer.
        chosen: Position of the one taken; None when gaps are left to the model.
        limit: RMSE up to which an imputer is within one standard error of the best.
    """
    means = np.array([float(np.mean(found)) for found in errors])
    spread = np.array([[float(np.min(found)), float(np.max(found))] for found in errors])
    colours = [ACCENT if position == chosen else SOFT for position in range(len(labels))]

    def draw(axes: Any) -> None:
        bars(axes, labels, means, colours=colours, spread=spread)
        if limit is not None:
            axes.axvline(limit, color=SECOND, linewidth=1.0, linestyle=(0, (3, 2)))

    return drawn(
        f"Imputers of {short(column)}",
        "RMSE on masked known values, mean over the folds; the line runs from the best fold to the "
        "worst. The cheapest imputer, from the top, that ends left of the broken line is within "
        "one standard error of the best.",
        draw,
        height=_bars_height(len(labels)),
    )


def split_bars(train: int, test: int) -> Figure:
    """Draw the sizes of the two parts, for a table without coordinates."""

    def draw(axes: Any) -> None:
        bars(axes, ["train", "test (held out)"], np.array([train, test], float), colours=_PARTS)

    share = test / max(1, train + test)
    return drawn("Split", f"{share:.1%} of the rows are held out for the test.", draw, height=0.65)


def correlation_bars(names: Sequence[str], values: Floats) -> Figure:
    """Draw the features that go up or down with the target most, by absolute rank correlation."""
    strength = np.asarray(values, float)
    order = np.argsort(-strength, kind="stable")[:_MOST_BARS]

    def draw(axes: Any) -> None:
        texts = [f"{strength[i]:.2f}" for i in order]
        bars(axes, [names[i] for i in order], strength[order], texts=texts)

    return drawn(
        "Features most related to the target",
        f"Absolute rank correlation on train; the first {len(order)} of {len(names)} features.",
        draw,
        height=_bars_height(len(order)),
    )


def trend_line(trend: Trend, *, log: bool, unit: str | None) -> Figure:
    """Show the level of prices by month with its 95% interval, and the sales below.

    Args:
        trend: The level by month.
        log: Whether levels are logarithms: then an index is shown that is 100 in the newest month.
        unit: Unit of the target.
    """
    months = 1970.0 + (trend.first + np.arange(len(trend.level)) + 0.5) / 12.0
    half = 1.96 * trend.error
    lines = (trend.level - half, trend.level, trend.level + half)
    low, level, high = (100.0 * np.exp(line) if log else line for line in lines)

    def draw(axes: Any) -> None:
        upper, lower = axes
        upper.fill_between(months, low, high, color=SOFT, alpha=0.6, linewidth=0)
        upper.plot(months, level, color=ACCENT)
        upper.set_ylabel("newest month = 100" if log else f"level, {unit or 'relative'}")
        format_axes(upper, y=not log)
        lower.bar(months, trend.sales, width=0.8 / 12.0, color=SOFT)
        lower.set_ylabel("sales a month")
        format_axes(lower, y=True)
        lower.sharex(upper)

    caption = "Level of prices of like things, relative to the newest month; band: 95% interval."
    return drawn("Trend of prices", caption, draw, height=3.6, shape=(2, 1))


def as_map(axes: Any, latitude: Floats) -> None:
    """Give axes of longitude and latitude the proportions of a map."""
    axes.set_aspect(1.0 / max(0.2, float(np.cos(np.radians(np.mean(latitude))))))
    axes.set_xlabel("longitude")
    axes.set_ylabel("latitude")
    axes.grid(visible=False)
    axes.tick_params(labelcolor=MUTED)
    axes.title.set_color(INK)


def _bars_height(count: int) -> float:
    return 0.14 + 0.25 * count


_PARTS = (SOFT, SECOND)
