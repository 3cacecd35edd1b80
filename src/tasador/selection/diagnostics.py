"""What a model relies on, and whether more rows would help, on held-out training rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasador.core import seeds
from tasador.core.parallel import in_parallel
from tasador.core.progress import progress
from tasador.data.table import Part
from tasador.features.pipeline import FeaturePipeline, FittedFeatures
from tasador.metrics.regression import METRICS
from tasador.modeling.target_transform import TargetTransform
from tasador.selection.families.catalog import family
from tasador.selection.families.inputs import fit_model

Floats = NDArray[np.float64]

#: Shares of the fitting rows on which the learning curve is measured.
SHARES = (0.125, 0.25, 0.5, 1.0)
_FEWEST_ROWS = 40
_LEARNT_ROWS = 100_000  # most rows to fit on, a sample of them
_SHUFFLED_ROWS = 10_000  # most held-out rows on which columns are shuffled, a sample of them


@dataclass(frozen=True)
class Diagnostics:
    """Two looks at one model, on training rows that it was not fitted on.

    Attributes:
        metric: What was measured.
        sizes: Numbers of rows fitted on, ascending.
        held: The metric on the held-out rows for each size.
        fitted: The metric on the rows fitted on for each size.
        columns: The contract's used columns.
        importance: For each column, by how much the metric grows when its values are shuffled
            among the held-out rows; the mean over the repeats.
    """

    metric: str
    sizes: tuple[int, ...]
    held: tuple[float, ...]
    fitted: tuple[float, ...]
    columns: tuple[str, ...]
    importance: tuple[float, ...]


def diagnose(
    name: str,
    params: Mapping[str, Any],
    pipeline: FeaturePipeline,
    part: Part,
    rows: tuple[NDArray[np.intp], NDArray[np.intp]],
    transform: TargetTransform,
    *,
    metric: str,
    seed: int,
    repeats: int = 2,
) -> Diagnostics:
    """Fit on growing samples of the rows that are not held out, then shuffle columns.

    Permutation importance is that of Breiman (2001), on raw columns: ratios, clusters and
    comparables made from a shuffled column are made again, so that a column gets the credit for
    everything that is derived from it.

    Args:
        name: The model's family.
        params: Its parameters.
        pipeline: The unfitted features.
        part: The training part.
        rows: Positions of the rows to fit on, and of those to measure on.
        transform: The target's transform.
        metric: Name of a metric for which less is better.
        seed: Seed of the samples, the shuffling and the models.
        repeats: How often each column is shuffled.
    """
    chosen, score = family(name), METRICS[metric]
    random = seeds.generator(seed, "diagnostics")
    fit_rows, held_rows = rows
    rest = random.permutation(fit_rows)[:_LEARNT_ROWS]
    X, y = part.X[held_rows], part.y[held_rows]
    sizes = _sizes(len(rest))
    with progress("learning curve, importance", len(sizes) + X.shape[1]) as advance:

        def learn(size: int) -> tuple[FittedFeatures, Any, float, float]:
            rows = rest[:size]  # nested, so that the curve shows more rows and not other ones
            target = transform.forward(part.y[rows])
            features, Z = pipeline.fit_transform(part.X[rows], target)
            model = fit_model(
                chosen,
                params,
                Z,
                features.kinds,
                target,
                seeds.derive_seed(seed, name),
                1,
                part.fit_weight(rows),
            )
            own = transform.inverse(chosen.predict(model, Z))
            other = transform.inverse(chosen.predict(model, features.transform(X)))
            return features, model, score(y, other), score(part.y[rows], own)

        learned = {}
        for place, found in in_parallel(learn, sizes, cost=float):
            learned[place] = found
            advance()
        held = [learned[i][2] for i in range(len(sizes))]
        fitted = [learned[i][3] for i in range(len(sizes))]
        features, model = learned[len(sizes) - 1][:2]

        def value(Z: Floats) -> Floats:
            return transform.inverse(chosen.predict(model, Z))

        # each column costs its features again: a sample ranks columns as well as all rows
        if len(X) > _SHUFFLED_ROWS:
            some = np.sort(random.permutation(len(X))[:_SHUFFLED_ROWS])
            X, y = X[some], y[some]
        importance = [0.0] * X.shape[1]
        whole = score(y, value(features.transform(X)))
        orders = [[random.permutation(len(X)) for _ in range(repeats)] for _ in importance]

        def grown(column: int) -> float:
            found = []
            for order in orders[column]:
                shuffled = X.copy()
                shuffled[:, column] = X[order, column]
                found.append(score(y, value(features.transform(shuffled))) - whole)
            return float(np.mean(found))

        for column, more in in_parallel(grown, range(X.shape[1])):
            importance[column] = more
            advance()
    return Diagnostics(
        metric=metric,
        sizes=tuple(sizes),
        held=tuple(held),
        fitted=tuple(fitted),
        columns=pipeline.contract.feature_names,
        importance=tuple(importance),
    )


def _sizes(rows: int) -> Sequence[int]:
    """Return the sizes to fit on; small tables have fewer of them."""
    sizes = {int(share * rows) for share in SHARES}
    return sorted(size for size in sizes if size >= min(_FEWEST_ROWS, rows))
