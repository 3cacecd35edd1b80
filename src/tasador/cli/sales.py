"""Sales and their dates: which may be no market prices, the trend of prices, the backtest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import typer

from tasador.cli.options import (
    WORKSPACE,
    Alias,
    AsJson,
    BundleFolder,
    Model,
    Registry,
    Settings,
    Version,
    Workspace,
)
from tasador.cli.output import err, escape, note, out, print_json, table
from tasador.cli.start import with_dataset

Dataset = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Contract", show_default="the project's own"),
]


def sales(
    overrides: Settings = None,
    dataset: Dataset = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Review file to write, a CSV"),
    ] = None,
) -> None:
    """List sales that may not be market prices, for a decision.

    The review file has a line for each suspicious sale, with the reasons. Fill in its column keep
    with yes or no, and train with segregate.sales_review=FILE. Decisions of an earlier file of that
    name are kept.

    Examples:
        tasador sales --dataset king_county_sales -o review.csv
        tasador run dataset=king_county_sales segregate.sales_review=review.csv
    """
    from tasador.reporting.cards import amount
    from tasador.settings.compose import compose
    from tasador.training.sales import review_sales

    named = [] if dataset is None else [f"dataset={dataset}"]
    settings = compose(with_dataset([*named, *(overrides or [])]), project=Path.cwd())
    found = review_sales(settings, output)
    out.print(f"{escape(settings.contract.title)}: {found.rows:,} sales")
    for reason, rows in found.excluded.items():
        out.print(f"  {rows:,} more are excluded by the contract: {escape(reason)}")
    flagged = int(found.suspicion.flagged.sum())
    least = f"{found.suspicion.threshold:g}"
    out.print(f"{flagged:,} are suspicious (score of {least} and more), by strongest reason:")
    for reason, rows in found.by_reason.items():
        out.print(f"  {rows:6,}  {escape(reason)}")
    with_all, without = found.suspicion.errors_with, found.suspicion.errors_without
    if flagged and with_all is not None and without is not None:
        out.print(
            f"median error of a first model on the others: {amount(with_all[0])}% fitted on all, "
            f"{amount(without[0])}% fitted without the suspicious ones"
        )
    for row, price, why in found.top:
        out.print(f"  row {row}: {amount(price)}: {escape(why)}")
    if found.kept or found.dropped or found.lost:
        out.print(f"decided: {found.kept:,} kept, {found.dropped:,} dropped")
    if found.lost:
        err.print(f"[yellow]{found.lost:,} decisions are about rows that are not in the table[/]")
    if found.written is not None:
        file = escape(str(found.written))
        out.print(f"wrote {file}")
        out.print(f"next: fill in its column keep, then tasador run segregate.sales_review={file}")


def trend(
    overrides: Settings = None,
    dataset: Dataset = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Also write a .html, .csv or .json"),
    ] = None,
) -> None:
    """Show how the level of prices moved, from the dates of sales.

    The level is that of like things: what the attributes explain is taken out, and two sales of
    one property count by their difference. The newest month is 100.

    Examples:
        tasador trend --dataset king_county_sales
        tasador trend --dataset king_county_sales -o trend.html
    """
    from tasador.ops.price_trend import carried, check_output, spans, trend_of_table, write_trend
    from tasador.settings.compose import compose

    if output is not None:
        check_output(output)
    named = [] if dataset is None else [f"dataset={dataset}"]
    settings = compose(with_dataset([*named, *(overrides or [])]), project=Path.cwd())
    found = trend_of_table(settings)
    contract = settings.contract
    log = contract.target.transform == "log"
    what = "index" if log else f"level, {contract.target.unit or 'relative'}"
    rows = [
        (name, *(f"{value:,.1f}" if log else f"{value:,.4g}" for value in values), f"{sales:,}")
        for name, *values, sales in spans(found, log=log)
    ]
    listed = table(("", what, "95% from", "to", "sales"), rows)
    for column in listed.columns[1:]:
        column.justify = "right"
    out.print(escape(contract.title))
    out.print(listed)
    out.print(carried(found, log=log))
    if output is not None:
        write_trend(output, found, contract)
        out.print(f"wrote {escape(str(output))}")


def backtest(
    by: Annotated[
        Literal["month", "quarter", "year"], typer.Option("--by", help="Length of the spans")
    ] = "year",
    since: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="DATE",
            help="First span, e.g. 2008-01-01",
            show_default="the first with enough sales before it",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="A picture, .html")
    ] = None,
    as_json: AsJson = False,
    bundle: BundleFolder = None,
    model: Model = None,
    alias: Alias = None,
    version: Version = None,
    registry: Registry = None,
    workspace: Workspace = WORKSPACE,
) -> None:
    """Value the sales of each span by what was known before it.

    At each origin the trend, the features and the models are fitted again on the sales before it.

    Examples:
        tasador backtest --by quarter --from 2012-01-01
    """  # fmt: skip
    from tasador.core.hashing import to_plain
    from tasador.inference.model_choice import BundleChoice, chosen_bundle
    from tasador.lifecycle.backtest import backtest as make_backtest
    from tasador.lifecycle.backtest import check_picture, write_picture

    if output is not None:
        check_picture(output)
    choice = BundleChoice(workspace, bundle, model, alias, version, registry)
    with chosen_bundle(choice, tell=note) as chosen:
        loaded = chosen.load()
        found = make_backtest(
            loaded,
            workspace / "data",
            by,
            since,
            tell=lambda origin: err.print(f"  {origin.name}: {origin.rows:,} sales valued"),
        )
    if output is not None:
        write_picture(output, found, loaded.contract.title)
    if as_json:
        print_json(to_plain(found))
        return
    names = ("span", "n", "median APE", "MAPE", "in 10%", "ratio", "COD", "PRD", "held", "plain")
    rows = [
        (o.name, f"{o.rows:,}", *_figures({**o.metrics, "baseline": o.baseline}))
        for o in found.origins
    ]
    rows.append(("mean", "", *_figures(found.mean)))
    out.print(table(names, rows))
    out.print(
        "median APE, MAPE, in 10% (share within 10%) in percent; ratio: median of estimate over "
        "price; held: share inside the interval; plain: median APE of a plain LightGBM"
    )
    if "median_ape" in found.random:
        random, mean = found.random["median_ape"], found.mean["median_ape"]
        out.print(
            f"out of time the median APE is {mean:.2f}% in the mean, by random folds "
            f"{random:.2f}%: {mean / random - 1.0:+.0%}"
        )
    if output is not None:
        out.print(f"wrote {escape(str(output))}")


def _figures(found: Mapping[str, float]) -> tuple[str, ...]:
    percent = (f"{found[name]:.2f}" for name in ("median_ape", "mape", "within_10"))
    ratio, prd = f"{found['median_ratio']:.3f}", f"{found['prd']:.3f}"
    held, plain = f"{found['coverage']:.1%}", f"{found['baseline']:.2f}"
    return (*percent, ratio, f"{found['cod']:.1f}", prd, held, plain)
