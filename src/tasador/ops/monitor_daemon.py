"""Watch a service: evaluate what it recorded, raise alerts, tell people, show Prometheus."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasador.core import clock
from tasador.core.errors import BundleError, ServingError, TasadorError
from tasador.monitoring.alerts import AlertBook
from tasador.monitoring.evaluate import evaluate
from tasador.monitoring.metrics import VerdictMetrics, history_line
from tasador.monitoring.notifications import WandbRoute, build_routes, check_routes, deliver
from tasador.monitoring.reference import Reference
from tasador.monitoring.settings import WatchSettings
from tasador.monitoring.verdict import Verdict, shorten_verdict
from tasador.monitoring.window import recorded_windows
from tasador.records.audit_log import Verdicts
from tasador.records.database import Database
from tasador.records.maintenance import prune_in_turn
from tasador.records.refused import read_refused
from tasador.records.shared_state import ALERT_ROUTES, WATCHER, Lease, Leases, SharedState
from tasador.records.store import RecordStore
from tasador.registry.model_bundle import ModelBundle
from tasador.serving.cascade import Cascade
from tasador.serving.model_slot import ModelSlot
from tasador.serving.refresher import Refresher
from tasador.settings.serving import RecordSettings, SourceSettings

log = logging.getLogger(__name__)

_PRUNE_S = 600.0


@dataclass(frozen=True)
class Round:
    """What one round came to.

    Attributes:
        verdict: What was found; None when another watcher leads, or no model could be loaded.
        changes: Alerts that changed their state: (key, state).
        problems: What went wrong, in words.
        leads: Whether this watcher leads.
    """

    verdict: Verdict | None
    changes: tuple[tuple[str, str], ...] = ()
    problems: tuple[str, ...] = ()
    leads: bool = True


class Watcher:
    """Looks at one service's records, round after round.

    Several may run: the database lets one of them lead, and another take over within two rounds
    after its end.

    Args:
        settings: How.
        source: Where the model comes from; what its rows looked like is in its bundle.
        records_url: Where valuations are recorded.
        records: For how long they and what is found are kept; the defaults when None.
        folder: Where offline runs of W&B lie, under ``wandb``; the current folder when None.
    """

    def __init__(
        self,
        settings: WatchSettings,
        source: SourceSettings,
        records_url: str,
        records: RecordSettings | None = None,
        folder: Path | None = None,
    ) -> None:
        self.settings = settings
        self._records = records or RecordSettings(url=records_url)
        self._pruned = -_PRUNE_S
        self._database = Database(records_url)
        self._routes = build_routes(settings.routes, folder)
        check_routes(settings.alerts, self._routes)
        self._book = AlertBook(self._database, settings.alerts, self._routes)
        self._holder = ModelSlot()
        self._cascade = Cascade.of(source)
        self._refresher = Refresher(self._cascade, self._holder)
        self._name = f"{socket.gethostname()}-{os.getpid()}"
        self._lease: Lease | None = None
        self._reference: tuple[str, Reference] | None = None
        self._stop = threading.Event()
        reached = len(settings.reached)
        self._metrics = VerdictMetrics(reached) if settings.metrics_port is not None else None
        self._routes_told = False

    def run(self, tell: Callable[[Round], None] = lambda _: None) -> None:
        """Do rounds until `stop`; a round that fails is reported and the next one tried."""
        self._serve_metrics()
        while not self._stop.is_set():
            started = time.monotonic()
            try:
                found = self.round()
            except TasadorError as error:
                log.error("a round failed: %s", error)
                found = Round(None, problems=(str(error),))
            tell(found)
            self._stop.wait(max(0.0, self.settings.interval_s - (time.monotonic() - started)))
        self.close()

    def stop(self) -> None:
        """End `run` after the round under way."""
        self._stop.set()

    def close(self) -> None:
        """Let another watcher lead, and close the database."""
        lease, self._lease = self._lease, None
        try:
            if lease is not None:
                Leases(self._database).release(lease)
        except TasadorError as error:
            # it ends by itself, only later
            log.warning("the lease was not given back: %s", error)
        for route in self._recorders():
            route.close()
        self._refresher.stop()
        self._database.close()

    def _recorders(self) -> list[WandbRoute]:
        return [route for route in self._routes.values() if isinstance(route, WandbRoute)]

    def round(self) -> Round:
        """Evaluate the window that ends now, raise alerts and send what waits.

        Raises:
            StorageError: The database is away.
            BundleError: The model cannot be compared with: it was made by an older tasador.
        """
        if not self._leads():
            return Round(None, leads=False)
        problems = []
        self._tell_routes()
        bundle = self._bundle()
        verdict: Verdict | None = None
        changes: tuple[tuple[str, str], ...] = ()
        if bundle is None:
            problems.append("no model could be loaded: there is nothing to compare with")
        else:
            verdict = self._evaluated(bundle)
            changed = self._book.observe(bundle.manifest.name, verdict)
            changes = tuple((state.key, state.state) for state in changed)
            problems += self._record(verdict)
        problems += deliver(self._book, self._routes)
        if time.monotonic() - self._pruned >= _PRUNE_S:
            self._pruned = time.monotonic()
            prune_in_turn(self._database, self._records)
        for problem in problems:
            log.warning("%s", problem)
        if self._metrics is not None and verdict is not None:
            self._metrics.show(verdict, self._book)
        return Round(verdict, changes, tuple(problems))

    def evaluate_window(self) -> Verdict:
        """Evaluate the window that ends now, whoever leads; no alert changes.

        Raises:
            StorageError: The database is away.
            BundleError: As for `round`.
            ServingError: No model could be loaded.
        """
        bundle = self._bundle()
        if bundle is None:
            refused = any(report.outcome == "refused" for report in self._cascade.report())
            raise (BundleError if refused else ServingError)(
                "no model could be loaded: there is nothing to compare with",
                got=self._refresher.report().last_error,
                remedy="train one with `tasador run`, or check TASADOR_SOURCE__*",
            )
        return self._evaluated(bundle)

    def _leads(self) -> bool:
        leases, seconds = Leases(self._database), 2.0 * self.settings.interval_s + 60.0
        if self._lease is not None:
            self._lease = leases.renew(self._lease, seconds)
        if self._lease is None:
            self._lease = leases.acquire(WATCHER, self._name, seconds)
        return self._lease is not None

    def _bundle(self) -> ModelBundle | None:
        self._refresher.refresh()
        current = self._holder.current
        return None if current is None else current.bundle

    def _evaluated(self, bundle: ModelBundle) -> Verdict:
        until = clock.seconds()
        since = until - self.settings.window_s
        if self._reference is None or self._reference[0] != bundle.version:
            self._reference = bundle.version, Reference.of_bundle(bundle)
        windows = recorded_windows(
            RecordStore(self._database), bundle, since, until, variant="champion"
        )
        refused = read_refused(self._database, since, until, bundle.manifest.name)
        verdict = evaluate(self._reference[1], windows, self.settings.limits, refused=refused)
        Verdicts(self._database).add(
            bundle.manifest.name,
            since,
            until,
            verdict.level,
            _plain(verdict),
            shorten=shorten_verdict,
        )
        return verdict

    def _tell_routes(self) -> None:
        """Note whom notices reach, for the service's pages: its process has other variables."""
        if not self._routes_told:
            state, reached = SharedState(self._database), list(self.settings.reached)
            known = state.get(ALERT_ROUTES)
            if known.value != reached:
                state.put(ALERT_ROUTES, reached, known.version)
            self._routes_told = True

    def _record(self, verdict: Verdict) -> list[str]:
        problems = []
        for route in self._recorders():
            try:
                route.log(history_line(verdict))
            except TasadorError as error:
                problems.append(f"W&B: {error}")
        return problems

    def _serve_metrics(self) -> None:
        if self._metrics is not None and self.settings.metrics_port is not None:
            self._metrics.serve(self.settings.metrics_host, self.settings.metrics_port)


def _plain(verdict: Verdict) -> dict[str, Any]:
    import orjson

    plain: dict[str, Any] = orjson.loads(verdict.to_json())
    return plain
