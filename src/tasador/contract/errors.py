"""The errors of contracts; the fixed parts of their messages are here."""

from __future__ import annotations

import reprlib
from collections.abc import Collection
from typing import Any

from tasador.core.errors import ContractError, did_you_mean

_SHOWN, _SHOWN_NAMES = 80, 50


class _Repr(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = self.maxlong = _SHOWN
        self.maxlevel = 2

    def repr_int(self, x: int, level: int) -> str:
        if x.bit_length() > 1024:  # Python writes out no number of more than 4300 digits
            return f"a whole number of {x.bit_length()} bits"
        return super().repr_int(x, level)


_repr = _Repr().repr


def cut_repr(value: Any) -> str:
    """Return `repr(value)`, at most 80 characters, however large or deeply nested it is."""
    text = _repr(value).encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


class InvalidContractError(ContractError):
    """A key or a value that a contract cannot have."""

    @classmethod
    def of_value(
        cls, where: str, expected: str, value: Any, remedy: str | None = None
    ) -> InvalidContractError:
        """Return the error of a value of a different type."""
        return cls(f"{where}: expected {expected}, got {cut_repr(value)}", remedy=remedy)

    @classmethod
    def not_among(
        cls, message: str, known: Collection[str], given: Any = None, shown: Any = str
    ) -> InvalidContractError:
        """Return the error of a word that is none of `known`, with the one that may be meant."""
        remedy = None if given is None else did_you_mean(str(given), known)
        words = [shown(one) for one in list(known)[:_SHOWN_NAMES]]
        more = f" and {len(known) - len(words)} more" if len(known) > len(words) else ""
        return cls(message, expected=f"one of {', '.join(words)}{more}", remedy=remedy)

    @classmethod
    def too_much(cls, where: str, most: str) -> InvalidContractError:
        """Return the error of more than a contract that anybody may have written can hold."""
        return cls(f"{where}: too much", expected=f"at most {most}")

    @classmethod
    def half(cls, where: str, pair: str) -> InvalidContractError:
        """Return the error of one of two that belong together."""
        return cls(f"{where}: {pair} come together, one of them is missing")

    @classmethod
    def twice(cls, where: str, names: Collection[str]) -> InvalidContractError:
        """Return the error of names that occur more than once."""
        listed = f" {', '.join(names)}" if names else ""
        return cls(f"{where}:{listed} is listed more than once")

    @classmethod
    def taken(cls, where: str) -> InvalidContractError:
        """Return the error of a name that a column has."""
        return cls(f"{where}: a column has that name already")

    @classmethod
    def of_no_feature(cls, where: str, role: str | None, name: str) -> InvalidContractError:
        """Return the error of a feature that would follow from a column that is none."""
        return cls(
            f"{where}: would be a feature made of {name!r}, which has the role {role}",
            expected="columns that models may see",
            remedy="give it `role: rival` too" if role == "rival" else f"leave out {name!r}",
        )
