"""``tasador canary start | status | stop | settle``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tasador.cli.models import (
    AsJson,
    By,
    Model,
    Reason,
    Records,
    Registry,
    Workspace,
    moment,
    out,
    place_of,
    print_json,
    show,
)
from tasador.cli.streams import escape

if TYPE_CHECKING:
    from tasador.flows.canary import Report
    from tasador.metrics.sequential import Moments

canary_app = typer.Typer(
    help="Let a challenger answer a growing share of the traffic, decided by sequential tests.",
    no_args_is_help=True,
)
By_ = Literal["request", "client"]


@canary_app.command()
def start(
    stages: Annotated[
        str, typer.Option(help="Shares of the traffic in percent; 0 is shadow only.")
    ] = "0,1,5,25,100",
    split: Annotated[By_, typer.Option(help="Whether each request or each client is assigned.")] = (
        "request"
    ),
    rows: Annotated[int, typer.Option(min=10, help="Rows valued by both before a stage ends.")] = (
        200
    ),
    outcomes: Annotated[bool, typer.Option(help="End no stage without outcomes.")] = False,
    error_margin: Annotated[float, typer.Option(help="Bearable increase of the error.")] = 0.01,
    by: By = None,
    workspace: Workspace = Path("workspace"),
    registry: Registry = None,
    records: Records = None,
    model: Model = None,
) -> None:
    """Begin with the versions that the aliases champion and challenger stand for."""
    from tasador.core.errors import ConfigError
    from tasador.flows import canary
    from tasador.flows.lifecycle import opened
    from tasador.serving.experiment import Rules

    try:
        shares = tuple(float(text) / 100.0 for text in stages.split(","))
    except ValueError:
        raise ConfigError("--stages: expected percentages such as 0,1,5", got=stages) from None
    rules = Rules(
        stages=shares, by=split, min_rows=rows, require_outcomes=outcomes,
        error_margin=error_margin,
    )  # fmt: skip
    with opened(place_of(workspace, registry, records, model, by)) as lifecycle:
        begun = canary.start(lifecycle, rules)
    out.print(f"canary of version {begun.number} ({escape(begun.challenger)}) begun")
    out.print("servers take part from their next poll on: tasador canary status")


@canary_app.command()
def status(
    as_json: AsJson = False,
    workspace: Workspace = Path("workspace"),
    registry: Registry = None,
    records: Records = None,
    model: Model = None,
) -> None:
    """Show where the canary stands and what both models did on the same rows."""
    from tasador.core.fingerprints import to_plain
    from tasador.flows import canary
    from tasador.flows.lifecycle import opened

    with opened(place_of(workspace, registry, records, model)) as lifecycle:
        found = canary.status(lifecycle)
    if as_json:
        print_json(to_plain(found))
    elif found is None:
        out.print("there was no canary yet")
    else:
        _show_report(found)


@canary_app.command()
def stop(
    reason: Reason = "",
    by: By = None,
    workspace: Workspace = Path("workspace"),
    registry: Registry = None,
    records: Records = None,
    model: Model = None,
) -> None:
    """End it; the champion answers everything again within one poll."""
    from tasador.flows import canary
    from tasador.flows.lifecycle import opened

    with opened(place_of(workspace, registry, records, model, by)) as lifecycle:
        ended = canary.stop(lifecycle, reason)
    out.print(f"canary of version {ended.number}: {ended.status}")


@canary_app.command()
def settle(
    by: By = None,
    workspace: Workspace = Path("workspace"),
    registry: Registry = None,
    records: Records = None,
    model: Model = None,
) -> None:
    """Promote a challenger that passed, reject one that was rolled back."""
    from tasador.flows import canary
    from tasador.flows.lifecycle import opened

    with opened(place_of(workspace, registry, records, model, by)) as lifecycle:
        done = canary.settle(lifecycle)
    if done is None:
        out.print("nothing to settle")
    else:
        show(done)


def _show_report(report: Report) -> None:
    one, found = report.experiment, report.evidence
    out.print(
        f"version {one.number} ({escape(one.challenger)}) against {escape(one.champion)}: "
        f"[bold]{one.status}[/], {one.share:.0%} of the traffic, since {moment(one.started)}"
    )
    out.print(f"  {escape(one.reason)}")
    out.print(f"  rows valued by both: {found.rows:,}, {found.stage_rows:,} in this stage")
    out.print(f"  failures: {found.failures:,} of {found.attempts:,}")
    alpha = one.rules.alpha
    if found.error.n:
        out.print(
            f"  relative error: {found.challenger_error.mean:.2%}, champion "
            f"{found.champion_error.mean:.2%}; difference {_bounds(found.error, alpha, '.2%')} on "
            f"{found.error.n:,} outcomes"
        )
    out.print(f"  disagreement (log): {_bounds(found.disagreement, alpha, '.3f')}")
    out.print(f"  slower by: {_bounds(found.slower, alpha, '.3f')} ms")


def _bounds(found: Moments, alpha: float, form: str) -> str:
    low, high = found.bounds(alpha)
    return f"{found.mean:{form}} ({low:{form}} to {high:{form}} at all times)"
