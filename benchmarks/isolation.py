"""Benchmarks leave alone what the environment names: a live database, a registry, an account."""

from __future__ import annotations

import os

#: What says where the measured tables are and what is measured; anything else points elsewhere.
_KEPT = ("TASADOR_REAL_DATA", "TASADOR_NATIVE", "TASADOR_BENCH_")
_SETTINGS = ("TASADOR_", "MLFLOW_", "WANDB_")


def isolate() -> None:
    """Take tasador's, MLflow's and W&B's settings out of this process's environment.

    Processes that are started later inherit what is left, so every server and run of a benchmark
    keeps its records, versions and trials in the folder that it is given. Python may keep what it
    compiles, as it does for a user: else each start of a server would compile all modules again.
    """
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    for name in list(os.environ):
        if name.startswith(_SETTINGS) and not name.startswith(_KEPT):
            del os.environ[name]
