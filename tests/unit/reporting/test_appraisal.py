"""Appraisal reports: what they say, in both languages, as HTML and as PDF."""

from __future__ import annotations

import csv
import hashlib
import html
import json
import re

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixtures.command_line import run_here
from fixtures.net import REFERENCES, rows_of
from fixtures.service import running_service
from tasador.core import clock
from tasador.core.languages import number
from tasador.registry.model_bundle import load_bundle
from tasador.reporting.appraisal.document import Appraisal, ModelSummary, page, price_band
from tasador.reporting.appraisal.files import file_of
from tasador.reporting.appraisal.pictures import Dot, Text, map_picture, nice_length, parts_picture
from tasador.reporting.appraisal.portfolio import outcome, summary
from tasador.reporting.appraisal.texts import TEXTS, reach_text, warning
from tasador.scoring.appraise import appraisal_of, summary_of

HOMES = REFERENCES / "bundles" / "homes"
TABLE = REFERENCES / "tables" / "homes.csv"


@pytest.fixture(scope="module")
def homes():
    return load_bundle(HOMES, trusted=None)


@pytest.fixture
def row() -> dict:
    return rows_of("homes.csv")[0]


def made(bundle, row: dict) -> Appraisal:
    return appraisal_of(bundle, summary_of(bundle), bundle.check.row(row), row, 1)


def with_evidence(one: Appraisal) -> Appraisal:
    """The same with the fields that newer bundles answer."""
    near = []
    for at, found in enumerate(one.explanation["comparables"], 1):
        adjustments = [{"name": "time", "amount": 1500.25 * at}, {"name": "size", "amount": -700.5}]
        near.append(
            found
            | {
                "n": at, "id": f"H{at}", "label": None, "date": f"2024-0{at}-03",
                "price": found["value"], "distance_km": 0.4 * at, "age_months": 3.0 * at,
                "similarity": 90 - at, "adjustments": adjustments, "weight": 0.2,
                "adjusted_price": found["value"] + 1500.25 * at - 700.5,
                "own_earlier_sale": at == 2,
            }
        )  # fmt: skip
    valuation = dict(one.valuation) | {
        "fsd": 0.123, "confidence": 87.7, "confidence_class": "H",
        "support": {"nearest_km": 0.4, "within_reach": 9, "outside": ["age"]}, "no_value": None,
    }  # fmt: skip
    groups = [
        {"name": "location", "label": "Location", "columns": ["lon"], "amount": 12345.67},
        {"name": "quality", "label": "Quality", "columns": ["quality"], "amount": -2345.6},
    ]
    more = {
        "valuation": valuation, "comparables": near, "groups": groups,
        "base": one.value - 12345.67 + 2345.6,
        "reconciled": {"value": 1.02 * one.value, "spread_raw": 0.21, "spread_adjusted": 0.08},
    }  # fmt: skip
    return Appraisal(
        one.model, one.name, one.number, one.facts, one.as_of, dict(one.explanation) | more
    )


def data_of(text: str) -> list[str]:
    return re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', text)


def words_of(text: str) -> str:
    """The text of a page as a reader sees it."""
    body = re.sub(r"<(script|style)\b.*?</\1>", " ", text, flags=re.S)
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", body)))


def test_a_report_holds_what_the_service_answers(homes, row, tmp_path):
    """The numbers of `/api/v1/explain`: as JSON to the last bit, and as texts of the page."""
    with running_service(tmp_path, homes) as service:
        sent = {name: value for name, value in row.items() if name not in ("price", "note")}
        body = {"instances": [sent], "comparables": 5}
        answer = httpx.post(f"{service.url}/api/v1/explain", json=body, timeout=60).json()
    item = answer["explanations"][0]
    code, said, _ = run_here(
        tmp_path, "appraise", json.dumps(row), "-o", "x.html", "--bundle", str(HOMES)
    )
    wrote = f"wrote 1 report to x.html with {homes.version}"
    assert (code, said) == (0, f"{wrote}\nnext: open x.html\n")
    text = (tmp_path / "x.html").read_text(encoding="utf-8")
    found = json.loads(data_of(text)[0])
    del item["valuation"]["prediction_id"]  # of the service's own record
    assert found["explanation"] == item
    seen = words_of(text)
    estimate = item["valuation"]["predicted_price"]
    assert f"{number(estimate)} EUR" in seen
    assert number(item["valuation"]["interval"]["lower"]) in seen
    for near in item["comparables"]:
        assert number(near["value"]) in seen


def test_the_hash_is_that_of_the_data_in_the_file(homes, row, tmp_path):
    row["street"] = "</script><b>A & B</b>"
    one = made(homes, row)
    text = file_of("html", [page(one, "en", "2026-11-29")]).decode()
    (data,) = data_of(text)
    digest = hashlib.sha256(data.encode()).hexdigest()
    assert digest == one.digest
    assert digest in words_of(text)
    assert json.loads(data)["facts"]["street"] == "</script><b>A & B</b>"
    assert "<b>A" not in text
    other = made(homes, row | {"area": row["area"] + 1})
    assert other.digest != one.digest


def test_a_page_loads_nothing_and_its_parts_are_there(homes, row):
    text = file_of("html", [page(with_evidence(made(homes, row)), "en", "2026-11-29")]).decode()
    assert "default-src 'none'" in text
    assert not re.search(r"(src|href)=\"(?!data:|#)", text)
    assert text.count("<svg") == 3  # range, map, parts
    seen = words_of(text)
    for part in (
        "H0", "Valued as of 2023-09-13", "H · high · 88 / 100", "12.3%", "Adjustment: time +1,500",
        "an earlier sale of this one", "Adjusted price", "21.0%", "Location", "+12,346",
        "unlike the model's data, taken together: Age", "age was missing and has been imputed",
        "flat, like this one", homes.manifest.content_hash,
        "Comparables within reach: 9; the nearest is 400 m away.",
    ):  # fmt: skip
        assert part in seen, part


def test_a_page_in_spanish_has_spanish_texts_and_numbers(homes, row):
    one = with_evidence(made(homes, row))
    seen = words_of(file_of("html", [page(one, "es", "2026-11-29")]).decode())
    for part in (
        f"{number(one.value, 0, 'es')} EUR", "Fecha de valoración 2023-09-13", "12,3 %",
        "H · alta · 88 / 100", "Ajuste: tiempo +1.500", "Ubicación",
        "age faltaba y se ha imputado", "flat, como este",
    ):  # fmt: skip
        assert part in seen, part
    english = {key: en for key, (en, es) in TEXTS.items() if en != es and len(en) > 25}
    left = [key for key, en in english.items() if en.split("{")[0].strip()[:25] in seen
            and len(en.split("{")[0]) > 20]  # fmt: skip
    assert left == []


@pytest.mark.parametrize("language", ["en", "es"])
def test_parts_without_fields_are_left_out(homes, row, language):
    one = made(homes, row)
    bare = dict(one.explanation) | {"comparables": [], "groups": [], "reconciled": None}
    no_metrics = ModelSummary(
        homes.contract, "v-1", "0" * 64, "", "2026-01-01T00:00:00Z", "synthetic", {}, {}
    )
    found = page(Appraisal(no_metrics, None, 7, {}, None, bare), language, "2026-11-29")
    assert (found.map, found.comparables, found.parts, found.accuracy) == (None,) * 4
    assert found.banner
    seen = words_of(file_of("html", [found]).decode())
    assert found.say("no_comparables") in seen
    assert found.say("accuracy") not in seen
    assert file_of("pdf", [found]).startswith(b"%PDF")


def test_no_value_is_said_with_its_reason(homes, row):
    one = made(homes, row)
    valuation = {
        "predicted_price": None, "interval": None, "warnings": [],
        "no_value": "FSD 0.41 is above 0.30",
    }  # fmt: skip
    silent = Appraisal(
        one.model, one.name, 1, one.facts, one.as_of,
        dict(one.explanation) | {"valuation": valuation},
    )  # fmt: skip
    found = page(silent, "en", "2026-11-29")
    seen = words_of(file_of("html", [found]).decode())
    assert "No value is given" in seen
    assert "FSD 0.41 is above 0.30" in seen
    assert found.range is None
    assert b"%PDF" in file_of("pdf", [found])[:8]


def test_a_pdf_says_what_the_page_says_and_holds_its_data(homes, row):
    one = with_evidence(made(homes, row))
    found = page(one, "es", "2026-11-29")
    clock.use_source(lambda: 1_800_000_000.0)
    try:
        first, again = file_of("pdf", [found]), file_of("pdf", [found])
    finally:
        clock.use_source(None)
    assert first == again
    assert len(first) < 100_000
    streams = _streams(first)
    assert one.data.encode() in streams
    drawn = b" ".join(streams)
    for part in (found.headline[1], "+1.500", one.digest[:20], "Precio ajustado"):
        assert part.encode("cp1252") in drawn, part


def _streams(pdf: bytes) -> list[bytes]:
    """The unpacked streams of a PDF."""
    import zlib

    found = []
    for packed in re.findall(rb"stream\r?\n(.*?)\r?\nendstream", pdf, flags=re.S):
        try:
            found.append(zlib.decompress(packed))
        except zlib.error:
            found.append(packed)
    return found


def test_texts_beyond_the_fonts_of_pdf_are_drawn(homes, row):
    row["ref"] = "ул. Ленина 5 — Čapek № 3"
    data = file_of("pdf", [page(made(homes, row), "en", "2026-11-29")])
    assert b"DejaVuSans" in data


def test_a_portfolio_has_a_summary_and_lists_refused_rows(homes, tmp_path):
    rows = rows_of("homes.csv")[:3]
    rows[1]["area"] = -4
    code, said, err = run_here(
        tmp_path, "appraise", json.dumps(rows), "-o", "out", "--bundle", str(HOMES)
    )
    assert code == 0
    assert "wrote 2 reports to out" in said
    assert "refused: 1 rows; the summary has all reasons\n  row 2: area" in err
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "row-1.html", "row-3.html", "summary.html",
    ]  # fmt: skip
    seen = words_of((tmp_path / "out" / "summary.html").read_text(encoding="utf-8"))
    values = [homes.value(rows[at]).prediction for at in (0, 2)]
    assert f"Sum of the values {number(sum(values))} EUR" in seen
    assert re.search(r"Rows that could not be valued .* 2 area", seen)
    assert 'href="row-3.html"' in (tmp_path / "out" / "summary.html").read_text(encoding="utf-8")


def test_rows_of_too_large_an_error_get_a_report_without_a_value(confident_bundle, house, tmp_path):
    row = {**house, "income": 12.0}
    fsd = confident_bundle.value_rows([row])[0].fsd
    words = ("appraise", json.dumps(row), "-o", "x.html", "--bundle", str(confident_bundle.folder))
    for limit, silent in ((fsd * 1.01, False), (fsd * 0.99, True)):
        code, _, err = run_here(tmp_path, *words, "--max-fsd", str(limit))
        assert code == 0, err
        (one,) = data_of((tmp_path / "x.html").read_text("utf-8"))
        valuation = json.loads(one)["explanation"]["valuation"]
        assert (valuation["no_value"] is not None) is silent
        assert (valuation["interval"] is None) is silent


def test_a_file_is_read_as_predict_reads_it_and_answers_the_same(homes, tmp_path):
    words = ("--bundle", str(HOMES))
    code, _, err = run_here(tmp_path, "appraise", str(TABLE), "-o", "x.html", *words)
    assert code == 0, err
    plain = [json.loads(one) for one in data_of((tmp_path / "x.html").read_text("utf-8"))]
    code, answers, _ = run_here(tmp_path, "predict", str(TABLE), *words)
    assert code == 0
    wanted = {
        at: line for at, line in enumerate(csv.DictReader(answers.splitlines()), 1)
        if not line["error"]
    }  # fmt: skip
    assert {one["row"] for one in plain} == set(wanted)
    for one in plain:
        valuation = one["explanation"]["valuation"]
        assert valuation["predicted_price"] == float(wanted[one["row"]]["predicted_price"])
        assert "; ".join(valuation["warnings"]) == wanted[one["row"]]["warnings"]


def test_one_pdf_of_several_rows_links_its_summary_to_their_pages(homes, tmp_path):
    rows = rows_of("homes.csv")[:2]
    words = ("-o", "x.pdf", "--lang", "es", "--bundle", str(HOMES), "--as-of", "2024-05-01")
    code, _, err = run_here(tmp_path, "appraise", json.dumps(rows), *words)
    assert code == 0, err
    data = (tmp_path / "x.pdf").read_bytes()
    assert data.count(b"/Type /Page\n") >= 3
    assert b"row-2" in data
    assert b"Fecha de valoraci\xf3n: 2024-05-01" in b" ".join(_streams(data))


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (('{"area": 3}', "-o", "x.html"), 3, "lon"),
        (("[]", "-o", "x.html"), 3, "no row to value"),
        (("{}", "-o", "x.docx"), 2, "a file that ends in .html or .pdf, or a folder"),
        (("{}", "-o", "x.pdf", "--format", "html"), 2, "contradict each other"),
        (("absent.csv", "-o", "x.html"), 3, "absent.csv"),
    ],
)
def test_what_cannot_be_appraised_is_refused(words, code, said, tmp_path):
    found, out, err = run_here(tmp_path, "appraise", *words, "--bundle", str(HOMES))
    assert found == code, err
    assert said in err
    assert out == ""
    assert list(tmp_path.iterdir()) == []


def test_every_warning_of_the_model_has_a_translation(homes, row):
    odd = [
        row | {"area": 1999.0, "rooms": None, "street": "street Ü"},
        row | {"lon": -9.9, "lat": 35.1},
        row | {"sold": "2020-01-01"},
    ]
    said = {text for one in odd for text in homes.value(one).warnings}
    assert len(said) >= 4
    for text in said:
        assert warning(text, "es") != text, text
        assert warning(text, "en") == text


def test_numbers_of_translated_warnings_are_written_as_in_spanish():
    said = (
        "nearest comparable is 308.5 km away, the 4th 1,323 km (99.9% of the training rows have 4 "
        "within 50 km): the interval does not hold there"
    )
    found = warning(said, "es")
    assert "308,5 km, el 4.º a 1.323 km (el 99,9 %" in found
    assert reach_text({"within_reach": 64, "nearest_km": 1.25}, "es") == (
        "Comparables al alcance: 64 o más; el más cercano está a 1,2 km."
    )


def test_a_map_numbers_comparables_and_keeps_them_apart():
    there = [(at, -3.7, 40.4) for at in range(1, 6)]
    picture = map_picture((-3.7, 40.4), there, "map", "N")
    dots = [mark for mark in picture.marks if isinstance(mark, Dot) and mark.radius == 8]
    numbers = [m.content for m in picture.marks if isinstance(m, Text) and m.colour == "#ffffff"]
    assert numbers == ["1", "2", "3", "4", "5"]
    assert len({(round(dot.x, 3), round(dot.y, 3)) for dot in dots}) == 5


@given(
    st.tuples(st.floats(-179, 179), st.floats(-85, 85)),
    st.lists(st.tuples(st.floats(-180, 180), st.floats(-85, 85)), min_size=1, max_size=5),
)
def test_every_place_lies_on_the_map(here, places):
    picture = map_picture(here, [(n, *p) for n, p in enumerate(places, 1)], "map", "N")
    for mark in picture.marks:
        if isinstance(mark, Dot):
            assert 0 <= mark.x <= picture.width
            assert 0 <= mark.y <= picture.height


@given(st.floats(1e-6, 1e9))
def test_a_scale_bar_is_as_long_as_it_may_be(most):
    assert most / 2.5 <= nice_length(most) * (1 + 1e-9) <= most * (1 + 1e-6)


@given(st.lists(st.floats(-1e7, 1e7), max_size=12), st.floats(-1e7, 1e7))
def test_bars_of_parts_stay_inside_their_picture(amounts, base):
    parts = [("part", value, "") for value in amounts]
    picture = parts_picture(parts, (("a", "1"), ("b", "2")), base, "parts")
    for mark in picture.marks:
        x = getattr(mark, "x", 0.0)
        assert 0 <= x <= picture.width
        assert x + getattr(mark, "width", 0.0) <= picture.width + 1


def test_the_price_band_is_that_of_the_estimate():
    bands = [{"name": "up to 100,000"}, {"name": "up to 250,000"}, {"name": "up to 500,001"}]
    assert price_band(bands, 99_000.0) == (None, bands[0])
    assert price_band(bands, 100_001.0) == (100_000.0, bands[1])
    assert price_band(bands, 9e9) == (250_000.0, bands[2])
    assert price_band([{"name": "cheap"}], 5.0) is None
    assert price_band([], 5.0) is None


def test_a_summary_counts_values_and_classes(homes, row):
    one = with_evidence(made(homes, row))
    outcomes = [outcome(one, "en", "#row-1")] * 2
    found = summary(one.model, outcomes, [(3, "area: -4")], "en", "2026-11-29")
    tiles = dict(found.tiles)
    assert tiles["Valued"] == "2"
    assert tiles["Refused"] == "1"
    assert tiles["High, medium, low confidence"] == "2 · 0 · 0"
    assert tiles["Sum of the values"] == f"{number(2 * one.value)} EUR"
    assert found.table.rows[0][-1] == "2"  # a missing age, and values that are unlike the others
    assert found.refused is not None
    assert found.refused.rows == (("3", "area: -4"),)
