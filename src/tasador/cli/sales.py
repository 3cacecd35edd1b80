"""Sales: which may be no market prices, the trend of prices, the backtest, the ratio study."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tasador.cli.options import (
    WORKSPACE,
    Alias,
    AsJson,
    BundleFolder,
    Encoding,
    Model,
    NoHeader,
    Registry,
    Settings,
    Sheet,
    Version,
    Workspace,
)
from tasador.cli.output import err, escape, follow, note, out, print_json, table
from tasador.cli.start import with_dataset

if TYPE_CHECKING:
    from rich.table import Table

    from tasador.reporting.cards import CardTable
    from tasador.training.backtest import Backtest

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
    else:
        follow(f"{_of('sales', dataset)} -o review.csv")


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
    out.print(carried(found, log=log), soft_wrap=False)
    if output is not None:
        write_trend(output, found, contract)
        out.print(f"wrote {escape(str(output))}")
        follow("backtest")
    else:
        follow(f"{_of('trend', dataset)} -o trend.html")


def _of(command: str, dataset: str | None) -> str:
    return command if dataset is None else f"{command} --dataset {dataset}"


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
    out.print(table(names, rows, grid=False))
    out.print(_compared(found))
    out.print(
        "median APE, MAPE, in 10% (share within 10%) in percent; ratio: median of estimate over "
        "price; held: share inside the interval "
        f"({found.promised:.0%} promised); kept: ratio had prices stayed as they were before the "
        "span; plain: median APE of a plain LightGBM; "
        "difference: by how much the model's exceeds it, with its 95% interval by paired bootstrap",
        soft_wrap=False,
    )
    if found.rivals:
        out.print(
            f"{escape(', '.join(found.rivals))}: median APE of somebody else's estimates, levelled "
            "by their median ratio on the same sales",
            soft_wrap=False,
        )
    if "median_ape" in found.random:
        random, mean = found.random["median_ape"], found.mean["median_ape"]
        out.print(
            f"out of time the median APE is {mean:.2f}% in the mean, by random folds "
            f"{random:.2f}%: {mean / random - 1.0:+.0%}",
            soft_wrap=False,
        )
    if output is not None:
        out.print(f"wrote {escape(str(output))}")
    follow("models" if output is not None else f"backtest --by {by} -o backtest.html")


def _compared(found: Backtest) -> Table:
    """Return the median errors of model, plain LightGBM and rivals beside each other."""
    others = tuple(found.rivals)
    rows = [
        (one.name, one.metrics, one.baseline, one.difference, one.rivals) for one in found.origins
    ]
    means = {name: value for name, (value, _) in found.rivals.items()}
    rows.append(("mean", found.mean, found.mean["baseline"], found.difference, means))
    names = ("span", "kept", "median APE", "plain", "difference", "95% from", "to", *others)
    return table(
        names,
        [
            (
                name, f"{own['median_ratio_level_kept']:.3f}", f"{own['median_ape']:.2f}",
                f"{plain:.2f}",
                *(f"{value:+.2f}" for value in (gap.value, gap.low, gap.high)),
                *(f"{known[other]:.2f}" if other in known else "–" for other in others),
            )
            for name, own, plain, gap, known in rows
        ],
        grid=False,
    )  # fmt: skip


def _figures(found: Mapping[str, float]) -> tuple[str, ...]:
    percent = (f"{found[name]:.2f}" for name in ("median_ape", "mape", "within_10"))
    ratio, prd = f"{found['median_ratio']:.3f}", f"{found['prd']:.3f}"
    held, plain = f"{found['coverage']:.1%}", f"{found['baseline']:.2f}"
    return (*percent, ratio, f"{found['cod']:.1f}", prd, held, plain)


def ratio(
    file: Annotated[str, typer.Argument(help="Sales with estimates: CSV, Excel, Parquet")],
    sale: Annotated[str, typer.Option(metavar="COLUMN", help="Price")],
    estimate: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN", help="Estimate", show_default="in a desk review: the model's"
        ),
    ] = None,
    against: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Other estimates, shown beside")
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(metavar="COLUMN,...", help="Columns to group by, e.g. class,district"),
    ] = None,
    time: Annotated[str | None, typer.Option(metavar="COLUMN", help="Date of the sale")] = None,
    accept: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIGURE=LOW:HIGH",
            help="Accepted range, e.g. cod=5:20; repeatable",
            show_default="the IAAO's",
        ),
    ] = None,
    gap: Annotated[
        float, typer.Option(min=0, help="Accepted relative difference of a group's median ratio")
    ] = 0.05,
    trim: Annotated[
        bool, typer.Option("--trim", help="Evaluate the figures without outliers")
    ] = False,
    fail: Annotated[
        bool, typer.Option("--fail", help="Exit with 16 when a figure is not met")
    ] = False,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="HTML report to write")] = None,
    lang: Annotated[Literal["en", "es"], typer.Option(help="Language of the texts")] = "en",
    as_json: AsJson = False,
    sheet: Sheet = None,
    encoding: Encoding = None,
    no_header: NoHeader = False,
) -> None:
    """Study how level and even estimates are, as assessors do.

    Figures are compared with the ranges of the IAAO: median ratio 0.9 to 1.1, COD 5 to 15, PRD 0.98
    to 1.03, PRB -0.05 to 0.05. Trimmed figures leave out ratios beyond 3 interquartile ranges. With
    --fail, the exit code is 16 when a figure of --estimate lies outside of its range.

    Of a workbook for a desk review the model's values and the reviewed ones are studied.

    Examples:
        tasador ratio roll.csv --sale price --estimate value --by class,district --time sold
        tasador ratio sales.xlsx --sale price --estimate model --against roll --html study.html
        tasador ratio review.xlsx --sale price
    """
    from tasador.contract.model import Source
    from tasador.ops.ratio_file import NOT_MET_EXIT_CODE, RatioRequest, parse_ranges, study_file
    from tasador.reporting.ratio_report import RatioDocument, write_ratio_report

    groups = tuple(name.strip() for name in (by or "").split(",") if name.strip())
    source = Source(sheet=sheet, encoding=encoding, has_header=False if no_header else None)
    ranges = parse_ranges(accept or [])
    found = study_file(
        RatioRequest(file, sale, estimate, against, groups, time, source, ranges, gap)
    )
    document = RatioDocument(found.file, found.rows, found.left_out, found.studies, gap, trim, lang)
    if html is not None:
        write_ratio_report(html, document)
    if as_json:
        print_json(found.to_plain())
    else:
        for line in found.notes:
            note(line)
        for one in document.tables():
            out.print(f"[bold]{escape(one.title)}[/]")
            out.print(_coloured(one))
            if one.note:
                out.print(f"[dim]{escape(one.note)}[/]", soft_wrap=False)
            out.print()
        for line in (*document.notes(), *document.conclusions()):
            out.print(escape(line), soft_wrap=False)
        if html is not None:
            out.print(f"wrote {escape(str(html))}")
        else:
            given = [file, "--sale", sale, *(["--estimate", estimate] if estimate else [])]
            follow(f"ratio {shlex.join(given)} --html study.html")
    if fail and next(iter(found.studies.values())).not_met(trimmed=trim):
        raise typer.Exit(NOT_MET_EXIT_CODE)


def _coloured(one: CardTable) -> Table:
    """Return a table of texts whose verdicts have their colours."""
    from rich.table import Table
    from rich.text import Text

    from tasador.reporting.cards import table_view

    view = table_view(one)
    found = Table(box=None, pad_edge=False, padding=(0, 1))
    for name, align in view["head"]:
        right = align == "right"
        found.add_column(escape(name), justify="right" if right else "left", overflow="fold")
    for row in view["rows"]:
        cells = []
        for text, kind in row:
            style = "red" if kind.endswith("unmet") else "green" if kind.endswith("met") else ""
            cells.append(Text(text, style))
        found.add_row(*cells)
    return found
