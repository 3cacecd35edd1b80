"""Read fitted models of XGBoost and CatBoost into `TreeEnsemble`, from their own JSON forms."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasador.core.errors import TrainingError
from tasador.modeling.importers import TreeGrower
from tasador.modeling.trees import LEAF, TreeEnsemble

Floats = NDArray[np.float64]


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
        raise TrainingError("the model cannot be exported exactly: its booster is not 'gbtree'")
    base = np.ravel(json.loads(learner["learner_model_param"]["base_score"].lower()))
    if len(base) != 1:
        raise TrainingError("the model cannot be exported exactly: it has several outputs")
    grower = TreeGrower()
    for tree in model["trees"]:
        if any(tree["split_type"]):
            raise TrainingError("the model cannot be exported exactly: it has categorical splits")
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
        raise TrainingError(
            "the model cannot be exported exactly: its trees are not symmetric",
            remedy="leave grow_policy at SymmetricTree",
        )
    columns = plain["features_info"]["float_features"]
    position = {f["feature_index"]: f["flat_feature_index"] for f in columns}
    as_true = {f["feature_index"]: f["nan_value_treatment"] == "AsTrue" for f in columns}
    grower = TreeGrower()
    for tree in trees:
        splits = tree["splits"] or []
        if any(split["split_type"] != "FloatFeature" for split in splits):
            raise TrainingError("the model cannot be exported exactly: it has categorical splits")
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
