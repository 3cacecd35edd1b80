"""Work on several cores: threads, for work that spends its time outside Python's lock."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def usable_cores() -> int:
    """Return how many cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1


def longest_first(items: Sequence[Item], cost: Callable[[Item], float] | None) -> list[int]:
    """Return the items' positions in the order to begin them; their own without a cost."""
    order = list(range(len(items)))
    if cost is not None:
        order.sort(key=lambda position: -cost(items[position]))
    return order


def in_parallel(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    cost: Callable[[Item], float] | None = None,
    workers: int | None = None,
) -> Iterator[tuple[int, Result]]:
    """Yield each item's position and result as they become ready.

    The threads are daemons and are not waited for when the caller stops listening (an error, an
    interruption): what has not begun is dropped, what runs ends unheard.

    Args:
        work: Called with one item, in a thread.
        items: What is to be done.
        cost: How much work an item is, in any unit. The largest are begun first, so that no long
            one is left over for a single core at the end. Without it, the items' own order.
        workers: Number of threads; as many as there are cores when None.

    Raises:
        BaseException: Whatever `work` raises first.
    """
    order = longest_first(items, cost)
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    for position in order:
        waiting.put(position)
    ready: queue.SimpleQueue[tuple[int, Result | None, BaseException | None]] = queue.SimpleQueue()
    stopped = threading.Event()

    def work_on_items() -> None:
        while not stopped.is_set():
            try:
                position = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                ready.put((position, work(items[position]), None))
            except BaseException as error:
                ready.put((position, None, error))

    for _ in range(min(workers or usable_cores(), len(items))):
        threading.Thread(target=work_on_items, daemon=True).start()
    try:
        for _ in order:
            position, result, error = ready.get()
            if error is not None:
                raise error
            yield position, result  # type: ignore[misc]
    finally:
        stopped.set()
