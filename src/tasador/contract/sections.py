"""Values of a section of a contract, and its sections ``exclude`` and ``translations``.

All are read strictly.

Each error names the key.

Raises everywhere:
    ContractError: The value is of a different type.
"""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from tasador.contract.errors import InvalidContractError
from tasador.contract.formats import seconds_of
from tasador.contract.model import Column, Exclusion, Target, Translation, plain_name
from tasador.core.errors import ContractError
from tasador.core.languages import LANGUAGES

_CONDITIONS = ("in", "not_in", "below", "above", "missing")
_KEYS = ("column", *_CONDITIONS, "reason")
_MOST = 1000
_TEXTS = ("label", "description", "unit")
_DEEPEST, _MOST_VALUES, _LONGEST_TEXT, _MOST_BITS = 20, 2_000_000, 100_000, 1023
#: The most that a contract holds, for messages.
LIMITS = f"{_MOST_VALUES} values, {_DEEPEST} levels deep, texts of {_LONGEST_TEXT} characters"


def check_plain(plain: Any) -> None:
    """Check that values are what YAML and JSON have, and no more than a contract needs.

    A contract may come with a bundle that anybody wrote. YAML's anchors let few bytes mean a list
    that contains itself, or more values than fit into memory.

    Raises:
        ContractError: A value is of a different type, no Unicode text, a number beyond float64,
            or there are too many, too long or too deeply nested ones.
    """
    left, count = [(plain, 0)], 0
    while left:
        value, depth = left.pop()
        count += 1
        if depth > _DEEPEST or count > _MOST_VALUES:
            raise InvalidContractError.too_much("contract", LIMITS)
        if isinstance(value, str):
            if len(value) > _LONGEST_TEXT:
                raise InvalidContractError.too_much("contract", LIMITS)
            if not value.isascii() and re.search("[\ud800-\udfff]", value):
                raise InvalidContractError.of_value("contract", "Unicode text", value)
        elif isinstance(value, Mapping):
            for pair in value.items():
                left += ((one, depth + 1) for one in pair)
        elif isinstance(value, (list, tuple)):
            left += ((one, depth + 1) for one in value)
        elif isinstance(value, int) and value.bit_length() > _MOST_BITS:
            raise InvalidContractError.of_value("contract", "numbers up to 1.8e308", value)
        elif not isinstance(value, (int, float, dt.date, dt.time, type(None))):
            raise InvalidContractError.of_value("contract", "texts, numbers, dates, lists", value)


def mapping(value: Any, where: str, allowed: Collection[str] | None) -> Mapping[str, Any]:
    """Return a mapping whose keys are all `allowed`; None allows any."""
    if not isinstance(value, Mapping):
        raise ContractError(f"{where}: expected a mapping, got {type(value).__name__}")
    for key in value:
        if allowed is not None and key not in allowed:
            raise InvalidContractError.not_among(f"{where}.{key}: unknown key", allowed, key)
    return value


def text(section: Mapping[str, Any], key: str, where: str, default: str | None = None) -> str:
    """Return a text that is not empty."""
    value = section.get(key, default)
    if not isinstance(value, str) or not value.strip():
        raise InvalidContractError.of_value(f"{where}.{key}", "a text", value)
    return plain_name(value)


def optional_text(section: Mapping[str, Any], key: str, where: str) -> str | None:
    """Return a text, or None where the key is not there."""
    return None if section.get(key) is None else text(section, key, where)


def texts(section: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    """Return a list of texts; one text is a list of one, a number its text."""
    value = section.get(key)
    if value is None:
        return ()
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, (list, tuple)) or not all(
        isinstance(item, (str, int, float)) and not isinstance(item, bool) for item in value
    ):
        remedy = "quote words that YAML reads as true or false, such as 'yes', 'no' and 'on'"
        raise InvalidContractError.of_value(f"{where}.{key}", "a list of texts", value, remedy)
    return tuple(plain_name(str(item)) for item in value)


def flag(section: Mapping[str, Any], key: str, where: str, default: bool) -> bool:
    """Return true or false."""
    value = section.get(key, default)
    if not isinstance(value, bool):
        raise InvalidContractError.of_value(f"{where}.{key}", "true or false", value)
    return value


def number(value: Any, where: str) -> float:
    """Return a finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise InvalidContractError.of_value(where, "a finite number", value)
    return float(value)


def moment(value: Any, where: str) -> float:
    """Read a date, with or without a time, as YAML gives it or as text; or seconds since 1970."""
    if isinstance(value, str):
        try:
            value = dt.datetime.fromisoformat(value.strip())
        except ValueError:
            raise InvalidContractError.of_value(
                f"{where}", "a date such as 2026-01-31", value
            ) from None
    # dates are written to the microsecond
    return seconds_of(value) if isinstance(value, dt.date) else round(number(value, where), 6)


def read_exclusions(
    value: Any, columns: tuple[Column, ...], target: Target
) -> tuple[Exclusion, ...]:
    """Return the filters of the section, in their order; none where it is absent.

    Args:
        value: A list of filters, or one.
        columns: The contract's columns.
        target: Its target.

    Raises:
        ContractError: Naming the key, what was expected there and what was found.
    """
    if value is None:
        return ()
    entries = value if isinstance(value, list) else [value]
    if len(entries) > _MOST:
        raise InvalidContractError.too_much("exclude", f"{_MOST} filters")
    return tuple(_read(entries, {c.name: c for c in (*columns, target.column)}))


def _read(entries: list[Any], known: dict[str, Column]) -> Iterator[Exclusion]:
    for at, entry in enumerate(entries, 1):
        where = f"exclude.{at}"
        section = mapping(entry, where, _KEYS)
        name = text(section, "column", where)
        column = known.get(name)
        if not any(section.get(key) is not None for key in _CONDITIONS):
            raise InvalidContractError.not_among(f"{where}: no condition", _CONDITIONS)
        if column is not None and column.derive is not None:
            raise ContractError(
                f"{where}.column: {name!r} follows from other columns",
                remedy=f"exclude by {' or '.join(column.derive.columns)}",
            )
        dates = column is not None and column.kind == "datetime"
        for key in ("in", "not_in"):
            if dates and section.get(key) is not None:
                raise ContractError(f"{where}.{key}: {name!r} has dates",
                                    expected="below, above or missing")  # fmt: skip
        read = moment if dates else number
        below, above = (
            None if section.get(key) is None else read(section[key], f"{where}.{key}")
            for key in ("below", "above")
        )
        named = column is not None and column.kind not in ("number", "integer", "datetime")
        if named and (below is not None or above is not None):
            kind = "" if column is None else column.kind
            raise ContractError(f"{where}: {name!r} is of kind {kind}",
                                expected="in, not_in or missing")  # fmt: skip
        yield Exclusion(
            column=name,
            reason=text(section, "reason", where),
            among=texts(section, "in", where),
            not_among=texts(section, "not_in", where),
            below=below,
            above=above,
            missing=flag(section, "missing", where, default=False),
        )


def read_translations(value: Any, names: Collection[str]) -> dict[str, Translation]:
    """Read the texts for people by language; `names` are the columns' and the target's."""
    found = {}
    for language, entry in mapping(value or {}, "translations", LANGUAGES).items():
        where = f"translations.{language}"
        section = mapping(entry, where, ("title", "columns"))
        columns = mapping(section.get("columns") or {}, f"{where}.columns", names)
        texts = {
            str(name): {key: text(fields, key, f"{where}.{name}") for key in fields}
            for name, one in columns.items()
            for fields in [mapping(one, f"{where}.columns.{name}", _TEXTS)]
        }
        found[str(language)] = Translation(optional_text(section, "title", where), texts)
    return found
