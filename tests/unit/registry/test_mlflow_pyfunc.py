"""The pyfunc door with a stand-in bundle: no MLflow and no model needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tasador.contract.reader import from_dict
from tasador.core.errors import BundleError
from tasador.registry.mlflow.pyfunc import BundleModel, _load_pyfunc

CONTRACT = from_dict(
    {
        "name": "flats",
        "title": "Flats",
        "model_name": "flats",
        "columns": {
            "area": {"kind": "number"},
            "rooms": {"kind": "integer", "nullable": True},
            "side": {"kind": "category", "categories": ["north", "south"]},
            "sold": {"kind": "datetime", "nullable": True},
            "street": {"kind": "text"},
        },
        "target": {"name": "price", "prediction_name": "estimate"},
    }
)


class StandIn:
    contract = CONTRACT

    def __init__(self) -> None:
        self.seen: Mapping[str, Sequence[Any]] = {}

    def predict_columns(self, columns: Mapping[str, Sequence[Any]]) -> Any:
        self.seen = columns
        return np.arange(len(columns["area"]), dtype=float)


def test_values_reach_the_bundle_plain_with_none_for_missing() -> None:
    bundle = StandIn()
    frame = pd.DataFrame(
        {
            "area": [50, 60.5],
            "rooms": pd.array([2, None], dtype="Int64"),
            "side": ["north", None],
            "sold": pd.to_datetime(["2020-01-02", None]),
            "street": ["a", "b"],
            "other": [1, 2],
        },
        index=["x", "y"],
    )
    answer = BundleModel(bundle).predict(frame)
    assert answer.to_dict() == {"estimate": {"x": 0.0, "y": 1.0}}
    assert bundle.seen == {
        "area": [50.0, 60.5],
        "rooms": [2, None],
        "side": ["north", None],
        "sold": ["2020-01-02T00:00:00.000000", None],
    }


def test_a_nullable_column_may_be_left_out_and_others_are_left_to_the_bundle() -> None:
    bundle = StandIn()
    BundleModel(bundle).predict(pd.DataFrame({"area": [1.0]}))
    assert bundle.seen == {"area": [1.0], "rooms": [None], "sold": [None]}


def test_no_rows_give_no_estimates() -> None:
    answer = BundleModel(StandIn()).predict(pd.DataFrame({"area": []}))
    assert list(answer.columns) == ["estimate"]
    assert len(answer) == 0


def test_a_folder_without_a_bundle_is_refused(tmp_path: Any) -> None:
    with pytest.raises(BundleError, match="no bundle"):
        _load_pyfunc(str(tmp_path))
