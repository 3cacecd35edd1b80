"""Where the training rows of a model with coordinates lie: counts and typical values by cell."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasador.registry.bundle import ModelBundle

#: Cells with fewer rows are counted, but their value is not told: it would be that of one sale.
_FEWEST = 5


@dataclass(frozen=True)
class Density:
    """Training rows by cell of a grid; one entry a cell that holds any.

    Attributes:
        x: Column of the horizontal axis.
        y: Column of the vertical axis.
        x_step: A cell's width.
        y_step: A cell's height.
        cells: Centre x, centre y, rows, and the median target; None with fewer than five rows.
    """

    x: str
    y: str
    x_step: float
    y_step: float
    cells: tuple[tuple[float, float, int, float | None], ...]


def density(bundle: ModelBundle, across: int = 70) -> Density | None:
    """Return where a bundle's training rows lie; None without coordinates or comparables.

    Args:
        bundle: The model.
        across: Cells along the longer axis.
    """
    coordinates, features = bundle.contract.coordinates, bundle.features
    if coordinates is None or features.index is None or features.plan is None:
        return None
    near = features.plan.near
    if not {column.name for column in coordinates} <= set(near):
        return None
    places = features.index.points / features.plan.scale
    longitude, latitude = coordinates
    x, y = (places[:, near.index(column.name)] for column in coordinates)
    step = max(float(np.ptp(x)), float(np.ptp(y))) / across or 1.0
    values = bundle.target.inverse(features.index.target)
    return Density(longitude.name, latitude.name, step, step, _cells(x, y, values, step))


def _cells(
    x: NDArray[np.float64], y: NDArray[np.float64], values: NDArray[np.float64], step: float
) -> tuple[tuple[float, float, int, float | None], ...]:
    column = np.floor((x - x.min()) / step).astype(np.int64)
    row = np.floor((y - y.min()) / step).astype(np.int64)
    key = row * (column.max() + 1) + column
    order = np.argsort(key, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(key[order]) != 0])
    found = []
    for members in np.split(order, starts[1:]):
        first = members[0]
        median = float(np.median(values[members])) if len(members) >= _FEWEST else None
        found.append(
            (
                float(x.min() + (column[first] + 0.5) * step),
                float(y.min() + (row[first] + 0.5) * step),
                len(members),
                median,
            )
        )
    return tuple(found)
