"""Estimates by a model in use: `predict`, `explain`, `appraise`, `score`."""

from __future__ import annotations

import datetime as dt
import shlex
import sys
from contextlib import ContextDecorator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tasador.cli.options import (
    WORKSPACE,
    Alias,
    AsJson,
    AsOf,
    BundleFolder,
    Coverage,
    Encoding,
    Engine,
    EngineOption,
    MaxFsd,
    MinSupport,
    Model,
    RayAddress,
    Registry,
    Sheet,
    Version,
    Workspace,
    serve_limits,
)
from tasador.cli.output import err, escape, follow, language, note, out
from tasador.core.errors import DataError
from tasador.core.languages import translated

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tasador.registry.model_bundle import ModelBundle
    from tasador.scoring.files import Scored, ScoreRequest
    from tasador.scoring.review import ReviewRequest

#: Refused rows that `tasador predict` names on the terminal; its output has all.
_MOST_REFUSED = 20
_SYNTHETIC = "[bold red]SYNTHETIC DATA:[/] this model was trained on generated rows."


class Decimal(StrEnum):
    """How numbers in a CSV are written."""

    point = "point"
    comma = "comma"


DecimalMark = Annotated[
    Decimal,
    typer.Option("--decimal", help="Decimal mark of CSV; with commas, ; separates cells"),
]


class _PandasIsAbsent(ContextDecorator):
    """Lets nothing import pandas meanwhile, unless something has.

    pyarrow would (0.3 s) to ask whether a value is a Series, and goes on where it cannot.
    """

    def __enter__(self) -> None:
        sys.meta_path.insert(0, self)

    def __exit__(self, *_: object) -> None:
        sys.meta_path.remove(self)

    def find_spec(self, name: str, *_: object) -> None:
        """Refuse pandas, and find nothing else."""
        if name == "pandas":
            raise ModuleNotFoundError(name=name)


class Format(StrEnum):
    """What is written."""

    csv = "csv"
    parquet = "parquet"


@_PandasIsAbsent()
def predict(
    rows: Annotated[str, typer.Argument(help="CSV, Parquet or JSON file, or JSON text")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="CSV file to write",
            show_default="standard output",
        ),
    ] = None,
    sheet: Sheet = None,
    encoding: Encoding = None,
    keep: Annotated[
        str | None,
        typer.Option(
            "--with", metavar="COLUMNS", help="Columns to copy in front: ids, inputs or names a,b"
        ),
    ] = None,
    decimal: DecimalMark = Decimal.point,
    as_of: AsOf = None,
    coverage: Coverage = None,
    max_fsd: MaxFsd = None,
    min_support: MinSupport = 0,
    bundle: BundleFolder = None,
    model: Model = None,
    alias: Alias = None,
    version: Version = None,
    registry: Registry = None,
    workspace: Workspace = WORKSPACE,
) -> None:
    """Estimate the rows of a file, or one row given as JSON.

    A row that does not meet the contract gets an error instead of an estimate; the others are
    estimated. Where several models are registered and none is in use, the one that fits the rows
    is taken.

    Examples:
        tasador predict new-flats.csv -o estimates.csv
        tasador predict '{"median_income": 5.2, "ocean_proximity": "INLAND"}'
    """
    from tasador.contract.model import Source
    from tasador.inference.model_choice import BundleChoice
    from tasador.scoring.predict import predict_rows, to_csv, to_json

    choice = BundleChoice(workspace, bundle, model, alias, version, registry)
    names = [name.strip() for name in (keep or "").split(",") if name.strip()]
    asked = Source(sheet=sheet, encoding=encoding)
    predicted = predict_rows(
        rows, choice, note, keep=names, asked=asked, as_of=as_of, coverage=coverage,
        limits=serve_limits(max_fsd, min_support),
    )  # fmt: skip
    if predicted.origin == "synthetic":
        err.print(_SYNTHETIC)
    commas = decimal is Decimal.comma
    if output is None and predicted.from_json:
        sys.stdout.write(to_json(predicted))
    elif output is None:
        sys.stdout.write(to_csv(predicted, commas))
    else:
        from tasador.core.storage import write_text

        write_text(output, to_csv(predicted, commas))
        valued = len(predicted.rows) - len(predicted.refused)
        out.print(f"wrote {valued:,} valuations to {escape(str(output))}")
        follow(f"appraise {shlex.quote(rows)} -o reports/", workspace, registry, model)
    silent = sum(row.no_value is not None for row in predicted.rows)
    if silent:
        err.print(f"[yellow]no value:[/] {silent:,} rows; the column 'no_value' has the reasons")
    _list_refused([f"row {row.number}: {row.error}" for row in predicted.refused])
    if output is None and predicted.from_json:
        follow(f"explain {shlex.quote(rows)}", workspace, registry, model, to=err)
    elif output is None:
        follow(f"predict {shlex.quote(rows)} -o FILE", workspace, registry, model, to=err)


def _list_refused(lines: list[str], where: str = "the column 'error' has all reasons") -> None:
    if not lines:
        return
    _tell_refused(len(lines), where)
    for line in lines[:_MOST_REFUSED]:
        err.print(f"  {escape(translated(line, language()))}")
    if len(lines) > _MOST_REFUSED:
        err.print(f"  {translated(f'and {len(lines) - _MOST_REFUSED:,} more', language())}")


def _tell_refused(count: int, where: str) -> None:
    head, text = (translated(one, language()) for one in ("refused:", f"{count:,} rows; {where}"))
    err.print(f"[yellow]{head}[/] {text}")


def explain(
    row: Annotated[str, typer.Argument(help="One row as JSON text")],
    comparables: Annotated[
        int,
        typer.Option(
            "--comparables", "--n", min=0, max=64, metavar="N", help="Similar rows to list"
        ),
    ] = 5,
    radius_km: Annotated[
        float | None,
        typer.Option(min=0.0, metavar="KM", help="Only comparables so near", show_default="any"),
    ] = None,
    since: Annotated[
        dt.datetime | None,
        typer.Option(
            formats=["%Y-%m-%d"],
            metavar="DATE",
            help="Only comparables sold since this day",
            show_default="any",
        ),
    ] = None,
    same: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN", help="Only comparables with the row's value here; may be repeated"
        ),
    ] = None,
    as_of: AsOf = None,
    as_json: AsJson = False,
    bundle: BundleFolder = None,
    model: Model = None,
    alias: Alias = None,
    version: Version = None,
    registry: Registry = None,
    workspace: Workspace = WORKSPACE,
) -> None:
    """Explain an estimate: parts in money, comparable sales.

    Comparables are the most similar of the nearest training rows; each price is adjusted by the
    model's own differences.

    Examples:
        tasador explain '{"median_income": 5.2, "ocean_proximity": "INLAND"}' --radius-km 5
    """
    from tasador.inference.model_choice import BundleChoice
    from tasador.registry.explainer import Wanted
    from tasador.scoring.predict import explain_row, explanation_json, to_lines

    choice = BundleChoice(workspace, bundle, model, alias, version, registry)
    day = None if since is None else since.date()
    wanted = Wanted(comparables, radius_km, day, tuple(same or ()))
    found = explain_row(row, choice, wanted=wanted, tell=note, as_of=as_of)
    if as_json:
        sys.stdout.write(explanation_json(found))
        return
    for line in to_lines(found):
        out.print(escape(line))
    follow(f"appraise {shlex.quote(row)} -o report.html", workspace, registry, model)


@_PandasIsAbsent()
def appraise(
    rows: Annotated[str, typer.Argument(help="CSV, Parquet or JSON file, or JSON text")],
    to: Annotated[
        str,
        typer.Option("--output", "-o", metavar="PATH", help="A .html or .pdf file, or a folder"),
    ],
    lang: Annotated[Literal["en", "es"], typer.Option(help="Language of the report")] = "en",
    format_: Annotated[
        Literal["html", "pdf"] | None,
        typer.Option("--format", help="Type of the files in a folder", show_default="html"),
    ] = None,
    sheet: Sheet = None,
    encoding: Encoding = None,
    as_of: AsOf = None,
    max_fsd: MaxFsd = None,
    min_support: MinSupport = 0,
    bundle: BundleFolder = None,
    model: Model = None,
    alias: Alias = None,
    version: Version = None,
    registry: Registry = None,
    workspace: Workspace = WORKSPACE,
) -> None:
    """Write a valuation report of a row, or of each row of a file.

    A report holds the value, its range, the comparables, a map, what the value is made of, what is
    unusual and the measured accuracy, in one file that loads nothing. Several rows get a summary,
    which lists rows that could not be valued; in a folder each row has a file.

    Examples:
        tasador appraise '{"median_income": 5.2, "ocean_proximity": "INLAND"}' -o report.html
        tasador appraise portfolio.csv -o reports/ --format pdf --lang es
    """
    from tasador.contract.model import Source
    from tasador.inference.model_choice import BundleChoice
    from tasador.scoring.appraise import AppraiseRequest, appraise_rows

    asked = Source(sheet=sheet, encoding=encoding)
    limits = serve_limits(max_fsd, min_support)
    request = AppraiseRequest(rows, to, lang, format_, asked, as_of, limits)
    choice = BundleChoice(workspace, bundle, model, alias, version, registry)
    done = appraise_rows(request, choice, note)
    if done.origin == "synthetic":
        err.print(_SYNTHETIC)
    reports = "1 report" if done.written == 1 else f"{done.written:,} reports"
    out.print(f"wrote {reports} to {escape(to)} with {escape(done.version)}")
    lines = [f"row {number}: {reason}" for number, reason in done.refused]
    _list_refused(lines, "the summary has all reasons")
    out.print(f"next: open {escape(to)}")


def score(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE",
            help="CSV (also .gz) or Parquet files or patterns: local, gs://, s3://",
        ),
    ],
    to: Annotated[
        str,
        typer.Option(
            "--output", "-o", metavar="PATH", help="A .csv, .parquet or .xlsx file, or a folder"
        ),
    ],
    format_: Annotated[
        Format | None,
        typer.Option(
            "--format", help="Output format", show_default="that of --output or the input"
        ),
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMNS",
            help="Columns to copy: a,b or * or none",
            show_default="identifiers; .xlsx: inputs",
        ),
    ] = None,
    previous: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="Former values, for .xlsx",
            show_default="the one column with the role rival",
        ),
    ] = None,
    comparables: Annotated[
        int | None,
        typer.Option(
            "--comparables",
            min=0,
            max=10,
            metavar="N",
            help="Comparables a row, for .xlsx",
            show_default="3",
        ),
    ] = None,
    lang: Annotated[
        Literal["en", "es"] | None,
        typer.Option(help="Language of the .xlsx", show_default="en"),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Threads", show_default="all cores")
    ] = None,
    batch_rows: Annotated[
        int, typer.Option(min=1, max=10_000_000, metavar="N", help="Rows in a batch")
    ] = 32_768,
    force: Annotated[
        bool, typer.Option("--force", help="Score files again that are finished")
    ] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Add the parts of each estimate in money, by meaning")
    ] = False,
    sheet: Sheet = None,
    encoding: Encoding = None,
    decimal: DecimalMark = Decimal.point,
    as_of: AsOf = None,
    coverage: Coverage = None,
    max_fsd: MaxFsd = None,
    min_support: MinSupport = 0,
    engine: EngineOption = Engine.local,
    ray_address: RayAddress = None,
    bundle: Annotated[
        str | None,
        typer.Option(
            metavar="BUNDLE",
            help="Bundle folder, or a registered version",
            show_default="the champion",
        ),
    ] = None,
    model: Model = None,
    alias: Alias = None,
    version: Version = None,
    registry: Registry = None,
    workspace: Workspace = WORKSPACE,
) -> None:
    """Estimate whole files on all cores.

    An interrupted run continues where it stopped when the same command is run again. A row that
    does not meet the contract gets an error, no estimate. An .xlsx is for people: see `review`.

    Examples:
        tasador score 'rows/*.parquet' --output scored/
        tasador score sales.csv -o review.xlsx --previous assessed --lang es
    """
    from tasador.contract.model import Source
    from tasador.core.errors import ConfigError
    from tasador.inference.model_choice import BundleChoice, chosen_bundle, fits_rows
    from tasador.scoring.files import OutputError, ScoreRequest, find_inputs, score_files

    kept = None if columns is None else tuple(c.strip() for c in columns.split(",") if c.strip())
    kept = () if kept == ("none",) else kept
    own = {
        "--previous": previous, "--comparables": comparables, "--lang": lang,
    }  # fmt: skip
    others = {
        "--format": format_, "--workers": workers, "--explain": explain or None,
        "--engine": None if engine is Engine.local else engine,
        "--decimal": None if decimal is Decimal.point else decimal,
    }  # fmt: skip
    request = ScoreRequest(
        inputs=tuple(inputs),
        out=to,
        kind=None if format_ is None else format_.value,
        columns=kept,
        workers=workers,
        batch_rows=batch_rows,
        force=force,
        asked=Source(sheet=sheet, encoding=encoding),
        as_of=as_of,
        coverage=coverage,
        limits=serve_limits(max_fsd, min_support),
        explain=explain,
        decimal_comma=decimal is Decimal.comma,
    )
    if request.decimal_comma and (format_ is Format.parquet or to.endswith(".parquet")):
        raise OutputError.no_commas()

    def tell(line: str) -> None:
        err.print(escape(line))

    if bundle is not None and not Path(bundle).is_dir() and "/" not in bundle:
        if alias is not None or version is not None:
            raise ConfigError("--bundle and --alias or --version contradict each other")
        bundle, version = None, bundle
    choice = BundleChoice(
        workspace, None if bundle is None else Path(bundle), model, alias, version, registry
    )
    files = find_inputs(inputs)
    if to.lower().endswith(".xlsx"):
        asked = _review_request(files, request, own, others)
    elif taken := [name for name, value in own.items() if value is not None]:
        from tasador.scoring.review import ReviewRequestError

        raise ReviewRequestError.only_for_workbooks(taken[0])
    else:
        asked = None
    with chosen_bundle(choice, fits=fits_rows(files[0], request.asked), tell=note) as chosen:
        loaded = chosen.load()
        if asked is not None:
            _write_workbook(loaded, asked, workspace)
            return
        if engine is Engine.ray:
            from tasador.core.parallel import RaySettings
            from tasador.scoring.ray import score_files_on_ray

            scored = score_files_on_ray(chosen.folder, request, tell, RaySettings(ray_address))
        else:
            scored = score_files(loaded, request, tell)
    if scored.origin == "synthetic":
        err.print(_SYNTHETIC)
    _summarise(scored, to)
    if scored.failed:
        raise NotScoredError.files(scored)
    if scored.rows and scored.refused == scored.rows:
        raise NotScoredError.rows(scored.rows)


def _review_request(
    files: Sequence[str],
    request: ScoreRequest,
    own: Mapping[str, Any],
    others: Mapping[str, Any],
) -> ReviewRequest:
    """Return what a workbook is to show, by the options of `tasador score`.

    Args:
        files: What is to be valued.
        request: The same as for other outputs.
        own: Options of workbooks, None where they are not given.
        others: Options that workbooks do not have, likewise.
    """
    from tasador.lifecycle.api import Place
    from tasador.scoring.review import ReviewRequest, ReviewRequestError

    for option, value in others.items():
        if value is not None:
            raise ReviewRequestError.not_for_workbooks(option)
    if len(files) > 1:
        raise ReviewRequestError.one_file(len(files))
    named = {
        "previous": own["--previous"], "comparables": own["--comparables"],
        "language": own["--lang"],
    }  # fmt: skip
    given = {name: value for name, value in named.items() if value is not None}
    return ReviewRequest(
        files[0], request.out, Place().who, request.columns, asked=request.asked,
        as_of=request.as_of, coverage=request.coverage, limits=request.limits, **given,
    )  # fmt: skip


def _write_workbook(bundle: ModelBundle, request: ReviewRequest, workspace: Path) -> None:
    from tasador.cli.records import opened_records, record_settings
    from tasador.scoring.review import write_review_file

    if bundle.origin == "synthetic":
        err.print(_SYNTHETIC)
    with opened_records(record_settings(None, workspace), new=True) as opened:
        done = write_review_file(bundle, request, opened, note)
    out.print(
        f"wrote {done.rows:,} rows, {done.flagged:,} with a flag, to {escape(request.out)} with "
        f"{escape(done.version)}"
    )
    lines = [f"row {number}: {reason}" for number, reason in done.refused]
    _list_refused(lines, "the column of notes has all reasons")
    named = "" if workspace == WORKSPACE else f" --workspace {shlex.quote(str(workspace))}"
    out.print(f"next: fill in its yellow cells, then tasador review {escape(request.out + named)}")


class NotScoredError(DataError):
    """Files that could not be scored, or of which no row could."""

    @classmethod
    def files(cls, scored: Scored) -> NotScoredError:
        """Return the error of files that are no tables or lack columns."""
        return cls(
            f"{len(scored.failed)} of {scored.files + scored.passed + len(scored.failed)} files "
            f"were not scored: {', '.join(name for name, _ in scored.failed[:10])}",
            remedy="fix them and run the same command again; finished files are skipped",
        )

    @classmethod
    def rows(cls, count: int) -> NotScoredError:
        """Return the error of rows that were all refused."""
        return cls(
            f"none of the {count:,} rows meets the contract",
            remedy="the column 'error' of the output says why",
        )


def _summarise(scored: Scored, to: str) -> None:
    speed = scored.rows / scored.seconds if scored.seconds > 0 else 0.0
    files = f"{scored.files:,} file" + ("" if scored.files == 1 else "s")
    before = f", {scored.passed:,} finished before" if scored.passed else ""
    out.print(
        f"scored {scored.rows:,} rows of {files} to {escape(to)} in {scored.seconds:.1f} s "
        f"({speed:,.0f} rows/s) with {escape(scored.version)}{before}"
    )
    if scored.refused:
        _tell_refused(scored.refused, "the column 'error' says why")
    follow(f"ratio {shlex.quote(to)} --sale COLUMN")
