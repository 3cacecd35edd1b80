"""`OnnxRegressor`: runs an exported model with onnxruntime."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import ClassVar

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from tasador.core import seeds
from tasador.core.errors import BundleError, TrainingError
from tasador.core.kernels import Library, native
from tasador.trees.batch_kernel import LEAST_ROWS, WideTrees
from tasador.trees.ensemble import LinearModel, TreeEnsemble
from tasador.trees.onnx_graph import INPUT, OUTPUT
from tasador.trees.onnx_trees import read_model
from tasador.trees.regressor import Regressor
from tasador.trees.row_kernel import CompactTrees

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


#: Rows on which the kernel has to give onnxruntime's bits before it is used.
_PROOF_ROWS = 512

_logger = logging.getLogger(__name__)


class KernelRegressor(Regressor):
    """Trees, run by the compiled kernels.

    Args:
        trees: The ensemble.
        library: The compiled kernels.
        threads: How many threads share a batch.

    Raises:
        TrainingError: The trees do not fit the kernel.

    Attributes:
        wide: Values many rows at once; None where the trees or the processor are not made for it.
    """

    engine: ClassVar[str] = "kernel"

    def __init__(self, trees: TreeEnsemble, library: Library, threads: int = 1) -> None:
        super().__init__(trees.n_features, threads)
        self._compact = CompactTrees(trees, library)
        self.wide: WideTrees | None = None
        with suppress(TrainingError):
            self.wide = WideTrees(trees, library)

    def _run(self, Z: Floats) -> Floats:
        if self.wide is not None and len(Z) >= LEAST_ROWS:
            return self.wide.predict(Z)
        return self._compact.predict(Z)


def load_model(model_bytes: bytes, threads: int = 1, n_features: int | None = None) -> Regressor:
    """Load an exported model.

    The trees are read from the file itself and checked before onnxruntime sees it. Where the
    kernels are compiled, they value the rows once they have given onnxruntime's bits on rows that
    hit every column's split values, their neighbours, gaps and infinities.

    Args:
        model_bytes: The serialised graph, as `onnx_export.to_onnx` writes it.
        threads: How many threads share a batch.
        n_features: How many features the model must take, where that is known.

    Returns:
        The model; its `engine` says what runs it.

    Raises:
        BundleError: The bytes are no model that tasador wrote.
    """
    trees = read_model(model_bytes)
    if n_features not in (None, trees.n_features):
        raise BundleError(
            "the bundle's parts do not fit together",
            expected=f"{n_features} features",
            got=f"{trees.n_features} taken by the model",
        )
    onnx = OnnxRegressor(model_bytes, threads, trees)
    library = native().library
    if not isinstance(trees, TreeEnsemble) or library is None:
        return onnx
    try:
        kernel = KernelRegressor(trees, library, threads)
    except TrainingError as error:
        _logger.warning("onnxruntime values the rows, not the compiled kernel: %s", error)
        return onnx
    rows = proof_rows(trees)
    want, wide = onnx.predict(rows), kernel.wide
    if wide is not None and not np.array_equal(wide.predict(rows), want, equal_nan=True):
        _report_difference("batches are valued row by row, not by the wide kernel")
        wide = None
    kernel.wide = None
    if not np.array_equal(kernel.predict(rows), want, equal_nan=True):
        _report_difference("onnxruntime values the rows, not the compiled kernel")
        return onnx
    kernel.wide = wide
    return kernel


def _report_difference(what: str) -> None:
    _logger.warning(
        "%s: their answers differ on this machine; please report the processor and onnxruntime's"
        " version",
        what,
    )


def proof_rows(trees: TreeEnsemble, n: int = _PROOF_ROWS) -> Floats:
    """Return rows (n, q) of split values, what lies next to them, zeros, NaN and infinities."""
    rng = seeds.generator(n, "proof")
    Z = rng.normal(size=(n, trees.n_features))
    for column, known in trees.thresholds().items():
        values = rng.choice(known, n)
        with np.errstate(over="ignore"):
            single = values.astype(np.float32)
            beside = np.nextafter(single, np.float32(np.inf))
        choices = (
            values, values, np.nextafter(values, np.inf), np.nextafter(values, -np.inf),
            single.astype(np.float64), beside.astype(np.float64), np.zeros(n), np.full(n, np.nan),
        )  # fmt: skip
        Z[:, column] = np.choose(rng.integers(0, len(choices), n), choices)
    Z[0], Z[1], Z[2] = np.inf, -np.inf, np.nan
    return Z
