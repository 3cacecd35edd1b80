"""The target of a new contract: how it is read, what gives it away, what unused columns explain.

A leak, known only with the target or made from it, is named with its evidence; of every other
column that is not used it is measured what it explains. A word in the contract brings each back.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tasador.contract.encoding import encode_values, sent_as
from tasador.contract.formats import PLAIN, Format
from tasador.contract.model import SET_ASIDE, Column, Source, TableContract, Target, Transform
from tasador.contract.text_parts import explained_by_groups, explained_by_number
from tasador.contract.type_inference import Findings, bounds_around, round_outwards, target_reading
from tasador.core import storage
from tasador.core.errors import ValidationError, did_you_mean

Floats = NDArray[np.float64]

YES, NO = "yes", "no"
_OTHER_COLUMN = "choose another column, or check how the file was made"
_CAP_SHARE = 0.01
_MONEY = re.compile(r"price|sale|amount|value|cost|rent|precio|preis|prix|prezzo|valor|miete", re.I)
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


class TargetError(ValidationError):
    """A target that cannot be estimated from the table."""

    @classmethod
    def absent(cls, target: str, columns: Sequence[str], notes: Sequence[str]) -> TargetError:
        """Return the error of a target that is none of the table's columns.

        `notes` say how the file was read, which may explain what its columns are called.
        """
        return cls(
            f"there is no column {target!r}",
            expected=one_of(columns),
            got=f"a file of which was said: {'; '.join(notes)}"[:600] if notes else None,
            remedy=did_you_mean(target, columns, cutoff=0.5),
        )

    @classmethod
    def empty(cls, target: str) -> TargetError:
        """Return the error of a column without values."""
        return cls(f"the target {target!r} has no value in any row", remedy="choose another column")

    @classmethod
    def not_a_number(cls, target: str, example: object, more: int, present: int) -> TargetError:
        """Return the error of a column of texts, with one of them."""
        return cls(
            f"the target {target!r} is not a number",
            got=f"{example!r} and {more} more of {present} values",
            remedy="choose a column of numbers",
        )

    @classmethod
    def not_finite(cls, target: str, example: object) -> TargetError:
        """Return the error of a column that has NaN and infinities only."""
        return cls(
            f"the target {target!r} is not finite in any row",
            expected="numbers",
            got=f"{example!r} and the like",
            remedy=_OTHER_COLUMN,
        )

    @classmethod
    def constant(cls, target: str, value: float, present: int) -> TargetError:
        """Return the error of a column that is the same in all rows."""
        return cls(
            f"the target {target!r} is constant",
            expected="at least two different values",
            got=f"{value:g} in all {present} rows that have one",
            remedy=_OTHER_COLUMN,
        )

    @classmethod
    def alone(cls, contract: TableContract, path: storage.Location | Source) -> TargetError:
        """Return the error of a table without another column, or none that can be used."""
        target, expected = contract.target.name, "at least one number, category or datetime"
        if not contract.columns:
            return cls(
                f"nothing is left in {path} to estimate {target!r} from: it is the only column",
                expected=expected,
                remedy="if there are more columns, separate them with commas, semicolons or tabs",
            )
        why = [
            f"{column.name!r} ({(column.description or column.kind).removeprefix(SET_ASIDE)})"
            for column in contract.columns[:10]
        ]
        return cls(
            f"nothing is left in {path} to estimate {target!r} from",
            expected=expected,
            got=f"columns set aside: {', '.join(why)}",
            remedy="name columns that are codes with --category",
        )


def target_values(frame: pl.DataFrame, target: str, findings: Findings) -> tuple[Format, Floats]:
    """Return how the target is written, and its values, NaN where it has none."""
    if target not in frame.columns:
        raise TargetError.absent(target, frame.columns, findings.assumptions)
    series = frame[target]
    present = int(series.is_not_null().sum())
    if present == 0:
        raise TargetError.empty(target)
    form = target_reading(series, findings)
    y, wrong = encode_values(Column(target, "number", format=form or PLAIN), series)
    if form is None:
        values = [series[int(i)] for i in np.flatnonzero(wrong)] or series.drop_nulls().to_list()
        values = [v for v in values if not re.search(r"\d", str(v))] or values
        raise TargetError.not_a_number(target, values[0], len(values) - 1, present)
    y = np.where(np.isfinite(y), y, np.nan)
    if np.isnan(y).all():
        raise TargetError.not_finite(target, series.drop_nulls()[0])
    if np.nanmin(y) == np.nanmax(y):
        raise TargetError.constant(target, float(np.nanmin(y)), present)
    return form, y


def in_bounds(target: Target, y: Floats) -> NDArray[np.bool_]:
    low, high = target.bounds
    right = np.isfinite(y)
    if "0" in target.format.missing:
        right &= y != 0
    if low is not None:
        right &= y >= low
    return right if high is None else right & (y <= high)


def describe_target(name: str, form: Format, y: Floats, findings: Findings) -> Target:
    values = y[np.isfinite(y)]
    zeros = int((values == 0).sum())
    missing = len(y) - len(values)
    if zeros and (values >= 0).all() and _is_money(name, values[values > 0]):
        answer = findings.choose(
            f"{name}.zero",
            f"{zeros} row(s) have a target of 0 ({zeros / len(values):.0%}); sales of 0 are "
            "usually not sales. Leave them out of training?",
            (YES, NO),
            YES,
        )
        said = f"{zeros} row(s) have a target of 0, and sales of 0 are usually not sales: "
        if answer == YES:
            form = replace(form, missing=(*form.missing, "0"))
            values = values[values != 0]
            said += "they are left out of training (`format: missing: ['0']` of the target)"
        else:
            said += "kept; `bounds: [1, null]` of the target would leave them out"
        findings.assumptions.append(said)
    low, high = float(values.min()), float(values.max())
    transform: Transform = "none"
    if low > 0 and _skewness(values) > max(0.5, abs(_skewness(np.log(values)))):
        transform = "log"
        findings.assumptions.append(
            f"the target {name!r} is positive and skewed: models fit its logarithm"
        )
    at_top = float((values == high).mean())
    cap = high if at_top >= _CAP_SHARE and len(np.unique(values)) > 50 else None
    if cap is not None:
        findings.assumptions.append(
            f"the target {name!r} is cut off at {cap:g} ({at_top:.1%} of the rows)"
        )
    if missing:
        findings.assumptions.append(
            f"{missing} row(s) have no target: left out of training; `tasador predict` values them"
        )
    bounds = (
        (round_outwards(low / 2, up=False), round_outwards(high * 2, up=True))
        if low > 0
        else bounds_around(low, high)
    )
    slug = slug_of(name)
    return Target(
        name=name,
        bounds=bounds,
        cap=cap,
        transform=transform,
        prediction_name=f"predicted_{slug}" if slug else "prediction",
        format=form,
    )


def _is_money(name: str, values: Floats) -> bool:
    """Tell whether positive values are prices, of which 0 is none."""
    return bool(_MONEY.search(name)) or (len(values) > 10 and float(np.median(values)) >= 1000)


def _skewness(values: Floats) -> float:
    spread = float(values.std())
    return float((((values - values.mean()) / spread) ** 3).mean()) if spread > 0 else 0.0


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
    own, other = _words(column.name), _words(target.name)
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
    finite = np.isfinite(values)
    known = values[finite]
    scaled = values / (float(np.abs(known).max(initial=0.0)) or 1.0)
    return np.where(finite, scaled, scaled[finite].mean() if len(known) else 0.0)


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


def _words(text: str) -> str:
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


def one_of(columns: Sequence[str]) -> str:
    return f"one of {', '.join(map(repr, columns[:30]))}"


def slug_of(text: str) -> str:
    """Return lower-case ASCII letters, digits and underscores only."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "_", plain.lower()).strip("_")
