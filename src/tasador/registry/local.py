"""Bundles as folders on a disk: which of several is the one to use."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tasador.core.errors import NothingOfferedError, StorageError
from tasador.core.storage import read_bytes
from tasador.registry.manifest import MANIFEST_NAME

#: In the name of a folder that a later run moved aside.
MOVED_ASIDE = ".damaged-"


def newest_bundle(
    folder: Path, name: str | None = None, *, content_hash: str | None = None
) -> Path:
    """Return the bundle in `folder` that was written last; one trained on real rows comes first.

    What a manifest claims decides; whether it is true is checked when the bundle is loaded.

    Args:
        folder: Where the bundles' folders are.
        name: The model's name; None takes any.
        content_hash: The bundle's content hash; None takes any.

    Raises:
        NothingOfferedError: There is none.
    """
    wanted = {"name": name, "content_hash": content_hash}
    found = []
    for manifest in _manifests(folder):
        claims = _claims(manifest)
        if any(value is not None and claims.get(key) != value for key, value in wanted.items()):
            continue
        try:
            stamp = manifest.stat().st_mtime_ns
        except OSError:  # removed meanwhile
            continue
        found.append((claims.get("origin") == "real", stamp, manifest.parent.name))
    if not found:
        named = f" of the model {name!r}" if name else ""
        exact = f" with the content hash {content_hash}" if content_hash else ""
        raise NothingOfferedError(
            f"no bundle under {folder}{named}{exact}",
            remedy="make one with `tasador run`, or name one with --bundle",
        )
    return folder / max(found)[2]


def bundle_names(folder: Path) -> list[str]:
    """Return the names of the models that the bundles in `folder` are of, in order."""
    names = {str(_claims(manifest).get("name", "")) for manifest in _manifests(folder)}
    return sorted(names - {""})


def _manifests(folder: Path) -> Iterator[Path]:
    for manifest in folder.glob(f"*/{MANIFEST_NAME}"):
        own = manifest.parent.name
        if not own.startswith(".") and MOVED_ASIDE not in own:
            yield manifest


def _claims(manifest: Path) -> dict[str, Any]:
    try:
        plain = json.loads(read_bytes(manifest))
    except (StorageError, ValueError):
        return {}
    return plain if isinstance(plain, dict) else {}
