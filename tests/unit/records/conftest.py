"""Both databases, and records to put into them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tasador.records.database import Database
from tasador.records.record import Record, new_ids

RecordMaker = Callable[..., list[Record]]


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path) -> str:
    """The URL of an empty database: SQLite, then PostgreSQL."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/folder/records.db"
    return request.getfixturevalue("postgres_url")


@pytest.fixture
def database(url) -> Iterator[Database]:
    with Database.open(url) as opened:
        yield opened


@pytest.fixture
def make_records() -> RecordMaker:
    """Return records of consecutive seconds from 1000, with some fields set by the test."""

    def make(count: int, start: float = 1000.0, **fields: object) -> list[Record]:
        return [
            Record(
                id=one,
                time=start + i,
                version="houses@1",
                variant="champion",
                source="local",
                features=b'{"income":%d,"kind":"h\xc3\xb4tel"}' % i,
                prediction=100.0 + i,
                lower=90.0 + i,
                upper=110.0 + i,
                coverage=0.9,
                latency_ms=0.25,
                client="tests",
            )._replace(**fields)
            for i, one in enumerate(new_ids(count))
        ]

    return make
