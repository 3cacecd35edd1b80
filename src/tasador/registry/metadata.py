"""A model's metadata, written once: the run's files, the registry's tags and the card show it.

Everything is read from the bundle's manifest, so that the three cannot differ.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from tasador.core.escape import json_text, visible
from tasador.registry.manifest import Manifest
from tasador.registry.release import CONTRACT_TAG, FEATURES_TAG, identity_tags
from tasador.registry.versions import RELEASE_TAG


def model_metadata(manifest: Manifest) -> dict[str, Any]:
    """Return metrics, parameters, data, split, features, code and environment as plain values.

    What an older bundle did not record is None.
    """
    lineage, metrics = manifest.lineage, manifest.metrics
    config = lineage.get("config") or {}
    split, identity = config.get("segregate") or {}, identity_tags(manifest)
    return {
        "model_name": manifest.name,
        "version": manifest.version,
        RELEASE_TAG: manifest.release or None,
        "trained": manifest.created,
        "origin": manifest.origin,
        "family": lineage.get("family"),
        "params": lineage.get("params"),
        "members": len(lineage.get("members") or [None]),
        "seed": lineage.get("seed"),
        "target": manifest.contract["target"]["name"],
        "target_unit": manifest.contract["target"].get("unit"),
        "target_transform": manifest.contract["target"].get("transform", "none"),
        "dataset": manifest.contract["name"],
        "source": lineage.get("source"),
        "data_hash": lineage.get("data_hash"),
        "rows": lineage.get("rows"),
        "split": {name: split.get(name) for name in ("method", "test_share", "seed")},
        "folds": (config.get("selection") or {}).get("folds"),
        "columns": list(manifest.contract["columns"]),
        "features": list(manifest.features.get("names") or []),
        CONTRACT_TAG: identity[CONTRACT_TAG],
        FEATURES_TAG: identity[FEATURES_TAG],
        "content_hash": manifest.content_hash,
        "code_commit": lineage.get("code_commit"),
        "code_version": lineage.get("code_version"),
        "environment": lineage.get("libraries"),
        "metrics": {
            "cross_validation": metrics.get("random_cv"),
            "spatial_cross_validation": metrics.get("spatial_cv"),
            "test": metrics.get("test"),
            "test_intervals": metrics.get("test_intervals"),
            "interval": metrics.get("interval"),
            "by_segment": {
                str(one["name"]): {key: value for key, value in one.items() if key != "name"}
                for one in metrics.get("segments") or ()
            },
        },
    }


def as_texts(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Return the metadata as texts by dotted name, e.g. ``test.mape``.

    Lists are JSON, figures have six digits, what is None is left out.
    """
    plain = {key: value for key, value in metadata.items() if key != "metrics"}
    return dict(_flat({**plain, **(metadata.get("metrics") or {})}, ""))


def _flat(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}.")
        elif isinstance(value, list):
            yield name, json_text(orjson.dumps(value).decode())
        elif isinstance(value, float) and math.isfinite(value):
            yield name, f"{value:.6g}"
        elif value is not None:
            yield name, visible(str(value))
