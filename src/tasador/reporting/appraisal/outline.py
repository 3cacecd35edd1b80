"""Coasts, large lakes, borders of countries and of US states: what lies under maps, offline.

The lines come from a file of the package, ``outline.npz``, which ``scripts/build_outline.py`` made
from data of Natural Earth and of the US Census Bureau, both in the public domain
(``outline_licence.txt``). They are right to about 2 km, in the far north and south to 7: enough for
a region, too coarse for a street.
"""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

KM_PER_DEGREE = 6371.0088 * math.pi / 180.0
#: Smaller maps have no outline, for its errors would be seen; larger ones would get too many lines.
LEAST_KM, MOST_KM = 80.0, 6000.0
_FILE = Path(__file__).with_name("outline.npz")


def outline(west: float, south: float, east: float, north: float) -> list[Floats]:
    """Return the lines inside a box, cut at its edges.

    Args:
        west: In degrees, as the other three; a box across the 180th meridian is not joined.
        south: Below `north`.
        east: Above `west`.
        north: Up to 90.

    Returns:
        Longitudes and latitudes, of shape (k, 2) each; none where the box has no line, a side below
        `LEAST_KM` or one above `MOST_KM`.
    """
    east_km = KM_PER_DEGREE * math.cos(math.radians((south + north) / 2))
    sides = sorted(((east - west) * east_km, (north - south) * KM_PER_DEGREE))
    if not LEAST_KM <= sides[0] <= sides[1] <= MOST_KM:
        return []
    grid, starts, ways, least, most = _segments()
    low, high = np.array([west, south]) / grid, np.array([east, north]) / grid
    near = np.flatnonzero(
        (least[0] <= high[0]) & (most[0] >= low[0]) & (least[1] <= high[1]) & (most[1] >= low[1])
    )
    a, way = starts[near], ways[near]
    first, last = _inside(a, way, low, high)
    at = np.flatnonzero(first < last)
    entries, exits = (a[at] + part[at, None] * way[at] for part in (first, last))
    begins = np.flatnonzero((entries[1:] != exits[:-1]).any(1)) + 1
    lines = zip(np.split(entries, begins), np.split(exits, begins), strict=True)
    return [np.concatenate([one[:1], rest]) * grid for one, rest in lines if len(one)]


def _inside(a: Floats, way: Floats, low: Floats, high: Floats) -> tuple[Floats, Floats]:
    """Return from where to where segments lie in a box, as parts of them (n,).

    The first is not below the second for segments outside (Liang and Barsky 1984).
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        one, other = (low - a) / way, (high - a) / way
    still = way == 0.0  # along an edge or a point: in the box for ever, or never
    never = still & ((a < low) | (a > high))
    enters = np.where(still, -np.inf, np.minimum(one, other))
    leaves = np.where(never, -np.inf, np.where(still, np.inf, np.maximum(one, other)))
    return np.clip(enters.max(1), 0.0, None), np.clip(leaves.min(1), None, 1.0)


@cache
def _segments() -> tuple[float, Floats, Floats, Floats, Floats]:
    """Return the segments; those of a line follow each other.

    Returns:
        Degrees of a unit; in whole units the segments' starts and ways (n, 2), and the lower and
        upper ends of both coordinates (2, n).
    """
    with np.load(_FILE) as file:
        grid, starts, counts = float(file["grid"]), file["starts"], file["lengths"].astype(int) - 1
        steps = file["steps"].T.astype(np.int64)
    walked = np.concatenate([np.zeros((1, 2), np.int64), np.cumsum(steps, axis=0)])
    # a line is walked from its start: the sum of all steps less those of the lines before it
    begins = np.concatenate([[0], np.cumsum(counts)[:-1]])
    offset = np.repeat(starts - walked[begins], counts, axis=0)
    first, last = (walked[:-1] + offset).astype(float), (walked[1:] + offset).astype(float)
    ends = np.minimum(first, last).T.copy(), np.maximum(first, last).T.copy()
    return grid, first, last - first, *ends
