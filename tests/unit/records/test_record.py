"""Prediction ids: they grow, and none is ever given twice."""

from __future__ import annotations

import os
import threading
import uuid

import pytest

from tasador.core import clock
from tasador.records.record import IdMaker, id_time, new_id, new_ids


@pytest.fixture
def held_clock():
    """A clock that stands where the test puts it."""
    now = [1_764_000_000.0]
    clock.use_source(lambda: now[0])
    yield now
    clock.use_source(None)


def test_an_id_is_a_uuid_of_version_7_that_carries_its_time(held_clock) -> None:
    made = new_id()
    parsed = uuid.UUID(made)
    assert (str(parsed), parsed.version, parsed.variant) == (made, 7, uuid.RFC_4122)


def test_the_time_within_an_id_is_the_clock_to_the_millisecond(held_clock) -> None:
    held_clock[0] = 1_764_000_000.123
    assert id_time(IdMaker().new_ids(1)[0]) == 1_764_000_000.123


def test_a_text_that_is_not_an_id_has_no_time() -> None:
    with pytest.raises(ValueError, match="not a UUID of version 7"):
        id_time("6ba7b810-9dad-41d1-80b4-00c04fd430c8")


def test_ids_grow_as_texts_also_within_one_millisecond_and_over_its_end(held_clock) -> None:
    maker = IdMaker()
    made = maker.new_ids(50_000)
    held_clock[0] += 0.001
    made += maker.new_ids(10)
    assert made == sorted(set(made))


def test_a_clock_that_jumps_back_repeats_nothing(held_clock) -> None:
    maker = IdMaker()
    before = maker.new_ids(1000)
    held_clock[0] -= 3600
    after = maker.new_ids(1000)
    assert before + after == sorted(set(before + after))


def test_a_used_up_counter_borrows_from_the_next_millisecond(held_clock) -> None:
    maker = IdMaker()
    first = maker.new_ids(1)[0]
    maker._high, maker._low = 0xFFF, 0xBFFE
    made = [first, *maker.new_ids(5)]
    assert made == sorted(set(made))
    assert id_time(made[-1]) == pytest.approx(id_time(first) + 0.001)


def test_threads_that_share_a_maker_never_get_the_same_id() -> None:
    maker, made = IdMaker(), []
    threads = [
        threading.Thread(target=lambda: made.extend(maker.new_ids(7)[i] for i in range(7)))
        for _ in range(50)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 350


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_gives_no_id_of_its_parent(held_clock) -> None:
    new_ids(3)  # fills the pool of random bits, which the child inherits
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
    assert not {i[-12:] for i in mine} & {i[-12:] for i in theirs}
