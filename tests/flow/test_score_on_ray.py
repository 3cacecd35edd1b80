"""`tasador score --engine ray`: the results of one machine, each file finished exactly once."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from fixtures.object_stores import Store
from tasador.cli.app import main
from tasador.core.errors import EngineError
from tasador.core.parallel import RaySettings
from tasador.scoring.files import ScoreRequest
from tasador.scoring.ray import score_files_on_ray

pytestmark = pytest.mark.slow
Score = Callable[..., tuple[int, str, str]]
WORKER = "ray::MapWorker"


def houses(n: int, seed: int) -> pa.Table:
    rng = np.random.default_rng(seed)
    income = rng.lognormal(1.0, 0.4, n)
    income[:: max(n // 7, 1)] = -1.0  # out of bounds: refused
    return pa.table(
        {
            "lon": rng.uniform(-4.0, -3.0, n),
            "lat": rng.uniform(40.0, 41.0, n),
            "income": income,
            "rooms": pa.array(rng.integers(1, 9, n), mask=rng.random(n) < 0.05),
            "area": rng.uniform(30.0, 300.0, n),
            "kind": rng.choice(["flat", "house", "villa"], n).tolist(),
        }
    )


@pytest.fixture
def score(
    tmp_path: Path,
    written_bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Score:
    """Run `tasador score` in this process, in a folder of its own."""

    def run(*words: str, engine: str = "ray") -> tuple[int, str, str]:
        monkeypatch.chdir(tmp_path)
        command = ["tasador", "score", *words, "--bundle", str(written_bundle), "--engine", engine]
        monkeypatch.setattr(sys, "argv", command)
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return run


def results(folder: Path) -> dict[str, bytes]:
    """Return the bytes of everything in a folder of results but its list and its lock."""
    return {
        p.name: p.read_bytes()
        for p in folder.iterdir()
        if p.name not in (".tasador-score.lock", "_tasador_score.json")
    }


def begun(folder: Path, name: str) -> Callable[[], bool]:
    """Return what tells whether a worker has begun to write a file since it was asked last."""
    seen: set[Path] = set()

    def is_begun() -> bool:
        now = set(folder.glob(f".{name}.*.tmp"))
        new = not now <= seen
        seen.update(now)
        return new

    return is_begun


def test_files_whose_workers_are_killed_are_finished_once_and_equal(
    score: Score, ray_cluster, tmp_path: Path
) -> None:
    (tmp_path / "big").mkdir()
    for i, n in enumerate((60_000, 0, 5, 400_000, 50_000)):
        parquet.write_table(houses(n, i), tmp_path / f"big/{i}.parquet")
    assert score("big/*.parquet", "--output", "here", engine="local")[0] == 0

    half_written = begun(tmp_path / "away", "*")
    with ray_cluster.killing(
        WORKER, times=2, after_s=0.0, when=half_written, together=True
    ) as dead:
        code, said, _ = score("big/*.parquet", "--output", "away")
    assert code == 0
    assert dead
    assert "scored 510,005 rows of 5 files" in said
    assert results(tmp_path / "away") == results(tmp_path / "here")  # nothing half written either

    (tmp_path / "away/2.parquet").unlink()
    code, said, about = score("big/*.parquet", "--output", "away")
    # 3: not one of its five rows meets the contract
    assert (code, "scored 5 rows of 1 file " in said, about.count("finished before")) == (
        3,
        True,
        4,
    )
    # each engine goes on where the other one ended
    assert "5 finished before" in score("big/*.parquet", "--output", "away", engine="local")[1]
    assert "5 finished before" in score("big/*.parquet", "--output", "here")[1]
    assert results(tmp_path / "away") == results(tmp_path / "here")


def test_a_file_that_is_no_table_does_not_keep_the_others_from_being_scored(
    score: Score, ray_cluster, tmp_path: Path
) -> None:
    parquet.write_table(houses(50, 1), tmp_path / "good.parquet")
    parquet.write_table(houses(50, 1).drop_columns("area"), tmp_path / "bad.parquet")
    found = {}
    for engine in ("local", "ray"):
        code, _, about = score("*.parquet", "--output", f"{engine}/", engine=engine)
        assert code == 3
        found[engine] = [line for line in about.splitlines() if "columns of the contract" in line]
        assert list(results(tmp_path / engine)) == ["good.parquet"]
    assert found["ray"] == found["local"]
    assert score("good.parquet", "--output", "one.csv")[0] == 0
    assert score("good.parquet", "--output", "other.csv", engine="local")[0] == 0
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "other.csv").read_bytes()


def test_object_stores_are_read_and_written_by_the_workers(
    store: Store, score: Score, ray_cluster, tmp_path: Path
) -> None:
    base = store.url
    for i in range(3):
        place = tmp_path / f"{i}.parquet"
        parquet.write_table(houses(1000, i), place)
        store.files().pipe_file(f"{base}/in/{i}.parquet", place.read_bytes())
    with ray_cluster.environment(store.environment):
        code, said, about = score(f"{base}/in/*.parquet", "--output", f"{base}/out/")
        assert code == 0, about
        assert "scored 3,000 rows of 3 files" in said
        assert "3 finished before" in score(f"{base}/in/*.parquet", "--output", f"{base}/out/")[1]
    assert score("*.parquet", "--output", "here/", engine="local")[0] == 0
    for i in range(3):
        written = store.files().cat_file(f"{base}/out/{i}.parquet")
        assert written == (tmp_path / f"here/{i}.parquet").read_bytes()
    listed = json.loads(store.files().cat_file(f"{base}/out/_tasador_score.json"))
    assert sorted(listed["files"]) == [f"{i}.parquet" for i in range(3)]


def test_a_file_over_which_every_worker_dies_ends_the_run(
    ray_cluster, tmp_path: Path, written_bundle: Path
) -> None:
    for i in range(2):
        parquet.write_table(houses(400_000 if i else 10, i), tmp_path / f"{i}.parquet")
    out = tmp_path / "out"
    order = ScoreRequest((str(tmp_path / "*.parquet"),), str(out))

    half_written = begun(out, "1.parquet")
    settings = RaySettings(retries=1)
    with (
        ray_cluster.killing(WORKER, times=5, after_s=0.0, when=half_written, together=True),
        pytest.raises(EngineError, match=r"1\.parquet: the worker died 2 times over it"),
    ):
        score_files_on_ray(written_bundle, order, print, settings)
    assert list(results(out)) == ["0.parquet"]
    assert score_files_on_ray(written_bundle, order, print, settings).files == 1
    assert sorted(results(out)) == ["0.parquet", "1.parquet"]
