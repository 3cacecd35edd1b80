from __future__ import annotations

import threading
import time

import pytest

from tasador.core.parallel import in_parallel, usable_cores


def test_every_item_comes_back_once_with_its_position() -> None:
    found = dict(in_parallel(lambda x: x * x, range(50)))
    assert found == {i: i * i for i in range(50)}
    assert list(in_parallel(str, [])) == []
    assert usable_cores() >= 1


def test_the_largest_are_begun_first() -> None:
    begun = []
    items = [3.0, 9.0, 1.0, 5.0]
    list(in_parallel(begun.append, items, cost=lambda item: item, workers=1))
    assert begun == [9.0, 5.0, 3.0, 1.0]


def test_two_items_are_worked_on_at_once() -> None:
    meeting = threading.Barrier(2, timeout=20)
    assert len(list(in_parallel(lambda _: meeting.wait(), range(2), workers=2))) == 2


def test_an_error_reaches_the_caller_and_what_has_not_begun_is_dropped() -> None:
    begun = []

    def work(item: int) -> None:
        begun.append(item)
        if item == 1:
            raise ValueError("item 1 is bad")
        time.sleep(0.01)

    with pytest.raises(ValueError, match="item 1 is bad"):
        list(in_parallel(work, range(500), workers=1))
    assert len(begun) < 500


def test_a_caller_who_stops_listening_stops_the_work() -> None:
    begun = []

    def work(item: int) -> int:
        begun.append(item)
        time.sleep(0.005)
        return item

    for _ in in_parallel(work, range(500), workers=1):
        break
    time.sleep(0.05)
    seen = len(begun)
    time.sleep(0.05)
    assert seen < 500
    assert len(begun) == seen
