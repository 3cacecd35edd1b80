"""Where work is done: on this machine's cores, or on a Ray cluster, with the same results.

An engine takes work as functions of what all items share and of one item. They must live in a
module (a cluster's processes import them by name) and depend on nothing else, so that it does not
matter where, in which order or how many times an item is worked on: a process that dies is replaced
and its item retried.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Generic, Literal, Protocol, TypeVar

from annotated_types import Interval

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


Shared = TypeVar("Shared")
Shared_co = TypeVar("Shared_co", covariant=True)
Question = TypeVar("Question")
Question_contra = TypeVar("Question_contra", contravariant=True)

EngineName = Literal["local", "ray"]


@dataclass(frozen=True)
class RaySettings:
    """Which cluster is used with ``engine=ray``.

    Attributes:
        address: null starts a cluster on this machine for the run; ``auto`` takes the one that this
            machine belongs to; ``ray://host:10001`` and ``host:6379`` name one.
        cpus: Cores of the cluster that null starts; null takes all.
        retries: How often an item is retried when its process or machine is lost.
    """

    address: str | None = None
    cpus: Annotated[int, Interval(ge=1, le=100_000)] | None = None
    retries: Annotated[int, Interval(ge=0, le=1000)] = 4


@dataclass(frozen=True)
class Held(Generic[Shared_co]):
    """What all items share, brought to where the work is done once.

    Attributes:
        where: The value itself, or the cluster's reference to it.
    """

    where: Any


class Actors(Protocol[Question_contra, Result]):
    """Objects, each on a core of its own, that keep what they made from one call to the next."""

    def call(self, question: Question_contra) -> list[Result]:
        """Return the answer of each, in order; all work at the same time.

        Raises:
            EngineError: The cluster was lost, or an object more often than allowed.
            Exception: What one of them raises; the first one's, when several do.
        """


class Engine(Protocol):
    """Does work on many cores."""

    @property
    def slots(self) -> int:
        """How many items are worked on at the same time."""

    def share(self, value: Shared) -> Held[Shared]:
        """Bring a value to where the work is done; it must not be changed any more."""

    def map(
        self,
        work: Callable[[Shared, Item], Result],
        held: Held[Shared],
        items: Sequence[Item],
        *,
        cost: Callable[[Item], float] | None = None,
    ) -> Iterator[tuple[int, Result]]:
        """Yield each item's position and result as they become ready, the dearest begun first.

        Raises:
            EngineError: The cluster was lost, or an item's process more often than allowed.
            BaseException: Whatever `work` raises first.
        """

    def actors(
        self,
        make: Callable[[Shared, Item], Callable[[Question], Result]],
        held: Held[Shared],
        items: Sequence[Item],
    ) -> AbstractContextManager[Actors[Question, Result]]:
        """Make an object of each item, to be called while the body runs.

        An object may keep what makes its next answer cheaper, but its answer must depend on the
        question alone: one that is lost is made again and called again.
        """


class LocalActors(Generic[Question, Result]):
    """Objects in this process, called in threads."""

    def __init__(self, made: Sequence[Callable[[Question], Result]]) -> None:
        self._made = made

    def call(self, question: Question) -> list[Result]:
        """See `Actors.call`."""

        def answer(one: Callable[[Question], Result]) -> Result | Exception:
            try:
                return one(question)
            except Exception as error:
                return error

        with one_blas_thread():
            found = dict(in_parallel(answer, self._made))
        return raise_first([found[i] for i in range(len(self._made))])


def raise_first(answers: Sequence[Result | Exception]) -> list[Result]:
    """Return the answers, or raise the first error among them: the same one on every run."""
    found: list[Result] = []
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
        found.append(answer)
    return found


class LocalEngine:
    """This machine's cores, in threads."""

    @property
    def slots(self) -> int:
        """See `Engine.slots`."""
        return usable_cores()

    def share(self, value: Shared) -> Held[Shared]:
        """See `Engine.share`."""
        return Held(value)

    def map(
        self,
        work: Callable[[Shared, Item], Result],
        held: Held[Shared],
        items: Sequence[Item],
        *,
        cost: Callable[[Item], float] | None = None,
    ) -> Iterator[tuple[int, Result]]:
        """See `Engine.map`."""
        with one_blas_thread():
            yield from in_parallel(lambda item: work(held.where, item), items, cost=cost)

    @contextmanager
    def actors(
        self,
        make: Callable[[Shared, Item], Callable[[Question], Result]],
        held: Held[Shared],
        items: Sequence[Item],
    ) -> Iterator[Actors[Question, Result]]:
        """See `Engine.actors`."""
        yield LocalActors([make(held.where, item) for item in items])


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Let linear algebra use one thread while the body runs.

    Sums that several threads share end in other bits than those of one, so that scores would
    depend on the number of cores; and the cores have items to work on anyway. The number is the
    process's: of two threads that set it and put it back, the second puts back what the first had
    set. A whole run is one body therefore, in which there is nothing but one thread to put back.
    """
    try:
        import scipy.linalg  # noqa: F401 - it may bring a library of its own, which loads late
        from threadpoolctl import threadpool_limits
    except ImportError:  # nothing that is installed without it is trained with
        yield
        return
    with threadpool_limits(1, user_api="blas"):
        yield
