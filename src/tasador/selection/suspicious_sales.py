"""Which recorded sales may not be market prices, with the evidence for each.

A sale is compared with what a first model, fitted without it, expects, with the level of its place,
year and class, with other sales of its property, and with sales of the same day and price. Each
comparison is a robust z score on the log scale, the largest is the sale's score.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasador.contract.model import Column, TableContract
from tasador.contract.text_parts import explained_by_groups
from tasador.core.parallel import in_parallel
from tasador.core.seeds import derive_seed
from tasador.data.table import Part
from tasador.metrics.regression import MAD_TO_DEVIATION, METRICS, robust_spread
from tasador.selection.errors import SalesError
from tasador.selection.folds import FoldAssignment, random_assignment

Floats = NDArray[np.float64]
Codes = NDArray[np.intp]
Flags = NDArray[np.bool_]

_FOLDS, _ROUNDS = 5, 200
_SETTINGS: dict[str, Any] = {
    "objective": "l1", "learning_rate": 0.1, "num_leaves": 31, "feature_fraction": 0.7,
    "deterministic": True, "force_col_wise": True, "num_threads": 1, "verbosity": -1,
}  # fmt: skip
#: Most sales that a first model is fitted on, evenly drawn: it has to be good, not best.
_MOST_FITTED = 100_000
#: Rows' worth of the overall spread mixed into that of a group; rows that make a level of its own.
_SHRINKAGE, _CELL_ROWS = 30.0, 15
#: Prices are rounded: no spread is narrower than one per cent.
_LEAST_SPREAD = 0.01
#: z score from which a comparison is among the reasons of a flagged sale.
_SHOWN_FROM = 3.0
_RESALE_DAYS = 365.0
_DAY = 86_400.0
_FEWEST_ROWS = 50
#: A price of 0 or 1 is none, in a table whose prices are usually much larger.
_MOST_TOKEN = 100.0
#: Sales in a part of the map where no column names the place.
_PART_ROWS = 500
_PLACE = re.compile(
    r"zip|post_?(al_?)?code|plz|neigh|suburb|district|county|town|city|barrio|area_?id|quarter",
    re.I,
)
_AREA_UNIT = re.compile(
    r"m2|m²|sqm|sq\.? ?m|ft2|ft²|sq\.? ?ft|sqft|square (feet|met(er|re)s)", re.I
)
_AREA_NAME = re.compile(r"area|sq_?ft|sqm|surface|superficie|m2|living|fl[aä]che", re.I)


@dataclass(frozen=True, slots=True)
class Reason:
    """What speaks against a sale.

    Attributes:
        kind: What was compared, to count reasons by.
        text: What was found, for people.
        z: How far it is from what is usual, in robust standard deviations.
    """

    kind: str
    text: str
    z: float


@dataclass(frozen=True)
class Suspicion:
    """What speaks against each of n sales.

    Attributes:
        threshold: Score from which a sale is flagged.
        price: Shape (n,): as recorded.
        score: Shape (n,): the largest robust z score of all comparisons; inf for a price that is
            none.
        expected: Shape (n,): what the first model expects, fitted without the sale; NaN where it
            was not asked.
        residual_z: Shape (n,): how far the price is from that, signed.
        price_z: Shape (n,): how far it is from the level of its place, year and class, signed.
        area_price_z: Shape (n,): the same of the price per area; NaN without an area.
        reasons: What speaks against a flagged sale, the strongest first, by its position.
        errors_with: Median and mean absolute percentage error of the first model out of fold on the
            sales that are not flagged.
        errors_without: The same of a model that is fitted without flagged sales.
    """

    threshold: float
    price: Floats
    score: Floats
    expected: Floats
    residual_z: Floats
    price_z: Floats
    area_price_z: Floats
    reasons: dict[int, tuple[Reason, ...]]
    errors_with: tuple[float, float] | None = None
    errors_without: tuple[float, float] | None = None

    @property
    def flagged(self) -> Flags:
        """Shape (n,): which sales are flagged."""
        flags: Flags = self.score >= self.threshold
        return flags


class _Sales:
    """The sales with a price, in an order that depends on their content alone.

    A price is on the log scale, without the level of all: neither the order of the rows nor the
    currency changes a bit of what follows.
    """

    def __init__(self, contract: TableContract, part: Part, rows: Codes) -> None:
        t = np.log(part.y[rows])
        self.level = float(np.median(t))
        t = np.round(t - self.level, 9)
        keys = [part.X[rows, at] for at in range(part.X.shape[1])]
        of = None if part.property_hash is None else part.property_hash[rows]
        order = np.lexsort([*([] if of is None else [of]), t, *keys])
        self.contract = contract
        self.rows = rows[order]
        self.t = t[order]
        self.X = part.X[self.rows]
        self.property_hash = None if of is None else of[order]
        at = contract.timestamp_position
        self.time = None if at is None else self.X[:, at]

    def __len__(self) -> int:
        return len(self.t)

    def assignment(self, seed: int) -> FoldAssignment:
        """Deal the sales to folds; those of one property, and equal rows, share a fold."""
        of = self.property_hash
        if of is None:
            new = np.any(np.nan_to_num(np.diff(self.X, axis=0)) != 0.0, axis=1)
            of = np.concatenate(([0], np.cumsum(new))).astype(np.uint64)
        return random_assignment(len(self), _FOLDS, seed, of)

    def expect(self, assignment: FoldAssignment, left_out: Flags, seed: int) -> Floats:
        """Return what a model expects of each sale (n,), fitted on other folds.

        Sales that are `left_out` are fitted on in no fold.
        """
        categories = [at for at, c in enumerate(self.contract.features) if c.kind == "category"]

        def fit(number: int) -> tuple[Codes, Floats]:
            import lightgbm

            fit_rows, held = assignment.rows(number)
            fit_rows = fit_rows[~left_out[fit_rows]]
            fit_rows = fit_rows[:: 1 + (len(fit_rows) - 1) // _MOST_FITTED]
            settings = {
                **_SETTINGS,
                "seed": seed,
                "min_data_in_leaf": max(3, min(20, len(fit_rows) // 50)),
            }
            data = lightgbm.Dataset(
                self.X[fit_rows], self.t[fit_rows], params=settings,
                categorical_feature=categories, free_raw_data=False,
            )  # fmt: skip
            model = lightgbm.train(settings, data, num_boost_round=_ROUNDS)
            return held, model.predict(self.X[held], num_threads=1)

        expected = np.empty(len(self))
        for _, (held, found) in in_parallel(fit, assignment.numbers):
            expected[held] = found
        return expected


def suspect_sales(contract: TableContract, part: Part, *, threshold: float, seed: int) -> Suspicion:
    """Return what speaks against each sale of `part`.

    Args:
        contract: Names the columns; the roles timestamp, property, group and segment are used
            where it has them.
        part: The sales. NaN in X is allowed.
        threshold: Score from which a sale is flagged.
        seed: Seed of the first model and of its folds.

    Raises:
        SalesError: Fewer than 50 sales have a price above 0.
    """
    n = len(part)
    token = part.y <= 0.0
    if np.median(part.y) > _MOST_TOKEN:
        token |= part.y <= 1.0
    priced = np.flatnonzero(~token)
    if len(priced) < _FEWEST_ROWS:
        raise SalesError.too_few(len(priced), _FEWEST_ROWS)
    sales = _Sales(contract, part, priced)
    found = _Comparisons(sales, threshold, seed)
    score = np.where(token, np.inf, 0.0)
    reasons: dict[int, tuple[Reason, ...]] = {}
    score[sales.rows] = found.score
    for at in np.flatnonzero(found.score >= threshold):
        reasons[int(sales.rows[at])] = found.reasons(int(at))
    for at in np.flatnonzero(token):
        text = f"price is {part.y[at]:g}: no market price"
        reasons[int(at)] = (Reason("no price", text, np.inf),)

    def spread(values: Floats) -> Floats:
        whole = np.full(n, np.nan)
        whole[sales.rows] = values
        return whole

    return Suspicion(
        threshold,
        part.y,
        score,
        spread(np.exp(found.expected + sales.level)),
        spread(found.residual_z),
        spread(found.price.z),
        spread(np.full(len(sales), np.nan) if found.area_price is None else found.area_price.z),
        dict(sorted(reasons.items())),
        *found.errors(),
    )


class _Comparisons:
    """What each of n sales is compared with; row i of every array is the same sale."""

    def __init__(self, sales: _Sales, threshold: float, seed: int) -> None:
        self._sales, self._threshold, self._seed = sales, threshold, derive_seed(seed, "sales")
        self._folds = sales.assignment(self._seed)
        self.expected = sales.expect(self._folds, np.zeros(len(sales), np.bool_), self._seed)
        self._residual = sales.t - self.expected
        place = _place_of(sales)
        groups = [place, _year_of(sales), _class_of(sales)]
        self.residual_z, self._spread = _local_z(self._residual, self.expected, place)
        self.price = _Level(sales.t, groups)
        self._size = _size_of(sales)
        self.area_price: _Level | None = None
        if self._size is not None:
            size = sales.X[:, sales.contract.position(self._size.name)]
            with np.errstate(divide="ignore", invalid="ignore"):
                self.area_price = _Level(sales.t - np.where(size > 0, np.log(size), np.nan), groups)
        self._resold_z, self._other = self._resales()
        self._deed_z, self._lots = self._deeds(place)
        self.score = np.maximum.reduce(
            [np.abs(self.residual_z), self._beyond_level(), self._resold_z, self._deed_z]
        )

    def _beyond_level(self) -> Floats:
        """Return how far (n,) a price and its price per area are from their level.

        0 where only one of them is, or where the model's residual does not point there too: a large
        house is dear, and no error.
        """
        price = self.price.z
        both = price if self.area_price is None else self.area_price.z
        both = np.where(np.isnan(both), price, both)
        agreeing = (np.sign(price) == np.sign(both)) & (np.sign(price) == np.sign(self.residual_z))
        agreeing &= np.abs(self.residual_z) >= self._threshold / 2
        return np.where(agreeing, np.minimum(np.abs(price), np.abs(both)), 0.0)

    def _resales(self) -> tuple[Floats, Codes]:
        """Return how far (n,) the price has jumped between two sales of a property in a year.

        The jump is that of the residuals, which know the market and what was changed in the house.
        Of the two sales the one farther from what the model expects is meant; its other one is the
        second array, -1 for none.
        """
        sales, n = self._sales, len(self._sales)
        z, other = np.zeros(n), np.full(n, -1, np.intp)
        if sales.property_hash is None or sales.time is None:
            return z, other
        order = np.lexsort((sales.t, sales.time, sales.property_hash))
        first, second = order[:-1], order[1:]
        with np.errstate(invalid="ignore"):
            near = sales.time[second] - sales.time[first] <= _RESALE_DAYS * _DAY
        near &= sales.property_hash[first] == sales.property_hash[second]
        first, second = first[near], second[near]
        if not len(first):
            return z, other
        jump = self._residual[second] - self._residual[first]
        usual = np.sqrt(2.0) * _spread_of(self._residual)
        jumps = _shrunk(_spread_of(jump), len(jump), usual)
        far = np.abs(jump) / jumps
        later = np.abs(self.residual_z[second]) > np.abs(self.residual_z[first])
        meant, beside = np.where(later, second, first), np.where(later, first, second)
        by_size = np.argsort(far, kind="stable")  # the larger jump stays where a sale has two
        z[meant[by_size]], other[meant[by_size]] = far[by_size], beside[by_size]
        return z, other

    def _deeds(self, place: _Group) -> tuple[Floats, Codes]:
        """Return the evidence (n,) that one price was recorded for each of several lots, and lots.

        Sales of one day, price and place count as one deed where the price is nearer to what the
        model expects of all together than of each; the evidence of each is added up then.
        """
        sales, n = self._sales, len(self._sales)
        if sales.time is None:
            return np.zeros(n), np.ones(n, np.intp)
        day = np.floor(np.nan_to_num(sales.time, nan=-1.0) / _DAY)
        _, deed = np.unique(np.column_stack([day, sales.t, place.codes]), axis=0,
                            return_inverse=True)  # fmt: skip
        deed = deed.reshape(-1)
        lots = np.bincount(deed)
        together = np.log(np.bincount(deed, np.exp(self.expected)))[deed]
        nearer = np.abs(sales.t - together) < np.abs(self._residual)
        whole = np.bincount(deed, nearer) == lots
        evidence = np.bincount(deed, np.maximum(self.residual_z, 0.0)) / np.sqrt(lots)
        one = (lots > 1) & whole
        one[deed[np.isnan(sales.time)]] = False
        return np.where(one, evidence, 0.0)[deed], np.where(one, lots, 1)[deed]

    def errors(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """Return the errors on unflagged sales out of fold: with all fitted on, and without."""
        flagged = self.score >= self._threshold
        without = self.expected
        if flagged.any():
            without = self._sales.expect(self._folds, flagged, self._seed)
        actual = np.exp(self._sales.t[~flagged])
        with_all, without_flagged = (
            tuple(METRICS[name](actual, np.exp(found[~flagged])) for name in ("median_ape", "mape"))
            for found in (self.expected, without)
        )
        return (with_all[0], with_all[1]), (without_flagged[0], without_flagged[1])

    def reasons(self, at: int) -> tuple[Reason, ...]:
        """Return what speaks against the sale at a position, the strongest first."""
        found = [
            reason
            for reason in (*self._far(at), self._resold(at), self._of_deed(at))
            if reason is not None and reason.z >= _SHOWN_FROM
        ]
        return tuple(sorted(found, key=lambda reason: -reason.z))

    def _far(self, at: int) -> Iterator[Reason]:
        text = (
            f"price is {_times(self._residual[at])} what a first model expects "
            f"({self._amount(self.expected[at])})"
        )
        yield Reason("price unlike the first model's", text, float(abs(self.residual_z[at])))
        text = self._beside(self.price, at, "price")
        yield Reason("price level", text, float(abs(self.price.z[at])))
        if self._size is not None and self.area_price is not None:
            text = self._beside(self.area_price, at, f"price per {self._size.name}")
            yield Reason("price per area", text, float(abs(self.area_price.z[at])))

    def _resold(self, at: int) -> Reason | None:
        other, sales = int(self._other[at]), self._sales
        if other < 0 or sales.time is None:
            return None
        days = (sales.time[other] - sales.time[at]) / _DAY
        when = f"again {days:.0f} days later" if days >= 0 else f"{-days:.0f} days before"
        times = _times(sales.t[other] - sales.t[at])
        text = f"the property was sold {when} at {times} this price"
        return Reason("resale with a jump", text, float(self._resold_z[at]))

    def _of_deed(self, at: int) -> Reason:
        text = (
            f"{self._lots[at]} sales of the same day, place and price, which fits all of them "
            f"together better than this one ({self._amount(self.expected[at])})"
        )
        return Reason("one deed over several lots", text, float(self._deed_z[at]))

    def _beside(self, level: _Level, at: int, what: str) -> str:
        return (
            f"{what} is {_times(level.values[at] - level.median[at])} the median of "
            f"{level.label(at)} ({level.rows[at]} sales)"
        )

    def _amount(self, t: float) -> str:
        unit = self._sales.contract.target.unit or ""
        return f"{float(f'{np.exp(t + self._sales.level):.3g}'):,.12g} {unit}".rstrip()


def _times(difference: float) -> str:
    return f"{float(f'{np.exp(difference):.2g}'):g} times"


@dataclass(frozen=True)
class _Group:
    """Which of several groups each of n sales belongs to, and what each is called."""

    codes: Codes
    names: tuple[str, ...]

    @classmethod
    def one(cls, rows: int) -> _Group:
        return cls(np.zeros(rows, np.intp), ("",))

    @classmethod
    def of(cls, column: Column, values: Floats) -> _Group:
        different, codes = np.unique(values, return_inverse=True)
        return cls(codes, tuple(_named(column, value) for value in different.tolist()))


def _named(column: Column, value: float) -> str:
    if np.isnan(value):
        return f"no {column.name}"
    if column.kind != "category":
        return column.text_of(value)
    known = value < len(column.categories)
    return column.categories[int(value)] if known else f"another {column.name}"


class _Level:
    """The median of values (n,) in the smallest group around each that has enough sales.

    Attributes:
        values: What is compared; NaN where there is nothing.
        median: Of its group.
        rows: Sales of its group.
        z: Robust z score of each value in its group; NaN where there is no value.
    """

    def __init__(self, values: Floats, groups: Sequence[_Group]) -> None:
        self.values, self._groups = values, groups
        n = len(values)
        self.median, self.rows = np.full(n, np.nan), np.zeros(n, np.intp)
        spread, self._depth = np.full(n, np.nan), np.full(n, -1, np.intp)
        overall = _spread_of(values)
        for depth, kept in enumerate(_CELLS):
            codes = _joined([groups[at].codes for at in kept], n)
            rows = np.bincount(codes, ~np.isnan(values)).astype(np.intp)
            median = _medians(values, codes)
            mad = MAD_TO_DEVIATION * _medians(np.abs(values - median[codes]), codes)
            new = (self._depth < 0) & ((rows[codes] >= _CELL_ROWS) | (not kept))
            self._depth[new] = depth
            self.median[new], self.rows[new] = median[codes][new], rows[codes][new]
            spread[new] = _shrunk(mad, rows, overall)[codes][new]
        self.z = (values - self.median) / spread

    def label(self, at: int) -> str:
        """Return what the group of a sale is called."""
        kept = [self._groups[one] for one in _CELLS[self._depth[at]]]
        names = [group.names[group.codes[at]] for group in kept]
        return ", ".join(name for name in names if name) or "all sales"


#: Positions of place, year and class in the groups that a sale is compared in, smallest first.
_CELLS = ((0, 1, 2), (0, 2), (0,), ())


def _joined(codes: Sequence[Codes], rows: int) -> Codes:
    """Return one code (n,) for each combination that occurs."""
    if not codes:
        return np.zeros(rows, np.intp)
    _, found = np.unique(np.column_stack(codes), axis=0, return_inverse=True)
    return found.reshape(-1)


def _medians(values: Floats, codes: Codes) -> Floats:
    """Return the median of each group, NaN left out; NaN for a group without values."""
    known = np.flatnonzero(~np.isnan(values))
    order = known[np.lexsort((values[known], codes[known]))]
    rows = np.bincount(codes[known], minlength=int(codes.max()) + 1)
    ends = np.cumsum(rows)
    low, high = ends - rows + (rows - 1) // 2, ends - rows + rows // 2
    medians = np.full(len(rows), np.nan)
    some = rows > 0
    ordered = values[order]
    medians[some] = 0.5 * (ordered[low[some]] + ordered[high[some]])
    return medians


def _spread_of(values: Floats) -> float:
    """Return the robust standard deviation of values, NaN left out."""
    known = values[~np.isnan(values)]
    if not len(known):
        return _LEAST_SPREAD
    return max(robust_spread(known), _LEAST_SPREAD)


def _shrunk(spread: Any, rows: Any, overall: float) -> Any:
    """Return spreads mixed with `_SHRINKAGE` rows of the overall one, as variances are."""
    mixed = rows * np.square(np.nan_to_num(spread)) + _SHRINKAGE * overall**2
    return np.maximum(np.sqrt(mixed / (rows + _SHRINKAGE)), _LEAST_SPREAD)


_BANDS = 20


def _local_z(residual: Floats, expected: Floats, place: _Group) -> tuple[Floats, Floats]:
    """Return residuals (n,) as robust z scores, and the spreads.

    The spread is that of sales expected to cost as much, times what is usual in the place.
    """
    edges = np.quantile(expected, np.linspace(0, 1, _BANDS + 1)[1:-1])
    z, spread = residual - np.median(residual), np.ones(len(residual))
    for codes in (np.searchsorted(edges, expected), place.codes):
        overall = _spread_of(z)
        mad = MAD_TO_DEVIATION * _medians(np.abs(z), codes)
        by_group = _shrunk(mad, np.bincount(codes), overall)[codes]
        z, spread = z / by_group, spread * by_group
    return z, spread


def _year_of(sales: _Sales) -> _Group:
    if sales.time is None:
        return _Group.one(len(sales))
    known = ~np.isnan(sales.time)
    years = np.full(len(sales), np.nan)
    moments = sales.time[known].astype("datetime64[s]").astype("datetime64[Y]")
    years[known] = moments.astype(np.int64) + 1970
    different, codes = np.unique(years, return_inverse=True)
    names = ("no date" if np.isnan(one) else f"{one:.0f}" for one in different)
    return _Group(codes, tuple(names))


def _class_of(sales: _Sales) -> _Group:
    column = sales.contract.with_role("group")
    if column is None:
        return _Group.one(len(sales))
    return _Group.of(column, sales.X[:, sales.contract.position(column.name)])


def _place_of(sales: _Sales) -> _Group:
    """Return the places: of the column that says most about the price, or parts of the map.

    Columns named as places are are asked first, then the segment, then the coordinates.
    """
    contract = sales.contract
    named = [c for c in contract.features if c.kind in ("category", "integer")
             and c.role in (None, "segment") and _PLACE.search(c.name)]  # fmt: skip
    segment = contract.with_role("segment")
    best, most = None, 0.0
    for column in named or ([] if segment is None else [segment]):
        values = sales.X[:, contract.position(column.name)]
        share = explained_by_groups(np.nan_to_num(values, nan=-1.0), sales.t)
        if best is None or share > most:
            best, most = _Group.of(column, values), share
    if best is not None:
        return best
    if contract.coordinates is None:
        return _Group.one(len(sales))
    points = sales.X[:, [contract.position(c.name) for c in contract.coordinates]]
    return _parts_of_map(np.where(np.isnan(points), np.nanmedian(points, axis=0), points))


def _parts_of_map(points: Floats) -> _Group:
    """Halve the sales by place, the longer way each time, down to parts of some hundreds."""
    codes = np.zeros(len(points), np.intp)
    for _ in range(max(0, int(np.log2(max(1, len(points) / _PART_ROWS))))):
        cut = np.zeros(len(points), np.bool_)
        for part in range(int(codes.max()) + 1):
            rows = np.flatnonzero(codes == part)
            if len(rows):
                axis = int(np.argmax(np.ptp(points[rows], axis=0)))
                cut[rows] = points[rows, axis] > np.median(points[rows, axis])
        codes = 2 * codes + cut
    return _Group(codes, tuple("its part of the map" for _ in range(int(codes.max()) + 1)))


def _size_of(sales: _Sales) -> Column | None:
    """Return the column of areas that goes with the price most closely."""
    best, most = None, 0.3
    for at, column in enumerate(sales.contract.features):
        named = _AREA_UNIT.fullmatch(column.unit or "") or _AREA_NAME.search(column.name)
        if column.kind not in ("number", "integer") or column.role is not None or not named:
            continue
        size = sales.X[:, at]
        known = size > 0
        if known.mean() < 0.5 or np.ptp(size[known]) == 0:
            continue
        related = float(np.corrcoef(np.log(size[known]), sales.t[known])[0, 1])
        if related > most:
            best, most = column, related
    return best
