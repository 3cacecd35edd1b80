"""`tasador records` and `tasador outcomes`, against both databases."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
from dataclasses import dataclass

import numpy as np
import pytest

from tasador.cli.app import main
from tasador.records.audit_log import AuditTrail
from tasador.records.database import Database
from tasador.records.record import Outcome
from tasador.records.spool import Spool
from tasador.records.store import RecordStore
from tasador.settings.serving import RecordSettings

DAY = 86_400.0


@dataclass
class Done:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def tasador(capfd, monkeypatch):
    """Run a command through the program's own entrance."""
    logger = logging.getLogger("tasador")
    before = (logger.handlers[:], logger.level, logger.propagate)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("TASADOR_RECORDS__URL", raising=False)

    def run(*arguments: object, url: str | None = None) -> Done:
        if url is not None:
            monkeypatch.setenv("TASADOR_RECORDS__URL", url)
        monkeypatch.setattr(sys, "argv", ["tasador", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        told = capfd.readouterr()
        return Done(int(ended.value.code or 0), told.out, told.err)

    yield run
    logger.handlers[:], logger.level, logger.propagate = before


@pytest.fixture
def recorded(database, make_records) -> list:
    """Ten records: four of 100 days ago, six of the last minute; one with an outcome."""
    now = time.time()
    old = make_records(4, start=now - 100 * DAY, lower=float("nan"))
    new = make_records(6, start=now - 60, version="houses@2")
    store = RecordStore(database)
    store.append([*old, *new])
    store.add_outcomes([Outcome(new[0].id, 321.5, now)])
    return [*old, *new]


def test_export_writes_the_window_with_outcomes_to_parquet(
    url, recorded, tmp_path, tasador
) -> None:
    import pyarrow.parquet as pq

    file = tmp_path / "out.parquet"
    done = tasador("records", "export", "--database", url, "--since", "7d", "-o", file)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"wrote 6 records to {file}\nnext: tasador records stats\n"
    rows = pq.read_table(file).to_pylist()
    assert [row["id"] for row in rows] == [record.id for record in recorded[4:]]
    assert rows[0]["actual"] == 321.5
    assert rows[1]["actual"] is rows[1]["outcome_time"] is None
    assert json.loads(rows[2]["features"]) == {"income": 2, "kind": "hôtel"}
    assert rows[0]["time"].timestamp() == pytest.approx(recorded[4].time, abs=1e-5)


def test_export_of_everything_streams_and_keeps_gaps(
    url, recorded, tmp_path, database, tasador
) -> None:
    import pyarrow.parquet as pq

    from tasador.records.import_export import export_parquet

    file = tmp_path / "out.parquet"
    written = export_parquet(RecordStore(database), file, 0.0, 1e12, batch=3)
    read = pq.read_table(file)
    assert written == read.num_rows == 10
    assert read["lower"].null_count == 4
    prediction = np.array([record.prediction for record in recorded])
    np.testing.assert_array_equal(read["prediction"].to_numpy(), prediction)


def test_an_export_that_fails_leaves_no_file(
    database, recorded, tmp_path, monkeypatch, tasador
) -> None:
    from tasador.records.import_export import export_parquet

    store = RecordStore(database)

    def failing(*_, **__):
        yield next(iter(RecordStore.read(store, 0.0, 1e12, batch=2)))
        raise RuntimeError("in the middle")

    monkeypatch.setattr(store, "read", failing)
    with pytest.raises(RuntimeError, match="in the middle"):
        export_parquet(store, tmp_path / "sub" / "out.parquet", 0.0, 1e12)
    assert list((tmp_path / "sub").iterdir()) == []


def test_prune_counts_first_and_deletes_when_asked(url, recorded, database, tasador) -> None:
    counted = tasador("records", "prune", "--older-than", "90d", url=url)
    assert counted.stdout.startswith("4 records are older than ")
    assert counted.stdout.endswith("next: tasador records prune --older-than 90d --yes\n")
    assert RecordStore(database).count(0.0, 1e12) == 10
    done = tasador("records", "prune", "--older-than", "90d", "--yes", url=url)
    assert done.stdout.startswith("deleted 4 records"), done.stderr
    assert RecordStore(database).count(0.0, 1e12) == 6
    (entry,) = AuditTrail(database).read(action="prune")
    assert (entry.subject, entry.details["deleted"]) == ("records", 4)


def test_stats_tell_versions_and_what_waits_in_spools(
    url, recorded, tmp_path, make_records, tasador
) -> None:
    spool = Spool(tmp_path / "spool", "normal", 1 << 20)
    spool.append(make_records(3))
    spool.close()
    done = tasador("records", "stats", "--spool", tmp_path / "spool", url=url)
    assert "houses@2" in done.stdout
    assert "bytes wait in" in done.stdout
    told = tasador("records", "stats", "--json", "--spool", tmp_path / "spool", url=url)
    found = json.loads(told.stdout)
    assert [(v["version"], v["records"], v["outcomes"]) for v in found["versions"]] == [
        ("houses@2", 6, 1), ("houses@1", 4, 0),
    ]  # fmt: skip
    assert found["spool_bytes"] > 100
    assert "secret" not in told.stdout + done.stdout


def test_replay_replays_a_spool_that_nobody_owns(url, tmp_path, make_records, tasador) -> None:
    spool = Spool(tmp_path / "spool", "normal", 1 << 20)
    spool.append(make_records(3))
    spool.close()
    done = tasador("records", "replay", "--spool", tmp_path / "spool", url=url)
    assert done.stdout.startswith("brought in 3 records"), done.stderr
    with Database.open(url) as database:
        assert RecordStore(database).count(0.0, 1e12) == 3


def test_importing_outcomes_names_each_row_that_was_not_taken(
    url, recorded, database, tmp_path, tasador
) -> None:
    one, two, three = (record.id for record in recorded[:3])
    seconds = int(time.time() - 50 * DAY)
    later = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
    file = tmp_path / "outcomes.csv"
    file.write_text(
        "prediction_id,actual,time\n"
        f"{one},100.5,{later}\n"
        f"{two},cheap,\n"
        "nobody,1,\n"
        f"{one},7,\n"
        f"{three},inf,\n"
        f"{three},5,someday\n"
        f"{three},5,{seconds}000\n"
        f"{three},6,{seconds}\n"
        f"{one},100.5,\n",
        encoding="utf-8-sig",
    )
    done = tasador("outcomes", "import", file, url=url)
    assert done.returncode == 3
    assert done.stdout == "2 outcomes were taken, 1 were known already\nnext: tasador monitor\n"
    lines = done.stderr.splitlines()
    assert lines[0] == f"  line 3: {two}: actual is not a number: 'cheap'"
    assert lines[1] == "  line 4: nobody: no record has this prediction_id"
    assert lines[2] == f"  line 5: {one}: another value is known: 100.5, got 7"
    assert lines[3] == f"  line 6: {three}: actual: expected a number, got inf"
    assert "line 7" in lines[4]
    assert "a time cannot be read" in lines[4]
    assert "line 8" in lines[5]
    assert "time: expected ISO 8601 or seconds since the epoch" in lines[5]
    assert lines[6] == "6 rows were not taken"
    batches = list(RecordStore(database).read(0.0, 1e12, with_outcome=True, batch=2))
    taken = {i: time for b in batches for i, time in zip(b.id, b.outcome_time, strict=True)}
    assert (taken[one], taken[three]) == (seconds, seconds)
    again = tasador("outcomes", "import", file, "--show", "1", url=url)
    assert again.stdout == "0 outcomes were taken, 3 were known already\nnext: tasador monitor\n"
    assert "and 5 more" in again.stderr
    assert len(taken) == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "lacks actual and prediction_id"),
        ("prediction_id,price\nx,1\n", "lacks actual"),
        (b"prediction_id,actual\n\xff\xfe,1\n", "cannot be read as CSV"),
        ('prediction_id,actual\n"x,1\n', "cannot be read as CSV"),
        (None, "there is no file"),
    ],
)
def test_a_file_that_holds_no_outcomes_is_refused(tmp_path, content, message, tasador) -> None:
    url = f"sqlite:///{tmp_path}/records.db"
    Database.open(url).close()
    file = tmp_path / "outcomes.csv"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    from tasador.core.errors import SourceError
    from tasador.records.import_export import import_outcomes

    with Database.open(url) as database, pytest.raises(SourceError, match=message):
        import_outcomes(RecordStore(database), file)


def test_a_command_makes_no_database_where_there_is_none(tmp_path, tasador) -> None:
    done = tasador("records", "stats", "--database", f"sqlite:///{tmp_path}/none.db")
    assert done.returncode == 3
    assert "there is no database" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_commands_are_there_in_a_process_of_their_own(tmp_path) -> None:
    url = f"sqlite:///{tmp_path}/records.db"
    Database.open(url).close()
    command = [sys.executable, "-m", "tasador.cli.app", "records", "stats", "--database", url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, "0 bytes wait" in done.stdout) == (0, True), done.stderr


def test_a_server_that_is_unreachable_is_named_without_its_password(tasador) -> None:
    url = "postgresql://me:hunter2@127.0.0.1:1/houses"
    done = tasador("records", "stats", "--database", url)
    assert done.returncode == 7
    assert "postgresql://me@127.0.0.1:1/houses" in done.stderr
    assert "hunter2" not in done.stderr


def test_the_spool_lies_beside_an_sqlite_file_and_else_in_the_workspace(tasador) -> None:
    beside = RecordSettings(url="sqlite:////data/tasador.db").spool_folder()
    assert str(beside) == "/data/tasador.db.spool"
    assert str(RecordSettings(url="postgresql://h/db").spool_folder()) == "workspace/spool"
    assert str(RecordSettings(spool="/else").spool_folder()) == "/else"
