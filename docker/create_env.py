"""Write the secrets that compose.yaml reads, each into a file of `docker/env`; none is replaced.

    python docker/create_env.py

Passwords and API keys are made here, at random. The files can be read by their owner only and are
in no repository and no image. The admin key is shown once: the API knows only its hash.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import sys
from pathlib import Path

ENV = Path(__file__).resolve().parent / "env"


def contents() -> tuple[dict[str, dict[str, str]], str]:
    """Return the variables of each file, and the admin's key."""
    superuser, api, watcher, mlflow = (secrets.token_urlsafe(24) for _ in range(4))
    redis, grafana = secrets.token_urlsafe(24), secrets.token_urlsafe(16)
    client, admin = (f"tsd_{secrets.token_urlsafe(32)}" for _ in range(2))
    keys = f"web:client:{_digest(client)},operator:admin:{_digest(admin)}"
    files = {
        "postgres.env": {
            "POSTGRES_USER": "postgres",
            "POSTGRES_PASSWORD": superuser,
            "API_PASSWORD": api,
            "WATCHER_PASSWORD": watcher,
            "MLFLOW_PASSWORD": mlflow,
        },
        "redis.env": {"REDIS_PASSWORD": redis},
        "api.env": {
            "TASADOR_RECORDS__URL": _records("tasador_api", api),
            "TASADOR_SECURITY__KEYS": keys,
            "TASADOR_SOURCE__TRUSTED_KEYS": "/srv/tasador/trust/signing.pub",
            "TASADOR_CACHE__URL": f"redis://:{redis}@redis:6379/0",
        },
        "watcher.env": {"TASADOR_RECORDS__URL": _records("tasador_watcher", watcher)},
        "mlflow.env": {
            "MLFLOW_BACKEND_STORE_URI": f"postgresql+psycopg://mlflow:{mlflow}@postgres:5432/mlflow"
        },
        "ui.env": {"TASADOR_API_KEY": client},
        "grafana.env": {"GF_SECURITY_ADMIN_PASSWORD": grafana},
    }
    return files, admin


def _records(role: str, password: str) -> str:
    return f"postgresql://{role}:{password}@postgres:5432/tasador"


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def main(folder: Path = ENV) -> int:
    """Write the files; returns the exit code."""
    files, admin = contents()
    present = sorted(name for name in files if (folder / name).exists())
    if present:
        print(f"{folder} has {', '.join(present)} already; remove them to start anew")
        return 1
    folder.mkdir(parents=True, exist_ok=True)
    for name, variables in files.items():
        text = "".join(f"{key}={value}\n" for key, value in variables.items())
        descriptor = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
    print(f"wrote {len(files)} files to {folder}\nadmin key, shown this once: {admin}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:2])))
