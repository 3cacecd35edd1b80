"""Rows a second of `tasador score`, Parquet to Parquet: `python benchmarks/batch_scoring.py`.

    python benchmarks/batch_scoring.py [BUNDLE] [--rows 200000] [--trees 500]

Profiles: the bundle as it is, on its table's own rows and on rows of which no two lie in one place;
models of `--trees` LightGBM trees of 31 leaves fitted here, with comparables and without. Beside
them LightGBM's own `Booster.predict` on features that are ready, and a pandas and scikit-learn
pipeline around it, in one thread, without an interval, a check or a file. Seconds are processor
time of all threads, so that rows a second are those of one core, whoever else uses the machine;
wall time on all cores stands beside them. A sample of every profile's file is compared, bit by bit,
with what the service's predictor answers; the exit code is 1 when one differs.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet

import inputs
from isolation import isolate
from tasador.core.parallel import usable_cores
from tasador.data.readers import read_table
from tasador.features.pipeline import FeaturePipeline, FeatureSettings
from tasador.inference.batch_scorer import BatchScorer
from tasador.modeling.conformal import calibrate
from tasador.registry.model_bundle import ModelBundle, load_bundle
from tasador.scoring.files import ScoreRequest, score_files
from tasador.serving.request_parsing import Predictor
from tasador.trees.importers import from_lightgbm
from tasador.trees.onnx_export import to_onnx
from tasador.trees.onnx_model import load_model

GOAL = 200_000
SAMPLE = 2_000
PASSES = 3
MICRO = 1e6


def table_of(bundle: ModelBundle) -> pa.Table:
    """Return the bundle's own table, with the types of its columns."""
    frame = read_table(inputs.table_of(bundle.contract), source=bundle.contract.source)
    columns: dict[str, Any] = {}
    for column in (*bundle.contract.features, bundle.contract.target):
        values = frame[column.name]
        if getattr(column, "kind", "number") in ("number", "integer"):
            values = values.cast(float)
        columns[column.name] = values.to_arrow().cast(
            pa.float64() if values.dtype.is_numeric() else pa.string()
        )
    return pa.table(columns)


def rows_for(table: pa.Table, bundle: ModelBundle, n: int, *, moved: bool) -> pa.Table:
    """Return `n` rows: the table again and again, if asked for each a little elsewhere."""
    times = -(-n // table.num_rows)
    rows = pa.concat_tables([table] * times).slice(0, n).combine_chunks()
    coordinates = bundle.contract.coordinates
    if not moved or coordinates is None:
        return rows
    rng = np.random.default_rng(1)
    for column in coordinates:
        values = rows.column(column.name).to_numpy() + rng.normal(0.0, 0.01, n)
        low, high = column.bounds
        at = rows.column_names.index(column.name)
        rows = rows.set_column(at, column.name, pa.array(np.clip(values, low, high)))
    return rows


def fitted(bundle: ModelBundle, table: pa.Table, trees: int, comparables: bool) -> tuple[Any, Any]:
    """Return the bundle with another model of LightGBM trees, and LightGBM's own booster."""
    import lightgbm

    X, _ = BatchScorer(bundle)._encoded(table.combine_chunks().to_batches()[0])
    y = bundle.target.forward(table.column(bundle.contract.target.name).to_numpy())
    settings = FeatureSettings(comparables=comparables, clusters=0)
    features, Z = FeaturePipeline(bundle.contract, settings).fit_transform(X, y)
    parameters = {"num_leaves": 31, "verbosity": -1, "num_threads": 1, "learning_rate": 0.05}
    booster = lightgbm.train(parameters, lightgbm.Dataset(Z, y), trees)
    model = load_model(to_onnx(from_lightgbm(booster)))
    interval = calibrate(y - model.predict(Z), Z, 0.9, None)
    return replace(bundle, features=features, model=model, interval=interval), booster


def least(work: Callable[[], object], passes: int = PASSES) -> float:
    """Return the least processor time of some passes, in seconds."""
    found = []
    for _ in range(passes):
        started = time.process_time()
        work()
        found.append(time.process_time() - started)
    return min(found)


@dataclass(frozen=True)
class Measured:
    """One profile: processor time in seconds, wall rows a second on all cores, equality."""

    cpu: float
    wall_speed: float
    same: bool


def measure(bundle: ModelBundle, rows: pa.Table, folder: Path) -> Measured:
    """Score `rows` from a Parquet file into another."""
    source, out = folder / "rows.parquet", folder / "out.parquet"
    names = [name for name in bundle.contract.feature_names if name in rows.column_names]
    parquet.write_table(rows.select(names), source)

    def run(workers: int) -> float:
        order = ScoreRequest((str(source),), str(out), workers=workers)
        return score_files(bundle, order, print).seconds

    cpu = least(lambda: run(1))
    wall = min(run(usable_cores()) for _ in range(PASSES))
    return Measured(cpu, len(rows) / wall, same_as_service(bundle, rows.select(names), out))


def same_as_service(bundle: ModelBundle, rows: pa.Table, out: Path) -> bool:
    """Compare a sample of the file with the service's answers, refused rows included."""
    at = np.random.default_rng(2).permutation(len(rows))[:SAMPLE]
    sample = rows.take(pa.array(at)).to_pylist()
    found = parquet.read_table(out).take(pa.array(at)).to_pylist()
    predictor = Predictor(bundle, "file")
    codes = np.array([bundle.encoder.codes(row) for row in sample])
    accepted = predictor.check.accepts(codes)
    answers = predictor.predict(codes[accepted])
    name = bundle.contract.target.prediction_name
    want = iter(zip(answers.prediction, answers.lower, answers.upper, strict=True))
    for row, answer, right in zip(sample, found, accepted, strict=True):
        values = (answer[name], answer["lower"], answer["upper"])
        if right and values != next(want):
            return False
        if not right and answer["error"] != predictor.check.reasons(row):
            return False
    return True


def stages(bundle: ModelBundle, rows: pa.Table, folder: Path) -> dict[str, float]:
    """Return processor time by stage, in seconds."""
    scorer, source = BatchScorer(bundle), folder / "stages.parquet"
    names = [name for name in bundle.contract.feature_names if name in rows.column_names]
    parquet.write_table(rows.select(names), source)
    batches = rows.select(names).combine_chunks().to_batches(max_chunksize=32_768)
    encoded = [scorer._encoded(batch)[0] for batch in batches]
    encoded = [X[scorer._check.accepts(X)] for X in encoded]
    for i, X in enumerate(encoded):
        order = bundle.features.order(X)
        encoded[i] = X if order is None else X[order]
    parts = [X[at : at + 2_048] for X in encoded for at in range(0, len(X), 2_048)]
    features, found = bundle.features, {}
    found["read Parquet"] = least(lambda: list(parquet.ParquetFile(source).iter_batches(32_768)))
    found["encode and check"] = least(
        lambda: [scorer._check.accepts(scorer._encoded(batch)[0]) for batch in batches]
    )
    if features.plan is not None and features.index is not None:
        plan, index = features.plan, features.index
        frames = [features.frame(part) for part in parts]
        asked = [
            (plan.points(frame), *features.beside_place(plan, part, frame))
            for part, frame in zip(parts, frames, strict=True)
        ]
        found["comparables"] = least(lambda: [index.features(*one) for one in asked])
    whole = least(lambda: [features.transform(part) for part in parts])
    found["other features"] = max(0.0, whole - found.get("comparables", 0.0))
    made = [features.transform(part) for part in parts]
    found["trees"] = least(lambda: [bundle.model.predict(part) for part in made])
    scored = [scorer.score(batch) for batch in batches]
    found["write Parquet"] = least(
        lambda: parquet.write_table(
            pa.Table.from_batches(scored), folder / "w.parquet", use_dictionary=["error"]
        )
    )
    return found


def ready(bundle: ModelBundle, booster: Any, rows: pa.Table) -> float:
    """Return LightGBM's own processor time on features that are made already, in seconds."""
    X, _ = BatchScorer(bundle)._encoded(rows.combine_chunks().to_batches()[0])
    parts = [bundle.features.transform(X[at : at + 2_048]) for at in range(0, len(X), 2_048)]
    Z = np.concatenate(parts)
    return least(lambda: booster.predict(Z, num_threads=1), 2)


def usual(bundle: ModelBundle, trees: int, table: pa.Table, rows: pa.Table) -> float:
    """Return the processor time of a usual pipeline on a frame in memory, in seconds."""
    import lightgbm
    from sklearn.compose import make_column_transformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    columns = bundle.contract.features
    words = [c.name for c in columns if c.kind == "category"]
    numbers = [c.name for c in columns if c.kind in ("number", "integer")]
    pipeline = make_pipeline(
        make_column_transformer(
            (SimpleImputer(strategy="median"), numbers),
            (OneHotEncoder(handle_unknown="ignore", sparse_output=False), words),
        ),
        lightgbm.LGBMRegressor(n_estimators=trees, n_jobs=1, verbosity=-1),
    )
    frame, new = table.to_pandas(), rows.to_pandas()
    pipeline.fit(frame[numbers + words], np.log(frame[bundle.contract.target.name]))
    warnings.filterwarnings("ignore", message="X does not have valid feature names")
    return least(lambda: pipeline.predict(new[numbers + words]), 2)


def main() -> int:
    """Measure every profile and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", nargs="?", type=Path)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--trees", type=int, default=500)
    asked = parser.parse_args()
    bundle = load_bundle(asked.bundle or inputs.bundle_folder(Path("workspace")))
    table = table_of(bundle)
    own = rows_for(table, bundle, asked.rows, moved=False)
    moved = rows_for(table, bundle, asked.rows, moved=True)
    small, booster = fitted(bundle, table, asked.trees, comparables=True)
    bare, bare_booster = fitted(bundle, table, asked.trees, comparables=False)
    profiles = {
        f"{bundle.version}, its table's rows": (bundle, own),
        f"{bundle.version}, no two rows in one place": (bundle, moved),
        f"{asked.trees} trees and comparables, its table's rows": (small, own),
        f"{asked.trees} trees and comparables, no two in one place": (small, moved),
        f"{asked.trees} trees without comparables": (bare, own),
    }
    wrong = 0
    print(f"{asked.rows:,} rows, Parquet to Parquet; wall time on {usable_cores()} cores")
    print(f"{'profile':<64}{'us/row':>8}{'rows/s, core':>14}{'wall':>10}  same  {GOAL:,}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for title, (one, rows) in profiles.items():
            found = measure(one, rows, folder)
            wrong += not found.same
            reached = "reached" if asked.rows / found.cpu >= GOAL else "missed"
            print(
                f"{title:<64}{found.cpu / asked.rows * MICRO:>8.2f}{asked.rows / found.cpu:>14,.0f}"
                f"{found.wall_speed:>10,.0f}  {'yes' if found.same else 'NO':<4}  {reached}"
            )
        for kind, one, own_booster in (
            ("with comparables", small, booster),
            ("without", bare, bare_booster),
        ):
            cpu = ready(one, own_booster, own)
            title = f"LightGBM alone in one thread, features {kind} ready"
            print(f"{title:<64}{cpu / asked.rows * MICRO:>8.2f}{asked.rows / cpu:>14,.0f}")
        cpu = usual(bundle, asked.trees, table, own)
        title = "pandas and scikit-learn around LightGBM, no comparables"
        print(f"{title:<64}{cpu / asked.rows * MICRO:>8.2f}{asked.rows / cpu:>14,.0f}")
        print(f"\nstages of {bundle.version}, its table's rows, us/row of processor time")
        for title, cpu in stages(bundle, own, folder).items():
            print(f"  {title:<20}{cpu / asked.rows * MICRO:>8.2f}")
    return 1 if wrong else 0


if __name__ == "__main__":
    isolate()
    sys.exit(main())
