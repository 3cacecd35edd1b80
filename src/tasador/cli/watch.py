"""Whether a model in use is still right: `monitor`, `watch`, `alerts`, `simulate`."""

from __future__ import annotations

import getpass
import os
import signal
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Group as Lines
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from tasador.cli.models import settings_with
from tasador.cli.options import (
    WORKSPACE,
    By,
    Encoding,
    Engine,
    EngineOption,
    NoHeader,
    OptionsError,
    RayAddress,
    Reason,
    Retrain,
    Set,
    Sheet,
    WatchConfig,
    Workspace,
)
from tasador.cli.output import escape, note, out, time_text
from tasador.cli.output import follow as print_next
from tasador.core.clock import parse_moment, parse_span
from tasador.metrics.regression import label
from tasador.monitoring.verdict import ColumnDrift, Figure, Finding, Level, Verdict

if TYPE_CHECKING:
    from tasador.monitoring.alerts import AlertBook
    from tasador.monitoring.settings import Thresholds
    from tasador.monitoring.verdict import Verdict
    from tasador.ops.monitor_daemon import Round
    from tasador.settings.run import RunSettings
    from tasador.settings.serving import SourceSettings

_STYLE: dict[Level, str] = {
    "ok": "green", "warn": "yellow", "alert": "bold red", "cannot_tell": "cyan"
}  # fmt: skip
_WORD: dict[Level, str] = {
    "ok": "ok",
    "warn": "warn",
    "alert": "ALERT",
    "cannot_tell": "cannot tell",
}
#: What is done next about a window, by its verdict.
_AFTER: dict[Level, str] = {
    "ok": "watch",
    "warn": "watch",
    "alert": "alerts list",
    "cannot_tell": "outcomes import FILE",
}
_TITLES = {
    "input": "Input", "refused": "Refused rows", "quality": "Data quality",
    "drift": "Drift of columns",
    "together": "Columns together", "performance": "Performance",
    "estimate": "Estimated performance",
    "label": "Label drift", "concept": "Concept drift", "prediction": "Predictions",
    "latency": "Latency", "failures": "Failures",
    "answers": "Rows with a value",
}  # fmt: skip
_MET = {True: ("met", "green"), False: ("not met", "red"), None: ("", "")}
_BARS = "▁▂▃▄▅▆▇█"
_SHOWN = (
    "mape",
    "wmape",
    "median_ape",
    "within_10",
    "within_20",
    "mae",
    "coverage",
    "median_ratio",
    "cod",
    "prd",
    "prb",
)


def dashboard(verdict: Verdict) -> RenderableType:
    """Return the health of a window, the worst first."""
    head = Text.assemble(
        ("Health: ", "bold"),
        (_WORD[verdict.level], _STYLE[verdict.level]),
        f"   {verdict.rows:,} rows against {verdict.reference_rows:,} of {verdict.reference}",
    )
    if verdict.begins and verdict.ends:
        span = (time_text(parse_moment(end)) for end in (verdict.begins, verdict.ends))
        head.append(f"\n{' to '.join(span)}", "dim")
    for found in verdict.of_check("input"):
        if found.subject == "outcomes" and "joined" in found.numbers:
            head.append(f"\n{found.reason}", _STYLE[found.level])
    parts: list[RenderableType] = [head, "", _checks(verdict)]
    if verdict.drift:
        parts += ["", _drift(verdict.drift)]
    if verdict.figures:
        parts += ["", _figures(verdict.figures)]
    if verdict.trouble:
        parts += ["", Text("What to look at", "bold")]
        parts += [
            Text.assemble(
                "  ", (f"{_WORD[f.level]:<6}", _STYLE[f.level]), f" {f.subject}: {f.reason}"
            )
            for f in verdict.trouble
        ]
    return Lines(*parts)


def _checks(verdict: Verdict) -> Table:
    table = Table("check", "level", "looked at", box=None, pad_edge=False)
    levels = verdict.by_check
    for check in sorted(levels, key=list(_TITLES).index):
        level, some = levels[check], verdict.of_check(check)
        bad = sum(f.level in ("warn", "alert") for f in some)
        text = f"{len(some)}" + (f", {bad} bad" if bad else "")
        table.add_row(_TITLES.get(check, check), Text(_WORD[level], _STYLE[level]), text)
    return table


def _drift(columns: tuple[ColumnDrift, ...]) -> Table:
    heads = ("column", "level", "PSI", "p adj.", "KS", "reference", "window")
    table = Table(*heads, box=None, pad_edge=False)
    for column in table.columns[2:5]:
        column.justify = "right"
    for column in (table.columns[1], *table.columns[5:]):
        column.no_wrap, column.min_width = True, 11
    table.columns[0].overflow = "fold"
    for one in columns:
        table.add_row(
            escape(one.name),
            Text(_WORD[one.level], _STYLE[one.level]),
            *(_number(v) for v in (one.psi, one.p_adjusted, one.ks)),
            _spark(one.reference_share, one.window_share),
            _spark(one.window_share, one.reference_share),
        )
    return table


def _spark(shares: tuple[float, ...], others: tuple[float, ...]) -> str:
    """Return the bins as small bars, on one scale with the other side's."""
    if len(shares) > 24:
        return ""
    top = max((*shares, *others), default=0.0)
    return "".join(
        "·" if share == 0 else _BARS[min(int(share / top * len(_BARS)), len(_BARS) - 1)]
        for share in shares
    )


def _figures(figures: tuple[Figure, ...]) -> Table:
    heads = ("metric", "value", "95%", "reference", "limit", "IAAO")
    table = Table(*heads, box=None, pad_edge=False)
    for column in table.columns[1:5]:
        column.justify = "right"
    for figure in figures:
        if figure.name in _SHOWN:
            title = "coverage" if figure.name == "coverage" else label(figure.name)
            table.add_row(
                title + (" (estimated)" if figure.estimated else ""),
                _number(figure.value),
                f"{_number(figure.low)} to {_number(figure.high)}",
                _number(figure.reference),
                _number(figure.limit),
                Text(*_MET[figure.met]),
            )
    return table


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    if value != 0 and abs(value) < 0.001:
        return f"{value:.0e}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


_COLOURS = {"ok": "green", "cannot_tell": "cyan", "warn": "yellow", "alert": "red"}
_STATES = {"firing": "red", "pending": "yellow", "ok": "green"}

Pattern = Annotated[str, typer.Argument(help="Names of alerts, e.g. '*drift*'")]


def _column(meaning: str) -> Any:
    return typer.Option(metavar="COLUMN", help=meaning, rich_help_panel="Columns of the tables")


def monitor(
    reference: Annotated[
        str, typer.Option(metavar="FILE", help="Known good rows: Parquet, CSV, Excel")
    ] = "",
    current: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="Rows to check, or a pattern; repeatable"),
    ] = None,
    outcomes: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Outcomes that came later; needs --id and --target"),
    ] = None,
    contract: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="YAML that describes the columns", show_default="guessed"
        ),
    ] = None,
    rule: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Change a limit, e.g. mape_max=12; repeatable"),
    ] = None,
    window: Annotated[
        str,
        typer.Option(metavar="DURATION", help="Recorded rows to check: 90s, 30m, 4h, 2d back"),
    ] = "1d",
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="JSON file to write")] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="HTML report to write")] = None,
    lang: Annotated[Literal["en", "es"], typer.Option(help="Language of the HTML report")] = "en",
    fail_on_warn: Annotated[
        bool, typer.Option("--fail-on-warn", help="Exit with 12 on a warning")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing")] = False,
    sheet: Sheet = None,
    encoding: Encoding = None,
    no_header: NoHeader = False,
    engine: EngineOption = Engine.local,
    ray_address: RayAddress = None,
    workspace: Workspace = WORKSPACE,
    target: Annotated[str | None, _column("True value")] = None,
    prediction: Annotated[str | None, _column("Estimate")] = None,
    lower: Annotated[str | None, _column("Lower end of the interval")] = None,
    upper: Annotated[str | None, _column("Upper end of the interval")] = None,
    time: Annotated[str | None, _column("Time of the request")] = None,
    latency: Annotated[str | None, _column("Latency in milliseconds")] = None,
    version: Annotated[str | None, _column("Model version")] = None,
    segment: Annotated[str | None, _column("Segment, e.g. a district")] = None,
    id: Annotated[str | None, _column("Key that joins --outcomes")] = None,
) -> None:
    """Check rows once for drift, data quality and performance.

    With --reference and --current, tables are compared. Without them, the rows that the service
    recorded are compared with its model's training data. Limits are those of `tasador watch`.
    Exits with 0 when all is well, 10 on an alert, 11 when the data do not suffice to tell.

    Examples:
        tasador monitor --reference train.parquet --current today.csv --target price
        tasador monitor --window 4h --json verdict.json
    """
    from tasador.contract.model import Source
    from tasador.core.parallel import RaySettings
    from tasador.core.ray_engine import open_engine
    from tasador.core.storage import write_text
    from tasador.monitoring.settings import read_watch_settings
    from tasador.monitoring.table_reader import Fields
    from tasador.ops.monitor_files import Comparison, exit_code, monitor_files, parse_rules

    rules = parse_rules(rule or [], read_watch_settings().limits)
    notes: tuple[str, ...] = ()
    if not reference and not current:
        verdict = _of_records(rules, window, workspace)
    elif not reference or not current:
        raise OptionsError.nothing_to_compare()
    else:
        fields = Fields(target, prediction, lower, upper, time, latency, version, id)
        found = tuple(current)
        source = Source(sheet=sheet, encoding=encoding, has_header=False if no_header else None)
        comparison = Comparison(reference, found, fields, contract, segment, outcomes, source)
        with open_engine(engine.value, RaySettings(ray_address)) as opened:
            verdict, notes = monitor_files(comparison, rules, opened)
    if not quiet:
        for one in notes:
            note(one)
        recorded = not current
        if recorded and not verdict.rows:
            out.print(f"nothing was recorded in the last {window}: there is nothing to check")
            print_next("simulate", workspace)
        else:
            out.print(dashboard(verdict), soft_wrap=False)
            if recorded:
                print_next(_AFTER[verdict.level], workspace)
            elif html is None:
                out.print("next: the same with --html FILE, which has the distributions")
    if json is not None:
        write_text(json, verdict.to_json())
    if html is not None:
        from tasador.reporting.monitor_report import write_monitor_report

        write_monitor_report(html, verdict, lang)
    code = exit_code(verdict, fail_on_warn=fail_on_warn)
    if code:
        raise typer.Exit(code)


def _of_records(rules: Thresholds, window: str, workspace: Path) -> Verdict:
    from tasador.inference.sources import unasked, with_defaults
    from tasador.monitoring.settings import WatchSettings
    from tasador.ops.monitor_daemon import Watcher
    from tasador.settings.serving import read_settings

    served = read_settings(os.environ | with_defaults(os.environ, workspace))
    settings = WatchSettings(window_s=parse_span(window), limits=rules)
    watcher = Watcher(settings, served.source, served.records.url, served.records)
    if line := unasked(served.source):
        note(line)
    try:
        return watcher.evaluate_window()
    finally:
        watcher.close()


def watch(
    config: WatchConfig = None,
    interval: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="Time between checks", show_default="300"),
    ] = None,
    window: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="Time that a check looks back", show_default="86400"),
    ] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(metavar="PORT", help="Port of the Prometheus metrics", show_default="none"),
    ] = None,
    metrics_host: Annotated[
        str | None,
        typer.Option(metavar="HOST", help="Address of that port", show_default="127.0.0.1"),
    ] = None,
    retrain: Retrain = False,
    set_: Set = None,
    workspace: Workspace = WORKSPACE,
) -> None:
    """Check recorded rows again and again; send alerts, retrain.

    The model and the database are those of `tasador serve`, from TASADOR_* variables. --set changes
    the policy and gates of --retrain.

    Examples:
        tasador watch --interval 60 --window 3600
        tasador watch --retrain --set retraining.budget=2
    """
    from dataclasses import replace

    from tasador.inference.sources import unasked, with_defaults
    from tasador.monitoring.settings import read_watch_settings, whom_alerts_reach
    from tasador.ops.monitor_daemon import Watcher
    from tasador.settings.serving import read_settings

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
    before: tuple[Finding, ...] = ()

    def tell(found: Round) -> None:
        nonlocal at_work, before
        for line in _lines(found, before):
            out.print(line)
        if found.verdict is not None:
            before = found.verdict.trouble
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
    from tasador.lifecycle.api import Place
    from tasador.lifecycle.retrain import reconcile

    place = Place(workspace, source.tracking_uri, records, source.model_name or None, "watch")
    return reconcile(place, settings)


def _lines(found: Round, before: tuple[Finding, ...]) -> list[str]:
    """Return what a round found; findings that were there `before` are not repeated."""
    moment = datetime.now().astimezone().strftime("%d %b %H:%M:%S")
    if not found.leads:
        return [f"{moment} another watcher leads"]
    lines = []
    verdict = found.verdict
    if verdict is not None:
        colour, known = _COLOURS[verdict.level], {_which(one) for one in before}
        new = [one for one in verdict.trouble if _which(one) not in known]
        same = len(verdict.trouble) - len(new)
        also = f", {same} finding{'' if same == 1 else 's'} as before" if same else ""
        lines.append(f"{moment} [{colour}]{verdict.level}[/] {verdict.rows:,} rows{also}")
        for finding in new[:8]:
            mark = _COLOURS[finding.level]
            lines.append(
                f"    [{mark}]{finding.level:<5}[/] {finding.check} {escape(finding.subject)}: "
                f"{escape(finding.reason)}"
            )
    for key, state in found.changes:
        lines.append(f"    alert {escape(key)} is now [{_STATES[state]}]{state}[/]")
    return lines + [f"    [yellow]{escape(problem)}[/]" for problem in found.problems]


def _which(finding: Finding) -> tuple[str, ...]:
    return finding.check, finding.subject, finding.level


def _without_password(url: str) -> str:
    from tasador.settings.serving import parse_url

    return parse_url(url).shown


def _book(workspace: Path) -> AlertBook:
    from tasador.inference.sources import with_defaults
    from tasador.monitoring.alerts import AlertBook
    from tasador.records.database import Database
    from tasador.settings.serving import read_settings

    served = read_settings(os.environ | with_defaults(os.environ, workspace))
    return AlertBook(Database(served.records.url))


def list_(
    everything: Annotated[bool, typer.Option("--all", help="Include resolved alerts")] = False,
    workspace: Workspace = WORKSPACE,
) -> None:
    """List firing and pending alerts."""
    book = _book(workspace)
    shown = [state for state in book.all() if state.state != "ok" or everything]
    for state in shown:
        colour = _STATES.get(state.state, "white")
        notes = [f"since {time_text(state.since)}", str(state.body.get("severity", ""))]
        if state.body.get("acknowledged_by"):
            notes.append(f"acknowledged by {state.body['acknowledged_by']}")
        if state.body.get("silent_until"):
            notes.append(f"silent until {time_text(state.body['silent_until'])}")
        out.print(
            f"[{colour}]{state.state:<8}[/] {escape(state.key)}  ({escape(', '.join(notes))})"
        )
        out.print(f"         {escape(str(state.body.get('reason', '')))}")
    if not shown:
        out.print("no alert fires")
    print_next("alerts ack NAME" if shown else "monitor", workspace)


def ack(
    pattern: Pattern,
    reason: Reason = "",
    by: By = None,
    workspace: Workspace = WORKSPACE,
) -> None:
    """Acknowledge firing alerts, which stops their reminders."""
    book = _book(workspace)
    _report("acknowledged", book.acknowledge(pattern, by or getpass.getuser(), reason), workspace)


def silence(
    pattern: Pattern,
    for_: Annotated[
        str, typer.Option("--for", metavar="DURATION", help="How long: 30m, 4h, 2d")
    ] = "1h",
    reason: Reason = "",
    by: By = None,
    workspace: Workspace = WORKSPACE,
) -> None:
    """Send no notifications of some alerts for a time.

    Examples:
        tasador alerts silence '*drift*' --for 4h --reason "data migration"
    """
    book = _book(workspace)
    seconds = parse_span(for_)
    _report("silenced", book.silence(pattern, seconds, by or getpass.getuser(), reason), workspace)


def unsilence(
    pattern: Pattern,
    by: By = None,
    workspace: Workspace = WORKSPACE,
) -> None:
    """End a silence."""
    book = _book(workspace)
    _report("no longer silent", book.silence(pattern, 0.0, by or getpass.getuser(), ""), workspace)


def simulate(
    scenario: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="inflation, new-region, unit-bug, missing-feed or concept"
        ),
    ] = "inflation",
    url: Annotated[str, typer.Option(metavar="URL", help="Address of the service")] = (
        "http://127.0.0.1:8000"
    ),
    rows: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Rows with targets", show_default="the model's held-out rows"
        ),
    ] = None,
    count: Annotated[int, typer.Option(min=10, metavar="N", help="Rows in each phase")] = 1000,
    pause: Annotated[
        float, typer.Option(min=0.0, metavar="SECONDS", help="Time between requests")
    ] = 0.0,
    phases: Annotated[
        str, typer.Option(metavar="NAMES", help="Phases, in request")
    ] = "usual,changed,recovered",
    follow: Annotated[
        bool,
        typer.Option("--follow", help="Wait for the watcher after each phase, show what it found"),
    ] = False,
    workspace: Workspace = WORKSPACE,
) -> None:
    """Send real rows, then changed ones, to a running service.

    Shows how the monitoring reacts. An API key is read from TASADOR_API_KEY.

    Examples:
        tasador simulate --scenario unit-bug --count 300 --follow
    """
    from tasador.core import clock
    from tasador.ops.api_client import ApiClient
    from tasador.ops.simulate import PhaseReport, Simulation, Witness, simulate

    client = ApiClient(url, os.environ.get("TASADOR_API_KEY"))
    witness = Witness(client, lambda line: out.print(escape(line))) if follow else None
    began = [clock.seconds()]

    def tell(report: PhaseReport) -> None:
        out.print(
            f"{report.name:<10} {report.asked:,} rows, {report.outcomes:,} outcomes, "
            f"MAPE {report.mape:.1f}%  ({escape(report.description)}; {escape(report.version)})"
        )
        if witness is not None:
            witness.look(report.name, began[0])
        began[0] = clock.seconds()

    asked = tuple(part.strip() for part in phases.split(",") if part.strip())
    simulation = Simulation(scenario, rows=count, pause_s=pause, phases=asked)
    simulate(simulation, client, table=rows, workspace=workspace, tell=tell)
    print_next("monitor", workspace)


def _report(what: str, keys: Sequence[str], workspace: Path) -> None:
    for key in keys:
        out.print(f"{what}: {escape(key)}")
    print_next("alerts list" if keys else "alerts list --all", workspace)
    if not keys:
        out.print("no alert matches")
        raise typer.Exit(1)
