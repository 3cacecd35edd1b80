"""`FeaturePipeline`: fits the features on training rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from tasador.contract.model import TableContract
from tasador.core import seeds
from tasador.core.parallel import in_parallel
from tasador.features.comparables import PROOF_ROWS, ComparablesIndex
from tasador.features.encoders import Clusters, LevelStatistics, TargetMeans, levels_of, ratios
from tasador.features.fitted import FittedFeatures, NearRow
from tasador.features.imputation import Strategy, fit_imputer
from tasador.features.plan import (
    ComparablesPlan,
    NumericFrame,
    columns_apart,
    plan_comparables,
)
from tasador.settings.run import Direction, FeatureSettings

__all__ = ["FeaturePipeline", "FeatureSettings", "FittedFeatures", "NearRow"]

Floats = NDArray[np.float64]

# Indexes of other folds hold nearly the same rows as the first, which was proved on more of them.
_FEW_PROOF_ROWS = 8


@dataclass(frozen=True)
class FeaturePipeline:
    """Fits features on training rows.

    Attributes:
        contract: The table's contract.
        settings: The choices.
        seed: Seed of the cross-fitting folds, of KMeans and of imputers.
        imputation: Strategy by column name; columns not named get their median.
        monotone: Columns with which estimates may only rise (``up``) or only fall (``down``).

    Example:
        >>> import numpy as np, tasador
        >>> from pathlib import Path
        >>> contract = tasador.read_contract(Path("cars.yaml"))
        >>> X = np.array([[1000.0, 0], [1500, 1], [1200, 0], [2000, 1]])  # mass, code of the fuel
        >>> fitted = tasador.FeaturePipeline(contract).fit(X, np.array([10.0, 20, 12, 25]))
        >>> fitted.names[:3]
        ('mass', 'fuel=petrol', 'fuel=diesel')
    """

    contract: TableContract
    settings: FeatureSettings = FeatureSettings()  # noqa: RUF009 - frozen
    seed: int = 42
    imputation: Mapping[str, Strategy] = field(default_factory=dict)
    monotone: Mapping[str, Direction] = field(default_factory=dict)

    def fit(self, X: Floats, target: Floats) -> FittedFeatures:
        """Fit on encoded training rows `X` (n, p) and their transformed target (n,)."""
        apart = columns_apart(self.contract, self.monotone)
        imputer = fit_imputer(self.contract, X, self.imputation, self.seed, apart)
        filled = imputer.fill(X)
        categories = [c for c in self.contract.features if c.kind == "category"]
        position = self.contract.position
        small = [c for c in categories if len(c.categories) <= self.settings.max_one_hot]
        bare = FittedFeatures(
            contract=self.contract,
            imputer=imputer,
            ratio_fill=self._ratio_fill(filled),
            one_hot_columns=tuple(c.name for c in small),
            target_means={
                c.name: self._means(X[:, position(c.name)], target, len(c.categories))
                for c in small
                if len(c.categories) > 2
            },
            level_statistics={
                c.name: self._statistics(X[:, position(c.name)], target, len(c.categories))
                for c in categories
                if c not in small
            },
            clusters=None,
            plan=None,
            index=None,
            monotone=self.monotone,
        )
        return self._with_comparables(bare, bare.frame(X), target, self._times(X))

    def fit_transform(self, X: Floats, target: Floats) -> tuple[FittedFeatures, Floats]:
        """Fit, and return the training features (n, q) cross-fitted.

        The columns made from targets (comparables, target means) come from the other folds, so
        that a row's own target never reaches its features.
        """
        fitted = self.fit(X, target)
        folds = self._folds(len(X))
        filled = fitted.imputer.fill(X)
        frame = fitted._numbers(filled)
        blocks = fitted._plain_blocks(X, filled, frame, fitted._levels(X))
        blocks += [
            self._cross_fitted(self._means, X[:, i], target, len(means.means) - 2, folds)
            for i, means in fitted._means
        ]
        blocks += [
            self._cross_fitted(self._statistics, X[:, i], target, len(found.values) - 2, folds)
            for i, found in fitted._statistics
        ]
        blocks += fitted._cluster_blocks(fitted.points(X))
        if fitted.index is not None and fitted.plan is not None:
            plan, index = fitted.plan, fitted.index
            points, similar, context = (
                plan.points(frame),
                plan.similar(frame),
                plan.context_of(frame),
            )
            if index.times is not None:  # only earlier sales inform a row: never its own
                blocks.append(index.features(points, similar, self._times(X), context))
            else:
                blocks.append(
                    _comparables_of_other_folds(
                        points, target, similar, context, folds, excludes_own=index.excludes_own
                    )
                )
        return fitted, np.ascontiguousarray(np.concatenate(blocks, axis=1))

    def with_index(self, fitted: FittedFeatures, X: Floats, target: Floats) -> FittedFeatures:
        """Return features that can tell the comparables of a row, also where they use none.

        Args:
            fitted: Fitted on the same rows; what they make of a row is not for use afterwards.
            X: Shape (n, p), encoded rows.
            target: Shape (n,), transformed.
        """
        if fitted.index is not None or fitted.plan is None:
            return fitted
        index = self._index(fitted.plan, fitted.frame(X), target, self._times(X))
        return replace(fitted, index=index)

    def comparables_rows(
        self, fitted: FittedFeatures, X: Floats, target: Floats
    ) -> NDArray[np.intp]:
        """Return which training row is each comparable (m,), of the rows that `fitted` was fit on.

        Raises:
            ValueError: It has no comparables.
        """
        if fitted.plan is None or fitted.index is None:
            raise ValueError("features without comparables")
        plan, frame = fitted.plan, fitted.frame(X)
        return ComparablesIndex.sorted_rows(
            plan.points(frame), target, plan.similar(frame), plan.context_of(frame), self._times(X)
        )

    def _folds(self, n: int) -> NDArray[np.intp]:
        folds = min(self.settings.cross_fit_folds, n)
        order = seeds.generator(self.seed, "cross-fit").permutation(n)
        return np.asarray(order % folds)

    def _times(self, X: Floats) -> Floats | None:
        """Return when rows were sold (n,), in seconds; None where no row says it.

        A sale without a date informs those rows only that are valued after all others.
        """
        at = self.contract.timestamp_position
        if at is None or np.isnan(X[:, at]).all():
            return None
        return np.where(np.isnan(X[:, at]), np.nanmax(X[:, at]), X[:, at])

    def _ratio_fill(self, filled: Floats) -> Floats:
        fills = []
        for item in self.contract.ratios:
            top = self.contract.position(item.numerator)
            bottom = self.contract.position(item.denominator)
            values = ratios(filled[:, top], filled[:, bottom])
            values = values[~np.isnan(values)]
            fills.append(float(np.median(values)) if len(values) else 0.0)
        return np.array(fills, dtype=np.float64)

    def _means(self, codes: Floats, target: Floats, levels: int) -> TargetMeans:
        return TargetMeans.fit(codes, target, levels, self.settings.target_mean_weight)

    def _statistics(self, codes: Floats, target: Floats, levels: int) -> LevelStatistics:
        return LevelStatistics.fit(codes, target, levels, self.settings.target_mean_weight)

    @staticmethod
    def _cross_fitted(
        fit: Callable[[Floats, Floats, int], TargetMeans | LevelStatistics],
        codes: Floats,
        target: Floats,
        n_levels: int,
        folds: NDArray[np.intp],
    ) -> Floats:
        """Return what each row's level becomes (n, k), fitted on the rows of the other folds."""
        levels = levels_of(codes, n_levels)
        parts = []
        for fold in np.unique(folds):
            held = np.flatnonzero(folds == fold)
            rest = folds != fold
            parts.append((held, fit(codes[rest], target[rest], n_levels).of(levels[held])))
        result = np.empty((len(codes), parts[0][1].reshape(len(parts[0][0]), -1).shape[1]))
        for held, found in parts:
            result[held] = found.reshape(len(held), -1)
        return result

    def _with_comparables(
        self, bare: FittedFeatures, frame: NumericFrame, target: Floats, times: Floats | None
    ) -> FittedFeatures:
        plan = plan_comparables(self.contract, frame, target, self.settings, bare.apart)
        if plan is None:
            return bare
        points = plan.points(frame)
        clusters, index = None, None
        k = self.settings.clusters or 0
        if k > 1 and self.contract.coordinates is not None:
            clusters = Clusters.fit(points, k, seeds.derive_seed(self.seed, "clusters"))
        if self.settings.comparables is not False:
            index = self._index(plan, frame, target, times)
        return replace(bare, clusters=clusters, plan=plan, index=index)

    def _index(
        self, plan: ComparablesPlan, frame: NumericFrame, target: Floats, times: Floats | None
    ) -> ComparablesIndex:
        return ComparablesIndex.fit(
            plan.points(frame),
            target,
            plan.similar(frame),
            plan.context_of(frame),
            times,
            # equal rows of a table without places are different things, each of which tells
            excludes_own=times is None and self.contract.coordinates is not None,
        )


def _comparables_of_other_folds(
    points: Floats,
    target: Floats,
    similar: Floats | None,
    context: Floats,
    folds: NDArray[np.intp],
    *,
    excludes_own: bool = False,
) -> Floats:
    """Return training features (n, q) in which no row sees its own fold's targets.

    Args:
        points: Shape (n, d), scaled.
        target: Shape (n,), transformed.
        similar: Shape (n,) or None.
        context: Shape (n, c).
        folds: Shape (n,): the fold of each row.
        excludes_own: Whether copies of a row in other folds do not inform it.
    """
    numbers: list[int] = np.unique(folds).tolist()
    if not numbers:
        raise ValueError("no rows to cross-fit")

    def block(fold: int) -> Floats:
        held = folds == fold
        rest = ~held
        index = ComparablesIndex.fit(
            points[rest],
            target[rest],
            None if similar is None else similar[rest],
            context[rest],
            excludes_own=excludes_own,
            proof_rows=PROOF_ROWS if fold == numbers[0] else _FEW_PROOF_ROWS,
        )
        own = None if similar is None else similar[held]
        return index.features(points[held], own, context=context[held])

    blocks = dict(in_parallel(block, numbers))
    result = np.empty((len(points), blocks[0].shape[1]))
    for place, fold in enumerate(numbers):
        result[folds == fold] = blocks[place]
    return result
