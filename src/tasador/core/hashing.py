"""Content hashes: of bytes, files, plain values and of the code that made something."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import hashlib
import importlib.resources
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_CHUNK = 1 << 20


def sha256_bytes(data: bytes) -> str:
    """Return the SHA-256 of `data` as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of the file at `path`, read in chunks of 1 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def to_plain(value: Any) -> Any:
    """Turn dataclasses, enums, paths, dates, tuples and mappings into JSON's own types."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
    if isinstance(value, enum.Enum):
        return to_plain(value.value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (dt.date, dt.time)):
        return value.isoformat()
    if isinstance(value, dict):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(to_plain(item) for item in value)
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:  # a numpy scalar
        return to_plain(value.item())
    return value


def without_nan(value: Any) -> Any:
    """Return plain values with None for NaN and infinite numbers, which JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    return [without_nan(item) for item in value] if isinstance(value, list) else value


def canonical_json(value: Any) -> str:
    """Return `value` as JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(to_plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def fingerprint(value: Any) -> str:
    """Return the SHA-256 of a plain value's canonical JSON."""
    return sha256_bytes(canonical_json(value).encode())


def code_version(packages: Iterable[str]) -> str:
    """Return a hash over the source of the given packages, e.g. ``["core", "data"]``.

    Each is a package directly under `tasador` or one of its
    modules (``"training.data_steps"``).
    Only ``.py`` files count, so compiled caches and notes do not change it.
    """
    root = Path(str(importlib.resources.files("tasador")))
    digest = hashlib.sha256()
    for name in sorted(set(packages)):
        base = root.joinpath(*name.split("."))
        module = base.with_suffix(".py")
        files = [module] if module.is_file() else sorted(base.rglob("*.py"))
        if not files:
            raise ValueError(f"no source found for {name!r} under {root}")
        for file in files:
            digest.update(file.relative_to(root).as_posix().encode())
            digest.update(sha256_file(file).encode())
    return digest.hexdigest()
