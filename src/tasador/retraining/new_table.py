"""The training table of a retrained model: the reference rows, then the new ones."""

from __future__ import annotations

import datetime as dt
from typing import Any

import polars as pl

from tasador.registry.bundle import ModelBundle
from tasador.retraining.new_rows import NewRows


def extended_table(
    reference: pl.DataFrame, rows: NewRows, bundle: ModelBundle, level: float | None = None
) -> pl.DataFrame:
    """Return the contract's columns of `reference` with the new rows after them.

    New rows get their identifiers from the time of their outcome, since the reference's own kind of
    identifier is not recorded; text is left empty. Equal arguments give equal tables.

    Args:
        reference: The table that the champion was trained on, as it was stored.
        rows: What is added.
        bundle: The champion: its contract and encoder.
        level: What the reference's values are multiplied by; None leaves them. Values beyond the
            target's bounds or at its cap stay there.
    """
    contract = bundle.contract
    columns: dict[str, list[Any]] = dict(bundle.encoder.decode(rows.X))
    columns[contract.target.name] = rows.y.tolist()
    for column in contract.columns:
        if column.kind == "identifier":
            columns[column.name] = [f"outcome {time:.6f}" for time in rows.time.tolist()]
        elif column.name not in columns:
            columns[column.name] = [None] * len(rows)
    names = [name for name in reference.columns if name in columns]
    kept = _levelled(reference.select(names), bundle, level)
    new = pl.DataFrame(
        {name: pl.Series(name, _values(columns[name]), strict=False) for name in names}
    )
    if not len(rows):
        return kept
    return pl.concat([_fitted(kept, new), new.cast(_fitted(kept, new).schema)])


def _levelled(kept: pl.DataFrame, bundle: ModelBundle, level: float | None) -> pl.DataFrame:
    if level is None:
        return kept
    target = bundle.contract.target
    high = min(
        (bound for bound in (target.bounds[1], target.cap) if bound is not None), default=None
    )
    moved = pl.col(target.name).cast(pl.Float64) * level
    return kept.with_columns(moved.clip(target.bounds[0], high).alias(target.name))


def _values(values: list[Any]) -> list[Any]:
    return [v.isoformat() if isinstance(v, dt.datetime) else v for v in values]


def _fitted(kept: pl.DataFrame, new: pl.DataFrame) -> pl.DataFrame:
    """Widen the reference's columns where new values would not fit: whole numbers, times."""
    changes = []
    for name, kind in kept.schema.items():
        given = new.schema[name]
        if kind.is_integer() and given.is_float():
            changes.append(pl.col(name).cast(pl.Float64))
        elif kind.is_temporal():
            changes.append(pl.col(name).dt.to_string("iso:strict"))
    return kept.with_columns(changes)
