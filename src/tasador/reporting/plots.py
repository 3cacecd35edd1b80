"""How every picture looks: one quiet style, readable on a phone, on paper, in light and in dark.

Pictures are SVG with real text. Ink, grid and accents are a handful of named colours, and a style
sheet inside the SVG exchanges them when the reader's screen is dark; clouds of points are drawn
into an embedded bitmap, so that a picture stays far below 120 kB.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasador.reporting.cards import Figure

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
            return f"{value / scale:.3g}{suffix}"
    return f"{value:.4g}"


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
