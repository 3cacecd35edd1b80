import json
import math
import warnings

import pytest

ROWS = [
    {"lon": -3.5, "lat": 40.5, "income": 3.0, "rooms": 4, "area": 100.0, "kind": "flat"},
    {"lon": -3.2, "lat": 40.1, "income": 5.5, "rooms": None, "area": 210.0, "kind": "villa"},
    {"lon": -3.9, "lat": 40.9, "income": 1.5, "rooms": 2, "area": 45.5, "kind": "house"},
]
COLUMNS = list(ROWS[0])
TABLE = [list(row.values()) for row in ROWS]
CSV = "\n".join(
    ",".join("" if value is None else str(value) for value in row) for row in [COLUMNS, *TABLE]
)
JSON_BODIES = {
    "split": {"dataframe_split": {"columns": COLUMNS, "data": TABLE}},
    "split with an index": {
        "dataframe_split": {"index": [7, 8, 9], "columns": COLUMNS, "data": TABLE}
    },
    "split of no rows": {"dataframe_split": {"columns": COLUMNS, "data": []}},
    "records": {"dataframe_records": ROWS},
    "inputs by column": {"inputs": {name: [row[name] for row in ROWS] for name in COLUMNS}},
    "inputs of full rows": {"inputs": [ROWS[0], ROWS[2]]},
    "instances": {"instances": [ROWS[0], ROWS[2]]},
    "NaN": {
        "dataframe_split": {"columns": COLUMNS, "data": [[*TABLE[0][:3], math.nan, 90.0, "flat"]]}
    },
}


@pytest.fixture(scope="module")
def reference(written_bundle, house_contract, tmp_path_factory):
    """Answer as `mlflow models serve` does, by its own code."""
    import mlflow
    from mlflow.pyfunc.scoring_server import invocations

    from tasador.registry.mlflow.registry import _signature

    path = tmp_path_factory.mktemp("mlflow") / "model"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*input example", category=UserWarning)
        mlflow.pyfunc.save_model(
            path,
            loader_module="tasador.registry.mlflow.pyfunc",
            data_path=str(written_bundle),
            signature=_signature(house_contract),
            pip_requirements=[],
        )
    model = mlflow.pyfunc.load_model(str(path))

    def ask(content: str, kind: str):
        # MLflow's CSV reader knows no columns of any type: there it guesses, as without a schema
        schema = model.metadata.get_input_schema() if "json" in kind else None
        answer = invocations(content, kind, model, schema)
        assert answer.status == 200
        return json.loads(answer.response)

    return ask


def post(client, content, kind="application/json"):
    return client.post("/invocations", content=content, headers={"content-type": kind})


@pytest.mark.parametrize("body", JSON_BODIES.values(), ids=JSON_BODIES)
def test_every_form_of_json_is_answered_as_mlflow_answers_it(client, reference, body):
    text = json.dumps(body)
    answer = post(client, text)
    assert answer.status_code == 200
    assert answer.json() == reference(text, "application/json")


def test_csv_is_answered_as_mlflow_answers_it(client, reference):
    answer = post(client, CSV, "text/csv; charset=utf-8")
    assert answer.json() == reference(CSV, "text/csv")
    assert len(answer.json()["predictions"]) == 3


def test_parquet_is_answered_too(client):
    import io

    import pyarrow
    import pyarrow.parquet

    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), file)
    answer = post(client, file.getvalue(), "application/vnd.apache.parquet")
    assert answer.json() == post(client, CSV, "text/csv").json()


def test_ping_and_version_answer_as_a_container_platform_expects(client, serve):
    assert client.get("/ping").status_code == 200
    assert client.get("/version").text == "9.9.9"
    with serve(None).client() as empty:
        assert empty.get("/ping").status_code == 503


REFUSED = {
    "no JSON": (b"{", "application/json", 422, "invalid_request"),
    "very deep JSON": (b"[" * 100_000, "application/json", 422, "invalid_request"),
    "no known form": (b'{"rows": []}', "application/json", 422, "invalid_request"),
    "two forms": (b'{"inputs": [], "instances": []}', "application/json", 422, "invalid_request"),
    "a list": (b"[]", "application/json", 422, "invalid_request"),
    "records of no list": (b'{"dataframe_records": 3}', "application/json", 422, "invalid_request"),
    "records of no objects": (
        b'{"dataframe_records": [3]}',
        "application/json",
        422,
        "invalid_rows",
    ),
    "split without columns": (
        b'{"dataframe_split": {"data": []}}',
        "application/json",
        422,
        "invalid_request",
    ),
    "ragged split": (
        b'{"dataframe_split": {"columns": ["a"], "data": [[1], [1, 2]]}}',
        "application/json",
        422,
        "invalid_request",
    ),
    "a column twice": (
        b'{"dataframe_split": {"columns": ["income", "area", "income"], "data": [[1, 2, 3]]}}',
        "application/json",
        422,
        "invalid_request",
    ),
    "a column twice in two forms of Unicode": (
        '{"dataframe_split": {"columns": ["caf\u00e9", "cafe\u0301"], "data": [[1, 2]]}}'.encode(),
        "application/json",
        422,
        "invalid_request",
    ),
    "a column twice among columns": (
        b'{"inputs": {"income": [1], "income": [2]}}',
        "application/json",
        422,
        "duplicate_field",
    ),
    "ragged columns": (
        b'{"inputs": {"a": [1], "b": []}}',
        "application/json",
        422,
        "invalid_request",
    ),
    "too many rows": (
        json.dumps({"dataframe_records": [ROWS[0]] * 1001}).encode(),
        "application/json",
        422,
        "invalid_request",
    ),
    "infinite": (
        json.dumps({"dataframe_records": [{**ROWS[0], "income": math.inf}]}).encode(),
        "application/json",
        422,
        "invalid_rows",
    ),
    "huge integer": (
        json.dumps({"dataframe_records": [{**ROWS[0], "income": 10**400}]}).encode(),
        "application/json",
        422,
        "invalid_rows",
    ),
    "huge integer beside NaN": (
        json.dumps({"dataframe_records": [{**ROWS[0], "rooms": math.nan, "x": 10**400}]}).encode(),
        "application/json",
        200,
        None,
    ),
    "another kind": (b"<a/>", "application/xml", 415, "unsupported_media_type"),
    "no kind": (b"a", "", 415, "unsupported_media_type"),
    "csv without a column": (b"lon,lat\n1,2\n", "text/csv", 422, "invalid_header"),
    "csv with a short row": ((CSV + "\n1,2\n").encode(), "text/csv", 422, "invalid_rows"),
    "csv with a bad value": (
        CSV.replace("flat", "castle").encode(),
        "text/csv",
        422,
        "invalid_rows",
    ),
    "no parquet": (b"PAR1", "application/vnd.apache.parquet", 422, "malformed_file"),
}


@pytest.mark.parametrize(("content", "kind", "status", "error"), REFUSED.values(), ids=REFUSED)
def test_what_is_invalid_is_refused(client, content, kind, status, error):
    answer = post(client, content, kind)
    assert answer.status_code == status
    assert answer.json().get("error") == error
