"""Rules about where a model errs most: found on some rows, kept where others show them too."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tasador.contract.reader import from_dict
from tasador.metrics.ratio_study import FEWEST_OF_GROUP
from tasador.reporting.evaluation_tables import plain_groups, rule_text, weakest_table
from tasador.selection.weakest_segments import Condition, WeakestSegments, weakest_segments

Floats = NDArray[np.float64]

LEVELS = [f"{code:03d}" for code in range(12)]
CONTRACT = from_dict(
    {
        "name": "homes",
        "columns": {
            "area": {"kind": "number"},
            "built": {"kind": "integer", "nullable": True},
            "zip": {"kind": "category", "categories": LEVELS, "open": True},
            "sold": {"kind": "datetime", "role": "timestamp"},
        },
        "target": {"name": "price"},
    }
)
DAY = 86_400.0


def rows(n: int, seed: int) -> Floats:
    random = np.random.default_rng(seed)
    built = random.integers(1900, 2020, n).astype(float)
    built[random.random(n) < 0.1] = np.nan
    sold = random.uniform(15_000, 18_000, n) * DAY
    return np.column_stack([random.uniform(20, 200, n), built, random.integers(0, 12, n), sold])


def spread(X: Floats, where: NDArray[np.bool_], seed: int, factor: float = 4.0) -> Floats:
    return np.random.default_rng(seed).normal(0, 0.08, len(X)) * np.where(where, factor, 1.0)


def found(where, X: Floats, Z: Floats, *, dated: bool = False, factor: float = 4.0):
    errors = 100 * np.abs(spread(X, where(X), 1, factor))
    actual = np.full(len(Z), 1e5)
    estimate = actual * (1 + spread(Z, where(Z), 2, factor))
    return weakest_segments(CONTRACT, X, errors, (Z, actual, estimate), dated=dated)


def text(result: WeakestSegments) -> list[str]:
    return [rule_text(one.rule) for one in result.segments]


@pytest.mark.parametrize(
    ("where", "rule"),
    [
        (lambda X: X[:, 0] > 150, "area > 150"),
        (lambda X: (X[:, 0] <= 60) & (X[:, 1] <= 1950), "area ≤ 60 and built ≤ 1950"),
        (lambda X: X[:, 2] == 3, "zip is 003"),
        (lambda X: np.isin(X[:, 2], [3, 5]), r"zip is 00[35] or 00[35]"),
        (lambda X: np.isnan(X[:, 1]), "built missing"),
    ],
)
def test_a_planted_weakness_is_found_as_a_rule_and_measured_on_other_rows(where, rule) -> None:
    X, Z = rows(6000, 1), rows(3000, 2)
    result = found(where, X, Z)
    first = result.segments[0]
    assert re.fullmatch(rule, rule_text(first.rule)), text(result)
    planted = where(Z)
    meets = np.logical_and.reduce([one.holds(CONTRACT, Z) for one in first.rule])
    assert meets.sum() == first.rows
    assert (meets & planted).sum() >= 0.9 * meets.sum()
    assert first.mape > 2 * result.mape
    assert result.rows == 3000


def test_a_rule_names_few_levels_of_a_category() -> None:
    first = found(lambda X: X[:, 2] < 7, rows(6000, 1), rows(3000, 2)).segments[0]
    (only,) = first.rule
    assert (only.column, len(only.levels), len(only.others)) == ("zip", 4, 8)
    assert set(only.levels) < set(LEVELS[:7])


def test_errors_that_depend_on_nothing_give_no_segment() -> None:
    none = lambda X: np.zeros(len(X), np.bool_)  # noqa: E731
    empty = sum(not found(none, rows(3000, s), rows(1500, s + 100)).segments for s in range(10))
    assert empty >= 6  # each leaf passes by chance in 5% of the cases


def test_what_other_rows_do_not_show_is_left_out() -> None:
    X, Z = rows(4000, 1), rows(2000, 2)
    errors = 100 * np.abs(spread(X, X[:, 0] > 150, 1))
    actual = np.full(len(Z), 1e5)
    result = weakest_segments(
        CONTRACT, X, errors, (Z, actual, actual * (1 + spread(Z, Z[:, 0] < 0, 2))), dated=False
    )
    assert not any("area" in rule for rule in text(result))
    one = from_dict({"name": "t", "columns": {"a": {"kind": "number"}}, "target": {"name": "y"}})
    alone = weakest_segments(one, X[:, :1], errors, (Z[:, :1], actual, actual * 1.01), dated=False)
    assert alone.segments == ()
    few = weakest_segments(CONTRACT, X[:40], errors[:40], (Z, actual, actual), dated=False)
    assert (few.segments, few.rows, few.mape) == ((), 2000, 0.0)


def test_the_date_of_the_sale_is_no_rule_where_other_rows_are_newer() -> None:
    X, Z = rows(4000, 1), rows(2000, 2)
    late = lambda X: X[:, 3] > 17_000 * DAY  # noqa: E731
    assert text(found(late, X, Z))[0].startswith("sold > 2016-0")
    assert not any("sold" in rule for rule in text(found(late, X, Z, dated=True)))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.floats(1.5, 6.0))
def test_segments_share_no_row_and_say_how_many_they_are(seed: int, factor: float) -> None:
    X, Z = rows(1500, seed), rows(900, seed + 1)
    wide = lambda X: (X[:, 0] > 120) | (X[:, 2] < 3)  # noqa: E731
    result = found(wide, X, Z, factor=factor)
    for table in (X, Z):
        meets = [
            np.logical_and.reduce([one.holds(CONTRACT, table) for one in segment.rule])
            for segment in result.segments
        ]
        assert all(total <= 1 for total in np.sum(meets, axis=0)) if meets else True
    for segment in result.segments:
        assert segment.rows >= 30
        assert segment.mape > result.mape
    assert [one.mape for one in result.segments] == sorted(
        (one.mape for one in result.segments), reverse=True
    )


def test_rules_read_as_people_speak_in_both_languages() -> None:
    many = Condition("zip", levels=tuple(LEVELS[:7]), others=tuple(LEVELS[7:]), missing=False)
    rule = (Condition("area", low=50.5, high=1250.0, missing=False), many)
    assert rule_text(rule) == "50.5 < area ≤ 1250 and zip is not 007, 008, 009, 010 or 011"
    assert rule_text(rule, "es") == "50,5 < area ≤ 1250 y zip no es 007, 008, 009, 010 o 011"
    few = Condition("zip", levels=tuple(LEVELS[:6]), others=tuple(LEVELS[6:]), missing=True)
    assert rule_text((few,)) == "(zip is 000, 001, 002, 003 or 2 others or missing)"
    assert rule_text((Condition("built", known=False),), "es") == "built sin valor"
    assert rule_text((Condition("built", missing=False),)) == "built known"
    sold = Condition("sold", low=16_000 * DAY, missing=False, dates=True)
    assert rule_text((sold,)) == "sold > 2013-10-22"


def test_the_table_compares_with_all_rows_and_the_json_has_the_words() -> None:
    X, Z = rows(4000, 1), rows(2000, 2)
    result = found(lambda X: X[:, 0] > 150, X, Z)
    (table,) = weakest_table(result, "es")
    assert table.header[0] == "filas con"
    assert table.rows[-1][0] == "todas las filas"
    assert table.rows[-1][3] == "1,00"
    assert float(str(table.rows[0][3]).replace(",", ".")) > 2
    plain = plain_groups((), result)["weakest_segments"]
    json.dumps(plain, allow_nan=False)
    assert plain["rules"][0] == {language: rule_text(result.segments[0].rule, language)
                                 for language in ("en", "es")}  # fmt: skip
    assert weakest_table(WeakestSegments((), 10, 1.0, 1.0)) == []


def test_a_limit_of_whole_numbers_moves_none_of_them_to_the_other_side() -> None:
    rooms = from_dict(
        {"name": "t", "columns": {"rooms": {"kind": "integer"}}, "target": {"name": "price"}}
    )
    random = np.random.default_rng(3)
    X, Z = (random.integers(1, 11, (n, 1)).astype(float) for n in (3000, 1500))
    errors, own = (
        np.abs(random.normal(0, 0.05, len(A))) * np.where(A[:, 0] <= 3, 5.0, 1.0) for A in (X, Z)
    )
    actual = np.full(len(Z), 1e5)
    result = weakest_segments(rooms, X, 100 * errors, (Z, actual, actual * (1 + own)), dated=False)
    assert text(result)[0] == "rooms ≤ 3"
    assert result.segments[0].rows == (Z[:, 0] <= 3).sum()


@pytest.mark.parametrize("few", [FEWEST_OF_GROUP - 1, FEWEST_OF_GROUP])
def test_a_rule_needs_so_many_rows_that_meet_it(few: int) -> None:
    X, Z = rows(6000, 1), rows(3000, 2)
    Z[:, 0] = np.where(np.arange(3000) < few, 190.0, 100.0)
    result = found(lambda A: A[:, 0] > 150, X, Z, factor=9.0)
    counts = [one.rows for one in result.segments if text(result)[0] == "area > 150"]
    assert counts[:1] == ([few] if few == FEWEST_OF_GROUP else [])
