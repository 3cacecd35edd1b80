"""From a table to a first model: `init`, `run`, `runs`, `report`, `doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tasador.cli.options import WORKSPACE, Settings, Workspace
from tasador.cli.output import err, escape, out, table

if TYPE_CHECKING:
    from tasador.reporting.cards import Card

#: Assumptions that `tasador init` prints; of a wide table those about its first columns, and the
#: last ones, which are about the table.
_MOST_ASSUMED = 40


def init(
    file: Annotated[str, typer.Argument(help="CSV or Parquet file")],
    target: Annotated[str, typer.Option(metavar="COLUMN", help="Column to estimate")],
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Short name", show_default="the file's name"),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing contract")] = False,
    category: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN", help="Treat a column as a category, e.g. a code; repeatable"
        ),
    ] = None,
) -> None:
    """Write a contract for a table: its columns, kinds and bounds.

    The contract is a YAML file under `conf/dataset`. Everything that was assumed is printed.

    Examples:
        tasador init flats.csv --target price
        tasador init flats.csv --target price --category postcode
    """
    from tasador.ops.init_contract import write_new_contract

    written = write_new_contract(
        file, target, name=name, force=force, project=Path.cwd(), categories=category or ()
    )
    out.print(f"wrote {escape(str(written.path))}")
    lines = [f"assumed: {escape(line)}" for line in written.assumptions]
    half, left_out = _MOST_ASSUMED // 2, len(lines) - _MOST_ASSUMED
    if left_out > 0:
        more = f"... and {left_out} more, written at the head of the contract"
        lines[half : half + left_out] = [more]
    for line in lines:
        out.print(f"  {line}")
    for line in written.leaks:
        out.print(f"  [yellow]possible leak:[/] {escape(line)}")
    out.print(f"next: tasador run dataset={escape(written.name)}")


def run(overrides: Settings = None) -> None:
    """Train a model: from a table to a registered version.

    Cached steps are not repeated. docs/reference/configuration.md lists all settings.

    Examples:
        tasador run
        tasador run dataset=diamonds profile=full
        tasador run dataset=diamonds from_step=select
    """
    from tasador.lifecycle.first_champion import train
    from tasador.settings.compose import compose

    settings = compose(overrides or [], project=Path.cwd())

    def tell(name: str, card: Card) -> None:
        done = "cached" if card.status == "cached" else f"{card.seconds:.1f} s"
        out.print(f"  {name:<10} {done}")
        for fact in card.facts:
            if fact.label == "Comparables" and fact.note:
                out.print(f"    comparables {escape(fact.note)}")
        for warning in card.warnings:
            err.print(f"    [yellow]warning:[/] {escape(warning)}")

    def wait(why: str) -> None:
        err.print(escape(why))

    out.print(f"{escape(settings.contract.title)}")
    outcome = train(settings, tell, on_wait=wait)
    if outcome.outcome is not None:
        origin = outcome.outcome["metrics"]["origin"]
        if origin == "synthetic":
            err.print(
                "[bold red]SYNTHETIC DATA:[/] no real table was found. The figures below are of "
                "generated rows and say nothing about real ones."
            )
        out.print("\nheld-out test set:")
        compared = {entry["metric"]: entry for entry in outcome.outcome["comparison"]}
        for entry in outcome.outcome["headline"]:
            out.print(f"  {_headline(entry)}")
        out.print("\ncross-validation on the training rows (± between folds):")
        for name in compared:
            out.print(f"  {_cross_validated(compared[name])}")
        out.print(f"  {escape(outcome.outcome['baseline'])}")
        out.print("\nsample valuation:")
        for line in outcome.sample:
            out.print(f"  {escape(line)}")
    if outcome.registered:
        out.print(f"\nregistered: {outcome.registered}")
    out.print(f"report: {escape(str(outcome.report))}")
    for line in outcome.standing.lines:
        out.print(escape(line))
    if outcome.standing.following:
        out.print(f"next: {escape(outcome.standing.following)}")


def _headline(entry: dict[str, Any]) -> str:
    from tasador.reporting.cards import amount

    text = f"{amount(entry['value'])} {entry['unit']}".rstrip()
    low, high = amount(entry["low"]), amount(entry["high"])
    return f"{entry['metric']:<12} {text:<14} (95%: {low} to {high})"


def _cross_validated(entry: dict[str, Any]) -> str:
    from tasador.reporting.cards import amount

    own = f"{amount(entry['random_cv'])} ± {_short(entry['spread'])}"
    plain = f"{amount(entry['baseline'])} {entry['unit']}".rstrip()
    return f"{entry['metric']:<12} {own:<22} plain LightGBM {plain}"


def _short(spread: float) -> str:
    return f"{float(f'{spread:.2g}'):,g}"


def report(
    run_id: Annotated[
        str | None, typer.Argument(metavar="RUN", help="Run", show_default="the newest")
    ] = None,
    workspace: Workspace = WORKSPACE,
) -> None:
    """Print the path of a run's report."""
    from tasador.training.runs import find_run

    out.print(escape(str(find_run(workspace, run_id) / "report.html")))


def runs(workspace: Workspace = WORKSPACE) -> None:
    """List training runs, newest first."""
    from tasador.training.runs import list_runs

    columns = ("run", "dataset", "status", "origin", "MAPE", "within 10%", "bundle")
    listed = table(columns, list_runs(workspace))
    listed.columns[0].no_wrap = True
    out.print(listed)


def doctor(overrides: Settings = None) -> None:
    """Check what is missing, unreachable or unprotected.

    Exits with 1 when something that is needed is missing.

    Examples:
        tasador doctor
        tasador doctor dataset=diamonds tracking.uri=http://127.0.0.1:5000
    """
    from tasador.ops.doctor import examine
    from tasador.settings.compose import compose

    mark = {
        "ok": "[green]ok     [/]",
        "optional": "[dim]--     [/]",
        "missing": "[red]missing[/]",
        "off": "[yellow]off    [/]",
    }
    complete = True
    for finding in examine(compose(overrides or [], project=Path.cwd())):
        out.print(f"{mark[finding.state]} {escape(finding.what)}: {escape(finding.detail)}")
        complete = complete and finding.state != "missing"
    if not complete:
        raise typer.Exit(1)
