"""The average of several models as one model of the same form."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tasador.core.errors import TrainingError
from tasador.modeling.trees import LEAF, LinearModel, TreeEnsemble

Floats = NDArray[np.float64]


def average(
    models: Sequence[TreeEnsemble | LinearModel], shift: float = 0.0
) -> TreeEnsemble | LinearModel:
    """Return one model whose score is the mean of the models' scores, plus `shift`.

    Args:
        models: Trees only, or linear models only; at least one, over the same columns.
        shift: Added to every score.

    Raises:
        TrainingError: Trees and linear models together.
    """
    if not shift and len(models) == 1:
        return models[0]
    trees = [model for model in models if isinstance(model, TreeEnsemble)]
    linear = [model for model in models if isinstance(model, LinearModel)]
    if trees and linear:
        raise TrainingError("trees and linear models cannot be averaged into one model")
    if linear:
        return LinearModel(
            coef=np.mean([model.coef for model in linear], axis=0),
            intercept=float(np.mean([model.intercept for model in linear])) + shift,
        )
    if len(trees) == 1:
        return dataclasses.replace(trees[0], base=trees[0].base + shift)
    return _joined([in_double_precision(model) for model in trees], shift)


def in_double_precision(model: TreeEnsemble) -> TreeEnsemble:
    """Return the same trees over inputs that are not rounded to float32 first.

    A library that rounds its inputs sends x left when round(x) <= t. With f the largest float32 up
    to t, these are the x that round to f or less: those below the middle between f and the next
    float32, and the middle itself when rounding to even takes it down.
    """
    if not model.float32_inputs:
        return model
    inner = model.feature >= 0
    with np.errstate(over="ignore"):
        f = model.threshold.astype(np.float32)
        f = np.where(
            f.astype(np.float64) > model.threshold, np.nextafter(f, np.float32(-np.inf)), f
        )
        above = np.nextafter(f, np.float32(np.inf))
    finite = np.isfinite(f) & np.isfinite(above)
    low = np.where(finite, f, np.float32(0)).astype(np.float64)
    middle = low + (np.where(finite, above, np.float32(0)).astype(np.float64) - low) / 2.0
    down = np.where(finite, middle, 0.0).astype(np.float32).astype(np.float64) <= low
    edge = np.where(down, middle, np.nextafter(middle, -np.inf))
    # past the largest float32 there is no next one: what is not rounded to infinity stays left
    largest = np.float64(np.finfo(np.float32).max)
    beyond = np.nextafter(largest + 2.0**103, -np.inf)
    edge = np.where(finite, edge, np.where(f == np.float32(largest), beyond, model.threshold))
    threshold = np.where(inner, edge, 0.0)
    return dataclasses.replace(model, threshold=threshold, float32_inputs=False)


def _joined(models: Sequence[TreeEnsemble], shift: float) -> TreeEnsemble:
    offsets = np.cumsum([0, *(model.n_nodes for model in models)])[:-1]

    def moved(name: str) -> NDArray[np.int32]:
        parts = [
            np.where(getattr(m, name) == LEAF, LEAF, getattr(m, name) + offset)
            for m, offset in zip(models, offsets, strict=True)
        ]
        return np.concatenate(parts).astype(np.int32)

    def values() -> Floats:
        return np.concatenate([m.value * (m.scale / len(models)) for m in models])

    return TreeEnsemble(
        feature=np.concatenate([m.feature for m in models]),
        threshold=np.concatenate([m.threshold for m in models]),
        left=moved("left"),
        right=moved("right"),
        value=values(),
        missing_left=np.concatenate([m.missing_left for m in models]),
        cover=np.concatenate([m.cover for m in models]),
        roots=np.concatenate(
            [m.roots + offset for m, offset in zip(models, offsets, strict=True)]
        ).astype(np.int32),
        n_features=models[0].n_features,
        base=float(np.mean([m.base for m in models])) + shift,
    )
