"""From a request's bytes to encoded rows, with every fault named by place, and to predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from tasador.contract.encoding import ABSENT, Encoder, as_of_field, field_of
from tasador.contract.model import TableContract
from tasador.contract.row_check import RowCheck, shown
from tasador.core import input_checks
from tasador.core.errors import ValidationError
from tasador.modeling.prediction import Support
from tasador.registry.model_bundle import ModelBundle
from tasador.serving.errors import BadRow, InvalidRequest, Problem, error_detail
from tasador.settings.serving import ServeLimits

Floats = NDArray[np.float64]

_REMEDY = 'send {"instances": [{...}, ...]}'


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of one request.

    Attributes:
        values: As they were sent.
        codes: Encoded, one list of p floats a row; not yet checked against the contract's bounds.
        coverage: Of their intervals; None takes the model's.
    """

    values: Sequence[dict[str, Any]]
    codes: list[list[float]]
    coverage: float | None = None


def read_json(body: bytes, *, nan: bool = False) -> Any:
    """Return the JSON value in `body`.

    Args:
        body: UTF-8.
        nan: Whether NaN and Infinity are read as the numbers that Python's and NumPy's clients
            write so; they are no JSON.

    Raises:
        Problem: 422, it is none: malformed, NaN or Infinity, nested too deeply, not UTF-8; or an
            object in it has a name twice, of which a parser would keep the last in silence.
    """
    try:
        plain = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        # the hot route: what orjson refuses is refused, without a second parser
        if not nan:
            raise _malformed(body, error) from None
        return _read_strictly(body, error)
    # Where as many names were sent as were kept, none came twice: a count, not a second parser.
    sent = body.count(b'":') if b'" :' not in body else -1
    if sent != _names_of_rows(plain) and sent != _names_of_all(plain):
        _read_strictly(body, None)
    return plain


def _names_of_rows(plain: Any) -> int:
    """Count the names in an object and in the flat objects of its lists."""
    if type(plain) is not dict:
        return 0
    lists = (value for value in plain.values() if type(value) is list)
    return len(plain) + sum(
        len(item) for items in lists if items and type(items[0]) is dict
        for item in items if type(item) is dict
    )  # fmt: skip


def _names_of_all(plain: Any) -> int:
    """Count the names in a JSON value, however deep."""
    count, waiting = 0, [plain]
    while waiting:
        value = waiting.pop()
        if type(value) is dict:
            count += len(value)
            waiting += [item for item in value.values() if type(item) in (list, dict)]
        elif type(value) is list:
            waiting += [item for item in value if type(item) in (list, dict)]
    return count


def _read_strictly(body: bytes, error: ValueError | None) -> Any:
    """Read with Python's parser, which takes NaN and sees every name."""
    try:
        return input_checks.read_json(body)
    except input_checks.RepeatedNameError as repeated:
        raise _duplicate_field(repeated.name) from None
    except ValueError as other:
        raise _malformed(body, error or other) from None


def _duplicate_field(name: str) -> Problem:
    return InvalidRequest(
        ["body", name], f"the field {name!r} is given twice in one object", "each field once",
        "two values", "send each field once", error="duplicate_field", kind="duplicate",
    )  # fmt: skip


def _malformed(body: bytes, error: ValueError) -> Problem:
    return Problem(
        "malformed_json",
        f"the body is not JSON: {error}",
        errors=[
            error_detail(
                ["body"],
                kind="json_invalid",
                expected="JSON",
                got=f"{len(body)} bytes that are none",
                remedy=_REMEDY,
            )
        ],
    )


def instances_of(plain: Any, most: int) -> list[Any]:
    """Return the list under ``instances`` of a JSON value.

    Args:
        plain: Should be an object.
        most: How many there may be.

    Raises:
        Problem: 422, no such list, an empty one or too many.
    """
    found = plain.get("instances") if type(plain) is dict else None
    if type(found) is not list:
        raise _wrong_list("a list of rows under the key 'instances'", shown(found))
    if not 0 < len(found) <= most:
        raise _wrong_list(f"1 to {most} rows", str(len(found)))
    return found


def _wrong_list(expected: str, got: str) -> Problem:
    message = "the list of rows cannot be read"
    return InvalidRequest(["instances"], message, expected, got, _REMEDY, kind="invalid_list")


def dated(values: Sequence[Any], contract: TableContract, day: str) -> list[Any]:
    """Return the rows as they are on `day`, whatever date they have.

    Raises:
        Problem: 422, it is no day, or the contract has no date of the sale.
    """
    try:
        field = as_of_field(contract, day)
    except ValidationError as error:
        raise InvalidRequest(
            ["query", "as_of"], error.message, error.expected or "", error.got or "",
            error.remedy or "send a day such as 2014-06-30", kind="invalid_value",
        ) from None  # fmt: skip
    return [{**row, **field} if type(row) is dict else row for row in values]


def coverage_of(text: str, bundle: ModelBundle) -> float:
    """Return the coverage that a query asks for.

    Raises:
        Problem: 422, it is no number, or `bundle` cannot hold it.
    """
    try:
        return bundle.check_coverage(float(text))
    except ValueError:
        raise InvalidRequest(
            ["query", "coverage"], "the coverage is no number", "0.5 to 0.99", text[:40],
            "send a coverage such as 0.8", kind="invalid_value",
        ) from None  # fmt: skip
    except ValidationError as error:
        raise InvalidRequest(
            ["query", "coverage"], error.message, error.expected or "", error.got or "",
            error.remedy or "", kind="invalid_value",
        ) from None  # fmt: skip


def encode(values: Sequence[Any], encoder: Encoder, check: RowCheck, place: str) -> Rows:
    """Encode rows.

    Args:
        values: JSON values; each should be an object.
        encoder: The contract's encoder.
        check: The contract's check, asked only when something is wrong.
        place: Name of the list in the request, for messages.

    Raises:
        Problem: 422, a row is no object, lacks a field or has a value of a different type; the
            detail lists all faults of all rows.
    """
    try:
        # the encoder raises at the first fault and builds no message: valid rows pay nothing for it
        return Rows(values, [encoder.codes(row) for row in values])
    except (ValidationError, TypeError, AttributeError):
        raise invalid_rows(values, check, place) from None


def invalid_rows(values: Sequence[Any], check: RowCheck, place: str) -> Problem:
    """Return the answer to rows of which some do not meet the contract."""
    faults: list[dict[str, Any]] = []
    bad = []
    for index, row in enumerate(values):
        if not isinstance(row, dict):
            bad.append(BadRow.unreadable(shown(row), row))
            faults.append(
                error_detail(
                    [place, index],
                    kind="invalid_row",
                    expected="an object of values by column name",
                    got=shown(row),
                    remedy=_REMEDY,
                )
            )
            continue
        wrong = check.faults(row)
        if wrong:
            bad.append(BadRow.of(row, wrong))
        faults += [
            error_detail(
                [place, index, found.field],
                kind="missing" if field_of(row, found.field) is ABSENT else "invalid_value",
                expected=found.expected,
                got=found.got,
                remedy=found.remedy,
            )
            for found in wrong
        ]
    return Problem(
        "invalid_rows",
        f"{len(bad)} of {len(values)} rows do not meet the contract",
        errors=faults,
        asked=len(values),
        bad_rows=bad,
    )


@dataclass(frozen=True, slots=True)
class Predictions:
    """Values of n rows.

    Attributes:
        prediction: n estimates, in the target's unit.
        lower: n lower ends of the interval.
        upper: n upper ends.
        notes: By row index, only for rows that have any: what their sender should know.
        fsd: n forecast standard deviations; None from older bundles.
        support: What the n estimates rest on; None without comparables, and from older bundles.
        no_value: By row index, why a row gets no value; its estimate is recorded, not answered.
    """

    prediction: list[float]
    lower: list[float]
    upper: list[float]
    notes: dict[int, list[str]]
    fsd: list[float] | None = None
    support: list[Support] | None = None
    no_value: dict[int, str] = field(default_factory=dict)

    def answered(self) -> list[float | None]:
        """Return the n estimates, None where there is no value."""
        return [None if i in self.no_value else v for i, v in enumerate(self.prediction)]


class Predictor:
    """Checks and values rows with one bundle; may be used from several threads at once.

    Args:
        bundle: The loaded bundle.
        source: Where it came from, e.g. ``"mlflow"``.
        limits: When a row gets no value.
    """

    def __init__(self, bundle: ModelBundle, source: str, limits: ServeLimits | None = None) -> None:
        self.limits = limits or ServeLimits()
        self.bundle = bundle
        self.source = source
        self.version = bundle.version
        self.variant: str | None = None  # its part in an experiment
        self.contract = bundle.contract
        self.check = bundle.check
        self.prediction_name = bundle.contract.target.prediction_name
        self.coverage = bundle.interval.coverage

    def encode(self, values: Sequence[Any], place: str = "instances") -> Rows:
        """Encode rows as they were sent; see `encode`."""
        return encode(values, self.bundle.encoder, self.check, place)

    def predict(self, X: Floats, coverage: float | None = None) -> Predictions:
        """Value encoded rows (n, p) that `check` accepts."""
        found = self.bundle.appraise(X, coverage, support=True)
        columns = (found.prediction, found.lower, found.upper)
        prediction, lower, upper = (column.tolist() for column in columns)
        fsd = None if found.fsd is None else found.fsd.tolist()
        return Predictions(prediction, lower, upper, found.notes, fsd, found.support)
