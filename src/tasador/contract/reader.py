"""Read a `TableContract` from YAML or from plain values, strictly: unknown keys are errors."""

from __future__ import annotations

import datetime as dt
import difflib
import math
import re
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import yaml

from tasador.contract.dates import seconds_of
from tasador.contract.model import (
    COLUMN_KINDS,
    COLUMN_ROLES,
    Column,
    Comparables,
    Ratio,
    Source,
    TableContract,
    Target,
    plain_name,
)
from tasador.core.errors import ContractError
from tasador.core.storage import is_plain

#: Not the contract's: defaults of runs on this table, which `tasador.settings` reads.
_RUN_SETTINGS = "settings"
_TOP = ("name", "title", "model_name", "columns", "target", "ratios", "source", "comparables")
_COLUMN = ("kind", "role", "unit", "description", "bounds", "nullable", "categories",
           "case_sensitive", "open")  # fmt: skip
_TARGET = ("name", "unit", "description", "bounds", "cap", "transform", "prediction_name")
_SOURCE = ("paths", "url", "sha256", "member", "delimiter", "synthetic")
_COMPARABLES = ("near", "similar_by", "context")
_ROLE_KINDS = {
    "longitude": ("number",),
    "latitude": ("number",),
    "segment": ("category", "integer"),
    "timestamp": ("datetime",),
}


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
    except (yaml.YAMLError, UnicodeDecodeError) as error:
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
    top = _mapping(plain, "contract", (*_TOP, _RUN_SETTINGS))
    name = _text(top, "name", "contract", default_name)
    target = _target(top.get("target"))
    columns = _columns(top.get("columns"))
    names = {column.name for column in columns}
    if target.name in names:
        raise ContractError(
            f"columns.{target.name}: the target is also listed as a column",
            remedy="keep it under `target` only; a feature that is the target predicts itself",
        )
    contract = TableContract(
        name=name,
        title=_text(top, "title", "contract", name),
        model_name=_model_name(top, name),
        columns=columns,
        target=target,
        ratios=_ratios(top.get("ratios"), columns),
        source=_source(top.get("source")),
        comparables=Comparables(),
    )
    if not contract.features:
        raise ContractError(
            "columns: no usable column",
            expected="at least one number, integer, category or datetime",
        )
    comparables = _comparables(top.get("comparables"), contract)
    return TableContract(**{**_shallow(contract), "comparables": comparables})


def _shallow(contract: TableContract) -> dict[str, Any]:
    return {key: getattr(contract, key) for key in _TOP}


def _mapping(value: Any, where: str, allowed: Collection[str]) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ContractError(f"{where}: expected a mapping, got {type(value).__name__}")
    for key in value:
        if key not in allowed:
            close = difflib.get_close_matches(str(key), allowed, n=1)
            raise ContractError(
                f"{where}.{key}: unknown key",
                expected=f"one of {', '.join(allowed)}",
                remedy=f"did you mean {close[0]!r}?" if close else None,
            )
    return value


def _text(section: Mapping[str, Any], key: str, where: str, default: str | None = None) -> str:
    value = section.get(key, default)
    if not isinstance(value, str) or not value.strip():
        raise ContractError(f"{where}.{key}: expected a text, got {value!r}")
    return plain_name(value)


def _model_name(top: Mapping[str, Any], name: str) -> str:
    """Return the name of the models, which becomes a folder's and a registry entry's."""
    value = _text(top, "model_name", "contract", f"{name}_model")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", value):
        raise ContractError(
            "contract.model_name: cannot be the name of a model",
            expected="letters, digits, '.', '_' and '-'",
            got=repr(value),
            remedy="name one with `model_name`" if "model_name" not in top else None,
        )
    return value


def _optional_text(section: Mapping[str, Any], key: str, where: str) -> str | None:
    return None if section.get(key) is None else _text(section, key, where)


def _texts(section: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    value = section.get(key)
    if value is None:
        return ()
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, (list, tuple)) or not all(
        isinstance(item, (str, int, float)) and not isinstance(item, bool) for item in value
    ):
        raise ContractError(
            f"{where}.{key}: expected a list of texts, got {value!r}",
            remedy="quote words that YAML reads as true or false, such as 'yes', 'no' and 'on'",
        )
    return tuple(plain_name(str(item)) for item in value)


def _flag(section: Mapping[str, Any], key: str, where: str, default: bool) -> bool:
    value = section.get(key, default)
    if not isinstance(value, bool):
        raise ContractError(f"{where}.{key}: expected true or false, got {value!r}")
    return value


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ContractError(f"{where}: expected a finite number, got {value!r}")
    return float(value)


def _bounds(
    section: Mapping[str, Any], where: str, *, dates: bool = False
) -> tuple[float | None, float | None]:
    value = section.get("bounds")
    if value is None:
        return (None, None)
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise ContractError(f"{where}.bounds: expected [low, high], got {value!r}")
    read = _moment if dates else _number
    low, high = (None if side is None else read(side, f"{where}.bounds") for side in value)
    if low is not None and high is not None and low >= high:
        raise ContractError(f"{where}.bounds: expected low < high, got {value!r}")
    return (low, high)


def _moment(value: Any, where: str) -> float:
    """Read a date, with or without a time, as YAML gives it or as text; or seconds since 1970."""
    if isinstance(value, str):
        try:
            value = dt.datetime.fromisoformat(value.strip())
        except ValueError:
            raise ContractError(
                f"{where}: expected a date such as 2026-01-31, got {value!r}"
            ) from None
    return seconds_of(value) if isinstance(value, dt.date) else _number(value, where)


def _columns(value: Any) -> tuple[Column, ...]:
    if not isinstance(value, Mapping) or not value:
        raise ContractError("columns: expected a mapping of column name to its description")
    columns = tuple(_column(plain_name(str(name)), entry) for name, entry in value.items())
    twice = [name for name, count in Counter(c.name for c in columns).items() if count > 1]
    if twice:
        raise ContractError(f"columns.{twice[0]}: is listed more than once")
    for role in COLUMN_ROLES:
        holders = [column.name for column in columns if column.role == role]
        if len(holders) > 1:
            raise ContractError(f"columns: role {role!r} is given to {', '.join(holders)}",
                                expected="one column at most")  # fmt: skip
    roles = {column.role for column in columns}
    if ("longitude" in roles) != ("latitude" in roles):
        raise ContractError("columns: longitude and latitude come together, one of them is missing")
    return columns


def _column(name: str, entry: Any) -> Column:
    where = f"columns.{name}"
    section = _mapping(entry, where, _COLUMN)
    kind = section.get("kind")
    if kind not in COLUMN_KINDS:
        raise ContractError(
            f"{where}.kind: unknown kind {kind!r}", expected=f"one of {', '.join(COLUMN_KINDS)}"
        )
    role = section.get("role")
    if role is not None and role not in COLUMN_ROLES:
        raise ContractError(
            f"{where}.role: unknown role {role!r}", expected=f"one of {', '.join(COLUMN_ROLES)}"
        )
    if role is not None and kind not in _ROLE_KINDS[role]:
        raise ContractError(f"{where}.role: a {role} is of kind {' or '.join(_ROLE_KINDS[role])}",
                            got=f"kind {kind}")  # fmt: skip
    column = Column(
        name=name,
        kind=kind,
        role=role,
        unit=_optional_text(section, "unit", where),
        description=_optional_text(section, "description", where),
        bounds=_bounds(section, where, dates=kind == "datetime"),
        nullable=_flag(section, "nullable", where, default=False),
        categories=_texts(section, "categories", where),
        case_sensitive=_flag(section, "case_sensitive", where, default=True),
        open=_flag(section, "open", where, default=False),
    )
    _check_categories(column, where)
    return column


def _check_categories(column: Column, where: str) -> None:
    if column.kind != "category":
        if column.categories:
            raise ContractError(f"{where}.categories: only a category has them")
        if column.open:
            raise ContractError(f"{where}.open: only a category can be open to other levels")
        return
    if column.bounds != (None, None):
        raise ContractError(f"{where}.bounds: a category has none")
    if not column.categories:
        raise ContractError(f"{where}.categories: expected a list of the allowed values")
    counts = Counter(column.category_key(category) for category in column.categories)
    twice = sorted(key for key, count in counts.items() if count > 1)
    if twice:
        raise ContractError(f"{where}.categories: {', '.join(twice)} is listed more than once")


def _target(value: Any) -> Target:
    section = _mapping(value, "target", _TARGET)
    transform = section.get("transform", "none")
    if transform not in ("log", "none"):
        raise ContractError(f"target.transform: expected log or none, got {transform!r}")
    cap = section.get("cap")
    prediction_name = _text(section, "prediction_name", "target", "prediction")
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", prediction_name):
        raise ContractError(
            f"target.prediction_name: expected a plain identifier, got {prediction_name!r}"
        )
    return Target(
        name=_text(section, "name", "target"),
        unit=_optional_text(section, "unit", "target"),
        description=_optional_text(section, "description", "target"),
        bounds=_bounds(section, "target"),
        cap=None if cap is None else _number(cap, "target.cap"),
        transform=transform,
        prediction_name=prediction_name,
    )


def _ratios(value: Any, columns: tuple[Column, ...]) -> tuple[Ratio, ...]:
    if value is None:
        return ()
    if not isinstance(value, Mapping):
        raise ContractError(f"ratios: expected a mapping of name to ratio, got {value!r}")
    numbers = {c.name for c in columns if c.kind in ("number", "integer")}
    ratios = []
    for name, entry in value.items():
        section = _mapping(entry, f"ratios.{name}", ("numerator", "denominator"))
        for part in ("numerator", "denominator"):
            if _optional_text(section, part, f"ratios.{name}") not in numbers:
                raise ContractError(
                    f"ratios.{name}.{part}: {section.get(part)!r} is not a number column"
                )
        if any(column.name == plain_name(str(name)) for column in columns):
            raise ContractError(f"ratios.{name}: a column has that name already")
        parts = (str(name), section["numerator"], section["denominator"])
        ratios.append(Ratio(*map(plain_name, parts)))
    return tuple(ratios)


def _source(value: Any) -> Source:
    section = _mapping(value or {}, "source", _SOURCE)
    delimiter = section.get("delimiter", ",")
    if not isinstance(delimiter, str) or len(delimiter) != 1:
        raise ContractError(f"source.delimiter: expected one character, got {delimiter!r}")
    checksums = _texts(section, "sha256", "source")
    for checksum in checksums:
        if not re.fullmatch(r"[0-9a-f]{64}", checksum):
            raise ContractError(f"source.sha256: expected 64 hexadecimal digits, got {checksum!r}")
    return Source(
        paths=_texts(section, "paths", "source"),
        url=_optional_text(section, "url", "source"),
        sha256=checksums,
        member=_optional_text(section, "member", "source"),
        delimiter=delimiter,
        synthetic=_optional_text(section, "synthetic", "source"),
    )


def _comparables(value: Any, contract: TableContract) -> Comparables:
    section = _mapping(value or {}, "comparables", _COMPARABLES)
    numbers = {c.name for c in contract.features if c.kind in ("number", "integer")}
    known = numbers | {ratio.name for ratio in contract.ratios}
    near = _texts(section, "near", "comparables")
    similar_by = _optional_text(section, "similar_by", "comparables")
    context = _texts(section, "context", "comparables")
    for key, names, allowed in (
        ("near", near, numbers),
        ("similar_by", () if similar_by is None else (similar_by,), known),
        ("context", context, known),
    ):
        for name in names:
            if name not in allowed:
                raise ContractError(
                    f"comparables.{key}: {name!r} is not a number column",
                    expected=f"one of {', '.join(sorted(allowed))}",
                )
    return Comparables(near=near, similar_by=similar_by, context=context)
