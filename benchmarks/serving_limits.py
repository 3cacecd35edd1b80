"""What bounds the service on this machine: its road without work, its stages, a second worker.

Four routes of one worker with 16 connections, once with server and wrk each on a core of its own,
once as they fall: an empty POST that the middleware of predict answers, the same with a record
committed, predict without records, and predict with each valuation committed before its answer.
Server time is the processor time of all its threads. While 16 callers wait for each other on one
core, an answer takes 16 times the time of one request (Little's law): no route is faster than
that, and no valuation faster than the empty POST.

Then the stages of one request, timed inside the service, and one worker beside two.

    python benchmarks/serving_limits.py --workspace workspace [--seconds 5] [--rounds 3]

Needs wrk and taskset. Exits with 1 when a goal is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from figures import Figures
from isolation import isolate
from main_job import ROW, Figure
from serving import (
    CONNECTIONS,
    PEERS,
    Target,
    free_port,
    load,
    running,
    tasador_environment,
    uvicorn,
    wait_until_answered,
)
from tasador.core.parallel import usable_cores

_TICK = os.sysconf("SC_CLK_TCK")
BODY = json.dumps({"instances": [ROW]})
PREDICT = "/api/v1/predict"


def processes_of(group: int) -> Iterator[Path]:
    """Yield the folders under /proc of a process group."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ProcessLookupError):
            if os.getpgid(int(folder.name)) == group:
                yield folder


def pin(group: int, cores: Sequence[int]) -> None:
    """Keep every thread of a process group on `cores`."""
    for folder in processes_of(group):
        for task in (folder / "task").iterdir():
            with suppress(OSError):
                os.sched_setaffinity(int(task.name), cores)


def processor_s(group: int) -> float:
    """Return the seconds of processor time that a process group has taken."""
    total = 0
    for folder in processes_of(group):
        with suppress(OSError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
    return total / _TICK


class Costs:
    """Loads a route and keeps what a request took of the processors.

    Attributes:
        server: Microseconds of the server's processes a request, one for each round.
        caller: Microseconds of wrk a request.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        self.server: list[float] = []
        self.caller: list[float] = []

    def load(self, seconds: float, connections: int = CONNECTIONS, core: int | None = None) -> None:
        """Load for one round."""
        before = processor_s(self.target.group), _children_s()
        load(self.target, seconds, connections, core)
        after = processor_s(self.target.group), _children_s()
        requests = self.target.rounds[-1][0] * seconds
        for kept, start, end in zip((self.server, self.caller), before, after, strict=True):
            kept.append((end - start) / requests * 1e6)

    def forget(self) -> None:
        """Forget the rounds so far."""
        for kept in (self.target.rounds, self.server, self.caller):
            kept.clear()

    @property
    def server_us(self) -> float:
        """The median over the rounds."""
        return statistics.median(self.server)

    @property
    def caller_us(self) -> float:
        """The median over the rounds."""
        return statistics.median(self.caller)


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@contextmanager
def served(
    workspace: Path, command: Sequence[str], port: int, **variables: str
) -> Iterator[Target]:
    """Start a server of the newest bundle in a folder of its own; wait until it answers."""
    with tempfile.TemporaryDirectory(prefix="tasador-bench-") as folder:
        env = tasador_environment(workspace, Path(folder)) | variables
        target = Target("", f"http://127.0.0.1:{port}{PREDICT}", BODY)
        with running(list(command), env, PEERS) as process:
            wait_until_answered(target, process, 240)
            yield target


def roads(workspace: Path, seconds: float, rounds: int) -> dict[bool, list[Costs]]:
    """Load the four routes, pinned (where there are two cores) and not, in turn."""
    with ExitStack() as stack:
        routes = []
        for mode in ("durable", "off"):
            port = free_port()
            command = uvicorn(sys.executable, "ours:app", port)
            base = stack.enter_context(served(workspace, command, port, TASADOR_RECORDS__MODE=mode))
            address = base.url.removesuffix(PREDICT)
            names = {"empty POST": "/empty", "empty POST, a record committed": "/recorded"}
            names |= {"predict, every valuation committed": PREDICT}
            if mode == "off":
                names = {"predict, no records": PREDICT}
            routes += [(name, address + path, base.group) for name, path in names.items()]
        found = {}
        for pinned in (True, False) if usable_cores() > 1 else (False,):
            first, *others = sorted(os.sched_getaffinity(0))
            found[pinned] = [Costs(Target(n, url, BODY, group=g)) for n, url, g in routes]
            for one in found[pinned]:
                pin(one.target.group, [first] if pinned else [first, *others])
            for number in range(rounds + 1):
                for one in found[pinned]:
                    one.load(seconds if number else 1.0, core=others[0] if pinned else None)
                    if not number:
                        one.forget()  # the first one warms up
        return found


def stages(workspace: Path, seconds: float) -> list[tuple[str, float]]:
    """Return microseconds a request of each stage, inside a loaded server."""
    port = free_port()
    command = uvicorn(sys.executable, "ours:app", port)
    with served(workspace, command, port, TASADOR_BENCH_STAGES="1") as target:
        load(target, 1.0)

        def so_far() -> dict[str, list[float]]:
            address = target.url.replace(PREDICT, "/stages")
            with urllib.request.urlopen(address, timeout=30) as answer:
                found: dict[str, list[float]] = json.load(answer)
            return found

        before, costs = so_far(), Costs(target)
        costs.load(seconds)
        after = so_far()
    requests = after["parse"][0] - before["parse"][0]
    batches = after["features"][0] - before["features"][0]
    found = [(name, (after[name][1] - before[name][1]) / requests * 1e6) for name in after]
    rest = costs.server_us - sum(us for _, us in found)
    return [*found, ("HTTP, limits, counters, committing", rest),
            ("rows valued at a time, of them all", requests / batches)]  # fmt: skip


def workers(workspace: Path, seconds: float, rounds: int) -> list[Costs]:
    """Load `tasador serve` with one worker and with two, in turn."""
    with ExitStack() as stack:
        found = []
        for number in (1, 2):
            port = free_port()
            command = [sys.executable, "-m", "tasador.cli.app", "serve", "--port", str(port),
                       "--workers", str(number)]  # fmt: skip
            target = stack.enter_context(served(workspace, command, port))
            target.name = f"{number} worker{'s' * (number > 1)}"
            found.append(Costs(target))
        for number in range(rounds + 1):
            for one in found:
                one.load(seconds if number else 2.0, connections=32)
                if not number:
                    one.forget()
        return found


def keep(
    found: dict[bool, list[Costs]], parts: list[tuple[str, float]], shared: list[Costs]
) -> int:
    """Keep what the suite shows, print it, and return the exit code."""
    kept = Figures()
    columns = ("Route", "requests/s", "p50 ms", "p99 ms", "failed", "server us a request",
               "wrk us a request", f"{CONNECTIONS} x server, ms")  # fmt: skip
    for pinned, routes in found.items():
        where = "server and wrk each on a core of its own" if pinned else "on any core"
        kept.table(
            f"What a valuation's road costs, {CONNECTIONS} connections, {where}",
            columns,
            [
                (c.target.name, *(c.target.median(i) for i in range(3)),
                 sum(one[3] for one in c.target.rounds), c.server_us, c.caller_us,
                 CONNECTIONS * c.server_us / 1000)
                for c in routes
            ],
            "The last column is the least p50 where one core does all of a server's work. With a "
            "goal of 2 ms a request may take 125 us.",
        )  # fmt: skip
    *times, (title, together) = parts
    kept.table(
        f"Stages of predict under load, {CONNECTIONS} connections",
        ("Stage", "us a request"), times,
        f"{title}: {together:.1f}. Processor time of the thread that answers, and of taking the "
        "times; the last stage is the rest of all threads.",
    )  # fmt: skip
    one, two = shared
    cores = usable_cores()
    most = cores * 1e6 / (two.server_us + two.caller_us)
    times_one = two.target.median(0) / one.target.median(0)
    kept.table(
        "One worker and two, 32 connections, wrk on the same cores",
        ("Server", "requests/s", "p50 ms", "p99 ms", "failed", "server us a request",
         "wrk us a request"),
        [
            (c.target.name, *(c.target.median(i) for i in range(3)),
             sum(r[3] for r in c.target.rounds), c.server_us, c.caller_us)
            for c in shared
        ],
        f"{cores} cores have time for {most:,.0f} requests/s of two workers and wrk: "
        f"{most / one.target.median(0):.2f} times what one worker did.",
    )  # fmt: skip
    routes = found.get(True, found[False])
    ours, empty = routes[2].target, routes[0].target
    goals = [
        Figure("p50 of predict, ms", ours.median(1), 2),
        Figure("p99 of predict, ms", ours.median(2), 5),
        Figure("p50 of the empty POST, ms", empty.median(1), 2),
        Figure("requests/s of two workers, times those of one", times_one, 1.7,
               lower_is_better=False),
        Figure("share of what the cores have time for, %", 100 * two.target.median(0) / most, 85,
               lower_is_better=False),
    ]  # fmt: skip
    kept.show()
    return kept.finish(goals)


def main() -> int:
    """Measure, print, and tell whether the goals are met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workspace", type=Path, default=Path("workspace"))
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    return keep(
        roads(given.workspace, given.seconds, given.rounds),
        stages(given.workspace, given.seconds),
        workers(given.workspace, given.seconds, given.rounds),
    )


if __name__ == "__main__":
    isolate()
    sys.exit(main())
