"""tasador trains, explains, serves and monitors a model that estimates prices from a table.

The names below are the public door; everything else may change between releases. They are imported
when first used, so that a service that only values rows loads nothing of training.
"""

from __future__ import annotations

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tasador.contract.model import TableContract
    from tasador.contract.reader import read_contract
    from tasador.core.errors import TasadorError
    from tasador.features.pipeline import FeaturePipeline, FittedFeatures
    from tasador.inference.model_choice import load_bundle
    from tasador.lifecycle.first_champion import train
    from tasador.metrics.regression import all_metrics
    from tasador.modeling.prediction import Valuation
    from tasador.registry.bundle_stores import pack, unpack
    from tasador.registry.mlflow.registry import download_bundle
    from tasador.registry.model_bundle import ModelBundle
    from tasador.settings.compose import compose

__version__ = version("tasador")

_HOME = {
    "FeaturePipeline": "features.pipeline",
    "FittedFeatures": "features.pipeline",
    "ModelBundle": "registry.model_bundle",
    "TableContract": "contract.model",
    "TasadorError": "core.errors",
    "Valuation": "modeling.prediction",
    "all_metrics": "metrics.regression",
    "compose": "settings.compose",
    "download_bundle": "registry.mlflow.registry",
    "load_bundle": "inference.model_choice",
    "pack": "registry.bundle_stores",
    "read_contract": "contract.reader",
    "train": "lifecycle.first_champion",
    "unpack": "registry.bundle_stores",
}

__all__ = [
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


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'tasador' has no attribute {name!r}")
    return getattr(importlib.import_module(f"tasador.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
