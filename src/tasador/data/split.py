"""Set the test part aside before anything is fitted."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from tasador.core.errors import ConfigError, ValidationError
from tasador.core.seeds import derive_seed
from tasador.data.table import Part, SealedPart, Splits, ValidatedTable
from tasador.data.validation import mix
from tasador.settings.run import SplitMethod

Rows = NDArray[np.intp]

#: Fewer rows than this in either part say nothing.
MIN_PART_ROWS = 10


def split_table(
    validated: ValidatedTable,
    *,
    method: SplitMethod,
    seed: int = 42,
    test_share: float = 0.2,
) -> Splits:
    """Split the validated rows into train and a held-out test set.

    ``row_hash`` assigns each row by its own content: adding, dropping or reordering rows moves no
    other row to the other side, and copies of a row stay together. The test part is `test_share`
    of the rows on average. ``random`` is scikit-learn's ``train_test_split(test_size=test_share,
    random_state=seed)`` over the validated rows in table order, the same rows in the same order,
    for figures that are to be compared with published ones.

    Args:
        validated: The rows.
        method: ``row_hash`` or ``random``.
        seed: Salt of the hash, or random state.
        test_share: Share of the rows for the test part, in (0, 1).

    Raises:
        ConfigError: An unknown method, or a share outside (0, 1).
        ValidationError: One of the parts would have fewer than `MIN_PART_ROWS` rows.
    """
    if not 0 < test_share < 1:
        raise ConfigError("segregate.test_share is impossible", expected="a share between 0 and 1",
                          got=str(test_share))  # fmt: skip
    if method == "random":
        train, test = _random(len(validated.y), seed, test_share)
    elif method == "row_hash":
        train, test = _by_hash(validated.row_hash, seed, test_share)
    else:
        raise ConfigError("segregate.method is unknown", expected="row_hash or random", got=method)
    if min(len(train), len(test)) < MIN_PART_ROWS:
        raise ValidationError(
            "the table is too small to be split",
            expected=f"at least {MIN_PART_ROWS} rows in each part",
            got=f"{len(train)} for training and {len(test)} for testing",
            remedy="add rows, or change segregate.test_share",
        )
    return Splits(
        train=_part(validated, train),
        sealed=SealedPart(_part(validated, test)),
        method=method,
        seed=seed,
        test_share=test_share,
        warnings=_warnings(validated, train, test),
    )


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


def _part(validated: ValidatedTable, rows: Rows) -> Part:
    return Part(validated.X[rows], validated.y[rows], validated.row_hash[rows])


def _warnings(validated: ValidatedTable, train: Rows, test: Rows) -> tuple[str, ...]:
    shared = int(np.isin(validated.row_hash[test], validated.row_hash[train]).sum())
    if not shared:
        return ()
    return (
        f"{shared} test row(s) have an exact copy among the training rows, which flatters the "
        "figures; segregate.method=row_hash keeps copies together",
    )
