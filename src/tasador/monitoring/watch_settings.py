"""`WatchSettings`: how a service is watched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from tasador.monitoring.alerts import DEFAULT_RULES, AlertRule
from tasador.monitoring.notices import RouteSettings, described
from tasador.monitoring.rules import Rules

DAY = 86_400.0


@dataclass(frozen=True)
class WatchSettings:
    """How a service is watched.

    Attributes:
        interval_s: Seconds between two rounds.
        window_s: Seconds that a window looks back.
        limits: From where on a number is a warning or an alert.
        alerts: What becomes an alert.
        routes: Where notices go, by name; ``log`` is always there.
        metrics_port: Where Prometheus reads the last verdict; null for nowhere.
        metrics_host: Address of that port.
    """

    interval_s: float = 300.0
    window_s: float = DAY
    limits: Rules = field(default_factory=Rules)
    alerts: tuple[AlertRule, ...] = DEFAULT_RULES
    routes: Mapping[str, RouteSettings] = field(default_factory=dict)
    metrics_port: int | None = None
    metrics_host: str = "127.0.0.1"

    def with_routes(self, routes: Mapping[str, RouteSettings]) -> WatchSettings:
        """Return the same with more routes; one that is here under the same name stays."""
        return replace(self, routes={**routes, **self.routes})

    @property
    def reached(self) -> tuple[str, ...]:
        """Whom notices reach: every route but the log that some rule takes, described."""
        taken = {name for rule in self.alerts for name in (rule.routes or tuple(self.routes))}
        return tuple(
            described(name, route)
            for name, route in self.routes.items()
            if name in taken and route.kind != "log"
        )
