"""A worker of a shared sweep, as its own process: storage URL, number of trials.

Says "ready", begins when a line comes in, and prints what it tried and what all tried together.
"""

from __future__ import annotations

import json
import sys

import numpy as np

from tasador.contract.reader import from_dict
from tasador.data.table import Part
from tasador.features.pipeline import FeaturePipeline, FeatureSettings
from tasador.modeling.target_transform import TargetTransform
from tasador.selection.folds import make_folds, random_assignment
from tasador.selection.grid_search import CandidateResult
from tasador.selection.optuna_sweep import sweep
from tasador.settings.run import SweepSettings


def main(storage: str, trials: int) -> None:
    contract = from_dict(
        {"name": "t", "columns": {"a": {"kind": "number"}}, "target": {"name": "y"}}
    )
    random = np.random.default_rng(0)
    X = random.uniform(1, 9, (400, 1))
    part = Part(
        X, 10 + np.sin(X[:, 0]) + random.normal(0, 0.1, 400), np.arange(400, dtype=np.uint64)
    )
    transform = TargetTransform("none")
    pipeline = FeaturePipeline(contract, FeatureSettings(comparables=False))
    folds = list(make_folds(part, random_assignment(400, 2, 1), pipeline, transform))
    mine: list[CandidateResult] = []
    print("ready", flush=True)
    sys.stdin.readline()
    result = sweep(
        "decision_tree",
        {"max_depth": 8, "min_samples_split": 2, "min_samples_leaf": 1},
        SweepSettings(trials=trials, folds=2, storage=storage),
        folds,
        part,
        transform,
        1,
        on_trial=mine.append,
    )
    print(
        json.dumps(
            {
                "mine": [trial.params for trial in mine],
                "all": [trial.params for trial in result.trials],
                "best": result.best.mean("wmape"),
                "found": [trial.mean("wmape") for trial in result.trials],
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
