"""What Prometheus reads of a watcher: the last verdict as gauges."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tasador.core import clock
from tasador.monitoring.alerting.alerts import AlertBook
from tasador.monitoring.indicators import input_numbers, prediction_numbers, telling_columns
from tasador.monitoring.verdict import LEVELS, Verdict

_LEVELS = "0 ok, 1 cannot tell, 2 warning, 3 alert."
#: Name, meaning and labels of every gauge of the watcher.
WATCH_METRICS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("tasador_window_rows", "Rows of the last window.", ()),
    ("tasador_verdict_level", f"The last verdict: {_LEVELS}", ("check",)),
    ("tasador_indicator", "Health at a glance: errors in percent, latency in milliseconds, "
     "PSI of the column that drifted most, and so on.", ("name",)),
    ("tasador_indicator_limit", "Where it becomes a breach.", ("name",)),
    ("tasador_indicator_level", f"What it came to: {_LEVELS}", ("name",)),
    ("tasador_figure", "A metric of the window.", ("name", "estimated")),
    ("tasador_drift_psi", "Population stability index.", ("column",)),
    ("tasador_drift_level", f"Drift: {_LEVELS}", ("column",)),
    ("tasador_input_mean", "Mean of a column's values in the window.", ("column",)),
    ("tasador_input_p05", "Their 5th percentile.", ("column",)),
    ("tasador_input_p95", "Their 95th percentile.", ("column",)),
    (
        "tasador_input_beyond_twice",
        "How many of them are beyond twice the training maximum.",
        ("column",),
    ),
    ("tasador_prediction_count", "Estimates in the window.", ()),
    ("tasador_prediction_mean", "Their mean, in the target's unit.", ()),
    ("tasador_prediction_std", "Their standard deviation.", ()),
    ("tasador_prediction_min", "The smallest.", ()),
    ("tasador_prediction_max", "The largest.", ()),
    ("tasador_prediction_median", "Their median.", ()),
    ("tasador_alert_firing", "Whether an alert fires.", ("alert", "severity")),
    ("tasador_alert_routes", "Routes by which notices reach somebody.", ()),
    ("tasador_watch_last_round_seconds", "When the last verdict was made.", ()),
)  # fmt: skip


class VerdictMetrics:
    """The last verdict as Prometheus gauges: all of one verdict, never half of two.

    Of columns, at most `MOST_COLUMNS` have series.
    """

    def __init__(self, routes: int = 0) -> None:
        import prometheus_client as prometheus

        self._prometheus = prometheus
        self._routes = float(routes)
        self._shown: dict[str, list[tuple[tuple[str, ...], float]]] = {
            "tasador_window_rows": [((), 0.0)],
            "tasador_watch_last_round_seconds": [((), 0.0)],
            "tasador_alert_routes": [((), self._routes)],
        }
        self.registry = prometheus.CollectorRegistry()
        self.registry.register(self)

    def collect(self) -> Iterator[Any]:
        """Give Prometheus every family, with the samples of the last verdict."""
        from prometheus_client.core import GaugeMetricFamily

        shown = self._shown
        for name, text, labels in WATCH_METRICS:
            family = GaugeMetricFamily(name, text, labels=labels)
            for values, number in shown.get(name, ()):
                family.add_metric(values, number)
            yield family

    def serve(self, host: str, port: int) -> None:
        """Answer Prometheus on a port, in a thread."""
        self._prometheus.start_http_server(port, host, registry=self.registry)

    def show(self, verdict: Verdict, book: AlertBook) -> None:
        """Show a verdict from now on."""
        shown: dict[str, list[tuple[tuple[str, ...], float]]] = {
            name: [] for name, _, _ in WATCH_METRICS
        }

        def add(name: str, value: float | None, *labels: str) -> None:
            if value is not None:
                shown[name].append((labels, value))

        add("tasador_window_rows", verdict.rows)
        add("tasador_watch_last_round_seconds", clock.seconds())
        add("tasador_alert_routes", self._routes)
        for check, level in {"all": verdict.level, **verdict.by_check}.items():
            add("tasador_verdict_level", LEVELS.index(level), check)
        for one in verdict.indicators:
            add("tasador_indicator", one.value, one.name)
            add("tasador_indicator_limit", one.limit, one.name)
            add("tasador_indicator_level", LEVELS.index(one.level), one.name)
        for column in telling_columns(verdict):
            add("tasador_drift_level", LEVELS.index(column.level), column.name)
            add("tasador_drift_psi", column.psi, column.name)
        for name, numbers in input_numbers(verdict).items():
            for key, value in numbers.items():
                add(f"tasador_input_{key}", value, name)
        for key, value in prediction_numbers(verdict).items():
            add(f"tasador_prediction_{key}", value)
        for figure in verdict.figures:
            add("tasador_figure", figure.value, figure.name, str(figure.estimated).lower())
        for state in book.all():
            severity = str(state.body.get("severity", "ticket"))
            add("tasador_alert_firing", float(state.state == "firing"), state.key, severity)
        self._shown = shown
