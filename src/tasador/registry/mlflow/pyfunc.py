"""MLflow's door to a bundle: ``mlflow.pyfunc.load_model`` calls `_load_pyfunc` of this module.

MLflow itself is not imported here. No pickle takes part: MLflow stores the bundle's folder and this
module's name, nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tasador.contract.model import Column, TableContract, plain_name
from tasador.core.errors import ValidationError

if TYPE_CHECKING:
    import pandas as pd


class RepeatedColumnError(ValidationError):
    """A frame that has a column more than once."""

    @classmethod
    def of(cls, name: str, times: int) -> RepeatedColumnError:
        """Return the error of the column `name`."""
        return cls(
            f"the column {name!r} is there {times} times", remedy="rename or drop the others"
        )


class Predictor(Protocol):
    """The part of a bundle that is used here."""

    @property
    def contract(self) -> TableContract:
        """The contract of the table that the bundle was trained on."""

    def predict_columns(self, columns: dict[str, Sequence[Any]]) -> NDArray[np.float64]:
        """Return the (n,) estimates for n rows given as columns."""


class BundleModel:
    """A bundle that takes and returns pandas frames.

    Args:
        bundle: What values the rows.
    """

    def __init__(self, bundle: Predictor) -> None:
        self.bundle = bundle

    def predict(self, model_input: pd.DataFrame) -> pd.DataFrame:
        """Value rows.

        Args:
            model_input: One row per thing to value, with the contract's columns in any order.
                Columns that the contract does not use are ignored; a nullable column may be
                left out.

        Returns:
            One column, named by the contract's ``prediction_name``, with the input's index.

        Raises:
            ValidationError: A column is missing or there twice, or a row does not meet the
                contract; names the first, counted from 1.
        """
        import pandas as pd

        contract = self.bundle.contract
        there = [plain_name(str(name)) for name in model_input.columns]
        columns = {
            column.name: _values(model_input, there, column)
            for column in (*contract.fields, *(c for c in contract.features if c.from_text))
            if column.name in there or (column.nullable and not column.from_text)
        }
        estimates = self.bundle.predict_columns(columns) if len(model_input) else np.empty(0)
        return pd.DataFrame({contract.target.prediction_name: estimates}, index=model_input.index)


def _values(frame: pd.DataFrame, there: list[str], column: Column) -> Sequence[Any]:
    """Return a column as a list of plain values, None where one is missing.

    `there` are the frame's columns by `plain_name`.
    """
    if column.name not in there:
        return [None] * len(frame)
    if there.count(column.name) > 1:
        raise RepeatedColumnError.of(column.name, there.count(column.name))
    series = frame.iloc[:, there.index(column.name)]
    if series.dtype.kind == "M":
        series = series.dt.strftime("%Y-%m-%dT%H:%M:%S.%f%z")
    plain: list[Any] = series.astype(object).where(series.notna(), None).tolist()
    return plain


def _load_pyfunc(path: str) -> BundleModel:
    """Load the bundle at `path`, every file's checksum first; called by MLflow."""
    from tasador.registry.model_bundle import load_bundle

    return BundleModel(load_bundle(Path(path)))
