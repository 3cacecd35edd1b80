"""A small client of the API, for flows that talk to a running service."""

from __future__ import annotations

import json
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.client import HTTPException
from typing import IO, Any

from tasador.core.deadlines import Deadline
from tasador.core.errors import DeadlineError, ServingError
from tasador.core.http import Patience, opened, read_body

#: A whole answer may take this many times the longest silence.
_DURATION_FACTOR = 60
_REFUSAL_BYTES = 1 << 20


class ServiceAwayError(ServingError):
    """Nothing answers at the service's address, or it stopped half way."""

    @classmethod
    def of(cls, url: str, error: Exception) -> ServiceAwayError:
        """Return the error of the service at `url`."""
        return cls(
            f"the service at {url} does not answer",
            got=str(getattr(error, "reason", error)),
            remedy="start it with `tasador serve`, or name its address with --url",
        )


class NoModelError(ServingError):
    """The service answers, and has no model yet."""

    @classmethod
    def of(cls, url: str) -> NoModelError:
        """Return the error of the service at `url`."""
        return cls(
            f"the service at {url} has no model yet",
            remedy="see its /health/deep, or train a model with `tasador run`",
        )


class ServiceRefusedError(ServingError):
    """The service answered with a refusal.

    Attributes:
        status: The HTTP status.
        word: The refusal's word for programs, e.g. ``invalid_rows``; empty when it sent none.
        said: What the service said, for people.
        detail: The same without what to do about it, which names commands; empty when unknown.
        faults: What is wrong where, see `serving.api.openapi.Fault`.
    """

    status: int = 0
    word: str = ""
    said: str = ""
    detail: str = ""
    faults: tuple[dict[str, Any], ...] = ()

    @classmethod
    def of(cls, path: str, status: int, body: bytes) -> ServiceRefusedError:
        """Return the error of an answer other than 200."""
        found = cls(f"the service refuses {path}", got=f"{status}: {_message(body)}")
        found.status, found.said = status, body.decode(errors="replace")
        try:
            plain = json.loads(body)
            if isinstance(plain, dict):
                found.word = str(plain.get("error", ""))
                found.detail = str(plain.get("detail") or "")
                found.said = _text(plain) or found.said
                found.faults = tuple(plain.get("errors") or ())
        except ValueError:
            pass  # a proxy's page: its text is said as it is
        return found


@dataclass(frozen=True)
class ScoredRow:
    """One line of what ``/api/v1/score`` answers.

    Attributes:
        row: Its place in the file, from 1.
        prediction: The estimate; None when the row has an error.
        lower: Lower end of its interval.
        upper: Upper end.
        warnings: Imputed fields, values outside the range seen in training.
        error: What is wrong with the row; empty when it was valued.
        prediction_id: Names the valuation in ``/api/v1/outcomes``.
        fsd: Forecast standard deviation of the relative error; None from older models.
        confidence_class: H, M or L; None from older models.
        no_value: Why a right row gets no value; None where it does.
    """

    row: int
    prediction: float | None
    lower: float | None
    upper: float | None
    warnings: str
    error: str
    prediction_id: str
    fsd: float | None = None
    confidence_class: str | None = None
    no_value: str | None = None


@dataclass(frozen=True)
class ApiClient:
    """Talks to one service.

    Attributes:
        url: E.g. ``http://127.0.0.1:8000``.
        key: An API key; None when the service wants none.
        timeout_s: Seconds for one request.
    """

    url: str
    key: str | None = None
    timeout_s: float = 30.0

    def with_key(self, key: str) -> ApiClient:
        """Return a client that sends another key."""
        return replace(self, key=key)

    def get(self, path: str, query: Mapping[str, object] | None = None) -> Any:
        """Return what a path answers, as JSON's own types.

        Raises:
            ServiceAwayError: The service does not answer.
            ServiceRefusedError: It refuses.
        """
        return self._call(path + (f"?{urllib.parse.urlencode(query)}" if query else ""), None)

    def text(self, path: str) -> str:
        """Return what a path answers, as text; errors as for `get`."""
        with self._opened(path, None) as answer:
            return str(answer.read(), "utf-8", errors="replace")

    def change(self, path: str, body: Mapping[str, Any], timeout_s: float = 320.0) -> Any:
        """Ask an admin route for a change that may take minutes; errors as for `get`."""
        return replace(self, timeout_s=timeout_s)._call(path, body)

    def health(self) -> dict[str, Any]:
        """Return what ``/health/deep`` says, also when it says that the service is not well.

        Raises:
            ServiceAwayError: The service does not answer.
        """
        try:
            found: dict[str, Any] = self.get("/health/deep")
        except ServiceRefusedError as error:
            if error.status != 503:
                raise
            found = json.loads(error.said)
        return found

    def explain(self, row: Mapping[str, Any], comparables: int) -> dict[str, Any]:
        """Value one row and say why; returns the explanation with ``model_version`` added.

        Raises:
            ServiceAwayError: The service does not answer.
            ServiceRefusedError: It refuses the row.
        """
        body = {"instances": [row], "comparables": comparables}
        answer = self._call("/api/v1/explain", body)
        return {**answer["explanations"][0], "model_version": answer["model_version"]}

    def appraise(self, row: Mapping[str, Any], language: str, kind: str) -> bytes:
        """Return the valuation report of one row.

        Args:
            row: Its values by column.
            language: ``en`` or ``es``.
            kind: ``html`` or ``pdf``.

        Raises:
            ServiceAwayError: The service does not answer.
            ServiceRefusedError: It refuses the row, or cannot write such a file.
        """
        query = urllib.parse.urlencode({"lang": language, "format": kind})
        data = json.dumps({"instances": [row]}, default=str).encode()
        with self._opened(f"/api/v1/appraise?{query}", data) as answer:
            return bytes(answer.read())

    def score(
        self, file: IO[bytes] | bytes, kind: str = "text/csv", timeout_s: float = 600.0
    ) -> Iterator[ScoredRow]:
        """Send a file of rows; yields one line a row as they come.

        Args:
            file: CSV or Parquet.
            kind: Its media type.
            timeout_s: Longest silence.

        Raises:
            ServiceAwayError: The service does not answer, or stopped half way.
            ServiceRefusedError: It refuses the file.
        """
        headers = {"content-type": kind, "accept": "application/x-ndjson"}
        with self._opened("/api/v1/score", file, headers, timeout_s) as answer:
            for line in answer:
                plain = json.loads(line)
                yield ScoredRow(
                    row=int(plain["row"]),
                    prediction=plain.get("prediction"),
                    lower=plain.get("lower"),
                    upper=plain.get("upper"),
                    warnings=_joined(plain.get("warnings")),
                    error=_joined(plain.get("error")),
                    prediction_id=plain.get("prediction_id") or "",
                    fsd=plain.get("fsd"),
                    confidence_class=plain.get("confidence_class"),
                    no_value=plain.get("no_value"),
                )

    def model_info(self) -> dict[str, Any]:
        """Return what ``/api/v1/model/info`` says.

        Raises:
            ServingError: The service does not answer, or has no model.
        """
        found: dict[str, Any] = self._call("/api/v1/model/info", None)
        if not found.get("model_loaded"):
            raise NoModelError.of(self.url)
        return found

    def predict(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Value rows; returns the whole answer.

        Raises:
            ServingError: The service does not answer, or refuses the rows.
        """
        answer: dict[str, Any] = self._call("/api/v1/predict", {"instances": list(rows)})
        return answer

    def send_outcomes(self, outcomes: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Tell what rows turned out to be worth; returns the whole answer.

        Raises:
            ServingError: The service does not answer, or refuses.
        """
        answer: dict[str, Any] = self._call("/api/v1/outcomes", {"outcomes": list(outcomes)})
        return answer

    def _call(self, path: str, body: Any) -> Any:
        data = None if body is None else json.dumps(body, default=str).encode()
        with self._opened(path, data) as answer:
            return json.loads(answer.read())

    @contextmanager
    def _opened(
        self,
        path: str,
        data: IO[bytes] | bytes | None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> Iterator[Any]:
        if urllib.parse.urlsplit(self.url).scheme not in ("http", "https"):
            raise ServingError("this is no address of a service", expected="http://...",
                               got=self.url)  # fmt: skip
        sent = {"content-type": "application/json", **(headers or {})}
        if self.key:
            sent["x-api-key"] = self.key
        request = urllib.request.Request(self.url.rstrip("/") + path, data, sent)  # noqa: S310
        seconds = timeout_s or self.timeout_s
        patience = Patience(seconds, seconds, Deadline.after(_DURATION_FACTOR * seconds))
        try:
            with opened(request, patience) as answer:  # the key goes where it was meant to go
                if answer.status != 200:
                    body = read_body(answer, _REFUSAL_BYTES, patience.deadline, path)
                    raise ServiceRefusedError.of(path, answer.status, body)
                yield answer
        except (HTTPException, OSError, ValueError, DeadlineError) as error:
            raise ServiceAwayError.of(self.url, error) from None


def _joined(value: Any) -> str:
    return "; ".join(map(str, value)) if isinstance(value, list) else str(value or "")


def _message(body: bytes) -> str:
    try:
        plain = json.loads(body)
        faults = plain.get("errors") or [{}]
        return f"{_text(plain)} {faults[0].get('msg', '')}".strip()
    except (ValueError, KeyError, AttributeError, TypeError):
        return body[:200].decode(errors="replace")


def _text(problem: Mapping[str, Any]) -> str:
    """Return what a problem (RFC 9457) says, with what to do about it."""
    detail, remedy = problem.get("detail"), problem.get("remedy")
    return f"{detail}. To do: {remedy}" if detail and remedy else str(detail or "")
