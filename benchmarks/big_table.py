"""Writes a seeded table of any size: coordinates, numbers, gaps, categories and a price.

    python benchmarks/big_table.py --rows 1000000 --columns 30 --categories 10000 big.parquet

The price falls with the distance from a hundred towns, follows a tenth of the numbers and one
effect a category, and is noisy by 12%: a perfect model has a median error of 8%.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

NOISE = 0.12
_TOWNS = 100
_GAPS = 0.03


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
    towns = random.uniform((-120, 34), (-114, 40), (_TOWNS, 2))
    dear = random.normal(0, 0.4, _TOWNS)
    town = random.integers(_TOWNS, size=rows)
    place = towns[town] + random.normal(0, 0.15, (rows, 2))
    away = np.linalg.norm(place - towns[town], axis=1)
    score = 12.0 + dear[town] - 0.8 * away
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
    main()
