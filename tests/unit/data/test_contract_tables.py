"""Points and tables of derived columns, read from files into the contract."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest

from tasador.contract.encoding import Encoder
from tasador.contract.reader import from_dict
from tasador.contract.row_check import TrainingRange
from tasador.core.errors import ContractError
from tasador.data.contract_tables import with_files_read, with_levels_learned


def contract(**more):
    return from_dict(
        {
            "name": "homes",
            "target": {"name": "price"},
            "columns": {
                "lon": {"kind": "number"},
                "lat": {"kind": "number"},
                "zip": {"kind": "category", "categories": ["01101", "01108"], "open": True},
                "tract": {"kind": "integer"},
            },
            **more,
        }
    )


ROW = {"lon": 0.0, "lat": 0.5, "zip": "01108", "tract": 7}


def test_the_nearest_point_of_a_file_and_a_joined_column_become_features(tmp_path):
    (tmp_path / "stations.csv").write_text("name,Lng,Lattitude,Lat\na,0,9,0\nb,0,9,10\n")
    (tmp_path / "areas.csv").write_text('PLZ;income;homes\n01101;"1.000,5";7\n01108;2.500,0;9\n')
    found = with_files_read(
        contract(
            derive={"km": {"distance_to": ["lon", "lat"], "file": "stations.csv"}},
            join=[{"file": "areas.csv", "by": "zip", "key": "PLZ", "columns": ["income", "homes"]}],
        ),
        [tmp_path],
    )
    row = dict(zip(found.feature_names, Encoder(found).codes(ROW), strict=True))
    assert row["km"] == pytest.approx(55.6, abs=0.1)
    assert (row["income"], row["homes"]) == (2500.0, 9.0)
    assert from_dict(found.to_dict()) == found
    (tmp_path / "stations.csv").unlink()
    (tmp_path / "areas.csv").unlink()
    assert with_files_read(found, [tmp_path]) == found


def test_a_key_may_be_a_number(tmp_path):
    (tmp_path / "t.csv").write_text("tract,rate\n7,0.5\n8,0.75\n")
    found = with_files_read(
        contract(derive={"rate": {"lookup": "tract", "file": "t.csv"}}), [tmp_path]
    )
    encoder = Encoder(found)
    assert encoder.codes(ROW)[-1] == 0.5
    assert encoder.codes({**ROW, "tract": 9})[-1] != encoder.codes({**ROW, "tract": 9})[-1]


@pytest.mark.parametrize(
    ("text", "derive", "words"),
    [
        (None, {"lookup": "zip", "file": "t.csv"}, "there is no file t.csv"),
        ("zip,y\n1,2\n", {"lookup": "zip", "file": "t.csv"}, "no column 'x'.*`key` and `value`"),
        ("zip,x\n1,2\n1,3\n", {"lookup": "zip", "file": "t.csv"}, "two values of 'x' for '1'"),
        ("a,b\n1,2\n", {"distance_to": ["lon", "lat"], "file": "t.csv"}, "no column of the longit"),
    ],
)
def test_a_file_that_does_not_serve_is_refused(tmp_path, text, derive, words):
    if text is not None:
        (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ContractError, match=words):
        with_files_read(contract(derive={"x": derive}), [tmp_path])


PARCEL = {
    "parcel": {"kind": "text"},
    "plat": {
        "kind": "category", "learned": True, "nullable": True,
        "from": "parcel", "extract": {"without_last": 4},
    },
    "zone": {"kind": "category", "learned": True, "case_sensitive": False},
}  # fmt: skip


def parcels(**more):
    columns = {**PARCEL, **{name: {**PARCEL[name], **own} for name, own in more.items()}}
    return from_dict({"name": "lots", "target": {"name": "price"}, "columns": columns})


def test_levels_are_learned_from_the_table_and_travel_in_the_contract():
    table = pl.DataFrame({"parcel": [1000102, 1200013, 120, None], "zone": ["R1", "r1", "C", " C"]})
    found = from_dict(with_levels_learned(parcels(), table).to_dict())
    assert found.column("plat").categories == ("100", "120")
    assert found.column("zone").categories == ("C", "R1")
    assert found.column("plat").open
    assert found.schema_fingerprint == parcels().schema_fingerprint
    encode = Encoder(found).row
    row = {"zone": "c"}
    sent = [
        encode({**row, "parcel": parcel}).ravel().tolist() for parcel in ("1200999", 1000001, "7")
    ]
    assert [plat for plat, _ in sent][:2] == [1.0, 0.0]
    assert math.isnan(sent[2][0])
    unknown = encode({**row, "plat": "999"})
    assert unknown.ravel()[0] == 2.0
    assert not TrainingRange(found, {}).outside(np.atleast_2d(unknown)).any()
    assert encode({**row, "plat": "120"}).ravel()[0] == 1.0


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"zone": {"open": False}}, "open: true"),
        ({"zone": {"kind": "number"}}, "only a category"),
        ({"plat": {"extract": {"without_last": 0}}}, "from 1 to 100"),
    ],
)
def test_levels_that_cannot_be_learned_are_refused(more, words):
    with pytest.raises(ContractError, match=words):
        parcels(**more)
