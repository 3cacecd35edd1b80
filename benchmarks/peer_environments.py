"""Environments of other tools, made on demand: they need versions that ours does not take."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
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
    "openavmkit": ("openavmkit==0.7.0",),
    "assesspy": ("assesspy==2.0.2", "pandas==2.3.3", "statsmodels==0.15.0", "pyarrow"),
    "shap": ("shap==0.51.0", "lightgbm==4.7.0"),
    "ratio_study": ("ratio-study==1.0.1", "pandas==2.3.3", "statsmodels==0.15.0", "pyarrow"),
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


@dataclass(frozen=True)
class Ran:
    """How a process ended.

    Attributes:
        out: What it printed.
        problem: The last line of its errors where it failed, else empty.
        seconds: From its start to its end.
        peak_gb: The largest resident memory of it or of one of its processes.
        cpu: CPU seconds of all of them.
    """

    out: str
    problem: str
    seconds: float
    peak_gb: float
    cpu: float


def run_measured(command: Sequence[str], folder: Path, limit_s: float) -> Ran:
    """Run a command in a folder; it and what it started are killed after the limit."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        started = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=folder, stdout=out, stderr=errors, start_new_session=True
        )
        timer = threading.Timer(limit_s, os.killpg, (process.pid, signal.SIGKILL))
        timer.start()
        _, status, usage = os.wait4(process.pid, 0)
        timer.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - started
        texts = []
        for file in (out, errors):
            file.seek(0)
            texts.append(file.read())
    problem = ""
    if process.returncode:
        lines = texts[1].strip().splitlines() or ["no reason given"]
        problem = f"stopped after {limit_s:g} s" if seconds >= limit_s else lines[-1][:200]
    cpu = usage.ru_utime + usage.ru_stime
    return Ran(texts[0], problem, seconds, usage.ru_maxrss / 1e6, cpu)
