"""`tasador init`: a contract for any table, written by looking at it.

Each guess is a sentence that a person can check; what the values do not settle is a question. What
is set aside is measured first: a column that explains the target is never dropped in silence.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tasador.contract.encoding import Encoder, encode_values, sent_as
from tasador.contract.model import (
    ENCODED_KINDS,
    Column,
    Source,
    TableContract,
    latitude_like,
    longitude_like,
)
from tasador.contract.reader import read_contract, write_contract
from tasador.contract.text_parts import explained_by_groups, prefix_of_codes
from tasador.contract.type_inference import (
    Findings,
    Question,
    decimal_mark,
    describe_column,
)
from tasador.core import storage
from tasador.core.errors import ConfigError
from tasador.core.storage import write_text
from tasador.data.contract_tables import with_levels_learned
from tasador.data.readers import read_source
from tasador.ops.init_target import (
    NO,
    YES,
    SetAside,
    TargetError,
    describe_target,
    find_leaks,
    in_bounds,
    one_of,
    sample_of,
    set_aside,
    slug_of,
    target_values,
    with_worth,
    without_leak,
)

Floats = NDArray[np.float64]

#: A column set aside that explains so much of the target is named at the end.
_STRONG = 0.05
_X_OR_Y = r"(?:(?:coord(?:inate)?|geo|gps|point)[_ .-]?)?{}(?:[_ .-]?coord(?:inate)?)?"
_SOLD = re.compile(r"sold|sale|transaction|deed|contract|closing|fecha|verkauf|venta|date$", re.I)
#: Names of what others say that a thing is worth.
_VALUED = re.compile(
    r"assess|apprais|zestimate|estimate|(?:land|imp\w{0,3}|bldg|building|tax|market|total)_?val",
    re.I,
)
#: Names of weights of rows; one called `weight` may as well be how heavy a thing is.
_WEIGHT = re.compile(r"(?:(?:sample|sampling|row|case|training|survey)[_ .-]?)?weights?", re.I)
#: Columns that say how a sale came about.
_MANNER = re.compile(
    r"method(_?of_?sale)?|sale[_ ]?(type|condition|status|method|qualif\w*|valid\w*)"
    r"|arms?[_ ]?length|deed[_ ]?type|(sale[_ ]?)?(valid\w*|qualified)",
    re.I,
)
_PROPERTY = re.compile(r"parcel|property_?(?:id|no|nr)|(?:^|_)(?:pin|apn|uprn|vin)(?:$|_)", re.I)
#: Least share of different values in a column that says what was sold.
_OFTEN_SOLD = 0.2
_NOT_SOLD = re.compile(r"built|birth|renov|since|review|updat|creat|scrap", re.I)


class NewContractError(ConfigError):
    """A contract that is not written as it was asked for."""

    @classmethod
    def no_category(cls, wanted: str, columns: Sequence[str]) -> NewContractError:
        """Return the error of a category that is no column to estimate from."""
        return cls(
            f"there is no column {wanted!r} to take for a category", expected=one_of(columns)
        )

    @classmethod
    def bad_name(cls, name: str) -> NewContractError:
        """Return the error of a name that ``dataset=`` would not take."""
        return cls(
            f"{name!r} cannot be a contract's name",
            expected="a letter, then letters, digits, '_' and '-'; not null, true or the like",
            remedy="choose another --name",
        )

    @classmethod
    def exists(cls, path: Path) -> NewContractError:
        """Return the error of a contract that would be replaced."""
        return cls(
            f"{path} exists already", remedy="choose another --name, or --force to replace it"
        )


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
    target_form, y = target_values(frame, target, findings)
    for wanted in categories:
        if wanted not in frame.columns or wanted == target:
            raise NewContractError.no_category(wanted, frame.columns)
    short = name or _name_of(path)
    described = describe_target(target, target_form, y, findings)
    y = np.where(in_bounds(described, y), y, np.nan)
    modelled = np.log(y) if described.transform == "log" else y
    columns: list[Column] = []
    for column in frame.columns:
        if column != target:
            columns += describe_column(
                frame[column], findings, as_category=column in categories, y=modelled
            )
    columns = _with_different_names(columns, target)
    leaks = find_leaks(columns, frame, described, y, sample_of(frame.height))
    kept = [without_leak(column, leaks) for column in columns]
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
        raise TargetError.alone(contract, path)
    aside = set_aside(contract, frame, modelled, {leak.column for leak in leaks})
    contract = with_worth(contract, aside)
    said = [leak.sentence for leak in leaks]
    preview = _preview(with_levels_learned(contract, frame), frame)
    return Inference(contract, findings.assumptions, said, findings.questions, aside, preview)


def is_plain_name(name: str) -> bool:
    """Tell whether ``dataset=<name>`` can stand on a command line: a word, not a number or null."""
    plain = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]{0,79}", name) is not None
    return plain and name.lower() not in ("null", "true", "false", "nan", "inf")


def _name_of(path: storage.Location | Source) -> str:
    if isinstance(path, Source):
        return "query"
    short = slug_of(re.sub(r"(?:\.\w{1,7}){1,2}$", "", Path(str(path)).name))[:70] or "table"
    return short if is_plain_name(short) else f"table_{short}"


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


def _with_roles(
    columns: list[Column], frame: pl.DataFrame, y: Floats, findings: Findings
) -> list[Column]:
    """Give the roles that say what a column means to the columns that fit best."""
    by_name = {column.name: column for column in columns}
    for column in _coordinates(columns, frame, findings):
        by_name[column.name] = column
    date = _timestamp(columns)
    if date is not None:
        # a row to be valued has no sale: without a date it is valued as of the newest one known
        by_name[date.name] = replace(date, role="timestamp", nullable=True)
        findings.assumptions.append(f"{date.name!r} is when the target was observed")
    prefixes = [
        found
        for column in columns
        if column.name in frame.columns and _PROPERTY.search(column.name)
        for found in _prefix(column, frame, y, findings)
    ]
    for column in _resold(columns, frame):
        by_name[column.name] = Column(
            column.name,
            "identifier",
            role="property",
            nullable=column.nullable or frame[column.name].null_count() > 0,
            description=column.description,
        )
        findings.assumptions.append(
            f"{column.name!r} says what was sold: sales of one stay together in splits and folds"
        )
    for column in columns:
        if column.kind not in ("number", "integer") or not _WEIGHT.fullmatch(column.name):
            continue
        question = f"Is {column.name!r} how much a row counts in training, and no feature?"
        likely = NO if column.name.lower() in ("weight", "weights") else YES
        if findings.choose("weight", question, (YES, NO), likely) == YES:
            by_name[column.name] = replace(column, role="weight", nullable=True)
        break
    rivals = [c for c in columns if c.kind in ("number", "integer") and _VALUED.search(c.name)]
    if rivals:
        names = ", ".join(repr(column.name) for column in rivals)
        question = f"Is {names} somebody else's estimate, to be compared with and not learnt from?"
        if findings.choose("rivals", question, (YES, NO), NO) == YES:
            by_name |= {c.name: replace(c, role="rival") for c in rivals}
    sample = sample_of(frame.height)
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
    return [*(by_name[column.name] for column in columns), *prefixes]


def _prefix(column: Column, frame: pl.DataFrame, y: Floats, findings: Findings) -> Iterator[Column]:
    """Yield the column of what the codes of a property begin with, where that says something."""
    known = np.flatnonzero(np.isfinite(y))
    texts = frame[column.name].cast(pl.String).str.strip_chars().gather(known).to_list()
    part = prefix_of_codes(texts, y[known])
    name = f"{column.name}_prefix"
    if part is None or name in frame.columns:
        return
    findings.assumptions.append(
        f"{name!r}, the codes of {column.name!r} without their last {part.extract.value} "
        "characters, explains the target"
    )
    yield Column(name, "category", nullable=True, case_sensitive=False, open=True, learned=True,
                 source=column.name, extract=part.extract)  # fmt: skip


def _covers(codes: Floats, levels: int) -> bool:
    """Tell whether most rows are in one of several levels."""
    known = codes[np.isfinite(codes) & (codes < levels)].astype(np.intp)
    if len(known) < 0.8 * len(codes):
        return False
    return bool(np.bincount(known).max() <= 0.98 * len(known))


def _timestamp(columns: Sequence[Column]) -> Column | None:
    dates = [c for c in columns if c.kind == "datetime" and not _NOT_SOLD.search(c.name)]
    dates.sort(key=lambda c: not _SOLD.search(c.name))
    return dates[0] if dates else None


def _resold(columns: Sequence[Column], frame: pl.DataFrame) -> list[Column]:
    """Return the identifier of which some values come again, as those of things sold twice do.

    Also one that is named after a property and of so few different values that it was taken for a
    category or a number; others, such as a model's number, may say much and stay features.
    """
    found = []
    for column in columns:
        named = _PROPERTY.search(column.name) and column.kind in ("category", "integer", "text")
        if (column.kind == "identifier" or named) and column.name in frame.columns:
            known = frame[column.name].drop_nulls()
            if _OFTEN_SOLD * len(known) <= known.n_unique() < len(known):
                found.append(column)
    return found[:1]


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
                "coordinates", f"Are {names} longitude and latitude in degrees?", (YES, NO), YES
            )
            if answer == NO:
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
        raise NewContractError.bad_name(name)
    path = _path_of(name or _name_of(file), project)
    if path.exists() and not force:
        raise NewContractError.exists(path)


def _path_of(name: str, project: Path) -> Path:
    return project / "conf" / "dataset" / f"{name}.yaml"


def _proposed_filters(contract: TableContract) -> Iterator[str]:
    """Yield, for columns that say how a sale came about, how to exclude rows by them."""
    for column in contract.columns:
        if column.kind in ("category", "text") and _MANNER.fullmatch(column.name):
            levels = ", ".join(column.categories[:12]) or "text"
            yield f"{column.name!r} may say which rows are no market sales ({levels}); if so:"
            yield (
                f"  exclude: [{{column: {column.name}, in: [...], reason: not a sale at arm's "
                "length}]"
            )


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
    notes += _proposed_filters(contract)
    path = _path_of(contract.name, project)
    write_text(path, write_contract(contract, "\n".join([_HEADER, "", *notes])))
    read_contract(path)  # what was written must be read back before anybody relies on it
    return WrittenContract(path, inference)
