"""`tasador`: the commands, and how errors become messages and exit codes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

import tasador
from tasador.cli import bundles, models, records
from tasador.cli.canary import canary_app
from tasador.cli.demo import demo
from tasador.cli.keys import keys
from tasador.cli.model_choice import (
    Alias,
    BundleFolder,
    Model,
    Registry,
    Version,
    Workspace,
    note,
)
from tasador.cli.monitor import monitor
from tasador.cli.publish import publish
from tasador.cli.retrain import retrain
from tasador.cli.score import score
from tasador.cli.serve import serve
from tasador.cli.streams import accept_any_encoding, drop_what_is_not_taken, escape
from tasador.cli.ui import ui
from tasador.cli.up import up
from tasador.cli.use import use
from tasador.cli.watch import alerts, simulate, watch
from tasador.core.errors import (
    INTERRUPTED_EXIT_CODE,
    ConfigError,
    MissingExtraError,
    TasadorError,
)
from tasador.core.files import storage_error
from tasador.core.logs import configure_logs

app = typer.Typer(
    help="Turn a table with a number to estimate into a valuation service that stays right.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
#: Lines of `tasador init` about what was assumed; of a wide table those of its first columns, and
#: the last ones, which are about the table.
_MOST_ASSUMED = 40
#: Refused rows that `tasador predict` names on the terminal; its output has all.
_MOST_REFUSED = 20
out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def _show_version(value: bool) -> None:
    if value:
        out.print(f"tasador {tasador.__version__}")
        raise typer.Exit


@app.callback()
def common(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show what happens.")] = False,
    version: Annotated[  # noqa: ARG001 - acts through its callback
        bool, typer.Option("--version", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Set up what all commands share."""
    configure_logs("INFO" if verbose else "WARNING")


@app.command()
def init(
    file: Annotated[str, typer.Argument(help="CSV or Parquet file.")],
    target: Annotated[str, typer.Option(help="The column to estimate.")],
    name: Annotated[str | None, typer.Option(help="Short name; by default the file's.")] = None,
    force: Annotated[bool, typer.Option(help="Replace an existing contract.")] = False,
    category: Annotated[
        list[str] | None,
        typer.Option(help="A column that is a category, whatever it looks like; may be repeated."),
    ] = None,
) -> None:
    """Write a contract for a table, and say what was assumed."""
    from tasador.flows.init import write_new_contract

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


@app.command()
def run(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Settings, e.g. dataset=diamonds profile=full from_step=select."),
    ] = None,
) -> None:
    """Train: from the table to a registered bundle and a report."""
    from tasador.config.compose import compose
    from tasador.flows.cards import Card
    from tasador.flows.first_champion import train

    settings = compose(overrides or [], project=Path.cwd())

    def tell(name: str, card: Card) -> None:
        done = "cached" if card.status == "cached" else f"{card.seconds:.1f} s"
        out.print(f"  {name:<10} {done}")
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
                "generated rows and say nothing about the world."
            )
        out.print("\ntest part, opened once:")
        for entry in outcome.outcome["headline"]:
            out.print(f"  {_headline(entry)}")
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


def _headline(entry: dict[str, object]) -> str:
    value, low, high = (float(str(entry[key])) for key in ("value", "low", "high"))
    digits = 3 if entry["metric"] == "R²" else 0 if abs(value) > 1000 else 2
    text = f"{value:,.{digits}f} {entry['unit']}".rstrip()
    return f"{entry['metric']!s:<12} {text:<14} (95%: {low:,.{digits}f} to {high:,.{digits}f})"


@app.command()
def predict(
    rows: Annotated[str, typer.Argument(help="CSV, Parquet or JSON file, or JSON text.")],
    bundle: BundleFolder = None,
    model: Model = None,
    alias: Alias = None,
    version: Version = None,
    registry: Registry = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write a CSV here.")] = None,
    keep: Annotated[
        str | None,
        typer.Option("--with", help="Columns to add in front: ids, inputs (all) or names, a,b."),
    ] = None,
    workspace: Workspace = Path("workspace"),
) -> None:
    """Value the rows of a file, or one row given as JSON, by the champion.

    A row that does not meet the contract gets an error instead of a value, the others are valued.
    """
    from tasador.flows.chosen import BundleChoice
    from tasador.flows.predict import predict_rows, to_csv, to_json

    choice = BundleChoice(workspace, bundle, model, alias, version, registry)
    names = [name.strip() for name in (keep or "").split(",") if name.strip()]
    predicted = predict_rows(rows, choice, note, keep=names)
    if predicted.origin == "synthetic":
        err.print("[bold red]SYNTHETIC DATA:[/] this model was trained on generated rows.")
    if output is None:
        sys.stdout.write((to_json if predicted.from_json else to_csv)(predicted))
    else:
        from tasador.core.files import write_text

        write_text(output, to_csv(predicted))
        valued = len(predicted.rows) - len(predicted.refused)
        out.print(f"wrote {valued:,} valuations to {escape(str(output))}")
    _list_refused([f"row {row.number}: {row.error}" for row in predicted.refused])


def _list_refused(lines: list[str]) -> None:
    if not lines:
        return
    err.print(f"[yellow]refused:[/] {len(lines):,} rows; the column 'error' has all reasons")
    for line in lines[:_MOST_REFUSED]:
        err.print(f"  {escape(line)}")
    if len(lines) > _MOST_REFUSED:
        err.print(f"  and {len(lines) - _MOST_REFUSED:,} more")


@app.command()
def explain(
    row: Annotated[str, typer.Argument(help="One row as JSON text.")],
    bundle: BundleFolder = None,
    model: Model = None,
    alias: Alias = None,
    version: Version = None,
    registry: Registry = None,
    comparables: Annotated[int, typer.Option(min=0, max=64, help="How many to name.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
    workspace: Workspace = Path("workspace"),
) -> None:
    """Say why one row is worth what it is: each feature's part, and the comparables."""
    from tasador.flows.chosen import BundleChoice
    from tasador.flows.explain import explain_row, to_json, to_lines

    choice = BundleChoice(workspace, bundle, model, alias, version, registry)
    found = explain_row(row, choice, comparables=comparables, tell=note)
    if as_json:
        sys.stdout.write(to_json(found))
        return
    for line in to_lines(found):
        out.print(escape(line))


@app.command()
def report(
    run_id: Annotated[str | None, typer.Argument(help="The run; by default the newest.")] = None,
    workspace: Workspace = Path("workspace"),
) -> None:
    """Print where a run's report lies."""
    from tasador.flows.runs import find_run

    out.print(escape(str(find_run(workspace, run_id) / "report.html")))


@app.command()
def runs(workspace: Workspace = Path("workspace")) -> None:
    """List the runs, newest first."""
    from rich.table import Table

    from tasador.flows.runs import list_runs

    table = Table("run", "dataset", "status", "origin", "MAPE", "within 10%", "bundle")
    for column in table.columns:  # a narrow terminal breaks names, never cuts them
        column.overflow = "fold"
    table.columns[0].no_wrap = True
    for entry in list_runs(workspace):
        table.add_row(*(escape(cell) for cell in entry))
    out.print(table)


@app.command()
def doctor(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Settings as for `run`, e.g. dataset=diamonds tracking.uri=..."),
    ] = None,
) -> None:
    """Say what is installed, reachable and missing, and which protections of a service are off."""
    from tasador.config.compose import compose
    from tasador.flows.doctor import examine

    mark = {
        "ok": "[green]ok     [/]",
        "optional": "[dim]--     [/]",
        "missing": "[red]missing[/]",
        "off": "[yellow]off    [/]",
    }
    worst = True
    for finding in examine(compose(overrides or [], project=Path.cwd())):
        out.print(f"{mark[finding.state]} {escape(finding.what)}: {escape(finding.detail)}")
        worst = worst and finding.state != "missing"
    if not worst:
        raise typer.Exit(1)


app.command()(score)
app.command()(serve)
app.command()(ui)
app.command()(up)
app.command()(publish)
app.add_typer(keys, name="keys")
app.command()(monitor)
app.command()(watch)
app.command()(simulate)
app.command()(demo)
app.add_typer(alerts, name="alerts")
models.add_commands(app)
app.command()(retrain)
app.command()(use)
app.add_typer(canary_app, name="canary")
bundles.add_commands(app)
records.register(app)


def main() -> None:
    """Run the command line; every error that is ours ends without a traceback."""
    accept_any_encoding()
    try:
        code = app(standalone_mode=False) or 0
        if code == INTERRUPTED_EXIT_CODE:  # what typer makes of Ctrl-C
            raise KeyboardInterrupt
        sys.stdout.flush()  # a full disk behind `>` shows here, not after the last handler
        sys.exit(code)
    except TasadorError as error:
        _fail(error)
    except ModuleNotFoundError as error:
        root = (error.name or "").partition(".")[0]
        if root in ("", "tasador"):
            raise
        _fail(MissingExtraError.for_module(root))
    except typer.Exit as ended:
        sys.exit(ended.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        err.print("interrupted; what was finished is kept: run the same command to go on")
        sys.exit(INTERRUPTED_EXIT_CODE)
    except BrokenPipeError:
        sys.exit(TasadorError.exit_code)  # the reader, such as `head`, has gone: nothing to say
    except OSError as error:
        refused = storage_error(error)
        if refused is None:
            raise
        drop_what_is_not_taken()
        _fail(refused)
    except Exception as error:
        # Typer's own usage errors know how to show themselves.
        if type(error).__name__ == "NoArgsIsHelpError":  # the help has been printed
            sys.exit(0)
        if hasattr(error, "show") and hasattr(error, "exit_code"):
            _fail(ConfigError(error.format_message()))  # type: ignore[attr-defined]
        raise
    finally:
        drop_what_is_not_taken()


def _fail(error: TasadorError) -> None:
    from tasador.core.logs import redact

    err.print(f"[bold red]error:[/] {escape(redact(str(error)))}")
    sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
