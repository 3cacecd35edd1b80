"""Replay real rows through a running service, change the world, send outcomes late."""

from __future__ import annotations

import datetime as dt
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasador.contract.encoding import Encoder
from tasador.contract.model import TableContract
from tasador.contract.reader import from_dict
from tasador.contract.row_check import RowCheck
from tasador.core import clock
from tasador.core.errors import ConfigError, DataError, ServingError, StorageError
from tasador.core.progress import progress
from tasador.ops.api_client import ApiClient, ServiceRefusedError

Floats = NDArray[np.float64]

INFLATION = 1.3
_CONCEPT = 0.6
_FACTORS = (1e3, 1e-3, 1e2, 1e-2, 10.0, 0.1)
#: Share of the rows that must stay within the contract's bounds under a swapped unit: a service
#: refuses the others by itself, and nothing would drift.
_ACCEPTED = 0.8


@dataclass(frozen=True)
class Changed:
    """Rows under a scenario.

    Attributes:
        X: Shape (n, p): what is asked.
        y: Shape (n,): what it turns out to be worth.
        description: What was changed, for people.
    """

    X: Floats
    y: Floats
    description: str


Scenario = Callable[[TableContract, Floats, Floats], Changed]


def inflation(contract: TableContract, X: Floats, y: Floats) -> Changed:
    """Prices rise, the rows stay as they are."""
    return Changed(X, y * INFLATION, f"{contract.target.name} rises by {INFLATION - 1:.0%}")


def new_region(contract: TableContract, X: Floats, y: Floats) -> Changed:
    """Only rows from one corner of the table are asked."""
    place = contract.with_role("longitude") or contract.with_role("latitude")
    numbers = [c for c in contract.features if c.kind in ("number", "integer")]
    column = place or (numbers[0] if numbers else contract.features[0])
    values = X[:, contract.position(column.name)]
    limit = np.nanquantile(values, 0.9)
    far = np.flatnonzero(values >= limit)
    return Changed(
        X[far], y[far], f"only rows with {column.name} of at least {column.text_of(limit)}"
    )


class ScenarioError(ConfigError):
    """A scenario that this table cannot play."""

    @classmethod
    def impossible(cls, change: str) -> ScenarioError:
        """Return the error of a change that no column takes."""
        return cls(
            f"no column of this table {change}",
            remedy="choose another scenario: the service refuses such rows by itself",
        )


def unit_bug(contract: TableContract, X: Floats, y: Floats) -> Changed:
    """One column arrives in another unit, within the contract's bounds as far as possible.

    Raises:
        ConfigError: No column can be swapped without the service refusing the rows.
    """
    check = RowCheck(Encoder(contract))
    for factor in _FACTORS:
        for column in contract.features:
            if column.kind != "number" or column.derive or column.role in ("longitude", "latitude"):
                continue
            changed = X.copy()
            changed[:, contract.position(column.name)] *= factor
            accepted = check.accepts(changed)
            if accepted.mean() >= _ACCEPTED:
                description = f"{column.name} arrives multiplied by {factor:g}"
                return Changed(changed[accepted], y[accepted], description)
    raise ScenarioError.impossible("can change its unit within the contract's bounds")


def missing_feed(contract: TableContract, X: Floats, y: Floats) -> Changed:
    """A column that may be missing is missing everywhere.

    Raises:
        ConfigError: No column may be missing.
    """
    for column in contract.features:
        if column.nullable and column.derive is None:
            changed = X.copy()
            changed[:, contract.position(column.name)] = np.nan
            return Changed(changed, y, f"{column.name} is missing in every row")
    raise ScenarioError.impossible("may be missing")


def concept(contract: TableContract, X: Floats, y: Floats) -> Changed:
    """What half of the rows are worth changes; the rows stay as they are."""
    numbers = [c for c in contract.features if c.kind in ("number", "integer") and not c.role]
    column = (numbers or contract.features)[-1]
    values = X[:, contract.position(column.name)]
    upper = values > np.nanmedian(values)
    description = f"{contract.target.name} falls by {1 - _CONCEPT:.0%} where {column.name} is high"
    return Changed(X, np.where(upper, y * _CONCEPT, y), description)


SCENARIOS: dict[str, Scenario] = {
    "inflation": inflation,
    "new-region": new_region,
    "unit-bug": unit_bug,
    "missing-feed": missing_feed,
    "concept": concept,
}


def scenario(name: str) -> Scenario:
    """Return a scenario by name.

    Raises:
        ConfigError: There is none of that name.
    """
    if name not in SCENARIOS:
        raise ConfigError(f"unknown scenario {name!r}", expected=f"one of {', '.join(SCENARIOS)}")
    return SCENARIOS[name]


@dataclass(frozen=True)
class Simulation:
    """What is replayed.

    Attributes:
        scenario: Its name, see `scenarios.SCENARIOS`.
        rows: Rows of each phase: as usual, changed, as usual again.
        batch: Rows in one request.
        lag: Share of a phase's rows after which outcomes arrive.
        pause_s: Seconds between two requests.
        phases: Which phases, of ``usual``, ``changed`` and ``recovered``.
        seed: Chooses the rows.
    """

    scenario: str
    rows: int = 1000
    batch: int = 50
    lag: float = 0.1
    pause_s: float = 0.0
    phases: tuple[str, ...] = ("usual", "changed", "recovered")
    seed: int = 0


@dataclass(frozen=True)
class PhaseReport:
    """What one phase came to.

    Attributes:
        name: The phase.
        description: What was changed, for people.
        asked: Rows that were valued.
        outcomes: Outcomes that were taken.
        mape: Mean absolute percentage error of the answers, in percent.
        version: What answered last.
    """

    name: str
    description: str
    asked: int
    outcomes: int
    mape: float
    version: str


def simulate(
    simulation: Simulation,
    client: ApiClient,
    *,
    table: str | None = None,
    workspace: Path = Path("workspace"),
    tell: Callable[[PhaseReport], None] = lambda _: None,
) -> list[PhaseReport]:
    """Run a simulation.

    Args:
        simulation: What is replayed.
        client: The service.
        table: CSV or Parquet file of rows with their target; None takes the contract's own source.
        workspace: Where a table that has to be fetched is kept.
        tell: Called after each phase.

    Raises:
        ServingError: The service does not answer, has no model, or refuses.
        DataError: The table cannot be read.
        ConfigError: The scenario is unknown, or impossible for this table.
    """
    change = scenario(simulation.scenario)
    info = client.model_info()
    contract = from_dict(info["contract"])
    X, y, origin = _rows(contract, table, workspace, info["model_version"])
    rng = np.random.default_rng(simulation.seed)
    changed = change(contract, X, y)  # refused before anything is sent
    reports = []
    for name in simulation.phases:
        pool_X, pool_y, description = X, y, f"{origin} as they are"
        if name == "changed":
            pool_X, pool_y, description = changed.X, changed.y, changed.description
        picked = np.resize(rng.permutation(len(pool_X)), simulation.rows)  # each once, if they last
        report = _phase(
            name, description, simulation, client, Encoder(contract), pool_X[picked],
            pool_y[picked],
            contract.target.prediction_name,
        )  # fmt: skip
        tell(report)
        reports.append(report)
    return reports


def _rows(
    contract: TableContract, table: str | None, workspace: Path, version: str
) -> tuple[Floats, Floats, str]:
    """Return rows, their known values, and what rows they are.

    Of the table that the model was trained on, they are those that it was not trained on.
    """
    from tasador.data.readers import read_table
    from tasador.data.sources import load_table
    from tasador.data.table import Table
    from tasador.data.text.text_format import known_names
    from tasador.data.validation import validate_table

    if table is None:
        held_out = _held_out(workspace, version)
        if held_out is not None:
            return *held_out, "held-out rows"
        found = load_table(
            contract, workspace / "data", timeout_s=5.0, attempts=1, offline=True, seed=42
        )
    else:
        frame = read_table(table, source=contract.source, known=known_names(contract))
        found = Table(frame=frame, content_hash="", origin="real", source=table, warnings=())
    valid = validate_table(found, contract, max_refused_share=0.5, min_rows=10)
    origin = "rows" if table is not None else (
        "rows, most of which the model was trained on, as its own folder is not in the workspace,"
    )  # fmt: skip
    return valid.X, valid.y, origin


def _held_out(workspace: Path, version: str) -> tuple[Floats, Floats] | None:
    """Return the rows that a bundle of the workspace was not trained on; None without it.

    A row that lacks a value which no training row lacks is left out: it is not as usual.
    """
    from tasador.data.split import split_table
    from tasador.lifecycle.gate_evaluation import reference_table
    from tasador.lifecycle.reproduce import settings_of
    from tasador.registry.model_bundle import load_bundle

    folder = workspace / "bundles" / version
    if not folder.is_dir():
        return None
    bundle = load_bundle(folder, check_golden=False)
    try:
        valid = reference_table(bundle, workspace / "data")
    except (KeyError, DataError, StorageError):  # not the table's machine
        return None
    how = settings_of(bundle)[0].segregate
    splits = split_table(valid, how)
    part = splits.sealed.open("simulate")
    unusual = np.isnan(part.X) & ~np.isnan(splits.train.X).any(axis=0)
    usual = ~unusual.any(axis=1)
    return part.X[usual], part.y[usual]


def _phase(
    name: str,
    description: str,
    simulation: Simulation,
    client: ApiClient,
    encoder: Encoder,
    X: Floats,
    y: Floats,
    prediction_name: str,
) -> PhaseReport:
    waiting: deque[dict[str, Any]] = deque()
    lag = round(simulation.lag * simulation.rows)
    errors: list[float] = []
    taken, version = 0, ""
    starts = range(0, len(X), simulation.batch)
    with progress(f"{name} ({description})", len(starts)) as advance:
        for start in starts:
            rows = slice(start, start + simulation.batch)
            found = value_rows(client, encoder, X[rows], y[rows], prediction_name)
            version = found.version
            errors.extend(found.errors)
            waiting.extend(found.outcomes)
            while len(waiting) > lag:
                due = [waiting.popleft() for _ in range(min(500, len(waiting) - lag))]
                taken += report_outcomes(client, due)
            time.sleep(simulation.pause_s)
            advance(1)
    while waiting:
        due = [waiting.popleft() for _ in range(min(500, len(waiting)))]
        taken += report_outcomes(client, due)
    return PhaseReport(name, description, len(X), taken, 100 * float(np.nanmean(errors)), version)


@dataclass(frozen=True)
class Valued:
    """What a service answered for rows whose values are known.

    Attributes:
        version: What answered.
        errors: Relative error of each row; NaN where the value is 0.
        outcomes: What can be reported of each.
    """

    version: str
    errors: tuple[float, ...]
    outcomes: tuple[dict[str, Any], ...]


def value_rows(
    client: ApiClient, encoder: Encoder, X: Floats, y: Floats, prediction_name: str
) -> Valued:
    """Let a service value encoded rows `X` (n, p) whose values `y` (n,) are known.

    Raises:
        ServingError: The service does not answer, has no model, or refuses.
    """
    columns = encoder.decode(X)
    rows = [{key: values[i] for key, values in columns.items()} for i in range(len(X))]
    answer = client.predict(rows)
    errors, outcomes = [], []
    for found, actual in zip(answer["predictions"], y.tolist(), strict=True):
        errors.append(abs(found[prediction_name] - actual) / abs(actual) if actual else np.nan)
        outcomes.append({"prediction_id": found["prediction_id"], "actual": actual})
    return Valued(answer["model_version"], tuple(errors), tuple(outcomes))


def report_outcomes(client: ApiClient, outcomes: list[dict[str, Any]]) -> int:
    """Send outcomes; one whose record still waits in a spool is sent once more."""
    answer = client.send_outcomes(outcomes)
    unknown = {r["prediction_id"] for r in answer["results"] if r["status"] == "unknown"}
    if unknown:
        time.sleep(0.5)
        again = [one for one in outcomes if one["prediction_id"] in unknown]
        rest = client.send_outcomes(again)
        if rest["accepted"] < len(again):
            raise ServingError(
                f"{len(again) - rest['accepted']} outcomes belong to no valuation",
                remedy="are records switched on? see /health/deep",
            )
        return int(answer["accepted"]) + int(rest["accepted"])
    return int(answer["accepted"])


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
