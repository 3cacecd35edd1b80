"""Columns that follow from others."""

from __future__ import annotations

import numpy as np
import pytest

from tasador.contract.encoding import Encoder
from tasador.contract.reader import from_dict
from tasador.contract.row_check import RowCheck
from tasador.core.errors import ContractError

PLAIN = {
    "name": "homes",
    "target": {"name": "price"},
    "columns": {
        "sold": {"kind": "datetime", "format": {"dates": ["%d/%m/%Y"]}},
        "built": {"kind": "integer"},
        "area": {"kind": "number"},
        "rooms": {"kind": "number", "nullable": True},
        "lon": {"kind": "number"},
        "lat": {"kind": "number"},
        "zone": {"kind": "category", "categories": ["a", "b"], "open": True},
    },
    "derive": {
        "age": {"difference": ["sold", "built"]},
        "area_per_room": {"ratio": ["area", "rooms"]},
        "log_area": {"log": "area"},
        "all": {"sum": ["area", "rooms", "built"]},
        "km": {"distance_to": ["lon", "lat"], "points": [[0, 0], [0, 10]], "unit": "km"},
        "income": {"lookup": "zone", "table": {"a": 10, "B": 20.5}},
        "twice": {"sum": ["log_area", "log_area"]},
    },
}
ROW = {"sold": "1/7/2020", "built": 2000, "area": 100.0, "rooms": 4.0, "lon": 0.0, "lat": 1.0,
       "zone": "b"}  # fmt: skip


def encoded(row: dict[str, object]) -> dict[str, float]:
    contract = from_dict(PLAIN)
    codes = Encoder(contract).codes(row)
    return dict(zip(contract.feature_names, codes, strict=True))


def test_each_operation_gives_its_number():
    found = encoded(ROW)
    assert found["age"] == pytest.approx(20.5, abs=0.01)
    assert found["area_per_room"] == 25
    assert found["log_area"] == pytest.approx(np.log(100))
    assert found["all"] == 2104
    assert found["km"] == pytest.approx(111.2, abs=0.1)  # a degree of latitude
    assert found["income"] == 20.5
    assert found["twice"] == pytest.approx(2 * np.log(100))


def test_what_follows_from_a_missing_or_impossible_value_is_missing():
    found = encoded({**ROW, "rooms": None, "area": -3.0, "zone": "elsewhere"})
    assert np.isnan([found[n] for n in ("area_per_room", "log_area", "all", "income")]).all()
    assert np.isnan(encoded({**ROW, "rooms": 0})["area_per_room"])


def test_rows_columns_and_single_rows_agree_and_nobody_sends_derived_columns():
    contract = from_dict(PLAIN)
    encoder = Encoder(contract)
    rows = [ROW, {**ROW, "area": 55.5, "zone": "A"}, {**ROW, "rooms": None}]
    columns = {name: [row[name] for row in rows] for name in ROW}
    np.testing.assert_array_equal(encoder.rows(rows), encoder.columns(columns))
    np.testing.assert_array_equal(RowCheck(encoder).rows(rows), encoder.columns(columns))
    assert set(contract.field_names) == set(ROW)


def test_the_contract_is_read_back_from_what_it_is_written_as():
    contract = from_dict(PLAIN)
    assert from_dict(contract.to_dict()) == contract


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"difference": ["sold"]}, r"derive.x.difference: expected 2 column\(s\), got 1"),
        ({"ratio": ["area", "roms"]}, "no column 'roms'.*did you mean 'rooms'"),
        ({"log": "zone"}, "'zone' is of kind category: expected number or integer"),
        ({"lookup": "zone"}, "needs `table`, or a `file`"),
        ({"distance_to": ["lon", "lat"], "points": [[0, 0]] * 10_001}, "at most 10000 points"),
        ({"cube": "area"}, "derive.x.cube: unknown key"),
        ({"sum": ["area", "roll"]}, "made of 'roll', which has the role rival.*role: rival"),
        ({"log": "area", "role": "segment"}, "derive.x.role: unknown value 'segment'"),
        ({"log": "area", "sum": ["area", "rooms"]}, "expected one operation"),
        ({"difference": ["sold", "built"], "in": "year"}, "did you mean 'years'"),
    ],
)
def test_what_cannot_be_derived_is_refused_with_a_hint(entry, words):
    with pytest.raises(ContractError, match=words):
        from_dict(
            {
                **PLAIN,
                "columns": {**PLAIN["columns"], "roll": {"kind": "number", "role": "rival"}},
                "derive": {"x": entry},
            }
        )


def test_a_derived_rival_is_no_feature_and_replaces_its_parts():
    rival = {"kind": "number", "role": "rival"}
    plain = {
        **PLAIN,
        "columns": {**PLAIN["columns"], "land": rival, "house": rival, "agent": rival},
        "derive": {**PLAIN["derive"], "roll": {"sum": ["land", "house"], "role": "rival"}},
    }
    contract = from_dict(plain)
    assert [column.name for column in contract.rivals] == ["agent", "roll"]
    assert contract.features == from_dict(PLAIN).features
    assert contract.schema_fingerprint == from_dict(PLAIN).schema_fingerprint
    assert from_dict(contract.to_dict()) == contract
