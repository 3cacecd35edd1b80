"""The errors of contracts; the fixed parts of their messages are here."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from tasador.core.errors import ContractError, did_you_mean


class InvalidContractError(ContractError):
    """A key or a value that a contract cannot have."""

    @classmethod
    def of_value(
        cls, where: str, expected: str, value: Any, remedy: str | None = None
    ) -> InvalidContractError:
        """Return the error of a value of a different type."""
        return cls(f"{where}: expected {expected}, got {value!r}", remedy=remedy)

    @classmethod
    def not_among(
        cls, message: str, known: Collection[str], given: Any = None, shown: Any = str
    ) -> InvalidContractError:
        """Return the error of a word that is none of `known`, with the one that may be meant."""
        remedy = None if given is None else did_you_mean(str(given), known)
        return cls(message, expected=f"one of {', '.join(map(shown, known))}", remedy=remedy)

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
