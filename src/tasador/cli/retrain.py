"""`tasador retrain`: decide whether to train again, show why, and do it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from tasador.cli.models import (
    By,
    Model,
    Reason,
    Records,
    Registry,
    Set,
    Workspace,
    out,
    place_of,
    settings_with,
    show_gates,
)

if TYPE_CHECKING:
    from tasador.retraining.new_rows import NewRows
    from tasador.retraining.policy import RetrainDecision


def retrain(
    now: Annotated[bool, typer.Option(help="Without waiting for a trigger.")] = False,
    reason: Reason = "",
    dry_run: Annotated[
        bool, typer.Option(help="Show how far each trigger and condition is, train nothing.")
    ] = False,
    to: Annotated[str, typer.Option(help="The place of a model that passes all gates.")] = (
        "challenger"
    ),
    set_: Set = None,
    by: By = None,
    workspace: Workspace = Path("workspace"),
    registry: Registry = None,
    records: Records = None,
    model: Model = None,
) -> None:
    """Train on reference rows and recorded outcomes, if drift, errors or age give reason to.

    With --dry-run or --now the exit code is 0 when there is (or would be) a training, 14 when no
    trigger asks for one, 15 when one does and a condition is not met.
    """
    from tasador.flows.lifecycle import opened
    from tasador.flows.retrain import Listeners, Order
    from tasador.flows.retrain import retrain as retrain_model
    from tasador.retraining.policy import CONDITION_NOT_MET, NO_TRIGGER

    settings = settings_with(set_)
    order = Order(
        manual=(reason or "no reason given") if now else None,
        dry_run=dry_run,
        alias=to,
        settings=settings.retraining,
        gates=settings.gates,
    )
    listeners = Listeners(_show_decision, lambda name, _: out.print(f"  {name}"), show_gates)
    with opened(place_of(workspace, registry, records, model, by)) as lifecycle:
        done = retrain_model(lifecycle, order, listeners)
    if done.version is not None:
        out.print(f"version {done.version} is {to}")
    elif (dry_run or now) and not done.decision.retrain:
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
        out.print("nothing asks for it")
    out.print("decision: " + ("retrain" if decision.retrain else "leave the champion as it is"))
