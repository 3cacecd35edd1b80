"""Values of a section of a contract, read strictly; each error names the key.

Raises everywhere:
    ContractError: The value is of a different type.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Collection, Mapping
from typing import Any

from tasador.contract.errors import InvalidContractError
from tasador.contract.formats import seconds_of
from tasador.contract.model import plain_name
from tasador.core.errors import ContractError


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
    return seconds_of(value) if isinstance(value, dt.date) else number(value, where)
