"""Writes a seeded table of any size: coordinates, numbers, gaps, categories and a price.

    python benchmarks/big_table.py --rows 1000000 --columns 30 --categories 10000 big.parquet

The price falls with the distance from the row's town, follows a tenth of the numbers and one
effect a category, and is noisy by 12%. There are a hundred towns, which overlap: where a row lies
does not always tell its town. `least_error` says what is left to who knows everything else.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from isolation import isolate

NOISE = 0.12
_TOWNS = 100
_FALL, _SPREAD = 0.8, 0.15  # of the price's logarithm with a degree; of places about a town
_JUDGED, _DRAWS = 20_000, 200
_GAPS = 0.03
Floats = NDArray[np.float64]


def make_table(rows: int, columns: int, categories: int, seed: int = 42) -> pl.DataFrame:
    """Return a table of `columns` columns, the price among them.

    Args:
        rows: Its rows.
        columns: At least 5: two coordinates, a category column, a number, the price.
        categories: Distinct values of the category column; others have 3, 12 and 50 where there is
            room for them.
        seed: Of everything.
    """
    random = np.random.default_rng(seed)
    towns, dear, town, place = _places(rows, random)
    away = np.linalg.norm(place - towns[town], axis=1)
    score = 12.0 + dear[town] - _FALL * away
    data: dict[str, NDArray[np.generic]] = {"longitude": place[:, 0], "latitude": place[:, 1]}
    kinds = [categories, *(k for k in (3, 12, 50) if columns >= 12)]
    for number, kind in enumerate(kinds):
        code = np.minimum((kind * random.random(rows) ** 2).astype(np.int64), kind - 1)
        score += random.normal(0, 0.15, kind)[code]
        names = np.array([f"kind {i:06d}" for i in range(kind)])
        data[f"category_{number}"] = names[code]
    numbers = columns - 3 - len(kinds)
    for number in range(numbers):
        value = np.exp(random.normal(3.0, 0.5, rows))
        if number % 10 == 0:
            score += 0.15 * (np.log(value) - 3.0)
        if number % 5 == 1:
            value[random.random(rows) < _GAPS] = np.nan
        data[f"number_{number}"] = value.round(3)
    price = np.exp(score + random.normal(0, NOISE, rows)).round(-2)
    frame = pl.DataFrame({**data, "price": price})
    return frame.with_columns(pl.col(pl.Float64).fill_nan(None))


def _places(
    rows: int, random: np.random.Generator
) -> tuple[Floats, Floats, NDArray[np.int64], Floats]:
    """Return where towns lie (100, 2), how dear each is, each row's town and its place (n, 2)."""
    towns = random.uniform((-120, 34), (-114, 40), (_TOWNS, 2))
    dear = random.normal(0, 0.4, _TOWNS)
    town = random.integers(_TOWNS, size=rows)
    return towns, dear, town, towns[town] + random.normal(0, _SPREAD, (rows, 2))


def least_error(seed: int = 42) -> float:
    """Return the median error, in percent, of who knows all but a row's town and its noise.

    The estimate is the median of the price given the place: towns weigh as likely as it is that
    they lie there (Bayes), so that no model does better on many rows.
    """
    random = np.random.default_rng(seed)
    towns, dear, town, place = _places(_JUDGED, random)
    away = np.linalg.norm(place[:, None] - towns, axis=2)
    score = dear - _FALL * away
    likely = np.exp((away.min(axis=1, keepdims=True) ** 2 - away**2) / (2 * _SPREAD**2))
    chance = np.cumsum(likely, axis=1) / likely.sum(axis=1, keepdims=True)
    errors = np.empty(_JUDGED)
    for row in range(_JUDGED):
        drawn = np.searchsorted(chance[row], random.random(_DRAWS)).clip(max=_TOWNS - 1)
        best = np.median(score[row, drawn] + random.normal(0, NOISE, _DRAWS))
        errors[row] = best - score[row, town[row]]
    errors += random.normal(0, NOISE, _JUDGED)
    return float(np.median(np.abs(np.expm1(errors)))) * 100.0


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--columns", type=int, default=30)
    parser.add_argument("--categories", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("out", type=Path)
    chosen = parser.parse_args(arguments)
    frame = make_table(chosen.rows, chosen.columns, chosen.categories, chosen.seed)
    if chosen.out.suffix == ".csv":
        frame.write_csv(chosen.out)
    else:
        frame.write_parquet(chosen.out)


if __name__ == "__main__":
    isolate()
    main()
