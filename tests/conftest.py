"""What tests of several rooms share: a small table of houses, and a bundle made from it."""

from __future__ import annotations

import dataclasses
import functools
import gc
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from hypothesis import settings

from fixtures.command_line import logging_as_before
from fixtures.process import made_once
from tasador.contract.model import Column, Ratio, TableContract, Target
from tasador.features.pipeline import FeaturePipeline
from tasador.modeling.confidence import JointRange
from tasador.modeling.conformal import calibrate
from tasador.modeling.expected_errors import fit_confidence
from tasador.modeling.parity import check_parity
from tasador.modeling.target_transform import TargetTransform
from tasador.registry.writer import BundleParts, write_bundle
from tasador.trees.importers import from_sklearn
from tasador.trees.onnx_export import to_onnx
from tasador.trees.onnx_model import OnnxRegressor
from tasador.trees.tree_shap import TreeContributions

# Where the environment forbids to keep what was compiled, each process that a test starts compiles
# the sources again, half a second each, and each worker rewrites the assertions of all tests.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


def pytest_collection_finish() -> None:
    """Let the garbage collector pass over what was imported and collected: it stays to the end."""
    gc.freeze()


# no deadline: machines of continuous integration stall now and then
settings.register_profile(
    "tasador", deadline=None, derandomize=True, print_blob=True, max_examples=60
)
settings.load_profile("tasador")

pytest_plugins = [
    "fixtures.object_stores",
    "fixtures.postgresql",
    "fixtures.quick_pictures",
    "fixtures.ray_cluster",
    "fixtures.service",
]


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """Commands that run in this process configure its logging; the next test starts afresh."""
    with logging_as_before():
        yield


@pytest.fixture(scope="session", autouse=True)
def _one_ssl_context() -> Iterator[None]:
    """Let httpx read the machine's certificates once: 30 ms a client, and tests poll."""
    with pytest.MonkeyPatch.context() as patch:
        place = "httpx._transports.default.create_ssl_context"
        patch.setattr(place, functools.cache(httpx.create_ssl_context))
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Measure no coverage under hypothesis: its hundreds of rounds go where other tests go too."""
    for item in items:
        if getattr(getattr(item, "obj", None), "is_hypothesis_test", False):
            item.add_marker("no_cover")


@pytest.fixture(scope="session")
def house_contract() -> TableContract:
    """A table of six columns with every role and one nullable number."""
    return TableContract(
        name="houses",
        title="Houses",
        model_name="houses_model",
        columns=(
            Column("lon", "number", role="longitude", bounds=(-180.0, 180.0)),
            Column("lat", "number", role="latitude", bounds=(-90.0, 90.0)),
            Column("income", "number", bounds=(0.0, 100.0)),
            Column("rooms", "integer", bounds=(1.0, 50.0), nullable=True),
            Column("area", "number", bounds=(1.0, 1e4)),
            Column("kind", "category", role="segment", categories=("flat", "house", "villa")),
        ),
        target=Target("price", unit="USD", bounds=(1.0, 1e8), transform="log"),
        ratios=(Ratio("area_per_room", "area", "rooms"),),
    )


@pytest.fixture(scope="session")
def house_rows() -> tuple[np.ndarray, np.ndarray]:
    """600 encoded rows and their prices."""
    rng = np.random.default_rng(5)
    n = 600
    X = np.column_stack(
        [
            rng.uniform(-4.0, -3.0, n),
            rng.uniform(40.0, 41.0, n),
            rng.lognormal(1.0, 0.4, n),
            rng.integers(1, 9, n).astype(float),
            rng.uniform(30.0, 300.0, n),
            rng.integers(0, 3, n).astype(float),
        ]
    )
    X[rng.random(n) < 0.05, 3] = np.nan
    price = 1000.0 * X[:, 4] * X[:, 2] * np.exp(0.3 * X[:, 5] + 0.1 * rng.normal(size=n))
    return X, price


@pytest.fixture(scope="session")
def bundle_parts(house_contract, house_rows) -> BundleParts:
    """Everything of a bundle: real features, a real boosted model, checked for parity."""
    from sklearn.ensemble import GradientBoostingRegressor

    X, price = house_rows
    target = TargetTransform("log")
    y = target.forward(price)
    features, Z = FeaturePipeline(house_contract).fit_transform(X, y)
    model = GradientBoostingRegressor(n_estimators=30, random_state=0).fit(Z, y)
    trees = from_sklearn(model)
    exported = to_onnx(trees)
    return BundleParts(
        name="houses_model",
        origin="synthetic",
        contract=house_contract,
        features=features,
        model=exported,
        model_kind="gradient_boosting",
        contributions=TreeContributions(trees),
        target=target,
        interval=calibrate(y - model.predict(Z), Z, 0.9, scale_index=2),
        parity=check_parity(model.predict, OnnxRegressor(exported), Z, rows=2000),
        golden=X[:40],
        metrics={"test": {"mape": 12.5}},
        lineage={"data": "0" * 64, "seeds": {"split": 42}, "versions": {"numpy": np.__version__}},
        profile={"columns": {"income": {"mean": 3.0}}},
        card="# Houses\n",
    )


@pytest.fixture(scope="session")
def written_bundle(bundle_parts, tmp_path_factory) -> Path:
    """A bundle on disk; do not change it, see `bundle_folder`."""
    folder = tmp_path_factory.mktemp("bundles") / "houses"
    write_bundle(folder, bundle_parts)
    return folder


@pytest.fixture(scope="session")
def confident_bundle(bundle_parts, house_rows, tmp_path_factory):
    """The bundle of houses with an error model: errors are larger with more income."""
    X, _price = house_rows
    Z = bundle_parts.features.transform(X)
    score = OnnxRegressor(bundle_parts.model).predict(Z)
    noise = np.random.default_rng(2).normal(size=len(X))
    made = fit_confidence(
        Z,
        score,
        score + noise * (0.03 + 0.05 * X[:, 2]),
        X[:, 5],
        JointRange.of(X, np.arange(5)),
        log=True,
        coverage=0.9,
        cuts=(85.0, 70.0),
        seed=0,
    )
    folder = tmp_path_factory.mktemp("confident") / "houses"
    return write_bundle(folder, dataclasses.replace(bundle_parts, confidence=made))


@pytest.fixture
def bundle_folder(written_bundle, tmp_path) -> Path:
    """A copy of the bundle that a test may damage."""
    return Path(shutil.copytree(written_bundle, tmp_path / "bundle"))


@pytest.fixture
def changed_parts(bundle_parts):
    """Return the bundle's parts with some replaced."""
    return lambda **changes: dataclasses.replace(bundle_parts, **changes)


@pytest.fixture(scope="session")
def template_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make one empty registry; copying its file spares every test the migrations."""
    from tasador.core.errors import RegistryError
    from tasador.registry.mlflow.registry import resolve_alias

    def make(folder: Path) -> None:
        with pytest.raises(RegistryError, match="no model 'none'"):
            resolve_alias("none", "none", tracking_uri=f"sqlite:///{folder}/mlflow.db")

    return made_once(tmp_path_factory, "template", make) / "mlflow.db"
