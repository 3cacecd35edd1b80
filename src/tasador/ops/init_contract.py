"""`tasador init`: a contract for any table, written by looking at it.

Each guess is a sentence that a person can check; what the values do not settle is a question. What
is set aside is measured first: a column that explains the target is never dropped in silence.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import unicodedata
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tasador.contract.encoding import Encoder, encode_values, sent_as
from tasador.contract.formats import PLAIN, Format
from tasador.contract.model import (
    ENCODED_KINDS,
    SET_ASIDE,
    Column,
    Source,
    TableContract,
    Target,
    Transform,
    latitude_like,
    longitude_like,
)
from tasador.contract.reader import read_contract, write_contract
from tasador.contract.text_parts import explained_by_groups, explained_by_number
from tasador.contract.type_inference import (
    Findings,
    Question,
    bounds_around,
    decimal_mark,
    describe_column,
    round_outwards,
    target_reading,
)
from tasador.core import storage
from tasador.core.errors import ConfigError, ValidationError
from tasador.core.storage import write_text
from tasador.data.readers import read_source
from tasador.ops.leaks import Leak, find_leaks

Floats = NDArray[np.float64]

_CAP_SHARE = 0.01
#: Rows that are looked at where a sample is enough.
_SAMPLE = 20_000
#: A column set aside that explains so much of the target is named at the end.
_STRONG = 0.05
_X_OR_Y = r"(?:(?:coord(?:inate)?|geo|gps|point)[_ .-]?)?{}(?:[_ .-]?coord(?:inate)?)?"
_SOLD = re.compile(r"sold|sale|transaction|deed|contract|closing|fecha|verkauf|venta|date$", re.I)
_NOT_SOLD = re.compile(r"built|birth|renov|since|review|updat|creat|scrap", re.I)
_MONEY = re.compile(r"price|sale|amount|value|cost|rent|precio|preis|prix|prezzo|valor|miete", re.I)
_YES, _NO = "yes", "no"


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


@dataclass(frozen=True)
class Inference:
    """A contract written by looking at a table.

    Attributes:
        contract: The contract; `contract.reader.write_contract` turns it into YAML.
        assumptions: What was assumed, a sentence each, for the reader to check.
        leaks: Columns set aside because they seem to give the target away, a sentence each.
        questions: What the values do not settle; the default of each was taken.
        aside: Columns that are not used, those that explain most first.
        preview: Of some columns, what they are and their first values as they will be read.
    """

    contract: TableContract
    assumptions: list[str]
    leaks: list[str]
    questions: list[Question] = field(default_factory=list)
    aside: list[SetAside] = field(default_factory=list)
    preview: list[tuple[str, str, list[str]]] = field(default_factory=list)

    @property
    def conclusion(self) -> str:
        """One sentence on what the columns set aside explain; empty when nothing."""
        strong = [column for column in self.aside if column.explains >= _STRONG]
        if not strong:
            return ""
        names = ", ".join(f"{c.name!r} {c.explains:.0%}" for c in strong[:5])
        most = max(column.explains for column in strong)
        how = "; ".join(dict.fromkeys(column.remedy for column in strong[:5]))
        return (
            f"{len(strong)} column(s) set aside explain up to {most:.0%} of the target by "
            f"themselves: {names}. To use them: {how}"
        )


def infer_contract(
    path: storage.Location | Source,
    target: str,
    *,
    name: str | None = None,
    categories: Collection[str] = (),
    answers: Mapping[str, str] | None = None,
    source: Source | None = None,
) -> Inference:
    """Look at the table in a file and write a contract for it.

    Args:
        path: The file, a pattern of several, or a source with a query; it becomes the contract's
            source.
        target: The column to estimate.
        name: Name of the contract; by default from the file's name.
        categories: Columns that are categories, whatever they look like.
        answers: Answers to `Inference.questions`, by their key.
        source: Options for reading the file.

    Raises:
        SourceError: The file cannot be read as a table.
        ConfigError: One of `categories` is not a column to estimate from.
        ValidationError: The target is not a column, not a number, or constant; or no column is
            left to estimate it from.
    """
    read = read_source(path, source=source)
    frame = read.frame
    findings = Findings(assumptions=list(read.notes), answers=answers or {})
    findings.decimal = decimal_mark(frame) or ("," if read.source.delimiter == ";" else None)
    target_form, y = _target_values(frame, target, findings)
    for wanted in categories:
        if wanted not in frame.columns or wanted == target:
            raise ConfigError(
                f"there is no column {wanted!r} to take for a category",
                expected=f"one of {', '.join(map(repr, frame.columns[:30]))}",
            )
    short = name or _name_of(path)
    described = _describe_target(target, target_form, y, findings)
    y = np.where(_in_bounds(described, y), y, np.nan)
    modelled = np.log(y) if described.transform == "log" else y
    columns: list[Column] = []
    for column in frame.columns:
        if column != target:
            columns += describe_column(
                frame[column], findings, as_category=column in categories, y=modelled
            )
    columns = _with_different_names(columns, target)
    leaks = find_leaks(columns, frame, described, y, _sample(frame.height))
    kept = [_without_leak(column, leaks) for column in columns]
    if any(column.kind in ENCODED_KINDS for column in kept):
        columns = kept
    elif leaks:
        findings.assumptions += [
            f"{leak.column!r} {leak.why}: kept, since no other column is left" for leak in leaks
        ]
        leaks = []
    columns = _with_roles(columns, frame, modelled, findings)
    if any(column.kind == "category" for column in columns):
        findings.assumptions.append(
            "of categories, upper and lower case are alike; other levels are valued with a warning"
        )
    contract = TableContract(
        name=short,
        title=f"{target} of {short}",
        model_name=f"{short}_model",
        columns=tuple(columns),
        target=described,
        source=read.source,
    )
    if not contract.features:
        raise _nothing_left(path, contract)
    aside = _set_aside(contract, frame, modelled, {leak.column for leak in leaks})
    contract = _with_worth(contract, aside)
    said = [leak.sentence for leak in leaks]
    preview = _preview(contract, frame)
    return Inference(contract, findings.assumptions, said, findings.questions, aside, preview)


def _nothing_left(path: storage.Location | Source, contract: TableContract) -> ValidationError:
    target = contract.target.name
    expected = "at least one number, category or datetime"
    if not contract.columns:
        return ValidationError(
            f"{target!r} is the only column of {path}: there is nothing to estimate it from",
            expected=expected,
            remedy="if there are more columns, separate them with commas, semicolons or tabs",
        )
    why = [
        f"{column.name!r} ({(column.description or column.kind).removeprefix(SET_ASIDE)})"
        for column in contract.columns[:10]
    ]
    return ValidationError(
        f"nothing is left in {path} to estimate {target!r} from",
        expected=expected,
        got=f"columns set aside: {', '.join(why)}",
        remedy="name columns that are codes with --category",
    )


def is_plain_name(name: str) -> bool:
    """Tell whether ``dataset=<name>`` can stand on a command line: a word, not a number or null."""
    plain = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]{0,79}", name) is not None
    return plain and name.lower() not in ("null", "true", "false", "nan", "inf")


def _name_of(path: storage.Location | Source) -> str:
    if isinstance(path, Source):
        return "query"
    short = _slug(re.sub(r"(?:\.\w{1,7}){1,2}$", "", Path(str(path)).name))[:70] or "table"
    return short if is_plain_name(short) else f"table_{short}"


def _sample(rows: int) -> NDArray[np.intp]:
    """Return the positions of at most 20 000 rows that lie evenly."""
    if rows <= _SAMPLE:
        return np.arange(rows)
    return np.unique(np.linspace(0, rows - 1, _SAMPLE).astype(np.intp))


def _target_values(frame: pl.DataFrame, target: str, findings: Findings) -> tuple[Format, Floats]:
    """Return how the target is written, and its values, NaN where it has none."""
    if target not in frame.columns:
        close = difflib.get_close_matches(target, frame.columns, n=1, cutoff=0.5)
        raise ValidationError(
            f"there is no column {target!r}",
            expected=f"one of {', '.join(map(repr, frame.columns[:30]))}",
            got=_how_read(findings.assumptions),
            remedy=f"did you mean {close[0]!r}?" if close else None,
        )
    series = frame[target]
    present = int(series.is_not_null().sum())
    if present == 0:
        raise ValidationError(
            f"the target {target!r} has no value in any row", remedy="choose another column"
        )
    form = target_reading(series, findings)
    y, wrong = encode_values(Column(target, "number", format=form or PLAIN), series)
    if form is None:
        values = [series[int(i)] for i in np.flatnonzero(wrong)] or series.drop_nulls().to_list()
        values = [v for v in values if not re.search(r"\d", str(v))] or values
        raise ValidationError(
            f"the target {target!r} is not a number",
            got=f"{values[0]!r} and {len(values) - 1} more of {present} values",
            remedy="choose a column of numbers",
        )
    y = np.where(np.isfinite(y), y, np.nan)
    if np.isnan(y).all():
        raise ValidationError(
            f"the target {target!r} is not finite in any row",
            expected="numbers",
            got=f"{series.drop_nulls()[0]!r} and the like",
            remedy="choose another column, or check how the file was made",
        )
    if np.nanmin(y) == np.nanmax(y):
        raise ValidationError(
            f"the target {target!r} is constant",
            expected="at least two different values",
            got=f"{np.nanmin(y):g} in all {present} rows that have one",
            remedy="choose another column, or check how the file was made",
        )
    return form, y


def _how_read(notes: Sequence[str]) -> str | None:
    """Return how the file was read, which may explain what its columns are called."""
    return f"a file of which was said: {'; '.join(notes)}"[:600] if notes else None


def _in_bounds(target: Target, y: Floats) -> NDArray[np.bool_]:
    low, high = target.bounds
    right = np.isfinite(y)
    if "0" in target.format.missing:
        right &= y != 0
    if low is not None:
        right &= y >= low
    return right if high is None else right & (y <= high)


def _with_different_names(columns: Sequence[Column], target: str) -> list[Column]:
    """Give another name to a part of a text that is called as another column is."""
    taken, found = {target, *(c.name for c in columns if not c.from_text)}, []
    for column in columns:
        name, n = column.name, 2
        while column.from_text and name in taken:
            name, n = f"{column.name}_{n}", n + 1
        taken.add(name)
        found.append(replace(column, name=name))
    return found


def _without_leak(column: Column, leaks: Sequence[Leak]) -> Column:
    """Turn a column that seems to give the target away into text, which is not used."""
    why = next((leak.why for leak in leaks if leak.column == column.name), None)
    if why is None:
        return column
    note = f"{SET_ASIDE}suspected leak, {why}"
    return Column(column.name, "text", nullable=True, description=note)


def _with_roles(
    columns: list[Column], frame: pl.DataFrame, y: Floats, findings: Findings
) -> list[Column]:
    """Give the roles of coordinates, timestamp and segment to the columns that fit best."""
    by_name = {column.name: column for column in columns}
    for column in _coordinates(columns, frame, findings):
        by_name[column.name] = column
    date = _timestamp(columns)
    if date is not None:
        by_name[date.name] = replace(date, role="timestamp")
        findings.assumptions.append(f"{date.name!r} is when the target was observed")
    sample = _sample(frame.height)
    candidates = [
        (c, codes)
        for c in columns
        if c.kind == "category" and 2 <= len(c.categories) <= 20 and not c.from_text
        for codes in [encode_values(c, frame[c.name].gather(sample))[0]]
        if _covers(codes, len(c.categories))
    ]
    if candidates:
        shares = [_explained_by_codes(codes, y[sample]) for _, codes in candidates]
        best = candidates[int(np.argmax(shares))][0]
        findings.assumptions.append(f"errors are reported by segments of {best.name!r}")
        by_name[best.name] = replace(best, role="segment")
    return [by_name[column.name] for column in columns]


def _covers(codes: Floats, levels: int) -> bool:
    """Tell whether most rows are in one of several levels."""
    known = codes[np.isfinite(codes) & (codes < levels)].astype(np.intp)
    if len(known) < 0.8 * len(codes):
        return False
    return bool(np.bincount(known).max() <= 0.98 * len(known))


def _timestamp(columns: Sequence[Column]) -> Column | None:
    dates = [column for column in columns if column.kind == "datetime"]
    dates.sort(key=lambda c: (bool(_NOT_SOLD.search(c.name)), not _SOLD.search(c.name)))
    return dates[0] if dates else None


def _coordinates(
    columns: Sequence[Column], frame: pl.DataFrame, findings: Findings
) -> tuple[Column, ...]:
    """Return the columns of coordinates with their roles; none when one of the two is missing."""
    for kind, (latitude, longitude) in (
        ("names", (latitude_like, longitude_like)),
        ("xy", (partial(_is_axis, "y"), partial(_is_axis, "x"))),
    ):
        pair = (
            _coordinate(columns, frame, latitude, "latitude", 90.0, fine=kind == "xy"),
            _coordinate(columns, frame, longitude, "longitude", 180.0, fine=kind == "xy"),
        )
        if pair[0] is None or pair[1] is None or pair[0].name == pair[1].name:
            continue
        names = f"{pair[1].name!r} and {pair[0].name!r}"
        plain = kind == "names" and all(c.name.lower() in _PLAIN_NAMES for c in pair if c)
        if not plain:
            answer = findings.choose(
                "coordinates", f"Are {names} longitude and latitude in degrees?", (_YES, _NO), _YES
            )
            if answer == _NO:
                return ()
        findings.assumptions.append(f"{names} are coordinates in degrees")
        return pair[0], pair[1]
    return ()


_PLAIN_NAMES = frozenset({"lat", "latitude", "lon", "lng", "long", "longitude"})


def _coordinate(
    columns: Sequence[Column],
    frame: pl.DataFrame,
    fits: Callable[[str], bool],
    role: str,
    limit: float,
    *,
    fine: bool,
) -> Column | None:
    """Return the column whose name and range say that it is a coordinate, with its role.

    `fine` wants values of at least four decimals: x and y may be anything.
    """
    named = [c for c in columns if fits(c.name)]
    if not fine:
        named += [c for c in columns if c not in named and _misspelt(c.name, role)]
    for column in named:
        if column.kind not in ("number", "integer") or column.from_text:
            continue
        values, _ = encode_values(column, frame[column.name])
        values = values[np.isfinite(values)]
        low, high = float(values.min()), float(values.max())
        if not (-limit <= low and high <= limit) or (fine and not _has_decimals(values)):
            continue
        margin = max(0.5, 0.1 * (high - low))
        return replace(
            column,
            kind="number",
            role="latitude" if role == "latitude" else "longitude",
            unit="degrees",
            bounds=(max(-limit, math.floor(low - margin)), min(limit, math.ceil(high + margin))),
        )
    return None


def _is_axis(axis: str, name: str) -> bool:
    return re.fullmatch(_X_OR_Y.format(axis), name.lower()) is not None


def _misspelt(name: str, role: str) -> bool:
    plain = re.sub(r"[^a-z]", "", name.lower())
    return difflib.SequenceMatcher(None, plain, role).ratio() >= 0.82


def _has_decimals(values: Floats) -> bool:
    thousandths = values * 1000
    return float(np.mean(np.abs(thousandths - np.round(thousandths)) > 1e-6)) > 0.5


def _explained_by_codes(codes: Floats, y: Floats) -> float:
    known = np.isfinite(y)
    return explained_by_groups(np.nan_to_num(codes[known], nan=-1.0).astype(np.intp), y[known])


def _describe_target(name: str, form: Format, y: Floats, findings: Findings) -> Target:
    values = y[np.isfinite(y)]
    zeros = int((values == 0).sum())
    missing = len(y) - len(values)
    if zeros and (values >= 0).all() and _is_money(name, values[values > 0]):
        answer = findings.choose(
            f"{name}.zero",
            f"{zeros} row(s) have a target of 0 ({zeros / len(values):.0%}); sales of 0 are "
            "usually not sales. Leave them out of training?",
            (_YES, _NO),
            _YES,
        )
        said = f"{zeros} row(s) have a target of 0, and sales of 0 are usually not sales: "
        if answer == _YES:
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
    slug = _slug(name)
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


def _set_aside(
    contract: TableContract, frame: pl.DataFrame, y: Floats, leaks: Collection[str]
) -> list[SetAside]:
    """Measure what each column that is not used explains by itself; leaks are named elsewhere."""
    sources = {column.source for column in contract.features}
    sample = _sample(frame.height)
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


def _with_worth(contract: TableContract, aside: Sequence[SetAside]) -> TableContract:
    """Write what a column set aside explains into its description."""
    worth = {column.name: column.explains for column in aside}
    columns = tuple(
        replace(c, description=f"{c.description}; explains {worth[c.name]:.0%} of the target")
        if worth.get(c.name, 0.0) >= 0.01
        else c
        for c in contract.columns
    )
    return dataclasses.replace(contract, columns=columns)


_PREVIEW_ROWS, _PREVIEW_COLUMNS = 5, 40


def _preview(contract: TableContract, frame: pl.DataFrame) -> list[tuple[str, str, list[str]]]:
    """Return name, kind and first values of each column as they will be read."""
    head = frame.head(_PREVIEW_ROWS)
    found: list[tuple[str, str, list[str]]] = []
    for column in (contract.target.column, *contract.features[:_PREVIEW_COLUMNS]):
        sent = sent_as(column, head.columns)
        if sent is None:
            continue
        codes, _ = encode_values(sent, head[sent.field_name])
        one = dataclasses.replace(contract, columns=(column.own,)) if column.kind else contract
        values = Encoder(one).decode(codes[:, None])[column.name]
        found.append((column.name, column.kind, [_short(value) for value in values]))
    return found


def _short(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.10g}"
    text = str(value).removesuffix(" 00:00:00+00:00")
    return text if len(text) <= 20 else text[:19] + "\u2026"


def _slug(text: str) -> str:
    """Return lower-case ASCII letters, digits and underscores only."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "_", plain.lower()).strip("_")


_HEADER = """Contract written by `tasador init`; read it through and correct what it assumed.
Kinds: number, integer, category, datetime, identifier, text (carried, never used)."""


@dataclass(frozen=True)
class WrittenContract:
    """What was written, and on which assumptions.

    Attributes:
        path: The file.
        inference: What was found; its contract is in the file.
    """

    path: Path
    inference: Inference

    @property
    def name(self) -> str:
        """The contract's name."""
        return self.inference.contract.name


def check_new_contract(name: str | None, file: str | Source, *, force: bool, project: Path) -> None:
    """Refuse what cannot be written, before a table is read.

    Raises:
        ConfigError: The name cannot be one, or a contract of that name exists and `force` is not
            given.
    """
    if name is not None and not is_plain_name(name):
        raise ConfigError(
            f"{name!r} cannot be a contract's name",
            expected="a letter, then letters, digits, '_' and '-'; not null, true or the like",
            remedy="choose another --name",
        )
    path = _path_of(name or _name_of(file), project)
    if path.exists() and not force:
        raise ConfigError(
            f"{path} exists already", remedy="choose another --name, or --force to replace it"
        )


def _path_of(name: str, project: Path) -> Path:
    return project / "conf" / "dataset" / f"{name}.yaml"


def write_new_contract(inference: Inference, *, project: Path) -> WrittenContract:
    """Write what was inferred to ``conf/dataset/<name>.yaml`` of `project`."""
    contract = inference.contract
    paths = tuple(p if "://" in p else str(Path(p).resolve()) for p in contract.source.paths)
    source = dataclasses.replace(contract.source, paths=paths)
    contract = dataclasses.replace(contract, source=source)
    notes = [f"assumed: {line}" for line in inference.assumptions]
    notes += [f"possible leak, set aside: {line}" for line in inference.leaks]
    notes += [
        f"question ({q.key}): {q.text} {' / '.join(q.options)}; assumed: {q.default}"
        for q in inference.questions
    ]
    if inference.conclusion:
        notes.append(inference.conclusion)
    path = _path_of(contract.name, project)
    write_text(path, write_contract(contract, "\n".join([_HEADER, "", *notes])))
    read_contract(path)  # what was written must be read back before anybody relies on it
    return WrittenContract(path, inference)
