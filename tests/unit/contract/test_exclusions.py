"""The contract's section ``exclude``: what it may say, and what it changes."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tasador.contract.reader import from_dict
from tasador.core.errors import ContractError


def plain(*filters: Any) -> dict[str, Any]:
    return {
        "name": "t",
        "columns": {
            "area": {"kind": "number"},
            "method": {"kind": "category", "categories": ["S", "PI"]},
            "sold": {"kind": "datetime"},
            "note": {"kind": "text"},
        },
        "derive": {"double": {"sum": ["area", "area"]}},
        "target": {"name": "price", "transform": "log"},
        **({"exclude": list(filters)} if filters else {}),
    }


@pytest.mark.parametrize(
    ("one", "message"),
    [
        ({"column": "method", "reason": "r"}, "exclude.1: no condition"),
        ({"column": "method", "in": ["PI"]}, "exclude.1.reason: expected a text"),
        ({"colum": "method", "in": ["PI"], "reason": "r"}, "did you mean 'column'"),
        ({"column": "method", "below": 3, "reason": "r"}, "'method' is of kind category"),
        ({"column": "price", "below": "x", "reason": "r"}, "exclude.1.below: expected a finite"),
        ({"column": "sold", "in": ["2020-01-01"], "reason": "r"}, "'sold' has dates"),
        ({"column": "sold", "below": "spring", "reason": "r"}, "expected a date"),
        ({"column": "double", "below": 1, "reason": "r"}, "follows from other columns"),
        ({"column": "method", "in": [True], "reason": "r"}, "quote words"),
        ({"column": "method", "missing": "yes", "reason": "r"}, "expected true or false"),
        ("method", "exclude.1: expected a mapping"),
    ],
)
def test_a_filter_that_says_nothing_sensible_is_an_error_that_names_the_key(
    one: Any, message: str
) -> None:
    with pytest.raises(ContractError, match=re.escape(message)):
        from_dict(plain(one))


def test_filters_survive_a_round_trip_and_change_nothing_that_a_caller_sends() -> None:
    contract = from_dict(
        plain(
            {"column": "method", "in": "PI", "reason": "passed in"},
            {"column": "sold", "below": "2015-01-01", "reason": "too old"},
            {"column": "elsewhere", "not_in": ["yes"], "missing": True, "reason": "no sale"},
        )
    )
    assert from_dict(contract.to_dict()) == contract
    assert contract.to_dict()["exclude"][1]["below"] == "2015-01-01"
    without = from_dict(plain())
    assert "exclude" not in without.to_dict()
    assert contract.schema_fingerprint == without.schema_fingerprint
