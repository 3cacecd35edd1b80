"""Environments of other tools, made on demand: they need versions that ours does not take."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PEERS = {
    "evidently": ("evidently==0.7.23", "pandas==2.3.3", "pyarrow"),
    "nannyml": ("nannyml==0.13.1", "pandas==2.3.3", "statsmodels==0.15.0", "pyarrow"),
    # flaml[automl] without the GPU libraries that the plain xgboost brings along
    "flaml": ("flaml==2.7.0", "lightgbm==4.7.0", "xgboost-cpu==2.1.4", "catboost==1.2.10",
              "scikit-learn==1.7.2", "pandas==2.3.3", "pyarrow"),
    "autogluon": ("autogluon.tabular[lightgbm,catboost]==1.6.3", "pandas==2.3.3", "pyarrow"),
    "lightgbm": ("lightgbm==4.7.0", "scikit-learn==1.9.1", "pandas==3.1.1", "pyarrow"),
    "catboost": ("catboost==1.2.10", "scikit-learn==1.9.1", "pandas==3.1.1", "pyarrow"),
    "bentoml": ("bentoml==1.4.39", "pandas==2.3.3", "scikit-learn==1.7.2", "fastapi"),
    "mlserver": ("mlserver==1.7.1", "mlserver-lightgbm==1.7.1", "lightgbm==4.7.0"),
}  # fmt: skip


def peer_python(name: str) -> Path:
    """Return the Python of an environment that has the peer installed; made when it is missing."""
    folder = Path(tempfile.gettempdir()) / "tasador-peers" / name
    python = folder / "bin" / "python"
    ready = folder / ".ready"
    if not ready.exists():
        print(f"installing {name} into {folder}", flush=True)
        uv = shutil.which("uv") or str(Path(sys.executable).parent / "uv")
        subprocess.run([uv, "venv", "-q", "--clear", "-p", "3.11", str(folder)], check=True)
        install = [uv, "pip", "install", "-q", "--python", str(python), *PEERS[name]]
        subprocess.run(install, check=True)
        ready.touch()
    return python
