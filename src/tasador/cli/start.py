"""From a table to a first model: `init`, `sales`, `run`, `runs`, `report`, `doctor`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import click
import typer

from tasador.cli.options import (
    WORKSPACE,
    Encoding,
    NoHeader,
    OptionsError,
    Settings,
    Sheet,
    Workspace,
)
from tasador.cli.output import err, escape, out, table

if TYPE_CHECKING:
    from tasador.contract.type_inference import Question
    from tasador.reporting.cards import Card

#: Assumptions that `tasador init` prints; of a wide table those about its first columns, and the
#: last ones, which are about the table.
_MOST_ASSUMED = 40


def init(
    target: Annotated[str, typer.Option(metavar="COLUMN", help="Column to estimate")],
    file: Annotated[
        str | None, typer.Argument(help="CSV, Excel or Parquet file, or 'sales_*.csv' for several")
    ] = None,
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
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Ask nothing: take the default of each question")
    ] = False,
    sheet: Sheet = None,
    encoding: Encoding = None,
    no_header: NoHeader = False,
    sql: Annotated[
        tuple[str, str] | None,
        typer.Option(metavar="URL QUERY", help="Rows of a database instead of a file"),
    ] = None,
) -> None:
    """Write a contract for a table: columns, kinds, bounds, formats.

    The contract is a YAML file under `conf/dataset`. Everything that was assumed is printed. On a
    terminal, what the values do not settle is asked; elsewhere the defaults are taken and the
    questions stand in the contract.

    Examples:
        tasador init flats.csv --target price
        tasador init flats.csv --target price --category postcode
        tasador init sales.xlsx --target price --sheet 2024
        tasador init --sql sqlite:///sales.db "SELECT * FROM sales" --target price
    """
    from tasador.contract.model import Source, SqlQuery
    from tasador.ops.init_contract import check_new_contract, infer_contract, write_new_contract

    read_from: str | Source
    if sql is not None and file is None:
        read_from = Source(sql=SqlQuery(*sql))
    elif file is not None and sql is None:
        read_from = file
    else:
        raise OptionsError.one_table(given=file is not None)
    check_new_contract(name, read_from, force=force, project=Path.cwd())
    infer = partial(
        infer_contract,
        read_from,
        target,
        name=name,
        categories=category or (),
        source=Source(sheet=sheet, encoding=encoding, has_header=False if no_header else None),
    )
    inference = infer()
    if inference.questions and not yes and sys.stdin.isatty() and sys.stdout.isatty():
        answers = _ask(inference.questions)
        if answers != {question.key: question.default for question in inference.questions}:
            inference = infer(answers=answers)
    written = write_new_contract(inference, project=Path.cwd())
    out.print(f"wrote {escape(str(written.path))}")
    lines = [f"assumed: {escape(line)}" for line in inference.assumptions]
    half, left_out = _MOST_ASSUMED // 2, len(lines) - _MOST_ASSUMED
    if left_out > 0:
        more = f"... and {left_out} more, written at the head of the contract"
        lines[half : half + left_out] = [more]
    for line in lines:
        out.print(f"  {line}")
    for line in inference.leaks:
        out.print(f"  [yellow]possible leak:[/] {escape(line)}")
    if not sys.stdin.isatty() or yes:
        for question in inference.questions:
            out.print(f"  [yellow]question:[/] {escape(question.text)} assumed: {question.default}")
    _print_preview(inference.preview, len(inference.contract.features))
    if inference.conclusion:
        out.print(f"[yellow]{escape(inference.conclusion)}[/]")
    else:
        out.print("no column set aside explains 5% of the target or more by itself")
    out.print(f"next: tasador run dataset={escape(written.name)}")


def _ask(questions: Sequence[Question]) -> dict[str, str]:
    answers = {}
    for question in questions:
        choice = click.Choice(question.options)
        answers[question.key] = typer.prompt(question.text, default=question.default, type=choice)
    return answers


def _print_preview(preview: Sequence[tuple[str, str, list[str]]], columns: int) -> None:
    """Print the first rows as they will be read, a column a line."""
    out.print("the first rows as they will be read:")
    width = max(len(name) for name, _, _ in preview)
    for name, kind, values in preview:
        line = f"  {name:<{min(width, 24)}}  {kind:<8}  " + "  ".join(values)
        out.print(escape(line if len(line) <= 100 else line[:99] + "\u2026"))
    if columns >= len(preview):
        out.print(f"  ... and {columns - len(preview) + 1} more columns")


def run(overrides: Settings = None) -> None:
    """Train a model: from a table to a registered version.

    Without dataset= the contract under conf/dataset is taken, and California housing where there is
    none. Cached steps are not repeated. docs/reference/configuration.md lists all settings.

    Examples:
        tasador run
        tasador run dataset=diamonds profile=full
        tasador run dataset=diamonds from_step=select
    """
    from tasador.lifecycle.first_champion import train
    from tasador.settings.compose import compose

    settings = compose(_with_dataset(overrides or []), project=Path.cwd())

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


def sales(
    overrides: Settings = None,
    dataset: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Contract", show_default="the project's own"),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Review file to write, a CSV"),
    ] = None,
) -> None:
    """List sales that may not be market prices, for a decision.

    The review file has a line for each suspicious sale, with the reasons. Fill in its column keep
    with yes or no, and train with segregate.sales_review=FILE. Decisions of an earlier file of that
    name are kept.

    Examples:
        tasador sales --dataset king_county_sales -o review.csv
        tasador run dataset=king_county_sales segregate.sales_review=review.csv
    """
    from tasador.reporting.cards import amount
    from tasador.settings.compose import compose
    from tasador.training.sales import review_sales

    named = [] if dataset is None else [f"dataset={dataset}"]
    settings = compose(_with_dataset([*named, *(overrides or [])]), project=Path.cwd())
    found = review_sales(settings, output)
    out.print(f"{escape(settings.contract.title)}: {found.rows:,} sales")
    for reason, rows in found.excluded.items():
        out.print(f"  {rows:,} more are excluded by the contract: {escape(reason)}")
    flagged = int(found.suspicion.flagged.sum())
    least = f"{found.suspicion.threshold:g}"
    out.print(f"{flagged:,} are suspicious (score of {least} and more), by strongest reason:")
    for reason, rows in found.by_reason.items():
        out.print(f"  {rows:6,}  {escape(reason)}")
    with_all, without = found.suspicion.errors_with, found.suspicion.errors_without
    if flagged and with_all is not None and without is not None:
        out.print(
            f"median error of a first model on the others: {amount(with_all[0])}% fitted on all, "
            f"{amount(without[0])}% fitted without the suspicious ones"
        )
    for row, price, why in found.top:
        out.print(f"  row {row}: {amount(price)}: {escape(why)}")
    if found.kept or found.dropped or found.lost:
        out.print(f"decided: {found.kept:,} kept, {found.dropped:,} dropped")
    if found.lost:
        err.print(f"[yellow]{found.lost:,} decisions are about rows that are not in the table[/]")
    if found.written is not None:
        file = escape(str(found.written))
        out.print(f"wrote {file}")
        out.print(f"next: fill in its column keep, then tasador run segregate.sales_review={file}")


def _with_dataset(overrides: list[str]) -> list[str]:
    """Return the overrides, with the project's own contract where they name none.

    Raises:
        ConfigError: The project has several.
    """
    if any(one.lstrip("+~").partition("=")[0] == "dataset" for one in overrides):
        return overrides
    own = sorted(file.stem for file in Path("conf", "dataset").glob("*.yaml"))
    if len(own) > 1:
        raise OptionsError.several_contracts(own)
    return [f"dataset={own[0]}", *overrides] if own else overrides


def _headline(entry: dict[str, Any]) -> str:
    from tasador.reporting.cards import amount

    text = f"{amount(entry['value'])} {entry['unit']}".rstrip()
    low, high = amount(entry["low"]), amount(entry["high"])
    return f"{entry['metric']:<12} {text:<14} (95%: {low} to {high})"


def _cross_validated(entry: dict[str, Any]) -> str:
    from tasador.reporting.cards import amount

    own = f"{amount(entry['cv'])} ± {_short(entry['spread'])}"
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
    for finding in examine(compose(_with_dataset(overrides or []), project=Path.cwd())):
        out.print(f"{mark[finding.state]} {escape(finding.what)}: {escape(finding.detail)}")
        complete = complete and finding.state != "missing"
    if not complete:
        raise typer.Exit(1)
