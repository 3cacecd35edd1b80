"""Prediction ids: they grow, and none is ever given twice."""

from __future__ import annotations

import os
import threading
import time
import uuid

import pytest

from tasador.records.record import new_id, new_ids


def time_of(one: str) -> float:
    return int(one.replace("-", "")[:12], 16) / 1000


def test_an_id_is_a_uuid_of_version_7_that_carries_its_time() -> None:
    before = time.time()
    made = new_id()
    parsed = uuid.UUID(made)
    assert (str(parsed), parsed.version, parsed.variant) == (made, 7, uuid.RFC_4122)
    assert before - 0.001 <= time_of(made) <= time.time()


def test_ids_grow_as_texts_also_within_one_millisecond() -> None:
    made = [*new_ids(50_000), new_id(), *new_ids(10)]
    assert made == sorted(set(made))
    assert len({one[:13] for one in made}) < len(made) / 10  # many of the same millisecond


def test_one_id_does_not_tell_the_random_end_of_the_next() -> None:
    ends = [int(one[-8:], 16) for one in new_ids(2000)]
    assert len(set(ends)) > 1990
    for bit in range(32):  # each bit is set in half of the ids: 8 standard deviations
        assert 800 < sum(end >> bit & 1 for end in ends) < 1200


def test_threads_never_get_the_same_id() -> None:
    made: list[str] = []
    threads = [threading.Thread(target=lambda: made.extend(new_ids(200))) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 4000


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_gives_no_id_of_its_parent() -> None:
    new_ids(3)  # the child inherits the counter and the state of the random numbers
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, ",".join(new_ids(200)).encode())
        os._exit(0)
    os.close(writer)
    mine = new_ids(200)
    with os.fdopen(reader) as pipe:
        theirs = pipe.read().split(",")
    os.waitpid(child, 0)
    assert len({*mine, *theirs}) == 400
    assert not {i[-8:] for i in mine} & {i[-8:] for i in theirs}
