"""What a watcher saw of a simulation, fetched from the service while it goes on."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable
from typing import Any

from tasador.core import clock
from tasador.ops.api_client import ApiClient, ServiceRefusedError

_LOOK_S = 1.0
_ROUNDS = 3


class Witness:
    """Asks a service for the verdicts and alerts that a simulation brings about.

    Args:
        client: The service.
        show: Called with each line.
        wait_s: Most seconds to wait for a verdict that has seen a phase.
    """

    def __init__(
        self, client: ApiClient, show: Callable[[str], None], *, wait_s: float = 60.0
    ) -> None:
        self._client, self._show, self._wait_s = client, show, wait_s
        self._began = clock.seconds()
        self._firing = self._alerts()
        for key in sorted(self._firing):
            show(f"  fires already: {key}")

    def look(self, name: str, began: float) -> None:
        """Wait until verdicts have seen a phase, and show the last one and every new alert.

        Args:
            name: The phase.
            began: When it began, seconds since the epoch.
        """
        ended = clock.seconds()
        verdict, seen = None, ""
        rounds, end = 0, time.monotonic() + self._wait_s
        changed = name == "changed"
        while time.monotonic() < end:
            latest = self._latest()
            if latest is not None and latest["id"] != seen and _moment(latest["until"]) >= ended:
                verdict, seen, rounds = latest["verdict"], latest["id"], rounds + 1
            fresh = self._alerts().keys() - self._firing.keys()
            alarmed = any("/performance/" in key for key in fresh)
            if verdict is not None and (not changed or alarmed or rounds >= _ROUNDS):
                break
            time.sleep(_LOOK_S)
        at = f"+{clock.seconds() - self._began:.0f} s"
        if verdict is None:
            self._show(f"  {at} watcher: no verdict within {self._wait_s:.0f} s: is it running?")
        else:
            since = f"{_clock_time(began)} to {_clock_time(ended)}"
            self._show(f"  {at} watcher: {_summary(verdict)} (phase: {since} UTC)")
        self._show_alerts()

    def _show_alerts(self) -> None:
        now = self._alerts()
        for key in sorted(now.keys() - self._firing.keys()):
            alert = now[key]
            at = _moment(alert["since"]) - self._began
            self._show(f"  ALERT since +{at:.0f} s: {key}: {alert['reason']}")
        for key in sorted(self._firing.keys() - now.keys()):
            self._show(f"  over: {key}")
        if not now:
            self._show("  no alert fires")
        self._firing = now

    def _latest(self) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = self._client.get("/api/v1/monitoring/verdicts/latest")
        except ServiceRefusedError as error:
            if error.word == "no_verdict":
                return None
            raise
        return found

    def _alerts(self) -> dict[str, dict[str, Any]]:
        found = self._client.get("/api/v1/monitoring/alerts")["alerts"]
        return {
            one["key"]: one
            for one in found
            if one["state"] == "firing" and one["severity"] != "info"  # an empty window is no news
        }


def _summary(verdict: dict[str, Any]) -> str:
    figures = {f["name"]: f["value"] for f in verdict["figures"] if not f["estimated"]}
    mape = figures.get("mape")
    error = "no outcomes yet" if mape is None else f"MAPE {mape:.1f}%"
    level = str(verdict["level"]).replace("_", " ")
    return f"{level.upper()}, {verdict['rows']:,} rows in its window, {error}"


def _moment(text: str) -> float:
    return dt.datetime.fromisoformat(text).timestamp()


def _clock_time(seconds: float) -> str:
    return dt.datetime.fromtimestamp(seconds, tz=dt.UTC).strftime("%H:%M:%S")
