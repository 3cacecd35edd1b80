"""Predictions remembered in process and in a real Redis, which is stopped, hung and killed."""

import asyncio
import re
import shutil
import signal
import time

import numpy as np
import pytest

from fixtures.redis import Redis
from tasador.core.errors import ConfigError
from tasador.modeling.prediction import Support
from tasador.serving.cache import (
    MemoryCache,
    RedisCache,
    _packed,
    _unpacked,
    keys_of,
    make_cache,
)
from tasador.settings.serving import CacheSettings

PREDICT = "/api/v1/predict"
ENTRY = (1.0, 0.5, 2.0, ("rooms was missing",), 0.25, Support(1.5, "km", 7, ("rooms",)))


@pytest.fixture
def redis(tmp_path):
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    found = Redis(tmp_path)
    yield found
    found.process.send_signal(signal.SIGCONT)
    found.kill()


def counted(client):
    text = client.get("/metrics").text
    return {name: int(float(value)) for name, value in
            re.findall(r'tasador_cache_rows_total\{result="(\w+)"\} (\S+)', text)}  # fmt: skip


def wait_for(ready, seconds=10.0):
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end
        time.sleep(0.02)


def without_ids(answer):
    assert answer.status_code == 200, answer.text
    rows = answer.json()["predictions"]
    return [{k: v for k, v in row.items() if k != "prediction_id"} for row in rows]


def check_remembering(client, service, house, stored):
    rows = [house, {**house, "rooms": None}, {**house, "income": 5.0}]
    first = client.post(PREDICT, json={"instances": rows[:2]})
    stored()
    again = client.post(PREDICT, json={"instances": rows})
    fresh = client.post(PREDICT, json={"instances": rows[2:]})
    assert without_ids(again)[:2] == without_ids(first)
    assert without_ids(again)[2:] == without_ids(fresh)
    assert without_ids(again)[1]["warnings"] == ["rooms was missing and has been imputed"]
    ids = [row["prediction_id"] for a in (first, again) for row in a.json()["predictions"]]
    assert len(set(ids)) == 5
    assert service.writer.status().written == 6
    return counted(client)


def test_in_process_a_row_is_valued_once_and_recorded_every_time(serve, house):
    service = serve(cache=CacheSettings(kind="memory"))
    with service.client() as client:
        found = check_remembering(client, service, house, lambda: None)
        assert found == {"hit": 3, "miss": 3}
        predictor = service.service.predictor()
        predictor.predict = lambda X, coverage: 1 / 0
        assert client.post(PREDICT, json={"instances": [house]}).status_code == 200


def test_redis_remembers_for_all_processes_that_share_it(serve, house, redis):
    settings = CacheSettings(kind="redis", url=redis.url, timeout_s=1.0)
    service = serve(cache=settings)
    with service.client() as client:
        found = check_remembering(
            client, service, house, lambda: wait_for(lambda: redis.keys() == 2)
        )
        assert found["hit"] >= 2
        wait_for(lambda: redis.keys() == 3)
    other = serve(cache=settings)
    with other.client() as client:
        client.post(PREDICT, json={"instances": [house]})
        assert counted(client) == {"hit": 1, "miss": 0}


def test_a_redis_that_dies_fails_nobody_and_is_used_again_when_it_is_back(serve, house, redis):
    service = serve(cache=CacheSettings(kind="redis", url=redis.url, timeout_s=0.5, reset_s=0.2))
    with service.client() as client:
        expected = without_ids(client.post(PREDICT, json={"instances": [house]}))
        wait_for(lambda: redis.keys() == 1)
        redis.kill()
        for _ in range(20):
            assert without_ids(client.post(PREDICT, json={"instances": [house]})) == expected
        assert counted(client)["error"] == 20
        redis.start()

        def remembered():
            client.post(PREDICT, json={"instances": [house]})
            return counted(client)["hit"] > 0

        wait_for(remembered)


def test_a_redis_that_hangs_is_soon_left_alone(serve, house, redis, caplog):
    """After three timeouts no request waits any more."""
    service = serve(cache=CacheSettings(kind="redis", url=redis.url, timeout_s=0.4, reset_s=600.0))
    with service.client() as client:
        expected = without_ids(client.post(PREDICT, json={"instances": [house]}))
        wait_for(lambda: redis.keys() == 1)
        redis.process.send_signal(signal.SIGSTOP)
        for _ in range(100):
            assert without_ids(client.post(PREDICT, json={"instances": [house]})) == expected
        assert caplog.text.count("the Redis cache does not answer: TimeoutError") == 3
        assert counted(client)["error"] == 100


def test_an_entry_that_is_none_is_valued_again(serve, house, redis):
    service = serve(cache=CacheSettings(kind="redis", url=redis.url, timeout_s=1.0))
    with service.client() as client:
        expected = without_ids(client.post(PREDICT, json={"instances": [house]}))
        wait_for(lambda: redis.keys() == 1)
        script = "for _,k in ipairs(redis.call('KEYS','*')) do redis.call('SET',k,'spoilt') end"
        redis.command(f'EVAL "{script}" 0')
        assert without_ids(client.post(PREDICT, json={"instances": [house]})) == expected
        assert counted(client)["hit"] == 0


@pytest.mark.parametrize("entry", [ENTRY, (1.0, 0.5, 2.0, (), None, None)])
def test_an_entry_survives_its_way_to_redis_and_back(entry):
    assert _unpacked(_packed(entry)) == entry


@pytest.mark.parametrize(
    "value",
    [None, b"", b"x" * 23, b"\xff" * 24, _packed(ENTRY)[:-1], _packed(ENTRY) + b"]",
     _packed(ENTRY)[:24] + b"{}", _packed(ENTRY)[:24] + b"[1]", "text"],
)  # fmt: skip
def test_what_is_no_entry_counts_as_not_there(value):
    assert _unpacked(value) is None


def test_keys_differ_by_version_and_by_the_last_bit():
    X = np.array([[1.0, np.nan], [np.nextafter(1.0, 2.0), np.nan], [1.0, np.nan]])
    first, second, third = keys_of("a", X)
    assert first == third
    assert first != second
    assert keys_of("b", X)[0] != first


def test_the_rows_not_asked_for_longest_are_forgotten():
    counts = {"hit": 0, "miss": 0}

    def count(result, rows):
        counts[result] += rows

    cache = MemoryCache(2, count)
    cache.store([(b"a", ENTRY), (b"b", ENTRY)])
    asyncio.run(cache.fetch([b"a"]))
    cache.store([(b"c", ENTRY)])
    assert asyncio.run(cache.fetch([b"a", b"b", b"c"])) == [ENTRY, None, ENTRY]
    assert counts == {"hit": 3, "miss": 1}


def test_the_cache_is_off_by_default_and_a_wrong_address_is_not_shown():
    assert make_cache(CacheSettings(), lambda *_: None) is None
    with pytest.raises(ConfigError, match=r"set cache\.url"):
        make_cache(CacheSettings(kind="redis"), lambda *_: None)
    with pytest.raises(ConfigError, match="is invalid") as caught:
        RedisCache(CacheSettings(kind="redis", url="http://:hunter2@x"), lambda *_: None)
    assert "hunter2" not in str(caught.value)
