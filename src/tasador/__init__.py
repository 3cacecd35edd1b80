"""tasador turns a table with a number to estimate into a valuation service that stays right.

The names below are the public door; everything else may change between releases. They are imported
when first used, so that a service that only values rows loads nothing of training.
"""

from __future__ import annotations

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tasador.config.compose import compose
    from tasador.core.errors import TasadorError
    from tasador.data.contract import TableContract
    from tasador.data.contract_reader import read_contract
    from tasador.features.pipeline import FeaturePipeline, FittedFeatures
    from tasador.flows.first_champion import train
    from tasador.flows.load import load_bundle
    from tasador.metrics.regression import all_metrics
    from tasador.modeling.valuation import Valuation
    from tasador.registry.archive import pack, unpack
    from tasador.registry.bundle import ModelBundle
    from tasador.registry.mlflow_registry import download_bundle

__version__ = version("tasador")

_HOME = {
    "FeaturePipeline": "features.pipeline",
    "FittedFeatures": "features.pipeline",
    "ModelBundle": "registry.bundle",
    "TableContract": "data.contract",
    "TasadorError": "core.errors",
    "Valuation": "modeling.valuation",
    "all_metrics": "metrics.regression",
    "compose": "config.compose",
    "download_bundle": "registry.mlflow_registry",
    "load_bundle": "flows.load",
    "pack": "registry.archive",
    "read_contract": "data.contract_reader",
    "train": "flows.first_champion",
    "unpack": "registry.archive",
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
