"""The few numbers that sum up a model's health, each with its level, and as Prometheus gauges."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from tasador.core import clock
from tasador.monitoring.alerts import AlertBook
from tasador.monitoring.verdict import LEVELS, ColumnDrift, Figure, Finding, Indicator, Verdict

_FIGURES = ("within_10", "within_20", "mape")
_PERCENTILES = ("p50", "p95", "p99")
#: Columns that have series of their own in other systems, however wide a table is.
MOST_COLUMNS = 100
_INPUT = ("mean", "p05", "p95", "beyond_twice")
_PREDICTION = {
    "spread": {"count": "rows", "mean": "mean", "min": "low", "max": "high", "median": "p50"},
    "std": {"std": "value"},
}


def indicators(
    findings: Sequence[Finding],
    drift: Sequence[ColumnDrift],
    figures: Sequence[Figure],
    unit: str = "",
) -> tuple[Indicator, ...]:
    """Return shares within 10 and 20%, MAPE, PSI, latency and the estimates' spread, in that order.

    What is not known is there too, without a value, as `cannot_tell`. Errors are measured ones, or
    estimated where no outcome is known.

    Args:
        findings: Everything that was found.
        drift: Of each column.
        figures: Errors, measured and estimated.
        unit: The target's.
    """
    by_name = {(one.check, one.subject): one for one in findings}
    found = [_of_figure(name, figures, by_name) for name in _FIGURES]
    found.append(_psi(drift))
    latency = by_name.get(("latency", "all requests"))
    found += [_of_percentile(name, latency) for name in _PERCENTILES]
    found.append(_of_finding("prediction_std", unit, by_name.get(("prediction", "std")), "value"))
    found.append(_of_finding("refused", "%", by_name.get(("refused", "rows")), "share", 100.0))
    answered = by_name.get(("answers", "hit rate"))
    if answered is not None:
        found.append(_of_finding("hit_rate", "%", answered, "share", 100.0))
    return tuple(found)


def reported_columns(verdict: Verdict) -> tuple[ColumnDrift, ...]:
    """Return the columns that are shown to other systems: at most `MOST_COLUMNS`, worst first."""
    # the worst first: what is cut off is the least interesting
    order = sorted(verdict.drift, key=lambda one: (-LEVELS.index(one.level), -(one.psi or 0.0)))
    return tuple(order[:MOST_COLUMNS])


def prediction_numbers(verdict: Verdict) -> dict[str, float]:
    """Return count, mean, std, min, max and median of the estimates; empty with too few of them."""
    found: dict[str, float] = {}
    for subject, names in _PREDICTION.items():
        for finding in verdict.of_check("prediction"):
            if finding.subject == subject:
                numbers = {ours: _number(finding.numbers.get(key)) for ours, key in names.items()}
                found |= {name: value for name, value in numbers.items() if value is not None}
    return found


def input_numbers(verdict: Verdict) -> dict[str, dict[str, float]]:
    """Return mean, p05, p95 and the far values of each numeric column that is shown.

    A far value is beyond twice the training maximum; ``beyond_twice`` is how many there are.
    """
    quality = {one.subject: one.numbers for one in verdict.of_check("quality")}
    found = {}
    for column in reported_columns(verdict):
        numbers = {key: _number(quality.get(column.name, {}).get(key)) for key in _INPUT}
        known = {key: value for key, value in numbers.items() if value is not None}
        if known:
            found[column.name] = known
    return found


def history_line(verdict: Verdict) -> dict[str, float]:
    """Return a verdict's numbers by name, as a run of an experiment tracker keeps them.

    ``predictions/*``, ``business/*`` (errors; ``*_estimated`` without outcomes), ``latency/*_ms``,
    ``drift/<column>`` (PSI) and ``verdict/*``.
    """
    line = {f"predictions/{name}": value for name, value in prediction_numbers(verdict).items()}
    for figure in verdict.figures:
        if figure.value is not None:
            line[f"business/{figure.name}{'_estimated' if figure.estimated else ''}"] = figure.value
    for one in verdict.indicators:
        if one.name.startswith("latency_") and one.value is not None:
            line[f"latency/{one.name.removeprefix('latency_')}_ms"] = one.value
    for column in reported_columns(verdict):
        if column.psi is not None:
            line[f"drift/{column.name}"] = column.psi
    return {**line, "verdict/level": LEVELS.index(verdict.level), "verdict/rows": verdict.rows}


def _of_figure(
    name: str, figures: Sequence[Figure], findings: dict[tuple[str, str], Finding]
) -> Indicator:
    for estimated, check in ((False, "performance"), (True, "estimate")):
        for one in figures:
            if (one.name, one.estimated) == (name, estimated) and one.value is not None:
                finding = findings.get((check, name))
                level = "ok" if finding is None else finding.level
                return Indicator(name, one.value, level, one.limit, "%", estimated=estimated)
    return Indicator(name, None, "cannot_tell", unit="%")


def _psi(drift: Sequence[ColumnDrift]) -> Indicator:
    """Return the PSI of the column that has drifted most."""
    known = [one for one in drift if one.psi is not None and not one.name.startswith("(")]
    # "(prediction)" and the like are no columns: they have checks of their own
    if not known:
        return Indicator("psi", None, "cannot_tell")
    most = max(known, key=lambda one: (LEVELS.index(one.level), one.psi or 0.0))
    return Indicator("psi", most.psi, most.level, most.psi_limit, column=most.name)


def _of_percentile(name: str, finding: Finding | None) -> Indicator:
    numbers = {} if finding is None else finding.numbers
    value, limit = (_number(numbers.get(f"{name}{part}_ms")) for part in ("", "_limit"))
    level = next((one for one in LEVELS if one == numbers.get(f"{name}_level")), LEVELS[1])
    return Indicator(f"latency_{name}", value, level, limit, "ms")


def _of_finding(
    name: str, unit: str, finding: Finding | None, key: str, scale: float = 1.0
) -> Indicator:
    value = None if finding is None else _number(finding.numbers.get(key))
    if finding is None or value is None:
        return Indicator(name, None, "cannot_tell", unit=unit)
    limit = _number(finding.numbers.get("limit"))
    return Indicator(
        name, value * scale, finding.level, None if limit is None else limit * scale, unit
    )


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


_LEVELS = "0 ok, 1 cannot tell, 2 warning, 3 alert."
#: Name, meaning and labels of every gauge of the watcher.
WATCH_METRICS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("tasador_window_rows", "Rows of the last window.", ()),
    ("tasador_verdict_level", f"The last verdict: {_LEVELS}", ("check",)),
    ("tasador_indicator", "Health at a glance: errors in percent, latency in milliseconds, "
     "PSI of the column that drifted most, and so on.", ("name",)),
    ("tasador_indicator_limit", "Where it becomes a breach.", ("name",)),
    ("tasador_indicator_level", f"Its level: {_LEVELS}", ("name",)),
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
        for column in reported_columns(verdict):
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
        # one assignment: a scrape meanwhile sees the old verdict or the new one, never a mixture
        self._shown = shown
