"""Read a `TableContract` from YAML or from plain values, strictly: unknown keys are errors."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import yaml

from tasador.contract import sections
from tasador.contract.derived import OPERATIONS, Derive, Operation
from tasador.contract.errors import InvalidContractError, cut_repr
from tasador.contract.formats import (
    DURATION_DAYS,
    EXTRACT_KINDS,
    PLAIN,
    WHOLE_DATES,
    Extract,
    ExtractKind,
    Format,
    valid_date_format,
)
from tasador.contract.model import (
    COLUMN_KINDS,
    COLUMN_ROLES,
    Column,
    ColumnRole,
    Comparables,
    Ratio,
    Source,
    SqlQuery,
    TableContract,
    Target,
    plain_name,
)
from tasador.core.errors import ContractError
from tasador.core.storage import is_plain

#: Not the contract's: defaults of runs on this table, which `tasador.settings` reads.
_RUN_SETTINGS = "settings"
_FIELDS = ("name", "title", "model_name", "columns", "target", "ratios", "source", "comparables",
           "exclude", "fairness", "translations")  # fmt: skip
_TOP = (*_FIELDS[:4], "derive", "join", *_FIELDS[4:])
_COLUMN = ("kind", "from", "extract", "role", "unit", "description", "bounds", "nullable",
           "categories", "case_sensitive", "open", "learned", "format", "label")  # fmt: skip
_TARGET = ("name", "unit", "description", "bounds", "cap", "transform", "prediction_name",
           "format", "label")  # fmt: skip
_FORMAT = ("decimal", "thousands", "affixes", "multipliers", "ranges", "duration", "dates",
           "missing", "unreadable")  # fmt: skip
_DERIVE = (*OPERATIONS, "in", "points", "table", "file", "key", "value", "unit", "description",
           "role", "label")  # fmt: skip
_THOUSANDS = (",", ".", " ", "'")
_MOST_TEXTS, _LONGEST_TEXT = 100, 200
_MOST_POINTS, _MOST_LEVELS = 10_000, 100_000
_SOURCE = ("paths", "url", "sha256", "member", "delimiter", "synthetic", "encoding", "header_row",
           "has_header", "sheet", "sql")  # fmt: skip
_COMPARABLES = ("near", "similar_by", "context", "identifier", "label")
_ROLE_KINDS = {
    "longitude": ("number",),
    "latitude": ("number",),
    "segment": ("category", "integer"),
    "timestamp": ("datetime",),
    "property": ("identifier", "text", "integer", "category"),
    "group": ("category", "integer"),
    "rival": ("number", "integer"),
    "weight": ("number", "integer"),
}
#: Roles that several columns may have.
_SHARED_ROLES = ("rival",)


def read_contract(path: Path) -> TableContract:
    """Read the contract in the YAML file at `path`.

    Raises:
        ContractError: The file is missing, is not YAML, or says something a contract cannot.

    Example:
        >>> import tasador
        >>> from pathlib import Path
        >>> contract = tasador.read_contract(Path("cars.yaml"))
        >>> contract.feature_names
        ('mass', 'fuel')
    """
    try:
        if path.exists() and not is_plain(path):
            raise ContractError(f"{path} is no contract", expected="a plain file")
        plain = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ContractError(
            f"no contract at {path}", remedy="write one with `tasador init FILE --target COLUMN`"
        ) from None
    except RecursionError:
        raise InvalidContractError.too_much(str(path), sections.LIMITS) from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: 2026-02-30, or no text at all
        raise ContractError(f"{path} is not valid YAML: {error}") from None
    return from_dict(plain, default_name=path.stem)


def write_contract(contract: TableContract, header: str = "") -> str:
    """Return the contract as YAML text, with `header` as comment lines above it."""
    comment = "".join(f"# {line}\n" if line else "#\n" for line in header.splitlines())
    return comment + yaml.safe_dump(
        contract.to_dict(), sort_keys=False, allow_unicode=True, width=100
    )


def from_dict(plain: Any, default_name: str = "table") -> TableContract:
    """Build a contract from plain values, as YAML or JSON gives them.

    Raises:
        ContractError: Naming the key, what was expected there and what was found.
    """
    sections.check_plain(plain)
    top = sections.mapping(plain, "contract", (*_TOP, _RUN_SETTINGS))
    name = sections.text(top, "name", "contract", default_name)
    target = _target(top.get("target"))
    columns = _columns(top.get("columns"))
    columns += _derived(top.get("derive"), columns)
    columns += _joined(top.get("join"), columns)
    names = {column.name for column in columns}
    if target.name in names:
        raise ContractError(
            f"columns.{target.name}: the target is also listed as a column",
            remedy="keep it under `target` only; a feature that is the target predicts itself",
        )
    contract = TableContract(
        name=name,
        title=sections.text(top, "title", "contract", name),
        model_name=_model_name(top, name),
        columns=columns,
        target=target,
        ratios=_ratios(top.get("ratios"), columns),
        source=_source(top.get("source")),
        comparables=Comparables(),
        exclude=sections.read_exclusions(top.get("exclude"), columns, target),
        fairness=sections.texts(top, "fairness", "contract"),
        translations=sections.read_translations(top.get("translations"), {*names, target.name}),
    )
    for name in contract.fairness:
        if name not in names:
            message = f"fairness: there is no column {name!r} to compare groups by"
            raise InvalidContractError.not_among(message, sorted(names), name)
    if not contract.features:
        raise ContractError(
            "columns: no usable column",
            expected="at least one number, integer, category or datetime",
        )
    comparables = _comparables(top.get("comparables"), contract)
    return TableContract(**{**_shallow(contract), "comparables": comparables})


def _shallow(contract: TableContract) -> dict[str, Any]:
    return {key: getattr(contract, key) for key in _FIELDS}


def _model_name(top: Mapping[str, Any], name: str) -> str:
    """Return the name of the models, which becomes a folder's and a registry entry's."""
    value = sections.text(top, "model_name", "contract", f"{name}_model")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", value):
        raise ContractError(
            "contract.model_name: cannot be the name of a model",
            expected="letters, digits, '.', '_' and '-'",
            got=repr(value),
            remedy="name one with `model_name`" if "model_name" not in top else None,
        )
    return value


def _bounds(
    section: Mapping[str, Any], where: str, *, dates: bool = False
) -> tuple[float | None, float | None]:
    value = section.get("bounds")
    if value is None:
        return (None, None)
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise InvalidContractError.of_value(f"{where}.bounds", "[low, high]", value)
    read = sections.moment if dates else sections.number
    low, high = (None if side is None else read(side, f"{where}.bounds") for side in value)
    if low is not None and high is not None and low >= high:
        raise InvalidContractError.of_value(f"{where}.bounds", "low < high", value)
    return (low, high)


def _columns(value: Any) -> tuple[Column, ...]:
    if not isinstance(value, Mapping) or not value:
        raise ContractError("columns: expected a mapping of column name to its description")
    columns = tuple(_column(plain_name(str(name)), entry) for name, entry in value.items())
    twice = [name for name, count in Counter(c.name for c in columns).items() if count > 1]
    if twice:
        raise InvalidContractError.twice(f"columns.{twice[0]}", ())
    for role in COLUMN_ROLES:
        holders = [column.name for column in columns if column.role == role]
        if len(holders) > 1 and role not in _SHARED_ROLES:
            raise ContractError(f"columns: role {role!r} is given to {', '.join(holders)}",
                                expected="one column at most")  # fmt: skip
    names = {column.name for column in columns}
    for column in columns:
        if column.source is not None and column.source not in names:
            message = f"columns.{column.name}.from: there is no column {column.source!r}"
            raise InvalidContractError.not_among(message, sorted(names))
    roles = {column.role for column in columns}
    if ("longitude" in roles) != ("latitude" in roles):
        raise InvalidContractError.half("columns", "longitude and latitude")
    return columns


def _column(name: str, entry: Any) -> Column:
    where = f"columns.{name}"
    section = sections.mapping(entry, where, _COLUMN)
    kind = section.get("kind")
    if kind not in COLUMN_KINDS:
        raise InvalidContractError.not_among(
            f"{where}.kind: unknown kind {cut_repr(kind)}", COLUMN_KINDS
        )
    role = section.get("role")
    if role is not None and role not in COLUMN_ROLES:
        raise InvalidContractError.not_among(
            f"{where}.role: unknown role {cut_repr(role)}", COLUMN_ROLES
        )
    if role is not None and kind not in _ROLE_KINDS[role]:
        raise ContractError(f"{where}.role: a {role} is of kind {' or '.join(_ROLE_KINDS[role])}",
                            got=f"kind {kind}")  # fmt: skip
    learned = sections.flag(section, "learned", where, default=False)
    column = Column(
        name=name,
        kind=kind,
        role=role,
        unit=sections.optional_text(section, "unit", where),
        description=sections.optional_text(section, "description", where),
        label=sections.optional_text(section, "label", where),
        bounds=_bounds(section, where, dates=kind == "datetime"),
        nullable=sections.flag(section, "nullable", where, default=False),
        categories=sections.texts(section, "categories", where),
        case_sensitive=sections.flag(section, "case_sensitive", where, default=True),
        open=sections.flag(section, "open", where, default=learned),
        learned=learned,
        format=_format(section.get("format"), where, kind),
        source=sections.optional_text(section, "from", where),
        extract=_extract(section.get("extract"), where),
    )
    if (column.source is None) != (column.extract is None):
        raise InvalidContractError.half(where, "`from` and `extract`")
    _check_categories(column, where)
    return column


def _format(value: Any, where: str, kind: str) -> Format:
    if value is None:
        return PLAIN
    where = f"{where}.format"
    section = sections.mapping(value, where, _FORMAT)
    form = Format(
        decimal=_choice(section, "decimal", where, (".", ","), "."),
        thousands=_choice(section, "thousands", where, _THOUSANDS, None),
        affixes=sections.texts(section, "affixes", where),
        multipliers=tuple(_factors(section.get("multipliers"), f"{where}.multipliers")),
        ranges=_choice(section, "ranges", where, ("middle",), None) is not None,
        duration=_choice(section, "duration", where, tuple(DURATION_DAYS), None),
        dates=sections.texts(section, "dates", where),
        missing=tuple(text.strip().lower() for text in sections.texts(section, "missing", where)),
        unreadable=_choice(section, "unreadable", where, ("refuse", "missing"), "refuse"),
    )
    # a contract may come with a bundle that anybody wrote
    for key in ("affixes", "multipliers", "dates", "missing"):
        texts = [str(item) for item in getattr(form, key)]
        if len(texts) > _MOST_TEXTS or any(len(text) > _LONGEST_TEXT for text in texts):
            most = f"{_MOST_TEXTS} texts of {_LONGEST_TEXT} characters"
            raise InvalidContractError.too_much(f"{where}.{key}", most)
    if form.thousands == form.decimal:
        raise ContractError(f"{where}: decimal and thousands are the same mark {form.decimal!r}")
    for way in form.dates:
        if not valid_date_format(way):
            raise ContractError(
                f"{where}.dates: {way!r} is no way of writing dates",
                expected=f"directives such as %d/%m/%Y, or one of {', '.join(WHOLE_DATES)}",
            )
    if form.dates and kind != "datetime":
        raise ContractError(f"{where}.dates: only a datetime has them", got=f"kind {kind}")
    return form


def _choice(
    section: Mapping[str, Any], key: str, where: str, allowed: tuple[str, ...], default: Any
) -> Any:
    value = section.get(key, default)
    if value is not None and value not in allowed:
        message = f"{where}.{key}: unknown value {cut_repr(value)}"
        raise InvalidContractError.not_among(message, allowed, value, repr)
    return default if value is None else value


def _factors(value: Any, where: str) -> Iterator[tuple[str, float]]:
    for word, factor in sections.mapping(value or {}, where, None).items():
        number = sections.number(factor, f"{where}.{word}")
        if number == 0:
            raise ContractError(f"{where}.{word}: expected a factor other than 0")
        yield str(word), number


def _extract(value: Any, where: str) -> Extract | None:
    if value is None:
        return None
    where = f"{where}.extract"
    section = sections.mapping(value, where, EXTRACT_KINDS)
    if len(section) != 1:
        message = f"{where}: expected one part of the text, got {cut_repr(dict(section))}"
        raise InvalidContractError.not_among(message, EXTRACT_KINDS)
    ((kind, what),) = section.items()
    if kind in ("number", "word", "words", "without_last"):
        if isinstance(what, bool) or not isinstance(what, int) or not 1 <= what <= 100:
            raise InvalidContractError.of_value(f"{where}.{kind}", "a number from 1 to 100", what)
        return Extract(cast(ExtractKind, kind), what)
    return Extract(cast(ExtractKind, kind), sections.text(section, kind, where))


def _derived(value: Any, columns: tuple[Column, ...]) -> tuple[Column, ...]:
    """Read the columns that follow from others, in the order in which they are computed."""
    if value is None:
        return ()
    known, found = {column.name: column for column in columns}, []
    for key, entry in sections.mapping(value, "derive", None).items():
        name = plain_name(str(key))
        if name in known:
            raise InvalidContractError.taken(f"derive.{name}")
        known[name] = _derived_column(name, entry, known)
        found.append(known[name])
    return tuple(found)


def _joined(value: Any, columns: tuple[Column, ...]) -> tuple[Column, ...]:
    """Read the columns that come from another file by a key: a lookup each."""
    found: dict[str, Any] = {}
    for at, entry in enumerate(value if isinstance(value, list) else [value] if value else []):
        where = f"join.{at + 1}"
        section = sections.mapping(entry, where, ("file", "by", "key", "columns"))
        key = sections.text(section, "by", where)
        names = sections.texts(section, "columns", where)
        if not names:
            raise ContractError(f"{where}.columns: expected the columns to take from the file")
        for name in names:
            found[name] = {
                "lookup": key, "file": sections.text(section, "file", where),
                "key": sections.text(section, "key", where, key), "value": name,
            }  # fmt: skip
    return _derived(found, columns) if found else ()


def _derived_column(name: str, entry: Any, known: Mapping[str, Column]) -> Column:
    where = f"derive.{name}"
    section = sections.mapping(entry, where, _DERIVE)
    operations = [key for key in section if key in OPERATIONS]
    if len(operations) != 1:
        message = f"{where}: expected one operation, got {', '.join(operations) or 'none'}"
        raise InvalidContractError.not_among(message, OPERATIONS)
    (operation,) = operations
    names = sections.texts(section, operation, where)
    fewest, most = OPERATIONS[operation]
    if not fewest <= len(names) <= most:
        raise ContractError(
            f"{where}.{operation}: expected {fewest if fewest == most else f'{fewest} to {most}'} "
            f"column(s), got {len(names)}"
        )
    role = cast(ColumnRole | None, _choice(section, "role", where, _SHARED_ROLES, None))
    for other in names:
        _check_taken(where, operation, other, known)
        if role is None and known[other].role in ("property", "rival"):
            raise InvalidContractError.of_no_feature(where, known[other].role, other)
    derive = Derive(
        operation=cast(Operation, operation),
        columns=names,
        unit=_choice(section, "in", where, tuple(DURATION_DAYS), "years"),
        points=tuple(_points(section.get("points"), f"{where}.points")),
        table=tuple(
            (str(level), sections.number(number, f"{where}.table.{level}"))
            for level, number in sections.mapping(section.get("table") or {}, where, None).items()
        ),
        file=sections.optional_text(section, "file", where),
        key=sections.optional_text(section, "key", where),
        value=sections.optional_text(section, "value", where),
    )
    if len(derive.points) > _MOST_POINTS or len(derive.table) > _MOST_LEVELS:
        limit = f"{_MOST_POINTS} points and {_MOST_LEVELS} levels"
        raise InvalidContractError.too_much(where, limit)
    given = derive.points if operation == "distance_to" else derive.table
    if operation in ("distance_to", "lookup") and not given and derive.file is None:
        what = "points" if operation == "distance_to" else "table"
        raise ContractError(f"{where}: a {operation} needs `{what}`, or a `file` that has them")
    unit = sections.optional_text(section, "unit", where)
    if unit is None and operation == "difference" and known[names[0]].kind == "datetime":
        unit = derive.unit
    return Column(
        name, "number", nullable=True, derive=derive, unit=unit, role=role,
        description=sections.optional_text(section, "description", where),
        label=sections.optional_text(section, "label", where),
    )  # fmt: skip


def _check_taken(where: str, operation: str, name: str, known: Mapping[str, Column]) -> None:
    kinds = {
        "difference": ("number", "integer", "datetime"),
        "lookup": ("category", "number", "integer"),
    }
    allowed = kinds.get(operation, ("number", "integer"))
    if name not in known:
        message = f"{where}.{operation}: there is no column {name!r}"
        raise InvalidContractError.not_among(message, known, name)
    if known[name].kind not in allowed:
        raise ContractError(
            f"{where}.{operation}: {name!r} is of kind {known[name].kind}",
            expected=" or ".join(allowed),
        )


def _points(value: Any, where: str) -> Iterator[tuple[float, float]]:
    if value is not None and not isinstance(value, (list, tuple)):
        raise InvalidContractError.of_value(where, "a list of [longitude, latitude]", value)
    for point in value or ():
        if not isinstance(point, (list, tuple)) or len(point) != 2:
            raise InvalidContractError.of_value(where, "[longitude, latitude]", point)
        longitude, latitude = (sections.number(part, where) for part in point)
        if not (-180 <= longitude <= 180 and -90 <= latitude <= 90):
            raise InvalidContractError.of_value(where, "degrees", point)
        yield longitude, latitude


def _check_categories(column: Column, where: str) -> None:
    if column.kind != "category":
        if column.categories:
            raise ContractError(f"{where}.categories: only a category has them")
        if column.open:
            raise ContractError(f"{where}.open: only a category can be open to other levels")
        if column.learned:
            raise ContractError(f"{where}.learned: only a category has levels to learn")
        return
    if column.learned and not column.open:
        raise ContractError(f"{where}: learned levels are never all there are",
                            expected="open: true", got="open: false")  # fmt: skip
    if column.bounds != (None, None):
        raise ContractError(f"{where}.bounds: a category has none")
    if not column.categories and not column.learned:
        raise ContractError(f"{where}.categories: expected a list of the allowed values")
    counts = Counter(column.category_key(category) for category in column.categories)
    twice = sorted(key for key, count in counts.items() if count > 1)
    if twice:
        raise InvalidContractError.twice(f"{where}.categories", twice)


def _target(value: Any) -> Target:
    section = sections.mapping(value, "target", _TARGET)
    transform = section.get("transform", "none")
    if transform not in ("log", "none"):
        raise InvalidContractError.of_value("target.transform", "log or none", transform)
    cap = section.get("cap")
    prediction_name = sections.text(section, "prediction_name", "target", "prediction")
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", prediction_name):
        raise InvalidContractError.of_value(
            "target.prediction_name", "a plain identifier", prediction_name
        )
    return Target(
        name=sections.text(section, "name", "target"),
        unit=sections.optional_text(section, "unit", "target"),
        description=sections.optional_text(section, "description", "target"),
        bounds=_bounds(section, "target"),
        cap=None if cap is None else sections.number(cap, "target.cap"),
        transform=transform,
        prediction_name=prediction_name,
        format=_format(section.get("format"), "target", "number"),
        label=sections.optional_text(section, "label", "target"),
    )


def _ratios(value: Any, columns: tuple[Column, ...]) -> tuple[Ratio, ...]:
    if value is None:
        return ()
    if not isinstance(value, Mapping):
        raise InvalidContractError.of_value("ratios", "a mapping of name to ratio", value)
    numbers = {c.name for c in columns if c.kind in ("number", "integer")}
    ratios = []
    for name, entry in value.items():
        section = sections.mapping(entry, f"ratios.{name}", ("numerator", "denominator"))
        for part in ("numerator", "denominator"):
            if sections.optional_text(section, part, f"ratios.{name}") not in numbers:
                raise ContractError(
                    f"ratios.{name}.{part}: {cut_repr(section.get(part))} is not a number column"
                )
        if any(column.name == plain_name(str(name)) for column in columns):
            raise InvalidContractError.taken(f"ratios.{name}")
        parts = (str(name), section["numerator"], section["denominator"])
        ratios.append(Ratio(*map(plain_name, parts)))
    return tuple(ratios)


def _source(value: Any) -> Source:
    section = sections.mapping(value or {}, "source", _SOURCE)
    delimiter = section.get("delimiter", ",")
    if not isinstance(delimiter, str) or len(delimiter) != 1:
        raise InvalidContractError.of_value("source.delimiter", "one character", delimiter)
    checksums = sections.texts(section, "sha256", "source")
    for checksum in checksums:
        if not re.fullmatch(r"[0-9a-f]{64}", checksum):
            raise InvalidContractError.of_value("source.sha256", "64 hexadecimal digits", checksum)
    return Source(
        paths=sections.texts(section, "paths", "source"),
        url=sections.optional_text(section, "url", "source"),
        sha256=checksums,
        member=sections.optional_text(section, "member", "source"),
        delimiter=delimiter,
        synthetic=sections.optional_text(section, "synthetic", "source"),
        encoding=sections.optional_text(section, "encoding", "source"),
        header_row=_positive(section.get("header_row"), "source.header_row"),
        has_header=None if sections.flag(section, "has_header", "source", default=True) else False,
        sheet=_sheet(section.get("sheet")),
        sql=_sql(section.get("sql")),
    )


def _positive(value: Any, where: str) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidContractError.of_value(where, "a whole number from 1", value)
    return value


def _sheet(value: Any) -> str | int | None:
    if isinstance(value, int) or value is None:
        return _positive(value, "source.sheet")
    if not isinstance(value, str) or not value.strip():
        raise ContractError(
            "source.sheet: expected a sheet's name, or its number from 1", got=cut_repr(value)
        )
    return value


def _sql(value: Any) -> SqlQuery | None:
    if value is None:
        return None
    section = sections.mapping(value, "source.sql", ("url", "query"))
    url, query = (sections.text(section, key, "source.sql") for key in ("url", "query"))
    if re.match(r"[^/]*://[^/@]*:[^/@]+@", url) or re.search(r"[?&]passw?o?r?d=[^&]", url):
        raise ContractError(
            "source.sql.url: holds a password, which would be written into every bundle",
            remedy="leave it out and set the environment variable TASADOR_SQL_PASSWORD",
        )
    return SqlQuery(url, query)


def _comparables(value: Any, contract: TableContract) -> Comparables:
    section = sections.mapping(value or {}, "comparables", _COMPARABLES)
    numbers = {c.name for c in contract.features if c.kind in ("number", "integer")}
    known = numbers | {ratio.name for ratio in contract.ratios}
    near = sections.texts(section, "near", "comparables")
    similar_by = sections.optional_text(section, "similar_by", "comparables")
    context = sections.texts(section, "context", "comparables")
    identifier = sections.optional_text(section, "identifier", "comparables")
    label = sections.texts(section, "label", "comparables")
    columns = [column.name for column in contract.columns if column.derive is None]
    for name in (*label, *(() if identifier is None else (identifier,))):
        if name not in columns:
            message = f"comparables: there is no column {name!r} to name comparables by"
            raise InvalidContractError.not_among(message, columns, name)
    for key, names, allowed in (
        ("near", near, numbers),
        ("similar_by", () if similar_by is None else (similar_by,), known),
        ("context", context, known),
    ):
        for name in names:
            if name not in allowed:
                message = f"comparables.{key}: {name!r} is not a number column"
                raise InvalidContractError.not_among(message, sorted(allowed))
    return Comparables(near, similar_by, context, identifier, label)
