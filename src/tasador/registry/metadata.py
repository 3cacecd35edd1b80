"""A model's metadata, written once: the run's files, the registry's tags and the card show it.

Everything is read from the bundle's manifest, so that the three cannot differ.

Releases: the version of a model that people say, ``1.2.0``, beside its number and its hash.

A release is given once, when a model is registered, by what changed since the version before it:

- *major*: what a caller must send or gets back (`TableContract.schema_fingerprint`);
- *minor*: the rows, or the features made of them;
- *patch*: neither; the model was trained again with other settings, code or libraries.

The first version of a model is 1.0.0. The same content keeps its release wherever it is registered
again, unless another content has it there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson

from tasador.contract.reader import from_dict
from tasador.core.escape import json_text, visible
from tasador.core.hashing import fingerprint
from tasador.core.storage import write_bytes
from tasador.registry.manifest import MANIFEST_NAME, Manifest
from tasador.registry.versions import RELEASE_TAG, ModelVersion

FIRST = "1.0.0"
CONTRACT_TAG, FEATURES_TAG, DATA_TAG = "contract_hash", "features_hash", "data_hash"


def identity_tags(manifest: Manifest) -> dict[str, str]:
    """Return the hashes by which a later version is compared with this one."""
    settings = manifest.lineage.get("config") or {}
    made = [manifest.features.get("names"), settings.get("features"), settings.get("impute")]
    return {
        CONTRACT_TAG: from_dict(dict(manifest.contract)).schema_fingerprint,
        FEATURES_TAG: fingerprint(made),
        DATA_TAG: str(manifest.lineage.get("data_hash") or ""),
    }


def next_release(manifest: Manifest, earlier: Sequence[ModelVersion]) -> str:
    """Return the release under which a bundle is registered.

    Args:
        manifest: The bundle's.
        earlier: The versions of this model that are registered, the newest first.
    """
    for version in earlier:
        if version.release and version.tags.get("content_hash") == manifest.content_hash:
            return version.release
    taken = {version.release for version in earlier}
    # registered elsewhere before: it keeps the name that people know, unless that is taken here
    if manifest.release and manifest.release not in taken:
        return manifest.release
    if not earlier:
        return FIRST
    major, minor, patch = max(_numbers(version) for version in earlier)
    before, now = earlier[0].tags, identity_tags(manifest)
    # versions registered before there were releases have no such tags and count as equal
    changed = {tag for tag, value in now.items() if before.get(tag, value) != value}
    if CONTRACT_TAG in changed:
        return f"{major + 1}.0.0"
    if changed:
        return f"{major}.{minor + 1}.0"
    return f"{major}.{minor}.{patch + 1}"


def stamp_release(folder: Path, release: str) -> Manifest:
    """Write the release into a bundle's manifest; its content, and so its hash, stays the same.

    Raises:
        BundleError: The manifest is damaged.
        StorageError: The disk refuses.
    """
    path = folder / MANIFEST_NAME
    manifest = Manifest.from_json(path.read_bytes())
    if manifest.release == release:
        return manifest
    stamped = replace(manifest, release=release)
    # beside the folder: whoever reads the bundle now must not find a file that is not listed
    draft = folder.with_name(f".{folder.name}.{MANIFEST_NAME}")
    write_bytes(draft, stamped.to_json())
    draft.replace(path)
    return stamped


def _numbers(version: ModelVersion) -> tuple[int, int, int]:
    """Return a version's release as numbers; an older one without counts by its number."""
    if not version.release:
        return 1, int(version.number) - 1, 0
    major, minor, patch = (int(part) for part in version.release.split("."))
    return major, minor, patch


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
            "cross_validation_forward_in_time": metrics.get("time_cv"),
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
