"""`RayEngine`: work as tasks of a Ray cluster, one core each.

What all items share is put into the cluster's object store once; processes on one machine read the
same copy. Whatever a worker warns of is warned of here. A task whose process or machine is lost is
retried elsewhere; an error of the work itself is not tried again.
"""

from __future__ import annotations

import os
import re
import socket
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import lru_cache
from importlib import metadata
from importlib.util import find_spec
from typing import Any, Generic, TypeVar

from tasador.core.errors import EngineError, MissingExtraError
from tasador.core.parallel import (
    Actors,
    Engine,
    EngineName,
    Held,
    LocalEngine,
    RaySettings,
    longest_first,
    raise_first,
    usable_cores,
)

Shared = TypeVar("Shared")
Item = TypeVar("Item")
Result = TypeVar("Result")
Question = TypeVar("Question")

#: What decides the bits of a result and must be the same on every machine.
_PACKAGES = ("tasador", "numpy", "scipy", "scikit-learn", "lightgbm", "xgboost-cpu", "catboost",
             "onnxruntime", "pyarrow")  # fmt: skip
_KNOCK_S = 5.0
#: A warning as it travels: text, category, file, line.
_Warned = tuple[str, type[Warning], str, int]
_SAME_EVERYWHERE = "install the same requirements on every machine of the cluster"


class ClusterError(EngineError):
    """A Ray cluster that cannot be used, or that lost the work."""

    @classmethod
    def other_packages(
        cls, names: Sequence[str], wanted: Mapping[str, str], own: Mapping[str, str]
    ) -> ClusterError:
        """Return the error of this machine, whose packages `names` differ from those wanted."""
        return cls(
            f"the machine {socket.gethostname()} has other packages than the one that asks it to "
            "work",
            expected=", ".join(f"{name} {wanted.get(name, 'absent')}" for name in names),
            got=", ".join(f"{name} {own.get(name, 'absent')}" for name in names),
            remedy=_SAME_EVERYWHERE,
        )

    @classmethod
    def no_answer(cls, address: str, error: OSError) -> ClusterError:
        """Return the error of an address where nobody listens."""
        return cls(
            f"no Ray cluster answers at {address}: {error.strerror or error}",
            expected="the head's address: host:6379, or ray://host:10001 from outside the cluster",
            remedy="start it with `ray start --head`, and check the port and the firewall",
        )

    @classmethod
    def unusable(cls, address: str | None, error: Exception) -> ClusterError:
        """Return the error of a cluster that Ray cannot join or start."""
        return cls(
            f"the Ray cluster cannot be used: {f'{error}'.strip().splitlines()[0]}",
            expected="a running cluster of the same versions of Ray and Python",
            got=f"ray.address={'null' if address is None else address}",
            remedy="start one with `ray start --head`, or leave ray.address null",
        )

    @classmethod
    def lost(cls, error: BaseException) -> ClusterError:
        """Return the error of work that ended with one of Ray's errors."""
        # Ray colours its messages, whatever they are written to
        text = re.sub(r"\x1b\[[0-9;]*m", "", f"{error}".strip().splitlines()[0])
        if "No module named" in text:
            return cls(
                f"a machine of the cluster lacks code: {text}",
                expected="the same version of tasador on every machine",
                remedy=_SAME_EVERYWHERE,
            )
        return cls(
            f"the Ray cluster lost the work: {text}",
            got=type(error).__name__,
            remedy="look at the cluster's memory and logs (`ray status`), then run again: what was "
            "finished is kept; ray.retries says how often an item is retried",
        )


class RayEngine:
    """A Ray cluster that this process is connected to.

    Args:
        retries: How often an item is retried when its process or machine is lost.
    """

    def __init__(self, retries: int) -> None:
        import ray

        self._ray: Any = ray
        self.retries = retries
        self._run: Any = self._ray.remote(_run).options(
            num_cpus=1, max_retries=retries, retry_exceptions=False
        )

    @property
    def slots(self) -> int:
        """See `Engine.slots`: the cores of the machines that are there now."""
        with ray_errors():
            return max(int(self._ray.cluster_resources().get("CPU", 1)), 1)

    def share(self, value: Shared) -> Held[Shared]:
        """See `Engine.share`."""
        with ray_errors():
            return Held(self._ray.put(value))

    def map(
        self,
        work: Callable[[Shared, Item], Result],
        held: Held[Shared],
        items: Sequence[Item],
        *,
        cost: Callable[[Item], float] | None = None,
    ) -> Iterator[tuple[int, Result]]:
        """See `Engine.map`.

        The cluster is given twice as many items as it has cores. Who stops asking leaves those to
        finish for nothing, instead of cancelling them: in Ray 2.60 a task that ends while it is
        being cancelled takes the whole process down ("task that was not pending").
        """
        with ray_errors():
            versions = self._ray.put(own_versions())
        left = deque(longest_first(items, cost))
        begun: dict[Any, int] = {}
        while left or begun:
            with ray_errors():
                while left and len(begun) < 2 * self.slots:
                    position = left.popleft()
                    task = self._run.remote(versions, work, held.where, items[position])
                    begun[task] = position
                ready, _ = self._ray.wait(list(begun), num_returns=1)
                result, warned = self._ray.get(ready[0])
            _warn(warned)
            yield begun.pop(ready[0]), result

    @contextmanager
    def actors(
        self,
        make: Callable[[Shared, Item], Callable[[Question], Result]],
        held: Held[Shared],
        items: Sequence[Item],
    ) -> Iterator[Actors[Question, Result]]:
        """See `Engine.actors`.

        An actor takes a core while it is placed and none afterwards: it works only when it is
        called, and its caller does nothing else meanwhile. So a cluster of one core has capacity
        for several, and two runs on one cluster cannot wait for each other's actors for ever.
        """
        actor = self._ray.remote(_Actor).options(
            max_restarts=self.retries, max_task_retries=self.retries, scheduling_strategy="SPREAD"
        )
        with ray_errors():
            actors = [actor.remote(own_versions(), make, item) for item in items]
        try:
            yield _RayActors(self._ray, actors, held.where)
        finally:
            for one in actors:
                with suppress(Exception):
                    self._ray.kill(one)


class _RayActors(Generic[Question, Result]):
    """What they share goes with each call: an actor that is restarted needs nothing else."""

    def __init__(self, ray: Any, actors: Sequence[Any], shared: Any) -> None:
        self._ray, self._actors, self._shared = ray, actors, shared

    def call(self, question: Question) -> list[Result]:
        answers: list[Result | Exception] = []
        with ray_errors():
            called = [actor.call.remote(self._shared, question) for actor in self._actors]
        for reference in called:
            try:
                with ray_errors():
                    answer, warned = self._ray.get(reference)
            except EngineError:
                raise
            except Exception as error:
                answer, warned = error, []
            _warn(warned)
            answers.append(answer)
        return raise_first(answers)


class _Actor:
    """One object, in a process of its own; runs in the cluster."""

    def __init__(
        self, versions: dict[str, str], make: Callable[[Any, Any], Callable[[Any], Any]], item: Any
    ) -> None:
        self._versions, self._make, self._item = versions, make, item
        self._made: Callable[[Any], Any] | None = None

    def call(self, shared: Any, question: Any) -> tuple[Any, list[_Warned]]:
        check_versions(self._versions)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            # made here and not above, so that an error of it is the answer's and not the actor's
            if self._made is None:
                self._made = self._make(shared, self._item)
            answer = self._made(question)
        return answer, [_warned(one) for one in caught]


def _run(
    versions: dict[str, str], work: Callable[[Shared, Item], Result], shared: Shared, item: Item
) -> tuple[Result, list[_Warned]]:
    """Work on one item; runs in the cluster."""
    check_versions(versions)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = work(shared, item)
    return result, [_warned(one) for one in caught]


def _warned(one: warnings.WarningMessage) -> _Warned:
    return str(one.message), one.category, one.filename, one.lineno


def _warn(warned: list[_Warned]) -> None:
    for text, category, file, line in warned:
        warnings.warn_explicit(text, category, file, line)


@lru_cache(maxsize=1)
def own_versions() -> dict[str, str]:
    """Return the versions of what decides a result's bits, as far as it is installed."""
    found = {}
    for package in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def check_versions(wanted: dict[str, str]) -> None:
    """Refuse to work with other versions than those of the machine that asks.

    Raises:
        EngineError: Naming the machine and the packages.
    """
    own = own_versions()
    if own == wanted:
        return
    differing = sorted(
        name for name in own.keys() | wanted.keys() if own.get(name) != wanted.get(name)
    )
    raise ClusterError.other_packages(differing, wanted, own)


def check_ray(settings: RaySettings) -> None:
    """See that Ray is installed and that somebody listens at the cluster's address.

    Raises:
        MissingExtraError: Ray is not installed.
        EngineError: Nobody listens.
    """
    if find_spec("ray") is None:
        raise MissingExtraError.for_package("ray", "dist")
    if settings.address is not None:
        _knock(settings.address)


@contextmanager
def open_ray(settings: RaySettings) -> Iterator[Engine]:
    """Connect to a cluster, or start one on this machine, while the body runs.

    A process that is connected already stays so, whatever the address.

    Raises:
        MissingExtraError: Ray is not installed.
        EngineError: The cluster cannot be reached, or has another version of Ray or Python.
    """
    # Ray would otherwise tell its makers about every cluster that is started
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise MissingExtraError.for_package("ray", "dist") from None
    if ray.is_initialized():
        yield RayEngine(settings.retries)
        return
    _connect(ray, settings)
    try:
        yield RayEngine(settings.retries)
    finally:
        ray.shutdown()


def _connect(ray: Any, settings: RaySettings) -> None:
    address = settings.address
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        cores = settings.cpus or usable_cores()
        options |= {"address": "local", "num_cpus": cores, "include_dashboard": False}
    else:
        _knock(address)
        options["address"] = _resolved(address)
    try:
        _begin(ray, options, attempts=2 if address is None else 1)
    except Exception as error:  # Ray raises whatever went wrong on the way
        raise ClusterError.unusable(address, error) from error


def _resolved(address: str) -> str:
    """Return the address that ``auto`` means.

    Ray 2.60 cancels the actors of a driver that comes by ``auto``, and not by the address itself.
    """
    if address == "auto":
        with suppress(Exception):  # Ray itself says what is wrong
            from ray._private.services import canonicalize_bootstrap_address_or_die

            return str(canonicalize_bootstrap_address_or_die("auto"))
    return address


def _begin(ray: Any, options: dict[str, Any], attempts: int) -> None:
    """Call ``ray.init``; on a busy machine it gives up on its own processes after 30 seconds."""
    for left in reversed(range(attempts)):
        try:
            ray.init(**options)
            return
        except Exception:
            with suppress(Exception):
                ray.shutdown()
            if not left:
                raise


def _knock(address: str) -> None:
    """See whether anybody listens: Ray itself tries for minutes.

    Raises:
        EngineError: Nobody does.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return  # `auto`, or a form that Ray itself checks
    try:
        socket.create_connection((host, int(port)), timeout=_KNOCK_S).close()
    except OSError as error:
        raise ClusterError.no_answer(address, error) from None


@contextmanager
def ray_errors() -> Iterator[None]:
    """Give the work's own errors as they were raised, and Ray's as ours."""
    from ray import exceptions

    try:
        yield
    except exceptions.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, Exception) and not isinstance(cause, exceptions.RayError):
            raise cause from None
        raise ClusterError.lost(cause or error) from None
    except (exceptions.RayError, ConnectionError) as error:
        raise ClusterError.lost(error) from error


def check_engine(name: EngineName, settings: RaySettings) -> None:
    """Say what is wrong before any work is done.

    Raises:
        MissingExtraError: Ray is not installed.
        EngineError: Nobody listens at the cluster's address.
    """
    if name == "ray":
        check_ray(settings)


@contextmanager
def open_engine(name: EngineName, settings: RaySettings) -> Iterator[Engine]:
    """Give the engine while the body runs.

    Raises:
        MissingExtraError: Ray is not installed.
        EngineError: The cluster cannot be reached.
    """
    opened: AbstractContextManager[Engine] = nullcontext(LocalEngine())
    if name == "ray":
        opened = open_ray(settings)
    with opened as engine:
        yield engine
