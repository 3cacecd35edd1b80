"""Where a model came from: the code's commit and the libraries' versions."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from pathlib import Path

_LIBRARIES = ("numpy", "scipy", "scikit-learn", "lightgbm", "onnx", "onnxruntime", "optuna")


def code_commit() -> str:
    """Return the commit of the checkout this runs from, or the installed version."""
    root = Path(__file__).parents[3]
    if not (root / ".git").exists():
        return f"tasador {importlib.metadata.version('tasador')}"
    try:
        answer = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return f"tasador {importlib.metadata.version('tasador')}"
    return answer.stdout.strip()


def library_versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that decide a model's numbers."""
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
