"""Columns that a new contract sets aside, above all those that give the target away.

A leak, known only with the target or made from it, is named with its evidence; of every other
column that is not used it is measured what it explains. A word in the contract brings each back.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tasador.contract.encoding import encode_values, sent_as
from tasador.contract.model import SET_ASIDE, Column, TableContract, Target
from tasador.contract.text_parts import explained_by_groups, explained_by_number

Floats = NDArray[np.float64]

_CORRELATION = 0.98
#: A linear combination that explains so much of the target is the target itself.
_COMBINATION_R2 = 0.999
_MOST_COMBINED = 6
#: A category whose levels explain so much of the target may be the target in bands.
_BANDS = 0.75
_LEAST_ROWS = 10
#: Rows that are looked at where a sample is enough.
_SAMPLE = 20_000
_PRICE = re.compile(
    r"(?:.*_)?(?:price_per_.*|price|sale_?amount|precio(?:_.*)?|preis|prix|prezzo|preco)"
)
_AFTER = re.compile(
    r"(?:.*_)?(?:days_on_(?:the_)?market|dom|days_to_sell|sold_above_list.*|buyer(?:_.*)?|"
    r"commission(?:_.*)?|closing_cost.*|final_.*|overbid.*)"
)


@dataclass(frozen=True)
class Leak:
    """A column that seems to give the target away.

    Attributes:
        column: Its name.
        why: The evidence.
        kind: The kind it would have.
    """

    column: str
    why: str
    kind: str

    @property
    def sentence(self) -> str:
        """The evidence, and how the column is brought back."""
        return (
            f"{self.column!r} {self.why}: set aside. If it is known before the target is, bring it "
            f"back with `kind: {self.kind}` in the contract"
        )


def find_leaks(
    columns: Sequence[Column],
    frame: pl.DataFrame,
    target: Target,
    y: Floats,
    rows: NDArray[np.intp],
) -> list[Leak]:
    """Return the columns that seem to give the target away, in their order.

    Args:
        columns: What the columns are.
        frame: The table of n rows.
        target: The target.
        y: Its values (n,), NaN where there is none.
        rows: Positions of the rows that are looked at.
    """
    rows = rows[np.isfinite(y[rows])]
    found, numbers = [], dict[str, Floats]()
    every, outcome = len(rows) == frame.height, y[rows]
    for column in columns:
        sent = sent_as(column, frame.columns)
        if sent is None or column.kind not in ("number", "integer", "category"):
            continue
        series = frame[sent.field_name]
        values, wrong = encode_values(sent, series if every else series.gather(rows))
        values = np.where(wrong, np.nan, values)
        if column.kind == "category":
            why = _bands(values, outcome)
        else:
            why = _one_number(column, values, target, outcome)
            if why is None and np.isfinite(values).mean() > 0.5:
                numbers[column.name] = values
        if why is not None:
            found.append(Leak(column.name, why, column.kind))
    kinds = {column.name: column.kind for column in columns}
    for scale in ("", " on a logarithmic scale"):
        if scale:  # a price is another one times an index
            numbers = {n: np.log(v) for n, v in numbers.items() if np.nanmin(v) > 0}
            outcome = np.log(outcome) if (outcome > 0).all() else np.full(len(outcome), np.nan)
        while (combined := _combination(numbers, outcome)) is not None:
            name, text = combined
            found.append(Leak(name, text + scale, kinds[name]))
            del numbers[name]
    order = {column.name: at for at, column in enumerate(columns)}
    return sorted(found, key=lambda leak: order[leak.column])


def _one_number(column: Column, values: Floats, target: Target, y: Floats) -> str | None:
    both = np.isfinite(values) & np.isfinite(y)
    if both.sum() >= _LEAST_ROWS:
        rho = _rank_correlation(values[both], y[both])
        if abs(rho) > _CORRELATION:
            return f"ranks the rows almost as the target does (rank correlation {rho:.3f})"
    own, other = _slug(column.name), _slug(target.name)
    if _PRICE.fullmatch(own):
        return "is named like a price"
    if len(other) >= 4 and re.search(rf"(?:^|_){re.escape(other)}(?:_|$)", own):
        return "bears the target's name"
    if _AFTER.fullmatch(own):
        return "is named like something that is known only after the sale"
    return None


def _rank_correlation(a: Floats, b: Floats) -> float:
    """Return Spearman's rho, ties at their average rank; 0 when either is constant."""
    from scipy.stats import rankdata

    centred = [ranks - ranks.mean() for ranks in (rankdata(a), rankdata(b))]
    norm = math.sqrt(float((centred[0] ** 2).sum()) * float((centred[1] ** 2).sum()))
    return float((centred[0] * centred[1]).sum()) / norm if norm > 0 else 0.0


def _bands(codes: Floats, y: Floats) -> str | None:
    """Say whether the levels of a category are bands of the target: ranges that do not overlap."""
    known = np.isfinite(codes) & np.isfinite(y)
    if known.sum() < 5 * _LEAST_ROWS:
        return None
    levels, places = np.unique(codes[known], return_inverse=True)
    if len(levels) < 3:
        return None
    share = explained_by_groups(codes[known].astype(np.intp), y[known])
    if share < _BANDS:
        return None
    values, spans = y[known], []
    for level in range(len(levels)):
        own = values[places == level]
        if len(own) >= 3:
            spans.append((float(own.min()), float(own.max()), len(own)))
    spans.sort()
    covered = sum(n for *_, n in spans)
    apart = all(a[1] <= b[0] for a, b in pairwise(spans))
    if len(spans) >= 3 and apart and covered >= 0.8 * known.sum():
        return f"gives the target in bands ({len(spans)} levels whose targets do not overlap)"
    return None


def _combination(numbers: dict[str, Floats], y: Floats) -> tuple[str, str] | None:
    """Return the column to set aside of a few that add up to the target, and why; None for none."""
    names = list(numbers)
    if not names:
        return None
    complete = np.isfinite(y)
    if complete.sum() < 3 * _LEAST_ROWS:
        return None
    columns = {n: _scaled(numbers[n]) for n in names}
    rows = complete
    target = _scaled(y[rows])
    target = target - target.mean()
    total = float(target @ target)
    centred = {n: (c := columns[n][rows]) - c.mean() for n in names}
    centred = {n: c / norm for n, c in centred.items() if (norm := float(np.linalg.norm(c))) > 0}
    chosen, rest, basis = list[str](), target, list[Floats]()
    left = dict(centred)
    # forward selection by orthogonal matching: each step takes what explains most of the rest
    while len(chosen) < _MOST_COMBINED and left:
        best = max(left, key=lambda n: abs(float(left[n] @ rest)))
        direction = left.pop(best)
        for other in basis:
            direction = direction - (direction @ other) * other
        norm = float(np.linalg.norm(direction))
        if norm < 1e-6:
            continue
        basis.append(direction / norm)
        chosen.append(best)
        rest = rest - (rest @ basis[-1]) * basis[-1]
        if 1 - float(rest @ rest) / total > _COMBINATION_R2:
            return _least_known(chosen, centred, target, total, len(target))
    return None


def _scaled(values: Floats) -> Floats:
    """Return values within [-1, 1], gaps at their mean: squares of huge ones would overflow."""
    largest = float(np.nanmax(np.abs(values), initial=0.0)) or 1.0
    scaled = values / largest
    return np.where(np.isfinite(scaled), scaled, np.nanmean(scaled))


def _least_known(
    chosen: list[str], centred: dict[str, Floats], target: Floats, total: float, rows: int
) -> tuple[str, str] | None:
    """Name the column of a combination that is most like the target, and how exact it is."""
    needed = list(chosen)
    for name in chosen:  # drop what the others do without
        others = [n for n in needed if n != name]
        if others and _r2(others, centred, target, total) > _COMBINATION_R2:
            needed = others
    if len(needed) == 1 or rows < 10 * len(needed):
        return None if rows < 10 * len(needed) else (needed[0], "gives the target exactly")
    most = max(needed, key=lambda n: abs(float(centred[n] @ target)))
    share = _r2(needed, centred, target, total)
    others_named = ", ".join(repr(name) for name in needed if name != most)
    return most, f"gives the target together with {others_named} (R2 {share:.4f})"


def _r2(names: list[str], centred: dict[str, Floats], target: Floats, total: float) -> float:
    matrix = np.column_stack([centred[name] for name in names])
    found, *_ = np.linalg.lstsq(matrix, target, rcond=None)
    rest = target - matrix @ found
    return 1 - float(rest @ rest) / total


def _slug(text: str) -> str:
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", text)
    return re.sub(r"[^a-z0-9]+", "_", spaced.lower()).strip("_")


def without_leak(column: Column, leaks: Sequence[Leak]) -> Column:
    """Turn a column that seems to give the target away into text, which is not used."""
    why = next((leak.why for leak in leaks if leak.column == column.name), None)
    if why is None:
        return column
    note = f"{SET_ASIDE}suspected leak, {why}"
    return Column(column.name, "text", nullable=True, description=note)


@dataclass(frozen=True)
class SetAside:
    """A column that is not used.

    Attributes:
        name: Its name.
        why: Why.
        explains: Share of the target's variance that it explains by itself, in [0, 1].
        remedy: How it is brought back.
    """

    name: str
    why: str
    explains: float
    remedy: str


def set_aside(
    contract: TableContract, frame: pl.DataFrame, y: Floats, leaks: Collection[str]
) -> list[SetAside]:
    """Measure what each column that is not used explains by itself; leaks are named elsewhere."""
    sources = {column.source for column in contract.features}
    sample = sample_of(frame.height)
    sample = sample[np.isfinite(y[sample])]
    found = []
    for column in contract.columns:
        if column.kind != "text" or column.name in leaks or column.name in sources:
            continue
        series = frame[column.name].gather(sample)
        if isinstance(series.dtype, (pl.List, pl.Array, pl.Struct, pl.Object, pl.Binary)):
            explains = 0.0
        elif series.dtype.is_numeric():
            values = series.cast(pl.Float64).fill_null(np.nan).to_numpy().astype(np.float64)
            explains = explained_by_number(values, y[sample])
        else:
            texts = series.cast(pl.String).fill_null("").to_numpy()
            explains = explained_by_groups(texts.astype(str), y[sample])
        why = (column.description or "").removeprefix(SET_ASIDE)
        remedy = f"--category {column.name!r}" if re.search(r"\s", column.name) else (
            f"--category {column.name}"
        )  # fmt: skip
        found.append(SetAside(column.name, why, explains, remedy))
    return sorted(found, key=lambda column: -column.explains)


def with_worth(contract: TableContract, aside: Sequence[SetAside]) -> TableContract:
    """Write what a column set aside explains into its description."""
    worth = {column.name: column.explains for column in aside}
    columns = tuple(
        replace(c, description=f"{c.description}; explains {worth[c.name]:.0%} of the target")
        if worth.get(c.name, 0.0) >= 0.01
        else c
        for c in contract.columns
    )
    return replace(contract, columns=columns)


def sample_of(rows: int) -> NDArray[np.intp]:
    """Return the positions of at most 20 000 rows that lie evenly."""
    if rows <= _SAMPLE:
        return np.arange(rows)
    return np.unique(np.linspace(0, rows - 1, _SAMPLE).astype(np.intp))
