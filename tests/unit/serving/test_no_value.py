"""Confidence, coverage on request and rows without a value: API, files, records, cache, metrics."""

import io

import numpy as np
import pyarrow as pa
import pytest

from tasador.inference.batch_scorer import BatchScorer
from tasador.monitoring.evaluate import hit_rate
from tasador.records.database import Database
from tasador.records.refused import RefusedCounts, read_refused
from tasador.records.store import RecordStore
from tasador.settings.serving import CacheSettings, ServeLimits

PREDICT = "/api/v1/predict"


@pytest.fixture
def rows(house):
    """One whose error is small, one whose error is large."""
    return [{**house, "income": 0.5}, {**house, "income": 12.0}]


@pytest.fixture
def limit(confident_bundle, rows):
    """A largest error that the first row keeps and the second does not."""
    small, large = (found.fsd for found in confident_bundle.value_rows(rows))
    assert small < large
    return (small + large) / 2.0


def answered(client, rows, query=""):
    answer = client.post(PREDICT + query, json={"instances": rows})
    assert answer.status_code == 200, answer.text
    return answer.json()["predictions"]


def test_the_service_and_python_give_the_same_confidence_and_support(serve, confident_bundle, rows):
    with serve(confident_bundle).client(timeout=60) as client:
        items = answered(client, rows)
    for item, found in zip(items, confident_bundle.value_rows(rows), strict=True):
        assert (item["fsd"], item["confidence"], item["confidence_class"]) == (
            found.fsd, found.confidence, found.confidence_class,
        )  # fmt: skip
        assert item["confidence"] == 100.0 * max(0.0, 1.0 - item["fsd"])
        assert item["support"] == found.support.plain()
        assert item["support"]["nearest_km"] >= 0.0
        assert item["no_value"] is None


def test_a_bundle_without_an_error_model_answers_null(client, house):
    (item,) = answered(client, [house])
    assert [item[name] for name in ("fsd", "confidence", "confidence_class", "support")] == [
        None
    ] * 4
    assert item["no_value"] is None
    refused = client.post(PREDICT + "?coverage=0.8", json={"instances": [house]})
    assert refused.status_code == 422
    assert "calibrated for one only" in refused.json()["detail"]


def test_a_coverage_that_is_asked_for_is_held_and_named(serve, confident_bundle, rows):
    with serve(confident_bundle, cache=CacheSettings(kind="memory")).client(timeout=60) as client:
        usual = answered(client, rows)
        narrow, wide = (answered(client, rows, f"?coverage={c}") for c in (0.5, 0.99))
        assert answered(client, rows)[0]["interval"] == usual[0]["interval"]
        wrong = client.post(PREDICT + "?coverage=0.3", json={"instances": rows})
        none = client.post(PREDICT + "?coverage=much", json={"instances": rows})
    for a, b, c in zip(narrow, usual, wide, strict=True):
        assert [one["interval"]["coverage"] for one in (a, b, c)] == [0.5, 0.9, 0.99]
        widths = [one["interval"]["upper"] - one["interval"]["lower"] for one in (a, b, c)]
        assert widths[0] < widths[1] < widths[2]
    assert wrong.status_code == none.status_code == 422
    assert "50% to 99%" in wrong.json()["errors"][0]["expected"]


@pytest.mark.parametrize("kind", ["off", "memory"])
def test_a_row_of_too_large_an_error_gets_the_reason_and_no_value(
    serve, confident_bundle, rows, limit, kind
):
    running = serve(
        confident_bundle, no_value=ServeLimits(max_fsd=limit), cache=CacheSettings(kind=kind)
    )
    name = confident_bundle.contract.target.prediction_name
    with running.client(timeout=60) as client:
        for _ in range(2):  # from memory too
            kept, silent = answered(client, rows)
            assert kept[name] > 0
            assert kept["no_value"] is None
            assert silent[name] is None
            assert silent["interval"] is None
            assert "serve.max_fsd" in silent["no_value"]
            assert silent["fsd"] > limit
        text = client.get("/metrics").text
        mlflow = client.post("/invocations", json={"dataframe_records": rows}).json()
    assert "tasador_no_value_rows_total 2.0" in text
    assert "tasador_predictions_count 2.0" in text
    assert mlflow["predictions"][1][name] is None


def test_a_value_may_be_null_by_the_schema_only_where_a_limit_is_set(serve, confident_bundle):
    name = confident_bundle.contract.target.prediction_name
    for limits, one, other in (
        (ServeLimits(), {"type": "number"}, {"$ref": "#/components/schemas/Interval"}),
        (ServeLimits(min_support=1), {"anyOf": [{"type": "number"}, {"type": "null"}]}, {}),
    ):
        with serve(confident_bundle, no_value=limits).client(timeout=60) as client:
            schemas = client.get("/openapi.json").json()["components"]["schemas"]
        fields = schemas["Valuation"]["properties"]
        assert one.items() <= fields[name].items()
        assert other.items() <= fields["interval"].items()
        assert {"fsd", "no_value"} <= set(schemas["Valuation"]["required"])


def test_a_row_with_too_few_comparables_gets_no_value(serve, confident_bundle, house):
    far = {**house, "lon": 120.0, "lat": -40.0}
    with serve(confident_bundle, no_value=ServeLimits(min_support=1)).client(timeout=60) as client:
        near, alone = answered(client, [house, far])
    assert near["support"]["within_reach"] >= 1
    assert near["no_value"] is None
    assert alone["support"]["within_reach"] == 0
    assert alone["support"]["nearest_km"] > 5000
    assert set(alone["support"]["outside"]) >= {"lon", "lat"}
    assert "0 comparables lie within reach" in alone["no_value"]


def test_what_is_withheld_is_recorded_and_counted_as_hit_rate(
    serve, confident_bundle, rows, limit, tmp_path
):
    running = serve(confident_bundle, no_value=ServeLimits(max_fsd=limit))
    with running.client(timeout=60) as client:
        answered(client, rows)
    (file,) = tmp_path.glob("service*/records.db")
    store = RecordStore(Database.open(f"sqlite:///{file}"))
    (batch,) = store.read(0.0, 1e12)
    at = np.argsort(batch.fsd)
    assert np.isfinite(batch.prediction).all()
    assert batch.fsd[at][0] < limit < batch.fsd[at][1]
    assert batch.no_value[at][0] == ""
    assert "max_fsd" in batch.no_value[at][1]
    counts = read_refused(store.database, 0.0, 1e12, confident_bundle.manifest.name)
    assert counts.no_value == 1
    (finding,) = hit_rate(counts, 2)
    assert finding.numbers == {"share": 0.5, "rows": 1}
    assert not list(hit_rate(RefusedCounts(), 2))


def test_a_file_has_the_confidence_and_the_reasons(serve, confident_bundle, rows, limit):
    limits = ServeLimits(max_fsd=limit)
    batch = pa.RecordBatch.from_pylist([*rows, {**rows[0], "kind": "barn"}])
    scored = BatchScorer(confident_bundle, limits=limits, coverage=0.5).score(batch).to_pylist()
    name = confident_bundle.contract.target.prediction_name
    values = confident_bundle.value_rows(rows, coverage=0.5)
    assert [one["fsd"] for one in scored] == [*(found.fsd for found in values), None]
    assert [one[name] for one in scored] == [values[0].prediction, None, None]
    assert [one["lower"] for one in scored] == [values[0].lower, None, None]
    assert scored[0]["no_value"] is None
    assert "serve.max_fsd" in scored[1]["no_value"]
    assert scored[2]["error"]
    assert scored[2]["no_value"] is None
    text = io.BytesIO()
    text.write(b"lon,lat,income,rooms,area,kind\n")
    for row in rows:
        text.write(",".join(str(value) for value in row.values()).encode() + b"\n")
    with serve(confident_bundle, no_value=limits).client(timeout=60) as client:
        lines = client.post(
            "/api/v1/score", content=text.getvalue(),
            headers={"content-type": "text/csv", "accept": "application/x-ndjson"},
        ).text.splitlines()  # fmt: skip
    assert '"no_value":null' in lines[0]
    assert "serve.max_fsd" in lines[1]
