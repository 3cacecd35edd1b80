"""The command that compose.yaml gives to MLflow, run for real on a real PostgreSQL."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


def status(port: int, path: str, host: str) -> int:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Host": host})
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def test_mlflow_starts_on_postgresql_and_answers_to_its_own_names_only(
    postgres_server: Any, tmp_path: Path
) -> None:
    service = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["mlflow"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        word.replace("0.0.0.0", "127.0.0.1")
        .replace("--port=5000", f"--port={port}")
        .replace("/srv/tasador/workspace", str(tmp_path))
        for word in service["command"]
    ]
    variables = (ROOT / "docker" / "create_env.py").read_text()
    (scheme,) = re.findall(r"(postgresql\+\w+)://", variables)
    with psycopg.connect(postgres_server.url(), autocommit=True) as connection:
        connection.execute("CREATE DATABASE mlflow")
    address = postgres_server.url().partition("://")[2].rpartition("/")[0]
    backend = f"{scheme}://{address}/mlflow"
    program = Path(sys.executable).parent / service["entrypoint"][0]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [str(program), *command],
            env={**os.environ, "MLFLOW_BACKEND_STORE_URI": backend},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            for _ in range(240):  # its workers import for a minute on a busy machine
                if status(port, "/health", "mlflow:5000") == 200 or process.poll() is not None:
                    break
                time.sleep(1.0)
            said = (tmp_path / "log").read_text()[-2000:]
            search = "/api/2.0/mlflow/registered-models/search"
            assert status(port, search, "mlflow:5000") == 200, said
            assert status(port, search, "127.0.0.1:5000") == 200
            assert status(port, search, "evil.example.org") == 403
        finally:
            os.killpg(process.pid, 15)
            process.wait(30)
