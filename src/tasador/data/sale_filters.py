"""Which rows of a table a contract leaves out, by its section ``exclude`` or weight 0, and why."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tasador.contract.encoding import encode_values, sent_as
from tasador.contract.model import Column, Exclusion, TableContract
from tasador.core.errors import ValidationError, did_you_mean

Flags = NDArray[np.bool_]

_SHOWN_LEVELS = 10


def exclude_rows(
    frame: pl.DataFrame, contract: TableContract
) -> tuple[dict[str, NDArray[np.int64]], list[str]]:
    """Return the positions of the rows to leave out, by reason, and what is worth knowing.

    A row that several filters match is counted under the first. Texts are compared as those of
    categories are; a text that cannot be read as a number is neither below nor above one.

    Raises:
        ValidationError: The table lacks a column that a filter names.
    """
    left = np.ones(frame.height, dtype=np.bool_)
    found: dict[str, list[NDArray[np.int64]]] = {}
    notes: list[str] = []
    for one in contract.exclude:
        new = _matches(frame, contract, one, notes) & left
        left &= ~new
        found.setdefault(one.reason, []).append(np.flatnonzero(new))
    weight = contract.with_role("weight")
    sent = None if weight is None else sent_as(weight, frame.columns)
    if weight is not None and sent is not None:
        codes, _ = encode_values(sent, frame[sent.field_name])
        nothing = (codes == 0) & left
        if nothing.any():
            found.setdefault(f"the weight {weight.name!r} is 0", []).append(np.flatnonzero(nothing))
    return {reason: np.sort(np.concatenate(rows)) for reason, rows in found.items()}, notes


def _matches(
    frame: pl.DataFrame, contract: TableContract, one: Exclusion, notes: list[str]
) -> Flags:
    known = {column.name: column for column in (*contract.columns, contract.target.column)}
    column = known.get(one.column, Column(one.column, "text"))
    sent = sent_as(column, frame.columns)
    if sent is None:
        raise ValidationError(
            f"exclude: the table has no column {one.column!r}",
            expected=f"one of {', '.join(map(repr, frame.columns[:20]))}",
            remedy=did_you_mean(one.column, frame.columns),
        )
    series = frame[sent.field_name]
    numeric = column.kind in ("number", "integer", "datetime")
    texts = series.cast(pl.String).str.strip_chars()
    nothing = (texts.is_null() | (texts == "")).fill_null(True).to_numpy()
    if numeric:
        codes, wrong = encode_values(sent, series)
        nothing = np.isnan(codes) & ~wrong
    else:
        missing = list(column.format.missing)
        nothing = nothing | texts.str.to_lowercase().is_in(missing).fill_null(False).to_numpy()
        codes = texts.cast(pl.Float64, strict=False).fill_null(np.nan).to_numpy()
    found = nothing.copy() if one.missing else np.zeros(frame.height, dtype=np.bool_)
    for levels, wanted in ((one.among, True), (one.not_among, False)):
        if levels:
            listed = _listed(column, texts, codes if numeric else None, levels, notes)
            found |= (listed if wanted else ~listed) & ~nothing
    if one.below is not None:
        found |= codes < one.below
    if one.above is not None:
        found |= codes > one.above
    return found


def _listed(
    column: Column,
    texts: pl.Series,
    codes: NDArray[np.float64] | None,
    levels: tuple[str, ...],
    notes: list[str],
) -> Flags:
    """Tell which values are among the levels; note the levels that no row has."""
    present = texts.drop_nulls().unique().sort()
    key_of = {text: column.category_key(text) for text in present}
    if codes is not None:  # 1000 and 1,000.0 are one number, however they are written
        values, _ = encode_values(column.own, list(levels))
        absent = [text for text, value in zip(levels, values, strict=True) if value not in codes]
        listed: Flags = np.isin(codes, values[~np.isnan(values)])
    else:
        wanted = {column.category_key(level): level for level in levels}
        matched = [text for text, key in key_of.items() if key in wanted]
        listed = texts.is_in(matched).fill_null(False).to_numpy()
        absent = [level for key, level in wanted.items() if key not in key_of.values()]
    for level in absent:
        meant = did_you_mean(level, present.to_list()[:1000])
        some = ", ".join(map(repr, present.to_list()[:_SHOWN_LEVELS]))
        notes.append(
            f"exclude: no row has {level!r} in {column.name!r}" + (f" ({meant})" if meant else "")
            + f"; there are {some}" + (" and others" if len(present) > _SHOWN_LEVELS else "")
        )  # fmt: skip
    return listed
