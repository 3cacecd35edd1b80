"""Ledgers on both databases."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fixtures.registry_fakes import MemoryVersions
from tasador.lifecycle.alias_updates import Ledger
from tasador.records.database import Database


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/tasador.db"
    return request.getfixturevalue("postgres_url")


@pytest.fixture
def ledger(url) -> Iterator[Ledger]:
    with Database.open(url) as database:
        yield Ledger(database, "houses_model")


@pytest.fixture
def versions() -> MemoryVersions:
    return MemoryVersions()
