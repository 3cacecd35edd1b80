"""`tasador trend`: how the level of prices moved, from a table of sales."""

from __future__ import annotations

import calendar
import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from tasador.contract.model import TableContract
from tasador.core import storage
from tasador.core.errors import ConfigError, ValidationError
from tasador.modeling.target_transform import TargetTransform
from tasador.modeling.trend import FEWEST_MONTHS, FEWEST_SALES, Trend, trend_of
from tasador.settings.run import RunSettings
from tasador.training.sales import read_validated

#: The formats of `--output`, by the file's ending.
FORMATS = (".html", ".csv", ".json")
_MOST_QUARTERS = 48


class NoTrendError(ValidationError):
    """A table whose prices have no trend that could be estimated."""

    @classmethod
    def without_dates(cls, contract: TableContract) -> NoTrendError:
        """Return the error of a table whose contract names no date of the sale."""
        dates = [column.name for column in contract.columns if column.kind == "datetime"]
        remedy = f"give {' or '.join(dates)} that role" if dates else "add the date of each sale"
        return cls(
            f"the table {contract.name!r} has no dates of sales",
            expected="a column with `role: timestamp` in the contract",
            got="none",
            remedy=remedy,
        )

    @classmethod
    def too_short(cls, rows: int) -> NoTrendError:
        """Return the error of sales that lie in too few months."""
        return cls(
            "the sales are too few for a trend",
            expected=f"at least {FEWEST_MONTHS} months with {FEWEST_SALES} sales each",
            got=f"{rows} sales in fewer",
        )


class TrendFileError(ConfigError):
    """A file of a format that a trend is not written in."""

    @classmethod
    def unknown(cls, path: Path) -> TrendFileError:
        """Return the error of a file's ending."""
        return cls("the trend cannot be written in that format",
                   expected=f"a file that ends in {', '.join(FORMATS)}", got=path.name)  # fmt: skip


def check_output(path: Path) -> None:
    """Refuse a file before anything is computed for it.

    Raises:
        ConfigError: Its ending is none of `FORMATS`.
    """
    if path.suffix.lower() not in FORMATS:
        raise TrendFileError.unknown(path)


def trend_of_table(settings: RunSettings) -> Trend:
    """Return the trend of the table that `settings` name, without the sales that are excluded.

    Raises:
        ValidationError: The table does not meet its contract, has no dates, or too few sales.
        SourceError: It was not found.
    """
    if settings.contract.timestamp_position is None:
        raise NoTrendError.without_dates(settings.contract)
    _, validated = read_validated(settings, replace(settings.download, allow_synthetic=False))
    contract, carry = validated.contract, settings.segregate.trend
    target = TargetTransform(contract.target.transform).forward(validated.y)
    found = trend_of(
        contract,
        validated.X,
        target,
        validated.property_hash,
        carry="drift" if carry == "none" else carry,
        seed=settings.seed,
    )
    if found is None:
        raise NoTrendError.too_short(len(validated.y))
    return found


def spans(trend: Trend, *, log: bool) -> list[tuple[str, float, float, float, int]]:
    """Return a row a quarter, or a year of a long trend: name, index, its bounds, sales.

    The index is 100 in the newest month, under a log target; else it is the level's distance from
    the newest month, in the target's unit. Levels are means by sales, bounds those of 95%.
    """
    yearly = len(trend.level) > 3 * _MOST_QUARTERS
    months = np.arange(trend.first, trend.first + len(trend.level))
    part = months // (12 if yearly else 3)
    rows = []
    for number in np.unique(part).tolist():
        here = part == number
        # a span without sales has a level all the same
        weight = trend.sales[here] + 1e-9
        level = float(np.average(trend.level[here], weights=weight))
        error = float(np.average(trend.error[here], weights=weight))
        low, high = level - 1.96 * error, level + 1.96 * error
        year = 1970 + number // (1 if yearly else 4)
        name = str(year) if yearly else f"{year} Q{number % 4 + 1}"
        if log:
            level, low, high = (100.0 * math.exp(value) for value in (level, low, high))
        rows.append((name, level, low, high, int(trend.sales[here].sum())))
    return rows


def write_trend(path: Path, trend: Trend, contract: TableContract) -> None:
    """Write the trend month by month, as `path` ends: HTML with its picture, CSV or JSON.

    Raises:
        ConfigError: Another ending.
        StorageError: The file cannot be written.
        MissingExtraError: jinja2 or matplotlib is not installed.
    """
    check_output(path)
    rows = trend.table()
    if path.suffix.lower() == ".html":
        text = _page(trend, contract)
    elif path.suffix.lower() == ".csv":
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        text = buffer.getvalue()
    else:
        spec, _ = trend.state()
        text = json.dumps({**spec, "months": rows}, indent=1) + "\n"
    storage.write_text(path, text)


def carried(trend: Trend, *, log: bool) -> str:
    """Say how the trend goes on beyond its last month, and how uncertain that is."""

    def said(number: float) -> str:
        return f"{100 * math.expm1(number):+.1f}%" if log else f"{number:+,.4g}"

    year = np.array([12.0])
    ahead = float(trend.carried(year)[0])
    how = "carried flat" if trend.carry == "flat" else f"carried on by {said(ahead)} in a year"
    adds = f"{said(trend.growth)[1:]} of standard error"
    text = f"beyond the last month {how}; a month adds {adds}, less after a year"
    if trend.season is None:
        return text
    low, high = int(trend.season.argmin()), int(trend.season.argmax())
    apart = said(float(np.ptp(trend.season)))[1:]
    return f"{text}. {calendar.month_name[high]} is {apart} above {calendar.month_name[low]}"


def _page(trend: Trend, contract: TableContract) -> str:
    from tasador.reporting.cards import CardBuilder, render
    from tasador.reporting.plots import trend_line

    log = contract.target.transform == "log"
    card = CardBuilder("trend", f"Trend of prices: {contract.title}")
    card.fact("Months", len(trend.level))
    card.fact("Sales", int(trend.sales.sum()))
    card.figure(trend_line(trend, log=log, unit=contract.target.unit))
    card.note(carried(trend, log=log))
    header = ("span", "index" if log else "level", "95% from", "to", "sales")
    card.table("By span", header, _rounded(spans(trend, log=log)))
    return render("card.html.j2", card=card.build())


def _rounded(
    rows: Sequence[tuple[str, float, float, float, int]],
) -> list[tuple[str, float, float, float, int]]:
    return [(name, *(round(value, 1) for value in values), sales)  # type: ignore[misc]
            for name, *values, sales in rows]  # fmt: skip
