"""`tasador records`, `outcomes` and `review`: what was valued, and what is known of it later."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tasador.cli.options import WORKSPACE, AsJson, By, DatabaseOption, Workspace
from tasador.cli.output import err, escape, follow, out, short_id, table, time_text

if TYPE_CHECKING:
    from tasador.records.database import Database
    from tasador.settings.serving import RecordSettings

SpoolOption = Annotated[
    str | None,
    typer.Option("--spool", metavar="FOLDER", help="Spool folder", show_default="the service's"),
]
Since = Annotated[
    str | None,
    typer.Option(
        metavar="TIME", help="Start, e.g. 2026-11-01 or 7d (ago)", show_default="the first record"
    ),
]
Until = Annotated[
    str | None, typer.Option(metavar="TIME", help="End, exclusive", show_default="now")
]
Shown = Annotated[int, typer.Option("--show", min=0, metavar="N", help="Most rows to print")]


def export(
    output: Annotated[
        str,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Parquet file to write: local, gs://, s3://"
        ),
    ],
    since: Since = None,
    until: Until = None,
    version: Annotated[
        str | None, typer.Option(metavar="VERSION", help="Only records of this bundle")
    ] = None,
    database: DatabaseOption = None,
    workspace: Workspace = WORKSPACE,
) -> None:
    """Export records and their outcomes to a Parquet file.

    Examples:
        tasador records export -o week.parquet --since 7d
    """
    from tasador.core import clock
    from tasador.core.clock import parse_moment
    from tasador.records.import_export import export_parquet
    from tasador.records.store import RecordStore

    start = 0.0 if since is None else parse_moment(since)
    end = clock.seconds() if until is None else parse_moment(until)
    with opened_records(record_settings(database, workspace)) as opened:
        written = export_parquet(RecordStore(opened), output, start, end, version=version)
    typer.echo(f"wrote {written:,} records to {output}")
    follow("records stats", workspace)


def prune(
    older_than: Annotated[
        str | None,
        typer.Option(
            metavar="AGE",
            help="One age for everything, e.g. 90d",
            show_default="$TASADOR_RECORDS__KEEP_*_DAYS",
        ),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Delete; without it, old entries are only counted")
    ] = False,
    database: DatabaseOption = None,
    workspace: Workspace = WORKSPACE,
    spool: SpoolOption = None,
) -> None:
    """Delete old records, outcomes, verdicts, alerts and logs.

    A service and a watcher do it themselves once an hour. The audit log is kept.

    Examples:
        tasador records prune
        tasador records prune --older-than 90d --yes
    """
    from tasador.core.clock import parse_span
    from tasador.records.audit_log import AuditTrail
    from tasador.records.maintenance import Retention

    settings = record_settings(database, workspace, spool)
    age = None if older_than is None else parse_span(older_than)
    with opened_records(settings) as opened:
        retention = Retention(opened, settings, age)
        found = retention.delete() if yes else retention.count()
        if yes:
            AuditTrail(opened).add(
                os.environ.get("USER", "cli"),
                "prune",
                "records",
                reason=f"older than {older_than}" if older_than else "older than each is kept",
                details={
                    "deleted": found[0].number,
                    "before": found[0].before,
                    "others": {old.what: old.number for old in found[1:]},
                },
            )
    for old in found:
        if old.before is None:
            typer.echo(f"all {old.what} are kept")
        elif yes:
            typer.echo(f"deleted {old.number:,} {old.what} older than {time_text(old.before)}")
        else:
            typer.echo(f"{old.number:,} {old.what} are older than {time_text(old.before)}")
    if yes or not any(old.number for old in found if old.before is not None):
        follow("records stats", workspace)
    else:
        age_given = "" if older_than is None else f" --older-than {older_than}"
        follow(f"records prune{age_given} --yes", workspace)


def stats(
    as_json: AsJson = False,
    database: DatabaseOption = None,
    workspace: Workspace = WORKSPACE,
    spool: SpoolOption = None,
) -> None:
    """Count the records of each version, and what waits in spools."""
    from tasador.records.spool import waiting_bytes
    from tasador.records.store import RecordStore

    settings = record_settings(database, workspace, spool)
    with opened_records(settings) as opened:
        counts = RecordStore(opened).counts()
        shown = opened.url.shown
    waiting = waiting_bytes(settings.spool_folder())
    if as_json:
        versions = [dataclasses.asdict(entry) for entry in counts]
        typer.echo(json.dumps({"database": shown, "versions": versions, "spool_bytes": waiting}))
        return
    out.print(f"database: {escape(shown)}")
    by_model: dict[str, list[tuple[str, ...]]] = {}
    for entry in counts:
        name, dash, _ = entry.version.rpartition("-")
        line = (
            short_id(entry.version) if dash else entry.version, entry.variant,
            f"{entry.records:,}", f"{entry.outcomes:,}",
            time_text(entry.first), time_text(entry.last),
        )  # fmt: skip
        by_model.setdefault(name, []).append(line)
    for name, rows in by_model.items():
        if name:
            out.print(f"[bold]{escape(name)}[/]")
        columns = ("bundle", "variant", "records", "outcomes", "first", "last")
        out.print(table(columns, rows, grid=False))
    if not counts:
        out.print("nothing is recorded yet")
    out.print(f"spools: {waiting:,} bytes wait in {escape(str(settings.spool_folder()))}")
    follow("monitor" if counts else "serve", workspace)


def refused(
    since: Since = "1d",
    until: Until = None,
    show: Shown = 5,
    as_json: AsJson = False,
    database: DatabaseOption = None,
    workspace: Workspace = WORKSPACE,
) -> None:
    """List rows that the service refused, by field and cause."""
    from tasador.core import clock
    from tasador.core.clock import parse_moment
    from tasador.records.refused import kept_rows, read_refused

    start = 0.0 if since is None else parse_moment(since)
    end = clock.seconds() if until is None else parse_moment(until)
    with opened_records(record_settings(database, workspace)) as opened:
        counts = read_refused(opened, start, end)
        rows = list(kept_rows(opened, start, end, show))
    if as_json:
        for row in rows:
            plain = row._replace(features=json.loads(row.features))
            typer.echo(json.dumps(plain._asdict()))
        return
    typer.echo(f"{counts.refused:,} rows were refused since {time_text(start)}")
    for (field, cause), number in counts.causes.items():
        example = counts.examples.get((field, cause), "")
        said = f", e.g. {example}" if example else ""
        typer.echo(f"  {field}: {cause.replace('_', ' ')}: {number:,}{said}")
    for row in rows:
        typer.echo(f"{time_text(row.time)} {row.route} {row.client}: {row.features.decode()}")
    follow("monitor", workspace)


def replay(
    database: DatabaseOption = None,
    spool: SpoolOption = None,
    workspace: Workspace = WORKSPACE,
) -> None:
    """Import what crashed processes left in their spool folders.

    A running service does it too.
    """
    from tasador.records.maintenance import replay_orphans

    settings = record_settings(database, workspace, spool)
    with opened_records(settings, new=True) as opened:
        brought = replay_orphans(settings.spool_folder(), opened)
    typer.echo(f"brought in {brought:,} records from {settings.spool_folder()}")
    follow("records stats", workspace)


def import_outcomes(
    file: Annotated[Path, typer.Argument(help="CSV: prediction_id, actual, optionally time")],
    database: DatabaseOption = None,
    workspace: Workspace = WORKSPACE,
    show: Shown = 20,
    replace: Annotated[
        bool,
        typer.Option("--replace", help="Overwrite known outcomes that differ"),
    ] = False,
) -> None:
    """Import true values of earlier predictions from a CSV file.

    A row that contradicts a known outcome is refused and listed, unless --replace is given. The
    audit log keeps both values. Exits with 3 when a row was refused.

    Examples:
        tasador outcomes import sold.csv
    """
    from tasador.core.errors import DataError
    from tasador.records.import_export import import_outcomes as import_rows
    from tasador.records.store import RecordStore

    with opened_records(record_settings(database, workspace)) as opened:
        done = import_rows(RecordStore(opened), file, replace=replace)
    accepted, repeated = done.counts["accepted"], done.counts["repeated"]
    replaced = f", {done.counts['replaced']:,} were corrected" if replace else ""
    typer.echo(f"{accepted:,} outcomes were taken, {repeated:,} were known already{replaced}")
    for problem in done.problems[:show]:
        typer.echo(f"  line {problem.line}: {problem.prediction_id}: {problem.reason}", err=True)
    if len(done.problems) > show:
        typer.echo(f"  and {len(done.problems) - show:,} more", err=True)
    if done.problems:
        typer.echo(f"{len(done.problems):,} rows were not taken", err=True)
    follow("monitor", workspace)
    if done.problems:
        raise typer.Exit(DataError.exit_code)


def review(
    file: Annotated[str, typer.Argument(help="Workbook that a reviewer has filled in")],
    check: Annotated[bool, typer.Option("--check", help="Only check it, record nothing")] = False,
    by: By = None,
    database: DatabaseOption = None,
    workspace: Workspace = WORKSPACE,
) -> None:
    """Check and record the overrides of a reviewed workbook.

    The workbook is one that `tasador score` wrote, with its overrides and reasons filled in. It is
    taken as a whole or not at all: unknown or repeated rows, changed values of the model, overrides
    without a reason and what is no number are listed with their cells.

    Examples:
        tasador score sales.csv -o review.xlsx
        tasador review review.xlsx --by "A. Perez"
        tasador ratio review.xlsx --sale price
    """
    from tasador.lifecycle.api import Place
    from tasador.scoring.review import record_review

    with opened_records(record_settings(database, workspace)) as opened:
        found = record_review(file, opened, Place(actor=by).who, check_only=check)
    out.print(f"{escape(file)}: {found.rows:,} rows valued by {escape(found.version)}")
    if found.missing:
        lost = "1 row is" if found.missing == 1 else f"{found.missing:,} rows are"
        err.print(f"[yellow]{lost} not in it any more:[/] recorded values and overrides stay")
    result = found.result
    if result is None:
        out.print(f"nothing is wrong; {found.overrides:,} overrides would be recorded")
        follow(f"review {shlex.quote(file)}", workspace)
        return
    out.print(
        f"overrides: {result.new:,} new, {result.changed:,} changed, {result.unchanged:,} recorded "
        "before"
    )
    if result.kept:
        out.print(f"{result.kept:,} more were recorded before and are empty here: they stay")
    follow(f"ratio {shlex.quote(file)} --sale COLUMN")


def overrides(
    since: Since = None,
    until: Until = None,
    show: Shown = 20,
    as_json: AsJson = False,
    database: DatabaseOption = None,
    workspace: Workspace = WORKSPACE,
) -> None:
    """List overrides of reviewers: who, when and why, newest first.

    A prediction is shown by the end of its id; `--json` has all of it.

    Examples:
        tasador records overrides --since 30d
    """
    from tasador.core import clock
    from tasador.core.clock import parse_moment
    from tasador.core.hashing import without_nan
    from tasador.core.languages import number
    from tasador.records.reviews import Reviews

    start = 0.0 if since is None else parse_moment(since)
    end = clock.seconds() if until is None else parse_moment(until)
    with opened_records(record_settings(database, workspace)) as opened:
        found = Reviews(opened).overrides(start, end, show)
    if as_json:
        for one in found:
            typer.echo(json.dumps(without_nan(one._asdict())))
        return
    rows = [
        (
            time_text(one.time), one.actor, number(one.prediction), number(one.before),
            number(one.value), one.reason, one.prediction_id[-12:],
        )
        for one in found
    ]  # fmt: skip
    columns = ("time", "who", "model", "before", "override", "reason", "prediction …")
    out.print(table(columns, rows, grid=False) if rows else "no override is recorded in this time")
    follow("records stats" if rows else "score FILE --output review.xlsx", workspace)


def record_settings(
    database: str | None, workspace: Path = WORKSPACE, spool: str | None = None
) -> RecordSettings:
    """Return the settings of records: options first, then the service's variables."""
    from dataclasses import replace

    from tasador.settings.serving import read_settings

    own = {k: v for k, v in os.environ.items() if k.startswith("TASADOR_RECORDS__") and v}
    found = read_settings(own).records
    if workspace != WORKSPACE and "TASADOR_RECORDS__URL" not in own:
        found = replace(found, url=f"sqlite:///{workspace / 'tasador.db'}")
    return replace(found, url=database or found.url, spool=spool or found.spool)


@contextmanager
def opened_records(settings: RecordSettings, *, new: bool = False) -> Iterator[Database]:
    """Open the database; unless `new`, a command does not make one where there is none.

    Raises:
        SourceError: There is no such SQLite file.
    """
    from tasador.core.errors import SourceError
    from tasador.records.database import Database
    from tasador.settings.serving import parse_url

    url = parse_url(settings.url)
    if not new and url.path is not None and not url.path.exists():
        raise SourceError(
            f"there is no database {url.path}",
            remedy="name it with --database, or let `tasador serve` make it",
        )
    with Database.open(url, timeout_s=60.0) as opened:
        yield opened
