"""The pages that value a row and a file, in a real Chromium, in both languages."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterator

import pytest

from fixtures.process import Server, free_port
from fixtures.spanish import english_sentences
from tasador.contract.model import Translation
from tasador.ops.api_client import ApiClient
from tasador.registry.writer import write_bundle
from tasador.ui import texts

from .conftest import App, start_app
from .test_web_app import assert_fits_a_phone, text_of

VALUE = "[data-testid=stMetricValue]"
CHARTS = 3  # parts of the estimate, map, close map
SYNTHETIC = {"en": "Synthetic data.", "es": "Datos sintéticos."}


def field(page, name: str):
    return page.get_by_role("spinbutton", name=name, exact=True)


def write(page, name: str, value: object) -> None:
    field(page, name).fill(str(value))
    field(page, name).press("Enter")


def drawn(page) -> None:
    """Wait until a page is whole."""
    page.wait_for_selector("[data-testid=stApp][data-test-script-state=notRunning]")


def row_of(page) -> dict[str, object]:
    numbers = {name: float(field(page, name.title()).input_value())
               for name in ("lon", "lat", "income", "rooms", "area")}  # fmt: skip
    return {**numbers, "rooms": int(numbers["rooms"]), "kind": "flat"}


@pytest.mark.parametrize(
    ("lang", "interval", "fault", "before"),
    [
        ("en", "90% prediction interval", "Must be between 1 and 10,000.", "Before the last"),
        ("es", "Intervalo de predicción del 90 %", "Debe estar entre 1 y 10.000.",
         "Antes del último"),
    ],
)  # fmt: skip
def test_a_house_is_valued_at_once_and_again_when_a_field_changes_and_never_by_a_wrong_value(
    visit, service, lang, interval, fault, before
) -> None:
    page = visit(lang=lang, width=1440)
    page.locator(VALUE).wait_for()
    first = text_of(page, VALUE)
    write(page, "Area", 250)
    page.wait_for_function(
        "first => document.querySelector('[data-testid=stMetricValue]')?.innerText !== first",
        arg=first,
    )
    page.locator(".js-plotly-plot").nth(CHARTS - 1).wait_for()
    drawn(page)
    (valued,) = ApiClient(service.url).predict([row_of(page)])["predictions"]
    estimate, ends = valued["prediction"], valued["interval"]
    assert text_of(page, VALUE) == texts.money(estimate, "USD", lang)
    step = texts.step_of_size(estimate)
    low = texts.money(ends["lower"], None, lang, step)
    high = texts.money(ends["upper"], "USD", lang, step)
    headline = page.locator(".st-key-headline")
    assert f"{interval}: {low} – {high}" in headline.inner_text()
    box = headline.bounding_box()
    assert box["y"] + box["height"] < 900  # in sight without scrolling, right of the form
    assert box["x"] > field(page, "Area").bounding_box()["x"]
    page.get_by_role("heading", name="Comparables", exact=True).wait_for()
    value = text_of(page, VALUE)
    write(page, "Area", -5)
    page.get_by_text(fault, exact=True).wait_for()  # at the field, in words
    page.locator(VALUE).wait_for(state="detached")
    page.get_by_text(before).wait_for()
    assert value in text_of(page)  # named as what it is: of before
    write(page, "Area", 100)
    page.locator(VALUE).wait_for()
    page.get_by_text(fault, exact=True).wait_for(state="detached")


def test_the_parts_are_those_of_the_service_and_comparables_have_the_table_s_numbers(
    visit, service
) -> None:
    page = visit()
    page.locator(".js-plotly-plot").nth(CHARTS - 1).wait_for()
    drawn(page)
    said = ApiClient(service.url).explain(row_of(page), 12)
    traces = page.evaluate(
        "[...document.querySelectorAll('.js-plotly-plot')].flatMap(chart => chart.data.map("
        "one => ({type: one.type, mode: one.mode, y: [...one.y], text: one.text})))"
    )
    (parts,) = (one for one in traces if one["type"] == "waterfall")
    assert parts["y"] == [*(group["label"] for group in said["groups"]), "Together"]
    step = texts.step_of_size(said["valuation"]["prediction"])
    assert parts["text"][:-1] == [
        texts.money(group["amount"], None, "en", step, signed=True) for group in said["groups"]
    ]
    (near,) = (one for one in traces if one["mode"] == "markers+text")
    assert near["text"] == [str(one["n"]) for one in said["comparables"]]


@pytest.mark.parametrize(
    ("lang", "report", "said"),
    [
        ("en", "Report", "Automated valuation report"),
        ("es", "Informe", "Informe de valoración automatizada"),
    ],
)
def test_the_report_of_a_valuation_is_downloaded_in_the_language_of_the_page(
    visit, service, lang, report, said
) -> None:
    page = visit(lang=lang)
    page.locator(VALUE).wait_for()
    with page.expect_download() as download:
        page.get_by_role("button", name=f"{report} (HTML)").click()
    text = download.value.path().read_text(encoding="utf-8")
    assert f'<html lang="{lang}">' in text
    assert said in text
    (valued,) = ApiClient(service.url).predict([row_of(page)])["predictions"]
    assert texts.number(valued["prediction"], 0, lang) in text
    assert download.value.suggested_filename.endswith(".html")
    with page.expect_download() as download:
        page.get_by_role("button", name=f"{report} (PDF)").click()
    assert download.value.path().read_bytes().startswith(b"%PDF")
    assert_fits_a_phone(page)


def test_on_a_phone_the_value_stays_in_sight_while_the_fields_are_filled(visit) -> None:
    page = visit(width=390)
    page.locator(VALUE).wait_for()
    page.locator(".js-plotly-plot").nth(CHARTS - 1).wait_for()
    assert page.locator(VALUE).bounding_box()["y"] < field(page, "Lon").bounding_box()["y"]
    page.mouse.move(200, 600)
    page.mouse.wheel(0, 700)
    page.wait_for_timeout(500)
    assert field(page, "Lon").bounding_box()["y"] < 0
    assert 0 < page.locator(VALUE).bounding_box()["y"] < 200


def test_the_page_is_as_light_or_dark_as_the_browser_asks(visit) -> None:
    page = visit()
    page.locator(VALUE).wait_for()
    for scheme, sign in (("dark", "<"), ("light", ">")):
        page.emulate_media(color_scheme=scheme)
        page.wait_for_function(
            "getComputedStyle(document.querySelector('[data-testid=stApp]')).backgroundColor"
            f".match(/\\d+/g).slice(0, 3).reduce((sum, one) => sum + Number(one), 0) {sign} 384"
        )


def upload(page, lines: list[str], name: str = "rows.csv") -> None:
    page.locator("input[type=file]").set_input_files(
        {"name": name, "mimeType": "text/csv", "buffer": "\n".join(lines).encode()}
    )


def files(*areas: object) -> list[str]:
    rows = [f"A-{n},-3.5,40.5,3.0,4,{area},flat" for n, area in enumerate(areas, 1)]
    return ["parcel,lon,lat,income,rooms,area,kind", *rows]


@pytest.mark.parametrize(
    ("lang", "ask", "errors", "download", "fault"),
    [
        ("en", "Value all rows", "Rows with errors", "Download the values",
         "Area: must be between 1 and 10,000. Got '-1'."),
        ("es", "Valorar todas las filas", "Filas con errores", "Descargar los valores",
         "Area: debe estar entre 1 y 10.000. Se recibió '-1'."),
    ],
)  # fmt: skip
def test_a_file_is_valued_with_the_errors_of_its_rows_and_a_download_of_both(
    visit, lang, ask, errors, download, fault
) -> None:
    page = visit("batch", lang=lang)
    upload(page, files(80, 90, -1, 100))
    page.get_by_role("button", name=ask).click()
    page.get_by_role("heading", name=errors).wait_for()
    page.locator(VALUE).nth(2).wait_for()
    valued, bad = page.locator(VALUE).all_inner_texts()[:2]
    assert (valued, bad) == ("3", "1")
    cells = page.locator("[data-testid=stTable]").last.locator("td").all_inner_texts()
    assert cells == ["3", fault]
    page.locator(".js-plotly-plot").wait_for()  # the histogram
    with page.expect_download() as file:
        page.get_by_role("button", name=download).click()
    cells, decimals = (";", ",") if lang == "es" else (",", ".")
    text = file.value.path().read_text(encoding="utf-8")
    rows = list(csv.DictReader(io.StringIO(text), delimiter=cells))
    assert [row["row"] for row in rows] == ["1", "2", "3", "4"]
    assert [row["parcel"] for row in rows] == ["A-1", "A-2", "A-3", "A-4"]
    assert [row["error"] == "" for row in rows] == [True, True, False, True]
    assert "area" in rows[2]["error"]
    assert float(rows[0]["prediction"].replace(decimals, ".")) > 0
    assert "warnings" in rows[0]
    assert_fits_a_phone(page)


def test_a_file_without_any_good_row_says_so(visit) -> None:
    page = visit("batch")
    page.get_by_text("No file yet").wait_for()
    upload(page, files(-1, -2))
    page.get_by_role("button", name="Value all rows").click()
    page.get_by_text("No row could be valued").wait_for()
    assert page.locator("[data-testid=stDataFrame]").count() == 0


def test_a_file_without_the_needed_columns_is_refused_with_what_is_missing(visit) -> None:
    page = visit("batch")
    upload(page, ["lon,lat", "1,2"], "bad.csv")
    page.get_by_role("button", name="Value all rows").click()
    page.get_by_text("the file's columns do not meet the contract").wait_for()


def test_a_spanish_page_says_nothing_in_english(visit, house_contract) -> None:
    """Each state of both pages; names and texts of the contract are as its author wrote them."""
    known = [house_contract.title, *(c.description or c.name for c in house_contract.columns)]

    def check(page) -> None:
        drawn(page)
        assert english_sentences(page.inner_text("body"), known) == []

    page = visit(lang="es")
    page.locator(".js-plotly-plot").nth(CHARTS - 1).wait_for()
    check(page)
    write(page, "Income", 1000)
    page.get_by_text("Sin valor para estos datos").wait_for()
    check(page)
    page = visit("batch", lang="es")
    page.get_by_text("Todavía no hay archivo").wait_for()
    check(page)
    page.get_by_text("Columnas y una plantilla").click()
    page.get_by_text("número entero").first.wait_for()
    check(page)
    upload(page, files(80, -1, 100, 250))
    page.get_by_role("button", name="Valorar todas las filas").click()
    page.locator(VALUE).nth(2).wait_for()
    check(page)


def test_generated_rows_are_named_on_each_page_and_no_hash_is_a_headline(visit) -> None:
    for path, lang in (("", "en"), ("batch", "es"), ("models", "en")):
        page = visit(path, lang=lang)
        page.get_by_text(SYNTHETIC[lang]).wait_for()
        assert "houses_model" not in text_of(page)


@pytest.fixture(scope="module")
def real(bundle_parts, tmp_path_factory) -> Iterator[App]:
    """An app over a model of real rows, with units and some Spanish texts."""
    units = {"rooms": "rooms", "income": "thousands of USD"}
    columns = tuple(
        dataclasses.replace(column, unit=units.get(column.name))
        for column in bundle_parts.contract.columns
    )
    spanish = Translation("Casas de prueba", {"rooms": {"label": "Habitaciones"}})
    contract = dataclasses.replace(
        bundle_parts.contract, columns=columns, translations={"es": spanish}
    )
    folder = tmp_path_factory.mktemp("real")
    write_bundle(folder / "b", dataclasses.replace(bundle_parts, contract=contract, origin="real"))
    server = Server(folder, folder / "b", free_port())
    server.start()
    server.wait()
    app = start_app(server.url)
    yield app
    app.end()
    server.end()


@pytest.mark.slow
def test_a_model_of_real_rows_has_no_banner_its_labels_say_units_once_and_its_texts_are_translated(
    visit, real: App
) -> None:
    page = visit(base=real.url)
    page.locator(VALUE).wait_for()
    drawn(page)
    assert page.get_by_text(SYNTHETIC["en"]).count() == 0
    field(page, "Rooms").wait_for()
    field(page, "Income (thousands of USD)").wait_for()
    page = visit(lang="es", base=real.url)
    field(page, "Habitaciones (rooms)").wait_for()
    page.get_by_text("Casas de prueba").wait_for()
