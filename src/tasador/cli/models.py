"""The lifecycle of a model: a model's versions."""

from __future__ import annotations

import datetime as dt
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from tasador.cli.streams import escape

if TYPE_CHECKING:
    from tasador.config.settings import RunSettings
    from tasador.flows.judge import Judged
    from tasador.flows.lifecycle import Place
    from tasador.records.journal import AuditEntry
    from tasador.retraining.switch import Carried

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

Workspace = Annotated[Path, typer.Option(help="Folder of runs, bundles and databases.")]
Registry = Annotated[
    str | None, typer.Option(help="MLflow tracking URI; by default the workspace's.")
]
Records = Annotated[
    str | None, typer.Option(help="URL of the records' database; by default the workspace's.")
]
Model = Annotated[
    str | None, typer.Option(help="Registered model; by default the one that is in use.")
]
By = Annotated[str | None, typer.Option(help="Who acts; by default the user's name.")]
Reason = Annotated[str, typer.Option(help="Why; kept in the history.")]
_COLUMNS = (
    "version", "release", "aliases", "status", "origin", "MAPE", "within 10%", "registered",
    "bundle",
)  # fmt: skip
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="Settings, e.g. gates.error_margin=0.05; may be repeated."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print everything as JSON.")]


def add_commands(app: typer.Typer) -> None:
    """Add this module's commands to the command line."""
    for command in (models, promote, reject, rollback, compare, reproduce, history):
        app.command()(command)


def models(
    workspace: Workspace = Path("workspace"),
    registry: Registry = None,
    records: Records = None,
    model: Model = None,
    as_json: AsJson = False,
) -> None:
    """List the registered versions of every model, their aliases and figures."""
    from rich.table import Table

    from tasador.core.fingerprints import to_plain
    from tasador.flows.lifecycle import list_models

    place = place_of(workspace, registry, records, model)
    found, notes = list_models(place)
    if as_json:
        used = place.model_name
        listed = [{**to_plain(one), "release": one.release} for one in found]
        print_json({"versions": listed, "notes": notes, "used": used})
        return
    several = len({version.name for version in found}) > 1
    table = Table(*(("model",) if several else ()), *_COLUMNS)
    for column in table.columns:
        column.overflow = "fold"
    for version in found:
        tags = version.tags
        figures = [_figure(tags.get(f"test.{name}")) for name in ("mape", "within_10")]
        table.add_row(
            *((escape(version.name),) if several else ()),
            version.number, version.release, escape(", ".join(version.aliases)),
            escape(version.status), escape(tags.get("origin", "")), *figures,
            moment(version.created), escape(version.bundle),
        )  # fmt: skip
    out.print(table)
    show_notes(notes)
    if several:
        chosen = place.model_name
        out.print(f"in use: {escape(chosen)}" if chosen else "in use: none; tasador use NAME")


def promote(
    version: Annotated[str, typer.Argument(help="Number, release, alias or bundle version.")],
    to: Annotated[str, typer.Option(help="champion, challenger or staging.")] = "champion",
    force: Annotated[bool, typer.Option(help="Although a gate refuses; needs --reason.")] = False,
    reason: Reason = "",
    set_: Set = None,
    as_json: AsJson = False,
    by: By = None,
    workspace: Workspace = Path("workspace"),
    registry: Registry = None,
    records: Records = None,
    model: Model = None,
) -> None:
    """Let an alias stand for a version."""
    from tasador.flows.lifecycle import opened
    from tasador.flows.promotion import Wish
    from tasador.flows.promotion import promote as promote_version

    with opened(place_of(workspace, registry, records, model, by)) as lifecycle:
        wish = Wish(version, to, reason, force)
        settings = settings_with(set_).gates
        tell = (lambda _: None) if as_json else show_gates
        show(promote_version(lifecycle, wish, settings=settings, tell=tell), as_json=as_json)


def compare(
    version: Annotated[str, typer.Argument(help="Number, release, alias or bundle version.")],
    against: Annotated[str, typer.Argument(help="The version to hold it against.")] = "champion",
    as_json: AsJson = False,
    set_: Set = None,
    workspace: Workspace = Path("workspace"),
    registry: Registry = None,
    records: Records = None,
    model: Model = None,
) -> None:
    """Hold a version against another one on the same sealed rows, gate by gate."""
    from tasador.core.fingerprints import to_plain
    from tasador.flows.judge import judge_version
    from tasador.flows.lifecycle import opened
    from tasador.registry.versions import find_version

    with opened(place_of(workspace, registry, records, model)) as lifecycle:
        one, other = (find_version(lifecycle.versions, name) for name in (version, against))
        judged = judge_version(lifecycle, one, other, settings_with(set_).gates)
    if as_json:
        print_json({"passed": judged.report.passed, **to_plain(judged.report)})
        return
    out.print(f"version {one.number} ({escape(judged.report.challenger)})")
    out.print(f"against {other.number} ({escape(judged.report.champion)})")
    show_gates(judged)


def reject(
    version: Annotated[str, typer.Argument(help="Number, release, alias or bundle version.")],
    reason: Annotated[str, typer.Option(help="Why; kept in the history and with the version.")],
    as_json: AsJson = False,
    by: By = None,
    workspace: Workspace = Path("workspace"),
    registry: Registry = None,
    records: Records = None,
    model: Model = None,
) -> None:
    """Mark a version as not to be used, and take its aliases away."""
    from tasador.flows.lifecycle import opened

    with opened(place_of(workspace, registry, records, model, by)) as lifecycle:
        show(lifecycle.reject(version, reason), as_json=as_json)


def rollback(
    to: Annotated[str | None, typer.Option(help="An earlier champion than the last.")] = None,
    reason: Reason = "",
    as_json: AsJson = False,
    by: By = None,
    workspace: Workspace = Path("workspace"),
    registry: Registry = None,
    records: Records = None,
    model: Model = None,
) -> None:
    """Return to the previous champion; servers follow at their next poll."""
    from tasador.flows.lifecycle import opened

    with opened(place_of(workspace, registry, records, model, by)) as lifecycle:
        show(lifecycle.roll_back(to, reason), as_json=as_json)


def reproduce(
    version: Annotated[str, typer.Argument(help="Number, release, alias or bundle version.")],
    workspace: Workspace = Path("workspace"),
    registry: Registry = None,
    records: Records = None,
    model: Model = None,
) -> None:
    """Train a registered version again from its lineage and compare every answer."""
    from tasador.flows.lifecycle import opened
    from tasador.flows.reproduce import reproduce as reproduce_version

    with opened(place_of(workspace, registry, records, model)) as lifecycle:
        found = reproduce_version(
            lifecycle,
            version,
            on_step=lambda name, _: out.print(f"  {name}"),
            tell=lambda text: err.print(f"[yellow]differs:[/] {escape(text)}"),
        )
    for missing in found.missing:
        err.print(f"[yellow]missing:[/] {escape(missing)}")
    if found.identical:
        out.print(f"{found.version}: identical on {found.rows:,} rows, bit by bit")
        return
    if found.rebuilt is None:
        out.print(f"{found.version}: cannot be built again")
    else:
        out.print(
            f"{found.version}: not identical; predictions differ by up to {found.largest:.2g} "
            f"of their value on {found.rows:,} rows"
        )
    raise typer.Exit(1)


def history(
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Most entries.")] = 50,
    as_json: AsJson = False,
    workspace: Workspace = Path("workspace"),
    registry: Registry = None,
    records: Records = None,
    model: Model = None,
) -> None:
    """Say what served when, who changed it, and why; newest first."""
    from rich.table import Table

    from tasador.core.fingerprints import to_plain
    from tasador.flows.lifecycle import opened

    with opened(place_of(workspace, registry, records, model)) as lifecycle:
        entries = lifecycle.history(limit)
    if as_json:
        print_json(to_plain(entries))
        return
    table = Table("time", "who", "action", "version", "champion", "result", "reason")
    for column in table.columns:
        column.overflow = "fold"
    for entry in entries:
        table.add_row(*(escape(cell) for cell in _line(entry)))
    out.print(table)


def _line(entry: AuditEntry) -> tuple[str, ...]:
    details = entry.details
    champion = entry.to_value or "none"
    if entry.from_value != entry.to_value:
        champion = f"{entry.from_value or 'none'} -> {champion}"
    result = " ".join(
        text
        for text in (
            details.get("phase", ""),
            "forced" if details.get("forced") else "",
            details.get("gates_summary", ""),
            details.get("note", ""),
        )
        if text
    )
    action = f"{entry.action} {details.get('alias', '')}".strip()
    return (
        moment(entry.time), entry.actor, action, str(details.get("version", "")), champion, result,
        entry.reason,
    )  # fmt: skip


def settings_with(overrides: list[str] | None) -> RunSettings:
    """Return the settings of which policy and gates are used.

    Raises:
        ConfigError: One of `overrides` is unknown or impossible.
    """
    from tasador.config.compose import compose

    return compose(overrides or [], project=Path.cwd())


def place_of(
    workspace: Path,
    registry: str | None,
    records: str | None,
    model: str | None,
    by: str | None = None,
) -> Place:
    """Return where a model's versions are, as the options say."""
    from tasador.flows.lifecycle import Place

    return Place(workspace, registry, records, model, by)


def show(carried: Carried, *, as_json: bool = False) -> None:
    """Print what was done."""
    show_notes(carried.notes)
    operation = carried.operation
    if as_json:
        names = ("action", "version", "before", "after")
        print_json({name: getattr(operation, name) for name in names})
        return
    if not carried.changed:
        alias = operation.details.get("alias")
        out.print(f"version {operation.version} is {alias} already: nothing was changed")
        return
    what = {
        "promote": f"version {operation.version} is {operation.details.get('alias')}",
        "reject": f"version {operation.version} is rejected",
        "rollback": f"version {operation.version} is champion again",
    }[operation.action]
    out.print(what)
    if operation.before != operation.after:
        out.print(f"champion: {operation.before or 'none'} -> {operation.after}")


def show_gates(judged: Judged) -> None:
    """Print every gate with its numbers."""
    mark = {
        "pass": "[green]pass       [/]",
        "fail": "[red]fail       [/]",
        "cannot tell": "[yellow]cannot tell[/]",
    }
    out.print(f"rows: {escape(judged.report.rows)}")
    for gate in judged.report.gates:
        out.print(f"{mark[gate.state]} {escape(gate.name)}: {escape(gate.text)}")
    out.print(escape(judged.report.summary))


def show_notes(notes: Any) -> None:
    """Print what was found or put in order beside what was asked."""
    for note in notes:
        err.print(f"[yellow]note:[/] {escape(note)}")


def print_json(value: Any) -> None:
    """Print plain values as JSON."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def moment(seconds: float) -> str:
    """Return a time for people, in UTC."""
    return f"{dt.datetime.fromtimestamp(seconds, tz=dt.UTC):%Y-%m-%d %H:%M:%S}Z"


def _figure(text: str | None) -> str:
    try:
        return f"{float(text):.2f}" if text is not None else ""
    except ValueError:
        return escape(text or "")
