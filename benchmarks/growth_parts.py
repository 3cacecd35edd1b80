"""One measurement of `growth.py`, in a process of its own.

    python benchmarks/growth_parts.py PART FOLDER ROWS COLUMNS CATEGORIES

FOLDER carries arrays from one part to the next, so that only what is named is measured: the part
"table" makes a table there. Prints one line of JSON: seconds, CPU seconds, peak memory in GB, that
memory without what the process held before, and what the answer was compared with.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isolation import isolate
from tasador.contract.model import Column, Ratio, TableContract, Target
from tasador.core import seeds
from tasador.features.comparables import ComparablesIndex
from tasador.features.pipeline import FeaturePipeline
from tasador.settings.run import FeatureSettings

Floats = NDArray[np.float64]
SEED = 42
REFUSED_EVERY = 1000
#: The first of the quick profile's grid.
LIGHTGBM = {"n_estimators": 200, "num_leaves": 23, "feature_fraction": 0.25,
            "bagging_fraction": 0.8, "min_child_samples": 20}  # fmt: skip


def make_contract(columns: int, categories: int) -> TableContract:
    """Return the contract of a generated table: a place, a category, numbers, a price."""
    numbers = [Column(f"x{i}", "number", nullable=i % 5 == 0) for i in range(columns - 3)]
    return TableContract(
        name="generated",
        title="Generated rows",
        model_name="generated_model",
        columns=(
            Column("longitude", "number", role="longitude", bounds=(-180, 180)),
            Column("latitude", "number", role="latitude", bounds=(-90, 90)),
            Column("area", "category", categories=tuple(f"a{i}" for i in range(categories))),
            *numbers,
        ),
        target=Target("price", bounds=(0, None), transform="log"),
        ratios=(Ratio("x0_per_x1", "x0", "x1"),),
    )


def make_columns(rows: int, columns: int, categories: int) -> dict[str, Any]:
    """Return generated columns; every thousandth row lies outside the contract's bounds."""
    random = seeds.generator(SEED, "growth", rows, columns, categories)
    towns = random.uniform((-124, 33), (-115, 41), (60, 2))
    place = towns[random.integers(0, 60, rows)] + random.normal(0, 0.15, (rows, 2))
    # a few levels have most of the rows, as names of streets and makers do
    level = np.minimum(random.pareto(1.0, rows) * categories / 20, categories - 1).astype(np.int64)
    level_effect = random.normal(0, 0.2, categories)
    log_price = 12 + 0.3 * np.sin(place[:, 0] * 3) + 0.3 * np.cos(place[:, 1] * 4)
    log_price += level_effect[level] + random.normal(0, 0.1, rows)
    found: dict[str, Any] = {"longitude": place[:, 0], "latitude": place[:, 1], "area": level}
    for i in range(columns - 3):
        values = np.exp(random.normal(0, 0.5, rows))
        log_price += (0.3 / (1 + i)) * np.log(values)
        if i % 5 == 0:
            values[random.random(rows) < 0.02] = np.nan
        found[f"x{i}"] = values
    found["latitude"][::REFUSED_EVERY] += 100
    found["price"] = np.exp(log_price)
    return found


@dataclass
class Job:
    """What a part works on, and the clock that it starts when it is ready."""

    folder: Path
    rows: int
    columns: int
    categories: int
    started: float = 0.0
    cpu: float = 0.0
    before_gb: float = 0.0
    found: dict[str, Any] = field(default_factory=dict)

    def load(self, name: str) -> Any:
        return np.load(self.folder / f"{name}.npy")

    def save(self, name: str, values: Any) -> None:
        np.save(self.folder / f"{name}.npy", values)

    @property
    def contract(self) -> TableContract:
        return make_contract(self.columns, self.categories)

    @property
    def pipeline(self) -> FeaturePipeline:
        return FeaturePipeline(self.contract, FeatureSettings(clusters=0), SEED)

    def start(self) -> None:
        self.before_gb = memory_gb("VmRSS")
        self.started, self.cpu = time.perf_counter(), time.process_time()

    def stop(self) -> None:
        peak = memory_gb("VmHWM")
        self.found |= {
            "seconds": time.perf_counter() - self.started,
            "cpu": time.process_time() - self.cpu,
            "peak_gb": peak,
            "grown_gb": max(peak - self.before_gb, 0.0),
        }

    def check(self, name: str, *, holds: bool) -> None:
        self.found["check"] = name if holds else f"NOT {name}"
        self.found["holds"] = bool(holds)


def memory_gb(what: str) -> float:
    """Return VmRSS or VmHWM of this process."""
    rows = Path("/proc/self/status").read_text().splitlines()
    return int(next(row for row in rows if row.startswith(what)).split()[1]) / 2**20


def table(job: Job) -> None:
    """Make the table."""
    import polars as pl

    columns = make_columns(job.rows, job.columns, job.categories)
    columns["area"] = pl.Series(columns["area"]).cast(pl.String).str.replace("^", "a")
    job.start()
    pl.DataFrame(columns, nan_to_null=True).write_parquet(job.folder / "table.parquet")
    job.stop()


def validate_and_split(job: Job) -> None:
    """Validate the rows that were read, then split them."""
    import polars as pl

    from tasador.data.split import split_table
    from tasador.data.table import Table
    from tasador.data.validation import validate_table
    from tasador.settings.run import SegregateSettings

    frame, contract = pl.read_parquet(job.folder / "table.parquet"), job.contract
    job.start()
    validated = validate_table(Table(frame, "0" * 64, "synthetic", "generated"), contract)
    splits = split_table(validated, SegregateSettings(method="row_hash"))
    job.stop()
    test = splits.sealed.open("benchmark")
    for name, part in (("train", splits.train), ("test", test)):
        job.save(f"X_{name}", part.X)
        job.save(f"y_{name}", np.log(part.y))
    outside = -(-job.rows // REFUSED_EVERY)
    whole = (
        len(validated.refused) == outside and len(splits.train) + len(test) + outside == job.rows
    )
    job.check("exactly the rows out of bounds are refused", holds=whole)


def fit_features(job: Job) -> None:
    """Fit the features and make the cross-fitted training matrix."""
    X, y, pipeline = job.load("X_train"), job.load("y_train"), job.pipeline
    job.start()
    fitted, Z = pipeline.fit_transform(X, y)
    job.stop()
    job.save("Z_train", Z)
    folds, points = pipeline._folds(len(X)), fitted.points(X)
    assert points is not None
    nearest = Z[:, fitted.names.index("comparables_mean_1")]
    same = True
    for row in np.linspace(0, len(X) - 1, 20).astype(int):
        others = np.flatnonzero(folds != folds[row])
        gap = ((points[others] - points[row]) ** 2).sum(axis=1)
        same &= bool(np.isclose(y[others[np.argmin(gap)]], nearest[row], rtol=1e-12))
    job.check("nearest row of the other folds is brute force's", holds=same)


def transform_features(job: Job) -> None:
    """Make the features of rows that were not trained on."""
    fitted = job.pipeline.fit(job.load("X_train"), job.load("y_train"))
    X = job.load("X_test")
    fitted.transform(X[:10])  # the index is built by the first call
    job.start()
    Z = fitted.transform(X)
    job.stop()
    job.save("Z_test", Z)
    job.found["units"] = len(X)
    single = all(
        fitted.transform(X[i : i + 1]).tobytes() == Z[i : i + 1].tobytes()
        for i in np.linspace(0, len(X) - 1, 50).astype(int)
    )
    job.check("one row has the bits of the batch", holds=single)


def fit_lightgbm(job: Job) -> None:
    """Fit one LightGBM with the quick profile's parameters."""
    from tasador.selection.families.catalog import family

    Z, y, lightgbm = job.load("Z_train"), job.load("y_train"), family("lightgbm")
    job.start()
    model = lightgbm.fit(LIGHTGBM, Z, y, SEED)
    job.stop()
    y_test = job.load("y_test")
    error = np.mean(np.square(lightgbm.predict(model, job.load("Z_test")) - y_test))
    r2 = 1 - error / y_test.var()
    job.check(f"R2 {r2:.2f} on rows held out", holds=r2 > 0.3)


def judge_drift(job: Job) -> None:
    """Judge as many rows as there are against a reference of as many."""
    from drift_speed import textbook_psi
    from tasador.monitoring.evaluate import evaluate
    from tasador.monitoring.reference import build_reference
    from tasador.monitoring.window import Window

    contract, X = job.contract, job.load("X_train")
    reference = build_reference(contract.features, X)
    shifted = X.copy()
    shifted[:, 3] *= 1.3
    job.start()
    windows = (
        Window.of(reference.names, shifted[start : start + 100_000])
        for start in range(0, len(X), 100_000)
    )
    verdict = evaluate(reference, windows)
    job.stop()
    found = {one.name: one.psi for one in verdict.drift}
    gap = abs(textbook_psi(X[:, 3], shifted[:, 3]) - found["x0"])
    # a sketch counts a million values a little differently
    job.check("PSI is the textbook's within 1e-3, the shift is seen",
              holds=gap < 1e-3 and verdict.level in ("warn", "alert"))  # fmt: skip


def _index(job: Job, dimensions: int) -> None:
    random = seeds.generator(SEED, "index", job.rows, dimensions)
    points = random.normal(0, 1, (job.rows, dimensions))
    target, similar = random.normal(12, 1, job.rows), random.normal(1, 0.5, job.rows)
    context = random.normal(0, 1, (job.rows, 4))
    asked, like = random.normal(0, 1, (20_000, dimensions)), random.normal(1, 0.5, 20_000)
    arrays = (points.nbytes + target.nbytes + similar.nbytes + context.nbytes) / 2**30
    job.start()
    index = ComparablesIndex.fit(points, target, similar, context)
    index.features(asked[:1], like[:1])
    job.stop()
    job.found["grown_gb"] += arrays  # what the index refers to was there before
    started = time.process_time()
    index.features(asked, like)
    job.found["query_us"] = (time.process_time() - started) / len(asked) * 1e6
    found = index.neighbours(asked[:50])
    same = np.allclose(found.distance, _brute(points, asked[:50]), rtol=1e-12)
    job.check("the 64 distances are brute force's", holds=same)


def _brute(points: Floats, asked: Floats) -> Floats:
    rows = [np.sort(np.partition(((points - one) ** 2).sum(axis=1), 64)[:64]) for one in asked]
    return np.sqrt(np.array(rows))


PARTS: dict[str, Callable[[Job], None]] = {
    "table": table,
    "validate and split": validate_and_split,
    "features, fit": fit_features,
    "features, transform": transform_features,
    "LightGBM, fit": fit_lightgbm,
    "drift, judge": judge_drift,
    "index, 2 dimensions": lambda job: _index(job, 2),
    "index, 5 dimensions": lambda job: _index(job, 5),
}


def main() -> None:
    """Measure one part and print it."""
    part, folder, *sizes = sys.argv[1:]
    job = Job(Path(folder), *map(int, sizes))
    PARTS[part](job)
    print(json.dumps(job.found))


if __name__ == "__main__":
    isolate()
    main()
