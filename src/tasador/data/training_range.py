"""`TrainingRange`: what is unusual about a row that the contract accepts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasador.data.contract import TableContract

Floats = NDArray[np.float64]


class TrainingRange:
    """Knows between which values each column lay in training.

    Args:
        contract: Names the columns.
        profile: The reference profile; columns that it lacks are open on both sides.
    """

    def __init__(self, contract: TableContract, profile: Mapping[str, Any]) -> None:
        self._names = contract.feature_names
        columns = profile.get("columns", {})
        least, most = [], []
        for name in self._names:
            found = columns.get(name, {})
            low, high = found.get("min"), found.get("max")
            least.append(-np.inf if low is None else float(low))
            most.append(np.inf if high is None else float(high))
        self._least, self._most = np.array(least), np.array(most)

    def notes(self, X: Floats) -> dict[int, list[str]]:
        """Return what the sender of encoded rows (n, p) should know, by row; usual rows are absent.

        Named are values that were missing and so imputed, and those outside the training range.
        """
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
