"""What the app says, in both languages."""

from __future__ import annotations

import ast
import re
import string
from pathlib import Path

import pytest

from tasador.core import languages
from tasador.core.errors import ConfigError
from tasador.ui import texts
from tasador.ui.texts import LANGUAGES, TEXTS, text
from tasador.ui.value import COMPARABLES, OTHERS, grouped, in_money

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
    assert texts.label("median_income") == "Median income"
    assert texts.label("(error)") == "Error"
    assert texts.escaped("<1H *x* $5$") == r"\<1H \*x\* \$5\$"


def test_parts_are_grouped_by_where_the_information_comes_from(house_contract) -> None:
    said = [
        {"feature": "comparables_mean_4", "value": 0.25},
        {"feature": "comparables_spread", "value": -0.05},
        {"feature": "kind=flat", "value": 0.1},
        {"feature": "kind_target_mean", "value": 0.2},
        {"feature": "area", "value": -0.4},
        {"feature": "area_per_room", "value": 0.01},
    ]
    found = grouped(said, house_contract)
    assert [name for name, _ in found] == ["area", "kind", COMPARABLES, "area_per_room"]
    assert dict(found)["kind"] == pytest.approx(0.3)


@pytest.mark.parametrize("scale", ["log", "none"])
def test_steps_begin_at_the_typical_value_and_end_at_the_estimate(scale) -> None:
    import math

    parts = [(f"part {i}", 0.5 / (i + 1)) for i in range(12)]
    total = 10.0 + sum(value for _, value in parts)
    estimate = math.exp(total) if scale == "log" else total
    start, steps = in_money(parts, expected=10.0, estimate=estimate, scale=scale, most=5)
    assert len(steps) == 6
    assert steps[-1][0] == OTHERS
    assert start == pytest.approx(math.exp(10.0) if scale == "log" else 10.0)
    assert start + sum(value for _, value in steps) == pytest.approx(estimate)


def test_no_rest_is_shown_where_there_is_none() -> None:
    _, steps = in_money([("area", 2.0)], expected=1.0, estimate=3.0, scale="none")
    assert steps == [("area", 2.0)]


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
