"""From a request's bytes to encoded rows, with every fault named by item and field."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from tasador.core.errors import ValidationError
from tasador.data.encode import Encoder
from tasador.data.row_check import RowCheck, shown
from tasador.serving.problems import BadRow, Problem, fault

_REMEDY = 'send {"instances": [{...}, ...]}'


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of one request.

    Attributes:
        values: As they were sent.
        codes: Encoded, one list of p floats a row; not yet checked against the contract's bounds.
    """

    values: Sequence[dict[str, Any]]
    codes: list[list[float]]


def read_json(body: bytes) -> Any:
    """Return the JSON value in `body`.

    Raises:
        Problem: 422, it is none: malformed, NaN or Infinity, nested too deeply, not UTF-8.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Problem(
            422,
            "malformed_json",
            f"the body is not JSON: {error}",
            expected="a JSON object in UTF-8; NaN and Infinity are no JSON, null is",
            detail=[
                fault(
                    ["body"],
                    kind="json_invalid",
                    expected="JSON",
                    got=f"{len(body)} bytes that are none",
                    remedy=_REMEDY,
                )
            ],
        ) from None


def read_instances(body: bytes, most: int) -> list[Any]:
    """Return the list under ``instances``.

    Args:
        body: A JSON object.
        most: How many there may be.

    Raises:
        Problem: 422, no JSON, no such list, an empty one or too many.
    """
    plain = read_json(body)
    found = plain.get("instances") if type(plain) is dict else None
    if type(found) is not list:
        raise _wrong_list("a list of rows under the key 'instances'", shown(found))
    if not 0 < len(found) <= most:
        raise _wrong_list(f"1 to {most} rows", str(len(found)))
    return found


def _wrong_list(expected: str, got: str) -> Problem:
    return Problem(
        422,
        "invalid_request",
        "the list of rows cannot be read",
        expected=expected,
        got=got,
        detail=[
            fault(["instances"], kind="invalid_list", expected=expected, got=got, remedy=_REMEDY)
        ],
    )


def encode(values: Sequence[Any], encoder: Encoder, check: RowCheck, place: str) -> Rows:
    """Encode rows.

    Args:
        values: JSON values; each should be an object.
        encoder: The contract's encoder.
        check: The contract's check, asked only when something is wrong.
        place: Name of the list in the request, for messages.

    Raises:
        Problem: 422, a row is no object, lacks a field or has a value of another kind; the detail
            lists all faults of all rows.
    """
    try:
        return Rows(values, [encoder.codes(row) for row in values])
    except (ValidationError, TypeError, AttributeError):
        raise invalid_rows(values, check, place) from None


def invalid_rows(values: Sequence[Any], check: RowCheck, place: str) -> Problem:
    """Return the answer to rows of which some do not meet the contract."""
    detail = []
    bad = []
    for index, row in enumerate(values):
        if not isinstance(row, dict):
            bad.append(BadRow.unreadable(shown(row), row))
            detail.append(
                fault(
                    [place, index],
                    kind="invalid_row",
                    expected="an object of values by column name",
                    got=shown(row),
                    remedy=_REMEDY,
                )
            )
            continue
        faults = check.faults(row)
        if faults:
            bad.append(BadRow.of(row, faults))
        detail += [
            fault(
                [place, index, found.field],
                kind="missing" if found.field not in row else "invalid_value",
                expected=found.expected,
                got=found.got,
                remedy=found.remedy,
            )
            for found in faults
        ]
    return Problem(
        422,
        "invalid_rows",
        f"{len(bad)} of {len(values)} rows do not meet the contract",
        remedy="correct the fields listed in detail; no row was valued",
        detail=detail,
        asked=len(values),
        bad_rows=bad,
    )
