"""`tasador records` and `tasador outcomes`: what was valued, and what it turned out to be."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from tasador.records.database import Database
    from tasador.records.settings import RecordSettings

records = typer.Typer(help="Look after the recorded valuations.", no_args_is_help=True)
outcomes = typer.Typer(help="Tell what valued things turned out to be.", no_args_is_help=True)

DatabaseOption = Annotated[
    str | None,
    typer.Option("--database", help="URL; by default TASADOR_RECORDS__URL or the workspace's."),
]
SpoolOption = Annotated[
    str | None, typer.Option("--spool", help="Spool folder; by default as the service has it.")
]
Since = Annotated[str | None, typer.Option(help="From, e.g. 2026-11-01 or 7d (ago).")]
Until = Annotated[str | None, typer.Option(help="Up to, not included; by default now.")]


def register(app: typer.Typer) -> None:
    """Add both groups of commands."""
    app.add_typer(records, name="records")
    app.add_typer(outcomes, name="outcomes")


@records.command()
def export(
    output: Annotated[
        str,
        typer.Option("--output", "-o", help="Parquet file to write; gs:// and s3:// too."),
    ],
    since: Since = None,
    until: Until = None,
    version: Annotated[str | None, typer.Option(help="Only this bundle's.")] = None,
    database: DatabaseOption = None,
) -> None:
    """Write records with their outcomes to a Parquet file."""
    from tasador.core import clock
    from tasador.records.export import export_parquet
    from tasador.records.moments import parse_moment
    from tasador.records.sql_store import SqlRecordStore

    start = 0.0 if since is None else parse_moment(since)
    end = clock.seconds() if until is None else parse_moment(until)
    with _opened(_settings(database)) as opened:
        written = export_parquet(SqlRecordStore(opened), output, start, end, version=version)
    typer.echo(f"wrote {written:,} records to {output}")


@records.command()
def prune(
    older_than: Annotated[
        str | None,
        typer.Option(help="One age for all of it, e.g. 90d; by default each kind's own."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Delete, do not only count.")] = False,
    database: DatabaseOption = None,
    spool: SpoolOption = None,
) -> None:
    """Delete old records with their outcomes, verdicts, alerts that are over, spool files, logs.

    Without --yes they are only counted. A service and a watcher do it by themselves, once an hour,
    by the ages in TASADOR_RECORDS__KEEP_*_DAYS. The audit trail is kept.
    """
    from tasador.records.journal import AuditTrail
    from tasador.records.moments import parse_span, show_moment
    from tasador.records.retention import Retention

    settings = _settings(database, spool)
    age = None if older_than is None else parse_span(older_than)
    with _opened(settings) as opened:
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
            typer.echo(f"deleted {old.number:,} {old.what} older than {show_moment(old.before)}")
        else:
            typer.echo(
                f"{old.number:,} {old.what} are older than {show_moment(old.before)}: "
                "--yes deletes them"
            )


@records.command()
def stats(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    database: DatabaseOption = None,
    spool: SpoolOption = None,
) -> None:
    """Say how much is recorded of each version, and what waits in spools."""
    from rich.console import Console
    from rich.table import Table

    from tasador.cli.streams import escape
    from tasador.records.moments import show_moment
    from tasador.records.spool import waiting_bytes
    from tasador.records.sql_store import SqlRecordStore

    settings = _settings(database, spool)
    with _opened(settings) as opened:
        counts = SqlRecordStore(opened).counts()
        shown = opened.url.shown
    waiting = waiting_bytes(settings.spool_folder())
    if as_json:
        versions = [dataclasses.asdict(entry) for entry in counts]
        typer.echo(json.dumps({"database": shown, "versions": versions, "spool_bytes": waiting}))
        return
    table = Table("version", "variant", "records", "outcomes", "first", "last")
    for entry in counts:
        table.add_row(
            escape(entry.version),
            escape(entry.variant),
            f"{entry.records:,}",
            f"{entry.outcomes:,}",
            show_moment(entry.first),
            show_moment(entry.last),
        )
    for column in table.columns:  # a narrow terminal breaks names, never cuts them
        column.overflow = "fold"
    out = Console(highlight=False, soft_wrap=False)
    out.print(f"database: {escape(shown)}", soft_wrap=True)
    out.print(table)
    out.print(f"spools: {waiting:,} bytes wait in {escape(str(settings.spool_folder()))}")


@records.command()
def refused(
    since: Since = "1d",
    until: Until = None,
    show: Annotated[int, typer.Option(min=0, help="Most rows to print with their values.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one line a row.")] = False,
    database: DatabaseOption = None,
) -> None:
    """Say which rows the service refused, by field and cause, and print some of them."""
    from tasador.core import clock
    from tasador.records.moments import parse_moment, show_moment
    from tasador.records.refused import kept_rows, read_refused

    start = 0.0 if since is None else parse_moment(since)
    end = clock.seconds() if until is None else parse_moment(until)
    with _opened(_settings(database)) as opened:
        counts = read_refused(opened, start, end)
        rows = list(kept_rows(opened, start, end, show))
    if as_json:
        for row in rows:
            plain = row._replace(features=json.loads(row.features))
            typer.echo(json.dumps(plain._asdict()))
        return
    typer.echo(f"{counts.refused:,} rows were refused since {show_moment(start)}")
    for (field, cause), number in counts.causes.items():
        example = counts.examples.get((field, cause), "")
        said = f", e.g. {example}" if example else ""
        typer.echo(f"  {field}: {cause.replace('_', ' ')}: {number:,}{said}")
    for row in rows:
        typer.echo(f"{show_moment(row.time)} {row.route} {row.client}: {row.features.decode()}")


@records.command()
def replay(database: DatabaseOption = None, spool: SpoolOption = None) -> None:
    """Bring in what processes that died left in their spools; a running service does it too."""
    from tasador.records.keeper import bring_in

    settings = _settings(database, spool)
    with _opened(settings, new=True) as opened:
        brought = bring_in(settings.spool_folder(), opened)
    typer.echo(f"brought in {brought:,} records from {settings.spool_folder()}")


@outcomes.command("import")
def import_file(
    file: Annotated[Path, typer.Argument(help="CSV: prediction_id, actual and maybe time.")],
    database: DatabaseOption = None,
    show: Annotated[int, typer.Option(min=0, help="Most rows to name.")] = 20,
    replace: Annotated[
        bool,
        typer.Option("--replace", help="Correct outcomes that are known with another value."),
    ] = False,
) -> None:
    """Record the outcomes in a CSV file; exits with 3 when a row was not taken.

    A row that contradicts a known outcome is not taken: see it in the list, and correct the known
    one with --replace if it was wrong. The audit trail keeps both values.
    """
    from tasador.core.errors import DataError
    from tasador.records.outcome_file import import_outcomes
    from tasador.records.sql_store import SqlRecordStore

    with _opened(_settings(database)) as opened:
        done = import_outcomes(SqlRecordStore(opened), file, replace=replace)
    accepted, repeated = done.counts["accepted"], done.counts["repeated"]
    replaced = f", {done.counts['replaced']:,} were corrected" if replace else ""
    typer.echo(f"{accepted:,} outcomes were taken, {repeated:,} were known already{replaced}")
    for problem in done.problems[:show]:
        typer.echo(f"  line {problem.line}: {problem.prediction_id}: {problem.reason}", err=True)
    if len(done.problems) > show:
        typer.echo(f"  and {len(done.problems) - show:,} more", err=True)
    if done.problems:
        typer.echo(f"{len(done.problems):,} rows were not taken", err=True)
        raise typer.Exit(DataError.exit_code)


def _settings(database: str | None, spool: str | None = None) -> RecordSettings:
    """Return the settings of records: options first, then the service's variables."""
    from dataclasses import replace

    from tasador.serving.settings import read_settings

    own = {k: v for k, v in os.environ.items() if k.startswith("TASADOR_RECORDS__") and v}
    found = read_settings(own).records
    return replace(found, url=database or found.url, spool=spool or found.spool)


@contextmanager
def _opened(settings: RecordSettings, *, new: bool = False) -> Iterator[Database]:
    """Open the database; unless `new`, a command does not make one where there is none.

    Raises:
        SourceError: There is no such SQLite file.
    """
    from tasador.core.errors import SourceError
    from tasador.records.database import Database
    from tasador.records.location import parse_url

    url = parse_url(settings.url)
    if not new and url.path is not None and not url.path.exists():
        raise SourceError(
            f"there is no database {url.path}",
            remedy="name it with --database, or let `tasador serve` make it",
        )
    with Database.open(url, timeout_s=60.0) as opened:
        yield opened
