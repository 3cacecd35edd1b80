"""`Engine`: a loaded bundle, ready to check, value and annotate rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasador.data.row_check import RowCheck
from tasador.registry.bundle import ModelBundle
from tasador.serving.intake import Rows, encode

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Appraisals:
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


class Engine:
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
        self.check = RowCheck(bundle.encoder)
        self.prediction_name = bundle.contract.target.prediction_name
        self.coverage = bundle.interval.coverage
        self._names = bundle.contract.feature_names
        self._least, self._most = _training_range(bundle)

    def encode(self, values: Sequence[Any], place: str = "instances") -> Rows:
        """Encode rows as they were sent; see `intake.encode`."""
        return encode(values, self.bundle.encoder, self.check, place)

    def appraise(self, X: Floats) -> Appraisals:
        """Value encoded rows (n, p) that `check` accepts."""
        prediction, lower, upper = self.bundle.value_arrays(X)
        return Appraisals(prediction.tolist(), lower.tolist(), upper.tolist(), self._notes(X))

    def _notes(self, X: Floats) -> dict[int, list[str]]:
        # written so that NaN counts as outside: one test finds both what is odd and what is missing
        odd = ~((self._least <= X) & (self._most >= X))
        notes: dict[int, list[str]] = {}
        if odd.any():
            for row, column in np.argwhere(odd).tolist():
                value = X[row, column]
                name = self._names[column]
                if np.isnan(value):
                    note = f"{name} was missing and has been imputed"
                else:
                    least, most = self._least[column], self._most[column]
                    note = f"{name} {value:g} lies outside the training range [{least:g}, {most:g}]"
                notes.setdefault(row, []).append(note)
        return notes


def _training_range(bundle: ModelBundle) -> tuple[Floats, Floats]:
    """Return the least and greatest training value of each column; open where none is known."""
    columns = bundle.profile.get("columns", {})
    least, most = [], []
    for name in bundle.contract.feature_names:
        profile = columns.get(name, {})
        low, high = profile.get("min"), profile.get("max")
        least.append(-np.inf if low is None else float(low))
        most.append(np.inf if high is None else float(high))
    return np.array(least), np.array(most)
