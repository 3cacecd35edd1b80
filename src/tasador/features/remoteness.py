"""Rows far from every comparable: which they are, and what to tell whoever sent them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tasador.features.comparables import FAR_NEIGHBOUR, REACH_QUANTILE

if TYPE_CHECKING:
    from tasador.features.fitted import FittedFeatures

Floats = NDArray[np.float64]

#: Mean radius of the earth, and what a degree of latitude comes to.
_EARTH_KM = 6371.0088
_DEGREE_KM = _EARTH_KM * np.pi / 180.0


def far_notes(features: FittedFeatures, X: Floats, rows: NDArray[np.intp]) -> dict[int, str]:
    """Say how far away their comparables are, for those `rows` of `X` (n, p) that are far.

    In kilometres where comparables are found by coordinates; else in multiples of the distance that
    is usual among the training rows.
    """
    plan, index = features.plan, features.index
    points = features.points(X[rows])
    if plan is None or index is None or points is None:
        return {}
    near = index.neighbours(points, FAR_NEIGHBOUR)
    usual, share = index.reach, f"{REACH_QUANTILE:.1%}"
    coordinates = features.contract.coordinates
    if coordinates is None or plan.near != tuple(column.name for column in coordinates):
        by = ", ".join(plan.near)
        return {
            row: f"no known row is like this one: its comparables (by {by}) are "
            f"{times:.3g} times as far away as those of {share} of the training rows at most"
            for row, times in zip(rows.tolist(), near.distance[:, -1] / usual, strict=True)
        }
    here = points / plan.scale
    km = np.column_stack([_kilometres(here, index.points[at] / plan.scale) for at in near.index.T])
    km.sort(axis=1)  # the index measures in degrees, in which the order may be another one
    return {
        row: f"nearest comparable is {first:,.0f} km away, the {FAR_NEIGHBOUR}th {fourth:,.0f} km"
        f" ({share} of the training rows have {FAR_NEIGHBOUR} within {usual * _DEGREE_KM:,.0f} km)"
        for row, (first, *_, fourth) in zip(rows.tolist(), km.tolist(), strict=True)
    }


def _kilometres(here: Floats, there: Floats) -> Floats:
    """Return the great-circle distances (n,) between (longitude, latitude) in degrees (n, 2)."""
    (lon, lat), (lon2, lat2) = np.deg2rad(here).T, np.deg2rad(there).T
    a = np.sin((lat2 - lat) / 2) ** 2 + np.cos(lat) * np.cos(lat2) * np.sin((lon2 - lon) / 2) ** 2
    result: Floats = 2 * _EARTH_KM * np.arcsin(np.sqrt(np.clip(a, 0.0, 1.0)))
    return result
