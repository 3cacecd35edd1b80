"""`OnnxRegressor`: reads a model back out of what `onnx_export` wrote, and runs it.

Only a graph that is node by node the exporter's is read, without the `onnx` package; every other
one is refused. `Regressor` is what every way of running an exported model has in common.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, ClassVar

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from tasador.core import seeds
from tasador.core.errors import TrainingError
from tasador.core.kernels import Library, native
from tasador.trees.ensemble import (
    HIGHEST_CODE,
    LEAF,
    CategorySets,
    LinearModel,
    TreeEnsemble,
    breadth_first,
)
from tasador.trees.errors import ModelFileError, RowShapeError
from tasador.trees.kernels import LEAST_ROWS, CompactTrees, WideTrees
from tasador.trees.onnx_graph import (
    CLIPPED_LINEAR,
    INPUT,
    LINEAR,
    MEMBER,
    OUTPUT,
    ROUNDED,
    SUM,
    Graph,
    read_graph,
    tree_operators,
)

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
                infinities compare as numbers; in a linear model NaN gives NaN, and infinities
                count as the ends of a column's range, or give inf or NaN where it has none.

        Returns:
            Scores on the model's scale, shape (n,).

        Raises:
            ValidationError: `Z` is not a matrix of q columns.
        """
        Z = np.ascontiguousarray(Z, dtype=np.float64)
        if Z.ndim != 2 or Z.shape[1] != self.n_features:
            raise RowShapeError.of(Z.shape, self.n_features)
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
            raise ModelFileError.not_run(error) from None
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
        raise ModelFileError.features(n_features, trees.n_features)
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


_KNOWN = {
    "nodes_featureids", "nodes_missing_value_tracks_true", "nodes_truenodeids", "nodes_trueleafs",
    "nodes_falsenodeids", "nodes_falseleafs", "tree_roots", "leaf_targetids",
    "nodes_splits", "nodes_modes", "leaf_weights", "aggregate_function", "n_targets",
}  # fmt: skip
#: Columns of a row; a wider model would be given rows of more than the contract's columns make.
_MOST_COLUMNS = 2**20
_Constants = dict[str, NDArray[Any]]


def read_model(model_bytes: bytes) -> TreeEnsemble | LinearModel:
    """Return the trees or the linear model of a model file.

    The trees' covers and their inner nodes' expected values are not in the file; they are 0.0.
    Splits that the export turned around for onnxruntime are turned back.

    Raises:
        BundleError: The file is damaged, holds anything that `onnx_export` does not write, or a
            model that is invalid.
    """
    try:
        graph = read_graph(memoryview(model_bytes))
        if graph.width > _MOST_COLUMNS:
            raise ValueError(f"{graph.width} columns")
        if any(node.op == "TreeEnsemble" for node in graph.nodes):
            trees = _trees(graph)
            breadth_first(trees)  # refuses circles, on which onnxruntime may not return
            return trees
        return _linear(graph)
    except (
        ValueError, KeyError, IndexError, TypeError, TrainingError, OverflowError, MemoryError,
    ) as error:  # fmt: skip
        raise ModelFileError.not_ours(error) from None


def _linear(graph: Graph) -> LinearModel:
    found, q = graph.constants, graph.width
    shapes, clipped = [node.shape for node in graph.nodes], "low" in found
    wanted = CLIPPED_LINEAR if clipped else LINEAR
    if shapes != wanted or any(node.domain for node in graph.nodes):
        raise ValueError(f"operators {[node.op for node in graph.nodes]}"[:120])
    ends = {"low": (q,), "high": (q,)} if clipped else {}
    _check_constants(found, coef=(q,), intercept=(), axis=(), last=(1,), **ends)
    numbers = found["axis"].dtype.kind == found["last"].dtype.kind == "i"
    if not numbers or (int(found["axis"]), int(found["last"][0])) != (1, q - 1):
        raise ValueError("a linear model that sums over something else than its columns")
    if not (np.isfinite(found["coef"]).all() and np.isfinite(found["intercept"])):
        raise ValueError("a linear model with a coefficient that is no number")
    return LinearModel(
        found["coef"], float(found["intercept"]), found.get("low"), found.get("high")
    )


def _check_constants(found: _Constants, **shapes: tuple[int, ...]) -> None:
    if {name: array.shape for name, array in found.items()} != shapes:
        raise ValueError(f"constants {sorted(found)} of other shapes than expected"[:120])
    for name in shapes.keys() - {"axis", "last"}:
        if found[name].dtype != np.float64:
            raise ValueError(f"the constant {name} is no double")


def _trees(graph: Graph) -> TreeEnsemble:
    nodes = graph.nodes
    ensemble = next(node for node in nodes if node.op == "TreeEnsemble")
    rounded = [node.shape for node in nodes[:2]] == ROUNDED
    with_sets = "membership_values" in ensemble.attributes
    turned = ensemble.inputs == ("both",) and not with_sets
    wanted = tree_operators(
        rounded=rounded,
        copy="whole" if with_sets else "negated" if turned else None,
        attributes=ensemble.attributes,
    )
    if [node.shape[:3] for node in nodes] != [shape[:3] for shape in wanted] or any(
        node.domain != ("ai.onnx.ml" if node is ensemble else "")
        or (node is not ensemble and node.attributes != shape[3])
        for node, shape in zip(nodes, wanted, strict=True)
    ):
        raise ValueError(f"operators {[node.op for node in nodes]}"[:120])
    constants = dict(graph.constants)
    if with_sets:
        zero = constants.pop("zero")
        if zero.shape or zero.dtype != np.float64 or zero != 0.0:
            raise ValueError("fractions are dropped in another way than tasador writes it")
    _check_constants(constants, scale=(), base=())
    return _ensemble(ensemble.attributes, constants, graph.width, rounded, turned)


def _ensemble(
    found: dict[str, Any],
    constants: _Constants,
    width: int,
    rounded: bool,
    turned: bool,
) -> TreeEnsemble:
    plain = found.get("aggregate_function") == SUM and found.get("n_targets") == 1
    with_sets = "membership_values" in found
    if not plain or found.keys() - {"membership_values"} != _KNOWN:
        raise ValueError("trees that onnx_export does not write")
    feature, split, modes = (
        found[name] for name in ("nodes_featureids", "nodes_splits", "nodes_modes")
    )
    inner, leaves = len(feature), len(found["leaf_weights"])
    true = _branch(found, "true", inner, leaves)
    false = _branch(found, "false", inner, leaves)
    missing = _flags(found, "nodes_missing_value_tracks_true")
    roots = found["tree_roots"]
    if (
        {inner} != {len(split), len(true), len(false), len(missing), len(modes)}
        or len(found["leaf_targetids"]) != leaves
        or found["leaf_targetids"].any()
        or {split.dtype, found["leaf_weights"].dtype} != {np.dtype(np.float64)}
        or modes.dtype != np.uint8
    ):
        raise ValueError("the trees' arrays do not fit together")
    if len(feature) and int(feature.max()) >= width * (2 if turned or with_sets else 1):
        raise ValueError(f"a split on column {int(feature.max())} of {width}")
    sets = _sets(found, inner + leaves, width) if with_sets else None
    if sets is None and modes.any():
        raise ValueError("trees that compare in another way than onnx_export writes it")
    if sets is not None:
        feature = feature % width
    if not len(roots) or not 0 <= roots.min() <= roots.max() < inner:
        raise ValueError("a root outside the trees")
    if turned:
        swap = feature >= width
        feature = np.where(swap, feature - width, feature)
        split = np.where(swap, np.nextafter(-split, -np.inf), split)
        true, false, missing = (
            np.where(swap, false, true), np.where(swap, true, false), missing ^ swap,
        )  # fmt: skip
    # a tree of one leaf is exported as a node with that leaf on both sides
    stump = (true[roots] == false[roots]) & (true[roots] >= inner)
    scale, base = float(constants["scale"]), float(constants["base"])
    if not np.isfinite((scale, base)).all():
        raise ValueError("trees with a scale or base that is no number")
    none, zeros = np.full(leaves, LEAF), np.zeros(inner + leaves)
    return TreeEnsemble(
        feature=np.concatenate([feature, none]).astype(np.int32),
        threshold=np.concatenate([split, zeros[:leaves]]),
        left=np.concatenate([true, none]).astype(np.int32),
        right=np.concatenate([false, none]).astype(np.int32),
        value=np.concatenate([zeros[:inner], found["leaf_weights"]]),
        missing_left=np.concatenate([missing, zeros[:leaves] > 0]),
        cover=zeros,
        roots=np.where(stump, true[roots], roots).astype(np.int32),
        n_features=width,
        base=base,
        scale=scale,
        float32_inputs=rounded,
        sets=sets,
    )


def _sets(found: dict[str, Any], n_nodes: int, width: int) -> CategorySets | None:
    """Return the sets of the nodes whose mode is membership; NaN ends each of them.

    These, and only these, compare in the second copy of the columns, which has no fractions.
    """
    modes, values = found["nodes_modes"], found["membership_values"]
    member = modes == MEMBER
    if (modes[~member] != 0).any() or not np.array_equal(
        member, found["nodes_featureids"] >= width
    ):
        raise ValueError("nodes of another mode than tasador writes, or in another column")
    if values.dtype != np.float64 or values.ndim != 1 or found["nodes_splits"][member].any():
        raise ValueError("sets that are no list of doubles, or beside a split value")
    ends = np.flatnonzero(np.isnan(values))
    codes = values[~np.isnan(values)]
    if len(ends) != member.sum() or not len(ends) or ends[-1] != len(values) - 1:
        raise ValueError(f"{len(ends)} sets for {member.sum()} nodes")
    if len(codes) and not (0 <= codes.min() <= codes.max() <= HIGHEST_CODE):
        raise ValueError(f"category codes up to {codes.max():g}")
    if (codes != np.floor(codes)).any():
        raise ValueError("category codes that are no whole numbers")
    parts = np.split(codes.astype(np.int32), ends[:-1] - np.arange(len(ends) - 1))
    return CategorySets.of_nodes(n_nodes, zip(np.flatnonzero(member).tolist(), parts, strict=True))


def _branch(found: dict[str, Any], side: str, inner: int, leaves: int) -> NDArray[np.int64]:
    """Return the nodes on one side; leaves are counted on after the inner nodes."""
    child: NDArray[np.int64] = found[f"nodes_{side}nodeids"]
    leaf = _flags(found, f"nodes_{side}leafs")
    if len(child) != len(leaf) or (child >= np.where(leaf, leaves, inner)).any():
        raise ValueError("a branch outside the trees")
    return np.where(leaf, child + inner, child)


def _flags(found: dict[str, Any], name: str) -> NDArray[np.bool_]:
    """Return 0/1 as flags; what another number means, onnxruntime and we might see differently."""
    numbers: NDArray[np.int64] = found[name]
    if (numbers > 1).any():
        raise ValueError(f"{name} holds other numbers than 0 and 1")
    flags: NDArray[np.bool_] = numbers == 1
    return flags
