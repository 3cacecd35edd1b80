"""`OnnxRegressor`: runs an exported model with onnxruntime."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from tasador.core.errors import BundleError
from tasador.modeling.onnx_graph import INPUT, OUTPUT
from tasador.modeling.onnx_trees import read_model
from tasador.modeling.regressor import Regressor
from tasador.modeling.trees import LinearModel, TreeEnsemble

Floats = NDArray[np.float64]

_ERRORS_ONLY = 3


class OnnxRegressor(Regressor):
    """A regression model in ONNX form, run by onnxruntime.

    onnxruntime itself is kept to one thread: with threads of its own it adds the trees of a single
    row in another order than those of many.

    onnxruntime runs whatever it is given, also loops, and graphs that read files. It therefore gets
    bytes only, never a path, and only once `read_model` found in them what the exporter writes.

    Args:
        model_bytes: The serialised graph, as `onnx_export.to_onnx` writes it.
        threads: How many threads share a batch; a single row is always valued in the caller's.
        model: What `read_model` returned for the same bytes, where that was asked already.

    Raises:
        BundleError: The bytes are no graph that `to_onnx` writes.
    """

    engine: ClassVar[str] = "onnxruntime"

    def __init__(
        self,
        model_bytes: bytes,
        threads: int = 1,
        model: TreeEnsemble | LinearModel | None = None,
    ) -> None:
        model = read_model(model_bytes) if model is None else model
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
        super().__init__(model.n_features, threads)

    def _run(self, Z: Floats) -> Floats:
        scores: Floats = self._session.run((OUTPUT,), {INPUT: Z})[0]
        return scores[:, 0]
