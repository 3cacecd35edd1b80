"""Download, segregate, impute: the steps before any feature is made."""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasador.contract.formats import date_text
from tasador.contract.model import SET_ASIDE, TableContract
from tasador.core import storage
from tasador.core.escape import cell
from tasador.core.hashing import sha256_bytes, sha256_file, to_plain
from tasador.data import sources
from tasador.data.split import split_table
from tasador.data.table import Part, SealedPart, Splits, Table
from tasador.data.validation import validate_table
from tasador.features.imputation import Strategy
from tasador.modeling.target_transform import trend_from_dict, trend_to_dict
from tasador.modeling.trend import Trend, trend_of
from tasador.reporting import plots
from tasador.reporting.cards import CardBuilder
from tasador.selection.imputer_selection import (
    ColumnEvidence,
    ImputerScore,
    choose_cheapest,
    compare_imputers,
)
from tasador.settings.run import ImputationSettings
from tasador.training.context import (
    Rows,
    RunContext,
    StepOutput,
    StoredTable,
    load_json,
    load_part,
    save_json,
    save_part,
)
from tasador.training.sales import (
    decided_rows,
    describe_sales,
    load_configured_table,
    without_suspicious,
)

Floats = NDArray[np.float64]


def download_inputs(run: RunContext) -> Any:
    """Return what decides which bytes are read: the source, and the local file's own hash."""
    if run.given is not None:
        return to_plain(run.given)
    settings = run.settings.download
    local = storage.find_local(run.settings.contract.source.paths, settings.search)
    content = None if local is None else [str(local), sha256_file(local)]
    return [run.settings.contract.source, settings, run.settings.seed, content]


def segregate_inputs(run: RunContext) -> Any:
    """Return what decides which rows are trained on: the settings, and what a person decided."""
    review = run.settings.segregate.sales_review
    content = [] if review is None else [sha256_bytes(storage.read_bytes(review))]
    half_life = run.settings.model.half_life
    return [run.settings.segregate, *content, *([] if half_life is None else [half_life])]


def download(run: RunContext, out: StepOutput) -> None:
    """Read the table from the first source that has it and store it by content hash."""
    table, card = _table(run), out.card
    card.fact("Source", table.source)
    card.fact("Origin", table.origin)
    card.fact("Rows", table.frame.height)
    card.fact("Columns", table.frame.width)
    card.fact("Content hash", table.content_hash, "SHA-256 of the stored Parquet file")
    for warning in table.warnings:
        card.warn(warning)
    save_json(
        out.folder / "table.json",
        {
            "content_hash": table.content_hash,
            "origin": table.origin,
            "source": table.source,
            "warnings": table.warnings,
        },
    )


def _table(run: RunContext) -> Table:
    settings, folder = run.settings.download, run.workspace / "data"
    given = run.given
    if given is not None:
        frame = sources.read_stored(folder, given.content_hash)
        return Table(frame, given.content_hash, given.origin, given.source)
    return load_configured_table(run.settings.contract, settings, folder, run.settings.seed)


def load_download(run: RunContext, folder: Path) -> StoredTable:
    """Read the table's identity; its rows are read only by the step that needs them."""
    plain = load_json(folder / "table.json")
    # a stored table that is lost or damaged makes this step run again, not a later one fail
    sources.read_stored(run.workspace / "data", plain["content_hash"])
    return StoredTable(plain["content_hash"], plain["origin"], plain["source"])


def segregate(run: RunContext, out: StepOutput, stored: StoredTable) -> None:
    """Validate the rows against the contract, then split them."""
    settings, contract = run.settings.segregate, run.settings.contract
    folder, card = out.folder, out.card
    table = Table(
        frame=sources.read_stored(run.workspace / "data", stored.content_hash),
        content_hash=stored.content_hash,
        origin=stored.origin,
        source=stored.source,
    )
    validated = validate_table(
        table,
        contract,
        max_refused_share=settings.max_refused_share,
        min_rows=settings.min_rows,
    )
    teaching, kept, sales = decided_rows(validated, settings)
    splits = split_table(teaching.aged(run.settings.model.half_life), settings)
    splits, sales = without_suspicious(splits, teaching, settings, kept, sales)
    trend = _trend(run, splits.train, card)
    if trend is not None:
        save_json(folder / "trend.json", trend_to_dict(trend))
    save_part(folder / "train.npz", splits.train)
    splits.sealed.store(lambda part: save_part(folder / "sealed.npz", part))
    if splits.earlier is not None:
        save_part(folder / "earlier.npz", splits.earlier)
    left_out = {reason: count for reason, count in sales.counts.items() if count}
    save_json(
        folder / "refused.json",
        {
            "count": len(validated.refused),
            "left_out": left_out,
            "method": splits.method,
            "kept": kept.tolist(),
        },
    )
    with (folder / "left_out.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["row", "reason"])
        writer.writerows((row, cell(why)) for why, rows in sales.left_out.items() for row in rows)
    # `cell`: a spreadsheet would run a text that begins with = or @ as a formula
    with (folder / "refused.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["row", "column", "reason"])
        writer.writerows((r.number, cell(r.column), cell(r.reason)) for r in validated.refused)
    card.fact("Rows accepted", len(validated.y))
    card.fact("Rows refused", len(validated.refused))
    describe_sales(card, sales, contract.target.name)
    card.fact("Split", splits.method, _boundary(contract, splits, settings.seed))
    card.fact("Training rows", len(splits.train))
    weight = splits.train.fit_weight()
    if weight is not None:
        card.fact("Weights of training rows", _weighting(run), _spread(weight))
    card.fact("Held-out test rows", len(splits.sealed), "opened once, by the register step")
    if contract.set_aside:
        card.table(
            "Columns set aside by `tasador init`",
            ("column", "why"),
            [(c.name, (c.description or "").removeprefix(SET_ASIDE)) for c in contract.set_aside],
            note="What a column explains of the target is measured by itself, each row without "
            "itself. `kind` in the contract, or `init --category`, brings a column back.",
        )
    for warning in (*validated.warnings, *splits.warnings):
        card.warn(warning)
    if validated.refused:
        first = validated.refused[0]
        card.warn(
            f"{len(validated.refused)} of {table.frame.height} rows were refused and are not used, "
            f"the first is row {first.number}: {first.column!r}: {first.reason}"
        )
        card.table(
            "Refused rows",
            ("row", "column", "reason"),
            [(r.number, r.column, r.reason) for r in validated.refused[:50]],
            note="The first 50; all are in refused.csv beside the cached result.",
        )
        reasons = Counter(f"{r.column}: {r.reason}"[:60] for r in validated.refused)
        card.figure(plots.refused_bars(dict(reasons.most_common(12))))
    target = contract.target
    card.figure(
        plots.target_histogram(splits.train.y, name=target.name, unit=target.unit, cap=target.cap),
        plots.column_histograms(contract, splits.train.X),
        plots.split_bars(len(splits.train), len(splits.sealed)),
    )


def _weighting(run: RunContext) -> str:
    """Say what weights rows."""
    column, half_life = run.settings.contract.with_role("weight"), run.settings.model.half_life
    found = [] if column is None else [f"column {column.name!r}"]
    return " and ".join(found + ([] if half_life is None else [f"half-life {half_life:g} days"]))


def _spread(weight: Floats) -> str:
    """Say how far weights (n,) of mean 1 are apart, and how many equal ones say as much (Kish)."""
    worth = weight.sum() ** 2 / np.square(weight).sum()
    return (
        f"{weight.min():.3g} to {weight.max():.3g} times the mean; they say as much as "
        f"{worth:,.0f} rows that count alike"
    )


def _boundary(contract: TableContract, splits: Splits, seed: int) -> str:
    """Say where the test part begins, or what else tells the two apart."""
    at = contract.timestamp_position
    if splits.method != "time" or at is None:
        return f"seed {seed}"
    dates = splits.train.X[:, at]
    return f"the newest sales are tested; training ends on {date_text(float(np.nanmax(dates)))}"


def _trend(run: RunContext, train: Part, card: CardBuilder) -> Trend | None:
    """Fit how the level of prices moved; None where rows are not split by time."""
    settings, contract = run.settings.segregate, run.settings.contract
    if train.time is None or settings.trend == "none":
        return None
    target = run.transform.forward(train.y)
    trend = trend_of(
        contract,
        train.X,
        target,
        train.property_hash,
        carry=settings.trend,
        seed=settings.seed,
    )
    if trend is None:
        card.note("The dates cover too few months with sales for a trend of prices.")
        return None
    log = run.transform.kind == "log"
    card.fact("Trend of prices", f"{len(trend.level)} months", "sales are brought to the newest")
    card.figure(plots.trend_line(trend, log=log, unit=contract.target.unit))
    return trend


def load_segregate(run: RunContext, folder: Path) -> Rows:
    """Read the training rows, at the newest level of prices, and the held-out test set."""
    counts = load_json(folder / "refused.json")
    train, trend = load_part(folder / "train.npz"), None
    if (folder / "trend.json").exists():
        trend = trend_from_dict(load_json(folder / "trend.json"))
        transform = replace(run.transform, trend=trend)
        assert train.time is not None  # noqa: S101 - only then is there a trend
        train = replace(train, y=transform.at_newest_level(train.y, train.time))
    return Rows(
        train,
        SealedPart(load_part(folder / "sealed.npz")),
        counts["count"],
        counts["left_out"],
        trend,
        counts["method"],
        load_part(folder / "earlier.npz") if (folder / "earlier.npz").exists() else None,
        tuple(counts["kept"]),
    )


_MOST_FIGURES = 6
TITLES = {
    "median": "median",
    "mean": "mean",
    "iterative_linear": "iterative, linear",
    "knn": "nearest neighbours",
    "boosting": "gradient boosting",
    "iterative_rf": "iterative, random forest",
    "native": "left to the model",
}


def impute(run: RunContext, out: StepOutput, rows: Rows) -> None:
    """Compare imputers on masked known values of train, and choose one for each column."""
    contract, train, card = run.settings.contract, rows.train, out.card
    settings = run.settings.impute
    evidence = compare_imputers(settings, contract, train, run.transform, run.settings.seed)
    save_json(
        out.folder / "imputation.json",
        {
            "strategy": settings.strategy,
            "columns": {found.column: found.chosen for found in evidence},
            "evidence": evidence,
        },
    )
    card.fact("Strategy", settings.strategy, "with a 0/1 column where train lacked values")
    card.fact("Columns that may lack values", len(evidence))
    for found in evidence[:_MOST_FIGURES]:
        card.fact(f"{found.column} filled by", TITLES[found.chosen], _reason(settings, found))
    lacking = np.asarray(np.isnan(train.X).any(axis=0))
    never = [f.column for f in evidence if not lacking[contract.position(f.column)]]
    if never:
        card.note(
            f"No training row lacks {' or '.join(never)}, though the contract allows it: what is "
            "filled in there is only ever seen at predict time."
        )
    _show(run, settings, evidence, len(train), card)
    if lacking.any():
        card.figure(plots.missing_bars(contract, train.X))


def _reason(settings: ImputationSettings, found: ColumnEvidence) -> str:
    if found.best is None:
        return "not compared: few gaps, too few known values, or beyond impute.max_columns"
    cheapest, _, _ = choose_cheapest(_restoring(found), settings.folds)
    if found.chosen != cheapest.strategy:
        return f"as configured; auto would take {TITLES[cheapest.strategy]}"
    if found.chosen == found.best:
        return "no other restores it as well, and none cheaper is within one standard error"
    return f"the cheapest within one standard error of the best ({TITLES[found.best]})"


def _show(
    run: RunContext,
    settings: ImputationSettings,
    evidence: tuple[ColumnEvidence, ...],
    rows: int,
    card: CardBuilder,
) -> None:
    measured = [found for found in evidence if found.scores]
    if not measured:
        return
    unit = run.settings.contract.target.unit
    cells = [
        (
            found.column,
            TITLES[score.strategy] + (" (chosen)" if score.strategy == found.chosen else ""),
            score.mean if score.errors else None,
            score.spread if score.errors else None,
            score.standard_error(settings.folds) if score.errors else None,
            score.downstream,
            score.seconds,
        )
        for found in measured
        for score in found.scores
    ]
    price = f"model's MAE ({unit})" if unit else "model's MAE"
    known = ", ".join(f"{f.column} {f.unmasked:.6g}" for f in measured if f.unmasked is not None)
    card.table(
        "Reconstruction of masked known values",
        ("column", "imputer", "RMSE", "spread", "standard error", price, "seconds"),
        cells,
        note=f"{settings.repeats} times {settings.folds} folds of {min(rows, settings.max_rows)} "
        "training rows, the cheapest imputer first. The model is a small LightGBM on the "
        "table's own columns, compared by cross-validation on rows whose value was masked in "
        f"fitting and valuing alike; with the values known its MAE is: {known}.",
    )
    for found in measured[:_MOST_FIGURES]:
        shown = _restoring(found)
        names = [score.strategy for score in shown]
        card.figure(
            plots.imputer_bars(
                found.column,
                [TITLES[name] for name in names],
                [np.array(score.errors) for score in shown],
                chosen=names.index(found.chosen) if found.chosen in names else None,
                limit=found.limit,
            )
        )


def _restoring(found: ColumnEvidence) -> list[ImputerScore]:
    """Return the scores of the imputers that put a number in the gap."""
    return [score for score in found.scores if score.errors]


def load_impute(_: RunContext, folder: Path) -> dict[str, Strategy]:
    """Read what fills each column."""
    return dict(load_json(folder / "imputation.json")["columns"])
