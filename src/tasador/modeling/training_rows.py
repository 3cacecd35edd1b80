"""`TrainingRows`: what training rows are worth to models that did not learn from them.

A model remembers its training rows: its errors on them are about half of those on others, and an
assessor's roll valued by it would seem better than it is (sales chasing).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
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
_GOLDEN, _LAST = np.uint64(0x9E3779B97F4A7C15), np.uint64(31)
_ROUNDS = (
    (np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)),
    (np.uint64(27), np.uint64(0x94D049BB133111EB)),
)
_NONE = np.empty(0, np.intp), np.empty(0, np.intp)
_FIRST = np.zeros(1, np.intp)


@dataclass(frozen=True)
class TrainingRows:
    """Out-of-fold scores, found by the hash of an encoded row.

    Attributes:
        hashes: Shape (m,), ascending: each row's hash, of 64 bits, as signed integers.
        scores: Shape (m,): on the transformed scale.
        half_widths: Shape (m,): half the interval's width around each, where it is not that of the
            bundle's interval, else NaN; None where it always is.
        mixed: Whether the hashes are those of SplitMix64; bundles of before have cuts of BLAKE2.
    """

    hashes: NDArray[np.int64]
    scores: Floats
    half_widths: Floats | None = None
    mixed: bool = True

    @classmethod
    def of(cls, X: Floats, scores: Floats, half_widths: Floats | None = None) -> TrainingRows:
        """Keep the scores (n,) of encoded rows `X` (n, p); equal rows get the mean."""
        hashes, places = np.unique(_mixed(X), return_inverse=True)
        counts = np.bincount(places)
        means = [
            np.bincount(places, values) / counts
            for values in (scores, half_widths)
            if values is not None
        ]
        return cls(hashes, means[0], means[1] if len(means) > 1 else None)

    def find(self, X: Floats) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return which of the encoded rows `X` (n, p) were trained on, (k,), and their places."""
        hashes = _mixed(X) if self.mixed else _cut(X)
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
        if self.half_widths is not None:
            arrays["half_widths"] = self.half_widths
        return arrays | {"mixed": np.ones(1, np.int64)} if self.mixed else arrays

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
        if "mixed" in arrays:
            expected["mixed"] = Expected((1,), ("int64",), 1, 1)
        check_arrays(arrays, expected)
        kept = np.asarray(arrays["hashes"], np.int64)
        if not m or not (kept[1:] > kept[:-1]).all():
            raise ValueError("the training rows' hashes are none, or do not ascend")
        half, scores = arrays.get("half_widths"), np.asarray(arrays["scores"])
        return cls(kept, scores, None if half is None else np.asarray(half), "mixed" in arrays)


def _mixed(X: Floats) -> NDArray[np.int64]:
    """Return a hash of each encoded row (n,), 64 bits; 0 and -0 are one number.

    Each number is mixed by the finalizer of SplitMix64 (Steele, Lea and Flood 2014), begun at
    another place in each column, and those of a row are added: for many rows a tenth of the time
    that a hash of the standard library takes.
    """
    bits = np.add(X, 0.0, dtype="<f8", order="C").view(np.uint64)
    bits += _starts(X.shape[1])
    for shift, factor in _ROUNDS:
        bits ^= bits >> shift
        bits *= factor
    bits ^= bits >> _LAST
    hashes: NDArray[np.int64] = bits.sum(axis=1).view(np.int64)
    return hashes


@cache
def _starts(p: int) -> NDArray[np.uint64]:
    return np.arange(1, p + 1, dtype=np.uint64) * _GOLDEN


def _cut(X: Floats) -> NDArray[np.int64]:
    rows = np.add(X, 0.0, dtype="<f8", order="C")
    digests = b"".join([blake2b(row, digest_size=8).digest() for row in rows])
    return np.frombuffer(digests, "<i8")
