"""The registered versions of a model and their lifecycle, the canary of a challenger included."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tasador.cli.options import (
    WORKSPACE,
    AsJson,
    By,
    DatabaseOption,
    Model,
    Reason,
    Registry,
    Set,
    VersionArgument,
    Workspace,
)
from tasador.cli.output import (
    err,
    escape,
    follow,
    note,
    out,
    percent,
    print_json,
    short_id,
    table,
    time_text,
)

if TYPE_CHECKING:
    from tasador.lifecycle.alias_updates import OperationResult
    from tasador.lifecycle.api import Place
    from tasador.lifecycle.gate_evaluation import VersionEvaluation
    from tasador.lifecycle.new_rows import NewRows
    from tasador.lifecycle.retraining_policy import RetrainDecision
    from tasador.records.audit_log import AuditEntry
    from tasador.registry.versions import ModelVersion
    from tasador.settings.run import RunSettings

_COLUMNS = ("version", "release", "state", "MAPE", "within 10%", "registered", "bundle")


def models(
    workspace: Workspace = WORKSPACE,
    registry: Registry = None,
    records: DatabaseOption = None,
    model: Model = None,
    as_json: AsJson = False,
) -> None:
    """List registered versions with their aliases and test figures."""
    from tasador.core.hashing import to_plain
    from tasador.lifecycle.api import list_models

    place = place_of(workspace, registry, records, model)
    found, notes = list_models(place)
    if as_json:
        used = place.model_name
        listed = [{**to_plain(one), "release": one.release} for one in found]
        print_json({"versions": listed, "notes": notes, "used": used})
        return
    if not found:
        out.print("no model is registered yet")
        follow("run")
        return
    by_name: dict[str, list[ModelVersion]] = {}
    for version in found:
        by_name.setdefault(version.name, []).append(version)
    for name, versions in by_name.items():
        out.print(f"[bold]{escape(name)}[/]")
        out.print(table(_COLUMNS, map(_version_line, versions), grid=False))
    _show_notes(notes)
    chosen = place.model_name
    if len(by_name) > 1:
        out.print(f"in use: {escape(chosen)}" if chosen else "in use: none")
    meant = found if len(by_name) == 1 else by_name.get(chosen or "", [])
    if meant:
        follow(_after_models(meant), workspace, registry, model)
    else:
        follow("use NAME", workspace, registry)


def _version_line(version: ModelVersion) -> tuple[str, ...]:
    held = [*version.aliases, *([version.status] if version.status not in version.aliases else [])]
    synthetic = ["synthetic"] if version.tags.get("origin") == "synthetic" else []
    return (
        version.number, version.release, ", ".join(filter(None, [*held, *synthetic])),
        *(percent(version.tags.get(f"test.{name}")) for name in ("mape", "within_10")),
        time_text(version.created), short_id(version.bundle),
    )  # fmt: skip


def _after_models(versions: list[ModelVersion]) -> str:
    """Return what is done next with a model's versions, the newest first."""
    champion = next((one for one in versions if "champion" in one.aliases), None)
    newest = next((one for one in versions if one.status not in ("rejected", "rolled back")), None)
    if newest is None:
        return "run"
    if champion is None:
        return f"promote {newest.number}"
    later = int(newest.number) > int(champion.number)
    return f"compare {newest.number}" if later else "up"


def use(
    name: Annotated[
        str | None, typer.Argument(help="Model", show_default="show which is in use")
    ] = None,
    workspace: Workspace = WORKSPACE,
    registry: Registry = None,
) -> None:
    """Choose the model of a workspace that holds several."""
    from tasador.lifecycle.api import Place, choose_model

    place = Place(workspace, registry)
    if name is None:
        typer.echo(place.model_name or "no model was chosen: tasador use NAME")
    else:
        choose_model(place, name)
        typer.echo(f"{workspace} uses {name}")
    follow("models", workspace, registry)


def promote(
    version: VersionArgument,
    to: Annotated[
        str, typer.Option(metavar="ALIAS", help="champion, challenger or staging")
    ] = "champion",
    force: Annotated[
        bool, typer.Option("--force", help="Promote despite failed gates; needs --reason")
    ] = False,
    reason: Reason = "",
    set_: Set = None,
    as_json: AsJson = False,
    by: By = None,
    workspace: Workspace = WORKSPACE,
    registry: Registry = None,
    records: DatabaseOption = None,
    model: Model = None,
) -> None:
    """Point an alias at a version that passes the gates.

    Without --force nothing changes when a gate fails, and the exit code is 10.

    Examples:
        tasador promote 2
        tasador promote 2 --to challenger
        tasador promote 2 --force --reason "the gate compares with a faulty model"
    """
    from tasador.lifecycle.api import opened
    from tasador.lifecycle.promote import PromotionRequest
    from tasador.lifecycle.promote import promote as promote_version

    with opened(place_of(workspace, registry, records, model, by)) as lifecycle:
        request = PromotionRequest(version, to, reason, force)
        settings = settings_with(set_).gates
        tell = (lambda _: None) if as_json else show_gates
        show(promote_version(lifecycle, request, settings=settings, tell=tell), as_json=as_json)
    if not as_json:
        commands = {"champion": "up", "challenger": "canary start"}
        follow(commands.get(to, "models"), workspace, registry, model)


def compare(
    version: VersionArgument,
    against: Annotated[str, typer.Argument(help="Version to compare with")] = "champion",
    as_json: AsJson = False,
    set_: Set = None,
    workspace: Workspace = WORKSPACE,
    registry: Registry = None,
    records: DatabaseOption = None,
    model: Model = None,
) -> None:
    """Compare two versions on the same held-out rows, gate by gate.

    Examples:
        tasador compare 2
        tasador compare 2 1 --set gates.error_margin=0.05
    """
    from tasador.core.hashing import to_plain
    from tasador.lifecycle.api import opened
    from tasador.lifecycle.gate_evaluation import evaluate_version
    from tasador.registry.versions import find_version

    with opened(place_of(workspace, registry, records, model)) as lifecycle:
        one, other = (find_version(lifecycle.versions, name) for name in (version, against))
        evaluated = evaluate_version(lifecycle, one, other, settings_with(set_).gates)
    if as_json:
        print_json({"passed": evaluated.report.passed, **to_plain(evaluated.report)})
        return
    out.print(f"version {one.number} ({escape(evaluated.report.challenger)})")
    out.print(f"against {other.number} ({escape(evaluated.report.champion)})")
    show_gates(evaluated)
    if evaluated.report.passed and against == "champion" and one.number != other.number:
        follow(f"promote {one.number}", workspace, registry, model)
    else:
        follow("models", workspace, registry, model)


def reject(
    version: VersionArgument,
    reason: Reason,
    as_json: AsJson = False,
    by: By = None,
    workspace: Workspace = WORKSPACE,
    registry: Registry = None,
    records: DatabaseOption = None,
    model: Model = None,
) -> None:
    """Mark a version as unusable and remove its aliases."""
    from tasador.lifecycle.api import opened

    with opened(place_of(workspace, registry, records, model, by)) as lifecycle:
        show(lifecycle.reject(version, reason), as_json=as_json)
    if not as_json:
        follow("models", workspace, registry, model)


def rollback(
    to: Annotated[
        str | None,
        typer.Option(
            metavar="VERSION", help="Champion to return to", show_default="the previous one"
        ),
    ] = None,
    reason: Reason = "",
    as_json: AsJson = False,
    by: By = None,
    workspace: Workspace = WORKSPACE,
    registry: Registry = None,
    records: DatabaseOption = None,
    model: Model = None,
) -> None:
    """Return to the previous champion.

    Servers follow at their next poll.
    """
    from tasador.lifecycle.api import opened

    with opened(place_of(workspace, registry, records, model, by)) as lifecycle:
        show(lifecycle.roll_back(to, reason), as_json=as_json)
    if not as_json:
        follow("history", workspace, registry, model)


def retrain(
    now: Annotated[bool, typer.Option("--now", help="Train without waiting for a trigger")] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Show each trigger and condition, train nothing"),
    ] = False,
    to: Annotated[
        str, typer.Option(metavar="ALIAS", help="Alias of a model that passes all gates")
    ] = "challenger",
    set_: Set = None,
    reason: Reason = "",
    by: By = None,
    workspace: Workspace = WORKSPACE,
    registry: Registry = None,
    records: DatabaseOption = None,
    model: Model = None,
) -> None:
    """Train again on recorded outcomes, if a trigger fires.

    Triggers are drift, errors and age. With --dry-run or --now the exit code is 0 when a training
    took (or would take) place, 14 when no trigger fired, 15 when a condition is not met.

    Examples:
        tasador retrain --dry-run
        tasador retrain --now --reason "new district" --set retraining.budget=2
    """
    from tasador.lifecycle.api import opened
    from tasador.lifecycle.retrain import Listeners, RetrainRequest
    from tasador.lifecycle.retrain import retrain as retrain_model
    from tasador.lifecycle.retraining_policy import CONDITION_NOT_MET, NO_TRIGGER

    settings = settings_with(set_)
    request = RetrainRequest(
        manual=(reason or "no reason given") if now else None,
        dry_run=dry_run,
        alias=to,
        settings=settings.retraining,
        gates=settings.gates,
    )
    listeners = Listeners(_show_decision, lambda name, _: out.print(f"  {name}"), show_gates)
    with opened(place_of(workspace, registry, records, model, by)) as lifecycle:
        done = retrain_model(lifecycle, request, listeners)
    if done.version is not None:
        out.print(f"version {done.version} is {to}")
        follow("canary start" if to == "challenger" else "models", workspace, registry, model)
    elif dry_run and done.decision.retrain:
        follow("retrain", workspace, registry, model)
    elif dry_run and not (done.decision.obstacles or now):
        follow("retrain --now --reason TEXT", workspace, registry, model)
    else:
        follow("monitor" if done.decision.retrain else "outcomes import FILE", workspace)
    if done.version is None and (dry_run or now) and not done.decision.retrain:
        raise typer.Exit(CONDITION_NOT_MET if done.decision.triggers else NO_TRIGGER)


def _show_decision(decision: RetrainDecision, rows: NewRows | None) -> None:
    if rows is not None:
        out.print(f"{len(rows):,} usable new rows")
        for why, count in sorted(rows.left_out.items()):
            out.print(f"  {count:,} left out: {escape(why)}")
    for check in decision.checks:
        if check.kind == "trigger":
            kind = "trigger" if check.met else "no trigger"
        elif check.met:
            kind = "condition met"
        else:
            kind = "overruled by hand" if check.text in decision.notes else "obstacle"
        lacks = f" (lacks {check.lacks})" if check.lacks else ""
        out.print(f"{kind}: {escape(check.text)}{escape(lacks)}")
    if not decision.triggers:
        out.print("no trigger fired")
    out.print("decision: " + ("retrain" if decision.retrain else "leave the champion as it is"))


def reproduce(
    version: VersionArgument,
    workspace: Workspace = WORKSPACE,
    registry: Registry = None,
    records: DatabaseOption = None,
    model: Model = None,
) -> None:
    """Rebuild a version and compare all its predictions.

    Exits with 1 when they are not identical.
    """
    from tasador.lifecycle.api import opened
    from tasador.lifecycle.reproduce import reproduce as reproduce_version

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
        follow("models", workspace, registry, model)
        return
    if found.rebuilt is None:
        out.print(f"{found.version}: cannot be rebuilt")
    else:
        out.print(
            f"{found.version}: not identical; predictions differ by up to {found.largest:.2g} "
            f"of their value on {found.rows:,} rows"
        )
    raise typer.Exit(1)


def history(
    limit: Annotated[
        int, typer.Option(min=1, max=10_000, metavar="N", help="Most entries to show")
    ] = 50,
    as_json: AsJson = False,
    workspace: Workspace = WORKSPACE,
    registry: Registry = None,
    records: DatabaseOption = None,
    model: Model = None,
) -> None:
    """List changes of the champion, newest first: who, when and why."""
    from tasador.core.hashing import to_plain
    from tasador.lifecycle.api import opened

    with opened(place_of(workspace, registry, records, model), reading=True) as lifecycle:
        entries = lifecycle.history(limit)
    if as_json:
        print_json(to_plain(entries))
        return
    if not entries:
        out.print("no version was promoted, rejected or rolled back yet")
        follow("models", workspace, registry, model)
        return
    columns = ("time", "who", "change", "champion", "result")
    out.print(table(columns, map(_line, entries), grid=False))
    follow("models", workspace, registry, model)


def _line(entry: AuditEntry) -> tuple[str, ...]:
    details = entry.details
    champion = entry.to_value or "none"
    if entry.from_value != entry.to_value:
        champion = f"{entry.from_value or 'none'} -> {champion}"
    # which ones failed is in what `compare` and `--json` print
    gates, said = details.get("gates_summary", "").partition(";")[0], str(details.get("note", ""))
    # a refusal's own text repeats every gate that failed, which the summary names
    told = (gates or said, *([f"reason: {entry.reason}"] if entry.reason else []))
    phase = details.get("phase", "") + (", forced" if details.get("forced") else "")
    change = f"{entry.action} {details.get('alias', '')}".strip()
    version = f" v{details['version']}" if details.get("version") else ""
    return (
        time_text(entry.time), entry.actor, change + version, champion,
        "; ".join(text for text in (phase, *told) if text),
    )  # fmt: skip


def settings_with(overrides: list[str] | None) -> RunSettings:
    """Return the settings of which policy and gates are used.

    Raises:
        ConfigError: One of `overrides` is unknown or impossible.
    """
    from tasador.settings.compose import compose

    return compose(overrides or [], project=Path.cwd())


def place_of(
    workspace: Path,
    registry: str | None,
    records: str | None,
    model: str | None,
    by: str | None = None,
) -> Place:
    """Return where a model's versions are, by the options."""
    from tasador.lifecycle.api import Place

    return Place(workspace, registry, records, model, by)


def show(carried: OperationResult, *, as_json: bool = False) -> None:
    """Print what was done."""
    _show_notes(carried.notes)
    operation = carried.operation
    if as_json:
        print_json(operation.summary)
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


def show_gates(evaluated: VersionEvaluation) -> None:
    """Print every gate with its numbers."""
    mark = {
        "pass": "[green]pass       [/]",
        "fail": "[red]fail       [/]",
        "cannot tell": "[yellow]cannot tell[/]",
    }
    out.print(f"rows: {escape(evaluated.report.rows)}")
    for gate in evaluated.report.gates:
        out.print(f"{mark[gate.state]} {escape(gate.name)}: {escape(gate.text)}")
    out.print(escape(evaluated.report.summary))


def _show_notes(notes: Iterable[str]) -> None:
    for line in notes:
        note(line)
