"""`Problem`: every refusal of the API, as ``application/problem+json`` (RFC 9457).

A body of this form answers every request that is refused, on every route::

    {"type": "/problems#invalid_rows", "title": "rows do not meet the contract",
     "status": 422, "detail": "1 of 2 rows do not meet the contract",
     "instance": "urn:tasador:request:5f3c-1a",
     "error": "invalid_rows", "request_id": "5f3c-1a", "remedy": "...",
     "errors": [{"loc": ["instances", 0, "median_income"], "msg": "...", "type": "invalid_value",
                 "expected": "...", "got": "...", "remedy": "..."}]}

``expected``, ``got`` and ``remedy`` are there where they are known. ``type`` is the address of what
is said about all problems of the kind, ``error`` its last part: the Open Inference Protocol demands
a member of that name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from tasador.contract.row_check import Fault, shown
from tasador.core.errors import ServingError, StorageError, TasadorError
from tasador.core.logging import redact, redact_all
from tasador.records.errors import BusyError

MEDIA_TYPE = "application/problem+json"
#: Path of the page that says what each kind means.
PAGE = "/problems"
_LATER = "try again after the time in Retry-After"


class ProblemType(NamedTuple):
    """What all problems of one kind have in common.

    Attributes:
        status: The HTTP status.
        title: What happened, in a few words; ``detail`` repeats it when there is no more to say.
        expected: What would have been right.
        remedy: What the client can do about it.
        retry_after: Seconds after which another try may go better.
    """

    status: int
    title: str
    expected: str | None = None
    remedy: str | None = None
    retry_after: int | None = None


_T = ProblemType
#: Every kind of problem by its word for programs.
PROBLEMS: dict[str, ProblemType] = {
    "malformed_request": _T(400, "the request is not HTTP", "a request of HTTP/1.1"),
    "unknown_host": _T(
        400, "the service is not called by this name", "a host of security.allowed_hosts"
    ),
    "unauthorised": _T(
        401,
        "a valid API key is needed",
        "a valid key in X-API-Key or Authorization: Bearer",
        "ask whoever runs the service for a key",
    ),
    "forbidden": _T(403, "this key may not use the admin routes", "a key of role admin"),
    "refused": _T(400, "the request is refused", remedy="see /docs for the routes"),
    "unknown_path": _T(404, "there is no such path", remedy="see /docs for the routes"),
    "wrong_method": _T(
        405, "the path does not take this method", remedy="see /docs for the routes"
    ),
    "unknown_version": _T(
        404,
        "this version does not answer here",
        remedy="leave the version out, or ask /api/v1/model/info",
    ),
    "unknown_model": _T(404, "there is no such model here", remedy="ask /api/v1/model/info"),
    "no_verdict": _T(
        404,
        "nothing was evaluated yet",
        remedy="run `tasador watch` beside the service, or `tasador monitor` once",
    ),
    "no_alert": _T(
        404, "no such alert fires", remedy="it may be over: see /api/v1/monitoring/alerts"
    ),
    "no_coordinates": _T(404, "this table has no coordinates to draw"),
    "no_report": _T(
        404,
        "the run that made this model is not kept where the service runs",
        remedy="see the run in MLflow, or `tasador report` where it was trained",
    ),
    "slow_headers": _T(408, "the headers did not arrive in time"),
    "slow_body": _T(
        408,
        "the body did not arrive in time",
        remedy="check the network, or send less at once",
    ),
    "nothing_to_roll_back_to": _T(409, "there is no previous model"),
    "gates_refuse": _T(409, "a gate refuses this version"),
    "outcome_conflict": _T(
        409,
        "another outcome is known for these predictions; it stays",
        "the same value again, or a prediction without an outcome",
        'send it with "replace": true to correct a wrong one',
    ),
    "body_too_large": _T(
        413,
        "the body is too large",
        remedy="send fewer rows at once, or use /api/v1/score for files",
    ),
    "head_too_large": _T(431, "the request's URL or headers are too long"),
    "unsupported_media_type": _T(
        415, "the body's content type is not read here", remedy="set the header Content-Type"
    ),
    "malformed_json": _T(
        422,
        "the body is not JSON",
        "a JSON object in UTF-8; NaN and Infinity are no JSON, null is",
    ),
    "invalid_request": _T(422, "the request cannot be read"),
    "invalid_rows": _T(
        422,
        "rows do not meet the contract",
        remedy="correct the fields listed in errors; no row was valued",
    ),
    "invalid_outcomes": _T(422, "no outcome can be recorded"),
    "invalid_tensors": _T(422, "the tensors cannot be read"),
    "invalid_header": _T(
        422,
        "the file's columns do not meet the contract",
        remedy="correct the columns listed in errors; no row was valued",
    ),
    "duplicate_field": _T(
        422, "a field is given twice in one object", remedy="send each field once"
    ),
    "malformed_file": _T(422, "the file cannot be read"),
    "malformed_body": _T(
        422,
        "the body cannot be inflated",
        "a whole body, compressed as Content-Encoding says",
        "send it again, or uncompressed",
    ),
    "too_many_requests": _T(429, "this client sends requests too fast", remedy=_LATER),
    "internal_error": _T(
        500,
        "the request could not be answered",
        remedy="report the request id with the service's log",
    ),
    "model_not_ready": _T(
        503,
        "no model is loaded yet",
        remedy="try again shortly; /health/deep says which source is down",
        retry_after=2,
    ),
    "overloaded": _T(503, "too many requests are under way", remedy=_LATER, retry_after=1),
    "timeout": _T(
        503,
        "the request took too long",
        remedy="send fewer rows at once, or try again",
        retry_after=1,
    ),
    "no_space": _T(
        503,
        "the valuation cannot be recorded: the database takes nothing, and the spool is full",
        remedy=f"{_LATER}; /health/deep says what is wrong",
        retry_after=5,
    ),
    "records_off": _T(
        503,
        "records are switched off",
        remedy="set TASADOR_RECORDS__MODE to durable or async",
    ),
    "database_away": _T(503, "the records' database does not answer", retry_after=5),
    "registry_away": _T(503, "the registry does not answer"),
    "lifecycle_unavailable": _T(503, "this service cannot change models"),
    "report_unavailable": _T(503, "this service cannot write valuation reports"),
}

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
        error: Its kind, one of `PROBLEMS`.
        message: What happened, for people; by default the kind's title.
        status: The HTTP status, where it is not the kind's.
        expected: What would have been right; by default the kind's, and so the next two.
        got: What came instead.
        remedy: What the client can do about it.
        retry_after: Seconds after which another try may go better; None gives no hint.
        errors: Faults by place; see the module.
        asked: How many rows the request holds, when they could be read.
        bad_rows: Which of them do not meet the contract.
    """

    def __init__(
        self,
        error: str,
        message: str | None = None,
        *,
        status: int | None = None,
        expected: str | None = None,
        got: str | None = None,
        remedy: str | None = None,
        retry_after: int | None = None,
        errors: Sequence[Mapping[str, Any]] = (),
        asked: int = 1,
        bad_rows: Sequence[BadRow] = (),
    ) -> None:
        kind = PROBLEMS[error]
        super().__init__(
            message or kind.title,
            expected=expected or kind.expected,
            got=got,
            remedy=remedy or kind.remedy,
        )
        self.error, self.title = error, kind.title
        self.status = status or kind.status
        self.retry_after = retry_after or kind.retry_after
        self.errors = list(errors)
        self.asked = asked
        self.bad_rows = bad_rows

    def body(self, request_id: str, prefix: str = "") -> bytes:
        """Return the answer's body.

        Args:
            request_id: Names this one problem.
            prefix: Of the service's paths, see ``server.root_path``.
        """
        detail = self.message
        if len(self.errors) > MOST_DETAILS:
            # never cut in silence: a client may otherwise correct a hundred rows and be refused
            # again
            detail += f" ({len(self.errors)} faults, the first {MOST_DETAILS} are listed)"
        own = {"expected": self.expected, "got": self.got, "remedy": self.remedy}
        plain: dict[str, Any] = {
            "type": f"{prefix}{PAGE}#{self.error}",
            "title": self.title,
            "status": self.status,
            # texts quote what was sent and what drivers say: either may hold a password
            "detail": redact(detail),
            "instance": f"urn:tasador:request:{request_id}",
            "error": self.error,
            "request_id": request_id,
            **{name: redact(text) for name, text in own.items() if text is not None},
            "errors": redact_all(self.errors[:MOST_DETAILS]),
        }
        return orjson.dumps(plain, default=str)

    def headers(self) -> dict[str, str]:
        """Return the answer's headers beside its type."""
        return {} if self.retry_after is None else {"retry-after": str(self.retry_after)}

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
    def of(cls, word: str, error: TasadorError) -> Problem:
        """Return the answer that carries the parts of another error."""
        return cls(word, error.message, expected=error.expected, got=error.got, remedy=error.remedy)


class InvalidRequest(Problem):
    """One place of a request is invalid: 422, with that place in ``errors``.

    Args:
        loc: The place, see the module.
        message: What cannot be done with the request.
        expected: What would have been right there.
        got: What came instead.
        remedy: What the client can do about it.
        error: A stable word for programs.
        kind: The same of the entry in ``errors``; `error` when None.
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
        super().__init__(error, message, expected=expected, got=got, remedy=remedy, errors=[entry])


def error_detail(
    loc: Sequence[str | int],
    *,
    kind: str,
    expected: str,
    got: str,
    remedy: str,
) -> dict[str, Any]:
    """Return one entry of ``errors``."""
    return {
        "loc": list(loc),
        "msg": f"expected {expected}, got {got}",
        "type": kind,
        "expected": expected,
        "got": got,
        "remedy": remedy,
    }


def faults_of(
    found: Sequence[Mapping[str, Any]],
) -> list[tuple[list[str | int], str, str, str]]:
    """Return place, expected, got and kind of what pydantic finds wrong."""
    faults = []
    for one in found:
        loc = [part for part in one["loc"] if part != "body"]
        kind = str(one["type"])
        cause = one.get("ctx", {}).get("error")
        text = str(one["msg"]) if cause is None else str(cause)
        expected = text.removeprefix("Input should be ").removeprefix("Input should ")
        got = shown(one.get("input"))
        if kind == "missing":
            expected, got = "a value", "no such field"
        elif kind.startswith("list_") or kind in ("too_short", "too_long"):
            kind = "invalid_list"
        elif kind != "extra_forbidden":
            kind = "invalid_value"
        faults.append((loc, expected, got, kind))
    return faults


def not_recorded(error: StorageError) -> Problem:
    """Return the answer when a valuation cannot be recorded, and is therefore not given."""
    # the queue is full for a moment, which is load and not an outage
    return Problem("overloaded" if isinstance(error, BusyError) else "no_space")


def too_large(limit: int) -> Problem:
    """Return the answer to a body above the limit."""
    return Problem("body_too_large", expected=f"at most {limit} bytes")


def wrong_media_type(got: str, *expected: str) -> Problem:
    """Return the answer to a body whose type the route does not read."""
    return Problem(
        "unsupported_media_type", expected=" or ".join(expected), got=got or "no content type"
    )
