"""End to end: `tasador run` in a fresh workspace against the reference pipeline's seven steps.

The reference's steps are re-created from their description (`reference_method.py`). In full they
take hours, so a stated part of each is measured, in CPU time of one process on all training rows,
and extrapolated, which is said as such:

* imputation: median, mean and KNN whole; one of the iterative imputer's ten rounds, times ten;
* clusters: the silhouette of three of the nineteen numbers, times nineteen thirds;
* selection: `grid_search.py`'s Latin design over each family's grid, on the first of five folds,
  features ready, times candidates and folds;
* sweep: four seeded random forests of fifty, one fit each, times fifty fourths;
* registering: the final fit; uploading to MLflow is left out.

tasador's run is measured whole: wall and CPU seconds of its process and those that it starts, its
grid and sweep being smaller because it needs fewer to be better; `grid_search.py` compares equal
grids. The error of both on the test part stands beside the time.

    python benchmarks/end_to_end.py [--small]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray

import reference_method as reference
from figures import Figures
from grid_search import DESIGN, FAMILIES, FOLDS, SEED, Table, cpu, design, theirs
from inputs import real_table
from isolation import isolate
from tasador.data.table import Part
from tasador.metrics.regression import all_metrics
from tasador.modeling.target_transform import TargetTransform
from tasador.selection.folds import Fold, random_assignment
from tasador.settings.compose import conf_folder

Floats = NDArray[np.float64]
ROUNDS, SWEEP, TRIALS = 10, 50, 4
TRIED_CLUSTERS = (2, 11, 20)
STEPS = ("download", "segregate", "impute", "features", "select", "sweep", "register")


@dataclass(frozen=True)
class Step:
    """One step of the reference: CPU seconds that were measured, that it would take, and how."""

    name: str
    measured: float
    whole: float
    how: str


def tasador_run(table: Path, folder: Path, settings: Sequence[str]) -> dict[str, Any]:
    """Run the pipeline; wall and CPU seconds, seconds by step, figures of the test part."""
    workspace = folder / "workspace"
    command = [sys.executable, "-m", "tasador.cli.app", "run", f"storage.workspace={workspace}",
               "segregate.method=random", f"dataset.source.paths=[{table}]", *settings]  # fmt: skip
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status):
        raise SystemExit(f"the pipeline failed; run it by hand: {' '.join(command)}")
    wall = time.perf_counter() - started
    (run,) = (workspace / "runs").glob("*/run.json")
    cards = {
        name: json.loads((run.parent / "cards" / f"{name}.json").read_text()) for name in STEPS
    }
    return {
        "wall": wall,
        "cpu": usage.ru_utime + usage.ru_stime,
        "steps": {name: card["seconds"] for name, card in cards.items()},
        "test": json.loads((run.parent / "metrics.json").read_text())["test"],
    }


def matrix_of(train: pd.DataFrame) -> tuple[reference.ReferenceFeatures, Floats, Floats]:
    """Return the fitted features with the number of clusters given, the matrix, the prices."""
    features = reference.ReferenceFeatures(clusters=2).fit(train)
    return features, features.transform(train), train[reference.TARGET].to_numpy(float)


def select_seconds(X: Floats, y: Floats) -> list[Step]:
    """Measure a Latin design of each family with GridSearchCV on the first fold."""
    held = random_assignment(len(y), FOLDS, SEED).fold == 0
    fit_rows, held_rows = np.flatnonzero(~held), np.flatnonzero(held)
    nothing: Any = None
    fold = Fold(fit_rows, held_rows, X[fit_rows], X[held_rows], nothing)
    part = Part(X, y, np.zeros(len(y), dtype=np.uint64))
    table = Table(part, [fold], TargetTransform("none"), 0.0)
    grids = yaml.safe_load((conf_folder() / "selection" / "article.yaml").read_text())["families"]
    steps = []
    for name in FAMILIES:
        count = math.prod(len(values) for values in grids[name].values())
        picked = design(grids[name], DESIGN[name])
        spent = [theirs(name, params, table)[0] for params in picked]
        whole = float(np.mean(spent)) * count * FOLDS
        how = f"{len(spent)} of {count} candidates, 1 of {FOLDS} folds"
        steps.append(Step(f"select, {name}", sum(spent), whole, how))
        print(f"    {steps[-1].name:<28}{whole:>10,.0f} s  {how}", flush=True)
    return steps


def sweep_seconds(X: Floats, y: Floats) -> Step:
    """Measure some of the sweep's random forests."""
    from sklearn.ensemble import RandomForestRegressor

    random, spent = np.random.default_rng(SEED), 0.0
    for _ in range(TRIALS):
        forest = RandomForestRegressor(
            n_estimators=int(random.integers(50, 501)),
            max_depth=int(random.integers(5, 31)),
            min_samples_split=int(random.integers(2, 21)),
            min_samples_leaf=int(random.integers(1, 11)),
            max_features=str(random.choice(["sqrt", "log2"])),
            random_state=SEED,
        )
        spent += cpu(lambda forest=forest: forest.fit(X, y).predict(X))[0]
    return Step("sweep", spent, spent * SWEEP / TRIALS, f"{TRIALS} of {SWEEP} trials, one fit each")


def reference_run(path: Path) -> tuple[list[Step], dict[str, float]]:
    """Measure the reference's steps; return them, and the error of its final model."""
    steps = list[Step]()

    def step(name: str, work: Callable[[], Any], times: float = 1.0, how: str = "whole") -> Any:
        seconds, result = cpu(work)
        steps.append(Step(name, seconds, seconds * times, how))
        print(f"    {name:<28}{seconds * times:>10,.1f} s  {how}", flush=True)
        return result

    reference.imputers(1)  # imports are not what is measured
    step("download", lambda: pd.read_csv(path), how="read from disk")
    train, test = step("segregate", lambda: reference.split_table(path))
    for name, imputer in reference.imputers(rounds=1).items():
        iterative = name.startswith("Iterative")
        times, how = (ROUNDS, f"1 of {ROUNDS} rounds") if iterative else (1, "whole")
        step(
            f"impute, {name}", lambda it=imputer: reference.imputation_error(it, train), times, how
        )
    places, count = train[reference.PLACE].to_numpy(), len(reference.CLUSTERS)
    step("features, number of clusters",
         lambda: [reference.silhouette(places, k, None) for k in TRIED_CLUSTERS],
         count / len(TRIED_CLUSTERS), f"{len(TRIED_CLUSTERS)} of {count} numbers")  # fmt: skip
    features, X, y = step("features, encode and scale", lambda: matrix_of(train))
    steps += select_seconds(X, y)
    steps.append(sweep_seconds(X, y))
    _, model = next(reference.final_models())
    step("register", lambda: model.fit(X, y), how="final fit, without MLflow")
    actual = test[reference.TARGET].to_numpy(float)
    return steps, all_metrics(actual, model.predict(features.transform(test)))


def keep(ours: dict[str, Any], steps: list[Step], test: dict[str, float]) -> None:
    """Print and keep the tables."""
    kept, cores = Figures(), len(os.sched_getaffinity(0))
    rows = []
    for name in STEPS:
        some = [one for one in steps if one.name.split(",")[0] == name]
        how = "; ".join(
            f"{one.name.split(', ', 1)[1]}: {one.how}" if "," in one.name else one.how
            for one in some
        )
        rows.append([name, sum(one.measured for one in some), sum(one.whole for one in some),
                     ours["steps"][name], how])  # fmt: skip
    measured, whole = sum(one.measured for one in steps), sum(one.whole for one in steps)
    rows.append(["all", measured, whole, sum(ours["steps"].values()), ""])
    kept.table(
        "Seconds by step",
        ["Step", "reference, CPU s measured", "reference, CPU s extrapolated", "tasador, wall s",
         "What was measured of the reference"],
        rows,
    )  # fmt: skip
    columns = ["Pipeline", "wall s", "CPU s", "test MAPE %", "test RMSE", "test within 10% %"]
    figures = ("mape", "rmse", "within_10")
    kept.table(
        "Both in full",
        [*columns, "tasador: times as fast (CPU)"],
        [
            ["tasador run, measured whole", ours["wall"], ours["cpu"],
             *(ours["test"][name] for name in figures), 1.0],
            ["reference, extrapolated", whole / cores, whole, *(test[name] for name in figures),
             whole / ours["cpu"]],
        ],
        f"The reference's wall seconds are its CPU seconds over {cores} cores, as if nothing were "
        "lost. Its errors are those of GradientBoosting with the parameters its grid finds.",
    )  # fmt: skip
    kept.bars("Minutes from file to registered model", f"{cores} cores, reference extrapolated.",
              ["tasador", "reference"], [ours["wall"] / 60, whole / cores / 60])  # fmt: skip
    kept.keep()
    print(f"tasador: {ours['wall']:,.0f} s wall, {ours['cpu']:,.0f} s CPU, "
          f"MAPE {ours['test']['mape']:.2f}")  # fmt: skip
    print(f"reference: {whole:,.0f} s CPU from {measured:,.0f} s measured, MAPE {test['mape']:.2f}")
    print(f"tasador takes {whole / ours['cpu']:,.1f} times less CPU time")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure both."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="1500 rows, to show that it works")
    given = parser.parse_args(arguments)
    table, settings = real_table("housing.csv"), list[str]()
    with tempfile.TemporaryDirectory(prefix="tasador-end-to-end-") as name:
        if given.small:
            rows = pd.read_csv(table).sample(1500, random_state=SEED)
            table = Path(name) / "housing.csv"
            rows.to_csv(table, index=False)
            grid = "{ridge: {alpha: [1]}, lightgbm: {n_estimators: [50]}}"
            settings = ["dataset.source.sha256=[]", "sweep.trials=2", "impute.strategy=median",
                        "features.clusters=0", "register.parity_rows=1000",
                        f"selection.families={grid}"]  # fmt: skip
        print("the reference's steps, CPU seconds in full", flush=True)
        steps, test = reference_run(table)
        print("tasador run", flush=True)
        ours = tasador_run(table, Path(name), settings)
    keep(ours, steps, test)
    return 0


if __name__ == "__main__":
    isolate()
    sys.exit(main())
