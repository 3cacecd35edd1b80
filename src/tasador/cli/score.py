"""``tasador score``: value whole files."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from tasador.cli.engine import EngineChoice, EngineOption, RayAddress
from tasador.cli.model_choice import Alias, Model, Registry, Version, Workspace, err, note
from tasador.cli.streams import escape

if TYPE_CHECKING:
    from tasador.flows.score_files import Scored

out = Console(highlight=False, soft_wrap=True)


class Format(StrEnum):
    """What is written."""

    csv = "csv"
    parquet = "parquet"


def score(
    inputs: Annotated[
        list[str],
        typer.Argument(help="CSV (also .gz) or Parquet files or patterns, local, gs://, s3://."),
    ],
    to: Annotated[str, typer.Option("--out", "-o", help="A .csv or .parquet file, or a folder.")],
    bundle: Annotated[
        str | None,
        typer.Option(help="Bundle folder, or a registered version; by default the champion."),
    ] = None,
    alias: Alias = None,
    version: Version = None,
    format_: Annotated[
        Format | None, typer.Option("--format", help="By default that of --out, or the input's.")
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(help="Columns to hand on: a,b or * or none; by default identifiers."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Threads; by default all cores.")
    ] = None,
    batch_rows: Annotated[
        int, typer.Option(min=1, max=10_000_000, help="Rows valued at a time.")
    ] = 32_768,
    force: Annotated[bool, typer.Option(help="Score finished files again.")] = False,
    workspace: Workspace = Path("workspace"),
    registry: Registry = None,
    model: Model = None,
    engine: EngineOption = EngineChoice.local,
    ray_address: RayAddress = None,
) -> None:
    """Value whole files on all cores; a second run goes on where the first was interrupted.

    A row that does not meet the contract gets an error instead of a value, as from the service.
    """
    from tasador.core.errors import ConfigError, DataError, ValidationError
    from tasador.flows.chosen import BundleChoice, chosen_bundle, fits_rows
    from tasador.flows.score_files import ScoreOrder, find_inputs, score_files

    kept = None if columns is None else tuple(c.strip() for c in columns.split(",") if c.strip())
    order = ScoreOrder(
        inputs=tuple(inputs),
        out=to,
        kind=None if format_ is None else format_.value,
        columns=() if kept == ("none",) else kept,
        workers=workers,
        batch_rows=batch_rows,
        force=force,
    )

    def tell(line: str) -> None:
        err.print(escape(line))

    if bundle is not None and not Path(bundle).is_dir() and "/" not in bundle:
        if alias is not None or version is not None:
            raise ConfigError("--bundle and --alias or --version contradict each other")
        bundle, version = None, bundle
    choice = BundleChoice(
        workspace, None if bundle is None else Path(bundle), model, alias, version, registry
    )
    with chosen_bundle(choice, fits=fits_rows(find_inputs(inputs)[0]), tell=note) as chosen:
        loaded = chosen.load()
        if engine is EngineChoice.ray:
            from tasador.core.engine import RaySettings
            from tasador.flows.score_on_ray import score_files_on_ray

            scored = score_files_on_ray(chosen.folder, order, tell, RaySettings(ray_address))
        else:
            scored = score_files(loaded, order, tell)
    if scored.origin == "synthetic":
        err.print("[bold red]SYNTHETIC DATA:[/] this model was trained on generated rows.")
    _summarise(scored, to)
    if scored.failed:
        raise DataError(
            f"{len(scored.failed)} of {scored.files + scored.passed + len(scored.failed)} files "
            f"were not scored: {', '.join(name for name, _ in scored.failed[:10])}",
            remedy="mend them and run the same command: the others are passed over",
        )
    if scored.rows and scored.refused == scored.rows:
        raise ValidationError(
            f"none of the {scored.rows:,} rows meets the contract",
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
        err.print(f"[yellow]refused:[/] {scored.refused:,} rows; the column 'error' says why")
