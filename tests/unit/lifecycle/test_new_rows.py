"""Outcomes as training rows: what is left out, and how little one client can do."""

from __future__ import annotations

import dataclasses
import datetime as dt
import math
from types import SimpleNamespace

import numpy as np
import orjson
import polars as pl
import pytest

from fixtures.houses import Recipe, houses, train_bundle
from tasador.contract.encoding import Encoder
from tasador.contract.formats import date_text
from tasador.contract.reader import from_dict
from tasador.data.table import Table
from tasador.data.validation import validate_table
from tasador.lifecycle.new_rows import (
    NewRows,
    common_shift,
    extended_table,
    read_rows,
    usable_rows,
)
from tasador.lifecycle.retrain import important_columns
from tasador.records.store import RecordBatch
from tasador.settings.run import RetrainSettings

OPEN = RetrainSettings(max_new_share=0.9, max_client_share=1.0)


@pytest.fixture(scope="module")
def bundle(house_contract, tmp_path_factory):
    folder = tmp_path_factory.mktemp("champion")
    return train_bundle(folder / "b", house_contract, houses(1500), folder / "data", Recipe())


def batch(frame: pl.DataFrame, clients=None, variant="champion", start=0) -> RecordBatch:
    rows = frame.to_dicts()
    n = len(rows)
    return RecordBatch.from_rows(
        [
            (
                f"id-{start + i}", float(start + i), "v", variant, "local",
                orjson.dumps({k: v for k, v in row.items() if k != "price"}),
                100.0, 90.0, 110.0, 0.9, 1.0, "a" if clients is None else clients[i],
                math.nan, None, row["price"], float(start + i),
            )
            for i, row in enumerate(rows)
        ]
        or [("", 0.0, "", "", "", b"{}", *[math.nan] * 5, "", math.nan, None, *[math.nan] * 2)] * n
    )  # fmt: skip


def known(bundle, frame=None):
    frame = houses(1500) if frame is None else frame
    X = bundle.encoder.columns({n: frame[n].to_list() for n in bundle.contract.feature_names})
    return np.column_stack([X, frame["price"].to_numpy()])


def read(bundle, *batches, conflicting=()):
    return read_rows(batches, frozenset(conflicting), bundle)


def usable(bundle, rows, settings=OPEN):
    return usable_rows(rows, known(bundle), bundle, settings)


def test_good_rows_of_several_clients_are_all_taken(bundle):
    frame = houses(400, seed=7)
    rows = usable(bundle, read(bundle, batch(frame, ["a", "b", "c", "d"] * 100)))
    assert len(rows) == 400
    assert rows.left_out == {}
    assert rows.y.tolist() == frame["price"].to_list()


def test_what_does_not_meet_the_contract_or_contradicts_is_left_out_and_counted(bundle):
    frame = houses(50, seed=8)
    wrong = frame.with_columns(
        pl.when(pl.int_range(50) == 3).then(-5.0).otherwise(pl.col("area")).alias("area"),
        pl.when(pl.int_range(50) == 4).then(pl.lit("hut")).otherwise(pl.col("kind")).alias("kind"),
        pl.when(pl.int_range(50) == 5).then(1e12).otherwise(pl.col("price")).alias("price"),
    )
    rows = read(bundle, batch(wrong), conflicting=["id-9"])
    assert rows.left_out == {
        "contradicting outcomes for one estimate": 1,
        "does not meet the contract": 2,
        "outcome outside the target's bounds": 1,
    }
    assert len(rows) == 46


def test_shadow_estimates_are_no_rows_of_their_own(bundle):
    assert len(read(bundle, batch(houses(5, seed=8), variant="shadow"))) == 0


def test_no_outcomes_at_all_are_no_rows(bundle):
    rows = usable(bundle, read(bundle))
    assert len(rows) == 0
    assert rows.X.shape == (0, 6)


def test_known_rows_and_repeats_are_taken_once_and_contradictions_not_at_all(bundle):
    old, new = houses(1500).head(3), houses(20, seed=9)
    again = new.head(2).with_columns(pl.col("price") * 1.05)
    contrary = new.tail(1).with_columns(pl.col("price") * 3)
    rows = usable(
        bundle,
        read(bundle, batch(pl.concat([old, new])), batch(pl.concat([again, contrary]), start=100)),
        dataclasses.replace(OPEN, outlier_spreads=50.0),
    )
    assert rows.left_out == {
        "known already": 3, "contradicting outcomes for one house": 2, "repeated": 2,
    }  # fmt: skip
    assert len(rows) == 19
    assert set(again["price"].to_list()) <= set(rows.y.tolist())  # the latest stays


def test_a_rise_that_all_clients_see_is_learned(bundle):
    frame = houses(400, seed=10, inflation=1.5)
    rows = usable(bundle, read(bundle, batch(frame, ["a", "b", "c", "d"] * 100)))
    assert len(rows) > 390


def test_a_client_that_alone_reports_other_prices_is_set_aside(bundle):
    frame = houses(400, seed=11).with_columns(
        pl.when(pl.int_range(400) % 4 == 3)
        .then(pl.col("price") * 1.6)
        .otherwise(pl.col("price"))
        .alias("price")
    )
    rows = usable(bundle, read(bundle, batch(frame, ["a", "b", "c", "evil"] * 100)))
    reason = "from a client whose outcomes differ from everybody else's"
    assert rows.left_out[reason] == 100
    assert "evil" not in set(rows.client.tolist())


def test_single_absurd_outcomes_are_set_aside(bundle):
    frame = houses(200, seed=12).with_columns(
        pl.when(pl.int_range(200) < 5)
        .then(pl.col("price") * 10)
        .otherwise(pl.col("price"))
        .alias("price")
    )
    rows = usable(bundle, read(bundle, batch(frame)))
    assert rows.left_out["far from what new rows have in common"] == 5


def test_no_client_and_not_all_together_exceed_their_share_and_the_newest_stay(bundle):
    frame = houses(2000, seed=13)
    clients = ["flood"] * 1900 + ["a"] * 100
    rows = read(bundle, batch(frame, clients))
    settings = RetrainSettings(max_new_share=0.4, max_client_share=0.1)
    kept = usable(bundle, rows, settings)
    table = 1500 + min(len(rows), 1000)
    count = int(np.sum(kept.client == "flood"))
    assert count == int(0.1 * table)
    assert np.sum(kept.client == "a") == 100
    assert kept.left_out["beyond one client's share"] == 1900 - count
    assert kept.time.min() == 1900 - count
    much = usable(bundle, rows, RetrainSettings(max_new_share=0.2, max_client_share=1.0))
    assert len(much) == int(1500 * 0.25)
    assert much.time.min() == 2000 - len(much)


def test_the_new_table_has_the_reference_first_and_is_the_same_every_time(bundle):
    frame = houses(30, seed=14)
    rows = usable(bundle, read(bundle, batch(frame)))
    reference = houses(1500).with_columns(pl.lit("x").alias("unused"))
    table = extended_table(reference, rows, bundle)
    assert table.columns == [c for c in reference.columns if c != "unused"]
    assert table.head(1500).equals(houses(1500))
    assert table.tail(30)["price"].to_list() == frame["price"].to_list()
    assert table.tail(30)["kind"].to_list() == frame["kind"].to_list()
    assert table.equals(extended_table(reference, rows, bundle))
    none = usable(bundle, read(bundle))
    assert extended_table(reference, none, bundle).height == 1500


def test_a_move_that_all_share_is_measured_and_the_reference_brought_to_its_level(bundle):
    rows = usable(
        bundle, read(bundle, batch(houses(400, seed=10, inflation=1.5), ["a", "b", "c", "d"] * 100))
    )
    level = common_shift(rows, bundle, OPEN)
    assert level == pytest.approx(1.5, rel=0.03)
    table = extended_table(houses(1500), rows, bundle, level)
    assert np.allclose(table["price"][:1500], houses(1500)["price"] * level)
    assert table["price"][1500:].to_list() == rows.y.tolist()
    still = usable(bundle, read(bundle, batch(houses(400, seed=10))))
    assert common_shift(still, bundle, OPEN) is None
    assert common_shift(rows, bundle, dataclasses.replace(OPEN, level_from=0.0)) is None
    few = rows.keep(np.arange(len(rows)) < 50, "few")
    assert common_shift(few, bundle, OPEN) is None


def test_columns_that_move_no_estimate_are_not_important(bundle):
    X = known(bundle)[:, :-1]
    found = important_columns(bundle, X, 0.05)
    assert {"income", "area", "kind"} <= found
    assert not {"lon", "lat", "rooms"} & found
    assert important_columns(bundle, X[:1], 0.05) == frozenset(bundle.contract.feature_names)


def test_a_reference_written_in_its_own_way_is_extended_by_values():
    contract = from_dict(
        {
            "name": "cars",
            "target": {"name": "price", "format": {"decimal": ",", "thousands": "."}},
            "columns": {
                "sold": {"kind": "datetime", "format": {"dates": ["%d/%m/%Y"]}},
                "engine": {"kind": "text"},
                "hp": {"kind": "number", "nullable": True, "from": "engine",
                       "extract": {"before": "HP"}},
            },
        }
    )  # fmt: skip
    reference = pl.DataFrame({"sold": ["3/12/2016"], "engine": ["300HP V6"], "price": ["1.250,50"]})
    encoder = Encoder(contract)
    new = encoder.columns({"sold": [dt.datetime(2020, 1, 2)], "engine": ["200 HP"]})
    one = np.array([1.0])
    rows = NewRows(new, np.array([999.5]), one, one, np.array(["a"], object))
    table = extended_table(reference, rows, SimpleNamespace(contract=contract, encoder=encoder))
    read = validate_table(Table(table, "h", "real", "s"), contract, min_rows=1)
    assert read.y.tolist() == [1250.5, 999.5]
    assert read.X[:, 1].tolist() == [300, 200]
    assert [date_text(seconds) for seconds in read.X[:, 0]] == ["2016-12-03", "2020-01-02"]
