"""`Problem`: every refusal of the API, in one documented schema.

A body of this form answers every request that is refused, on every route::

    {"error": "invalid_rows", "message": "...", "request_id": "...",
     "detail": [{"loc": ["instances", 0, "median_income"], "msg": "...", "type": "invalid_value",
                 "expected": "...", "got": "...", "remedy": "..."}]}

``detail`` keeps the place (``loc``, ``msg``, ``type``) that FastAPI's own 422 gives it, so that
clients of the reference API go on working.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from tasador.contract.row_check import Fault
from tasador.core.errors import ServingError, StorageError, TasadorError
from tasador.core.logging import redact, redact_all
from tasador.records.errors import BusyError

#: Faults listed in one answer; a batch of thousands of bad rows need not be repeated to its sender.
MOST_DETAILS = 100


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that does not meet the contract.

    Attributes:
        values: As it was sent; None when it could not be read.
        faults: Field, cause and value of everything that is wrong with it.
    """

    values: Any
    faults: Sequence[tuple[str, str, str]]

    @classmethod
    def of(cls, values: Any, faults: Sequence[Fault]) -> BadRow:
        """Return a row with what the contract's check found."""
        return cls(values, [(found.field, found.cause, found.got) for found in faults])

    @classmethod
    def unreadable(cls, got: str, values: Any = None) -> BadRow:
        """Return what is no row at all."""
        return cls(values, [("(row)", "unreadable", got)])


class Problem(ServingError):  # noqa: N818 - the term of RFC 9457
    """A request that is refused.

    Args:
        status: The HTTP status.
        error: A stable word for programs, e.g. ``"invalid_rows"``.
        message: What happened, for people.
        detail: Faults by place; see the module.
        retry_after: Seconds after which another try may go better; None gives no hint.
        asked: How many rows the request holds, when they could be read.
        bad_rows: Which of them do not meet the contract.
    """

    def __init__(
        self,
        status: int,
        error: str,
        message: str,
        *,
        expected: str | None = None,
        got: str | None = None,
        remedy: str | None = None,
        detail: Sequence[Mapping[str, Any]] = (),
        retry_after: int | None = None,
        asked: int = 1,
        bad_rows: Sequence[BadRow] = (),
    ) -> None:
        super().__init__(message, expected=expected, got=got, remedy=remedy)
        self.status = status
        self.error = error
        self.detail = list(detail)
        self.retry_after = retry_after
        self.asked = asked
        self.bad_rows = bad_rows

    def body(self, request_id: str) -> bytes:
        """Return the answer's body."""
        plain: dict[str, Any] = {
            "error": self.error,
            # messages quote what was sent and what drivers say: either may hold a password
            "message": redact(str(self)),
            "request_id": request_id,
            "detail": redact_all(self.detail[:MOST_DETAILS]),
        }
        if len(self.detail) > MOST_DETAILS:
            # never cut in silence: a client may otherwise correct a hundred rows and be refused
            # again
            plain["message"] += f" ({len(self.detail)} faults, the first {MOST_DETAILS} are listed)"
        return orjson.dumps(plain, default=str)

    def summary(self) -> str:
        """Return the error in one line for the log: fields and causes, no values."""
        causes: Counter[tuple[str, str]] = Counter()
        for row in self.bad_rows:
            causes.update({(name, cause) for name, cause, _ in row.faults})
        causes_text = [
            f"{name} {cause.replace('_', ' ')}" for (name, cause), _ in causes.most_common(5)
        ]
        return f"{self.error}: {', '.join(causes_text)}" if causes_text else self.error

    @classmethod
    def of(
        cls, status: int, word: str, error: TasadorError, *, retry_after: int | None = None
    ) -> Problem:
        """Return the answer that carries the parts of another error."""
        return cls(
            status, word, error.message,
            expected=error.expected, got=error.got, remedy=error.remedy, retry_after=retry_after,
        )  # fmt: skip


class InvalidRequest(Problem):
    """One place of a request is invalid: 422, with that place in ``detail``.

    Args:
        loc: The place, see the module.
        message: What cannot be done with the request.
        expected: What would have been right there.
        got: What came instead.
        remedy: What the client can do about it.
        error: A stable word for programs.
        kind: The same of the entry in ``detail``; `error` when None.
    """

    def __init__(
        self,
        loc: Sequence[str | int],
        message: str,
        expected: str,
        got: str,
        remedy: str,
        *,
        error: str = "invalid_request",
        kind: str | None = None,
    ) -> None:
        entry = error_detail(loc, kind=kind or error, expected=expected, got=got, remedy=remedy)
        super().__init__(422, error, message, expected=expected, got=got, detail=[entry])


def error_detail(
    loc: Sequence[str | int],
    *,
    kind: str,
    expected: str,
    got: str,
    remedy: str,
) -> dict[str, Any]:
    """Return one entry of ``detail``."""
    return {
        "loc": list(loc),
        "msg": f"expected {expected}, got {got}",
        "type": kind,
        "expected": expected,
        "got": got,
        "remedy": remedy,
    }


def not_ready() -> Problem:
    """Return the answer while no model is loaded."""
    return Problem(
        503,
        "model_not_ready",
        "no model is loaded yet",
        remedy="try again shortly; /health/deep says which source is down",
        retry_after=2,
    )


def overloaded(retry_after: int = 1) -> Problem:
    """Return the answer when more requests are under way than the service takes."""
    return Problem(
        503,
        "overloaded",
        "too many requests are under way",
        remedy="try again after the time in Retry-After",
        retry_after=retry_after,
    )


def timed_out(seconds: float) -> Problem:
    """Return the answer when a request took longer than it may."""
    return Problem(
        503,
        "timeout",
        f"the request took longer than {seconds:g} s",
        remedy="send fewer rows at once, or try again",
        retry_after=1,
    )


def not_recorded(error: StorageError) -> Problem:
    """Return the answer when a valuation cannot be recorded, and is therefore not given."""
    # the queue is full for a moment, which is load and not an outage
    if isinstance(error, BusyError):
        return overloaded()
    return Problem(
        503,
        "no_space",
        "the valuation cannot be recorded: the database takes nothing, and the spool is full",
        remedy="try again after the time in Retry-After; /health/deep says what is wrong",
        retry_after=5,
    )


def internal_error() -> Problem:
    """Return the answer when something went wrong here; its reason is in the log alone."""
    return Problem(
        500,
        "internal_error",
        "the request could not be answered",
        remedy="report the request id with the service's log",
    )


def too_large(limit: int) -> Problem:
    """Return the answer to a body above the limit."""
    return Problem(
        413,
        "body_too_large",
        "the body is too large",
        expected=f"at most {limit} bytes",
        remedy="send fewer rows at once, or use /api/v1/score for files",
    )


def wrong_media_type(got: str, *expected: str) -> Problem:
    """Return the answer to a body whose type the route does not read."""
    return Problem(
        415,
        "unsupported_media_type",
        "the body's content type is not read here",
        expected=" or ".join(expected),
        got=got or "no content type",
        remedy="set the header Content-Type",
    )


class ClientGone(Exception):  # noqa: N818 - a client that has gone is not an error
    """The client closed the connection before its request was whole."""
