"""Read fitted models into `TreeEnsemble` and `LinearModel`: LightGBM, scikit-learn, and others.

Training side only. The libraries are not imported: a model is read through its own attributes, so
that this module loads anywhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasador.trees.ensemble import LEAF, CategorySets, LinearModel, TreeEnsemble
from tasador.trees.errors import ExportError

#: LightGBM takes every |x| up to this for zero: ``(double)1e-35f`` of its ``meta.h``.
_ZERO = float(np.float32(1e-35))
#: Objectives of LightGBM whose prediction is the raw sum of the leaves.
_IDENTITY = frozenset(
    {"regression", "regression_l1", "huber", "fair", "quantile", "mape", "custom"}
)
_CATEGORICAL, _DEFAULT_LEFT = 1, 2
_MISSING_NONE, _MISSING_ZERO, _MISSING_NAN = 0, 1, 2


def from_lightgbm(booster: Any, num_iteration: int | None = None) -> TreeEnsemble:
    """Read a LightGBM regression booster from its own text form.

    Args:
        booster: A ``lightgbm.Booster``, or a fitted ``LGBMRegressor``.
        num_iteration: Number of trees to keep; by default the best iteration of early stopping
            when there is one, else all; zero or less keeps all.

    Returns:
        Trees whose prediction equals ``booster.predict(X, num_iteration)`` up to summation order.

    Raises:
        TrainingError: Linear leaves, ``zero_as_missing``, several classes, an objective whose
            prediction is not the sum of the leaves, or category codes above `HIGHEST_CODE`.
    """
    booster = getattr(booster, "booster_", booster)
    if num_iteration is None:
        num_iteration = int(booster.best_iteration)
    text = booster.model_to_string(num_iteration=num_iteration if num_iteration > 0 else -1)
    header, *blocks = text.split("\nend of trees", 1)[0].split("\nTree=")
    fields = _fields(header)
    _check_objective(fields)
    grower = TreeGrower()
    for block in blocks:
        _add_lightgbm_tree(grower, _fields(block))
    if not blocks:
        raise ExportError.of("it has no trees", "train for at least one round")
    averaged = "average_output" in header.splitlines()
    return grower.finish(
        n_features=int(fields["max_feature_idx"]) + 1,
        scale=1.0 / len(blocks) if averaged else 1.0,
    )


def _fields(block: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in block.splitlines() if "=" in line)


def _check_objective(fields: dict[str, str]) -> None:
    if fields.get("num_tree_per_iteration", "1") != "1":
        raise ExportError.of("it predicts several classes", "train a regression objective")
    objective = fields.get("objective", "custom").split()
    if objective[0] not in _IDENTITY or "sqrt" in objective:
        raise ExportError.of(
            f"objective {' '.join(objective)!r} transforms the sum of the leaves",
            f"use one of {', '.join(sorted(_IDENTITY - {'custom'}))} and a target transform",
        )


def _add_lightgbm_tree(grower: TreeGrower, fields: dict[str, str]) -> None:
    if fields.get("is_linear", "0") != "0":
        raise ExportError.of("its leaves are linear models", "train with linear_tree=false")
    leaf_value = _floats(fields["leaf_value"])
    leaf_cover = _floats(fields.get("leaf_count", "0"))
    n_leaves = int(fields["num_leaves"])
    if n_leaves == 1:
        grower.add_stump(float(leaf_value[0]), float(leaf_cover[0]) if len(leaf_cover) else 0.0)
        return
    decision = _ints(fields["decision_type"])
    missing = (decision >> 2) & 3
    if (missing == _MISSING_ZERO).any():
        raise ExportError.of("it treats zero as missing", "train with zero_as_missing=false")
    # of a node with a set, the set's number
    raw = _floats(fields["threshold"])
    with_set = (decision & _CATEGORICAL) != 0
    threshold = np.where(with_set, 0.0, _beyond_zero(raw))
    # where NaN have no direction of their own, LightGBM takes them for 0.0
    missing_left = np.where(missing == _MISSING_NAN, (decision & _DEFAULT_LEFT) != 0, raw >= 0.0)
    grower.add(
        feature=np.concatenate([_ints(fields["split_feature"]), np.full(n_leaves, LEAF)]),
        threshold=np.concatenate([threshold, np.zeros(n_leaves)]),
        left=_node_index(_ints(fields["left_child"]), n_leaves),
        right=_node_index(_ints(fields["right_child"]), n_leaves),
        value=np.concatenate([_floats(fields["internal_value"]), leaf_value]),
        missing_left=np.concatenate(
            [
                missing_left & ~with_set,  # a missing category is in no set
                np.zeros(n_leaves, dtype=bool),
            ]
        ),
        cover=np.concatenate([_floats(fields["internal_count"]), leaf_cover]),
        sets=_lightgbm_sets(fields, raw, with_set),
    )


def _lightgbm_sets(
    fields: dict[str, str], threshold: NDArray[np.float64], with_set: NDArray[np.bool_]
) -> list[tuple[int, NDArray[np.int64]]]:
    """Return the nodes with sets and their codes: bits of 32-bit words, one run of words a set."""
    found = []
    bounds = _ints(fields.get("cat_boundaries", ""))
    words = _ints(fields.get("cat_threshold", "")).astype("<u4")
    for node in np.flatnonzero(with_set).tolist():
        number = int(threshold[node])
        bits = words[bounds[number] : bounds[number + 1]].view(np.uint8)
        found.append((node, np.flatnonzero(np.unpackbits(bits, bitorder="little"))))
    return found


def _node_index(child: NDArray[np.int64], n_leaves: int) -> NDArray[np.int64]:
    """Number leaves after the inner nodes; LightGBM writes leaf i as ``-i - 1``."""
    index = np.where(child >= 0, child, len(child) + ~child)
    return np.concatenate([index, np.full(n_leaves, LEAF)])


def _beyond_zero(threshold: NDArray[np.float64]) -> NDArray[np.float64]:
    """Move thresholds inside LightGBM's zero to its edges: every x in there counts as 0.0."""
    tiny = np.abs(threshold) <= _ZERO
    edge = np.where(threshold < 0.0, np.nextafter(-_ZERO, -np.inf), _ZERO)
    return np.where(tiny, edge, threshold)


def _floats(text: str) -> NDArray[np.float64]:
    return np.array([float(part) for part in text.split()], dtype=np.float64)


def _ints(text: str) -> NDArray[np.int64]:
    return np.array([int(part) for part in text.split()], dtype=np.int64)


def from_sklearn(model: Any) -> TreeEnsemble:
    """Read a fitted scikit-learn tree regressor.

    Args:
        model: DecisionTree-, ExtraTree-, RandomForest-, ExtraTrees-, GradientBoosting- or
            HistGradientBoostingRegressor, one output, numeric features only.

    Returns:
        Trees equal to ``model.predict`` up to summation order. Missing values follow the fitted
        direction; a column without missing values in training sends NaN where scikit-learn's own
        tree does, even where its ``predict`` refuses NaN.

    Raises:
        TrainingError: Another kind of model, several outputs, categorical splits, an `init`
            estimator that is not a constant, or a loss with a link function.
    """
    if hasattr(model, "_predictors"):
        return _from_histogram(model)
    if getattr(model, "n_outputs_", 1) != 1:
        raise ExportError.of("it has several outputs", "fit one model per target")
    if hasattr(model, "init_") and hasattr(model, "learning_rate"):
        trees = [tree.tree_ for tree in model.estimators_.ravel()]
        return _from_forest(trees, model.n_features_in_, _constant(model), model.learning_rate, 1.0)
    if hasattr(model, "tree_"):
        return _from_forest([model.tree_], model.n_features_in_, 0.0, 1.0, 1.0)
    if hasattr(model, "estimators_") and all(hasattr(e, "tree_") for e in model.estimators_):
        trees = [tree.tree_ for tree in model.estimators_]
        return _from_forest(trees, model.n_features_in_, 0.0, 1.0, 1.0 / len(trees))
    raise ExportError.of(
        f"{type(model).__name__} is not a fitted tree regressor that is known here",
        "fit a decision tree, forest or gradient boosting regressor",
    )


def _constant(model: Any) -> float:
    """Return the constant from which a GradientBoostingRegressor starts."""
    init = model.init_
    if isinstance(init, str):  # scikit-learn keeps "zero" as it was given
        return 0.0
    constant = getattr(init, "constant_", None)
    if constant is None:
        raise ExportError.of(f"it starts from a fitted {type(init).__name__}", "leave `init` unset")
    return float(np.ravel(constant)[0])


def _from_forest(
    trees: Sequence[Any], n_features: int, base: float, factor: float, scale: float
) -> TreeEnsemble:
    grower = TreeGrower()
    for tree in trees:
        leaf = tree.children_left < 0
        missing = np.asarray(tree.missing_go_to_left)
        grower.add(
            feature=np.where(leaf, LEAF, tree.feature),
            threshold=np.where(leaf, 0.0, tree.threshold),
            left=np.where(leaf, LEAF, tree.children_left),
            right=np.where(leaf, LEAF, tree.children_right),
            value=factor * tree.value[:, 0, 0],
            missing_left=np.where(leaf, False, missing.astype(bool)),
            cover=tree.weighted_n_node_samples,
        )
    # scikit-learn compares float32 inputs with float64 thresholds
    return grower.finish(n_features=n_features, base=base, scale=scale, float32_inputs=True)


def _from_histogram(model: Any) -> TreeEnsemble:
    link = type(model._loss.link).__name__
    if link != "IdentityLink" or model.n_trees_per_iteration_ != 1:
        raise ExportError.of(f"its loss uses a {link}", "use squared_error or absolute_error")
    if model.is_categorical_ is not None and model.is_categorical_.any():
        raise ExportError.of("it has categorical splits", "fit without categorical_features")
    grower = TreeGrower()
    for (predictor,) in model._predictors:
        nodes = predictor.nodes
        leaf = nodes["is_leaf"].astype(bool)
        grower.add(
            feature=np.where(leaf, LEAF, nodes["feature_idx"]),
            threshold=np.where(leaf, 0.0, nodes["num_threshold"]),
            left=np.where(leaf, LEAF, nodes["left"].astype(np.int64)),
            right=np.where(leaf, LEAF, nodes["right"].astype(np.int64)),
            value=nodes["value"],
            missing_left=np.where(leaf, False, nodes["missing_go_to_left"].astype(bool)),
            cover=nodes["count"].astype(np.float64),
        )
    base = float(np.ravel(model._baseline_prediction)[0])
    return grower.finish(n_features=model.n_features_in_, base=base)


def from_linear(model: Any) -> LinearModel:
    """Read a linear regression, or a pipeline of a StandardScaler and one.

    Args:
        model: Fitted Ridge, Lasso, LinearRegression or another model with `coef_` and
            `intercept_`; in a pipeline, scaling steps before it are folded into the coefficients.
            A first step with `low_` and `high_` (q,) clips the inputs to that range.

    Returns:
        Coefficients on unscaled inputs; equal to ``model.predict`` up to rounding.

    Raises:
        TrainingError: A step that is not a StandardScaler, or several outputs.
    """
    *before, last = [step for _, step in getattr(model, "steps", [("model", model)])]
    if not hasattr(last, "coef_") or not hasattr(last, "intercept_"):
        raise ExportError.of(f"{type(last).__name__} has no coefficients", "fit Ridge or Lasso")
    coef = np.asarray(last.coef_, dtype=np.float64)
    if coef.ndim == 2 and coef.shape[0] != 1:
        raise ExportError.of("it has several outputs", "fit one model per target")
    coef, intercept = coef.ravel(), float(np.ravel(last.intercept_)[0])
    low = high = None
    if before and hasattr(before[0], "low_"):
        low, high = before[0].low_, before[0].high_
        before = before[1:]
    # from the model back: its coefficients are on what the last step before it returns
    for offset, factor in _scalers(reversed(before)):
        if factor is not None:
            coef = coef / factor
        if offset is not None:
            intercept -= float((coef * offset).sum())
    return LinearModel(np.ascontiguousarray(coef), intercept, low, high)


def _scalers(steps: Iterator[Any]) -> Iterator[tuple[Any, Any]]:
    """Yield (mean, scale) of each scaling step; either is None when it was switched off."""
    for step in steps:
        if step is None or step == "passthrough":
            continue
        if not (hasattr(step, "mean_") and hasattr(step, "scale_")):
            raise ExportError.of(
                f"the step {type(step).__name__} cannot be folded into coefficients",
                "scale with StandardScaler; other features belong in the features package",
            )
        yield (step.mean_ if step.with_mean else None, step.scale_)


class TreeGrower:
    """Collects trees whose nodes are numbered from zero into one numbering."""

    def __init__(self) -> None:
        self._parts: dict[str, list[NDArray[Any]]] = {}
        self._roots: list[int] = []
        self._sets: list[tuple[int, NDArray[np.int64]]] = []
        self._size = 0

    def add(
        self, *, sets: Sequence[tuple[int, NDArray[np.int64]]] = (), **arrays: NDArray[Any]
    ) -> None:
        """Add a tree with its root at node 0; `left` and `right` are shifted, leaves stay.

        `sets` are the nodes that split on category codes, and their codes in ascending order.
        """
        self._sets += [(self._size + node, codes) for node, codes in sets]
        for name, array in arrays.items():
            shifted = np.where(array >= 0, array + self._size, LEAF)
            part = shifted if name in ("left", "right") else array
            self._parts.setdefault(name, []).append(part)
        self._roots.append(self._size)
        self._size += len(arrays["feature"])

    def add_stump(self, value: float, cover: float) -> None:
        """Add a tree that is a single leaf."""
        leaf = np.array([LEAF])
        self.add(
            feature=leaf,
            threshold=np.zeros(1),
            left=leaf,
            right=leaf,
            value=np.array([value]),
            missing_left=np.zeros(1, dtype=bool),
            cover=np.array([cover]),
        )

    def finish(self, n_features: int, **settings: Any) -> TreeEnsemble:
        """Return everything added as one ensemble."""
        kinds = {
            "feature": np.int32,
            "left": np.int32,
            "right": np.int32,
            "missing_left": np.bool_,
        }
        arrays: dict[str, Any] = {
            name: np.concatenate(parts).astype(kinds.get(name, np.float64))
            for name, parts in self._parts.items()
        }
        roots = np.array(self._roots, dtype=np.int32)
        return TreeEnsemble(
            **arrays,
            roots=roots,
            n_features=int(n_features),
            sets=CategorySets.of_nodes(self._size, self._sets),
            **settings,
        )


def from_xgboost(booster: Any) -> TreeEnsemble:
    """Read an XGBoost regression booster.

    XGBoost keeps leaves in single precision and adds them in single precision; the ensemble adds
    the same leaves in double precision, which is closer to what they sum to.

    Args:
        booster: An ``xgboost.Booster`` of trees on numbers.

    Raises:
        TrainingError: Categorical splits, several outputs, or trees that are weighted (DART).
    """
    learner = json.loads(bytes(booster.save_raw("json")))["learner"]
    model = learner["gradient_booster"].get("model")
    if model is None or learner["gradient_booster"]["name"] != "gbtree":
        raise ExportError.of("its booster is not 'gbtree'", "train with booster=gbtree")
    base = np.ravel(json.loads(learner["learner_model_param"]["base_score"].lower()))
    if len(base) != 1:
        raise ExportError.of("it has several outputs", "fit one model per target")
    grower = TreeGrower()
    for tree in model["trees"]:
        if any(tree["split_type"]):
            raise ExportError.of("it has categorical splits", "fit on numeric columns only")
        left = np.array(tree["left_children"], dtype=np.int64)
        leaf = left < 0
        condition = np.array(tree["split_conditions"], dtype=np.float32)
        # it goes left when x < condition, in single precision: x <= the number before it
        threshold = np.nextafter(condition, np.float32(-np.inf)).astype(np.float64)
        grower.add(
            feature=np.where(leaf, LEAF, np.array(tree["split_indices"], dtype=np.int64)),
            threshold=np.where(leaf, 0.0, threshold),
            left=np.where(leaf, LEAF, left),
            right=np.where(leaf, LEAF, np.array(tree["right_children"], dtype=np.int64)),
            value=np.where(leaf, condition.astype(np.float64), 0.0),
            missing_left=np.where(leaf, False, np.array(tree["default_left"], dtype=bool)),
            cover=np.array(tree["sum_hessian"], dtype=np.float64),
        )
    return grower.finish(
        n_features=booster.num_features(),
        base=float(np.float32(base[0])),
        float32_inputs=True,
    )


def from_catboost(text: str, n_features: int) -> TreeEnsemble:
    """Read a CatBoost regression model of symmetric trees from its JSON form.

    Args:
        text: What ``save_model(..., format="json")`` wrote.
        n_features: q, the number of columns it was fitted on.

    Raises:
        TrainingError: Trees that are not symmetric, or splits on anything but numbers.
    """
    plain = json.loads(text)
    trees = plain.get("oblivious_trees")
    if trees is None:
        raise ExportError.of("its trees are not symmetric", "leave grow_policy at SymmetricTree")
    columns = plain["features_info"]["float_features"]
    position = {f["feature_index"]: f["flat_feature_index"] for f in columns}
    as_true = {f["feature_index"]: f["nan_value_treatment"] == "AsTrue" for f in columns}
    grower = TreeGrower()
    for tree in trees:
        splits = tree["splits"] or []
        if any(split["split_type"] != "FloatFeature" for split in splits):
            raise ExportError.of("it has categorical splits", "fit on numeric columns only")
        _add_symmetric(grower, tree, splits, position, as_true)
    scale, bias = plain["scale_and_bias"]
    return grower.finish(
        n_features=n_features,
        base=float(np.ravel(bias)[0]),
        scale=float(scale),
        float32_inputs=True,
    )


def _add_symmetric(
    grower: TreeGrower,
    tree: dict[str, Any],
    splits: list[dict[str, Any]],
    position: dict[int, int],
    as_true: dict[int, bool],
) -> None:
    """Unfold a symmetric tree: all nodes of a level ask the same, split i sets bit i of the leaf.

    Node k of a level has the children 2k + 1 and 2k + 2 of the usual heap order; the top level asks
    the last split, so that the leaves come out in CatBoost's order.
    """
    depth = len(splits)
    inner, leaves = 2**depth - 1, 2**depth
    level = np.floor(np.log2(np.arange(1, inner + 1))).astype(np.intp)
    asked = [splits[depth - 1 - i] for i in level.tolist()]
    index = np.arange(inner)
    value = np.array(tree["leaf_values"], dtype=np.float64)
    cover = np.array(tree["leaf_weights"], dtype=np.float64)
    covers = [cover]
    while len(covers[0]) > 1:
        covers.insert(0, covers[0].reshape(-1, 2).sum(axis=1))
    none = np.full(leaves, LEAF)
    grower.add(
        feature=np.concatenate([[position[s["float_feature_index"]] for s in asked], none]).astype(
            np.int64
        ),
        threshold=np.concatenate(
            [np.array([s["border"] for s in asked], dtype=np.float64), np.zeros(leaves)]
        ),
        left=np.concatenate([2 * index + 1, none]),
        right=np.concatenate([2 * index + 2, none]),
        value=np.concatenate([np.zeros(inner), value]),
        missing_left=np.concatenate(
            [
                np.array([not as_true[s["float_feature_index"]] for s in asked], dtype=bool),
                np.zeros(leaves, dtype=bool),
            ]
        ),
        cover=np.concatenate(covers),
    )
