"""Rate limits hold over workers: whoever counts, one client has one share."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tasador.serving.errors import Problem
from tasador.serving.http.auth import KeyAccess, RateLimit, SharedBuckets
from tasador.settings.serving import LimitSettings, SecuritySettings


def test_processes_share_a_clients_bucket_and_not_another_ones(tmp_path) -> None:
    code = (
        "import sys, time; from pathlib import Path;"
        "from tasador.serving.http.auth import SharedBuckets;"
        "found = SharedBuckets(Path(sys.argv[1]));"
        "print(sum(found.take(sys.argv[2], 100.0, 1.0, 50) >= 1.0 for _ in range(40)))"
    )
    path = str(tmp_path / "rates")
    run = [[sys.executable, "-c", code, path, name] for name in ("a", "a", "b")]
    started = [subprocess.Popen(one, stdout=subprocess.PIPE, text=True) for one in run]
    allowed = [int(one.communicate(timeout=60)[0]) for one in started]
    assert allowed[0] + allowed[1] == 50
    assert allowed[2] == 40


def test_a_shared_bucket_gives_what_one_of_a_single_process_gives(tmp_path) -> None:
    now = 1000.0
    alone = RateLimit(2.0, 3, clock=lambda: now)
    shared = RateLimit(2.0, 3, clock=lambda: now, shared=SharedBuckets(tmp_path / "rates"))
    for pause in (0.0, 0.0, 0.0, 0.0, 0.1, 0.4, 0.0, 5.0, 0.0, 0.0, 0.0, 0.0):
        now += pause
        assert shared.take("a") == pytest.approx(alone.take("a"))


def test_more_clients_than_places_are_each_let_in_and_the_file_does_not_grow(tmp_path) -> None:
    buckets = SharedBuckets(tmp_path / "rates")
    size = (tmp_path / "rates").stat().st_size
    assert all(buckets.take(f"client {i}", float(i), 0.001, 5) >= 1.0 for i in range(40_000))
    assert (tmp_path / "rates").stat().st_size == size


def test_wrong_keys_are_counted_over_workers(tmp_path) -> None:
    settings = SecuritySettings(keys=(f"app:client:{'0' * 64}",), failures_per_minute=4)
    workers = [KeyAccess(settings, LimitSettings(), tmp_path) for _ in range(2)]
    statuses = []
    for i in range(8):
        with pytest.raises(Problem, match="key") as refused:
            workers[i % 2].admit({b"x-api-key": b"wrong"}, "/api/v1/predict", "10.0.0.1")
        statuses.append(refused.value.status)
    assert statuses == [401] * 4 + [429] * 4
