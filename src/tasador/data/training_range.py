"""`TrainingRange`: what is unusual about a row that the contract accepts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasador.data.contract import Column, TableContract

Floats = NDArray[np.float64]


class TrainingRange:
    """Knows between which values each column lay in training.

    Args:
        contract: Names the columns.
        profile: The reference profile; columns that it lacks are open on both sides.
    """

    def __init__(self, contract: TableContract, profile: Mapping[str, Any]) -> None:
        self._columns = contract.features
        columns = profile.get("columns", {})
        least, most = [], []
        for column in self._columns:
            found = columns.get(column.name, {})
            low, high = found.get("min"), found.get("max")
            if column.kind == "category":  # one code more is that of all other levels
                high = len(column.categories) - 1
            least.append(-np.inf if low is None else float(low))
            most.append(np.inf if high is None else float(high))
        self._least, self._most = np.array(least), np.array(most)

    def notes(self, X: Floats) -> dict[int, list[str]]:
        """Return what the sender of encoded rows (n, p) should know, by row; usual rows are absent.

        Named are values that were missing and so imputed, those outside the training range, and
        levels of open categories that are not known.
        """
        # written so that NaN counts as outside: one test finds both what is odd and what is missing
        odd = ~((self._least <= X) & (self._most >= X))
        notes: dict[int, list[str]] = {}
        if odd.any():
            for row, at in np.argwhere(odd).tolist():
                notes.setdefault(row, []).append(self._note(self._columns[at], at, X[row, at]))
        return notes

    def _note(self, column: Column, at: int, value: float) -> str:
        if np.isnan(value):
            return f"{column.name} was missing and has been imputed"
        if column.kind == "category":
            return (
                f"{column.name} is none of the {len(column.categories)} known levels: it is valued "
                "as an average one"
            )
        shown, least, most = map(column.text_of, (value, self._least[at], self._most[at]))
        return f"{column.name} {shown} lies outside the training range [{least}, {most}]"
