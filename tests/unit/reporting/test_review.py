"""Workbooks of a desk review: what `tasador score` writes, and what comes back of it."""

from __future__ import annotations

import csv
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import openpyxl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fixtures.command_line import output_of, run_here
from fixtures.net import REFERENCES
from tasador.contract.target_check import TargetBounds
from tasador.modeling.prediction import Comparable
from tasador.records.audit_log import AuditTrail
from tasador.records.database import Database
from tasador.records.refused import read_refused
from tasador.records.reviews import Reviewed, Reviews
from tasador.registry.model_bundle import load_bundle
from tasador.reporting.review.reading import decisions_of, read_review
from tasador.reporting.review.writing import Review, ReviewLine, write_review
from tasador.scoring.appraise import summary_of

HOMES = REFERENCES / "bundles" / "homes"
TABLE = REFERENCES / "tables" / "homes.csv"


@pytest.fixture(scope="module")
def homes():
    return load_bundle(HOMES, trusted=None)


@pytest.fixture(scope="module")
def first_written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a table of homes, the workbook of its review and the database."""
    folder = tmp_path_factory.mktemp("review")
    with TABLE.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))[:60]
    for at, row in enumerate(rows):
        row["assessed"] = str(float(row["price"]) * (1.5 if at == 3 else 1.01))
    rows[5]["kind"] = "castle"
    rows[6]["note"] = "=1+1"
    with (folder / "homes.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    score(folder, "--previous", "assessed", "--columns", "*")
    return folder


@pytest.fixture
def written(first_written: Path, tmp_path: Path) -> Path:
    """A copy of that folder."""
    return Path(shutil.copytree(first_written, tmp_path / "own"))


def score(folder: Path, *words: str) -> str:
    return output_of(
        folder, "score", "homes.csv", "-o", "review.xlsx", "--bundle", str(HOMES),
        *words,
    )  # fmt: skip


def review(folder: Path, *words: str, file: str = "review.xlsx") -> tuple[int, str, str]:
    return run_here(folder, "review", file, *words)


def opened(folder: Path, name: str = "review.xlsx") -> tuple[openpyxl.Workbook, dict[str, int]]:
    """The workbook, and its columns' numbers from 1 by header."""
    book = openpyxl.load_workbook(folder / name)
    return book, {cell.value: cell.column for cell in book.worksheets[0][1]}


def filled(folder: Path, cells: dict[tuple[str, int], object], name: str = "review.xlsx") -> None:
    """Enter values into cells by header and row, as a reviewer would."""
    book, at = opened(folder, name)
    for (header, row), value in cells.items():
        book.worksheets[0].cell(row, at[header]).value = value
    book.save(folder / name)


def overrides_in(folder: Path) -> list[dict]:
    text = output_of(folder, "records", "overrides", "--json")
    return [json.loads(line) for line in text.splitlines()]


def test_a_workbook_shows_values_ranges_changes_and_flags(written, homes):
    book, at = opened(written)
    sheet = book.worksheets[0]
    assert [one.title for one in book] == ["Review", "Comparables", "About", "tasador"]
    assert book["tasador"].sheet_state == "veryHidden"
    assert sheet.max_row == 61
    with (written / "homes.csv").open(newline="", encoding="utf-8") as file:
        row = next(csv.DictReader(file))
    numbers = ("lon", "lat", "area", "rooms", "age", "quality", "floor")
    asked = {k: (float(v) if v else None) if k in numbers else v or None for k, v in row.items()
             if k in homes.contract.field_names}  # fmt: skip
    value = homes.value(asked)
    got = [sheet.cell(2, at[name]).value for name in ("Value (EUR)", "Low", "High")]
    assert got == pytest.approx([value.prediction, value.lower, value.upper], rel=1e-12)
    previous = sheet.cell(2, at["Previous value"]).value
    assert sheet.cell(2, at["Change"]).value == pytest.approx(value.prediction / previous - 1)
    assert sheet.cell(2, at["price"]).value == float(row["price"])
    flags = [sheet.cell(n, at["Flags"]).value or "" for n in range(2, 62)]
    assert "large change" in flags[3]
    assert flags[5].startswith("not valued")
    assert "castle" in sheet.cell(7, at["Notes"]).value
    assert sheet.cell(7, at["Value (EUR)"]).value is None
    warned = [bool(n) for n in ("unusual input" in flag for flag in flags)]
    assert any(warned)
    assert not all(warned)


def test_only_overrides_and_reasons_can_be_filled_in(written):
    book, at = opened(written)
    sheet = book.worksheets[0]
    assert sheet.protection.sheet
    assert not sheet.protection.password
    open_cells = {cell.column for cell in sheet[2] if not cell.protection.locked}
    assert open_cells == {at["Override"], at["Reason"]}
    assert sheet.freeze_panes == "D2"
    assert sheet.auto_filter.ref.startswith("A1:")
    assert sheet.column_dimensions["A"].hidden
    rules = {rule.type: rule for rule in sheet.data_validations.dataValidation}
    assert rules["decimal"].formula1 == "1.0"
    assert rules["textLength"].formula1 == "500"
    assert sheet.page_setup.orientation == "landscape"
    assert sheet.print_title_rows == "$1:$1"
    assert sheet.sheet_properties.pageSetUpPr.fitToPage
    about = [str(cell.value) for row in book["About"].iter_rows() for cell in row if cell.value]
    assert HOMES.name not in about
    assert any("homes_model-" in text for text in about)
    assert any("range that holds 90%" in text for text in about)


def test_a_text_is_never_a_formula(written):
    book, at = opened(written)
    sheet = book.worksheets[0]
    cell = sheet.cell(8, at["note"])
    assert (cell.value, cell.data_type) == ("=1+1", "s")
    assert cell.quotePrefix
    formulas = {cell.column for row in sheet.iter_rows() for cell in row if cell.data_type == "f"}
    assert formulas == {at["Reviewed value"]}


@settings(max_examples=15)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=12), min_size=1))
def test_any_text_of_a_file_comes_out_as_it_is(homes, texts):
    lines = [
        ReviewLine(f"id-{n}", n, (), (one, "=SUM(A1)"), value=1.5, flags=(), notes=(one,))
        for n, one in enumerate(texts, 1)
    ]
    data = write_review(review_of(homes, lines, inputs=("own", "=x")))
    sheet = openpyxl.load_workbook(io.BytesIO(data)).worksheets[0]
    header = [cell.value for cell in sheet[1]]
    assert header[-1] == "=x"
    assert all(cell.data_type != "f" for cell in sheet[1])
    for row in sheet.iter_rows(min_row=2):
        assert row[-2].data_type != "f"
        assert (row[-1].value, row[-1].data_type) == ("=SUM(A1)", "s")
    back = read_review(data, "x")
    assert back.texts("id") == [line.id for line in lines]


@settings(max_examples=15)
@given(st.lists(
    st.tuples(st.floats(1, 1e9), st.one_of(st.none(), st.floats(1, 1e9))),
    min_size=1, max_size=12,
))  # fmt: skip
def test_what_is_entered_is_what_is_decided(homes, values):
    lines = [ReviewLine(f"id-{n}", n, (), (), value=value) for n, (value, _) in enumerate(values)]
    book = openpyxl.load_workbook(io.BytesIO(write_review(review_of(homes, lines))))
    sheet = book.worksheets[0]
    at = {cell.value: cell.column for cell in sheet[1]}
    for row, (_, override) in enumerate(values, 2):
        if override is not None:
            sheet.cell(row, at["Override"]).value = override
            sheet.cell(row, at["Reason"]).value = "seen"
    changed = io.BytesIO()
    book.save(changed)
    back = read_review(changed.getvalue(), "x")
    known = {f"id-{n}": Reviewed(n, "m-0", value, np.nan, np.nan, np.nan, "")
             for n, (value, _) in enumerate(values)}  # fmt: skip
    found = decisions_of(back, known, TargetBounds())
    entered = {f"id-{n}": one for n, (_, one) in enumerate(values) if one is not None}
    assert [one.prediction_id for one in found] == list(entered)
    assert {one.reason for one in found} <= {"seen"}
    # spreadsheets keep 15 to 17 digits
    np.testing.assert_allclose([one.value for one in found], list(entered.values()), rtol=1e-14)
    wanted = [value if own is None else own for value, own in values]
    np.testing.assert_allclose(back.reviewed, wanted, rtol=1e-12)


def review_of(homes, lines, **changes) -> Review:
    return replace(
        Review(
            "r-1", summary_of(homes), lines, (), (), "homes.csv", None, None, 0.9, 0.2,
            "2026-11-29T10:00:00+00:00", "ana",
        ),
        **changes,
    )  # fmt: skip


def near(n: int) -> Comparable:
    return Comparable(
        0.1 * n, 250_000.0, {}, n, f"=H{n}", f"Street {n}", f"2024-0{n}-03", 240_000.0 + n, 0.4 * n,
        3.0, 90.0 - n, "", (), 251_000.0, 0.5, n == 2,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("language", "titles", "headers"),
    [
        ("en", ["Review", "Comparables", "About"], ["Value by comparables", "FSD", "Confidence"]),
        ("es", ["Revisión", "Comparables", "Acerca de"], ["Valor por comparables", "Confianza"]),
    ],
)
def test_comparables_have_a_sheet_to_which_their_value_leads(homes, language, titles, headers):
    lines = [
        ReviewLine("a", 1, ("x",), (), 1e5, 9e4, 2e5, 0.1, "L", flags=("change",),
                   comparables=(near(1), near(2)), evidence=1.1e5),
        ReviewLine("b", 7, ("y",), (), 2e5, 9e4, 3e5, 0.1, "H", comparables=(near(1),),
                   evidence=1.9e5),
    ]  # fmt: skip
    model = replace(summary_of(homes), origin="synthetic")
    made = review_of(homes, lines, names=("ref",), language=language, model=model)
    book = openpyxl.load_workbook(io.BytesIO(write_review(made)))
    assert book.sheetnames[:3] == titles
    first, sheet = book.worksheets[:2]
    at = {cell.value: cell.column for cell in first[1]}
    assert set(headers) <= set(at)
    assert first.cell(3, at[headers[0]]).value == 1.9e5
    assert first.cell(3, at[headers[0]]).hyperlink.location == "'Comparables'!A4"
    rows = [[cell.value for cell in row] for row in sheet.iter_rows(min_row=2)]
    assert [row[:3] for row in rows] == [[1, "x", 1], [1, "x", 2], [7, "y", 1]]
    assert all(row[3].data_type == "s" for row in sheet.iter_rows(min_row=2))
    assert rows[0][5].date().isoformat() == "2024-01-03"
    assert rows[1][-1] in ("yes", "sí")
    texts = [str(cell.value) for row in book.worksheets[2].iter_rows() for cell in row]
    assert any("SYNTHETIC DATA" in text or "DATOS SINTÉTICOS" in text for text in texts)
    spanish = any("Cómo rellenarlo" in text for text in texts)
    assert spanish == (language == "es")


def test_overrides_are_recorded_with_who_when_why_old_and_new(written):
    filled(written, {("Override", 2): 250_000, ("Reason", 2): " new roof ",
                     ("Override", 7): 90_000.5, ("Reason", 7): "a castle"})  # fmt: skip
    code, out, err = review(written, "--check")
    assert (code, err) == (0, "")
    assert "2 overrides would be recorded" in out
    assert overrides_in(written) == []
    code, out, _ = review(written, "--by", "Ana")
    assert code == 0
    assert "2 new, 0 changed, 0 recorded before" in out
    castle, roof = sorted(overrides_in(written), key=lambda one: one["value"])
    assert (roof["actor"], roof["value"], roof["reason"]) == ("Ana", 250_000.0, "new roof")
    assert roof["before"] is None
    assert castle["prediction"] is None  # the model gave it no value
    with Database.open(f"sqlite:///{written / 'workspace' / 'tasador.db'}") as database:
        entries = AuditTrail(database).read(action="review")
        assert [(one.actor, one.details["new"]) for one in entries] == [("Ana", 2)]
        known = Reviews(database).rows(roof["review"])
        assert known[roof["prediction_id"]].value == roof["prediction"]
        assert len(known) == 60


def test_a_workbook_that_comes_again_records_what_is_new_and_loses_nothing(written):
    filled(written, {("Override", 2): 250_000, ("Reason", 2): "roof"})
    shutil.copy(written / "review.xlsx", written / "copy.xlsx")
    assert review(written)[0] == 0
    assert "0 new, 0 changed, 1 recorded before" in review(written)[1]
    filled(written, {("Override", 2): None, ("Reason", 2): None,
                     ("Override", 3): 1e5, ("Reason", 3): "seen"})  # fmt: skip
    code, out, _ = review(written)
    assert code == 0
    assert "1 new, 0 changed, 0 recorded before" in out
    assert "1 more were recorded before and are empty here: they stay" in out
    filled(written, {("Override", 2): 260_000}, "copy.xlsx")
    assert "0 new, 1 changed" in review(written, file="copy.xlsx")[1]
    newest, *_ = [one for one in overrides_in(written) if one["value"] == 260_000]
    assert newest["before"] == 250_000.0
    assert len(overrides_in(written)) == 3


def test_every_wrong_cell_is_named_and_nothing_is_recorded(written):
    _, at = opened(written)
    book = opened(written)[0]
    ids = [book.worksheets[0].cell(row, 1).value for row in range(1, 12)]
    filled(written, {
        ("Override", 2): 250_000, ("Reason", 2): "right",
        ("Override", 3): 250_000,
        ("Override", 4): "dear", ("Reason", 4): "x",
        ("Override", 5): -5, ("Reason", 5): "x",
        ("Reason", 6): "only a reason",
        ("Value (EUR)", 7): 1234.5,
        ("Value (EUR)", 8): 1234.5,
        ("Prediction", 9): "other",
        ("Prediction", 11): ids[9],
        ("Override", 12): "=1+1", ("Reason", 12): "x",
        ("Override", 13): True, ("Reason", 13): "x",
    })  # fmt: skip
    code, out, err = review(written)
    assert (code, out) == (3, "")
    assert "cells are wrong in review.xlsx, nothing was recorded" in err
    override = openpyxl.utils.get_column_letter(at["Override"])
    reason = openpyxl.utils.get_column_letter(at["Reason"])
    value = openpyxl.utils.get_column_letter(at["Value (EUR)"])
    for said in (
        f"{reason}3: an override without a reason: expected one, got nothing",
        f"{override}4: the override is not a number: expected",
        "got 'dear'",
        f"{override}5: the override is not possible: expected",
        f"{override}6: a reason without an override: expected both or neither",
        f"{value}7: 'Value (EUR)' of the model was changed: expected nothing, got 1234.5",
        f"{value}8: 'Value (EUR)' of the model was changed: expected",
        "A9: unknown row: expected the id of a row of this workbook, got other",
        "A11: the row is there twice: expected it once, got row 10 as well",
        f"{override}12: the override is not a number",
        "got 'a formula without a result'",
        f"{override}13: the override is not a number",
        "To do: correct them, and give the whole workbook again",
    ):
        assert said in err
    assert overrides_in(written) == []


def test_rows_may_be_deleted_and_sorted(written):
    book, at = opened(written)
    sheet = book.worksheets[0]
    sheet.delete_rows(10, 45)
    cells = [[cell.value for cell in row] for row in sheet.iter_rows(min_row=2)]
    for row, values in enumerate(reversed(cells), 2):
        for column, value in enumerate(values, 1):
            sheet.cell(row, column).value = value
    sheet.cell(3, at["Override"]).value, sheet.cell(3, at["Reason"]).value = 1e5, "seen"
    wanted = sheet.cell(3, 1).value
    book.save(written / "review.xlsx")
    code, _, err = review(written)
    assert code == 0
    assert "45 rows are not in it any more" in err
    assert [one["prediction_id"] for one in overrides_in(written)] == [wanted]


def test_other_workbooks_are_refused(written):
    other = openpyxl.Workbook()
    other.save(written / "other.xlsx")
    assert (
        "other.xlsx is not a workbook of a desk review: expected"
        in review(written, file="other.xlsx")[2]
    )
    assert "is not a workbook of a desk review" in review(written, file="homes.csv")[2]
    book, at = opened(written)
    book.worksheets[0].cell(1, at["Reason"]).value = "Why"
    book.save(written / "renamed.xlsx")
    assert "has no column 'Reason'" in review(written, file="renamed.xlsx")[2]
    book.worksheets[0].title = "Mine"
    book.save(written / "titled.xlsx")
    assert "has no sheet 'Review'" in review(written, file="titled.xlsx")[2]
    (written / "workspace" / "tasador.db").rename(written / "former.db")
    Database.open(f"sqlite:///{written / 'workspace' / 'tasador.db'}").close()
    code, _, err = review(written)
    assert code == 3
    assert "review.xlsx was not written with this database: expected a review recorded in" in err


def test_a_ratio_study_sets_both_values_beside_prices(written):
    filled(written, {(name, row): value for row in range(2, 62)
                     for name, value in (("Override", 1000.0), ("Reason", "x"))
                     if row % 2})  # fmt: skip
    words = ("ratio", "review.xlsx", "--sale", "price", "--json")
    found = json.loads(output_of(written, *words))
    assert list(found["studies"]) == ["Value (EUR)", "Reviewed value"]
    model, reviewed = (
        next(f["value"] for f in study["figures"] if f["name"] == "median_ratio")
        for study in found["studies"].values()
    )
    assert 0.8 < model < 1.2
    assert reviewed < model
    named = json.loads(output_of(written, *words, "--estimate", "Previous value", "--by", "kind"))
    assert list(named["studies"]) == ["Previous value"]
    code, _, err = run_here(written, "ratio", "homes.csv", "--sale", "price")
    assert code == 2
    assert "no column of estimates is named: expected --estimate COLUMN" in err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--previous", "asessed"), 2, "did you mean 'assessed'?"),
        (("--format", "csv"), 2, "--format and a workbook contradict each other"),
        (("--explain",), 2, "--explain and a workbook contradict each other"),
    ],
)
def test_a_workbook_that_cannot_be_is_refused(written, words, code, said):
    (written / "review.xlsx").unlink()
    got, _, err = run_here(
        written, "score", "homes.csv", "-o", "review.xlsx", "--bundle", str(HOMES),
        *words,
    )  # fmt: skip
    assert got == code
    assert said in err
    assert not (written / "review.xlsx").exists()


def test_options_of_workbooks_are_refused_elsewhere(written):
    words = ("score", "homes.csv", "-o", "x.csv", "--bundle", str(HOMES))
    for option in (("--previous", "assessed"), ("--lang", "es"), ("--comparables", "2")):
        code, _, err = run_here(written, *words, *option)
        assert code == 2
        assert f"{option[0]} is for workbooks only" in err


def test_classes_of_confidence_are_shown_and_rows_may_have_no_value(confident_bundle, tmp_path):
    house = {"lon": -3.5, "lat": 40.5, "rooms": 4, "area": 90.0, "kind": "flat"}
    rows = [{**house, "income": income} for income in (0.5, 12.0)]
    small, large = (found.fsd for found in confident_bundle.value_rows(rows))
    with (tmp_path / "homes.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    output_of(
        tmp_path, "score", "homes.csv", "-o", "review.xlsx",
        "--bundle", str(confident_bundle.folder), "--max-fsd", str((small + large) / 2),
    )  # fmt: skip
    book, at = opened(tmp_path)
    sheet = book.worksheets[0]
    wanted = [found.confidence_class for found in confident_bundle.value_rows(rows)]
    assert [sheet.cell(row, at["Confidence"]).value for row in (2, 3)] == wanted
    assert sheet.cell(2, at["FSD"]).value == pytest.approx(small)
    assert sheet.cell(3, at["Value (USD)"]).value is None
    assert "no value" in sheet.cell(3, at["Flags"]).value
    assert "is accepted" in sheet.cell(3, at["Notes"]).value
    filled(tmp_path, {("Override", 3): 2e5, ("Reason", 3): "seen"})
    assert review(tmp_path)[0] == 0
    (one,) = overrides_in(tmp_path)
    assert (one["prediction"], one["value"]) == (None, 2e5)
    with Database.open(f"sqlite:///{tmp_path / 'workspace' / 'tasador.db'}") as database:
        assert read_refused(database, 0.0, 1e12).no_value == 0  # no row of the service's
