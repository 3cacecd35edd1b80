"""`KnownSales`: what a bundle keeps of its comparables beside what finds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from tasador.core.input_checks import Expected
from tasador.features.comparables import ComparablesIndex
from tasador.features.fitted import FittedFeatures

Floats = NDArray[np.float64]
Texts = tuple[str | None, ...]

_LONGEST_TEXT = 300


@dataclass(frozen=True)
class KnownSales:
    """What a bundle keeps of its comparables, each at its place in the index.

    Attributes:
        X: Shape (m, p): their encoded rows.
        identifiers: Texts of the contract's ``comparables.identifier``; empty where it names none.
        labels: Texts of its ``comparables.label``; empty where it names none.
        index: What finds them where the model's own features are made without comparables.
    """

    X: Floats
    identifiers: Texts = ()
    labels: Texts = ()
    index: ComparablesIndex | None = None

    def state(self) -> dict[str, NDArray[Any]]:
        """Return the arrays to keep; texts are JSON in UTF-8."""
        plain: dict[str, Any] = {"identifiers": self.identifiers, "labels": self.labels}
        arrays: dict[str, NDArray[Any]] = {"X": self.X}
        if self.index is not None:
            plain["index"], found = self.index.state()
            arrays |= {f"index.{name}": values for name, values in found.items()}
        return arrays | {"texts": np.frombuffer(orjson.dumps(plain), np.uint8)}

    @classmethod
    def from_state(cls, arrays: Mapping[str, NDArray[Any]], features: FittedFeatures) -> KnownSales:
        """Rebuild from `state`.

        Raises:
            KeyError, ValueError: The arrays are others, or not of these features' comparables.
        """
        Expected((None,), ("uint8",), 0, 255).check("texts", arrays["texts"])
        plain = orjson.loads(arrays["texts"].tobytes())
        if not isinstance(plain, dict) or plain.keys() - {"index"} != {"identifiers", "labels"}:
            raise ValueError("the comparables' texts are no identifiers and labels")
        own, index = None, features.index
        if "index" in plain:
            found = {
                name.removeprefix("index."): np.asarray(values)
                for name, values in arrays.items()
                if name.startswith("index.")
            }
            own = index = features.index_from_state(plain.pop("index"), found)
        if index is None:
            raise ValueError("sales are kept of comparables that there are none of")
        m, p = index.size, len(features.contract.features)
        Expected((m, p), gaps=True).check("X", arrays["X"])
        for name, found in plain.items():
            right = isinstance(found, list) and len(found) in (0, m)
            if not right or not all(
                one is None or (isinstance(one, str) and len(one) <= _LONGEST_TEXT) for one in found
            ):
                raise ValueError(f"the comparables' {name} are not one text each")
        return cls(arrays["X"], tuple(plain["identifiers"]), tuple(plain["labels"]), own)


def short_text(value: Any) -> str | None:
    """Return an identifier or a part of a label as it is kept; None for an empty one."""
    text = "" if value is None else " ".join(str(value).split())
    if isinstance(value, float):
        text = "" if value != value else f"{value:.15g}"
    return text[:_LONGEST_TEXT] or None
