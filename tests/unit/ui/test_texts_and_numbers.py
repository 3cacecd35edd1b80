"""What the app says, in both languages."""

from __future__ import annotations

import ast
import csv
import io
import math
import re
import string
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasador.contract.model import people_label
from tasador.core import languages
from tasador.core.errors import ConfigError
from tasador.ops.api_client import ScoredRow
from tasador.ui import texts
from tasador.ui.batch import error_text, to_csv
from tasador.ui.texts import LANGUAGES, TEXTS, text

ROOM = Path(texts.__file__).parent


def test_every_text_is_there_in_every_language_with_the_same_values() -> None:
    def values(form: str) -> set[str | None]:
        return {name for _, name, _, _ in string.Formatter().parse(form) if name is not None}

    for key, forms in TEXTS.items():
        assert len(forms) == len(LANGUAGES), key
        assert all(forms), key
        assert values(forms[0]) == values(forms[1]), key


def test_every_text_that_a_page_says_is_in_the_catalogue_and_none_is_left_over() -> None:
    said, stems = set(), set()
    for file in ROOM.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and getattr(node.func, "id", "") == "say"):
                continue
            first = node.args[0]
            if isinstance(first, ast.Constant):
                said.add(first.value)
            else:
                parts = [n.value for n in ast.walk(first) if isinstance(n, ast.Constant)]
                stems |= {part for part in parts if re.fullmatch(r"\w+\.", str(part))}
    assert said <= set(TEXTS)
    left = [key for key in TEXTS if key not in said and not key.startswith(tuple(stems))]
    assert left == []


def test_texts_are_filled_in_the_language_asked_for() -> None:
    assert text("field.least", "en", low="3") == "At least 3"
    assert text("field.least", "es", low="3") == "Al menos 3"


@pytest.mark.parametrize(
    ("value", "digits", "language", "shown"),
    [
        (1234567.891, 0, "en", "1,234,568"),
        (1234567.891, 2, "es", "1.234.567,89"),
        (None, 0, "en", "–"),
        (float("nan"), 0, "es", "–"),
    ],
)
def test_numbers_are_written_as_the_language_writes_them(value, digits, language, shown) -> None:
    assert languages.number(value, digits, language) == shown


def test_amounts_have_the_digits_that_their_size_deserves() -> None:
    assert languages.amount(431250.7, "USD") == "431,251 USD"
    assert languages.amount(3.14159, None) == "3.14"
    assert languages.amount(0.0123456, "kg", "es") == "0,0123 kg"
    assert languages.amount(None, "USD") == "–"
    assert texts.percent(12.34) == "12.3 %"


def test_moments_are_written_in_utc_whatever_they_come_as() -> None:
    assert languages.moment("2026-11-24T20:20:00+01:00") == "24 Nov 2026, 19:20"
    assert languages.moment(0.0, "es") == "1 ene 1970, 00:00"
    assert languages.moment(None) == "–"
    assert languages.moment("soon") == "soon"


def test_names_become_labels_and_data_cannot_write_markdown() -> None:
    assert people_label("median_income") == "Median income"
    assert people_label("(error)") == "Error"
    assert texts.escaped("<1H *x* $5$") == r"\<1H \*x\* \$5\$"


@given(st.floats(1e-6, 1e12), st.sampled_from([-1, 1]))
def test_estimates_keep_three_to_four_digits_and_are_rounded_by_a_quarter_percent_at_most(
    size, sign
) -> None:
    step = texts.step_of_size(sign * size)
    assert step == pytest.approx(10.0 ** round(math.log10(step)))
    assert 200 * (1 - 1e-9) <= size / step < 2000 * (1 + 1e-9)
    assert step / 2 <= 0.0025 * size * (1 + 1e-9)


@pytest.mark.parametrize(
    ("value", "unit", "language", "step", "signed", "shown"),
    [
        (196259.7, "USD", "en", None, False, "196,300 USD"),
        (196259.7, "USD", "es", None, False, "196.300 USD"),
        (431250.7, "USD", "en", None, False, "431,000 USD"),
        (431250.7, None, "en", 100.0, True, "+431,300"),
        (-1214.0, None, "en", 100.0, True, "-1,200"),
        (-14.0, None, "en", 100.0, True, "0"),
        (3.14159, None, "es", None, False, "3,14"),
        (0.0, "USD", "en", None, False, "0 USD"),
        (None, "USD", "en", None, False, "–"),
        (math.nan, "USD", "en", None, False, "–"),
    ],
)
def test_money_is_rounded_by_its_size_or_by_that_of_the_estimate(
    value, unit, language, step, signed, shown
) -> None:
    assert texts.money(value, unit, language, step, signed=signed) == shown


def test_a_download_has_the_inputs_beside_their_answers_and_no_formula() -> None:
    rows = [
        ScoredRow(1, 100.5, 90.0, 110.0, "far away", "", "p-1"),
        ScoredRow(2, None, None, None, "", "area: expected a number, got 'x'", ""),
    ]
    inputs = pl.DataFrame({"row": ["a", "=1+1"], "area": ["80", "x"]})
    first, second = csv.DictReader(io.StringIO(to_csv(rows, inputs)))
    assert (first["row"], first["row (input)"], first["area"]) == ("1", "a", "80")
    assert (first["prediction"], first["warnings"]) == ("100.5", "far away")
    assert (second["row"], second["row (input)"], second["prediction"]) == ("2", "'=1+1", "")
    assert second["error"] == "area: expected a number, got 'x'"
    assert "area" not in next(iter(csv.DictReader(io.StringIO(to_csv(rows, None)))))


def test_a_spanish_download_has_decimal_commas_where_numbers_are() -> None:
    rows = [ScoredRow(1, 100.5, 90.0, 110.25, "", "", "p-1.5")]
    inputs = pl.DataFrame({"area": ["80.5"], "floor": [2.5], "note": ["1.5"]})
    (found,) = csv.DictReader(io.StringIO(to_csv(rows, inputs, frozenset({"area"}))), delimiter=";")
    assert (found["prediction"], found["upper"]) == ("100,5", "110,25")
    assert (found["area"], found["floor"], found["note"]) == ("80,5", "2,5", "1.5")
    assert found["prediction_id"] == "p-1.5"


def test_errors_of_a_row_are_in_words_and_a_decimal_comma_is_named(house_contract) -> None:
    said = (
        "area: expected a number in [1, 10000], got '80,5'; rooms: expected a whole number in "
        "[1, 50], got '2.5'; kind: expected one of flat, house, villa, got 'tent'; something else"
    )
    assert error_text(house_contract, said) == (
        "Area: must be between 1 and 10,000. Got '80,5'. "
        "Rooms: must be a whole number between 1 and 50. Got '2.5'. "
        "Kind: must be one of: flat, house, villa. Got 'tent'. something else "
        "Write numbers with a decimal point: 80.5, not 80,5."
    )


def test_an_address_that_is_none_is_refused_before_anything_starts(monkeypatch) -> None:
    from tasador.cli.operate import ui

    with pytest.raises(ConfigError, match=r"no address of a service.*got ftp://x"):
        ui(api="ftp://x", port=1, host="127.0.0.1")


def test_a_taken_port_is_named() -> None:
    import socket

    from tasador.cli.operate import ui
    from tasador.core.errors import ServingError

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(ServingError, match=rf"cannot listen on 127.0.0.1:{port}.*--port"):
            ui(api="http://127.0.0.1:1", port=port, host="127.0.0.1")
