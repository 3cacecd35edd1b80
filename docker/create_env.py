"""Write the secrets that compose.yaml reads, each into a file of `docker/env`; none is replaced.

    python docker/create_env.py

Passwords and API keys are made here, at random. Whom alerts reach is taken from the variables
TASADOR_ALERTS__* where they are set; else `alerts.env` is there to be filled in. The files can be
read by their owner only and are in no repository and no image. The admin key is shown once: the API
knows only its hash.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import sys
from pathlib import Path

ENV = Path(__file__).resolve().parent / "env"
#: Variables of `alerts.env`; see docs/how-to/watch-a-service.md.
ALERTS = (
    "WEBHOOK_URL", "WEBHOOK_SECRET", "SLACK_URL", "EMAIL_URL", "EMAIL_FROM", "EMAIL_TO",
    "EMAIL_USER", "EMAIL_PASSWORD", "WANDB_PROJECT", "APPRISE_URL",
)  # fmt: skip
#: Files that share no secret with another one: they can be added later.
ALONE = ("alerts.env",)


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
        "alerts.env": {
            name: os.environ.get(name, "")
            for name in (f"TASADOR_ALERTS__{part}" for part in ALERTS)
        },
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
    absent = {name: files[name] for name in ALONE if name not in present}
    if present and not absent:
        print(f"{folder} has {', '.join(present)} already; remove them to start again")
        return 1
    wanted = absent if present else files
    folder.mkdir(parents=True, exist_ok=True)
    for name, variables in wanted.items():
        text = "".join(f"{key}={value}\n" for key, value in variables.items())
        descriptor = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
    print(f"wrote {', '.join(sorted(wanted))} to {folder}")
    if not any(files["alerts.env"].values()):
        print(f"alerts reach nobody yet: fill in {folder / 'alerts.env'}")
    if not present:
        print(f"admin key, shown this once: {admin}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:2])))
