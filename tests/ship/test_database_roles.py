"""The databases that compose.yaml makes: what each role may do, on a real PostgreSQL."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from fixtures.postgresql import PostgresServer, find_binaries
from tasador.records.audit_log import AuditTrail
from tasador.records.database import Database

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    binaries = find_binaries()
    if binaries is None:
        pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
    if os.getuid() == 0:
        try:
            pwd.getpwnam("postgres")
        except KeyError:
            pytest.skip("PostgreSQL needs the user 'postgres' when tests run as root")
    folder = Path(tempfile.mkdtemp(prefix="tasador-roles-"))
    found = PostgresServer(binaries, folder)
    found.start()
    try:
        subprocess.run(
            ["sh", str(ROOT / "docker" / "postgres" / "create-databases.sh")],
            env={
                **os.environ, "PGHOST": "127.0.0.1", "PGPORT": str(found.port),
                "POSTGRES_USER": "tasador", "API_PASSWORD": "a'\"1", "WATCHER_PASSWORD": "w",
                "MLFLOW_PASSWORD": "m",
            },
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        Database.open(url(found, "tasador_watcher", "tasador")).close()
        yield found
    finally:
        found.stop()
        shutil.rmtree(folder, ignore_errors=True)


def url(server: PostgresServer, role: str, database: str) -> str:
    return f"postgresql://{role}:x@127.0.0.1:{server.port}/{database}"


def does(server: PostgresServer, role: str, database: str, sql: str) -> str:
    """Return the SQLSTATE that a statement ends with; 00000 when it is carried out."""
    try:
        with psycopg.connect(url(server, role, database), autocommit=True) as connection:
            connection.execute(sql)
    except psycopg.Error as error:
        return error.sqlstate or str(error)
    return "00000"


FORBIDDEN = "42501"


def test_the_api_s_role_adds_records_and_changes_none(server: PostgresServer) -> None:
    added = (
        "INSERT INTO records (id, time, version, variant, source, features, client) "
        "VALUES ('a', 1, 'v', 'champion', 'api', '', 'c')"
    )
    assert does(server, "tasador_api", "tasador", added) == "00000"
    assert does(server, "tasador_api", "tasador", "SELECT * FROM records") == "00000"
    for sql in (
        "UPDATE records SET prediction = 1",
        "UPDATE audit SET actor = 'me'",
        "DELETE FROM records",
        "DELETE FROM audit",
        "TRUNCATE records",
        "DROP TABLE records",
        "CREATE TABLE mine (a int)",
        "CREATE ROLE me SUPERUSER",
        "COPY records TO PROGRAM 'cat'",
        "SELECT pg_read_file('/etc/passwd')",
    ):
        assert does(server, "tasador_api", "tasador", sql) == FORBIDDEN, sql


def test_the_api_works_with_tables_that_it_may_not_make(server: PostgresServer) -> None:
    with Database.open(url(server, "tasador_api", "tasador")) as database:
        trail = AuditTrail(database)
        trail.add("me", "promote", "model")
        assert [entry.actor for entry in trail.read(subject="model", limit=5)] == ["me"]


def test_no_role_reaches_the_database_of_another(server: PostgresServer) -> None:
    reached = {
        (role, database)
        for role in ("tasador_api", "tasador_watcher", "mlflow")
        for database in ("tasador", "mlflow", "postgres", "template1")
        if does(server, role, database, "SELECT 1") == "00000"
    }
    assert reached == {
        ("tasador_api", "tasador"), ("tasador_watcher", "tasador"), ("mlflow", "mlflow")
    }  # fmt: skip


def test_the_watcher_reads_and_removes_records_and_mlflow_makes_its_own_tables(
    server: PostgresServer,
) -> None:
    for sql in ("SELECT * FROM records", "DELETE FROM records WHERE id = 'none'"):
        assert does(server, "tasador_watcher", "tasador", sql) == "00000"
    assert does(server, "mlflow", "mlflow", "CREATE TABLE runs (a int)") == "00000"
    for role, database in (("tasador_watcher", "tasador"), ("mlflow", "mlflow")):
        for sql in ("CREATE ROLE me", "CREATE DATABASE mine", "SELECT pg_read_file('/etc/passwd')"):
            assert does(server, role, database, sql) == FORBIDDEN
