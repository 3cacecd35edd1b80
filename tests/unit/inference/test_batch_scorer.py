"""Batches are valued with the answers of a running service, bit for bit."""

from __future__ import annotations

import datetime as dt
import io
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasador.contract.encoding import Encoder, as_of_field
from tasador.contract.formats import seconds_of
from tasador.contract.reader import from_dict
from tasador.core.errors import ConfigError, ValidationError
from tasador.inference.batch_scorer import BatchScorer
from tasador.registry.model_bundle import ModelBundle

NUMBERS = st.floats(-5.0, 60.0) | st.sampled_from([float("nan"), float("inf"), 1e300, 0.0, -0.0])
CELLS = {
    "lon": st.floats(-180.0, 180.0),
    "lat": st.floats(-90.0, 90.0),
    "income": NUMBERS,
    "rooms": st.integers(-1, 60) | st.none(),
    "area": st.floats(1.0, 1e4) | st.none(),
    "kind": st.sampled_from(["flat", "HOUSE", " villa", "house", "barn", "", None]),
}


@pytest.fixture(scope="module")
def scorer(house_bundle: ModelBundle) -> BatchScorer:
    return BatchScorer(house_bundle)


def many_rows(n: int, seed: int = 3) -> dict[str, Any]:
    """Rows of which a few are wrong in each way."""
    rng = np.random.default_rng(seed)
    kinds = np.array(["flat", "HOUSE", "villa", "barn"])[rng.choice(4, n, p=[0.4, 0.3, 0.25, 0.05])]
    rooms = rng.integers(0, 9, n)
    return {
        "lon": rng.uniform(-4.0, -3.0, n),
        "lat": rng.uniform(40.0, 41.0, n),
        "income": np.where(rng.random(n) < 0.05, -1.0, rng.lognormal(1.0, 0.4, n)),
        "rooms": pa.array(rooms, mask=rng.random(n) < 0.1),
        "area": pa.array(rng.uniform(30.0, 300.0, n), mask=rng.random(n) < 0.03),
        "kind": kinds.tolist(),
    }


def answers_of(client: httpx.Client, batch: pa.RecordBatch) -> list[dict[str, Any]]:
    """What `POST /api/v1/score` answers to the batch as a Parquet file."""
    file = io.BytesIO()
    parquet.write_table(pa.Table.from_batches([batch]), file)
    answer = client.post(
        "/api/v1/score",
        content=file.getvalue(),
        headers={
            "content-type": "application/vnd.apache.parquet",
            "accept": "application/x-ndjson",
        },
    )
    assert answer.status_code == 200, answer.text
    return [orjson.loads(line) for line in answer.content.splitlines()]


def test_a_running_service_answers_a_file_the_same(client: httpx.Client, scorer: BatchScorer):
    batch = pa.record_batch(many_rows(5_000))
    found = scorer.score(batch).to_pylist()
    assert len(found) == 5_000
    refused = 0
    for mine, its in zip(found, answers_of(client, batch), strict=True):
        refused += its["error"] is not None
        assert mine["prediction"] == its["prediction"]
        assert (mine["lower"], mine["upper"]) == (its["lower"], its["upper"])
        assert mine["error"] == its["error"]
        assert mine["warnings"] == ("; ".join(its["warnings"] or ()) or None)
    assert 300 < refused < 3_000


def test_a_running_service_predicts_the_same(client: httpx.Client, scorer: BatchScorer):
    rows = pa.record_batch(many_rows(2_000)).to_pylist()
    found = scorer.score(pa.RecordBatch.from_pylist(rows)).to_pylist()
    right = [row for row, answer in zip(rows, found, strict=True) if answer["error"] is None][:500]
    answer = client.post("/api/v1/predict", json={"instances": right}).json()
    mine = [row["prediction"] for row in found if row["error"] is None][:500]
    assert [one["prediction"] for one in answer["predictions"]] == mine


@settings(max_examples=60)
@given(rows=st.lists(st.fixed_dictionaries(CELLS), min_size=1, max_size=20), text=st.booleans())
def test_every_batch_equals_its_rows_one_by_one(
    rows: list[dict[str, Any]], text: bool, house_bundle: ModelBundle
):
    scorer = BatchScorer(house_bundle)
    if text:  # as a CSV's cells
        rows = [{k: "" if v is None else str(v) for k, v in row.items()} for row in rows]
    batch = pa.RecordBatch.from_pylist(rows)
    for row, found in zip(rows, scorer.score(batch).to_pylist(), strict=True):
        faults = scorer._check.faults(row)
        if faults:
            assert found["prediction"] is found["lower"] is found["upper"] is None
            assert found["error"] == scorer._check.reasons(row)
            continue
        alone = house_bundle.value(row)
        assert found["error"] is None
        values = found["prediction"], found["lower"], found["upper"]
        assert values == (alone.prediction, alone.lower, alone.upper)


def test_identifiers_are_handed_on_and_others_by_choice(
    house_bundle: ModelBundle, monkeypatch: pytest.MonkeyPatch
):
    batch = pa.record_batch(many_rows(10) | {"id": list("abcdefghij"), "note": [1] * 10})
    made = ["prediction", "lower", "upper", "warnings", "error"]
    made += ["fsd", "confidence_class", "no_value"]
    assert BatchScorer(house_bundle).score(batch).schema.names == made
    chosen = BatchScorer(house_bundle, keep=["note", "id", "kind"])
    found = chosen.score(batch)
    assert found.schema.names == ["note", "id", "kind", *made]
    assert found.column("id").to_pylist() == list("abcdefghij")
    assert {"id", "note"} < set(chosen.columns)


def test_a_kept_column_that_is_not_there_is_named(house_bundle: ModelBundle):
    with pytest.raises(ValidationError, match="'id' is not there to be kept"):
        BatchScorer(house_bundle, keep=["id"]).score(pa.record_batch(many_rows(2)))


def test_a_kept_column_may_not_have_the_name_of_an_answer(house_bundle: ModelBundle):
    with pytest.raises(ConfigError, match="'lower' cannot be kept"):
        BatchScorer(house_bundle, keep=["lower"])


def test_missing_columns_are_all_named(scorer: BatchScorer):
    batch = pa.record_batch(many_rows(2)).drop_columns(["income", "kind"])
    with pytest.raises(ValidationError, match="no income, kind among lon, lat, rooms, area"):
        scorer.score(batch)


def test_a_column_that_is_there_twice_is_refused(scorer: BatchScorer):
    batch = pa.record_batch(many_rows(2))
    twice = pa.RecordBatch.from_arrays(
        [*batch.columns, batch.column(0)], names=[*batch.schema.names, "lon"]
    )
    with pytest.raises(ValidationError, match="'lon' is there 2 times"):
        scorer.score(twice)


def test_a_nullable_column_may_be_left_out(scorer: BatchScorer, house_bundle: ModelBundle):
    batch = pa.record_batch(many_rows(50)).drop_columns(["rooms"])
    for row, found in zip(batch.to_pylist(), scorer.score(batch).to_pylist(), strict=True):
        if found["error"] is None:
            assert found["prediction"] == house_bundle.value(row).prediction
            assert "rooms was missing and has been imputed" in found["warnings"]


def test_no_rows_give_no_rows(scorer: BatchScorer):
    assert scorer.score(pa.record_batch(many_rows(3)).slice(0, 0)).num_rows == 0


def test_what_is_lacking_is_said_of_texts_too_and_a_day_replaces_dates(
    house_bundle: ModelBundle,
) -> None:
    contract = from_dict(
        {
            "columns": {
                "engine": {"kind": "text"},
                "power": {"kind": "number", "from": "engine", "extract": {"number": 1}},
                "sold": {"kind": "datetime", "role": "timestamp"},
            },
            "target": {"name": "price"},
        }
    )
    bundle = replace(house_bundle, contract=contract)
    with pytest.raises(ValidationError, match="got no engine, sold among area"):
        BatchScorer(bundle).check_columns(["area"])
    with pytest.raises(ValidationError, match="got no engine among area"):
        BatchScorer(bundle, as_of="2024-01-31").check_columns(["area"])
    BatchScorer(bundle, as_of="2024-01-31").check_columns(["engine"])


def test_a_day_is_given_by_the_columns_own_name_where_it_is_part_of_a_text() -> None:
    contract = from_dict(
        {
            "columns": {
                "deed": {"kind": "text"},
                "sold": {
                    "kind": "datetime", "role": "timestamp", "from": "deed",
                    "extract": {"word": 1},
                },
            },
            "target": {"name": "price"},
        }
    )  # fmt: skip
    row = {"deed": "2020-05-01 of Lugo", **as_of_field(contract, "2024-01-31")}
    day = Encoder(contract).row(row)[0, 0]
    assert day == seconds_of(dt.date(2024, 1, 31))
