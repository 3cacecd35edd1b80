"""Accuracy on the reference split, beside what you would pick instead within an equal time.

    python benchmarks/accuracy_peers.py [--methods tasador reference lightgbm catboost flaml
        autogluon] [--budget 180] [--workspace workspace]

The default table is split 80/20 at random with seed 42. A peer sees the training part and the test
part without its prices, as CSV files; it has `--budget` seconds of wall time on all cores, from the
start of its process to its end, in an environment of its own that is made when it is missing. Its
estimates are read from a file and scored by `tasador.metrics`. tasador is the newest bundle of a
workspace (`tasador run`), its time the sum of the run's steps, whatever they took.

Exits with 1 when tasador's answer differs from its run's own figures.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

import reference_method
from figures import Figures
from inputs import bundle_folder, real_table
from isolation import isolate
from peer_environments import PEERS, peer_python
from tasador.metrics.regression import all_metrics, label
from tasador.registry.model_bundle import load_bundle

Floats = NDArray[np.float64]
HERE = Path(__file__).parent
SHOWN = ("mape", "wmape", "median_ape", "rmse", "r2", "within_10")
TITLES = {"tasador": "tasador, quick profile", "lightgbm": "LightGBM, tuned",
          "catboost": "CatBoost, tuned", "flaml": "FLAML", "autogluon": "AutoGluon"}  # fmt: skip
PEER_NAMES = ("lightgbm", "catboost", "flaml", "autogluon")


@dataclass(frozen=True)
class Method:
    """What a method answered: estimates in the order of the test rows, or why there are none."""

    title: str
    estimates: Floats | None
    seconds: float | None
    told: str


def run_peer(name: str, folder: Path, budget: float) -> Method:
    """Run a peer in its own environment; what goes wrong is told in the table."""
    package = PEERS[name][0]
    title = f"{TITLES[name]} ({package.split('==')[-1]})"
    try:
        python = peer_python(name)
    except (subprocess.CalledProcessError, OSError) as error:
        return Method(title, None, None, f"missing: {package} cannot be installed ({error})")
    target = folder / f"{name}.txt"
    command = [str(python), str(HERE / "accuracy_methods.py"), name, str(folder / "train.csv"),
               str(folder / "test.csv"), str(target), f"{budget:g}"]  # fmt: skip
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        return Method(title, None, seconds, f"failed: {reason[:150]}")
    told = json.loads(done.stdout.strip().splitlines()[-1])
    return Method(title, np.loadtxt(target), seconds, describe(told))


def describe(told: dict[str, Any]) -> str:
    """Return parameters in a line."""
    return ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in told.items()
    )


def run_reference(train: pd.DataFrame, test: pd.DataFrame) -> list[Method]:
    """Fit the reference's method with the parameters that its searches found."""
    started = time.perf_counter()
    features = reference_method.ReferenceFeatures().fit(train)
    X, y = features.transform(train), train[reference_method.TARGET].to_numpy(float)
    Z = features.transform(test)
    shared = time.perf_counter() - started
    found = []
    for name, model in reference_method.final_models():
        started = time.perf_counter()
        estimates = model.fit(X, y).predict(Z)
        params = reference_method.PARAMETERS[name]
        told = (
            f"searched before, outside the time; {describe(params)}; {features.clusters} clusters"
        )
        seconds = shared + time.perf_counter() - started
        found.append(Method(f"reference's method, {name}", estimates, seconds, told))
    return found


def run_tasador(workspace: Path, test: pd.DataFrame, actual: Floats) -> tuple[Method, bool]:
    """Value the test rows with the newest bundle; also whether its run says the same."""
    bundle = load_bundle(bundle_folder(workspace))
    estimates = bundle.predict_columns({name: test[name].tolist() for name in test.columns})
    runs = [json.loads(path.read_text()) | {"folder": path.parent}
            for path in (workspace / "runs").glob("*/run.json")]  # fmt: skip
    run = max((one["folder"] for one in runs if one["version"] == bundle.version), key=str)
    cards = [json.loads(path.read_text()) for path in (run / "cards").glob("*.json")]
    own = json.loads((run / "metrics.json").read_text())["test"]
    same = all(abs(all_metrics(actual, estimates)[name] - own[name]) < 1e-9 for name in SHOWN)
    told = f"{bundle.version}; {'as its run says' if same else 'NOT what its run says'}"
    seconds = sum(card["seconds"] for card in cards)
    return Method(TITLES["tasador"], estimates, seconds, told), same


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    every = ("tasador", "reference", *PEER_NAMES)
    parser.add_argument("--methods", nargs="+", choices=every, default=every)
    parser.add_argument("--budget", type=float, default=180.0, help="seconds for each peer")
    parser.add_argument("--rows", type=int, default=0, help="training rows; 0 for all")
    parser.add_argument("--workspace", type=Path, default=Path("workspace"))
    given = parser.parse_args(arguments)
    train, test = reference_method.split_table(real_table("housing.csv"))
    actual = test.pop(reference_method.TARGET).to_numpy(float)
    train = train[[name for name in train if name != reference_method.TARGET]
                  + [reference_method.TARGET]][: given.rows or None]  # fmt: skip
    methods, same = list[Method](), True
    with tempfile.TemporaryDirectory(prefix="tasador-accuracy-") as name:
        train.to_csv(Path(name) / "train.csv", index=False)
        test.to_csv(Path(name) / "test.csv", index=False)
        for method in given.methods:
            if method == "tasador":
                found, same = run_tasador(given.workspace, test, actual)
                methods.append(found)
            elif method == "reference":
                methods += run_reference(train, test)
            else:
                methods.append(run_peer(method, Path(name), given.budget))
    rows = []
    for method in methods:
        scores = {} if method.estimates is None else all_metrics(actual, method.estimates)
        rows.append(
            [method.title, *(scores.get(name) for name in SHOWN), method.seconds, method.told]
        )
        figures = " ".join(f"{name} {scores[name]:.4g}" for name in SHOWN if name in scores)
        print(
            f"{method.title:<36} {figures}  {method.seconds or 0:.0f} s  {method.told}", flush=True
        )
    kept = Figures()
    kept.table(
        f"Errors on the {len(test):,} test rows",
        ["Method", *(label(name) for name in SHOWN), "seconds", "What it took"],
        rows,
        f"{len(train):,} training rows. RMSE in USD, the others in percent, R² without unit.",
    )
    kept.keep()
    return 0 if same else 1


if __name__ == "__main__":
    isolate()
    sys.exit(main())
