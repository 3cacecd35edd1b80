"""Groups of rows by the columns of a contract's ``fairness``, features or not."""

from __future__ import annotations

import re

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasador.contract.model import TableContract
from tasador.contract.reader import from_dict
from tasador.core.errors import ContractError, ValidationError
from tasador.data.row_groups import declared_groups, rival_values
from tasador.data.table import Table
from tasador.data.validation import validate_table
from tasador.metrics.ratio_study import MISSING, OTHERS, level_groups

PLAIN = {
    "name": "homes",
    "columns": {
        "area": {"kind": "number"},
        "rooms": {"kind": "integer", "nullable": True},
        "built": {"kind": "datetime"},
        "income": {"kind": "text"},
        "district": {"kind": "text"},
        "roll": {"kind": "number", "role": "rival", "format": {"affixes": ["$"]}},
    },
    "target": {"name": "price"},
}


def contract(*names: str) -> TableContract:
    return from_dict({**PLAIN, "fairness": list(names)})


def frame(n: int = 400) -> pl.DataFrame:
    random = np.random.default_rng(0)
    return pl.DataFrame(
        {
            "area": random.uniform(20, 200, n),
            "rooms": [None if i % 10 == 0 else i % 5 for i in range(n)],
            "built": [f"{1990 + i % 3}-05-01" for i in range(n)],
            "income": [f"{value:.2f}" for value in random.lognormal(3, 1, n)],
            "district": ["North", "South", "", "Río"] * (n // 4 - 1) + ["A", "B", "C", None],
            "roll": [f"${value:.0f}" for value in random.uniform(100, 900, n)],
            "price": random.uniform(1, 2, n),
        }
    )


def groups(*names: str) -> dict[str, dict[str, int]]:
    described, table = contract(*names), frame()
    valid = validate_table(Table(table, "", "real", ""), described)
    # any order of the rows, as parts have it
    part = valid.part.take(np.random.default_rng(1).permutation(len(valid.y)))
    found = declared_groups(described, part, table)
    total = {name: np.sum(list(some.values()), axis=0) for name, some in found.items()}
    assert all((one == 1).all() for one in total.values())  # each row is in one group
    if "district" in names:
        assert part.row is not None
        north = [table["district"][row] == "North" for row in part.row.tolist()]
        assert found["district"]["North"].tolist() == north
    return {
        by: {name: int(rows.sum()) for name, rows in some.items()} for by, some in found.items()
    }


def test_other_peoples_estimates_follow_their_rows() -> None:
    rival = {"kind": "number", "role": "rival"}
    table = frame().with_columns(land=pl.lit(50.0), agent=pl.Series([None, 7.0] * 200))
    described = from_dict(
        {
            **PLAIN,
            "columns": {**PLAIN["columns"], "land": rival, "agent": rival, "gone": rival},
            "derive": {"total": {"sum": ["roll", "land"], "role": "rival"}},
        }
    )
    valid = validate_table(Table(table, "", "real", ""), described)
    part = valid.part.take(np.random.default_rng(1).permutation(len(valid.y)))
    found = rival_values(described, part, table)
    assert list(found) == ["agent", "total"]  # neither the parts nor what the table lacks
    assert part.row is not None
    roll = np.array([float(text.removeprefix("$")) for text in table["roll"]])
    assert found["total"].tolist() == (roll + 50.0)[part.row].tolist()
    assert np.isnan(found["agent"]).tolist() == (part.row % 2 == 0).tolist()


def test_levels_parts_years_and_what_is_missing_are_groups() -> None:
    found = groups("rooms", "built", "district", "income", "roll", "area")
    assert found["rooms"] == {"0": 40, "1": 80, "2": 80, "3": 80, "4": 80, MISSING: 40}
    assert set(found["built"]) == {"1990", "1991", "1992"}
    assert found["district"] == {"North": 99, "Río": 99, "South": 99, OTHERS: 3, MISSING: 100}
    for name in ("income", "roll", "area"):
        assert list(found[name].values()) == [81, 80, 80, 80, 79]
        ends = [re.fullmatch(r"(up|[\d.]+) to ([\d.]+)", key) for key in found[name]]
        lows, highs = ([end[side] for end in ends if end] for side in (1, 2))
        assert lows == ["up", *highs[:-1]]


def test_nothing_is_grouped_where_nothing_is_declared() -> None:
    assert groups() == {}


def test_a_column_that_is_not_there_is_named() -> None:
    with pytest.raises(ContractError, match="fairness: there is no column 'distrct'") as caught:
        contract("distrct")
    assert "did you mean 'district'" in str(caught.value)
    with pytest.raises(ContractError, match=re.escape("contract.fairness: expected a list")):
        from_dict({**PLAIN, "fairness": {"district": True}})
    with pytest.raises(ValidationError, match=r"lacks 1 column.*'district'"):
        validate_table(Table(frame().drop("district"), "", "real", ""), contract("district"))


def test_older_contracts_keep_their_words_and_new_ones_survive_a_round_trip() -> None:
    assert "fairness" not in contract().to_dict()
    some = contract("district", "area")
    assert from_dict(some.to_dict()) == some
    assert some.schema_fingerprint == contract().schema_fingerprint


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.one_of(st.none(), st.sampled_from(["a", "b", "10", "9", "x y"])), max_size=60),
    st.integers(1, 8),
)
def test_every_row_with_a_value_is_in_one_group_and_rare_ones_are_together(
    values: list[str | None], fewest: int
) -> None:
    found = level_groups(values, fewest)
    for at, value in enumerate(values):
        inside = [name for name, rows in found.items() if rows[at]]
        if value is None:
            assert not inside
        else:
            assert inside == [value if values.count(value) >= fewest else OTHERS]


def test_numbers_stand_in_their_order_and_texts_in_that_of_the_alphabet() -> None:
    assert list(level_groups(["10", "9", "1"])) == ["1", "9", "10"]
    assert list(level_groups(["b", "a", "10"])) == ["10", "a", "b"]
