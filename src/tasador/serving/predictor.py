"""`Engine`: a loaded bundle, ready to check, value and annotate rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasador.registry.model_bundle import ModelBundle
from tasador.serving.request_parsing import Rows, encode

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Predictions:
    """Values of n rows.

    Attributes:
        prediction: n estimates, in the target's unit.
        lower: n lower ends of the interval.
        upper: n upper ends.
        notes: By row index, only for rows that have any: what their sender should know.
    """

    prediction: list[float]
    lower: list[float]
    upper: list[float]
    notes: dict[int, list[str]]


class Predictor:
    """Checks and values rows with one bundle; may be used from several threads at once.

    Args:
        bundle: The loaded bundle.
        source: Where it came from, e.g. ``"mlflow"``.
    """

    def __init__(self, bundle: ModelBundle, source: str) -> None:
        self.bundle = bundle
        self.source = source
        self.version = bundle.version
        self.variant: str | None = None  # its part in an experiment
        self.contract = bundle.contract
        self.check = bundle.check
        self.prediction_name = bundle.contract.target.prediction_name
        self.coverage = bundle.interval.coverage

    def encode(self, values: Sequence[Any], place: str = "instances") -> Rows:
        """Encode rows as they were sent; see `request_parsing.encode`."""
        return encode(values, self.bundle.encoder, self.check, place)

    def predict(self, X: Floats) -> Predictions:
        """Value encoded rows (n, p) that `check` accepts."""
        prediction, lower, upper, notes = self.bundle.appraise(X)
        return Predictions(prediction.tolist(), lower.tolist(), upper.tolist(), notes)
