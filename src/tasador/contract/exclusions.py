"""Read a contract's section ``exclude``: rows that are no market sales."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tasador.contract.errors import InvalidContractError
from tasador.contract.model import Column, Exclusion, Target
from tasador.contract.sections import flag, mapping, moment, number, text, texts
from tasador.core.errors import ContractError

_CONDITIONS = ("in", "not_in", "below", "above", "missing")
_KEYS = ("column", *_CONDITIONS, "reason")
_MOST = 1000


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
