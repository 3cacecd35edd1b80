"""`tasador watch`, `tasador alerts`, `tasador simulate`: what happens to a service in use."""

from __future__ import annotations

import getpass
import os
import re
import signal
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from tasador.cli.model_choice import note
from tasador.cli.models import Set, settings_with
from tasador.cli.streams import escape

if TYPE_CHECKING:
    from tasador.config.settings import RunSettings
    from tasador.flows.watch import Round
    from tasador.monitoring.alerts import AlertBook
    from tasador.serving.source_settings import SourceSettings

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

Workspace = Annotated[Path, typer.Option(help="Folder of bundles and databases.")]
WatchConfig = Annotated[
    Path | None,
    typer.Option(
        help="YAML of limits, alerts and routes, over those that ship; by default the file that "
        "TASADOR_WATCH__CONFIG names."
    ),
]
Retrain = Annotated[
    bool,
    typer.Option(
        envvar="TASADOR_RETRAIN", help="Retrain and run canaries too, when there is reason to."
    ),
]
_COLOURS = {"ok": "green", "cannot_tell": "cyan", "warn": "yellow", "alert": "red"}
_STATES = {"firing": "red", "pending": "yellow", "ok": "green"}
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}

alerts = typer.Typer(help="List, acknowledge and silence alerts.", no_args_is_help=True)


def watch(
    config: WatchConfig = None,
    interval: Annotated[float | None, typer.Option(help="Seconds between rounds.")] = None,
    window: Annotated[float | None, typer.Option(help="Seconds that a window looks back.")] = None,
    metrics_port: Annotated[int | None, typer.Option(help="Port for Prometheus.")] = None,
    metrics_host: Annotated[str | None, typer.Option(help="Address of that port.")] = None,
    retrain: Retrain = False,
    set_: Set = None,
    workspace: Workspace = Path("workspace"),
) -> None:
    """Judge what the service recorded, again and again; alert when it stops being right.

    The model and the database are found as by `tasador serve`: from TASADOR_* variables.
    `tasador monitor` judges once. Policy and gates of --retrain are set by --set.
    """
    from dataclasses import replace

    from tasador.config.alert_routes import whom_alerts_reach
    from tasador.config.watch import read_watch_settings
    from tasador.flows.watch import Watcher
    from tasador.serving.defaults import unasked, with_defaults
    from tasador.serving.settings import read_settings

    settings = read_watch_settings(config)
    settings = replace(
        settings,
        interval_s=settings.interval_s if interval is None else interval,
        window_s=settings.window_s if window is None else window,
        metrics_port=settings.metrics_port if metrics_port is None else metrics_port,
        metrics_host=metrics_host or settings.metrics_host,
    )
    served = read_settings(os.environ | with_defaults(os.environ, workspace))
    watcher = Watcher(settings, served.source, served.records.url, served.records, workspace)
    run = settings_with(set_) if retrain or set_ else None
    at_work = False

    def tell(found: Round) -> None:
        nonlocal at_work
        for line in _lines(found):
            out.print(line)
        if not retrain or run is None or not found.leads:
            return
        at_work = True
        try:
            for line in _tended(workspace, served.source, served.records.url, run):
                out.print(f"    {escape(line)}")
        except KeyboardInterrupt:
            out.print("    interrupted: the champion is as it was")
        finally:
            at_work = False

    def end(*_: object) -> None:
        watcher.stop()
        if at_work:  # a training takes minutes, and notes that it was interrupted
            raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    out.print(
        f"watching every {settings.interval_s:g} s, looking back {settings.window_s:g} s "
        f"(records: {escape(_without_password(served.records.url))})"
    )
    out.print(escape(whom_alerts_reach(settings.reached)))
    if retrain and run is not None:
        out.print(f"retraining is on: {budget_line(run)}")
    if line := unasked(served.source):
        note(line)
    watcher.run(tell)


def budget_line(settings: RunSettings) -> str:
    """Return how much training the policy allows."""
    policy = settings.retraining
    most = f"at most {policy.budget} trainings in {policy.budget_days:g} days"
    minutes = f", {policy.budget_minutes:g} minutes in all" if policy.budget_minutes else ""
    return f"{most}{minutes}, {policy.cooldown_hours:g} hours apart"


def _tended(
    workspace: Path, source: SourceSettings, records: str, settings: RunSettings
) -> list[str]:
    from tasador.flows.lifecycle import Place
    from tasador.flows.tend import tend

    place = Place(workspace, source.tracking_uri, records, source.model_name or None, "watch")
    return tend(place, settings)


def _lines(found: Round) -> list[str]:
    moment = datetime.now(UTC).strftime("%H:%M:%S")
    if not found.leads:
        return [f"{moment} another watcher leads"]
    lines = []
    verdict = found.verdict
    if verdict is not None:
        colour = _COLOURS[verdict.level]
        lines.append(f"{moment} [{colour}]{verdict.level}[/] {verdict.rows:,} rows")
        for finding in verdict.trouble[:8]:
            mark = _COLOURS[finding.level]
            lines.append(
                f"    [{mark}]{finding.level:<5}[/] {finding.check} {escape(finding.subject)}: "
                f"{escape(finding.reason)}"
            )
    for key, state in found.changes:
        lines.append(f"    alert {escape(key)} is now [{_STATES[state]}]{state}[/]")
    return lines + [f"    [yellow]{escape(problem)}[/]" for problem in found.problems]


def _without_password(url: str) -> str:
    from tasador.records.location import parse_url

    return parse_url(url).shown


def _book(workspace: Path) -> AlertBook:
    from tasador.monitoring.alerts import AlertBook
    from tasador.records.database import Database
    from tasador.serving.defaults import with_defaults
    from tasador.serving.settings import read_settings

    served = read_settings(os.environ | with_defaults(os.environ, workspace))
    return AlertBook(Database(served.records.url))


@alerts.command("list")
def list_alerts(
    everything: Annotated[bool, typer.Option("--all", help="Also those that are over.")] = False,
    workspace: Workspace = Path("workspace"),
) -> None:
    """List the alerts that fire or are about to."""
    book = _book(workspace)
    shown = [state for state in book.all() if state.state != "ok" or everything]
    for state in shown:
        colour = _STATES.get(state.state, "white")
        notes = [f"since {_moment(state.since)}", str(state.body.get("severity", ""))]
        if state.body.get("acknowledged_by"):
            notes.append(f"acknowledged by {state.body['acknowledged_by']}")
        if state.body.get("silent_until"):
            notes.append(f"silent until {_moment(state.body['silent_until'])}")
        out.print(
            f"[{colour}]{state.state:<8}[/] {escape(state.key)}  ({escape(', '.join(notes))})"
        )
        out.print(f"         {escape(str(state.body.get('reason', '')))}")
    if not shown:
        out.print("no alert fires")


@alerts.command("ack")
def acknowledge(
    pattern: Annotated[str, typer.Argument(help="Of alerts, e.g. '*drift*'.")],
    who: Annotated[str | None, typer.Option(help="Your name.")] = None,
    workspace: Workspace = Path("workspace"),
) -> None:
    """Stop the reminders of firing alerts."""
    book = _book(workspace)
    _told("acknowledged", book.acknowledge(pattern, who or getpass.getuser()))


@alerts.command()
def silence(
    pattern: Annotated[str, typer.Argument(help="Of alerts, e.g. '*drift*'.")],
    for_: Annotated[str, typer.Option("--for", help="How long: 30m, 4h, 2d.")] = "1h",
    reason: Annotated[str, typer.Option(help="Kept in the audit trail.")] = "",
    who: Annotated[str | None, typer.Option(help="Your name.")] = None,
    workspace: Workspace = Path("workspace"),
) -> None:
    """Send nothing about some alerts for a time."""
    book = _book(workspace)
    seconds = parse_duration(for_)
    _told("silenced", book.silence(pattern, seconds, who or getpass.getuser(), reason))


@alerts.command()
def unsilence(
    pattern: Annotated[str, typer.Argument(help="Of alerts, e.g. '*drift*'.")],
    who: Annotated[str | None, typer.Option(help="Your name.")] = None,
    workspace: Workspace = Path("workspace"),
) -> None:
    """End a silence."""
    book = _book(workspace)
    _told("no longer silent", book.silence(pattern, 0.0, who or getpass.getuser(), ""))


def simulate(
    scenario: Annotated[
        str,
        typer.Option(help="inflation, new-region, unit-bug, missing-feed or concept."),
    ] = "inflation",
    url: Annotated[str, typer.Option(help="Of the service.")] = "http://127.0.0.1:8000",
    rows: Annotated[
        str | None, typer.Option(help="Table with targets; by default its own.")
    ] = None,
    count: Annotated[int, typer.Option(min=10, help="Rows in each phase.")] = 1000,
    pause: Annotated[float, typer.Option(min=0.0, help="Seconds between requests.")] = 0.0,
    phases: Annotated[str, typer.Option(help="Which, in order.")] = "usual,changed,recovered",
    follow: Annotated[
        bool, typer.Option(help="After each phase, wait for the watcher and show what it saw.")
    ] = False,
    workspace: Workspace = Path("workspace"),
) -> None:
    """Replay real rows through a running service, change the world, send outcomes late.

    Of the table that the model was trained on, rows that were held out are replayed. An API key is
    taken from TASADOR_API_KEY.
    """
    from tasador.core import clock
    from tasador.flows.api_client import ApiClient
    from tasador.flows.simulate import PhaseReport, Simulation, simulate
    from tasador.flows.watching import Witness

    client = ApiClient(url, os.environ.get("TASADOR_API_KEY"))
    witness = Witness(client, lambda line: out.print(escape(line))) if follow else None
    began = [clock.seconds()]

    def tell(report: PhaseReport) -> None:
        out.print(
            f"{report.name:<10} {report.asked:,} rows, {report.outcomes:,} outcomes, "
            f"MAPE {report.mape:.1f}%  ({escape(report.told)}; {escape(report.version)})"
        )
        if witness is not None:
            witness.look(report.name, began[0])
        began[0] = clock.seconds()

    asked = tuple(part.strip() for part in phases.split(",") if part.strip())
    simulation = Simulation(scenario, rows=count, pause_s=pause, phases=asked)
    simulate(simulation, client, table=rows, workspace=workspace, tell=tell)


def parse_duration(text: str) -> float:
    """Return the seconds in ``90s``, ``30m``, ``4h`` or ``2d``.

    Raises:
        ConfigError: It is none of these.
    """
    from tasador.core.errors import ConfigError

    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text.strip())
    if match is None:
        raise ConfigError("a duration cannot be read", expected="90s, 30m, 4h or 2d", got=text)
    return float(match[1]) * _UNITS[match[2]]


def _told(what: str, keys: list[str]) -> None:
    for key in keys:
        out.print(f"{what}: {escape(key)}")
    if not keys:
        out.print("no alert matches; `tasador alerts list --all` shows them")
        raise typer.Exit(1)


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
