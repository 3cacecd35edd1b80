"""The tables of `tables.py`: where each is, and how a pandas user reads it by hand.

Imported in the environments of the peers too: it needs pandas only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd


@dataclass(frozen=True)
class Table:
    """A table as its owner left it.

    Attributes:
        file: Below the folder of the real tables.
        target: The column to estimate.
        prepare: Parses money, units and dates; without it the columns are taken as pandas reads
            them.
        leaks: Columns that say the target in other words: dropped by hand for the peers.
        drop: Columns that a user drops as well, row numbers and identifiers.
        categories: Columns of numbers that are names, as postal codes.
        objective: Of the plain LightGBM.
        date: When a row was sold, for cuts by time.
    """

    file: str
    target: str
    prepare: Callable[[pd.DataFrame], None] | None = None
    leaks: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    objective: str = "l2"
    date: str = ""


def number(texts: pd.Series) -> pd.Series:
    """Return the first number in each text, without thousands marks."""
    found = texts.astype(str).str.replace(",", "").str.extract(r"(-?\d+(?:\.\d+)?)")[0]
    return pd.to_numeric(found, errors="coerce")


def days(texts: pd.Series, *, day_first: bool = False) -> pd.Series:
    """Return dates as days since 1970."""
    dates = pd.to_datetime(texts, dayfirst=day_first, errors="coerce", format="mixed")
    return (dates - pd.Timestamp("1970-01-01")).dt.days


def _melbourne(frame: pd.DataFrame) -> None:
    frame["Date"] = days(frame["Date"], day_first=True)


def _bengaluru(frame: pd.DataFrame) -> None:
    ends = frame["total_sqft"].astype(str).str.split(" - ", expand=True).apply(number)
    frame["total_sqft"] = ends.mean(axis=1)


def _used_cars(frame: pd.DataFrame) -> None:
    frame["milage"] = number(frame["milage"])


def _king_county(frame: pd.DataFrame) -> None:
    frame["DocumentDate"] = days(frame["DocumentDate"])


TABLES = {
    "housing": Table("housing.csv", "median_house_value"),
    "diamonds": Table("diamonds.csv", "price"),
    "melbourne": Table("tables/melbourne.csv", "Price", _melbourne),
    "bengaluru": Table("tables/bengaluru.csv", "price", _bengaluru),
    "used_cars": Table("tables/used_cars.csv", "price", _used_cars),
    "insurance": Table("tables/insurance.csv", "expenses"),
    "car_features": Table("tables/car_features.csv", "MSRP"),
    "ames": Table("tables/ames.csv", "Sale_Price"),
    "king_county_sales": Table(
        "tables/king_county_sales.tsv", "SalePrice", _king_county,
        leaks=("AdjSalePrice", "zhvi_px", "zhvi_idx"), drop=("PropertyID", "ym"),
    ),
}  # fmt: skip


#: Sales by date, for `valuation_peers.py`. The assessor's values may say later prices.
SALES = {
    "king_county_by_date": Table(
        "tables/king_county_sales.tsv", "SalePrice", _king_county,
        leaks=("AdjSalePrice", "zhvi_px", "zhvi_idx", "LandVal", "ImpsVal"),
        drop=("PropertyID", "ym"), categories=("ZipCode",), objective="l1", date="DocumentDate",
    ),
    "melbourne_by_date": Table(
        "tables/melbourne.csv", "Price", _melbourne, categories=("Postcode",), objective="l1",
        date="Date",
    ),
}  # fmt: skip


def read_table(path: Path, table: Table) -> pd.DataFrame:
    """Read a file of the table as its user does; the target, where it is there, as numbers."""
    frame = pd.read_csv(path, sep="\t" if table.file.endswith("tsv") else ",")
    frame = frame.drop(columns=[*table.leaks, *table.drop], errors="ignore")
    if table.prepare is not None:
        table.prepare(frame)
    for name in table.categories:
        frame[name] = frame[name].astype("Int64").astype("string")
    if table.target in frame:
        frame[table.target] = number(frame[table.target])
    return frame
