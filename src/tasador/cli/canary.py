"""`tasador canary`: a challenger that answers a growing share of the traffic."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tasador.cli.models import place_of, show
from tasador.cli.options import (
    WORKSPACE,
    AsJson,
    By,
    DatabaseOption,
    Model,
    Reason,
    Registry,
    Workspace,
)
from tasador.cli.output import escape, follow, out, print_json, time_text

if TYPE_CHECKING:
    from tasador.lifecycle.canary import Report
    from tasador.serving.experiment import Moments

_Split = Literal["request", "client"]


def start(
    stages: Annotated[
        str,
        typer.Option(metavar="PERCENT", help="Shares of the traffic in percent; 0 is shadow only"),
    ] = "0,1,5,25,100",
    split: Annotated[
        _Split, typer.Option(help="What is assigned to a model at random")
    ] = "request",
    rows: Annotated[
        int, typer.Option(min=10, metavar="N", help="Rows that both models answer in each stage")
    ] = 200,
    outcomes: Annotated[
        bool, typer.Option("--outcomes", help="Wait for outcomes before a stage ends")
    ] = False,
    error_margin: Annotated[
        float,
        typer.Option(metavar="SHARE", help="Tolerated increase of the relative error; 0.01 is 1%"),
    ] = 0.01,
    by: By = None,
    workspace: Workspace = WORKSPACE,
    registry: Registry = None,
    records: DatabaseOption = None,
    model: Model = None,
) -> None:
    """Start a canary of the challenger against the champion.

    Examples:
        tasador canary start
        tasador canary start --stages 0,10,50,100 --split client
    """
    from tasador.core.errors import ConfigError
    from tasador.lifecycle import canary
    from tasador.lifecycle.api import opened
    from tasador.serving.experiment import Criteria

    try:
        shares = tuple(float(text) / 100.0 for text in stages.split(","))
    except ValueError:
        raise ConfigError("--stages: expected percentages such as 0,1,5", got=stages) from None
    rules = Criteria(
        stages=shares, by=split, min_rows=rows, require_outcomes=outcomes,
        error_margin=error_margin,
    )  # fmt: skip
    with opened(place_of(workspace, registry, records, model, by)) as lifecycle:
        begun = canary.start(lifecycle, rules)
    out.print(f"canary of version {begun.number} ({escape(begun.challenger)}) started")
    out.print("servers join at their next poll")
    follow("canary status", workspace, registry, model)


def status(
    as_json: AsJson = False,
    workspace: Workspace = WORKSPACE,
    registry: Registry = None,
    records: DatabaseOption = None,
    model: Model = None,
) -> None:
    """Show the stage and the results of both models."""
    from tasador.core.hashing import to_plain
    from tasador.lifecycle import canary
    from tasador.lifecycle.api import opened

    with opened(place_of(workspace, registry, records, model)) as lifecycle:
        found = canary.status(lifecycle)
    if as_json:
        print_json(to_plain(found))
    elif found is None:
        out.print("no canary was started yet")
        follow("canary start", workspace, registry, model)
    else:
        _show_report(found)
        running = found.experiment.status == "running"
        follow(f"canary {'status' if running else 'settle'}", workspace, registry, model)


def stop(
    reason: Reason = "",
    by: By = None,
    workspace: Workspace = WORKSPACE,
    registry: Registry = None,
    records: DatabaseOption = None,
    model: Model = None,
) -> None:
    """Send all traffic to the champion again, within one poll."""
    from tasador.lifecycle import canary
    from tasador.lifecycle.api import opened

    with opened(place_of(workspace, registry, records, model, by)) as lifecycle:
        ended = canary.stop(lifecycle, reason)
    out.print(f"canary of version {ended.number}: {ended.status}")
    follow("models", workspace, registry, model)


def settle(
    by: By = None,
    workspace: Workspace = WORKSPACE,
    registry: Registry = None,
    records: DatabaseOption = None,
    model: Model = None,
) -> None:
    """Promote a challenger that passed, reject one that failed."""
    from tasador.lifecycle import canary
    from tasador.lifecycle.api import opened

    with opened(place_of(workspace, registry, records, model, by)) as lifecycle:
        done = canary.settle(lifecycle)
    if done is None:
        out.print("nothing to settle")
    else:
        show(done)
    follow("canary status" if done is None else "history", workspace, registry, model)


def _show_report(report: Report) -> None:
    one, found = report.experiment, report.evidence
    out.print(
        f"version {one.number} ({escape(one.challenger)}) against {escape(one.champion)}: "
        f"[bold]{one.status}[/], {one.share:.0%} of the traffic, since {time_text(one.started)}"
    )
    out.print(f"  {escape(one.reason)}")
    out.print(
        f"  rows that both models answered: {found.rows:,}, {found.stage_rows:,} in this stage"
    )
    out.print(f"  failures: {found.failures:,} of {found.attempts:,}")
    if not found.rows:
        return  # nothing is known of the differences yet
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
