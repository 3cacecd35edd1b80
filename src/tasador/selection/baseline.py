"""The plain baseline of every run: what ten lines of LightGBM reach on the table's own columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tasador.core.parallel import Engine
from tasador.data.table import Part
from tasador.modeling.target_transform import TargetTransform
from tasador.selection.evaluation.folds import Fold
from tasador.selection.search.grid_search import CandidateResult, grid_search
from tasador.settings.run import SelectionSettings

FAMILY = "lightgbm"
#: As a user of LightGBM begins, with its defaults for what is not named.
PARAMS: dict[str, Any] = {
    "n_estimators": 500,
    "learning_rate": 0.05,
    "num_leaves": 31,
    "objective": "l2",
    "inputs": "plain",
}


def measure_baseline(
    settings: SelectionSettings,
    folds: Sequence[Fold],
    part: Part,
    transform: TargetTransform,
    seed: int,
    engine: Engine | None = None,
) -> CandidateResult:
    """Cross-validate the baseline on the folds of the candidates.

    It sees numbers, dates and categories (0/1 columns of few levels, codes of many): no
    comparables, clusters, ratios or statistics made from the target.

    Raises:
        TrainingError: It could not be fitted.
    """
    alone = SelectionSettings(
        families={FAMILY: {name: [value] for name, value in PARAMS.items()}},
        folds=settings.folds,
        scoring=settings.scoring,
    )
    return grid_search(alone, folds, part, transform, seed, engine=engine).best
