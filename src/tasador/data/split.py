"""Set the test part aside before anything is fitted."""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasador.contract.formats import seconds_of
from tasador.core.errors import ConfigError, ValidationError
from tasador.core.seeds import derive_seed
from tasador.data.table import Part, SealedPart, Splits, ValidatedTable
from tasador.data.validation import mix
from tasador.settings.run import SegregateSettings, SplitMethod

Rows = NDArray[np.intp]
Floats = NDArray[np.float64]

#: Fewer rows than this in either part say nothing.
MIN_PART_ROWS = 10


def split_table(validated: ValidatedTable, how: SegregateSettings) -> Splits:
    """Split the validated rows into train and a held-out test set.

    ``row_hash`` assigns each row by its own content: adding, dropping or reordering rows moves no
    other row to the other side, and copies of a row stay together. The test part is `test_share`
    of the rows on average. ``random`` is scikit-learn's ``train_test_split(test_size=test_share,
    random_state=seed)`` over the validated rows in table order, the same rows in the same order,
    for figures that are to be compared with published ones. ``time`` tests on the newest sales:
    those since `how.test_since`, or else the newest `test_share` of them. All sales of a day are on
    one side, and rows without a date train.

    The sales of one property are never on both sides: ``row_hash`` and ``random`` assign whole
    properties; by ``time`` an earlier sale of a property that is tested is left out.

    Args:
        validated: The rows.
        how: Method, seed, and share or date. Without a method it is ``time`` where the contract
            names the date of the sale and the dates allow it, else ``row_hash``.

    Raises:
        ConfigError: A table without dates is to be split by time.
        ValidationError: One of the parts would have fewer than `MIN_PART_ROWS` rows.
    """
    part, earlier = validated.part, None
    method, *notes = _default_method(validated, how) if how.method is None else (how.method,)
    if method == "time":
        train, test, dates = _by_time(validated, how)
        part = replace(part, time=dates)
        straddling = _straddling(part, train, test)
        if straddling.any():
            notes.append(
                f"{int(straddling.sum())} earlier sale(s) of properties in the test part are left "
                "out of training"
            )
            earlier, train = part.take(train[straddling]), train[~straddling]
    elif part.property_hash is not None:
        train, test = _by_property(part.property_hash, how, method)
    elif method == "random":
        train, test = _random(len(validated.y), how.seed, how.test_share)
    else:
        train, test = _by_hash(validated.row_hash, how.seed, how.test_share)
    if min(len(train), len(test)) < MIN_PART_ROWS:
        raise ValidationError(
            "the table is too small to be split",
            expected=f"at least {MIN_PART_ROWS} rows in each part",
            got=f"{len(train)} for training and {len(test)} for testing",
            remedy="add rows, or change segregate.test_share",
        )
    return Splits(
        train=part.take(train),
        sealed=SealedPart(part.take(test)),
        method=method,
        seed=how.seed,
        test_share=how.test_share,
        warnings=(*notes, *_warnings(validated, train, test)),
        earlier=earlier,
    )


def _default_method(validated: ValidatedTable, how: SegregateSettings) -> tuple[Any, ...]:
    """Return the method for a table that is given none, and why it is not time where dates are."""
    if validated.contract.timestamp_position is None:
        return ("row_hash",)
    train, test, dates = _by_time(validated, how)
    fit = train[~_straddling(validated.part, train, test)]
    if how.test_since is not None or (
        min(len(fit), len(test)) >= MIN_PART_ROWS and _goes_forward(dates[fit])
    ):
        return ("time",)
    lacking = float(np.isnan(dates).mean())
    why = f"{lacking:.0%} of the rows have no date" if lacking > 0.5 else "there are too few dates"
    return "row_hash", f"rows are split by what they hold, not by time: {why}"


def _goes_forward(dates: Floats) -> bool:
    """Tell whether the newer half of training rows (n,) makes two folds with older rows before."""
    ordered = np.sort(np.where(np.isnan(dates), -np.inf, dates))
    starts = np.unique(ordered[len(ordered) * np.arange(5, 10) // 10])
    return int((starts > ordered[0]).sum()) >= 2


def _by_time(validated: ValidatedTable, how: SegregateSettings) -> tuple[Rows, Rows, Floats]:
    at = validated.contract.timestamp_position
    if at is None:
        raise ConfigError(
            "segregate.method=time needs the dates of the sales",
            expected="a column with the role timestamp in the contract",
            got="none",
            remedy="give one `role: timestamp`, or set segregate.method=row_hash",
        )
    dates = validated.X[:, at]
    known = dates[~np.isnan(dates)]
    if how.test_since is not None:
        try:
            since = seconds_of(dt.date.fromisoformat(how.test_since))
        except ValueError:
            raise ConfigError("segregate.test_since is no day", expected="such as 2014-01-31",
                              got=how.test_since) from None  # fmt: skip
    elif len(known):
        # of two days around the share asked for, the one that gives the test part no more
        since = float(np.quantile(known, 1.0 - how.test_share, method="inverted_cdf"))
        since = float(known[known > since].min()) if (known > since).any() else since
    else:
        since = math.inf
    test = dates >= since
    return np.flatnonzero(~test), np.flatnonzero(test), dates


def _straddling(part: Part, train: Rows, test: Rows) -> NDArray[np.bool_]:
    """Tell of each training row whether its property is in the test part too."""
    if part.property_hash is None:
        return np.zeros(len(train), np.bool_)
    return np.isin(part.property_hash[train], part.property_hash[test])


def _by_property(
    properties: NDArray[np.uint64], how: SegregateSettings, method: SplitMethod
) -> tuple[Rows, Rows]:
    if method == "row_hash":
        return _by_hash(properties, how.seed, how.test_share)
    names, place = np.unique(properties, return_inverse=True)
    _, chosen = _random(len(names), how.seed, how.test_share)
    test = np.isin(place, chosen)
    return np.flatnonzero(~test), np.flatnonzero(test)


def _random(rows: int, seed: int, test_share: float) -> tuple[Rows, Rows]:
    # the legacy generator on purpose: published figures were made with it
    order = np.random.RandomState(seed).permutation(rows)
    tests = math.ceil(test_share * rows)
    return order[tests:], order[:tests]


def _by_hash(row_hash: NDArray[np.uint64], seed: int, test_share: float) -> tuple[Rows, Rows]:
    salt = np.uint64(derive_seed(seed, "split"))
    # the upper 53 bits make a float in [0, 1) without rounding
    position = (mix(row_hash ^ salt) >> np.uint64(11)).astype(np.float64) / 2.0**53
    test = position < test_share
    return np.flatnonzero(~test), np.flatnonzero(test)


def _warnings(validated: ValidatedTable, train: Rows, test: Rows) -> tuple[str, ...]:
    shared = int(np.isin(validated.row_hash[test], validated.row_hash[train]).sum())
    if not shared:
        return ()
    return (
        f"{shared} test row(s) have an exact copy among the training rows, which flatters the "
        "figures; segregate.method=row_hash keeps copies together",
    )
