"""Settings read from plain values: types, names, and the range that stands beside each setting.

Settings are standard dataclasses, so that nothing but numpy is imported to value a row. pydantic
reads their annotations here, where values come from outside: `Interval`, `Ge` and `Predicate` of
annotated-types say what a field may hold.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_args, get_origin
from typing import get_type_hints as _type_hints

from annotated_types import BaseMetadata, Ge, GroupedMetadata, Gt, Le, Lt, Predicate

from tasador.core.errors import ConfigError, closest, did_you_mean
from tasador.core.hashing import to_plain

if TYPE_CHECKING:
    from pydantic import TypeAdapter
    from pydantic_core import ErrorDetails

Settings = TypeVar("Settings")
Place = Sequence[str | int]

#: What pydantic calls a type in its errors, in words.
_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "a text",
    "list": "a list",
    "tuple": "a list",
    "dict": "a mapping",
    "mapping": "a mapping",
    "dataclass": "a group of settings",
}
_LIMITS = {Ge: "at least {:,}", Gt: "more than {:,}", Le: "at most {:,}", Lt: "less than {:,}"}


@dataclass(frozen=True)
class Matches:
    """A test of texts for `annotated_types.Predicate`.

    Attributes:
        pattern: A regular expression that the whole text must match.
        words: The same in words.
    """

    pattern: str
    words: str

    def __call__(self, text: str) -> bool:
        """Tell whether `text` matches."""
        return re.fullmatch(self.pattern, text) is not None


class InvalidSettingError(ConfigError):
    """A setting that nobody reads, or that has a value it may not have."""

    @classmethod
    def unknown(cls, where: str, key: str, known: Collection[str]) -> InvalidSettingError:
        """Return the error of a key that nobody reads."""
        expected = f"one of {', '.join(known)}"
        return cls(f"{where}: unknown setting", expected=expected, remedy=did_you_mean(key, known))

    @classmethod
    def of_value(
        cls, where: str, problem: str, expected: str, value: Any, known: Collection[str]
    ) -> InvalidSettingError:
        """Return the error of a value that the setting may not have; `known` are its choices."""
        return cls(
            f"{where}: {problem}" if problem else where,
            expected=expected,
            got=repr(value),
            remedy=did_you_mean(str(value), known),
        )


class UnusedVariableError(ConfigError):
    """An environment variable that sets nothing."""

    @classmethod
    def of(cls, name: str, known: Collection[str], meant: str | None) -> UnusedVariableError:
        """Return the error of a variable, with the one that was probably meant."""
        return cls(
            f"{name} sets nothing",
            expected=f"one of {', '.join(known)}",
            remedy=f"did you mean {meant}?" if meant else "remove it",
        )


def fields_of(kind: Any) -> dict[str, Any]:
    """Return the annotation of each setting of a dataclass, with its range."""
    hints = _type_hints(kind, include_extras=True)
    return {entry.name: hints[entry.name] for entry in dataclasses.fields(kind)}


def build(kind: type[Settings], plain: Any, where: str) -> Settings:
    """Return a `kind` (a dataclass) from a mapping; keys left out keep their defaults.

    Raises:
        ConfigError: Naming the key, what was expected there and what was found.
    """
    built: Settings = build_each({where: kind}, {where: plain})[where]
    return built


def build_each(kinds: Mapping[str, Any], plain: Mapping[str, Any]) -> dict[str, Any]:
    """Return each of the `plain` values as the type of that name, strictly; see `build`.

    Raises:
        ConfigError: As `build`.
    """
    for name in plain:
        if name not in kinds:
            raise InvalidSettingError.unknown(name, name, list(kinds))
    checked = _validated(to_plain(plain), kinds)
    return {name: getattr(checked, name) for name in plain}


def from_texts(
    kind: type[Settings], texts: Mapping[str, str], name: Callable[[str], str]
) -> Settings:
    """Return a `kind` from texts by setting, as environment variables give them.

    Lists are separated by commas; an empty text means None where a setting may be None.

    Args:
        kind: The dataclass.
        texts: By setting; those left out keep their defaults.
        name: Returns what a setting is called in messages.

    Raises:
        ConfigError: A setting is unknown, or its text is invalid; the text may be a secret in the
            wrong variable and is not in the message.
    """
    from pydantic import ValidationError

    hints = fields_of(kind)
    for key in texts:
        if key not in hints:
            meant = closest(key, hints)
            raise UnusedVariableError.of(
                name(key), list(map(name, hints)), name(meant) if meant else None
            )
    values = {key: _listed(text, hints[key]) for key, text in texts.items()}
    try:
        checked = _adapter((("section", kind),)).validate_python({"section": values})
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][1])
        _, expected = _problem(first, {"section": kind})
        raise ConfigError(
            f"{name(key)} is invalid",
            expected=expected,
            got=f"a text of {len(texts[key])} characters",
        ) from None
    built: Settings = checked.section
    return built


def allowed(hint: Any) -> str:
    """Return in words which values an annotation allows, or nothing where any of its type."""
    choices = _choices(hint)
    said = [f"one of {', '.join(choices)}"] if choices else []
    for rule in _rules(hint):
        if isinstance(rule, Predicate):
            said.append(rule.func.words if isinstance(rule.func, Matches) else "")
        elif type(rule) in _LIMITS:
            (limit,) = dataclasses.astuple(rule)
            said.append(_LIMITS[type(rule)].format(limit))
    return " and ".join(said)


def _choices(hint: Any) -> list[str]:
    """Return the choices that an annotation lists, also where None is allowed too."""
    literals = [one for one in (hint, *get_args(hint)) if get_origin(one) is Literal]
    return [str(choice) for one in literals for choice in get_args(one)]


def _rules(hint: Any) -> Iterator[Any]:
    """Yield what an annotation says beside its type, also where None is allowed too."""
    for inner in get_args(hint):
        if isinstance(inner, GroupedMetadata):
            yield from inner
        elif isinstance(inner, BaseMetadata):
            yield inner
        elif get_origin(inner) is Annotated:
            yield from _rules(inner)


def _listed(text: str, hint: Any) -> Any:
    if get_origin(hint) is tuple:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    return None if text == "" and type(None) in get_args(hint) else text


@lru_cache(maxsize=32)
def _adapter(kinds: tuple[tuple[str, Any], ...]) -> TypeAdapter[Any]:
    """Return what checks values by name; dataclasses in them refuse keys that they do not have."""
    from pydantic import TypeAdapter

    fields: list[tuple[str, Any, Any]] = [
        (*kind, dataclasses.field(default=None)) for kind in kinds
    ]
    strict = {"__pydantic_config__": {"extra": "forbid"}}
    return TypeAdapter(dataclasses.make_dataclass("Values", fields, namespace=strict))


def _validated(plain: Any, kinds: Mapping[str, Any]) -> Any:
    """Return the checked values; what YAML read otherwise than it was meant is put right first."""
    from pydantic import ValidationError

    try:
        return _adapter(tuple(kinds.items())).validate_json(json.dumps(plain), strict=True)
    except ValidationError as error:
        found = error.errors()
        if [entry for entry in found if _as_text(entry, plain)]:
            return _validated(plain, kinds)
        raise _error(found[0], kinds) from None


def _as_text(entry: ErrorDetails, values: Any) -> bool:
    """Put the text into `values` that was meant, if one was, and tell whether it was.

    YAML reads a name such as 2026 as a number, and a bare off as false.
    """
    given = entry["input"]
    if entry["type"] == "string_type" and type(given) in (int, float):
        text = str(given)
    elif entry["type"] == "literal_error" and given is False and "'off'" in str(entry["ctx"]):
        text = "off"
    else:
        return False
    *path, last = entry["loc"]
    for key in path:
        values = values[key]
    values[last] = text
    return True


def _error(found: ErrorDetails, kinds: Mapping[str, Any]) -> ConfigError:
    place, kind = found["loc"], found["type"]
    if not place:  # the text of a value is no text: half a character
        return ConfigError(f"the settings cannot be read: {found['msg']}")
    if kind == "missing":
        missing = _spelt(place[:-1])
        return ConfigError(f"{missing}: {place[-1]} must be set")
    if kind in ("unexpected_keyword_argument", "extra_forbidden"):
        known = list(fields_of(_hint_at(place[:-1], kinds)))
        return InvalidSettingError.unknown(_spelt(place), str(place[-1]), known)
    problem, expected = _problem(found, kinds)
    choices = _choices(_hint_at(place, kinds))
    return InvalidSettingError.of_value(_spelt(place), problem, expected, found["input"], choices)


def _problem(found: ErrorDetails, kinds: Mapping[str, Any]) -> tuple[str, str]:
    """Return what is wrong with a value, and what would be right."""
    ranged = allowed(_hint_at(found["loc"], kinds))
    word = _WORDS.get(found["type"].partition("_")[0])
    if found["type"] == "literal_error":
        return "", ranged
    if found["type"] == "predicate_failed":
        return "cannot be used", ranged
    if word is not None and not found["type"].endswith(("_too_short", "_too_long")):
        return "wrong type", word
    if ranged:
        return "out of range", ranged
    return "cannot be used", found["msg"]


def _hint_at(place: Place, kinds: Mapping[str, Any]) -> Any:
    """Return the annotation of what stands at a place."""
    hint: Any = kinds[str(place[0])]
    for key in place[1:]:
        if get_origin(hint) is Annotated:
            hint = get_args(hint)[0]
        if dataclasses.is_dataclass(hint):
            hint = fields_of(hint).get(str(key), Any)
        else:
            inner = [one for one in get_args(hint) if one not in (type(None), Ellipsis)]
            hint = inner[-1] if inner else Any
    return hint


def _spelt(place: Place) -> str:
    first, *rest = place
    return str(first) + "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in rest)
