"""Numbers as people read them."""

from __future__ import annotations

import pytest

from tasador.reporting.cards import amount, decimals_for, duration, number


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (20640, "20,640"),
        (-3, "\u22123"),
        (39_541.4, "39,541"),
        (123.45, "123.5"),
        (13.02, "13.02"),
        (0.881, "0.881"),
        (0.00012, "0.000120"),
        (0.00000012, "1.2e\u221207"),
        (5.0, "5"),
        (0.0, "0"),
        (None, "–"),
        (float("nan"), "–"),
        (float("inf"), "–"),
        ("as it is", "as it is"),
    ],
)
def test_a_number_is_written_for_people(value: float | str | None, text: str) -> None:
    assert number(value) == text


def test_a_column_shares_its_decimals_unless_sizes_differ_too_much() -> None:
    assert decimals_for([11.4, 9.6, None, "x"]) == 2
    assert decimals_for([1.0, 2.0]) == 0
    assert decimals_for([0.001, 12.1]) is None
    assert decimals_for([]) == 0
    assert number(12.10, None, trim=True) == "12.1"
    assert number(1200, 0, trim=True) == "1,200"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.012, "12\u202fms"),
        (4.84, "4.8\u202fs"),
        (12.4, "12\u202fs"),
        (185, "3\u202fmin 5\u202fs"),
        (7380, "2\u202fh 3\u202fmin"),
    ],
)
def test_a_span_of_time_has_its_natural_unit(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.35, "0.35"),
        (0.000123456, "0.0001235"),
        (-12.3456, "-12.35"),
        (1234.5, "1,234"),
        (183_427.1, "183,400"),
        (3_512_345_678.0, "3,512,000,000"),
        (0.0, "0"),
        (1e-20, "1e-20"),
        (float("nan"), "nan"),
    ],
)
def test_an_amount_is_rounded_by_its_size(value: float, text: str) -> None:
    assert amount(value) == text
