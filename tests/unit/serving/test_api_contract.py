"""What clients of the reference API rely on, and what a generated client is told."""

import concurrent.futures
import shutil

import pytest

from tasador.registry.mlflow.registration import stamp_release
from tasador.registry.model_bundle import load_bundle

REFUSAL = {"type", "title", "status", "detail", "instance", "error", "request_id", "errors"}
TEXTS = {"expected", "got", "remedy"}
FAULT = {"loc", "msg", "type", "expected", "got", "remedy"}
PREDICT = "/api/v1/predict"


def faults(answer):
    assert answer.status_code == 422
    assert set(answer.json()) - TEXTS == REFUSAL
    assert all(set(found) == FAULT for found in answer.json()["errors"])
    return [(found["loc"], found["type"]) for found in answer.json()["errors"]]


def test_the_root_says_what_this_is(client):
    assert client.get("/").json() == {"name": "tasador", "version": "9.9.9", "docs_url": "/docs"}
    assert client.get("/docs").status_code == 200


def test_health_says_whether_a_model_is_loaded(client, serve):
    found = client.get("/health").json()
    assert (found["status"], found["model_loaded"], found["version"]) == ("healthy", True, "9.9.9")
    with serve(None).client() as empty:
        answer = empty.get("/health")
        assert answer.status_code == 200
        assert (answer.json()["status"], answer.json()["model_loaded"]) == ("unhealthy", False)
        refused = empty.post(PREDICT, json={"instances": [{}]})
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
        assert empty.get("/api/v1/model/info").json()["model_version"] is None


def test_health_and_info_name_the_release_and_answers_keep_the_version(
    serve, house, house_bundle, tmp_path
):
    folder = tmp_path / "bundle"
    shutil.copytree(house_bundle.folder, folder)
    stamp_release(folder, "1.2.0")
    with serve(load_bundle(folder)).client() as client:
        for path in ("/health", "/api/v1/model/info"):
            found = client.get(path).json()
            assert (found["release"], found["model_version"]) == ("1.2.0", house_bundle.version)
        answer = client.post(PREDICT, json={"instances": [house]}).json()
        assert answer["model_version"] == house_bundle.version


def test_predict_answers_an_estimate_an_interval_and_an_id_for_every_row(
    client, house, house_bundle
):
    other = {**house, "rooms": None, "income": 90.0}
    answer = client.post(PREDICT, json={"instances": [house, other]})
    assert answer.status_code == 200
    body = answer.json()
    assert body["model_version"] == house_bundle.version
    expected = house_bundle.value(house)
    first, second = body["predictions"]
    assert first["prediction"] == expected.prediction
    assert first["interval"] == {
        "lower": expected.lower,
        "upper": expected.upper,
        "coverage": expected.coverage,
    }
    assert first["warnings"] == []
    assert second["warnings"] == ["rooms was missing and has been imputed"]
    assert first["prediction_id"] != second["prediction_id"]


def test_the_model_describes_itself(client, house_bundle):
    found = client.get("/api/v1/model/info").json()
    assert (found["status"], found["model_loaded"]) == ("ready", True)
    assert found["model_version"] == house_bundle.version
    assert (found["unit"], found["origin"]) == ("USD", "synthetic")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"kind": "castle"}, [(["instances", 0, "kind"], "invalid_value")]),
        ({"income": -0.1}, [(["instances", 0, "income"], "invalid_value")]),
        ({"income": 100.1}, [(["instances", 0, "income"], "invalid_value")]),
        ({"rooms": 2.5}, [(["instances", 0, "rooms"], "invalid_value")]),
        ({"income": "much"}, [(["instances", 0, "income"], "invalid_value")]),
        ({"income": None}, [(["instances", 0, "income"], "invalid_value")]),
        (
            {"lon": 200, "lat": 100},
            [
                (["instances", 0, "lon"], "invalid_value"),
                (["instances", 0, "lat"], "invalid_value"),
            ],
        ),
    ],
)
def test_a_value_outside_the_contract_is_422_with_its_place(client, house, change, expected):
    assert faults(client.post(PREDICT, json={"instances": [{**house, **change}]})) == expected


def test_a_missing_field_and_an_empty_list_are_422(client, house):
    del house["lon"]
    assert faults(client.post(PREDICT, json={"instances": [house]})) == [
        (["instances", 0, "lon"], "missing")
    ]
    assert faults(client.post(PREDICT, json={"instances": []})) == [(["instances"], "invalid_list")]


def test_every_fault_of_every_row_is_listed_and_no_row_is_valued(client, running, house):
    written = running.writer.status().written
    rows = [house, {**house, "income": -1}, 7, {**house, "kind": 3, "area": 0}]
    assert [loc for loc, _ in faults(client.post(PREDICT, json={"instances": rows}))] == [
        ["instances", 1, "income"],
        ["instances", 2],
        ["instances", 3, "area"],
        ["instances", 3, "kind"],
    ]
    assert running.writer.status().written == written


def test_categories_match_in_upper_and_lower_case_when_the_contract_says_so(
    house_contract, house_bundle
):
    import dataclasses

    from tasador.contract.encoding import Encoder
    from tasador.contract.row_check import RowCheck

    columns = tuple(
        dataclasses.replace(c, case_sensitive=False) if c.kind == "category" else c
        for c in house_contract.columns
    )
    check = RowCheck(Encoder(dataclasses.replace(house_contract, columns=columns)))
    row = {"lon": -3.5, "lat": 40.5, "income": 3.0, "rooms": 4, "area": 100.0}
    assert check.faults({**row, "kind": "FLAT"}) == []
    assert RowCheck(house_bundle.encoder).faults({**row, "kind": "FLAT"}) != []


def test_a_version_may_be_asked_for(client, house, house_bundle):
    body = {"instances": [house]}
    for version, status in (("latest", 200), (house_bundle.version, 200), ("7", 404)):
        answer = client.post(f"{PREDICT}?model_version={version}", json=body)
        assert answer.status_code == status
    assert answer.json()["error"] == "unknown_version"


@pytest.mark.parametrize("route", [PREDICT, "/api/v1/explain"])
def test_a_model_without_dates_values_nothing_as_of_a_day(client, house, route):
    answer = client.post(f"{route}?as_of=2024-01-31", json={"instances": [house]})
    assert answer.status_code == 422
    (fault,) = answer.json()["errors"]
    assert fault["loc"] == ["query", "as_of"]
    assert "role timestamp" in fault["expected"]


def test_a_row_is_explained(client, house):
    answer = client.post("/api/v1/explain", json={"instances": [house], "comparables": 3})
    found = answer.json()["explanations"][0]
    estimate = client.post(PREDICT, json={"instances": [house]}).json()["predictions"][0]
    assert found["valuation"]["prediction"] == estimate["prediction"]
    assert len(found["comparables"]) == 3
    parts = sum(part["value"] for part in found["contributions"])
    import math

    assert math.exp(found["expected"] + parts) == pytest.approx(estimate["prediction"])
    money = found["base"] + sum(group["amount"] for group in found["groups"])
    assert money == pytest.approx(estimate["prediction"], abs=0.005)
    km = [near["distance_km"] for near in found["comparables"]]
    within = {"instances": [house], "comparables": 3, "radius_km": min(km)}
    (only,) = client.post("/api/v1/explain", json=within).json()["explanations"]
    assert [near["distance_km"] for near in only["comparables"]] == [min(km)]
    for name, value in (("since", "2020-01-01"), ("same", ["colour"])):
        refused = client.post("/api/v1/explain", json={"instances": [house], name: value})
        assert refused.status_code == 422
        assert faults(refused) == [([name], "invalid_value")]
    none = client.post("/api/v1/explain", json={"instances": [house], "comparables": 0})
    assert none.json()["explanations"][0]["comparables"] == []
    bad = client.post("/api/v1/explain", json={"instances": [house], "comparables": 65})
    assert faults(bad) == [(["comparables"], "invalid_value")]


def test_outcomes_are_taken_by_the_id_of_their_valuation(client, running, house):
    made = client.post(PREDICT, json={"instances": [house]}).json()["predictions"][0]
    sent = {"prediction_id": made["prediction_id"], "actual": 123456.0}
    answer = client.post("/api/v1/outcomes", json={"outcomes": [sent]})
    assert answer.json()["results"] == [
        {"prediction_id": made["prediction_id"], "status": "accepted"}
    ]
    assert running.outcomes[-1].actual == 123456.0
    bad = client.post("/api/v1/outcomes", json={"outcomes": [{"actual": "much"}]})
    assert [loc for loc, _ in faults(bad)] == [
        ["outcomes", 0, "prediction_id"],
        ["outcomes", 0, "actual"],
    ]


def test_the_document_has_units_bounds_and_an_example_that_works(client):
    document = client.get("/openapi.json").json()
    row = document["components"]["schemas"]["Row"]
    income = row["properties"]["income"]
    assert (income["minimum"], income["maximum"]) == (0.0, 100.0)
    assert row["properties"]["kind"]["enum"] == ["flat", "house", "villa"]
    assert set(row["required"]) == {"lon", "lat", "income", "area", "kind"}
    assert (
        document["components"]["schemas"]["Valuation"]["properties"]["prediction"]["unit"] == "USD"
    )
    answer = client.post(PREDICT, json={"instances": row["examples"]})
    assert answer.status_code == 200
    refusal = document["paths"][PREDICT]["post"]["responses"]["422"]
    assert refusal["content"]["application/problem+json"]["schema"]["$ref"].endswith(
        "/ProblemDetails"
    )
    assert {"/v2/models/{name}/infer", "/invocations", "/api/v1/score"} <= set(document["paths"])


def test_concurrent_requests_get_exactly_the_answers_they_get_alone(client, house):
    rows = [{**house, "income": 1 + i % 37, "area": 50 + i, "rooms": i % 8 or None}
            for i in range(120)]  # fmt: skip
    alone = [client.post(PREDICT, json={"instances": [row]}).json()["predictions"][0]["prediction"]
             for row in rows]  # fmt: skip

    def ask(i):
        row = dict(rows[i])
        if i % 5 == 0:
            row["income"] = -1.0
        return client.post(PREDICT, json={"instances": [row]}, timeout=30)

    with concurrent.futures.ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(ask, range(len(rows))))
    for i, answer in enumerate(answers):
        if i % 5 == 0:
            assert faults(answer) == [(["instances", 0, "income"], "invalid_value")]
        else:
            assert answer.json()["predictions"][0]["prediction"] == alone[i]
    ids = [answer.json()["predictions"][0]["prediction_id"] for i, answer in enumerate(answers)
           if i % 5]  # fmt: skip
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize(
    ("requests", "turns", "batches"),
    [(8, 0, 1), (8, 1, 1), (4, 4, 4), (70, 1, 2)],
    ids=["of one turn", "of one turn after the other", "apart", "more than a batch holds"],
)
def test_requests_share_a_batch_and_a_bad_row_fails_its_own_alone(
    house_bundle, house, requests, turns, batches
):
    """Deterministic: so many turns of the loop lie between one request and the next."""
    import asyncio

    from tasador.serving.batcher import Batcher
    from tasador.serving.errors import Problem
    from tasador.serving.request_parsing import Predictor

    class Silent:
        batches = 0

        def submit(self, records):
            Silent.batches += 1

        def stage(self, name, seconds): ...
        def predictions(self, values): ...

    async def run():
        predictor = Predictor(house_bundle, "local")
        batcher = Batcher(Silent(), Silent())
        rows = [
            {**house, "area": 60.0 + i, "income": -1.0 if i == 3 else 4.0} for i in range(requests)
        ]
        waiting = []
        for row in rows:
            encoded = predictor.encode([row])
            waiting.append(batcher.value(predictor, encoded, client="c", started=0.0))
            for _ in range(turns):
                await asyncio.sleep(0)
        return rows, await asyncio.gather(*waiting, return_exceptions=True)

    rows, answers = asyncio.run(run())
    # a batch whose rows are all refused has nothing to keep
    assert Silent.batches == batches - (turns > 2)
    for i, answer in enumerate(answers):
        if i == 3:
            assert isinstance(answer, Problem)
            assert answer.errors[0]["loc"] == ["instances", 0, "income"]
        else:
            assert answer.predictions.prediction == [house_bundle.value(rows[i]).prediction]
