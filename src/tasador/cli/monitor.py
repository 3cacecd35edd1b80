"""`tasador monitor`: judge rows, print a dashboard, leave JSON and HTML, end with a code for CI."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from tasador.core.errors import ConfigError

out = Console(highlight=False)
err = Console(stderr=True, highlight=False, soft_wrap=True)

Name = Annotated[str | None, typer.Option(help="Column of that meaning.", show_default=False)]


def monitor(
    reference: Annotated[str, typer.Option(help="Table of known good rows: Parquet or CSV.")] = "",
    current: Annotated[str, typer.Option(help="Table of the rows to judge.")] = "",
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
) -> None:
    """Say whether rows still look like the reference: drift, quality, performance.

    Ends with 0 when they do, 10 on an alert, 11 when it cannot be told.
    """
    from tasador.cli.dashboard import dashboard
    from tasador.core.files import write_text
    from tasador.flows.monitor import Comparison, exit_code, monitor_files, parse_rules
    from tasador.monitoring.plain import Fields

    if not reference or not current:
        raise ConfigError(
            "there is nothing to compare",
            expected="--reference and --current",
            remedy="name two tables, e.g. tasador monitor --reference a.parquet --current b.csv",
        )
    fields = Fields(target, prediction, lower, upper, time, latency, version, id)
    comparison = Comparison(reference, current, fields, contract, segment, outcomes)
    verdict, notes = monitor_files(comparison, parse_rules(rule or []))
    if not quiet:
        for note in notes:
            err.print(f"[dim]note:[/] {escape(note)}")
        out.print(dashboard(verdict))
    if json is not None:
        write_text(json, verdict.to_json())
    if html is not None:
        from tasador.flows.monitor_report import write_monitor_report

        write_monitor_report(html, verdict)
    code = exit_code(verdict, fail_on_warn=fail_on_warn)
    if code:
        raise typer.Exit(code)
