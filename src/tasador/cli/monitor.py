"""`tasador monitor`: judge rows, print a dashboard, leave JSON and HTML, end with a code for CI."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from tasador.cli.engine import EngineChoice, EngineOption, RayAddress
from tasador.cli.model_choice import note
from tasador.core.errors import ConfigError

if TYPE_CHECKING:
    from tasador.monitoring.rules import Rules
    from tasador.monitoring.verdict import Verdict

out = Console(highlight=False)

Name = Annotated[str | None, typer.Option(help="Column of that meaning.", show_default=False)]


def monitor(
    reference: Annotated[str, typer.Option(help="Table of known good rows: Parquet or CSV.")] = "",
    current: Annotated[
        list[str] | None,
        typer.Option(
            help="Table of the rows to judge, or a pattern; may be repeated.", show_default=False
        ),
    ] = None,
    contract: Annotated[
        Path | None,
        typer.Option(help="YAML that says what the columns are; else they are looked at."),
    ] = None,
    target: Name = None,
    prediction: Name = None,
    lower: Name = None,
    upper: Name = None,
    time: Name = None,
    latency: Name = None,
    version: Name = None,
    segment: Name = None,
    outcomes: Annotated[
        str | None, typer.Option(help="Table of outcomes that came later: --id and --target.")
    ] = None,
    id: Name = None,
    rule: Annotated[
        list[str] | None, typer.Option(help="A limit, e.g. mape_max=12; may be repeated.")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="Write the verdict here.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a report here.")] = None,
    fail_on_warn: Annotated[bool, typer.Option(help="End with 12 on a warning.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing.")] = False,
    window: Annotated[
        str, typer.Option(help="How far back, without tables: 90s, 30m, 4h, 2d.")
    ] = "1d",
    workspace: Annotated[Path, typer.Option(help="Folder of bundles and databases.")] = Path(
        "workspace"
    ),
    engine: EngineOption = EngineChoice.local,
    ray_address: RayAddress = None,
) -> None:
    """Say whether rows still look like the reference: drift, quality, performance.

    With --reference and --current tables are compared, several current ones as one window. Without
    them, what the service recorded is judged against what its model was trained on; both are found
    as by `tasador serve`.

    Limits are those of `tasador watch`, changed by --rule.

    Ends with 0 when they do, 10 on an alert, 11 when it cannot be told.
    """
    from tasador.cli.dashboard import dashboard
    from tasador.config.watch import read_watch_settings
    from tasador.core.engine import RaySettings, open_engine
    from tasador.core.files import write_text
    from tasador.flows.monitor import Comparison, exit_code, monitor_files, parse_rules
    from tasador.monitoring.plain import Fields

    rules = parse_rules(rule or [], read_watch_settings().limits)
    notes: tuple[str, ...] = ()
    if not reference and not current:
        verdict = _of_records(rules, window, workspace)
    elif not reference or not current:
        raise ConfigError(
            "there is nothing to compare with",
            expected="--reference and --current, or neither to judge what a service recorded",
            remedy="name two tables, e.g. tasador monitor --reference a.parquet --current b.csv",
        )
    else:
        fields = Fields(target, prediction, lower, upper, time, latency, version, id)
        found = tuple(current)
        comparison = Comparison(reference, found, fields, contract, segment, outcomes)
        with open_engine(engine.value, RaySettings(ray_address)) as opened:
            verdict, notes = monitor_files(comparison, rules, opened)
    if not quiet:
        for one in notes:
            note(one)
        out.print(dashboard(verdict))
    if json is not None:
        write_text(json, verdict.to_json())
    if html is not None:
        from tasador.flows.monitor_report import write_monitor_report

        write_monitor_report(html, verdict)
    code = exit_code(verdict, fail_on_warn=fail_on_warn)
    if code:
        raise typer.Exit(code)


def _of_records(rules: Rules, window: str, workspace: Path) -> Verdict:
    from tasador.cli.watch import parse_duration
    from tasador.flows.watch import Watcher
    from tasador.monitoring.watch_settings import WatchSettings
    from tasador.serving.defaults import unasked, with_defaults
    from tasador.serving.settings import read_settings

    served = read_settings(os.environ | with_defaults(os.environ, workspace))
    if line := unasked(served.source):
        note(line)
    settings = WatchSettings(window_s=parse_duration(window), limits=rules)
    watcher = Watcher(settings, served.source, served.records.url, served.records)
    try:
        return watcher.judge()
    finally:
        watcher.close()
