"""From a table to a first model, and the whole product on this machine: `init`, `run`, `up`..."""

from __future__ import annotations

import os
import signal
import socket
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tasador.cli.models import settings_with
from tasador.cli.options import (
    WORKSPACE,
    Encoding,
    NoHeader,
    OptionsError,
    Retrain,
    Set,
    Settings,
    Sheet,
    WatchConfig,
    Workspace,
)
from tasador.cli.output import err, escape, follow, out, percent, short_id, table
from tasador.cli.watch import budget_line

if TYPE_CHECKING:
    from tasador.contract.type_inference import Question
    from tasador.ops.processes import Member
    from tasador.reporting.cards import Card

#: Assumptions that `tasador init` prints; of a wide table those about its first columns, and the
#: last ones, which are about the table.
_MOST_ASSUMED = 40
#: What each process imports first, so that one message names what is not installed.
_NEEDS = {
    "mlflow": ("mlflow",),
    "api": ("fastapi", "uvicorn"),
    "ui": ("streamlit", "plotly"),
    "watcher": ("fastapi",),
}
#: Servers of the demo look often, so that nobody waits for them.
_QUICK = {"TASADOR_SOURCE__POLL_S": "2", "TASADOR_CANARY__POLL_S": "1"}


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
    follow(f"run dataset={written.name}")


def _ask(questions: Sequence[Question]) -> dict[str, str]:
    answers = {}
    for question in questions:
        answers[question.key] = typer.prompt(
            f"{question.text} ({', '.join(question.options)})",
            default=question.default,
            value_proc=partial(_one_of, question.options),
        )
    return answers


def _one_of(options: Sequence[str], said: str) -> str:
    if said not in options:  # asked again
        raise typer.BadParameter(f"{said!r} is not one of {', '.join(options)}")
    return said


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

    settings = compose(with_dataset(overrides or []), project=Path.cwd())

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
        if outcome.outcome["measured"]:
            out.print(f"  {escape(outcome.outcome['measured'])}")
        out.print("\ncross-validation on the training rows (± between folds):")
        for name in compared:
            out.print(f"  {_cross_validated(compared[name])}")
        for sentence in (outcome.outcome["baseline"], outcome.outcome["groups"]):
            if sentence:
                out.print(f"  {escape(sentence)}")
        out.print("\nsample valuation:")
        for line in outcome.sample:
            out.print(f"  {escape(line)}")
    if outcome.registered:
        out.print(f"\nregistered: {outcome.registered}")
    for page in outcome.pages:
        out.print(f"in MLflow:  {escape(page)}")
    out.print(f"report: {escape(str(outcome.report))}")
    for line in outcome.standing.lines:
        out.print(escape(line))
    if outcome.standing.following:
        out.print(f"next: {escape(outcome.standing.following)}")


def with_dataset(overrides: list[str]) -> list[str]:
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
    lang: Annotated[
        Literal["en", "es"],
        typer.Option(help="Language of report and model card"),
    ] = "en",
    workspace: Workspace = WORKSPACE,
) -> None:
    """Print the path of a run's report.

    --lang es writes report and model card in Spanish beside the English ones, of earlier runs too.

    Example:
        tasador report --lang es
    """
    from tasador.training.runs import find_run, report_in

    out.print(escape(str(report_in(find_run(workspace, run_id), lang))))


def runs(workspace: Workspace = WORKSPACE) -> None:
    """List training runs, newest first."""
    from tasador.training.runs import list_runs

    found = list_runs(workspace)
    if not found:
        out.print(f"no run in {escape(str(workspace))} yet")
        follow("run")
        return
    columns = ("run", "dataset", "status", "MAPE", "within 10%", "bundle")
    rows = [
        (
            run, dataset, f"{status}, synthetic" if origin == "synthetic" else status,
            percent(mape), percent(within), short_id(bundle),
        )
        for run, dataset, status, origin, mape, within, bundle in found
    ]  # fmt: skip
    listed = table(columns, rows, grid=False)
    listed.columns[0].no_wrap = True
    out.print(listed)
    follow("report", workspace)


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
        "missing": "[red]missing[/]",
        "off": "[yellow]off    [/]",
        "optional": "[dim]--     [/]",
        "ok": "[green]ok     [/]",
    }
    settings = compose(with_dataset(overrides or []), project=Path.cwd())
    found = list(examine(settings))
    count = {state: sum(one.state == state for one in found) for state in mark}
    # what is wrong is what the command is called for
    for state, shown in mark.items():
        for finding in found:
            if finding.state == state:
                out.print(f"{shown} {escape(finding.what)}: {escape(finding.detail)}")
    out.print(
        f"\n{count['missing']} missing, {count['off']} protections off, "
        f"{count['optional']} optional, {count['ok']} ok"
    )
    if count["missing"]:
        raise typer.Exit(1)
    made = Path(settings.storage.workspace, "bundles").is_dir()
    follow("up" if made else " ".join(["run", *(overrides or [])]))


def up(
    api_port: Annotated[
        int, typer.Option(min=1, max=65535, metavar="PORT", help="Port of the HTTP service")
    ] = 8000,
    ui_port: Annotated[
        int, typer.Option(min=1, max=65535, metavar="PORT", help="Port of the web app")
    ] = 8501,
    mlflow_port: Annotated[
        int, typer.Option(min=1, max=65535, metavar="PORT", help="Port of MLflow")
    ] = 5000,
    interval: Annotated[
        float, typer.Option(min=1, metavar="SECONDS", help="Time between checks")
    ] = 15.0,
    window: Annotated[
        float, typer.Option(min=1, metavar="SECONDS", help="Time that a check looks back")
    ] = 600.0,
    config: WatchConfig = None,
    without: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Leave out mlflow, api, ui or watcher; repeatable"),
    ] = None,
    retrain: Retrain = False,
    set_: Set = None,
    workspace: Workspace = WORKSPACE,
) -> None:
    """Start service, web app, watcher and MLflow on this machine.

    Ctrl-C stops them; when one of them ends, all are stopped. Their logs are in the workspace's
    `logs`. --set changes the policy and gates of --retrain.

    Examples:
        tasador up
        tasador up --ui-port 8600 --without mlflow
        tasador up --retrain --set retraining.budget=2
    """
    from tasador.core.errors import MissingExtraError
    from tasador.monitoring.settings import FILE, read_watch_settings, whom_alerts_reach
    from tasador.ops.processes import Stack

    if config is not None:
        os.environ[FILE] = str(config.resolve())  # for the watcher

    policy = budget_line(settings_with(set_)) if retrain or set_ else ""
    words = [*(["--retrain"] if retrain else []), *(w for s in set_ or () for w in ("--set", s))]
    ports = {"mlflow": mlflow_port, "api": api_port, "ui": ui_port}
    members = [
        member
        for member in stack_members(workspace.resolve(), ports, interval, window, words)
        if member.name not in (without or ())
    ]
    unknown = set(without or ()) - {"mlflow", "api", "ui", "watcher"}
    if unknown or not members:
        raise OptionsError.without(without or ())
    for member in members:
        for module in _NEEDS[member.name]:
            if find_spec(module) is None:
                raise MissingExtraError.for_package(module, "train,serve,ui")
    for line in trust_workspace(workspace):
        out.print(escape(line))
    watched = any(member.name == "watcher" for member in members)
    alerts = whom_alerts_reach(read_watch_settings().reached) if watched else ""
    stack = Stack(members, workspace / "logs")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stack.stop())

    def ready() -> None:
        shown = {"api": " (routes: /docs)", "mlflow": " (runs and registry)"}
        for member in members:
            where = member.url or "watching" + (f"; retraining: {policy}" if retrain else "")
            out.print(f"  {member.name:<8} {escape(where)}{shown.get(member.name, '')}")
            for page in version_pages(member.url, workspace) if member.name == "mlflow" else ():
                out.print(f"           {escape(page)}")
        if alerts:
            out.print(escape(alerts))
        out.print(f"logs: {escape(str(workspace / 'logs'))}    stop: Ctrl-C")

    out.print(f"starting {', '.join(member.name for member in members)}")
    stack.run(ready, lambda: out.print("stopping, at most 5 seconds"))
    out.print("stopped")


def version_pages(server: str, workspace: Path) -> list[str]:
    """Return the page in MLflow of each model's champion, or of its newest version without one."""
    from tasador.core.errors import TasadorError
    from tasador.inference.sources import workspace_registry
    from tasador.registry.mlflow.registration import page_links
    from tasador.registry.mlflow.registry import list_registered, list_versions
    from tasador.registry.versions import CHAMPION

    pages: list[str] = []
    uri = workspace_registry(workspace)
    with suppress(TasadorError):  # what runs goes on without a link
        for name in list_registered(uri):
            listed = list_versions(uri, name)
            shown = next((one for one in listed if CHAMPION in one.aliases), listed[0])
            pages += page_links(server, name, shown.number)
    return pages


def trust_workspace(workspace: Path) -> list[str]:
    """Make the workspace's signing key, sign what is there, and return what to say about it.

    Only the first time: a bundle that comes later without a signature is refused. Nothing is done
    where keys or other sources are configured.
    """
    from tasador.inference.sources import LOCAL, OBJECT_STORE, TRACKING_URI
    from tasador.registry.signature import VARIABLE, KeyPair, sign_workspace

    configured = (VARIABLE, TRACKING_URI, OBJECT_STORE, LOCAL)
    if any(os.environ.get(name) is not None for name in configured):
        return []
    pair = KeyPair(workspace)
    if not pair.make():
        return []
    signed, problems = sign_workspace(workspace)
    made = f"made {pair.private}: only models that it signed are served from this workspace"
    return [f"{made} ({signed} bundles signed)", *problems]


def stack_members(
    workspace: Path,
    ports: dict[str, int],
    interval: float,
    window: float,
    watching: Sequence[str] = (),
) -> list[Member]:
    """Return what is started, MLflow first.

    Args:
        workspace: Absolute.
        ports: Of mlflow, api and ui.
        interval: Seconds between verdicts.
        window: Seconds a verdict looks back.
        watching: More options of `tasador watch`.
    """
    from tasador.inference.sources import with_defaults
    from tasador.ops.processes import Member

    own = (sys.executable, "-m", "tasador.cli.app")
    there = ("--workspace", str(workspace))
    database = f"sqlite:///{workspace / 'mlflow.db'}"
    with_defaults(os.environ, workspace)  # refuses several models of which none is chosen
    source = {"TASADOR_SOURCE__POLL_S": os.environ.get("TASADOR_SOURCE__POLL_S", "5")}
    workspace.mkdir(parents=True, exist_ok=True)
    return [
        Member(
            "mlflow",
            (
                sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port",
                str(ports["mlflow"]), "--workers", "1", "--backend-store-uri", database,
                "--artifacts-destination", str(workspace / "mlartifacts"),
            ),
            ports["mlflow"], "/health",
            # its job workers (seven processes, 1.2 GB) run GenAI evaluations, which nobody asks for
            {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        ),
        Member(
            "api", (*own, "serve", "--host", "127.0.0.1", "--port", str(ports["api"]), *there),
            ports["api"], "/health/live", source,
        ),
        Member(
            "ui",
            (*own, "ui", "--port", str(ports["ui"]), "--api", f"http://127.0.0.1:{ports['api']}"),
            ports["ui"], "/_stcore/health",
        ),
        Member(
            "watcher",
            (
                *own, "watch", "--interval", str(interval), "--window", str(window), *there,
                *watching,
            ),
            environment={**source, "PYTHONUNBUFFERED": "1"},
        ),
    ]  # fmt: skip


def demo(
    workspace: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Empty folder to keep", show_default="a temporary one"),
    ] = None,
    ui: Annotated[bool, typer.Option("--ui", help="Start the web app too")] = False,
) -> None:
    """Show the whole loop: drift, retraining, canary, rollback.

    It uses a workspace, registry, database and ports of its own, and ignores TASADOR_* variables.
    Ctrl-C stops it.
    """
    from tasador.core.storage import REAL_DATA_VARIABLE
    from tasador.ops.demo import INTERVAL_S, POLICY, WINDOW_S
    from tasador.ops.demo import demo as show

    for name in [*os.environ]:
        if name.startswith(("TASADOR_", "MLFLOW_")) and name != REAL_DATA_VARIABLE:
            del os.environ[name]
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with ExitStack() as stack:
        if workspace is None:
            temporary = tempfile.TemporaryDirectory(prefix="tasador-demo-")
            folder = Path(stack.enter_context(temporary))
        else:
            folder = workspace.resolve()
            if folder.exists() and any(folder.iterdir()):
                raise OptionsError.not_empty(folder)
        folder = folder.resolve()
        ports = {name: _free_port() for name in ("mlflow", "api", "ui")}
        words = ["--retrain", *(word for setting in POLICY for word in ("--set", setting))]
        members = [
            replace(member, environment={**member.environment, **_QUICK})
            for member in stack_members(folder, ports, INTERVAL_S, WINDOW_S, words)
            if member.name in ("api", "watcher", *(["ui"] if ui else []))
        ]
        if ui:
            out.print(f"web app, once the service is up: http://127.0.0.1:{ports['ui']}\n")
        url = f"http://127.0.0.1:{ports['api']}"
        ended = show(folder, members, url, lambda line: out.print(escape(line)))
        out.print(
            f"\nMAPE {ended.usual:.1f}% before the change, {ended.changed:.1f}% after it, "
            f"{ended.retrained:.1f}% retrained; the rollback took {ended.back_s:.1f} s"
        )
        if workspace is not None:
            out.print(f"to look around: tasador up --workspace {escape(str(workspace))}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
