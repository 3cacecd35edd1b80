"""`Regressor`: what every way of running an exported model has in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from tasador.core.errors import ValidationError

Floats = NDArray[np.float64]

#: Rows of one call: bounds onnxruntime's intermediate matrices, and is what a thread works on.
_CHUNK = 8192
#: Rows below which handing work to another thread costs more than it saves.
_MIN_ROWS_PER_THREAD = 64


class Regressor(ABC):
    """A model: (n, q) doubles in, (n,) doubles out.

    A row gets the same bits alone and among others, for any number of threads: each call runs in
    one thread, and several threads share out whole rows. Instances may be used from several
    threads at once.

    Args:
        n_features: q.
        threads: How many threads share a batch; a single row is always valued in the caller's.

    Attributes:
        engine: What computes the scores: ``onnxruntime`` or ``kernel``.
    """

    engine: ClassVar[str]

    def __init__(self, n_features: int, threads: int) -> None:
        self.n_features = n_features
        self._threads = max(1, threads)

    @abstractmethod
    def _run(self, Z: Floats) -> Floats:
        """Return the scores (n,) of checked, contiguous rows `Z` (n, q), 1 <= n <= 8192."""

    def predict(self, Z: Floats) -> Floats:
        """Return the scores of feature rows.

        Args:
            Z: Shape (n, q), n >= 0. In a tree, NaN goes where the training library sends it and
                infinities compare as numbers; in a linear model both give NaN or inf.

        Returns:
            Scores on the model's scale, shape (n,).

        Raises:
            ValidationError: `Z` is not a matrix of q columns.
        """
        Z = np.ascontiguousarray(Z, dtype=np.float64)
        if Z.ndim != 2 or Z.shape[1] != self.n_features:
            raise ValidationError(
                "the rows do not fit the model",
                expected=f"shape (n, {self.n_features})",
                got=f"shape {Z.shape}",
                remedy="transform the rows with the features of the same bundle",
            )
        if 0 < len(Z) <= _CHUNK and (self._threads == 1 or len(Z) < 2 * _MIN_ROWS_PER_THREAD):
            return self._run(Z)
        return self._run_chunks(Z)

    def _run_chunks(self, Z: Floats) -> Floats:
        if not len(Z):
            return np.empty(0)
        size = min(_CHUNK, max(_MIN_ROWS_PER_THREAD, -(-len(Z) // self._threads)))
        chunks = [Z[start : start + size] for start in range(0, len(Z), size)]
        if self._threads == 1:
            return np.concatenate([self._run(chunk) for chunk in chunks])
        with ThreadPoolExecutor(self._threads) as pool:
            return np.concatenate(list(pool.map(self._run, chunks)))
