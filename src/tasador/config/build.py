"""Build settings dataclasses from plain values, strictly: unknown keys and wrong types are errors.

Used instead of OmegaConf's structured configs because those know neither tuples of literals nor
which key a message should name.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
from collections.abc import Collection, Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from tasador.config import limits
from tasador.core.errors import ConfigError

Settings = TypeVar("Settings")


def build(kind: type[Settings], plain: Any, where: str) -> Settings:
    """Return a `kind` (a dataclass) from a mapping; keys left out keep their defaults.

    Raises:
        ConfigError: Naming the key, what was expected there and what was found.
    """
    if not isinstance(plain, Mapping):
        raise ConfigError(f"{where}: expected a group of settings, got {plain!r}")
    hints = get_type_hints(kind)
    names = [entry.name for entry in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for key in plain:
        if key not in names:
            raise unknown(f"{where}.{key}", str(key), names)
    values = {key: convert(value, hints[key], f"{where}.{key}") for key, value in plain.items()}
    missing = [
        entry.name
        for entry in dataclasses.fields(kind)  # type: ignore[arg-type]
        if entry.name not in values
        and entry.default is dataclasses.MISSING
        and entry.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(f"{where}: {', '.join(missing)} must be set")
    return kind(**values)


def unknown(where: str, key: str, known: Collection[str]) -> ConfigError:
    """Return the error for a key that nobody reads."""
    close = difflib.get_close_matches(key, known, n=1)
    return ConfigError(
        f"{where}: unknown setting",
        expected=f"one of {', '.join(known)}",
        remedy=f"did you mean {close[0]!r}?" if close else None,
    )


def convert(value: Any, kind: Any, where: str) -> Any:
    """Return `value` as `kind`, a type as dataclass fields use them.

    Raises:
        ConfigError: It is of another type, or out of the range that `where` allows.
    """
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, types.UnionType):
        options = [option for option in inner if option is not type(None)]
        return None if value is None else convert(value, options[0], where)
    if origin is Literal:
        if value is False and "off" in inner:  # what YAML makes of a bare off
            return "off"
        if value not in inner:
            raise ConfigError(
                f"{where}: expected one of {', '.join(map(str, inner))}, got {value!r}"
            )
        return value
    if origin is list:
        if not isinstance(value, (list, tuple)):
            raise _wrong(where, "a list", value)
        return [convert(item, inner[0], f"{where}[{i}]") for i, item in enumerate(value)]
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise _wrong(where, "a list", value)
        return tuple(convert(item, inner[0], f"{where}[{i}]") for i, item in enumerate(value))
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise _wrong(where, "a mapping", value)
        return {str(key): convert(item, inner[1], f"{where}.{key}") for key, item in value.items()}
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return build(kind, value, where)
    scalar = _scalar(value, kind, where)
    limits.check(where, scalar)
    return scalar


def _scalar(value: Any, kind: Any, where: str) -> Any:
    is_flag = isinstance(value, bool)
    if kind is float and isinstance(value, (int, float)) and not is_flag:
        return float(value)
    if kind is int and isinstance(value, int) and not is_flag:
        return value
    if kind is bool and is_flag:
        return value
    if kind is str and isinstance(value, (str, int, float)) and not is_flag:
        return str(value)
    words = {float: "a number", int: "a whole number", bool: "true or false", str: "a text"}
    raise _wrong(where, words.get(kind, str(kind)), value)


def _wrong(where: str, expected: str, value: Any) -> ConfigError:
    return ConfigError(f"{where}: wrong type", expected=expected, got=repr(value))
