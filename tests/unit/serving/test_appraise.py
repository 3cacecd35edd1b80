"""Valuation reports of the service: its explanation as a page, refused as on every route."""

from __future__ import annotations

import html
import json
import re

import pytest

from tasador.core.errors import MissingExtraError
from tasador.core.languages import number
from tasador.ops.service import ServedReports
from tasador.serving.http.auth import new_key
from tasador.settings.serving import SecuritySettings, ServeLimits

APPRAISE, EXPLAIN = "/api/v1/appraise", "/api/v1/explain"


@pytest.fixture(scope="module")
def client(running):
    """A client that waits: the first PDF imports its library, and others use the processors too."""
    with running.client(timeout=60) as found:
        yield found


def data_of(text: str) -> dict:
    (found,) = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', text)
    return json.loads(found)


def test_a_report_has_the_numbers_of_the_explanation(client, house):
    body = {"instances": [house]}
    answer = client.post(APPRAISE, json=body)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    found = data_of(answer.text)
    explained = client.post(EXPLAIN, json=body).json()
    assert found["model_version"] == explained["model_version"]
    assert answer.headers["x-model-version"] == explained["model_version"]
    (item,) = explained["explanations"]
    mine, its = (one["valuation"].pop("prediction_id") for one in (found["explanation"], item))
    assert mine != its  # each request is recorded
    assert found["explanation"] == item
    seen = html.unescape(answer.text)
    assert mine in seen
    assert f"{number(item['valuation']['prediction'])} USD" in seen


@pytest.mark.parametrize("lang", ["en", "es"])
def test_a_pdf_comes_in_the_language_asked_for(client, house, lang):
    answer = client.post(APPRAISE, params={"format": "pdf", "lang": lang},
                         json={"instances": [house]})  # fmt: skip
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/pdf"
    assert answer.headers["content-disposition"] == 'attachment; filename="report.pdf"'
    assert answer.content.startswith(b"%PDF")
    assert f"/Lang ({lang})".encode() in answer.content
    page = client.post(APPRAISE, params={"lang": lang}, json={"instances": [house]}).text
    assert {"en": "Automated valuation", "es": "valoración automatizada"}[lang] in page


def test_number_and_filters_of_comparables_reach_the_report(client, house):
    for wanted, count in (({"comparables": 2}, 2), ({"radius_km": 0.0}, 0), ({}, 5)):
        text = client.post(APPRAISE, json={"instances": [house]} | wanted).text
        assert len(data_of(text)["explanation"]["comparables"]) == count
        assert ("names no comparable" in text) is (count == 0)


@pytest.mark.parametrize(
    ("query", "change", "place"),
    [
        ({"lang": "fr"}, {}, ["query", "lang"]),
        ({"format": "docx"}, {}, ["query", "format"]),
        ({"as_of": "2024-05-01"}, {}, ["query", "as_of"]),  # houses have no date of the sale
        ({}, {"instances": []}, ["instances"]),
        ({}, {"comparables": 6}, ["comparables"]),
        ({}, {"same": ["colour"]}, ["same"]),
    ],
)
def test_what_cannot_be_written_is_a_problem_with_its_place(client, house, query, change, place):
    answer = client.post(APPRAISE, params=query, json={"instances": [house]} | change)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert [one["loc"][-len(place) :] for one in answer.json()["errors"]] == [place]


def test_two_rows_are_too_many_and_a_bad_row_is_counted(client, house):
    many = client.post(APPRAISE, json={"instances": [house, house]})
    assert many.status_code == 422
    bad = client.post(APPRAISE, json={"instances": [house | {"area": -5}]})
    assert (bad.status_code, bad.json()["error"]) == (422, "invalid_rows")
    counted = client.get("/metrics").text
    assert re.search(r'tasador_refused_values_total\{[^}]*field="area"[^}]*\} [1-9]', counted)


def test_a_key_is_needed_as_everywhere(serve, house):
    key, line = new_key("tests", "client")
    service = serve(security=SecuritySettings(keys=(line.line(),)))
    with service.client(timeout=60) as client:
        body = {"instances": [house]}
        assert client.post(APPRAISE, json=body).status_code == 401
        assert client.post(APPRAISE, json=body, headers={"x-api-key": key}).status_code == 200


@pytest.mark.parametrize("lang", ["en", "es"])
def test_a_row_without_a_value_has_the_reason_in_its_place(serve, confident_bundle, house, lang):
    far = {**house, "lon": 120.0, "lat": -40.0}
    name = confident_bundle.contract.target.prediction_name
    with serve(confident_bundle, no_value=ServeLimits(min_support=1)).client(timeout=60) as client:
        answer = client.post(APPRAISE, params={"lang": lang}, json={"instances": [far]})
    assert answer.status_code == 200, answer.text
    valuation = data_of(answer.text)["explanation"]["valuation"]
    assert valuation[name] is None
    assert "0 comparables lie within reach" in valuation["no_value"]
    reason = {"en": "0 comparables lie within reach", "es": "hay 0 comparables al alcance"}[lang]
    assert '<p class="reason">' in answer.text
    assert reason in answer.text.split('class="reason"')[-1]
    assert {"en": "No value is given", "es": "No se da ningún valor"}[lang] in answer.text
    seen = re.sub(r"<script.*?</script>", "", html.unescape(answer.text), flags=re.DOTALL)
    estimate = confident_bundle.value_rows([far])[0].prediction
    assert number(estimate, 0, lang) not in seen


def test_without_its_library_no_value_is_recorded(serve, house, monkeypatch):
    def refuse(self, kind):
        raise MissingExtraError.for_package("fpdf2", "appraise")

    monkeypatch.setattr(ServedReports, "check", refuse)
    service = serve()
    with service.client(timeout=60) as client:
        answer = client.post(APPRAISE, params={"format": "pdf"}, json={"instances": [house]})
    assert (answer.status_code, answer.json()["error"]) == (503, "report_unavailable")
    assert "'fpdf2' is not installed" in answer.json()["detail"]
    assert "appraise" in answer.json()["remedy"]
    assert service.writer.status().written == 0


def test_the_document_shows_the_route_with_an_example_row(client, house):
    document = client.get("/openapi.json").json()
    operation = document["paths"][APPRAISE]["post"]
    assert operation["summary"] == "Write the valuation report of a row"
    named = {one["name"]: one for one in operation["parameters"]}
    assert set(named) == {"lang", "format", "as_of", "model_version", "coverage"}
    assert named["lang"]["schema"]["enum"] == ["en", "es"]
    assert set(operation["responses"]["200"]["content"]) == {"text/html", "application/pdf"}
    model = document["components"]["schemas"]["AppraiseRequest"]
    assert model["properties"]["instances"]["maxItems"] == 1
    example = document["components"]["schemas"]["Row"]["examples"][0]
    assert client.post(APPRAISE, json={"instances": [example]}).status_code == 200
