"""What a contract takes from tables before a model is trained: files it names, and its own levels.

A bundle values rows on machines that have none of these, so their content becomes part of it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tasador.contract.derived import Derive
from tasador.contract.encoding import encode_values
from tasador.contract.format_inference import number_reading
from tasador.contract.formats import PLAIN, extractor
from tasador.contract.model import Column, TableContract, latitude_like, longitude_like
from tasador.contract.type_inference import levels_of
from tasador.core import storage
from tasador.core.errors import ContractError
from tasador.data.readers import read_table

_MOST_POINTS = 10_000
_MOST_LEVELS = 100_000


def with_files_read(
    contract: TableContract, search: Sequence[storage.Location] = ()
) -> TableContract:
    """Return `contract` with the points and tables of its ``derive`` section filled in.

    Args:
        contract: May name files that have not been read.
        search: Folders under which relative paths are looked for after the working folder.

    Raises:
        ContractError: A file is missing or lacks the columns that are wanted.
        SourceError: It cannot be read as a table.
    """
    columns = []
    for column in contract.columns:
        derive = column.derive
        if derive is not None and derive.file is not None:
            columns.append(replace(column, derive=_read(column.name, derive, search)))
        else:
            columns.append(column)
    return replace(contract, columns=tuple(columns))


def with_levels_learned(contract: TableContract, frame: pl.DataFrame) -> TableContract:
    """Return `contract` with the levels that its training table has, of columns that learn them.

    Of more than 50 levels, those of a single row are left out; 10 000 at most are kept.
    """
    columns = (
        replace(column, categories=_learned(column, frame[column.field_name]))
        if column.learned and column.field_name in frame.columns else column
        for column in contract.columns
    )  # fmt: skip
    return replace(contract, columns=tuple(columns))


def _learned(column: Column, series: pl.Series) -> tuple[str, ...]:
    texts = series.drop_nulls().cast(pl.String).str.strip_chars()
    if column.extract is not None:
        part = extractor(column.extract, column.format)
        texts = texts.map_elements(part, return_dtype=pl.String)
    levels, _ = levels_of(texts.filter(texts != ""))
    return levels


def _read(name: str, derive: Derive, search: Sequence[storage.Location]) -> Derive:
    assert derive.file is not None  # noqa: S101 - looked at above
    place = _place(derive.file, search)
    if place is None:
        if derive.points or derive.table:  # read when the contract was first used
            return derive
        raise ContractError(
            f"derive.{name}.file: there is no file {derive.file}",
            remedy="check the path; it is taken from the working folder",
        )
    frame = read_table(place)
    if derive.operation == "distance_to":
        return replace(derive, points=_points(name, frame, place))
    return replace(derive, table=_table(name, derive, frame, place))


def _place(file: str, search: Sequence[storage.Location]) -> storage.Location | None:
    if "://" in file:
        return file if storage.exists(file) else None
    places: list[storage.Location] = [
        Path(file),
        *(storage.join(folder, file) for folder in search),
    ]
    return next((place for place in places if storage.exists(place)), None)


def _points(
    name: str, frame: pl.DataFrame, place: storage.Location
) -> tuple[tuple[float, float], ...]:
    found = []
    for what, fits in (("longitude", longitude_like), ("latitude", latitude_like)):
        named = next((c for c in frame.columns if fits(c)), None)
        if named is None:
            raise ContractError(
                f"derive.{name}.file: {place} has no column of the {what}",
                expected="columns called longitude and latitude, or lon and lat",
                got=", ".join(frame.columns[:20]),
            )
        found.append(_numbers(frame[named]))
    known = np.isfinite(found[0]) & np.isfinite(found[1])
    if not 0 < known.sum() <= _MOST_POINTS:
        raise ContractError(
            f"derive.{name}.file: {place} has {int(known.sum())} points",
            expected=f"1 to {_MOST_POINTS}",
        )
    return tuple(zip(found[0][known].tolist(), found[1][known].tolist(), strict=True))


def _table(
    name: str, derive: Derive, frame: pl.DataFrame, place: storage.Location
) -> tuple[tuple[str, float], ...]:
    key, value = derive.key or derive.columns[0], derive.value or name
    for wanted in (key, value):
        if wanted not in frame.columns:
            raise ContractError(
                f"derive.{name}.file: {place} has no column {wanted!r}",
                expected=f"one of {', '.join(frame.columns[:20])}",
                remedy="name them with `key` and `value`",
            )
    keys, values = frame[key].cast(pl.String).to_list(), _numbers(frame[value])
    table: dict[str, float] = {}
    for level, number in zip(keys, values.tolist(), strict=True):
        if level is None or not math.isfinite(number):
            continue
        if table.setdefault(level.strip(), number) != number:
            raise ContractError(
                f"derive.{name}.file: {place} has two values of {value!r} for {level!r}",
                expected="each key once",
            )
    if not 0 < len(table) <= _MOST_LEVELS:
        raise ContractError(
            f"derive.{name}.file: {place} has {len(table)} keys", expected=f"1 to {_MOST_LEVELS}"
        )
    return tuple(table.items())


def _numbers(series: pl.Series) -> NDArray[np.float64]:
    form = PLAIN
    if series.dtype == pl.String:
        reading = number_reading(Counter(series.drop_nulls().str.strip_chars().to_list()))
        form = PLAIN if reading is None else reading.form
    return encode_values(Column(series.name, "number", format=form), series)[0]
