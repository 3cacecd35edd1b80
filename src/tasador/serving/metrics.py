"""`Metrics`: what Prometheus scrapes, also over several workers.

One worker keeps its counters in memory. Several share a folder (prometheus_client's multiprocess
mode), so that a scrape of any of them answers for all. That mode is chosen by an environment
variable read when prometheus_client is imported, which is why it is imported here, late.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

log = logging.getLogger(__name__)

#: The variable that prometheus_client reads on import.
FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.015, 0.03, 0.06, 0.125, 0.25, 0.5, 1, 2, 5, 10)
_STAGES = (0.00002, 0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.2, 1)
#: 1-2-5 steps: wide enough for the price of a diamond and of a street.
_VALUES = tuple(float(f"{m}e{e}") for e in range(1, 9) for m in (1, 2, 5))
STAGES = ("parse", "encode", "value", "record")
#: Seconds between two updates of what other workers' scrapes show of this one.
_FRESH_S = 1.0
_WORKERS = "tasador_worker_model_loaded"
BREAKER_STATES = {"closed": 0.0, "half_open": 1.0, "open": 2.0}


@dataclass(frozen=True)
class _Collector:
    """What a registry collects from, as prometheus_client wants it."""

    collect: Callable[[], Iterator[Any]]


class Metrics:
    """Counts what the service does; every method is cheap enough for each request."""

    def __init__(self) -> None:
        import prometheus_client as prometheus

        self._prometheus = prometheus
        # doubles every series, read by nobody
        prometheus.disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = prometheus.CollectorRegistry()
        shared_folder = os.environ.get(FOLDER_VARIABLE)
        self.folder = Path(shared_folder) if shared_folder else None  # shared by workers
        self.shared = self.folder is not None
        self._refresh: list[Callable[[], None]] = []
        self._refreshing = threading.Lock()
        self._stop = threading.Event()
        self._shown: dict[str, set[tuple[str, ...]]] = {}
        self._forgotten: set[str] = set()
        shared: dict[str, Any] = {"registry": self.registry}
        self._requests = prometheus.Counter(
            "tasador_requests_total",
            "Requests answered.",
            ("route", "method", "status"),
            **shared,
        )
        self._latency = prometheus.Histogram(
            "tasador_request_seconds",
            "Time from a request's arrival to its answer.",
            ("route",),
            buckets=_SECONDS,
            **shared,
        )
        self._stage = prometheus.Histogram(
            "tasador_stage_seconds",
            "Time per stage: parse and encode of one request, value and record of a batch.",
            ("stage",),
            buckets=_STAGES,
            **shared,
        )
        self._predictions = prometheus.Histogram(
            "tasador_predictions",
            "Estimates that were answered, in the target's unit.",
            buckets=_VALUES,
            **shared,
        )
        self._no_value = prometheus.Counter(
            "tasador_no_value_rows_total",
            "Rows answered with a reason instead of a value: serve.max_fsd, serve.min_support.",
            **shared,
        )
        self._refused = prometheus.Counter(
            "tasador_refused_rows_total",
            "Rows not valued: refused ones, and withheld ones that came in the same request.",
            ("result",),
            **shared,
        )
        self._refused_values = prometheus.Counter(
            "tasador_refused_values_total",
            "Refused rows by each field that is wrong, and why.",
            ("field", "cause"),
            **shared,
        )
        for result in ("refused", "withheld"):
            self._refused.labels(result)
        self._gauges: dict[str, Any] = {}
        self._counters: dict[str, Any] = {}
        self._in_flight = self._gauge("tasador_in_flight", "Requests under way.", ())
        self._stages = {name: self._stage.labels(name).observe for name in STAGES}
        self._counted: dict[tuple[str, str, int], tuple[Callable[[], None], Callable[..., None]]]
        self._counted = {}
        self._observe_value = self._predictions.observe
        self._last: dict[tuple[str, tuple[str, ...]], float] = {}

    def request(self, path: str, method: str, status: int, seconds: float) -> None:
        """Note an answered request."""
        key = (path, method, status)
        counted = self._counted.get(key)
        if counted is None:
            # looking labels up takes prometheus_client longer than counting: kept by key
            counted = self._counted[key] = (
                self._requests.labels(path, method, str(status)).inc,
                self._latency.labels(path).observe,
            )
        counted[0]()
        counted[1](seconds)

    def in_flight(self, change: int) -> None:
        """Note that requests under way have become more or fewer."""
        self._in_flight.inc(change)

    def stage(self, name: str, seconds: float) -> None:
        """Note how long one of `STAGES` took."""
        self._stages[name](seconds)

    def predictions(self, values: Sequence[float]) -> None:
        """Note what was answered."""
        for value in values:
            self._observe_value(value)

    def no_value(self, rows: int) -> None:
        """Note rows that got no value, since too large an error is to be expected of it."""
        self._no_value.inc(rows)

    def refused(self, result: str, rows: int) -> None:
        """Note rows that were not valued: ``refused``, or ``withheld`` together with such."""
        self._refused.labels(result).inc(rows)

    def refused_value(self, field: str, cause: str, rows: int) -> None:
        """Note rows that were refused for a field."""
        self._refused_values.labels(field, cause).inc(rows)

    def cached(self, result: str, rows: int) -> None:
        """Note rows that a cache knew (hit), did not (miss), or could not be asked for (error)."""
        name = "tasador_cache_rows"
        if name not in self._counters:
            self._counters[name] = self._prometheus.Counter(
                name, "Rows looked up in the cache.", ("result",), registry=self.registry
            )
        self._counters[name].labels(result).inc(rows)

    def gauge(
        self, name: str, description: str, value: float, labels: Mapping[str, str] | None = None
    ) -> None:
        """Set a gauge; of several workers' values the greatest is shown."""
        labels = labels or {}
        found = self._gauge(name, description, tuple(labels), mode="livemax")
        self._shown.setdefault(name, set()).add(tuple(labels.values()))
        (found.labels(*labels.values()) if labels else found).set(value)

    def forget(self, name: str) -> None:
        """Drop all of a gauge's labelled values, before the ones that hold now are set."""
        self._forgotten.add(name)
        shown = self._shown.pop(name, set())
        if not self.shared and shown:
            self._gauges[name].clear()
        elif shown:  # what is in a shared file stays there: a scrape leaves out zeros
            for values in shown:
                self._gauges[name].labels(*values).set(0.0)

    def total(
        self, name: str, description: str, value: float, labels: Mapping[str, str] | None = None
    ) -> None:
        """Bring a counter up to `value`, a total that something else keeps."""
        labels = labels or {}
        if name not in self._counters:
            self._counters[name] = self._prometheus.Counter(
                name, description, tuple(labels), registry=self.registry
            )
        key = (name, tuple(labels.values()))
        # counters cannot be set, and several workers add to the same one
        change = value - self._last.get(key, 0.0)
        self._last[key] = value
        found = self._counters[name]
        (found.labels(*labels.values()) if labels else found).inc(max(0.0, change))

    def on_scrape(self, refresh: Callable[[], None]) -> None:
        """Have `refresh` bring gauges up to date before each scrape."""
        self._refresh.append(refresh)

    def start(self) -> None:
        """Among several workers, bring this one's gauges up to date for the scrapes of others."""
        if self.shared:
            threading.Thread(target=self._keep_fresh, name="tasador metrics", daemon=True).start()

    def stop(self) -> None:
        """Stop what `start` started."""
        self._stop.set()

    def _keep_fresh(self) -> None:
        while not self._stop.is_set():
            try:
                self._refresh_all()
            except Exception:
                log.exception("the gauges could not be brought up to date")
            self._stop.wait(_FRESH_S)

    def _refresh_all(self) -> None:
        with self._refreshing:
            for refresh in self._refresh:
                refresh()

    def worker(self, has_model: bool) -> None:
        """Among several workers, tell the others whether this one has a model."""
        if self.shared:
            self._gauge(_WORKERS, "Whether a worker has a model.", (), mode="liveall").set(
                float(has_model)
            )

    def workers(self) -> list[bool]:
        """Return for each live worker whether it has a model."""
        found = [metric for metric in self._collected() if metric.name == _WORKERS]
        return [bool(sample.value) for metric in found for sample in metric.samples]

    def _collected(self) -> Iterator[Any]:
        """Give the metrics of all live workers, without values that were forgotten."""
        from prometheus_client.multiprocess import MultiProcessCollector

        for metric in MultiProcessCollector(None).collect():  # type: ignore[no-untyped-call]
            if metric.name in self._forgotten:
                metric.samples = [sample for sample in metric.samples if sample.value]
            yield metric

    def scrape(self) -> bytes:
        """Return everything in Prometheus' text format, of all workers."""
        self._refresh_all()
        registry = self.registry
        if self.shared:
            registry = self._prometheus.CollectorRegistry()
            registry.register(_Collector(self._collected))
        text: bytes = self._prometheus.generate_latest(registry)
        return text

    def _gauge(
        self,
        name: str,
        description: str,
        labels: tuple[str, ...],
        mode: Literal["livesum", "livemax", "liveall"] = "livesum",
    ) -> Any:
        if name not in self._gauges:
            self._gauges[name] = self._prometheus.Gauge(
                name, description, labels, registry=self.registry, multiprocess_mode=mode
            )
        return self._gauges[name]
