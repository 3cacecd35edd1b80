"""`TrainingRows`: what training rows are worth to models that did not learn from them.

A model remembers its training rows: its errors on them are about half of those on others, and an
assessor's roll valued by it would seem better than it is (sales chasing).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasador.core.input_checks import Expected, check_arrays

Floats = NDArray[np.float64]

#: The warning of such a valuation, and the part that makes its explanation add up.
NOTE = (
    "this is one of the training rows: it is valued by models that did not learn from it, in "
    "cross-validation"
)
NOT_LEARNT = "not_learnt_from_itself"
_INTEGERS = 2.0**63
_NONE = np.empty(0, np.intp), np.empty(0, np.intp)
_FIRST = np.zeros(1, np.intp)


@dataclass(frozen=True)
class TrainingRows:
    """Out-of-fold scores, found by the hash of an encoded row.

    Attributes:
        hashes: Shape (m,), ascending: 64 bits of each row's hash, as signed integers.
        scores: Shape (m,): on the transformed scale.
        half_widths: Shape (m,): half the interval's width around each, where it is not that of the
            bundle's interval, else NaN; None where it always is.
    """

    hashes: NDArray[np.int64]
    scores: Floats
    half_widths: Floats | None = None

    @classmethod
    def of(cls, X: Floats, scores: Floats, half_widths: Floats | None = None) -> TrainingRows:
        """Keep the scores (n,) of encoded rows `X` (n, p); equal rows get the mean."""
        hashes, places = np.unique(_hashes(X), return_inverse=True)
        counts = np.bincount(places)
        means = [
            np.bincount(places, values) / counts
            for values in (scores, half_widths)
            if values is not None
        ]
        return cls(hashes, *means)

    def find(self, X: Floats) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return which of the encoded rows `X` (n, p) were trained on, (k,), and their places."""
        hashes = _hashes(X)
        places = self.hashes.searchsorted(hashes)
        if len(X) == 1:  # for a single row each further call of numpy costs more than the search
            at = int(places[0])
            if at == len(self.hashes) or self.hashes[at] != hashes[0]:
                return _NONE
            return _FIRST, places
        places[places == len(self.hashes)] = 0
        found = np.flatnonzero(self.hashes[places] == hashes)
        return found, places[found]

    def state(self) -> dict[str, NDArray[Any]]:
        """Return the arrays to keep."""
        arrays = {"hashes": self.hashes, "scores": self.scores}
        return arrays if self.half_widths is None else arrays | {"half_widths": self.half_widths}

    @classmethod
    def from_state(cls, arrays: Mapping[str, NDArray[Any]]) -> TrainingRows:
        """Rebuild from `state`.

        Raises:
            KeyError, ValueError: The arrays are others, or do not fit together.
        """
        m = len(arrays["hashes"])
        hashes = Expected((m,), ("int64",), -_INTEGERS, _INTEGERS)
        expected = {"hashes": hashes, "scores": Expected((m,))}
        if "half_widths" in arrays:
            expected["half_widths"] = Expected((m,), low=0.0, gaps=True)
        check_arrays(arrays, expected)
        kept = np.asarray(arrays["hashes"], np.int64)
        if not m or not (kept[1:] > kept[:-1]).all():
            raise ValueError("the training rows' hashes are none, or do not ascend")
        half = arrays.get("half_widths")
        return cls(kept, np.asarray(arrays["scores"]), None if half is None else np.asarray(half))


def _hashes(X: Floats) -> NDArray[np.int64]:
    """Return 64 bits of each encoded row's hash (n,); 0 and -0 are one number."""
    rows = np.add(X, 0.0, dtype="<f8", order="C")
    digests = b"".join([blake2b(row, digest_size=8).digest() for row in rows])
    return np.frombuffer(digests, "<i8")
