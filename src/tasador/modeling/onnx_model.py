"""`OnnxRegressor`: runs an exported model with onnxruntime."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from tasador.core.errors import BundleError, ValidationError

Floats = NDArray[np.float64]

INPUT, OUTPUT = "X", "score"
_ERRORS_ONLY = 3
#: Rows of one call: bounds onnxruntime's intermediate matrices, and is what a thread works on.
_CHUNK = 8192
#: Rows below which handing work to another thread costs more than it saves.
_MIN_ROWS_PER_THREAD = 64


class OnnxRegressor:
    """A regression model in ONNX form: (n, q) doubles in, (n,) doubles out.

    A row gets the same bits alone and among others, for any `threads`: each call of onnxruntime
    runs in one thread, and several threads share out whole rows. (With threads of its own,
    onnxruntime adds the trees of a single row in another order than those of many.)

    Instances may be used from several threads at once.

    Args:
        model_bytes: The serialised graph, as `onnx_export.to_onnx` writes it.
        threads: How many threads share a batch; a single row is always valued in the caller's.

    Raises:
        BundleError: The bytes are no ONNX graph with input ``X`` [None, q] and output ``score``.
    """

    def __init__(self, model_bytes: bytes, threads: int = 1) -> None:
        self._threads = max(1, threads)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = _ERRORS_ONLY
        onnxruntime.disable_telemetry_events()
        try:
            self._session = onnxruntime.InferenceSession(
                model_bytes, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's exceptions share no public root
            raise BundleError(
                "the model cannot be loaded",
                expected="an ONNX graph that onnxruntime runs",
                got=str(error).splitlines()[0][:200],
                remedy="register the model again; the file was not written by tasador",
            ) from None
        self.n_features = self._check_interface()

    def _check_interface(self) -> int:
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        found = [(end.name, end.type, len(end.shape)) for end in (*inputs, *outputs)]
        width = inputs[0].shape[-1] if inputs and inputs[0].shape else None
        right = [(INPUT, "tensor(double)", 2), (OUTPUT, "tensor(double)", 2)]
        if found != right or not isinstance(width, int):
            raise BundleError(
                "the model has another interface",
                expected="input X [None, q] and output score [None, 1], both double",
                got=", ".join(f"{name} {kind}" for name, kind, _ in found),
            )
        return width

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

    def _run(self, Z: Floats) -> Floats:
        scores: Floats = self._session.run((OUTPUT,), {INPUT: Z})[0]
        return scores[:, 0]

    def _run_chunks(self, Z: Floats) -> Floats:
        if not len(Z):
            return np.empty(0)
        size = min(_CHUNK, max(_MIN_ROWS_PER_THREAD, -(-len(Z) // self._threads)))
        chunks = [Z[start : start + size] for start in range(0, len(Z), size)]
        if self._threads == 1:
            return np.concatenate([self._run(chunk) for chunk in chunks])
        with ThreadPoolExecutor(self._threads) as pool:
            return np.concatenate(list(pool.map(self._run, chunks)))
