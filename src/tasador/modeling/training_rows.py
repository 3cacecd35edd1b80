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
_NONE = np.empty(0, np.intp), np.empty(0)
_FIRST = np.zeros(1, np.intp)


@dataclass(frozen=True)
class TrainingRows:
    """Out-of-fold scores, found by the hash of an encoded row.

    Attributes:
        hashes: Shape (m,), ascending: 64 bits of each row's hash, as signed integers.
        scores: Shape (m,): on the transformed scale.
    """

    hashes: NDArray[np.int64]
    scores: Floats

    @classmethod
    def of(cls, X: Floats, scores: Floats) -> TrainingRows:
        """Keep the scores (n,) of encoded rows `X` (n, p); equal rows get their mean."""
        hashes, places = np.unique(_hashes(X), return_inverse=True)
        return cls(hashes, np.bincount(places, scores) / np.bincount(places))

    def find(self, X: Floats) -> tuple[NDArray[np.intp], Floats]:
        """Return which of the encoded rows `X` (n, p) were trained on, (k,), and their scores."""
        hashes = _hashes(X)
        places = self.hashes.searchsorted(hashes)
        if len(X) == 1:  # for a single row each further call of numpy costs more than the search
            at = int(places[0])
            if at == len(self.hashes) or self.hashes[at] != hashes[0]:
                return _NONE
            return _FIRST, self.scores[at : at + 1]
        places[places == len(self.hashes)] = 0
        found = np.flatnonzero(self.hashes[places] == hashes)
        return found, self.scores[places[found]]

    def state(self) -> dict[str, NDArray[Any]]:
        """Return the arrays to keep."""
        return {"hashes": self.hashes, "scores": self.scores}

    @classmethod
    def from_state(cls, arrays: Mapping[str, NDArray[Any]]) -> TrainingRows:
        """Rebuild from `state`.

        Raises:
            KeyError, ValueError: The arrays are others, or do not fit together.
        """
        m = len(arrays["hashes"])
        hashes = Expected((m,), ("int64",), -_INTEGERS, _INTEGERS)
        check_arrays(arrays, {"hashes": hashes, "scores": Expected((m,))})
        kept = np.asarray(arrays["hashes"], np.int64)
        if not m or not (kept[1:] > kept[:-1]).all():
            raise ValueError("the training rows' hashes are none, or do not ascend")
        return cls(kept, np.asarray(arrays["scores"]))


def _hashes(X: Floats) -> NDArray[np.int64]:
    """Return 64 bits of each encoded row's hash (n,); 0 and -0 are one number."""
    rows = np.add(X, 0.0, dtype="<f8", order="C")
    digests = b"".join([blake2b(row, digest_size=8).digest() for row in rows])
    return np.frombuffer(digests, "<i8")
