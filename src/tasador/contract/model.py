"""The table contract: the single source of truth about a table.

Everything that depends on what the columns are (validation, features, the API's models, the
monitors' bins, the forms) is derived from a `TableContract`. Reading one from YAML or JSON is
`tasador.contract.reader`.
"""

from __future__ import annotations

import codecs
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, get_args

from tasador.contract.derived import Derive
from tasador.contract.errors import InvalidContractError
from tasador.contract.formats import PLAIN, Extract, Format, cell_text, date_text
from tasador.core.hashing import fingerprint, to_plain

ColumnKind = Literal["number", "integer", "category", "datetime", "identifier", "text"]
ColumnRole = Literal[
    "longitude", "latitude", "segment", "timestamp", "property", "group", "rival", "weight"
]
Transform = Literal["log", "none"]

COLUMN_KINDS: tuple[ColumnKind, ...] = (
    "number",
    "integer",
    "category",
    "datetime",
    "identifier",
    "text",
)
COLUMN_ROLES: tuple[ColumnRole, ...] = get_args(ColumnRole)
#: Roles of columns that are never features: what was sold, what others said that it is worth, and
#: how much a row counts.
_NOT_FEATURES: frozenset[str | None] = frozenset({"property", "rival", "weight"})
#: How the description of a column begins that `tasador init` decided not to use.
SET_ASIDE = "Set aside: "
#: Kinds that become a column of the encoded matrix; identifiers and text are carried, not used.
ENCODED_KINDS: frozenset[str] = frozenset({"number", "integer", "category", "datetime"})

_IDENTIFIER = re.compile(r"(?:.*[_ .-])?(?:id|ids|uuid|guid|index|idx|key|nr|no)|unnamed_\d+", re.I)
_CAMEL_IDENTIFIER = re.compile(r".*[a-z](?:Id|ID)|[A-Za-z]{0,12}(?:ID|PIN|UUID)")


def people_label(name: str) -> str:
    """Return a column's name for people: ``median_income`` and ``MedianIncome`` alike."""
    text = re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", " ", name.replace("_", " ")).strip(" ()")
    parts = (word.lower() if word.istitle() else word for word in text[1:].split(" "))
    return text[:1].upper() + " ".join(parts)


def plain_name(text: str) -> str:
    """Return the form in which names of columns are compared: composed (Unicode's NFC)."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def named_as_identifier(name: str) -> bool:
    """Tell whether a column is named as those are that count or name the rows."""
    return bool(_IDENTIFIER.fullmatch(name) or _CAMEL_IDENTIFIER.fullmatch(name))


_LATITUDE = re.compile(r"(?:.*[_ .-])?(?:lat|latt|latitude|latitud|breite(?:ngrad)?)(?:[_ .-].*)?")
_LONGITUDE = re.compile(
    r"(?:.*[_ .-])?(?:lon|lng|long|longitude|longitud|l[aä]nge(?:ngrad)?)(?:[_ .-].*)?"
)


def latitude_like(name: str) -> bool:
    """Tell whether a column's name says that it holds latitudes."""
    return _LATITUDE.fullmatch(name.lower()) is not None


def longitude_like(name: str) -> bool:
    """Tell whether a column's name says that it holds longitudes."""
    return _LONGITUDE.fullmatch(name.lower()) is not None


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the table, other than the target.

    Attributes:
        name: The column's name in the file.
        kind: What its values are. Identifiers and text are kept with the row but never used.
        role: What the column means beyond its kind, if anything: ``longitude`` and ``latitude`` of
            the place, ``segment`` and ``group`` (class) by which errors are reported,
            ``timestamp`` of the sale, ``property`` (identity of the thing valued), ``rival``
            (somebody else's estimate), ``weight`` (how much the row counts in training). The last
            three are never features.
        unit: Unit of measurement, for people: ``"degrees"``, ``"USD"``.
        description: One sentence for forms and documentation.
        bounds: Inclusive lower and upper bound of numbers, and of datetimes in seconds since 1970
            UTC; None leaves a side open.
        nullable: Whether a missing value is acceptable.
        categories: The known levels of a category, in a fixed order.
        open: Whether a category has other levels than those: such a value is accepted with a
            warning, where otherwise it is refused.
        learned: Whether the levels are those that the training table has more than once.
        case_sensitive: Whether ``"inland"`` and ``"INLAND"`` are different categories.
        format: How its texts are written.
        source: The column of text that the value is taken from, where it is part of one.
        extract: Which part of that text.
        derive: How the value follows from other columns, where it does; it is never sent then.
        label: What people call it, where that is not its name with spaces for underscores.
    """

    name: str
    kind: ColumnKind
    role: ColumnRole | None = None
    unit: str | None = None
    description: str | None = None
    bounds: tuple[float | None, float | None] = (None, None)
    nullable: bool = False
    categories: tuple[str, ...] = ()
    case_sensitive: bool = True
    open: bool = False
    learned: bool = False
    format: Format = PLAIN
    source: str | None = None
    extract: Extract | None = None
    derive: Derive | None = None
    label: str | None = None

    @property
    def from_text(self) -> bool:
        """Whether the value is part of another column's text."""
        return self.source is not None

    @property
    def field_name(self) -> str:
        """Name of the field that holds its value: its own, or of the text that it is part of."""
        return self.source or self.name

    @property
    def format_or_part(self) -> bool:
        """Whether its texts are read in another way than plain numbers and ISO dates are."""
        return self.from_text or self.format != PLAIN

    @property
    def own(self) -> Column:
        """The column as it is when sent by its own name, not within another one's text."""
        return replace(self, source=None, extract=None) if self.from_text else self

    def category_key(self, value: str) -> str:
        """Return the form of a category's text under which it is looked up."""
        text = cell_text(value)
        return plain_name(text if self.case_sensitive else text.casefold())

    def text_of(self, value: float) -> str:
        """Return a number of this column, such as a bound, for people: a date as a date."""
        return date_text(value) if self.kind == "datetime" else f"{value:.12g}"

    def plain_of(self, value: float) -> float | str | None:
        """Return an encoded value as JSON has it: a level's name, a date's text, or a number.

        None for a missing value, and for a level that the contract does not know.
        """
        if math.isnan(value):
            return None
        if self.kind == "category":
            return self.categories[int(value)] if 0 <= value < len(self.categories) else None
        return date_text(value) if self.kind == "datetime" else value


@dataclass(frozen=True)
class Target:
    """The number to estimate.

    Attributes:
        name: Its column.
        unit: Its unit, e.g. ``"USD"``.
        description: One sentence for people.
        bounds: Inclusive bounds of plausible values.
        cap: The value at which the recorded target was cut off, if it was.
        transform: Scale on which models are fitted; ``log`` needs a positive target.
        prediction_name: The field of an answer that carries the estimate.
        format: How its texts are written.
        label: What people call it, as for a column.
    """

    name: str
    unit: str | None = None
    description: str | None = None
    bounds: tuple[float | None, float | None] = (None, None)
    cap: float | None = None
    transform: Transform = "none"
    prediction_name: str = "prediction"
    format: Format = PLAIN
    label: str | None = None

    @cached_property
    def column(self) -> Column:
        """The target as a column of numbers."""
        return Column(
            self.name, "number", unit=self.unit, bounds=self.bounds, nullable=True,
            format=self.format,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Ratio:
    """A derived column: `numerator` divided by `denominator`, missing when that is zero."""

    name: str
    numerator: str
    denominator: str


@dataclass(frozen=True, slots=True)
class SqlQuery:
    """A table that a database gives.

    Attributes:
        url: The database's address for SQLAlchemy, without a password.
        query: The SELECT whose rows are the table.
    """

    url: str
    query: str


@dataclass(frozen=True, slots=True)
class Source:
    """Where the table comes from, tried in this order: paths, sql, url, synthetic.

    Attributes:
        paths: Local files or ``gs://`` / ``s3://`` objects; relative ones are looked for under
            the working folder and under ``TASADOR_REAL_DATA``. One with ``*``, ``?`` or ``[...]``
            names several files, which are read as one table.
        url: Published address, read when no path exists.
        sha256: Checksums that the file read may have; empty accepts any.
        member: Name of the table inside an archive, when it holds several.
        delimiter: Separator of a CSV file; ``,`` is also what is detected.
        synthetic: Name of the built-in generator to fall back on.
        encoding: Encoding of a text that is not UTF-8, by a name that Python knows.
        header_row: Line of a text, or row of a sheet, that holds the column names.
        has_header: False for a table without column names: they are ``column_1`` and so on.
        sheet: Sheet of a workbook: its name, or its number from 1.
        sql: The query that gives the table.

    Raises:
        ContractError: There is no such encoding.
    """

    paths: tuple[str, ...] = ()
    url: str | None = None
    sha256: tuple[str, ...] = ()
    member: str | None = None
    delimiter: str = ","
    synthetic: str | None = None
    encoding: str | None = None
    header_row: int | None = None
    has_header: bool | None = None
    sheet: str | int | None = None
    sql: SqlQuery | None = None

    def __post_init__(self) -> None:
        if self.encoding is not None and not _is_text_encoding(self.encoding):
            known = ("cp1251", "shift_jis", "latin-1", "utf-16", "...")
            message = f"source.encoding: unknown encoding {self.encoding!r}"
            raise InvalidContractError.not_among(message, known)

    def read_as(self, asked: Source) -> Source:
        """Return the same source, of a file with the sheet, header or encoding that is `asked`."""
        names = ("sheet", "has_header", "encoding")
        given = {name: getattr(asked, name) for name in names}
        return replace(self, **{name: one for name, one in given.items() if one is not None})


def _is_text_encoding(name: str) -> bool:
    try:
        return bool(codecs.lookup(name)._is_text_encoding)
    except (LookupError, ValueError):  # ValueError: a zero byte in the name
        return False


@dataclass(frozen=True, slots=True)
class Comparables:
    """How neighbouring sales are found and compared; every part has a default fitted on train.

    Attributes:
        near: Columns that span the space in which neighbours are near; by default the
            coordinates, or else the numeric columns most related to the target.
        similar_by: Positive number in which comparables should resemble the row (for a house:
            its neighbours' income); by default the number most related to the target.
        context: Columns or ratios whose mean over the neighbours becomes a feature.
        identifier: Column that names a comparable, such as a parcel's number. It is kept in bundles
            and shown with explanations; without it none is.
        label: Columns that people know one by, such as an address; kept and shown likewise.
    """

    near: tuple[str, ...] = ()
    similar_by: str | None = None
    context: tuple[str, ...] = ()
    identifier: str | None = None
    label: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Exclusion:
    """Rows that are no market sales: those of which one of these conditions holds.

    Attributes:
        column: Any column of the file, also one that the contract does not name, or the target.
        reason: Why such a row is left out, for people.
        among: Its text is one of these.
        not_among: It has a text, and none of these.
        below: Its number, or date in seconds since 1970 UTC, is less.
        above: It is greater.
        missing: It has no value.
    """

    column: str
    reason: str
    among: tuple[str, ...] = ()
    not_among: tuple[str, ...] = ()
    below: float | None = None
    above: float | None = None
    missing: bool = False


@dataclass(frozen=True)
class Translation:
    """The texts of a contract for people, in one language.

    Attributes:
        title: The contract's title, or None.
        texts: For columns and the target, by name: ``label``, ``description``, ``unit``.
    """

    title: str | None = None
    texts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class TableContract:
    """Everything the product knows about one table.

    Attributes:
        name: Short name; the file's stem under ``conf/dataset``.
        title: What the table holds, for people.
        model_name: Name under which models are registered.
        columns: The columns in the order of the encoded matrix (used ones) and beyond.
        target: The number to estimate.
        ratios: Derived columns.
        source: Where the table is found.
        comparables: How comparables are searched.
        exclude: Rows to leave out of training, which are valued all the same.
        fairness: Columns by whose values errors and ratios are compared; features or not.
        translations: Its texts for people in other languages; see `in_language`.

    Example:
        >>> import tasador
        >>> contract = tasador.load_bundle("cars").contract
        >>> isinstance(contract, tasador.TableContract)
        True
        >>> contract.target.name, contract.features[0].unit
        ('cost', 'kg')
    """

    name: str
    title: str
    model_name: str
    columns: tuple[Column, ...]
    target: Target
    ratios: tuple[Ratio, ...] = ()
    source: Source = field(default_factory=Source)
    comparables: Comparables = field(default_factory=Comparables)
    exclude: tuple[Exclusion, ...] = ()
    fairness: tuple[str, ...] = ()
    translations: Mapping[str, Translation] = field(default_factory=dict)

    def in_language(self, language: str) -> TableContract:
        """Return the contract with its texts for people in a language, as far as they are given."""
        found = self.translations.get(language)
        if found is None:
            return self
        columns = (replace(c, **found.texts.get(c.name, {})) for c in self.columns)
        target = replace(self.target, **found.texts.get(self.target.name, {}))
        return replace(self, title=found.title or self.title, columns=tuple(columns), target=target)

    @cached_property
    def features(self) -> tuple[Column, ...]:
        """The columns of the encoded matrix, in its order."""
        return tuple(
            c for c in self.columns if c.kind in ENCODED_KINDS and c.role not in _NOT_FEATURES
        )

    @cached_property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the encoded matrix's columns, in its order."""
        return tuple(column.name for column in self.features)

    @cached_property
    def fields(self) -> tuple[Column, ...]:
        """The columns that a caller sends: features, and texts that features are taken from."""
        features = self.features
        texts = {column.source for column in features if column.source is not None}
        sent = [c for c in features if c.source is None and c.derive is None]
        known = {column.name for column in sent}
        sent += [c for c in self.columns if c.name in texts and c.name not in known]
        order = {column.name: at for at, column in enumerate(self.columns)}
        return tuple(sorted(sent, key=lambda column: order[column.name]))

    @cached_property
    def field_names(self) -> tuple[str, ...]:
        """Names of the columns that a caller sends."""
        return tuple(column.name for column in self.fields)

    @cached_property
    def readable_names(self) -> tuple[str, ...]:
        """Names of all columns from which features can be read: `field_names`, and the features."""
        return tuple(dict.fromkeys((*self.field_names, *self.feature_names)))

    @cached_property
    def identifiers(self) -> tuple[Column, ...]:
        """The columns carried along to recognise a row, never used to value it."""
        return tuple(column for column in self.columns if column.kind == "identifier")

    @property
    def set_aside(self) -> tuple[Column, ...]:
        """The columns that `tasador init` set aside; their descriptions say why."""
        return tuple(
            c for c in self.columns
            if c.kind == "text" and (c.description or "").startswith(SET_ASIDE)
        )  # fmt: skip

    def label_of(self, name: str) -> str:
        """Return what people call a column, the target or anything else of that name."""
        own = {column.name: column.label for column in self.columns}
        return (self.target.label if name == self.target.name else own.get(name)) or (
            people_label(name)
        )

    def heading_of(self, name: str) -> str:
        """Return `label_of` a column with its unit, unless it says it: ``Total rooms``."""
        label = self.label_of(name)
        unit = next((column.unit for column in self.columns if column.name == name), None)
        return label if not unit or unit.casefold() in label.casefold() else f"{label} ({unit})"

    def column(self, name: str) -> Column:
        """Return the column called `name`; KeyError when there is none."""
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(name)

    def lacking(self, names: Iterable[str]) -> list[str]:
        """Return the fields that rows cannot do without and that are not among `names`."""
        present = set(names)
        return [c.name for c in self.fields if not c.nullable and c.name not in present]

    def takes(self, names: Iterable[str]) -> bool:
        """Tell whether rows of these columns have all that the contract cannot do without."""
        present = set(names)
        return not self.lacking(present) and not present.isdisjoint(self.readable_names)

    def position(self, name: str) -> int:
        """Return the index of `name` in the encoded matrix; ValueError when it is not in it."""
        return self.feature_names.index(name)

    def with_role(self, role: ColumnRole) -> Column | None:
        """Return the column with `role`, or None."""
        return next((column for column in self.columns if column.role == role), None)

    @property
    def rivals(self) -> tuple[Column, ...]:
        """The columns with other people's estimates; those that another one is made of are none."""
        found = [column for column in self.columns if column.role == "rival"]
        parts = {name for c in found if c.derive is not None for name in c.derive.columns}
        return tuple(column for column in found if column.name not in parts)

    @property
    def rows_have_identity(self) -> bool:
        """Whether a row's place or date says which thing it is.

        Equal rows of other tables are often different things, as two cars of one model are.
        """
        return self.coordinates is not None or self.with_role("timestamp") is not None

    @cached_property
    def timestamp_position(self) -> int | None:
        """Index in the encoded matrix of the date of each sale, or None."""
        column = self.with_role("timestamp")
        return None if column is None else self.position(column.name)

    @property
    def coordinates(self) -> tuple[Column, Column] | None:
        """The (longitude, latitude) columns, or None for a table without coordinates."""
        longitude, latitude = self.with_role("longitude"), self.with_role("latitude")
        return None if longitude is None or latitude is None else (longitude, latitude)

    @cached_property
    def schema_fingerprint(self) -> str:
        """Hash of what a caller must send and gets back; the source and texts do not count."""
        return fingerprint(
            {
                "columns": [
                    (
                        c.name,
                        c.kind,
                        c.bounds,
                        c.nullable,
                        () if c.learned else c.categories,
                        c.case_sensitive,
                    )
                    + (("open",) if c.open else ())  # older contracts keep their fingerprint
                    + ((c.format.to_dict(),) if c.format != PLAIN else ())
                    + ((c.source, c.extract) if c.from_text else ())
                    + ((c.derive,) if c.derive is not None else ())
                    for c in self.features
                ],
                "target": (self.target.name, self.target.unit, self.target.prediction_name),
            }
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the contract as plain JSON types; `contract_reader.from_dict` reads it back."""
        plain: dict[str, Any] = to_plain(self)
        sent, derived = {}, {}
        for column, item in zip(self.columns, plain["columns"], strict=True):
            name = item.pop("name")
            if column.kind == "datetime":
                item["bounds"] = [None if b is None else date_text(b) for b in column.bounds]
            for flag in ("open", "learned"):
                if not item[flag]:
                    del item[flag]
            item["format"] = column.format.to_dict() or None
            del item["derive"]
            if column.extract is not None:
                item["extract"] = {column.extract.kind: column.extract.value}
            if column.derive is not None:
                derived[name] = {
                    **column.derive.to_dict(), "role": column.role, "unit": column.unit,
                    "description": column.description, "label": column.label,
                }  # fmt: skip
                derived[name] = _pruned(derived[name])
                continue
            said = _pruned(item)
            if "source" in said:
                said = {"kind": said.pop("kind"), "from": said.pop("source"), **said}
            sent[name] = said
        plain["columns"] = sent
        plain["derive"] = derived
        if not derived:
            del plain["derive"]
        plain["target"]["format"] = self.target.format.to_dict() or None
        plain["ratios"] = {
            item["name"]: {k: item[k] for k in ("numerator", "denominator")}
            for item in plain["ratios"]
        }
        for section in ("target", "source", "comparables"):
            plain[section] = _pruned(plain[section])
        plain["exclude"] = [self._exclusion(one) for one in self.exclude]
        plain["translations"] = {
            language: _pruned({"title": one.title, "columns": dict(one.texts)})
            for language, one in self.translations.items()
        }
        for section in ("exclude", "fairness", "translations"):
            if not plain[section]:  # older contracts keep their fingerprint
                del plain[section]
        return plain

    def _exclusion(self, one: Exclusion) -> dict[str, Any]:
        dates = any(c.name == one.column and c.kind == "datetime" for c in self.columns)
        below, above = (
            date_text(limit) if dates and limit is not None else limit
            for limit in (one.below, one.above)
        )
        return _pruned({
            "column": one.column, "in": list(one.among), "not_in": list(one.not_among),
            "below": below, "above": above, "missing": True if one.missing else None,
            "reason": one.reason,
        })  # fmt: skip


def _pruned(section: dict[str, Any]) -> dict[str, Any]:
    """Drop what says nothing: None, empty lists, open bounds; the defaults put them back."""
    return {
        key: value
        for key, value in section.items()
        if value is not None and value != [] and not (key == "bounds" and value == [None, None])
    }
