"""From a table in an object store to a served model and exported records, against real emulators.

The commands are processes of their own, as on a machine in the cloud; only the store's address is
the emulator's.
"""

from __future__ import annotations

import contextlib
import io
import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fixtures.object_stores import Store

pytestmark = pytest.mark.slow
SMALL = [
    "selection.folds=3",
    "selection.families={ridge:{alpha:[1.0]},lightgbm:{n_estimators:[40],num_leaves:[7]}}",
    "sweep.trials=0",
    "features.cross_fit_folds=4",
    "register.parity_rows=1000",
    "register.bootstrap_draws=20",
    "register.average=1",
]
ROW = {"area": 82.5, "rooms": 3, "town": "Lugo"}


def tasador(folder: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "tasador.cli.app", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, (words, done.stderr)
    return done.stdout


def homes() -> bytes:
    random = np.random.default_rng(1)
    n = 400
    area, rooms = random.uniform(30, 200, n).round(1), random.integers(1, 6, n)
    town = random.choice(["Ferrol", "Lugo", "Vigo"], n)
    price = (900 * area * (1 + (town == "Vigo")) * random.lognormal(0, 0.1, n)).round()
    rows = [f"{a},{r},{t},{p}" for a, r, t, p in zip(area, rooms, town, price, strict=True)]
    return "\n".join(["area,rooms,town,price", *rows, ""]).encode()


@contextlib.contextmanager
def serving(folder: Path, location: str) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["-m", "tasador.cli.app", "serve", "--port", str(port), "--object-store", location]
    log = folder / "serve.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *command, "--workspace", "served"],
            cwd=folder,
            stdout=output,
            stderr=output,
        )
    try:
        _wait(f"http://127.0.0.1:{port}/health/ready", log)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def _wait(url: str, log: Path) -> None:
    for _ in range(600):
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(log.read_text()[-2000:])


def ask(url: str, body: object = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


# the emulators' threads may leave a socket to the garbage collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_table_in_a_store_becomes_a_served_model_and_its_records_go_back(
    store: Store, tmp_path: Path
) -> None:
    import pandas as pd

    table = f"{store.url}/tables/homes.csv"
    with store.files().open(table, "wb") as file:
        file.write(homes())
    tasador(tmp_path, "init", table, "--target", "price", "--name", "homes")
    assert table in (tmp_path / "conf" / "dataset" / "homes.yaml").read_text()
    contract = tmp_path / "conf" / "dataset" / "homes.yaml"
    contract.write_text(contract.read_text().replace(table, "homes.csv"))  # found by the search
    tasador(tmp_path, "run", "dataset=homes", f"download.search=[{store.url}/tables]", *SMALL)
    assert not (tmp_path / store.url.partition("/")[0]).exists()
    # nothing of the run is left but what is published
    published = f"{store.url}/published"
    said = tasador(tmp_path, "publish", published, "--with", "data,splits,cards,report")
    version = said.split()[1]
    documents = f"{published}/versions/{version}"
    with store.files().open(f"{documents}/report/report.html", "rb") as file:
        assert version.encode() in file.read()
    sides = {}
    for side in ("train", "test"):
        with store.files().open(f"{documents}/splits/{side}.parquet", "rb") as file:
            sides[side] = pd.read_parquet(io.BytesIO(file.read()))
    assert {"area", "town", "price"} <= set(sides["test"])
    assert not set(sides["train"]["row_hash"]) & set(sides["test"]["row_hash"])
    assert len(sides["train"]) + len(sides["test"]) == 400
    with store.files().open(f"{documents}/cards/model_config.yaml", "rb") as file:
        assert f"version: {version}".encode() in file.read()
    assert f"{documents}/data/" in said
    (tmp_path / "workspace").rename(tmp_path / "gone")

    with serving(tmp_path, published) as url:
        assert ask(f"{url}/health")["source"] == "object_store"
        answer = ask(f"{url}/api/v1/predict", {"instances": [ROW, {**ROW, "area": 120.0}]})
        ids = {item["prediction_id"] for item in answer["predictions"]}
    assert answer["model_version"] == version
    assert len(ids) == 2

    records = f"{store.url}/records/today.parquet"
    database = f"sqlite:///{tmp_path / 'served' / 'tasador.db'}"
    tasador(tmp_path, "records", "export", "-o", records, "--database", database)
    with store.files().open(records, "rb") as file:
        exported = pd.read_parquet(io.BytesIO(file.read()))
    assert set(exported["id"]) == ids
    assert set(exported["version"]) == {version}


def test_files_in_a_store_are_scored_into_the_store(
    store: Store, tmp_path: Path, written_bundle: Path
):
    head = "lon,lat,income,rooms,area,kind\n"
    lines = [f"-3.{i % 10},40.{i % 7},{1 + i % 5},3,{60 + i},flat\n" for i in range(400)]
    for name in ("a", "b"):
        store.files().pipe_file(f"{store.url}/in/{name}.csv", (head + "".join(lines)).encode())
    words = (
        f"{store.url}/in/*.csv",
        "--output",
        f"{store.url}/out",
        "--bundle",
        str(written_bundle),
    )
    assert "scored 800 rows of 2 files" in tasador(
        tmp_path, "score", *words, "--format", "parquet", "--batch-rows", "100"
    )
    import pyarrow.parquet as parquet

    with store.files().open(f"{store.url}/out/b.parquet") as file:
        found = parquet.read_table(file)
    assert found.column("row").to_pylist() == list(range(1, 401))
    assert found.column("error").null_count == 400
    again = tasador(tmp_path, "score", *words, "--format", "parquet")
    assert "scored 0 rows" in again
    assert "2 finished before" in again
    assert store.files().exists(f"{store.url}/out/_tasador_score.json")
