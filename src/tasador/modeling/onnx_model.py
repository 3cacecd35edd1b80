"""`OnnxRegressor`: runs an exported model with onnxruntime."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from tasador.core.errors import BundleError
from tasador.modeling.onnx_check import check_graph
from tasador.modeling.regressor import Regressor

Floats = NDArray[np.float64]

INPUT, OUTPUT = "X", "score"
_ERRORS_ONLY = 3


class OnnxRegressor(Regressor):
    """A regression model in ONNX form, run by onnxruntime.

    onnxruntime itself is kept to one thread: with threads of its own it adds the trees of a single
    row in another order than those of many.

    Args:
        model_bytes: The serialised graph, as `onnx_export.to_onnx` writes it.
        threads: How many threads share a batch; a single row is always valued in the caller's.

    Raises:
        BundleError: The bytes are no graph that `onnx_export.to_onnx` writes, which is checked
            before onnxruntime sees them.
    """

    engine: ClassVar[str] = "onnxruntime"

    def __init__(self, model_bytes: bytes, threads: int = 1) -> None:
        check_graph(model_bytes)
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
        super().__init__(self._check_interface(), threads)

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

    def _run(self, Z: Floats) -> Floats:
        scores: Floats = self._session.run((OUTPUT,), {INPUT: Z})[0]
        return scores[:, 0]
