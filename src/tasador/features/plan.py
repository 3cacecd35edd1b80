"""What the features are: settings, and the plan that they and the contract come to on a table."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasador.contract.model import Column, TableContract
from tasador.features.comparables import FAR_NEIGHBOUR, REACH_QUANTILE, ComparablesIndex, Neighbours
from tasador.features.neighbours_kernel import Found
from tasador.settings.run import FeatureSettings

Floats = NDArray[np.float64]

FARTHEST = 1e100
#: Mean radius of the earth, and what a degree of latitude comes to.
_EARTH_KM = 6371.0088
_DEGREE_KM = _EARTH_KM * np.pi / 180.0
#: Kilometres up to which the earth is flat for the distance to a comparable.
_FLAT_KM = 50.0


@dataclass(frozen=True)
class NumericFrame:
    """Imputed numbers and ratios of some rows, found by name.

    Attributes:
        names: Column names.
        values: Shape (n, len(names)), no NaN.
    """

    names: tuple[str, ...]
    values: Floats

    def positions(self, names: tuple[str, ...]) -> list[int]:
        """Return the columns' positions."""
        return [self.names.index(name) for name in names]

    def column(self, name: str) -> Floats:
        """Return the column (n,) called `name`, contiguous."""
        return np.ascontiguousarray(self.values[:, self.names.index(name)])


@dataclass(frozen=True)
class ComparablesPlan:
    """Which columns find and describe comparables, and how the space is scaled.

    Attributes:
        near: Columns that span the space.
        scale: Shape (d,): factor of each.
        similar_by: The attribute of resemblance, or None.
        similar_floor: Smallest value its logarithm is taken of.
        context: Columns whose neighbourhood means become features.
    """

    near: tuple[str, ...]
    scale: Floats
    similar_by: str | None
    similar_floor: float
    context: tuple[str, ...]

    def spec(self) -> dict[str, Any]:
        """Return all but the scale as JSON values."""
        return {
            "near": list(self.near),
            "similar_by": self.similar_by,
            "similar_floor": self.similar_floor,
            "context": list(self.context),
        }

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any], scale: Floats) -> ComparablesPlan:
        """Rebuild from `spec` and the scale (d,).

        Raises:
            KeyError: The spec is incomplete.
        """
        return cls(
            near=tuple(spec["near"]),
            scale=scale,
            similar_by=spec["similar_by"],
            similar_floor=float(spec["similar_floor"]),
            context=tuple(spec["context"]),
        )

    def points(self, frame: NumericFrame) -> Floats:
        """Return the rows' places (n, d) in the scaled space."""
        places = frame.values[:, frame.positions(self.near)]
        # Beyond this the squares of a distance overflow and a tree finds no neighbours at all.
        np.minimum(np.maximum(places, -FARTHEST, out=places), FARTHEST, out=places)
        places *= self.scale
        return np.ascontiguousarray(places)

    def similar(self, frame: NumericFrame) -> Floats | None:
        """Return the log (n,) of the attribute of resemblance, or None."""
        if self.similar_by is None:
            return None
        return np.log(np.maximum(frame.column(self.similar_by), self.similar_floor))

    def context_of(self, frame: NumericFrame) -> Floats:
        """Return the context columns (n, c)."""
        return frame.values[:, frame.positions(self.context)]

    def far_notes(
        self,
        index: ComparablesIndex,
        near: Neighbours,
        points: Floats,
        coordinates: tuple[Column, Column] | None,
    ) -> list[str]:
        """Say of rows far from every comparable how far it is to the nearest.

        In kilometres where comparables are found by coordinates only; else in multiples of the
        distance, or of distance and age, that is usual among the training rows.

        Args:
            index: The comparables.
            near: The `FAR_NEIGHBOUR` nearest ones of each row.
            points: Where the rows lie (n, d), in the scaled space.
            coordinates: The contract's.
        """
        usual, share = index.reach, f"{REACH_QUANTILE:.1%}"
        dated = index.times is not None
        named = () if coordinates is None else tuple(column.name for column in coordinates)
        if self.near != named or dated:
            by = ", ".join((*self.near, "age") if dated else self.near)
            return [
                f"no known row is like this one: its comparables (by {by}) are "
                f"{times:.3g} times as far away as those of {share} of the training rows at most"
                if np.isfinite(times)
                else "no comparable informs this row: none was sold before its date"
                if dated
                else "no comparable informs this row but the row itself"
                for times in near.distance[:, -1] / usual
            ]
        here = points / self.scale
        km = np.column_stack(
            [kilometres(here, index.points[at] / self.scale) for at in near.index.T]
        )
        km[np.isinf(near.distance[:, 0])] = np.inf
        km.sort(axis=1)  # the index measures in degrees, in which the order may be another one
        return [
            f"nearest comparable is {first:,.0f} km away, the {FAR_NEIGHBOUR}th {fourth:,.0f} km "
            f"({share} of the training rows have {FAR_NEIGHBOUR} within "
            f"{usual * _DEGREE_KM:,.0f} km)"
            for first, *_, fourth in km.tolist()
        ]

    def support(
        self,
        index: ComparablesIndex,
        found: Found,
        coordinates: tuple[Column, Column] | None,
    ) -> tuple[NDArray[np.intp], Floats, str | None]:
        """Return what rows' estimates rest on.

        Args:
            index: The comparables.
            found: The rows' neighbours among them.
            coordinates: The contract's.

        Returns:
            How many comparables lie within reach, at most 64; how far the nearest one is, NaN where
            none informs the row; the unit: ``km`` for coordinates, None for the scaled space.
        """
        count, nearest = index.within_reach(found)
        there = index.points[nearest]
        points = found.places[:, : there.shape[1]]  # without dates
        if coordinates is not None and self.near == tuple(column.name for column in coordinates):
            unit: str | None = "km"
            distance = _DEGREE_KM * np.sqrt(np.square(points - there).sum(axis=1))
            away = distance > _FLAT_KM
            if away.any():
                here, there = points[away] / self.scale, there[away] / self.scale
                distance[away] = kilometres(here, there)
        else:
            unit, distance = None, np.sqrt(np.square(points - there).sum(axis=1))
        return count, np.where(nearest < 0, np.nan, distance), unit


def kilometres(here: Floats, there: Floats) -> Floats:
    """Return the great-circle distances (n,) between (longitude, latitude) in degrees (n, 2)."""
    (lon, lat), (lon2, lat2) = np.deg2rad(here).T, np.deg2rad(there).T
    a = np.sin((lat2 - lat) / 2) ** 2 + np.cos(lat) * np.cos(lat2) * np.sin((lon2 - lon) / 2) ** 2
    result: Floats = 2 * _EARTH_KM * np.arcsin(np.sqrt(np.clip(a, 0.0, 1.0)))
    return result


def neighbourly_order(places: Floats) -> NDArray[np.intp]:
    """Return an order of rows in which those of one place, then those near it, follow one another.

    It goes up and down in strips of the first column, by the second one.

    Args:
        places: Shape (n, d), d >= 1; NaN counts as the least.
    """
    n, d = places.shape
    with np.errstate(all="ignore"):
        unit = places[:, : min(d, 2)] - np.fmin.reduce(places[:, : min(d, 2)], axis=0)
        unit = np.nan_to_num(unit / np.max(np.nan_to_num(unit), axis=0), nan=0.0, posinf=1.0)
    x, y = unit[:, 0], unit[:, -1]
    strip = np.floor(x * max(1.0, math.sqrt(n)))
    turned = np.where(strip % 2 == 1, 1.0 - y, y)
    # the last term keeps rows apart that share a strip and the second column only
    return np.argsort(strip + 0.99 * turned + 1e-3 * x)


def columns_apart(contract: TableContract, monotone: Collection[str]) -> frozenset[str]:
    """Return the monotone columns and all that follows from them, ratios included.

    Whatever else is made from one of these could fall while it rises.
    """
    apart = set(monotone)
    while True:
        found = {
            column.name
            for column in contract.columns
            if column.derive is not None and not apart.isdisjoint(column.derive.columns)
        }
        found |= {
            ratio.name
            for ratio in contract.ratios
            if not apart.isdisjoint((ratio.numerator, ratio.denominator))
        }
        if found <= apart:
            return frozenset(apart)
        apart |= found


def plan_comparables(
    contract: TableContract,
    frame: NumericFrame,
    target: Floats,
    settings: FeatureSettings,
    apart: frozenset[str] = frozenset(),
) -> ComparablesPlan | None:
    """Decide from the training rows how comparables are searched; None when nothing can span.

    Args:
        contract: Says it where it says anything; the rest is found by rank correlation.
        frame: The training rows' numbers.
        target: Shape (n,): transformed target.
        settings: Bounds the number of columns.
        apart: Columns by which none are found, nor told apart, and which none describe.
    """
    declared, coordinates = contract.comparables, contract.coordinates
    strength = dict(
        zip(frame.names, np.abs(rank_correlations(frame.values, target)).tolist(), strict=True)
    )
    ranked = sorted(strength.keys() - set(apart), key=lambda name: (-strength[name], name))
    declared_near = tuple(name for name in declared.near if name not in apart)
    if declared_near:
        near = declared_near
        scale = _standard_scale(frame, near, strength)
    elif coordinates is not None and apart.isdisjoint(c.name for c in coordinates):
        near = (coordinates[0].name, coordinates[1].name)
        latitude = float(np.median(frame.column(near[1])))
        scale = np.array([np.cos(np.deg2rad(latitude)), 1.0])
    else:
        candidates = [name for name in ranked if np.ptp(frame.column(name)) > 0]
        near = tuple(candidates[: settings.max_near])
        scale = _standard_scale(frame, near, strength)
    if not near:
        return None
    others = [name for name in ranked if coordinates is None or name not in near]
    similar_by = None if declared.similar_by in apart else declared.similar_by
    similar_by = similar_by or next(
        (name for name in others if (frame.column(name) > 0).mean() > 0.95), None
    )
    floor = 1.0
    if similar_by is not None:
        values = frame.column(similar_by)
        positive = values[values > 0]
        if len(positive):
            floor = float(positive.min())
        else:
            similar_by = None
    context = tuple(name for name in declared.context if name not in apart) or tuple(others[:4])
    return ComparablesPlan(near, scale, similar_by, floor, context)


def rank_correlations(X: Floats, target: Floats) -> Floats:
    """Return Spearman's rank correlation of each column of `X` (n, p) with `target` (n,), (p,).

    Ties are broken by order; 0 for a constant column, and for all when the target is constant.
    """
    result = np.zeros(X.shape[1])
    if np.ptp(target) == 0:
        return result
    ranks = _ranks(target)
    for i, values in enumerate(X.T):
        if np.ptp(values) != 0:
            result[i] = np.corrcoef(_ranks(values), ranks)[0, 1]
    return result


def _ranks(values: Floats) -> Floats:
    ranks = np.empty(len(values))
    ranks[np.argsort(values, kind="stable")] = np.arange(len(values))
    return ranks


def _standard_scale(
    frame: NumericFrame, near: tuple[str, ...], strength: dict[str, float]
) -> Floats:
    """Return 1/standard deviation, weighted by how much each column says about the target."""
    scale = []
    for name in near:
        spread = float(np.std(frame.column(name)))
        scale.append(max(strength[name], 0.05) / spread if spread > 0 else 0.0)
    return np.array(scale)
