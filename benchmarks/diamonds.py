"""A table without coordinates: our model beside a tuned LightGBM, on the same test rows.

``python benchmarks/diamonds.py``. The pipeline runs as a user would run it (`tasador run
dataset=diamonds`). The baseline is what a good practitioner does in an afternoon: LightGBM on the
contract's columns (ordered codes for the categories), the logarithm of the price, absolute loss,
parameters tuned by Optuna (TPE) on the MAPE of five-fold cross-validation on train, the number of
trees by early stopping inside each fold, refitted on all of train. Both see the test part once.
Exits with 1 when ours is worse by more than chance: the 95% interval of the paired difference,
by bootstrap over the test rows, lies above zero.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inputs import real_table
from isolation import isolate
from tasador.core import seeds
from tasador.registry.model_bundle import load_bundle
from tasador.training.context import load_part

Floats = NDArray[np.float64]
SEED = 42


def absolute_percentage_errors(actual: Floats, predicted: Floats) -> Floats:
    """Return |error| / actual in percent, (n,)."""
    return np.abs(predicted / actual - 1.0) * 100.0


def fit(params: dict[str, Any], X: Floats, y: Floats, steps: int, held: Any = None) -> Any:
    """Fit LightGBM on the logarithm; with `held` rows it stops when they no longer gain."""
    import lightgbm

    data = lightgbm.Dataset(X, np.log(y))
    options: dict[str, Any] = {}
    if held is not None:
        options["valid_sets"] = [lightgbm.Dataset(held[0], np.log(held[1]), reference=data)]
        options["callbacks"] = [lightgbm.early_stopping(50, verbose=False)]
    settings = {"objective": "l1", "bagging_freq": 1, "seed": SEED, "verbosity": -1, **params}
    return lightgbm.train(settings, data, steps, **options)


def tuned_baseline(X: Floats, y: Floats, trials: int) -> tuple[Any, dict[str, Any], float]:
    """Return the refitted baseline, its parameters and its cross-validated MAPE."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    fold_of = seeds.generator(SEED, "baseline").permutation(len(y)) % 5

    def objective(trial: Any) -> float:
        params = {
            "learning_rate": trial.suggest_float("learning_rate", 0.03, 0.2, log=True),
            "num_leaves": trial.suggest_int("num_leaves", 15, 255, log=True),
            "min_child_samples": trial.suggest_int("min_child_samples", 5, 100, log=True),
            "feature_fraction": trial.suggest_float("feature_fraction", 0.4, 1.0),
            "bagging_fraction": trial.suggest_float("bagging_fraction", 0.5, 1.0),
            "lambda_l2": trial.suggest_float("lambda_l2", 1e-3, 10.0, log=True),
        }
        errors, steps = [], []
        for fold in range(5):
            held = fold_of == fold
            model = fit(params, X[~held], y[~held], 3000, (X[held], y[held]))
            estimate = np.exp(model.predict(X[held]))
            errors.append(float(absolute_percentage_errors(y[held], estimate).mean()))
            steps.append(model.best_iteration)
        trial.set_user_attr("steps", int(np.mean(steps)))
        return float(np.mean(errors))

    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=SEED, multivariate=True))
    study.optimize(objective, trials)
    best, steps = study.best_trial.params, study.best_trial.user_attrs["steps"]
    return fit(best, X, y, int(steps * 1.1)), {**best, "n_estimators": steps}, study.best_value


def sample_table(source: Path, rows: int, target: Path) -> None:
    """Write `rows` rows of a table, drawn by chance."""
    with source.open(newline="") as file:
        head, *body = csv.reader(file)
    drawn = np.sort(seeds.generator(SEED, "rows").permutation(len(body))[:rows])
    with target.open("w", newline="") as file:
        csv.writer(file).writerows([head, *(body[i] for i in drawn)])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run both, print both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=40, help="of the baseline's tuning")
    parser.add_argument("--rows", type=int, default=0, help="a sample of the table; 0 for all")
    parser.add_argument("settings", nargs="*", help="of our run, e.g. profile=full")
    chosen = parser.parse_args(arguments)
    source = real_table("diamonds.csv")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if chosen.rows:
            sample_table(source, chosen.rows, folder / "diamonds.csv")
            source = folder / "diamonds.csv"
        command = [sys.executable, "-m", "tasador.cli.app", "run", "dataset=diamonds"]
        command += [f"dataset.source.paths=[{source}]", f"storage.workspace={folder}/workspace"]
        subprocess.run([*command, "tracking=none", *chosen.settings], check=True)
        parts = next((folder / "workspace/cache/segregate").glob("*/train.npz")).parent
        train, test = load_part(parts / "train.npz"), load_part(parts / "sealed.npz")
        bundle = load_bundle(next((folder / "workspace/bundles").glob("*/manifest.json")).parent)
        ours = absolute_percentage_errors(test.y, bundle.predict(test.X))
        model, params, score = tuned_baseline(train.X, train.y, chosen.trials)
        theirs = absolute_percentage_errors(test.y, np.exp(model.predict(test.X)))
    random = seeds.generator(SEED, "paired")
    difference = ours - theirs
    draws = [difference[random.integers(0, len(test.y), len(test.y))].mean() for _ in range(2000)]
    low, high = np.quantile(draws, [0.025, 0.975])
    print(f"{len(train.y)} training rows, {len(test.y)} test rows")
    print(
        f"tuned LightGBM ({chosen.trials} trials, MAPE by cross-validation {score:.3f}): {params}"
    )
    print(f"MAPE on the test part: tasador {ours.mean():.3f}, tuned LightGBM {theirs.mean():.3f}")
    print(f"difference {difference.mean():+.3f} (95%: {low:+.3f} to {high:+.3f})")
    return 1 if low > 0 else 0


if __name__ == "__main__":
    isolate()
    sys.exit(main())
