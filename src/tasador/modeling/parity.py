"""Proof that an exported model answers as the library that trained it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasador.core import seeds
from tasador.core.progress import progress
from tasador.modeling.errors import ParityError
from tasador.trees.onnx_model import OnnxRegressor

Floats = NDArray[np.float64]
Predict = Callable[[Floats], Floats]

TOLERANCE = 1e-9
_CHUNK = 16_384
_WIDENED_BY = 0.25
_BLOCK_OF_TREES = 64


@dataclass(frozen=True)
class Parity:
    """How far two implementations of a model are apart.

    Attributes:
        rows: Number of rows compared.
        max_abs_difference: Largest absolute difference of two scores.
        max_relative: Largest difference over the larger of 1 and the score's size.
    """

    rows: int
    max_abs_difference: float
    max_relative: float


def check_parity(
    library_predict: Predict,
    onnx: OnnxRegressor,
    X_train: Floats,
    rows: int = 200_000,
    seed: int = 42,
    thresholds: Mapping[int, Floats] | None = None,
) -> Parity:
    """Compare the exported model with the library's own on generated rows.

    The rows are of five kinds in equal parts: every column drawn from its training values; uniform
    over the training range widened by a quarter on both sides; exact hits of split values (training
    values where a column has none); the float64 neighbours of the rounding of such values to
    float32; and real training rows. NaN appears in the columns where training has it, as often.

    Args:
        library_predict: The library's prediction, (n, q) to (n,).
        onnx: The exported model.
        X_train: Training features, shape (m, q), m >= 1.
        rows: Number of rows to compare; they are made and dropped chunk by chunk.
        seed: Seed of the rows.
        thresholds: Split values by column, from `TreeEnsemble.thresholds`.

    Returns:
        The largest differences found.

    Raises:
        TrainingError: A difference above 1e-9 of the score (of 1 for scores below 1), or an answer
            that is not a number in one of them only.
    """
    worst_absolute, worst_relative, done = 0.0, 0.0, 0
    with progress("checking the exported model", rows) as advance:
        for Z in _generated(X_train, rows, seed, thresholds or {}):
            want = np.asarray(library_predict(Z), dtype=np.float64).ravel()
            absolute = _difference(want, onnx.predict(Z))
            relative = absolute / np.maximum(1.0, np.nan_to_num(np.abs(want)))
            worst_absolute = max(worst_absolute, float(absolute.max()))
            worst_relative = max(worst_relative, float(relative.max()))
            # written so that NaN, which is in no order, is refused too
            if not worst_relative <= TOLERANCE:
                _refuse(Z, want, onnx, int(relative.argmax()), worst_relative)
            done += len(Z)
            advance(len(Z))
    return Parity(done, worst_absolute, worst_relative)


def _difference(want: Floats, got: Floats) -> Floats:
    """Return |want - got|; equal infinities and two NaN are no difference, one NaN is infinite."""
    same = (want == got) | (np.isnan(want) & np.isnan(got))
    with np.errstate(invalid="ignore"):
        gap = np.abs(want - got)
    result: Floats = np.where(same, 0.0, np.where(np.isnan(gap), np.inf, gap))
    return result


def _refuse(Z: Floats, want: Floats, onnx: OnnxRegressor, row: int, relative: float) -> None:
    got = onnx.predict(Z[row : row + 1])[0]
    raise ParityError.of(relative, TOLERANCE, float(want[row]), float(got))


def _generated(
    X: Floats, rows: int, seed: int, thresholds: Mapping[int, Floats]
) -> Iterator[Floats]:
    rng = seeds.generator(seed, "parity")
    low, high = _ranges(X)
    special = [_finite(thresholds.get(j, X[:, j])) for j in range(X.shape[1])]
    missing = np.isnan(X).mean(axis=0)
    for start in range(0, rows, _CHUNK):
        n = min(_CHUNK, rows - start)
        drawn, uniform, hits, near, real = (n * part // 5 for part in range(1, 6))
        Z = np.empty((n, X.shape[1]))
        for j in range(X.shape[1]):
            Z[:drawn, j] = rng.choice(X[:, j], drawn)
            Z[drawn:uniform, j] = rng.uniform(low[j], high[j], uniform - drawn)
            Z[uniform:hits, j] = rng.choice(special[j], hits - uniform)
            Z[hits:near, j] = _around_float32(rng.choice(special[j], near - hits), rng)
        Z[near:] = X[rng.integers(0, len(X), real - near)]
        # real rows have gaps of their own
        Z[:near][rng.random((near, X.shape[1])) < missing] = np.nan
        yield Z


def _ranges(X: Floats) -> tuple[Floats, Floats]:
    """Return each column's training range, widened; [0, 1] for a column of NaN only."""
    low, high = np.zeros(X.shape[1]), np.ones(X.shape[1])
    for j in range(X.shape[1]):
        values = _finite(X[:, j])
        # a constant column has no range that could be widened
        margin = _WIDENED_BY * (values.max() - values.min()) or 1.0
        low[j], high[j] = values.min() - margin, values.max() + margin
    return low, high


def _finite(values: Floats) -> Floats:
    kept = values[np.isfinite(values)]
    return kept if len(kept) else np.zeros(1)


def _around_float32(values: Floats, rng: np.random.Generator) -> Floats:
    """Return values next to the float32 rounding of `values`, where a wrong cast shows."""
    with np.errstate(over="ignore"):
        rounded = values.astype(np.float32)
    steps = rng.integers(0, 4, len(values))
    double = rounded.astype(np.float64)
    choices: Floats = np.choose(
        steps,
        (
            double,
            np.nextafter(double, np.inf),
            np.nextafter(values, -np.inf),
            np.nextafter(rounded, np.float32(np.inf)).astype(np.float64),
        ),
    )
    return choices


def lightgbm_predictor(booster: Any, num_iteration: int | None = None, threads: int = 0) -> Predict:
    """Return LightGBM's prediction by blocks of trees: the same sum in half the time.

    LightGBM sends each row through all trees, which for thousands of trees do not fit the
    processor's cache; blocks do. The sum of blocks differs from LightGBM's by rounding (1e-13).

    Args:
        booster: A ``lightgbm.Booster`` or a fitted ``LGBMRegressor``, not of boosting type rf.
        num_iteration: Number of trees; by default as in `importers.from_lightgbm`.
        threads: 0 for all cores.
    """
    booster = getattr(booster, "booster_", booster)
    if num_iteration is None:
        num_iteration = int(booster.best_iteration)
    total = int(booster.current_iteration())
    total = min(total, num_iteration) if num_iteration > 0 else total

    def predict(X: Floats) -> Floats:
        score = np.zeros(len(X))
        for start in range(0, total, _BLOCK_OF_TREES):
            count = min(_BLOCK_OF_TREES, total - start)
            score += booster.predict(
                X, start_iteration=start, num_iteration=count, num_threads=threads
            )
        return score

    return predict
