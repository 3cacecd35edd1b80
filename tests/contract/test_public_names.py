"""The public door: a name that appears or leaves does so on purpose."""

from __future__ import annotations

import subprocess
import sys

import pytest

import tasador

NAMES = [
    "FeaturePipeline",
    "FittedFeatures",
    "ModelBundle",
    "TableContract",
    "TasadorError",
    "Valuation",
    "__version__",
    "all_metrics",
    "compose",
    "download_bundle",
    "load_bundle",
    "pack",
    "read_contract",
    "train",
    "unpack",
]


def test_the_public_names_are_these_and_each_can_be_had() -> None:
    assert tasador.__all__ == NAMES
    assert dir(tasador) == sorted(NAMES)
    for name in NAMES:
        assert getattr(tasador, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = tasador.nothing  # type: ignore[attr-defined]


def test_loading_a_bundle_imports_nothing_of_training() -> None:
    code = (
        "import sys, tasador; tasador.load_bundle, tasador.unpack, tasador.read_contract;"
        "print([m for m in ('pandas', 'polars', 'sklearn', 'mlflow', 'lightgbm', 'optuna', 'hydra',"
        " 'matplotlib', 'onnx') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
