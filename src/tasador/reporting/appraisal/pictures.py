"""Pictures of an appraisal report: lines, boxes, dots and texts, drawn as SVG or into a PDF."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from tasador.reporting.appraisal.outline import KM_PER_DEGREE, LEAST_KM, outline

INK, MUTED, LINE, ACCENT, LOWER = "#1f2933", "#5f6b7a", "#c9d0d8", "#2b6cb0", "#b7791f"
Floats = NDArray[np.float64]
Place = TypeVar("Place", float, Floats)
_ALERT, _PAPER, _COAST = "#b42318", "#f6f7f9", "#98a4b3"
_WIDTH_OF_A_LETTER = 0.52
#: Width of the small map beside one of streets, and what it shows.
_SMALL, _SMALL_KM = 98.0, 600.0


@dataclass(frozen=True, slots=True)
class Line:
    """A straight line."""

    x1: float
    y1: float
    x2: float
    y2: float
    colour: str = LINE
    width: float = 1.0


@dataclass(frozen=True, slots=True)
class Polyline:
    """A line through several points."""

    points: tuple[tuple[float, float], ...]
    colour: str = LINE
    width: float = 1.0


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle, filled or with an outline."""

    x: float
    y: float
    width: float
    height: float
    fill: str | None = None
    outline: str | None = None


@dataclass(frozen=True, slots=True)
class Dot:
    """A filled circle."""

    x: float
    y: float
    radius: float
    fill: str = ACCENT


@dataclass(frozen=True, slots=True)
class Text:
    """A line of text; `x` is its start, middle or end, `y` its baseline."""

    x: float
    y: float
    content: str
    size: float = 11.0
    colour: str = INK
    anchor: Literal["start", "middle", "end"] = "start"
    bold: bool = False


Mark = Line | Polyline | Box | Dot | Text


@dataclass(frozen=True, slots=True)
class Picture:
    """Marks in the order in which they are drawn, on `width` times `height` units.

    Attributes:
        width: Of the picture; a unit is a pixel of HTML.
        height: Of the picture.
        marks: What is drawn.
        title: What is shown, for those who cannot see it.
    """

    width: float
    height: float
    marks: tuple[Mark, ...]
    title: str

    @property
    def outlined(self) -> bool:
        """Whether coasts and borders are on it."""
        return any(isinstance(mark, Polyline) for mark in self.marks)

    def svg(self) -> str:
        """Return the picture as an ``<svg>`` element; texts are escaped."""
        marks = "".join(map(_svg, self.marks))
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width:g} {self.height:g}" '
            f'role="img" aria-label="{html.escape(self.title)}">{marks}</svg>'
        )


def _svg(mark: Mark) -> str:
    match mark:
        case Line():
            return (
                f'<line x1="{mark.x1:.1f}" y1="{mark.y1:.1f}" x2="{mark.x2:.1f}" '
                f'y2="{mark.y2:.1f}" stroke="{mark.colour}" stroke-width="{mark.width:g}"/>'
            )
        case Polyline():
            points = " ".join(f"{x:.1f},{y:.1f}" for x, y in mark.points)
            return (
                f'<polyline points="{points}" fill="none" stroke="{mark.colour}" '
                f'stroke-width="{mark.width:g}" stroke-linejoin="round"/>'
            )
        case Box():
            return (
                f'<rect x="{mark.x:.1f}" y="{mark.y:.1f}" width="{mark.width:.1f}" '
                f'height="{mark.height:.1f}" fill="{mark.fill or "none"}" '
                f'stroke="{mark.outline or "none"}"/>'
            )
        case Dot():
            return (
                f'<circle cx="{mark.x:.1f}" cy="{mark.y:.1f}" r="{mark.radius:g}" '
                f'fill="{mark.fill}"/>'
            )
        case Text():
            weight = ' font-weight="600"' if mark.bold else ""
            return (
                f'<text x="{mark.x:.1f}" y="{mark.y:.1f}" font-size="{mark.size:g}" '
                f'fill="{mark.colour}" text-anchor="{mark.anchor}"{weight}>'
                f"{html.escape(mark.content)}</text>"
            )


def cut(content: str, width: float, size: float) -> str:
    """Return a text that takes about `width` at most, its end cut off where it is longer."""
    most = max(int(width / (_WIDTH_OF_A_LETTER * size)), 2)
    return content if len(content) <= most else content[: most - 1].rstrip() + "…"


def range_picture(
    ends: tuple[float, float], estimate: float, texts: tuple[str, str, str], title: str
) -> Picture:
    """Draw an interval with its estimate.

    Args:
        ends: Lower and upper end, in the target's unit.
        estimate: In the same unit; it may lie outside the interval.
        texts: Lower end, estimate and upper end as they are shown.
        title: What the picture shows.
    """
    width, left, right = 330.0, 10.0, 320.0
    low, high = min(*ends, estimate), max(*ends, estimate)
    scale = (right - left) / (high - low) if high > low else 0.0

    def place(value: float) -> float:
        return left + (value - low) * scale if scale else (left + right) / 2

    at = place(estimate)
    marks = (
        Line(place(ends[0]), 22, place(ends[1]), 22, LINE, 6),
        Line(place(ends[0]), 16, place(ends[0]), 28, MUTED, 1.5),
        Line(place(ends[1]), 16, place(ends[1]), 28, MUTED, 1.5),
        Dot(at, 22, 6),
        Text(min(max(at, 60), width - 60), 11, texts[1], 11, INK, "middle", bold=True),
        Text(left - 8, 42, texts[0], 10.5, MUTED),
        Text(right + 8, 42, texts[2], 10.5, MUTED, "end"),
    )
    return Picture(width, 46, marks, title)


def parts_picture(
    parts: Sequence[tuple[str, float, str]], ends: tuple[tuple[str, str], tuple[str, str]],
    base: float, title: str,
) -> Picture:  # fmt: skip
    """Draw how an estimate comes about, from where it begins, part by part.

    Args:
        parts: Name, amount, and the amount as it is shown.
        ends: Name and amount, as shown, of the beginning and of the end.
        base: The value at the beginning, in the unit of the amounts.
        title: What the picture shows.
    """
    width, left, right, step = 700.0, 190.0, 590.0, 17.0
    reached = [base]
    for _, value, _ in parts:
        reached.append(reached[-1] + value)
    low, high = min(reached), max(reached)
    spread = (high - low) or max(abs(high), 1.0)
    low -= 0.06 * spread
    scale = (right - left) / (high + 0.02 * spread - low)

    def place(value: float) -> float:
        return left + (value - low) * scale

    marks: list[Mark] = []

    def row(at: int, name: str, start: float, end: float, shown: str, colour: str) -> None:
        y, bold = at * step, colour == INK
        marks.append(Text(left - 10, y + 12, cut(name, left - 10, 11), 11, INK, "end", bold))
        x, span = min(place(start), place(end)), abs(place(end) - place(start))
        marks.append(Box(x, y + 4, max(span, 1.0), step - 7, colour))
        marks.append(Text(width, y + 12, shown, 11, INK, "end", bold))
        if at <= len(parts):
            x = place(end)
            marks.append(Line(x, y + 4, x, y + step + step - 2, LINE, 0.75))

    row(0, ends[0][0], low, base, ends[0][1], MUTED)
    for at, (name, value, shown) in enumerate(parts, 1):
        colour = ACCENT if value >= 0 else LOWER
        row(at, name, reached[at - 1], reached[at], shown, colour)
    row(len(parts) + 1, ends[1][0], low, reached[-1], ends[1][1], INK)
    return Picture(width, (len(parts) + 2) * step + 2, tuple(marks), title)


@dataclass(frozen=True, slots=True)
class _Map:
    """A part of a picture that shows places, north up.

    Places in degrees are drawn as they lie around `here` (equirectangular projection at its
    latitude), others as they are.

    Attributes:
        here: Longitude and latitude of the origin.
        degrees: Whether places are in degrees, and distances in kilometres.
        middle: What is in the middle, in units east and north of the origin.
        scale: Pixels a unit.
        left: Where the part begins.
        size: Its width and height.
        foot: What of its height is kept free below places.
    """

    here: tuple[float, float]
    degrees: bool
    middle: tuple[float, float]
    scale: float
    left: float
    size: tuple[float, float]
    foot: float = 0.0

    def place(self, lon: Place, lat: Place) -> tuple[Place, Place]:
        """Return where a place, or many, lie in the picture."""
        x, y = units_from(self.here, (lon, lat), self.degrees)
        return (
            self.left + self.size[0] / 2 + (x - self.middle[0]) * self.scale,
            (self.size[1] - self.foot) / 2 - (y - self.middle[1]) * self.scale,
        )

    @property
    def narrow_km(self) -> float:
        """The shorter side in kilometres, infinite for places that are not in degrees."""
        return min(self.size) / self.scale if self.degrees else math.inf

    def outline(self) -> list[Polyline]:
        """Return coasts and borders; none at the scale of streets, or where there are none."""
        if not self.degrees:
            return []
        east_km = KM_PER_DEGREE * math.cos(math.radians(self.here[1]))
        lon, lat = self.here[0] + self.middle[0] / east_km, self.here[1]
        lat += (self.middle[1] - self.foot / 2 / self.scale) / KM_PER_DEGREE
        wide, tall = (side / 2 / self.scale for side in self.size)
        wide, tall = wide / east_km, tall / KM_PER_DEGREE
        lines = outline(lon - wide, lat - tall, lon + wide, lat + tall)
        drawn = [_rounded(np.column_stack(self.place(*line.T))) for line in lines]
        return [Polyline(points, _COAST, 0.8) for points in drawn if len(points) > 1]

    def bar(self, most: float, below: float = 0.0) -> list[Mark]:
        """Return a scale of at most `most` pixels, in the lower left corner or so far `below`."""
        length, left, low = nice_length(most / self.scale), self.left + 12, self.size[1] + below
        end = left + length * self.scale
        unit = "" if not self.degrees else " km" if length >= 1 else " m"
        shown = length * 1000 if unit == " m" else length
        return [
            Line(left, low - 14, end, low - 14, INK, 1.5),
            Line(left, low - 18, left, low - 10, INK, 1.5),
            Line(end, low - 18, end, low - 10, INK, 1.5),
            Text(end + 6, low - 10, f"{shown:g}{unit}", 10.5, INK),
        ]

    def frame(self) -> Box:
        """Return the ground."""
        width, height = self.size
        return Box(self.left + 0.5, 0.5, width - 1, height - 1, _PAPER, LINE)


def units_from(
    here: tuple[float, float], there: tuple[Place, Place], degrees: bool
) -> tuple[Place, Place]:
    """Return how far a place, or many, lie east and north: in kilometres, or as they are."""
    x, y = there[0] - here[0], there[1] - here[1]
    if not degrees:
        return x, y
    return x * KM_PER_DEGREE * math.cos(math.radians(here[1])), y * KM_PER_DEGREE


def _rounded(points: Floats) -> tuple[tuple[float, float], ...]:
    """Return points (n, 2) to half a pixel, without repetition: what is finer is not seen."""
    whole = np.round(2 * points) / 2
    moved = np.append(True, (np.diff(whole, axis=0) != 0).any(1))
    return tuple((x, y) for x, y in whole[moved].tolist())


def _main_map(
    here: tuple[float, float], points: Sequence[tuple[float, float]], degrees: bool, width: float
) -> _Map:
    """Return the map that has room for the origin and all `points`, in units from it."""
    height, margin, foot = 200.0, 24.0, 16.0
    xs, ys = [0.0, *(x for x, _ in points)], [0.0, *(y for _, y in points)]
    least = 0.05 if degrees else 1.0
    scale = min(
        (width - 2 * margin) / max(max(xs) - min(xs), least),
        (height - 2 * margin - foot) / max(max(ys) - min(ys), least),
    )
    middle = ((max(xs) + min(xs)) / 2, (max(ys) + min(ys)) / 2)
    return _Map(here, degrees, middle, scale, 0.0, (width, height), foot)


def map_picture(
    here: tuple[float, float], there: Sequence[tuple[int, float, float]], title: str, north: str
) -> Picture:
    """Draw where a property and its comparables lie, north up, with a scale.

    Places in degrees get a scale in kilometres, and coasts and borders where the map is large
    enough; a map of streets has a small one of the region beside it.

    Args:
        here: Longitude and latitude of the property.
        there: Number, longitude and latitude of each comparable.
        title: What the picture shows.
        north: The letter for north.
    """
    width = 330.0
    degrees = all(abs(x) <= 180 and abs(y) <= 90 for x, y in (here, *((x, y) for _, x, y in there)))
    points = [units_from(here, (x, y), degrees) for _, x, y in there]
    main = _main_map(here, points, degrees, width)
    small = _Map(
        here, degrees, (0.0, 0.0), _SMALL / _SMALL_KM, width - _SMALL, (_SMALL, 1.2 * _SMALL)
    )
    region = small.outline() if main.narrow_km < LEAST_KM else []
    marks: list[Mark] = []
    if region:
        main = _main_map(here, points, degrees, small.left - 8)
        marks += [small.frame(), *region, Dot(*small.place(*here), 3, _ALERT), *small.bar(34, 22)]
    wide = main.size[0]
    marks += [
        main.frame(),
        *main.outline(),
        Text(wide - 14, 18, north, 11, MUTED, "middle", bold=True),
        Line(wide - 14, 22, wide - 14, 36, MUTED, 1.5),
    ]
    own = main.place(*here)
    taken, numbered = [own, (wide - 14, 26.0)], list[Mark]()
    for number, *place in there:
        true = main.place(*place)
        shown = next(at for at in _around(*true) if _is_free(at, taken, main.size))
        taken.append(shown)
        if shown != true:
            marks += [Line(*true, *shown, MUTED, 0.75), Dot(*true, 2, ACCENT)]
        numbered += [
            Dot(*shown, 8, ACCENT),
            Text(shown[0], shown[1] + 3.6, str(number), 10, "#ffffff", "middle", bold=True),
        ]
    marks += [
        *numbered,
        Line(own[0] - 6, own[1] - 6, own[0] + 6, own[1] + 6, _ALERT, 3),
        Line(own[0] - 6, own[1] + 6, own[0] + 6, own[1] - 6, _ALERT, 3),
        *main.bar(90),
    ]
    return Picture(width, main.size[1], tuple(marks), title)


def nice_length(most: float) -> float:
    """Return the largest 1, 2 or 5 times a power of ten that is not above `most` > 0."""
    power = 10.0 ** math.floor(math.log10(most))
    found = next(step for step in (5.0, 2.0, 1.0) if step * power <= most * (1 + 1e-9))
    return found * power


def _around(x: float, y: float) -> Iterator[tuple[float, float]]:
    yield x, y
    for radius in range(14, 400, 6):
        for turn in range(12):
            angle = turn * math.pi / 6
            yield x + radius * math.cos(angle), y - radius * math.sin(angle)
    yield x, y + 8  # nowhere is free, which a handful of marks cannot bring about


def _is_free(
    at: tuple[float, float], taken: Sequence[tuple[float, float]], size: tuple[float, float]
) -> bool:
    inside = 9 <= at[0] <= size[0] - 9 and 9 <= at[1] <= size[1] - 26
    return inside and all(math.dist(at, other) >= 16 for other in taken)
