"""How well errors are foretold without outcomes, beside NannyML's DLE, on shifted windows.

Half of the real housing table is the reference: its estimates are out of fold. The other half gives
windows of 1000 rows, each drawn without replacement and with a preference for rows far along a
random direction of the columns, so that easy and hard windows come. For each window the MAE, the
MAPE and the share within 10% are estimated without its outcomes and compared with what they are.
NannyML gets the same columns, estimates and outcomes of the reference; it has no share within 10%.
Exits with 1 when ours is more than a tenth further off than NannyML's in MAE or MAPE.

    TASADOR_REAL_DATA=... python benchmarks/error_estimate.py [windows]
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import lightgbm
import numpy as np
import polars as pl
from numpy.typing import NDArray

from inputs import housing
from isolation import isolate
from peer_environments import peer_python
from tasador.contract.model import TableContract
from tasador.metrics.regression import METRICS
from tasador.modeling.conformal import calibrate
from tasador.monitoring.error_estimation import error_inputs, fit_error_model
from tasador.monitoring.evaluate import evaluate
from tasador.monitoring.reference import Reference, build_reference
from tasador.monitoring.window import Window

Floats = NDArray[np.float64]

ROWS = 1000
NAMES = ("mae", "mape", "within_10")
DLE = """
import sys, warnings, logging; warnings.filterwarnings("ignore"); logging.disable(logging.CRITICAL)
import pandas as pd, nannyml
a, b = pd.read_parquet(sys.argv[1]), pd.read_parquet(sys.argv[2])
features = [c for c in a.columns if c not in ("actual", "predicted")]
dle = nannyml.DLE(feature_column_names=features, y_pred="predicted", y_true="actual",
                  metrics=["mae", "mape"], chunk_size=int(sys.argv[4]))
dle.fit(a)
found = dle.estimate(b).filter(period="analysis").to_df()
pd.DataFrame({m: found[(m, "value")].to_numpy() for m in ("mae", "mape")}).to_parquet(sys.argv[3])
"""


def grow(X: Floats, y: Floats) -> lightgbm.Booster:
    """Fit the model that is watched."""
    settings = {"objective": "l1", "learning_rate": 0.06, "num_leaves": 31, "feature_fraction": 0.6,
                "verbosity": -1, "num_threads": 2, "seed": 1}  # fmt: skip
    return lightgbm.train(settings, lightgbm.Dataset(X, y, params={"verbosity": -1}), 400)


def shifted(X: Floats, windows: int, random: np.random.Generator) -> list[NDArray[np.intp]]:
    """Return the rows of each window: Gumbel's trick draws them without replacement by weight."""
    filled = np.where(np.isnan(X), np.nanmedian(X, axis=0), X)
    ranks = filled.argsort(axis=0).argsort(axis=0) / len(X)
    scores = (ranks - 0.5) * np.sqrt(12)
    found = []
    for _ in range(windows):
        preference = scores @ random.normal(0, 0.5, X.shape[1])
        found.append(np.argsort(-(preference + random.gumbel(size=len(X))))[:ROWS])
    return found


def build(
    contract: TableContract, X: Floats, y: Floats, random: np.random.Generator
) -> tuple[Reference, Floats, float]:
    """Return the reference, its out-of-fold estimates and half the width of their intervals."""
    target, fold = np.log(y), random.permutation(len(y)) % 5
    score = np.empty(len(y))
    for held in range(5):
        score[fold == held] = grow(X[fold != held], target[fold != held]).predict(X[fold == held])
    half = calibrate(target - score, X, 0.9, None).quantile
    predicted = np.exp(score)
    lower, upper = np.exp(score - half), np.exp(score + half)
    inputs = error_inputs(X, predicted, lower, upper, log=True)
    model, _ = fit_error_model(inputs, y, predicted, log=True, seed=1)
    reference = build_reference(
        contract.features, X, prediction=predicted, actual=y, log=True, error_model=model
    )
    return reference, predicted, half


def ask_nannyml(folder: Path, reference: pl.DataFrame, windows: pl.DataFrame) -> dict[str, Floats]:
    """Return NannyML's estimates of each window."""
    paths = [folder / f"{name}.parquet" for name in ("reference", "windows", "found")]
    reference.write_parquet(paths[0])
    windows.write_parquet(paths[1])
    command = [str(peer_python("nannyml")), "-c", DLE, *map(str, paths), str(ROWS)]
    subprocess.run(command, check=True, capture_output=True)
    found = pl.read_parquet(paths[2])
    # NannyML's MAPE is a share, ours is in percent
    return {"mae": found["mae"].to_numpy(), "mape": found["mape"].to_numpy() * 100}


def main() -> int:
    """Print how far off the estimates are."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    random = np.random.default_rng(3)
    with tempfile.TemporaryDirectory() as name:
        contract, table = housing(Path(name))
        order = random.permutation(len(table.y))
        known, later = np.array_split(order, 2)
        X, y = table.X, table.y
        reference, predicted, half = build(contract, X[known], y[known], random)
        answers = np.exp(grow(X[known], np.log(y[known])).predict(X[later]))
        windows = shifted(X[later], count, random)
        truth: dict[str, list[float]] = {name: [] for name in NAMES}
        ours: dict[str, list[float]] = {name: [] for name in NAMES}
        for rows in windows:
            actual, estimate = y[later][rows], answers[rows]
            ends = {"lower": estimate * np.exp(-half), "upper": estimate * np.exp(half)}
            blind = Window.of(reference.names, X[later][rows], prediction=estimate, **ends)
            figures = {
                f.name: f.value for f in evaluate(reference, blind, domain_classifier=False).figures
            }
            for metric in NAMES:
                truth[metric].append(METRICS[metric](actual, estimate))
                ours[metric].append(float(figures[metric] or np.nan))
        names = list(contract.feature_names)
        frames = [
            pl.DataFrame(rows, schema=names).with_columns(
                pl.Series("actual", values), pl.Series("predicted", estimates)
            )
            for rows, values, estimates in (
                (X[known], y[known], predicted),
                *((X[later][w], y[later][w], answers[w]) for w in windows),
            )
        ]
        theirs = ask_nannyml(Path(name), frames[0], pl.concat(frames[1:]))
    return report(reference, truth, ours, theirs)


def report(
    reference: Reference,
    truth: dict[str, list[float]],
    ours: dict[str, list[float]],
    theirs: dict[str, Floats],
) -> int:
    """Print the mean absolute errors of the estimates; 1 when NannyML is clearly nearer."""
    assert reference.actual is not None
    assert reference.predicted is not None
    lost = 0
    print(f"{'metric':<10} {'measured':>22} {'usual figure':>13} {'NannyML':>10} {'tasador':>10}")
    for name in NAMES:
        real = np.array(truth[name])
        usual = METRICS[name](reference.actual, reference.predicted)
        off = float(np.abs(np.array(ours[name]) - real).mean())
        other = float(np.abs(theirs[name] - real).mean()) if name in theirs else float("nan")
        lost += off > 1.1 * other  # a metric that NannyML does not have loses nothing
        spread = f"{real.min():,.4g} to {real.max():,.4g}"
        constant = float(np.abs(real - usual).mean())
        print(f"{name:<10} {spread:>22} {constant:>13,.4g} {other:>10,.4g} {off:>10,.4g}")
    print(
        "mean absolute error of the estimate over the windows; the usual figure is the reference's"
    )
    return 1 if lost else 0


if __name__ == "__main__":
    isolate()
    sys.exit(main())
