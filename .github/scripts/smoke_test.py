"""Ask the running service at the given URL for a valuation.

The row is made from the contract that the service itself tells, so any model can be tested. An API
key is taken from TASADOR_SMOKE_KEY. Needs nothing but Python.
"""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.error
import urllib.request
from typing import Any

PATIENCE_S = 120.0


def call(url: str, body: object = None) -> dict[str, Any]:
    """Return the JSON answer of a GET, or of a POST when there is a body."""
    headers = {"Content-Type": "application/json"}
    if os.environ.get("TASADOR_SMOKE_KEY"):
        headers["Authorization"] = f"Bearer {os.environ['TASADOR_SMOKE_KEY']}"
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=10) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def wait_until_ready(base: str) -> None:
    """Return when the service is ready; end when it is not in time."""
    end, last = time.monotonic() + PATIENCE_S, ""
    while time.monotonic() < end:
        try:
            call(f"{base}/health/ready")
        except (urllib.error.URLError, ConnectionError, TimeoutError) as error:
            last = str(error)
            time.sleep(1.0)
        else:
            return
    sys.exit(f"{base} is not ready after {PATIENCE_S:g} s: {last}")


def row_of(contract: dict[str, Any]) -> dict[str, Any]:
    """Return a row that meets the contract: the middle of bounds, the first category."""
    return {name: _value(column) for name, column in contract["columns"].items()}


def _value(column: dict[str, Any]) -> Any:
    if column.get("categories"):
        return column["categories"][0]
    if column["kind"] in ("identifier", "text"):
        return "smoke-test"
    if column["kind"] == "datetime":
        return "2026-01-01"
    low, high = column.get("bounds") or (0.0, 2.0)
    low = 0.0 if low is None else low
    high = low + 2.0 if high is None else high
    middle = (low + high) / 2
    return round(middle) if column["kind"] == "integer" else middle


def main(base: str) -> None:
    """Test the service at `base`; ends with a message when something is wrong."""
    base = base.rstrip("/")
    wait_until_ready(base)
    info = call(f"{base}/api/v1/model/info")
    answer = call(f"{base}/api/v1/predict", {"instances": [row_of(info["contract"])]})
    interval = answer["predictions"][0]["interval"]
    if not interval["lower"] <= interval["upper"]:
        sys.exit(f"an interval that is none: {interval}")
    print(
        f"{base}: {answer['model_version']} answers, {interval['lower']:g} to {interval['upper']:g}"
    )


if __name__ == "__main__":
    main(sys.argv[1])
