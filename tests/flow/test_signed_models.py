"""A model signed when it is registered, and servers that trust one key, as processes."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

pytestmark = pytest.mark.slow
SMALL = [
    "selection.folds=3",
    "selection.families={ridge:{alpha:[1.0]}}",
    "sweep.trials=0",
    "features.cross_fit_folds=4",
    "register.parity_rows=1000",
    "register.bootstrap_draws=20",
    "register.average=1",
]


def tasador(folder: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "tasador.cli.app", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def write_keys(folder: Path, name: str) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    (folder / f"{name}.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    (folder / f"{name}.pub").write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )


@contextmanager
def serving(folder: Path, key: str) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = [
        "--port",
        str(port),
        "--registry",
        f"sqlite:///{folder}/workspace/mlflow.db",
        "--model",
        "flats_model",
    ]
    log = folder / f"{key}.log"
    output = log.open("wb")
    process = subprocess.Popen(
        [sys.executable, "-m", "tasador.cli.app", "serve", *options, "--workspace", f"for-{key}"],
        cwd=folder,
        env={**os.environ, "TASADOR_SOURCE__TRUSTED_KEYS": f"{key}.pub"},
        stdout=output,
        stderr=subprocess.STDOUT,
    )
    try:
        yield f"http://127.0.0.1:{port}"
    except AssertionError as error:
        raise AssertionError(log.read_text()[-2000:]) from error
    finally:
        process.terminate()
        process.wait(30)
        output.close()


def status(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)


def wait_for(url: str, wanted: int) -> None:
    for _ in range(240):  # a busy machine takes its time to start Python
        if status(url)[0] == wanted:
            return
        time.sleep(0.5)
    raise AssertionError(f"{url}: {status(url)}")


def test_a_server_takes_from_the_registry_what_its_key_signed_and_nothing_else(
    tmp_path: Path,
) -> None:
    random = np.random.default_rng(1)
    area = random.uniform(30, 200, 400).round(1)
    price = (900 * area * random.lognormal(0, 0.1, 400)).round()
    lines = [f"{a},{p}" for a, p in zip(area, price, strict=True)]
    (tmp_path / "flats.csv").write_text("\n".join(["area,price", *lines, ""]))
    write_keys(tmp_path, "ours")
    write_keys(tmp_path, "theirs")
    tasador(tmp_path, "init", "flats.csv", "--target", "price")
    tasador(tmp_path, "run", "dataset=flats", "tracking.signing_key=ours.pem", *SMALL)
    assert "signed by a trusted key" in tasador(tmp_path, "verify", "--key", "ours.pub")

    with serving(tmp_path, "ours") as url:
        wait_for(f"{url}/health/ready", 200)
        assert json.loads(status(f"{url}/health")[1])["source"] == "mlflow"
    with serving(tmp_path, "theirs") as url:
        wait_for(f"{url}/health/live", 200)
        time.sleep(3.0)
        assert status(f"{url}/health/ready")[0] == 503
