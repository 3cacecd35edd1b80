"""Start a project: write a contract for somebody's table.

Write the first contract of a table nobody has described yet, and say what was assumed.

The rules are simple on purpose: each decision becomes one sentence that a person can check
against what they know of the table, and one line of YAML that they can change.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tasador.contract.encoding import encode_values
from tasador.contract.model import Column, Source, TableContract, Target, Transform
from tasador.contract.reader import read_contract, write_contract
from tasador.contract.type_inference import (
    PARSED_SHARE,
    bounds_around,
    describe_column,
    round_outwards,
)
from tasador.core import storage
from tasador.core.errors import ConfigError, ValidationError
from tasador.core.storage import write_text
from tasador.data.readers import read_source

Floats = NDArray[np.float64]

_LEAK_CORRELATION = 0.98
_CAP_SHARE = 0.01
_LATITUDE = re.compile(r"(?:.*[_ ])?(?:lat|latitude)(?:[_ ].*)?", re.I)
_LONGITUDE = re.compile(r"(?:.*[_ ])?(?:lon|lng|long|longitude)(?:[_ ].*)?", re.I)
_PRICE = re.compile(r"(?:.*[_ ])?(?:price[_ ]per[_ ].*|price)", re.I)


@dataclass(frozen=True)
class Inference:
    """A contract written by looking at a table.

    Attributes:
        contract: The contract; `contract_reader.write_contract` turns it into YAML.
        assumptions: What was assumed, a sentence each, for the reader to check.
        leaks: Columns set aside because they seem to give the target away, a sentence each.
    """

    contract: TableContract
    assumptions: list[str]
    leaks: list[str]


def infer_contract(
    path: storage.Location | Source,
    target: str,
    *,
    name: str | None = None,
    categories: Collection[str] = (),
    source: Source | None = None,
) -> Inference:
    """Look at the table in a CSV, Parquet or archive file and write a contract for it.

    Args:
        path: The file, a pattern of several, or a source with a query; it becomes the contract's
            source.
        target: The column to estimate.
        name: Name of the contract; by default from the file's name.
        categories: Columns that are categories, whatever they look like.
        source: Options for reading the file.

    Raises:
        SourceError: The file cannot be read as a table.
        ConfigError: One of `categories` is not a column to estimate from.
        ValidationError: The target is not a column, not a number, or constant; or no column is
            left to estimate it from.
    """
    read = read_source(path, source=source)
    frame = read.frame
    y = _target_values(frame, target)
    for wanted in categories:
        if wanted not in frame.columns or wanted == target:
            raise ConfigError(
                f"there is no column {wanted!r} to take for a category",
                expected=f"one of {', '.join(map(repr, frame.columns[:30]))}",
            )
    short = name or _name_of(path)
    assumptions = list(read.notes)
    columns = [
        describe_column(frame[column], assumptions, as_category=column in categories)
        for column in frame.columns
        if column != target
    ]
    columns, leaks = _set_leaks_aside(columns, frame, target, y)
    columns = _with_roles(columns, frame, y, assumptions)
    contract = TableContract(
        name=short,
        title=f"{target} of {short}",
        model_name=f"{short}_model",
        columns=tuple(columns),
        target=_describe_target(target, y, assumptions),
        source=read.source,
    )
    if not contract.features:
        raise ValidationError(
            f"nothing is left in {path} to estimate {target!r} from",
            expected="at least one number, category or datetime",
            got=f"columns set aside: {', '.join(c.name for c in columns) or 'none'}",
        )
    return Inference(contract, assumptions, leaks)


def is_plain_name(name: str) -> bool:
    """Tell whether ``dataset=<name>`` can stand on a command line: a word, not a number or null."""
    plain = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]{0,79}", name) is not None
    return plain and name.lower() not in ("null", "true", "false", "nan", "inf")


def _name_of(path: storage.Location | Source) -> str:
    if isinstance(path, Source):
        return "query"
    short = _slug(re.sub(r"(?:\.\w{1,7}){1,2}$", "", Path(str(path)).name))[:70] or "table"
    return short if is_plain_name(short) else f"table_{short}"


def _target_values(frame: pl.DataFrame, target: str) -> Floats:
    """Return the target of every row, NaN where it has none."""
    if target not in frame.columns:
        close = difflib.get_close_matches(target, frame.columns, n=1, cutoff=0.5)
        raise ValidationError(
            f"there is no column {target!r}",
            expected=f"one of {', '.join(map(repr, frame.columns[:30]))}",
            remedy=f"did you mean {close[0]!r}?" if close else None,
        )
    y, wrong = encode_values(Column(target, "number"), frame[target])
    present = int((frame[target].is_not_null()).sum())
    if present == 0:
        raise ValidationError(
            f"the target {target!r} has no value in any row", remedy="choose another column"
        )
    if wrong.sum() > (1 - PARSED_SHARE) * present:
        example = frame[target][int(np.flatnonzero(wrong)[0])]
        raise ValidationError(
            f"the target {target!r} is not a number",
            got=f"{example!r} and {int(wrong.sum()) - 1} more of {present} values",
            remedy="choose a column of numbers",
        )
    y = np.where(np.isfinite(y), y, np.nan)
    if np.isnan(y).all():
        raise ValidationError(
            f"the target {target!r} is not finite in any row",
            expected="numbers",
            got=f"{frame[target].drop_nulls()[0]!r} and the like",
            remedy="choose another column, or check how the file was made",
        )
    if np.nanmin(y) == np.nanmax(y):
        raise ValidationError(
            f"the target {target!r} is constant",
            expected="at least two different values",
            got=f"{np.nanmin(y):g} in all {present} rows that have one",
            remedy="choose another column, or check how the file was made",
        )
    return y


def _set_leaks_aside(
    columns: list[Column], frame: pl.DataFrame, target: str, y: Floats
) -> tuple[list[Column], list[str]]:
    """Turn columns that seem to give the target away into text, which is not used."""
    kept, leaks = [], []
    for column in columns:
        why = _leak(column, frame[column.name], target, y)
        if why is None:
            kept.append(column)
            continue
        leaks.append(
            f"{column.name!r} {why}: set aside. If it is known before the target is, bring it "
            f"back with `kind: {column.kind}` in the contract"
        )
        note = f"Set aside: suspected leak, {why}"
        kept.append(Column(column.name, "text", nullable=True, description=note))
    return kept, leaks


def _leak(column: Column, series: pl.Series, target: str, y: Floats) -> str | None:
    if column.kind not in ("number", "integer"):
        return None
    values, wrong = encode_values(column, series)
    both = np.isfinite(values) & np.isfinite(y) & ~wrong
    if both.sum() >= 10:
        rho = _rank_correlation(values[both], y[both])
        if abs(rho) > _LEAK_CORRELATION:
            return f"ranks the rows almost as the target does (rank correlation {rho:.3f})"
    own, other = _slug(column.name), _slug(target)
    if _PRICE.fullmatch(own):
        return "is named like a price"
    if len(other) >= 4 and re.search(rf"(?:^|_){re.escape(other)}(?:_|$)", own):
        return "bears the target's name"
    return None


def _rank_correlation(a: Floats, b: Floats) -> float:
    """Spearman's rho with ties at their average rank; 0 when either is constant."""
    ranks = [pl.Series(x).rank("average").to_numpy() for x in (a, b)]
    centred = [r - r.mean() for r in ranks]
    norm = math.sqrt(float((centred[0] ** 2).sum()) * float((centred[1] ** 2).sum()))
    return float((centred[0] * centred[1]).sum()) / norm if norm > 0 else 0.0


def _with_roles(
    columns: list[Column], frame: pl.DataFrame, y: Floats, assumptions: list[str]
) -> list[Column]:
    """Give the roles of coordinates, timestamp and segment to the columns that fit best."""
    by_name = {column.name: column for column in columns}
    latitude = _coordinate(columns, frame, _LATITUDE, 90.0)
    longitude = _coordinate(columns, frame, _LONGITUDE, 180.0)
    if latitude is not None and longitude is not None:
        assumptions.append(f"{longitude.name!r} and {latitude.name!r} are coordinates in degrees")
        by_name[latitude.name], by_name[longitude.name] = latitude, longitude
    date = next((column for column in columns if column.kind == "datetime"), None)
    if date is not None:
        by_name[date.name] = replace(date, role="timestamp")
    candidates = [c for c in columns if c.kind == "category" and len(c.categories) <= 20]
    shares = [_explained(c, frame, y) for c in candidates]
    if candidates:
        best = candidates[int(np.argmax(shares))]
        assumptions.append(f"errors are reported by segments of {best.name!r}")
        by_name[best.name] = replace(best, role="segment")
    return [by_name[column.name] for column in columns]


def _coordinate(
    columns: list[Column], frame: pl.DataFrame, pattern: re.Pattern[str], limit: float
) -> Column | None:
    """Return the column whose name and range say that it is a coordinate, with its role."""
    for column in columns:
        if column.kind not in ("number", "integer") or not pattern.fullmatch(column.name):
            continue
        values, _ = encode_values(column, frame[column.name])
        low, high = float(np.nanmin(values)), float(np.nanmax(values))
        if -limit <= low and high <= limit:
            margin = max(0.5, 0.1 * (high - low))
            return replace(
                column,
                kind="number",
                role="latitude" if pattern is _LATITUDE else "longitude",
                unit="degrees",
                bounds=(
                    max(-limit, math.floor(low - margin)),
                    min(limit, math.ceil(high + margin)),
                ),
            )
    return None


def _explained(column: Column, frame: pl.DataFrame, y: Floats) -> float:
    """Return the share of the target's variance between the categories (eta squared)."""
    codes, _ = encode_values(column, frame[column.name])
    known = np.isfinite(codes) & np.isfinite(y)
    groups, values = codes[known].astype(np.int64), y[known]
    total = float(((values - values.mean()) ** 2).sum()) if len(values) else 0.0
    if total == 0:
        return 0.0
    counts = np.bincount(groups)
    means = np.bincount(groups, weights=values) / np.maximum(counts, 1)
    return float((counts * (means - values.mean()) ** 2)[counts > 0].sum()) / total


def _describe_target(name: str, y: Floats, assumptions: list[str]) -> Target:
    values = y[np.isfinite(y)]
    low, high = float(values.min()), float(values.max())
    transform: Transform = "none"
    if low > 0 and _skewness(values) > max(0.5, abs(_skewness(np.log(values)))):
        transform = "log"
        assumptions.append(f"the target {name!r} is positive and skewed: models fit its logarithm")
    at_top = float((values == high).mean())
    cap = high if at_top >= _CAP_SHARE and len(np.unique(values)) > 50 else None
    if cap is not None:
        assumptions.append(f"the target {name!r} is cut off at {cap:g} ({at_top:.1%} of the rows)")
    missing = len(y) - len(values)
    if missing:
        assumptions.append(f"{missing} row(s) have no usable target and are refused")
    bounds = (
        (round_outwards(low / 2, up=False), round_outwards(high * 2, up=True))
        if low > 0
        else bounds_around(low, high)
    )
    slug = _slug(name)
    return Target(
        name=name,
        bounds=bounds,
        cap=cap,
        transform=transform,
        prediction_name=f"predicted_{slug}" if slug else "prediction",
    )


def _skewness(values: Floats) -> float:
    spread = float(values.std())
    return float((((values - values.mean()) / spread) ** 3).mean()) if spread > 0 else 0.0


def _slug(text: str) -> str:
    """Return lower-case ASCII letters, digits and underscores only."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "_", plain.lower()).strip("_")


_HEADER = """Contract written by `tasador init`; read it through and correct what it assumed.
Kinds: number, integer, category, datetime, identifier, text (carried, never used)."""


@dataclass(frozen=True)
class WrittenContract:
    """What was written, and on which assumptions."""

    name: str
    path: Path
    assumptions: tuple[str, ...]
    leaks: tuple[str, ...]


def write_new_contract(
    file: str | Source,
    target: str,
    *,
    name: str | None,
    force: bool,
    project: Path,
    categories: Collection[str] = (),
    source: Source | None = None,
) -> WrittenContract:
    """Infer a contract from `file` and write it to ``conf/dataset/<name>.yaml`` of `project`.

    `categories` are columns that are categories, whatever they look like.

    Raises:
        ConfigError: The name cannot be one, or a contract of that name exists and `force` is not
            given.
        DataError: The file cannot be read, or the target is not a number to estimate.
    """
    if name is not None and not is_plain_name(name):
        raise ConfigError(
            f"{name!r} cannot be a contract's name",
            expected="a letter, then letters, digits, '_' and '-'; not null, true or the like",
            remedy="choose another --name",
        )
    inference = infer_contract(file, target, name=name, categories=categories, source=source)
    contract = inference.contract
    path = project / "conf" / "dataset" / f"{contract.name}.yaml"
    if path.exists() and not force:
        raise ConfigError(
            f"{path} exists already", remedy="choose another --name, or --force to replace it"
        )
    if isinstance(file, str) and "://" not in file:
        source = dataclasses.replace(contract.source, paths=(str(Path(file).resolve()),))
        contract = dataclasses.replace(contract, source=source)
    notes = [f"assumed: {line}" for line in inference.assumptions]
    notes += [f"possible leak, set aside: {line}" for line in inference.leaks]
    write_text(path, write_contract(contract, "\n".join([_HEADER, "", *notes])))
    read_contract(path)  # what was written must be read back before anybody relies on it
    return WrittenContract(
        contract.name, path, tuple(inference.assumptions), tuple(inference.leaks)
    )
