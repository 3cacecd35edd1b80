"""Bundles as folders on a disk: which of several is the one to use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tasador.core.errors import NothingOfferedError
from tasador.registry.manifest import MANIFEST_NAME

#: In the name of a folder that a later run moved aside.
MOVED_ASIDE = ".damaged-"


def newest_bundle(folder: Path, name: str | None = None) -> Path:
    """Return the bundle in `folder` that was written last; one trained on real rows comes first.

    What a manifest claims decides; whether it is true is checked when the bundle is loaded.

    Args:
        folder: Where the bundles' folders are.
        name: The model's name; None takes any.

    Raises:
        NothingOfferedError: There is none.
    """
    found = []
    for manifest in folder.glob(f"*/{MANIFEST_NAME}"):
        own = manifest.parent.name
        if own.startswith(".") or MOVED_ASIDE in own:
            continue
        claims = _claims(manifest)
        if name is not None and claims.get("name") != name:
            continue
        try:
            found.append((claims.get("origin") == "real", manifest.stat().st_mtime_ns, own))
        except OSError:  # removed meanwhile
            continue
    if not found:
        raise NothingOfferedError(
            f"no bundle under {folder}" + (f" of the model {name!r}" if name else ""),
            remedy="make one with `tasador run`, or name one with --bundle",
        )
    return folder / max(found)[2]


def _claims(manifest: Path) -> dict[str, Any]:
    try:
        plain = json.loads(manifest.read_bytes())
    except (OSError, ValueError):
        return {}
    return plain if isinstance(plain, dict) else {}
