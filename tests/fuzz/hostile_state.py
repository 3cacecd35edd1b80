"""Feed fitted state that nobody fitted to everything that ends in a compiled kernel.

Run by `test_hostile_state.py` in a process of its own, with kernels built for the address and
undefined-behaviour sanitizers: whatever leaves an array ends the process. Answers and refusals are
both fine, and counted.

    hostile_state.py KERNELS SECONDS [SEED]
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1]))
from fixtures.forgery import forge, forged_arrays
from fixtures.random_trees import grown
from tasador.contract.model import Column, Ratio, TableContract, Target
from tasador.core import kernels
from tasador.core.errors import TasadorError
from tasador.features import fitted
from tasador.features.fitted import FittedFeatures
from tasador.features.pipeline import FeaturePipeline, FeatureSettings
from tasador.trees.ensemble import CategorySets, LinearModel, TreeEnsemble
from tasador.trees.kernels import CompactTrees, WideTrees
from tasador.trees.onnx_export import to_onnx
from tasador.trees.onnx_model import proof_rows, read_model
from tasador.trees.tree_shap import (
    LinearContributions,
    TreeContributions,
    _Kernel,
    _Paths,
    contributions_from_state,
)

CONTRACT = TableContract(
    "houses", "Houses", "houses",
    (
        Column("lon", "number", role="longitude"), Column("lat", "number", role="latitude"),
        Column("rooms", "integer", nullable=True), Column("sold", "datetime"),
        Column("area", "number", nullable=True),
        Column("kind", "category", role="segment", categories=("flat", "house", "villa")),
    ),
    Target("price"), ratios=(Ratio("r", "area", "rooms"),),
)  # fmt: skip
counts: Counter[str] = Counter()


def rows(n: int, number: int) -> np.ndarray:
    rng = np.random.default_rng(number)
    X = np.round(np.abs(rng.normal(size=(n, 6))) + 1.0, 1)
    X[:, 5] = rng.integers(-1, 4, n)
    for column in (2, 4):
        X[rng.random(n) < 0.2, column] = np.nan
    return X


def bases() -> list[tuple[dict[str, Any], dict[str, np.ndarray]]]:
    """States of every kind of part, as fitting gives them."""
    X, found = rows(120, 0), []
    for strategy, clusters, comparables in (
        ("median", 3, True), ("iterative_linear", 0, True), ("knn", 4, False),
        ("boosting", 2, True), ("native", 0, False),
    ):  # fmt: skip
        pipeline = FeaturePipeline(
            CONTRACT,
            FeatureSettings(clusters=clusters, comparables=comparables),
            imputation={"rooms": strategy, "area": strategy},
        )
        spec, arrays = pipeline.fit(X, X[:, 0] + X[:, 4 - 1] * 1e-3).state()
        found.append((json.loads(json.dumps(spec)), arrays))
    return found


def tried(what: str, work: Callable[[], Any]) -> None:
    """Count whether it answers or refuses; anything else ends the process."""
    try:
        with np.errstate(all="ignore"):
            work()
    except Exception:  # `load_bundle` turns every one of them into a refusal
        counts[f"{what}: refused"] += 1
    else:
        counts[f"{what}: answered"] += 1


def use(features: FittedFeatures) -> None:
    """Do with features what a service does."""
    X = rows(40, 3)
    X[0], X[1] = 1e300, np.nan
    for part in (X[:1], X, X[:7]):
        features.far(features.transform(part))
        features.nearest(part[:1], 5)


def check_state(data: st.DataObject) -> None:
    """State from outside, checked as loading does it; then the same behind the checks."""
    spec, arrays = data.draw(st.sampled_from(STATES))
    if data.draw(st.booleans()):
        arrays = forged_arrays(data, arrays)
    if data.draw(st.integers(0, 2)) == 0:
        spec = forge(data, spec)
    tried("state", lambda: use(FittedFeatures.from_state(CONTRACT, spec, arrays)))
    checks, fitted.check_state = fitted.check_state, lambda *_: None
    try:
        tried("unchecked state", lambda: use(FittedFeatures.from_state(CONTRACT, spec, arrays)))
    finally:
        fitted.check_state = checks


def check_trees(data: st.DataObject) -> None:
    """Trees from outside: explained, walked one by one and 128 at a time."""
    trees = data.draw(st.sampled_from(TREES))
    arrays = forged_arrays(data, TreeContributions(trees).state())
    Z = proof_rows(trees, 40)

    def explain(found: Any) -> None:
        for z in Z[:5]:
            found.of(z)

    tried("explanation", lambda: explain(contributions_from_state(arrays, trees.n_features)))
    linear = LinearContributions(LinearModel(np.ones(4), 0.5), np.zeros(4), 0.5).state()
    other = forged_arrays(data, linear)
    tried("explanation", lambda: contributions_from_state(other, 4).of(np.ones(4)))

    def raw() -> TreeEnsemble:
        nodes = {name: array for name, array in arrays.items() if name != "numbers"}
        parts = [nodes.pop(name, None) for name in ("set_of_node", "set_start", "set_codes")]
        sets = None if parts[0] is None else CategorySets(*parts)
        return TreeEnsemble(**nodes, n_features=trees.n_features, sets=sets)

    library = kernels.native().library
    assert library is not None
    tried("walk", lambda: CompactTrees(raw(), library).predict(Z))
    tried("wide", lambda: WideTrees(raw(), library).predict(Z))


def check_structures(data: st.DataObject) -> None:
    """What the kernels' own structures point to, changed behind everybody's back."""
    library = kernels.native().library
    assert library is not None
    trees = data.draw(st.sampled_from(TREES))
    number = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    Z = proof_rows(trees, 40)

    def change(array: np.ndarray) -> None:
        flat = array.reshape(-1).view(np.uint32 if array.itemsize % 4 == 0 else np.uint8)
        for at in number.integers(0, len(flat), number.integers(1, 4)) if len(flat) else ():
            flat[at] = number.choice(
                [0, 1, 15, 16, 31, 32, 1 << 16, 1 << 31, int(number.integers(1 << 32))]
            )

    compact = CompactTrees(trees, library)
    words, thresholds = compact._arrays[0], compact._arrays[3]
    change(data.draw(st.sampled_from([compact._arrays[i] for i in (0, 2, 4, 5, 6)])))
    if library.check_trees(compact._pointer, len(words), len(thresholds)) == 0:
        tried("changed walk", lambda: compact.predict(Z))
    else:
        counts["changed walk: refused"] += 1
    with contextlib.suppress(TasadorError):  # too large for it, or not this processor's
        wide = WideTrees(trees, library)
        parts = wide._arrays
        sizes = len(parts["nodes"]), len(parts["counts"]), parts["leaves"].size
        change(
            parts[data.draw(st.sampled_from(["nodes", "counts", "columns", "segments", "sets"]))]
        )
        if library.check_wide_trees(wide._pointer, *sizes, len(parts["thresholds"])) == 0:
            tried("changed wide", lambda: wide.predict(Z))
        else:
            counts["changed wide: refused"] += 1
    features = data.draw(st.sampled_from(FEATURES))
    plain = features._compact
    if plain is not None:
        arrays, before = plain._arrays, {k: v.copy() for k, v in plain._arrays.items()}
        change(arrays[data.draw(st.sampled_from(sorted(arrays)))])
        X = rows(9, 5)
        tried("changed plain", lambda: plain.transform(X, features.imputer.fill(X)))
        for name, array in before.items():
            arrays[name][...] = array
    index = None if features.index is None else features.index._compact
    if index is not None:
        arrays, before = index._arrays, {k: v.copy() for k, v in index._arrays.items()}
        change(arrays[data.draw(st.sampled_from(["cells", "indices"]))])
        if library.check_index(index._pointer) == 0:
            points = number.normal(size=(20, arrays["low"].size))
            tried("changed index", lambda: index.neighbours(points))
        else:
            counts["changed index: refused"] += 1
        for name, array in before.items():
            arrays[name][...] = array
    paths = _Paths.of_trees(trees)
    if paths.groups:
        group = paths.groups[0]
        change(group.feature)
        tried(
            "changed paths",
            lambda: _Kernel(paths.groups, library.contributions, library.check_paths).add_to(
                np.zeros(trees.n_features), np.zeros(trees.n_features)
            ),
        )


def check_file(data: st.DataObject) -> None:
    """A model file with bytes of another file, or cut."""
    content = bytearray(data.draw(st.sampled_from(FILES)))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] = data.draw(st.integers(0, 255))
    if data.draw(st.integers(0, 9)) == 0:
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    library = kernels.native().library
    assert library is not None

    def run() -> None:
        model = read_model(bytes(content))
        if isinstance(model, TreeEnsemble):
            Z = proof_rows(model, 30) if model.n_features < 100 else np.zeros((3, model.n_features))
            CompactTrees(model, library).predict(Z)
            WideTrees(model, library).predict(Z)

    tried("model file", run)


CHECKS = (check_state, check_trees, check_structures, check_file)


def run(check: Callable[[st.DataObject], None], number: int) -> None:
    """Give a check 25 examples, the same ones for the same number."""

    @seed(number)
    @settings(
        max_examples=25, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.data())
    def examples(data: st.DataObject) -> None:
        check(data)
        counts["examples"] += 1

    examples()


if __name__ == "__main__":
    kernels.PATH = Path(sys.argv[1])
    seconds, start = float(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 0
    warnings.simplefilter("ignore")
    assert kernels.native().library is not None, kernels.native().reason
    STATES = bases()
    FEATURES = [FittedFeatures.from_state(CONTRACT, *state) for state in STATES]
    TREES = [grown(i, 1 + 2 * i, 1 + 3 * i, 4, bool(i % 2)) for i in range(7)]
    TREES += [grown(i, 1 + 2 * i, 1 + 3 * i, 4, False, 20 * i) for i in range(1, 4)]
    FILES = [to_onnx(trees) for trees in (*TREES[:4], *TREES[7:])] + [
        to_onnx(LinearModel(np.ones(4), 0.5)),
        to_onnx(LinearModel(np.ones(4), 0.5, np.zeros(4), np.ones(4))),
    ]
    ends, number = time.monotonic() + seconds, start
    while time.monotonic() < ends:
        for check in CHECKS:
            run(check, number)
        number += 1
    print(json.dumps({"rounds": number - start, **dict(sorted(counts.items()))}))
