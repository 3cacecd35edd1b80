"""Check named arrays against what they should be: name, type, shape and range of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasador.core.errors import BundleError

FLOAT = (np.dtype("=f8"),)
INTEGER = (np.dtype("=i4"), np.dtype("=i8"))
BOOL = (np.dtype("?"),)


@dataclass(frozen=True)
class ArrayRule:
    """What an array should be.

    Attributes:
        shape: Its dimensions; None for one that may be of any size.
        types: The numpy types it may have, exactly: no other width or byte order.
        low, high: Between which its values lie, ends included; None for any finite number.
        infinite: Whether infinities are allowed.
        missing: Whether NaN is allowed.
    """

    shape: tuple[int | None, ...]
    types: tuple[np.dtype[Any], ...] = FLOAT
    low: float | None = None
    high: float | None = None
    infinite: bool = False
    missing: bool = False

    def fault(self, array: NDArray[Any]) -> tuple[str, str] | None:
        """Return (expected, got) of the first thing that is wrong, or None."""
        if array.dtype not in self.types:
            return " or ".join(str(one) for one in self.types), str(array.dtype)
        if len(array.shape) != len(self.shape) or any(
            want is not None and want != got
            for want, got in zip(self.shape, array.shape, strict=True)
        ):
            wanted = ", ".join("any" if n is None else str(n) for n in self.shape)
            return f"shape ({wanted})", f"shape {array.shape}"
        return self._value_fault(array)

    def _value_fault(self, array: NDArray[Any]) -> tuple[str, str] | None:
        if not array.size or array.dtype.kind == "b":
            return None
        if array.dtype.kind == "f":
            if not self.missing and np.isnan(array).any():
                return "numbers", "NaN"
            if not self.infinite and np.isinf(array).any():
                return "finite numbers", "an infinite one"
            if self.missing and np.isnan(array).all():
                return None
        least, most = float(np.nanmin(array)), float(np.nanmax(array))
        if self.low is not None and least < self.low:
            return f"values of at least {self.low:g}", f"{least:g}"
        if self.high is not None and most > self.high:
            return f"values of at most {self.high:g}", f"{most:g}"
        return None


def check_arrays(
    arrays: Mapping[str, NDArray[Any]], rules: Mapping[str, ArrayRule], what: str
) -> None:
    """Refuse `arrays` unless they are exactly those that `rules` name, each as its rule says.

    Args:
        arrays: The arrays by name.
        rules: What each should be.
        what: Where they come from, for messages.

    Raises:
        BundleError: One is missing, unknown, or not what its rule says; it is named.
    """
    missing, unknown = sorted(rules.keys() - arrays.keys()), sorted(arrays.keys() - rules.keys())
    if missing or unknown:
        raise BundleError(
            f"{what} does not hold the arrays that the manifest describes",
            expected=f"{len(rules)} arrays",
            got=f"missing {missing[:5]}, unknown {unknown[:5]}",
            remedy="fetch the bundle again, or register the model again",
        )
    for name, rule in rules.items():
        fault = rule.fault(arrays[name])
        if fault is not None:
            raise BundleError(
                f"the array {name} of {what} is refused",
                expected=fault[0],
                got=fault[1],
                remedy="fetch the bundle again, or register the model again",
            )
