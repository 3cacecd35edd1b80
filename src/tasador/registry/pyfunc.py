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

from tasador.data.contract import Column, TableContract

if TYPE_CHECKING:
    import pandas as pd


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
            TasadorError: A column is missing or a value does not meet the contract.
        """
        import pandas as pd

        contract = self.bundle.contract
        columns = {
            column.name: _values(model_input, column)
            for column in contract.features
            if column.name in model_input.columns or column.nullable
        }
        estimates = self.bundle.predict_columns(columns) if len(model_input) else np.empty(0)
        return pd.DataFrame({contract.target.prediction_name: estimates}, index=model_input.index)


def _values(frame: pd.DataFrame, column: Column) -> Sequence[Any]:
    """Return a column as a list of plain values, None where one is missing."""
    if column.name not in frame.columns:
        return [None] * len(frame)
    series = frame[column.name]
    if series.dtype.kind == "M":
        series = series.dt.strftime("%Y-%m-%dT%H:%M:%S.%f%z")
    plain: list[Any] = series.astype(object).where(series.notna(), None).tolist()
    return plain


def _load_pyfunc(path: str) -> BundleModel:
    """Load the bundle at `path`, every file's checksum first; called by MLflow."""
    from tasador.registry.bundle import load_bundle

    return BundleModel(load_bundle(Path(path)))
