"""A small client of the API, for flows that talk to a running service."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tasador.core.errors import ServingError


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

    def model_info(self) -> dict[str, Any]:
        """Return what ``/api/v1/model/info`` says.

        Raises:
            ServingError: The service does not answer, or has no model.
        """
        found: dict[str, Any] = self._call("/api/v1/model/info", None)
        if not found.get("model_loaded"):
            raise ServingError(
                f"the service at {self.url} has no model yet",
                remedy="see its /health/deep, or train a model with `tasador run`",
            )
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
        if urllib.parse.urlsplit(self.url).scheme not in ("http", "https"):
            raise ServingError("this is no address of a service", expected="http://...",
                               got=self.url)  # fmt: skip
        headers = {"content-type": "application/json"}
        if self.key:
            headers["x-api-key"] = self.key
        data = None if body is None else json.dumps(body, default=str).encode()
        request = urllib.request.Request(self.url.rstrip("/") + path, data, headers)  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=self.timeout_s) as answer:  # noqa: S310
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            raise ServingError(
                f"the service refuses {path}",
                got=f"{error.code}: {_message(error.read())}",
            ) from None
        except (urllib.error.URLError, OSError, ValueError) as error:
            raise ServingError(
                f"the service at {self.url} does not answer",
                got=str(getattr(error, "reason", error)),
                remedy="start it with `tasador serve`, or name its address with --url",
            ) from None


def _message(body: bytes) -> str:
    try:
        plain = json.loads(body)
        detail = plain.get("detail") or [{}]
        return f"{plain['message']} {detail[0].get('msg', '')}".strip()
    except (ValueError, KeyError, AttributeError, TypeError):
        return body[:200].decode(errors="replace")
