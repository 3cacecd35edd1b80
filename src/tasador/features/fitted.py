"""`FittedFeatures`: from the encoded matrix to what models see.

`FittedFeatures.from_state` reads files that anybody may have written: see `state_checks`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tasador.contract.model import TableContract
from tasador.features.columns_kernel import CompactPlain, proven
from tasador.features.comparables import FAR_NEIGHBOUR, ComparablesIndex
from tasador.features.encoders import (
    CODE,
    DATE_PARTS,
    STATISTICS,
    Clusters,
    LevelStatistics,
    TargetMeans,
    date_parts,
    levels_of,
    one_hot_table,
    ratios,
)
from tasador.features.imputers import Imputer
from tasador.features.neighbours_kernel import Found
from tasador.features.plan import (
    ComparablesPlan,
    NumericFrame,
    columns_apart,
    neighbourly_order,
)
from tasador.features.state_checks import check_index, check_state
from tasador.settings.run import Direction

Floats = NDArray[np.float64]
FORMAT = 1

#: What a feature is made of; models may be shown some kinds only.
Kind = Literal[
    "number",
    "ratio",
    "missing",
    "date",
    "one_hot",
    "target_mean",
    "statistic",
    "code",
    "cluster",
    "comparable",
    "rising",
    "falling",
    "unused",
]
#: What a number is made of with which estimates may only rise, or only fall.
DIRECTED: Mapping[Direction, Kind] = {"up": "rising", "down": "falling"}


@dataclass(frozen=True, slots=True)
class NearRow:
    """A training row near another: distance, transformed target, attributes, place in the index."""

    distance: float
    target: float
    attributes: dict[str, float]
    position: int


@dataclass(frozen=True)
class FittedFeatures:
    """Everything fitted on the training rows; turns encoded rows into model features.

    Attributes:
        contract: The table's contract.
        imputer: Fills for missing numbers.
        ratio_fill: Shape (r,): fills for ratios whose denominator is zero.
        one_hot_columns: Names of the categories with 0/1 columns.
        target_means: Target means by category name.
        level_statistics: Statistics and codes by the name of each category of many levels.
        monotone: Columns with which estimates may only rise (``up``) or only fall (``down``).
        clusters: Fitted geography, or None.
        plan: How comparables are searched, or None.
        index: All training rows as comparables, or None.

    Example:
        >>> import tasador
        >>> bundle = tasador.load_bundle("cars")
        >>> isinstance(bundle.features, tasador.FittedFeatures)
        True
        >>> bundle.features.transform(bundle.golden).shape == (20, len(bundle.features.names))
        True
    """

    contract: TableContract
    imputer: Imputer
    ratio_fill: Floats
    one_hot_columns: tuple[str, ...]
    target_means: Mapping[str, TargetMeans]
    clusters: Clusters | None
    plan: ComparablesPlan | None
    index: ComparablesIndex | None
    level_statistics: Mapping[str, LevelStatistics] = field(default_factory=dict)
    monotone: Mapping[str, Direction] = field(default_factory=dict)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the features, in the order of `transform`'s columns."""
        return tuple(name for name, _ in self._described)

    @cached_property
    def kinds(self) -> tuple[Kind, ...]:
        """What each feature is made of, in the order of `names`."""
        return tuple(kind for _, kind in self._described)

    @cached_property
    def apart(self) -> frozenset[str]:
        """The monotone columns and all that follows from them."""
        return columns_apart(self.contract, self.monotone)

    def _kind(self, name: str, otherwise: Kind) -> Kind:
        """Return what a column or ratio is made of: models do not see what follows from others."""
        if name in self.monotone:
            return DIRECTED[self.monotone[name]]
        return "unused" if name in self.apart else otherwise

    @cached_property
    def _described(self) -> list[tuple[str, Kind]]:
        numbers = len(self._numeric_positions)
        found = [(name, self._kind(name, "number")) for name in self._numeric_names[:numbers]]
        found += [(name, self._kind(name, "ratio")) for name in self._numeric_names[numbers:]]
        for name in (self.contract.feature_names[i] for i in self.imputer.indicated):
            kind: Kind = "missing" if name in self.monotone else self._kind(name, "missing")
            found.append((f"{name}_missing", kind))
        for name in self._date_columns:
            found += [(f"{name}_{part}", self._kind(name, "date")) for part in DATE_PARTS]
        for name in self.one_hot_columns:
            levels = self.contract.column(name).categories
            found += [(f"{name}={level}", "one_hot") for level in levels]
        found += [(f"{name}_target_mean", "target_mean") for name in self.target_means]
        for name in self.level_statistics:
            found += [(f"{name}_{suffix}", "statistic") for suffix in STATISTICS]
            found.append((f"{name}_{CODE}", "code"))
        if self.clusters is not None:
            k = len(self.clusters.centroids)
            names = ["cluster", *(f"cluster_distance_{i}" for i in range(k))]
            found += [(name, "cluster") for name in names]
        if self.index is not None and self.plan is not None:
            found += [(name, "comparable") for name in self.index.names(self.plan.context)]
        return found

    @cached_property
    def _numeric_positions(self) -> NDArray[np.intp]:
        kinds = [column.kind for column in self.contract.features]
        return np.array([i for i, k in enumerate(kinds) if k in ("number", "integer")], np.intp)

    @cached_property
    def _numeric_names(self) -> tuple[str, ...]:
        columns = self.contract.feature_names
        ratios = tuple(r.name for r in self.contract.ratios)
        return tuple(columns[i] for i in self._numeric_positions) + ratios

    @cached_property
    def _date_columns(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.contract.features if c.kind == "datetime")

    @cached_property
    def _ratio_positions(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        position, found = self.contract.position, self.contract.ratios
        return (
            np.array([position(ratio.numerator) for ratio in found], np.intp),
            np.array([position(ratio.denominator) for ratio in found], np.intp),
        )

    @cached_property
    def _date_positions(self) -> list[int]:
        return [self.contract.position(name) for name in self._date_columns]

    @cached_property
    def _category_sizes(self) -> list[tuple[int, int]]:
        """Position and number of levels of each category that becomes a feature."""
        names = dict.fromkeys((*self.one_hot_columns, *self.target_means, *self.level_statistics))
        return [(self.contract.position(n), len(self.contract.column(n).categories)) for n in names]

    @cached_property
    def _one_hot_tables(self) -> list[tuple[int, Floats]]:
        """Position and 0/1 rows by level of each category with 0/1 columns."""
        return [
            (self.contract.position(name), one_hot_table(len(levels)))
            for name in self.one_hot_columns
            for levels in [self.contract.column(name).categories]
        ]

    @cached_property
    def _means(self) -> list[tuple[int, TargetMeans]]:
        return [(self.contract.position(name), m) for name, m in self.target_means.items()]

    @cached_property
    def _statistics(self) -> list[tuple[int, LevelStatistics]]:
        return [(self.contract.position(name), s) for name, s in self.level_statistics.items()]

    @cached_property
    def _compact(self) -> CompactPlain | None:
        """The compiled pass over the columns, once it gave the bits of `_transform`."""
        return proven(self)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the kernel's addresses to this process."""
        return {name: value for name, value in self.__dict__.items() if name != "_compact"}

    def transform(self, X: Floats, found: list[Found] | None = None) -> Floats:
        """Return the features (n, q) of encoded rows `X` (n, p).

        NaN only where the imputer leaves a gap to the model.
        n may be 1; the answer for a row does not depend on the rows beside it.

        Args:
            X: The rows.
            found: Gets the rows' neighbours, as `neighbours` returns them, where they are few and
                the kernel searches: who asks for them too need not search again.
        """
        filled = self.imputer.fill(X)
        compact = self._compact
        if compact is None:
            return self._transform(X, filled)
        return compact.transform(X, filled, found)

    def neighbours(self, X: Floats) -> Found | None:
        """Return the comparables of encoded rows `X` (n, p), None where there are none."""
        if self.plan is None or self.index is None:
            return None
        frame = self.frame(X)
        beside = self.beside_place(self.plan, X, frame)
        return self.index.search(self.index.asked(self.plan.points(frame), *beside))

    def _transform(self, X: Floats, filled: Floats) -> Floats:
        """Return the features without the kernel."""
        frame = self._numbers(filled)
        points = None if self.plan is None else self.plan.points(frame)
        levels = self._levels(X)
        blocks = self._plain_blocks(X, filled, frame, levels)
        blocks += [means.of(levels[i])[:, None] for i, means in self._means]
        blocks += [found.of(levels[i]) for i, found in self._statistics]
        blocks += self._cluster_blocks(points)
        if self.index is not None and self.plan is not None and points is not None:
            blocks.append(self.index.features(points, *self.beside_place(self.plan, X, frame)))
        return np.concatenate(blocks, axis=1)

    def frame(self, X: Floats) -> NumericFrame:
        """Return the imputed numbers and ratios of encoded rows `X` (n, p)."""
        return self._numbers(self.imputer.fill(X))

    def points(self, X: Floats) -> Floats | None:
        """Return where encoded rows `X` lie among the comparables (n, d), or None."""
        return None if self.plan is None else self.plan.points(self.frame(X))

    @cached_property
    def _far_distance(self) -> tuple[int, float] | None:
        """Column of the features with the distance to a comparable, and where far away begins."""
        name = f"comparables_distance_{FAR_NEIGHBOUR}"
        if self.index is None or name not in self.names:
            return None
        return self.names.index(name), self.index.reach

    def far(self, Z: Floats) -> NDArray[np.bool_] | None:
        """Tell which feature rows (n, q) lie farther from comparables than training rows do.

        Returns:
            Shape (n,); None when none does, or when there are no comparables.
        """
        if self._far_distance is None:
            return None
        column, reach = self._far_distance
        far: NDArray[np.bool_] = Z[:, column] > reach
        return far if far.any() else None

    @cached_property
    def time_position(self) -> int | None:
        """Column of encoded rows that tells which comparables are earlier, or None."""
        dated = self.index is not None and self.index.times is not None
        return self.contract.timestamp_position if dated else None

    def beside_place(
        self, plan: ComparablesPlan, X: Floats, frame: NumericFrame
    ) -> tuple[Floats | None, Floats | None, Floats]:
        """Return what comparables are found by beside a place: `similar`, `times`, `context`."""
        times = None if self.time_position is None else X[:, self.time_position]
        return plan.similar(frame), times, plan.context_of(frame)

    def far_notes(self, X: Floats, rows: NDArray[np.intp]) -> dict[int, str]:
        """Say how far away their comparables are, for those `rows` of `X` (n, p) that are far."""
        if self.plan is None or self.index is None:
            return {}
        frame = self.frame(X[rows])
        points, beside = self.plan.points(frame), self.beside_place(self.plan, X[rows], frame)
        near = self.index.neighbours(points, FAR_NEIGHBOUR, *beside)
        notes = self.plan.far_notes(self.index, near, points, self.contract.coordinates)
        return dict(zip(rows.tolist(), notes, strict=True))

    def neighbour_order(self, X: Floats) -> NDArray[np.intp] | None:
        """Return an order of encoded rows `X` (n, p) in which their comparables are found soonest.

        Rows of one place share their search. None where the order does not matter.
        """
        if self.index is None or self.plan is None or not len(X):
            return None
        columns = self.contract.feature_names
        near = [columns.index(name) for name in self.plan.near if name in columns]
        return neighbourly_order(X[:, near]) if near else None

    def index_from_state(
        self, spec: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
    ) -> ComparablesIndex:
        """Return comparables that the features are made without, from `ComparablesIndex.state`.

        Raises:
            KeyError, TypeError, ValueError: They are none of these features.
        """
        plan = self.plan
        if self.index is not None or plan is None:
            raise ValueError("comparables are kept beside those of the features")
        check_index(self.contract, plan, spec, arrays)
        return ComparablesIndex.from_state(spec, arrays)

    def nearest(self, X: Floats, k: int) -> list[NearRow]:
        """Return the `k` nearest rows that inform one encoded row `X` (1, p), nearest first."""
        return self.nearest_of_rows(X, k)[0]

    def nearest_of_rows(self, X: Floats, k: int) -> list[list[NearRow]]:
        """Return what `nearest` does of each encoded row of `X` (n, p)."""
        if self.index is None or self.plan is None or k < 1:
            return [[] for _ in X]
        plan, index, frame = self.plan, self.index, self.frame(X)
        beside = self.beside_place(plan, X, frame)
        found = index.neighbours(plan.points(frame), min(k, index.size), *beside)
        return [
            self._near_rows(plan, index, *row)
            for row in zip(found.index, found.distance, strict=True)
        ]

    @staticmethod
    def _near_rows(
        plan: ComparablesPlan, index: ComparablesIndex, places: NDArray[np.intp], distances: Floats
    ) -> list[NearRow]:
        # the farthest is repeated after these
        known = min(int(np.isfinite(distances).sum()), len(np.unique(places)))
        at = places[:known]
        values = dict(zip(plan.near, (index.points[at] / plan.scale).T, strict=True))
        if plan.similar_by is not None and len(index.similar):
            values[plan.similar_by] = np.exp(index.similar[at])
        values |= zip(plan.context, index.context[at].T, strict=True)
        # scaling and its inverse leave noise in the last digits
        columns = [[float(f"{v:.10g}") for v in column.tolist()] for column in values.values()]
        each = zip(
            distances[:known].tolist(), index.target[at].tolist(), zip(*columns, strict=True),
            at.tolist(), strict=True,
        )  # fmt: skip
        return [NearRow(d, y, dict(zip(values, row, strict=True)), i) for d, y, row, i in each]

    def _numbers(self, filled: Floats) -> NumericFrame:
        values = filled.take(self._numeric_positions, axis=1)
        if len(self.ratio_fill):
            top, bottom = self._ratio_positions
            quotients = ratios(filled.take(top, axis=1), filled.take(bottom, axis=1))
            quotients = np.where(np.isnan(quotients), self.ratio_fill, quotients)
            values = np.concatenate((values, quotients), axis=1)
        return NumericFrame(self._numeric_names, values)

    def _levels(self, X: Floats) -> dict[int, NDArray[np.intp]]:
        """Return each category's level indices (n,) by its position."""
        return {i: levels_of(X[:, i], n) for i, n in self._category_sizes}

    def _plain_blocks(
        self,
        X: Floats,
        filled: Floats,
        frame: NumericFrame,
        levels: Mapping[int, NDArray[np.intp]],
    ) -> list[Floats]:
        blocks = [self._with_gaps(X, frame.values)]
        if self.imputer.indicated:
            blocks.append(np.isnan(X.take(self.imputer.indicated, axis=1)).astype(np.float64))
        blocks += [date_parts(filled[:, i]) for i in self._date_positions]
        blocks += [table.take(levels[i], axis=0) for i, table in self._one_hot_tables]
        return blocks

    def _with_gaps(self, X: Floats, values: Floats) -> Floats:
        """Return the numbers with NaN in those columns whose gaps the model takes."""
        if not self.imputer.native:
            return values
        values = values.copy()
        positions = self._numeric_positions.tolist()
        for i in self.imputer.native:
            if i in positions:
                values[np.isnan(X[:, i]), positions.index(i)] = np.nan
        return values

    def _cluster_blocks(self, points: Floats | None) -> list[Floats]:
        if self.clusters is None or points is None:
            return []
        return [self.clusters.features(points)]

    def state(self) -> tuple[dict[str, Any], dict[str, Floats]]:
        """Return the fitted state as JSON values and float64 arrays."""
        imputer, arrays = self.imputer.state()
        arrays = {f"imputer.{key}": value for key, value in arrays.items()}
        arrays["ratio_fill"] = self.ratio_fill
        for name, means in self.target_means.items():
            arrays[f"target_means.{self.contract.position(name)}"] = means.means
        for name, found in self.level_statistics.items():
            arrays[f"level_statistics.{self.contract.position(name)}"] = found.values
        spec: dict[str, Any] = {
            "format": FORMAT,
            "names": list(self.names),
            "imputer": imputer,
            "one_hot": list(self.one_hot_columns),
            "target_means": list(self.target_means),
            "level_statistics": list(self.level_statistics),
            "clusters": None,
            "comparables": None,
        }
        if self.monotone:
            spec["monotone"] = dict(self.monotone)
        if self.clusters is not None:
            spec["clusters"] = len(self.clusters.centroids)
            arrays["clusters.centroids"] = self.clusters.centroids
        if self.plan is not None and self.index is not None:
            numbers, index_arrays = self.index.state()
            spec["comparables"] = {**self.plan.spec(), **numbers}
            arrays["comparables.scale"] = self.plan.scale
            arrays |= {f"comparables.{key}": value for key, value in index_arrays.items()}
        elif self.plan is not None:  # without comparables it still says where clusters lie
            spec["plan"], arrays["plan.scale"] = self.plan.spec(), self.plan.scale
        return spec, arrays

    @classmethod
    def from_state(
        cls, contract: TableContract, spec: Mapping[str, Any], arrays: Mapping[str, Floats]
    ) -> FittedFeatures:
        """Rebuild from `state`.

        Nothing is built before all of it was checked, and compared with the contract.

        Raises:
            KeyError, TypeError, ValueError: The state is of another format, or not what it should
                be.
        """
        if spec["format"] != FORMAT:
            raise ValueError(f"feature format {spec['format']}, this version reads {FORMAT}")
        check_state(contract, spec, arrays)

        def section(prefix: str) -> dict[str, Floats]:
            start = len(prefix) + 1
            return {k[start:]: v for k, v in arrays.items() if k.startswith(f"{prefix}.")}

        means, statistics = section("target_means"), section("level_statistics")
        plan, index = None, None
        if spec["comparables"] is not None:
            found, parts = spec["comparables"], section("comparables")
            plan = ComparablesPlan.from_spec(found, parts["scale"])
            index = ComparablesIndex.from_state(found, parts)
        elif "plan" in spec:
            plan = ComparablesPlan.from_spec(spec["plan"], arrays["plan.scale"])
        fitted = cls(
            contract=contract,
            imputer=Imputer.from_state(spec["imputer"], section("imputer")),
            ratio_fill=arrays["ratio_fill"],
            one_hot_columns=tuple(spec["one_hot"]),
            target_means={
                name: TargetMeans(means[str(contract.position(name))])
                for name in spec["target_means"]
            },
            clusters=(None if spec["clusters"] is None else Clusters(arrays["clusters.centroids"])),
            plan=plan,
            index=index,
            level_statistics={  # absent from bundles of before they were made
                name: LevelStatistics(statistics[str(contract.position(name))])
                for name in spec.get("level_statistics", ())
            },
            monotone=spec.get("monotone", {}),
        )
        if len(fitted.names) != len(spec["names"]):
            raise ValueError(f"{len(fitted.names)} features, expected {len(spec['names'])}")
        _ = fitted._compact  # built on loading rather than inside the first valuation
        return fitted
