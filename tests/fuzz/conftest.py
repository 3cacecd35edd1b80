from __future__ import annotations

import contextlib
import json
import resource
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy

from fixtures.fuzzing import long_seconds
from tasador.core.errors import TasadorError

#: What one example may take at most: wall and processor seconds, and megabytes.
HANG_S, BUSY_S, MOST_MB = 60, 20.0, 700.0
#: Examples of a round; a long run has as many rounds as there is time for.
ROUND = 200
#: Longest message: an error is read by people.
LONGEST_MESSAGE = 20_000

Fuzz = Callable[..., Counter[str]]


def pytest_addoption(parser: pytest.Parser) -> None:
    # options of this folder: they exist only when tests/fuzz is named
    parser.addoption(
        "--minutes", type=float, default=None, help="how long all tests of the folder take together"
    )
    parser.addoption(
        "--examples", type=int, default=None, help="requests for each route of the API"
    )


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Fail when the block hangs, is busy for long, or takes much memory."""

    def hung(*_: object) -> None:
        raise AssertionError(f"no end after {HANG_S} s")

    before = signal.signal(signal.SIGALRM, hung)
    signal.alarm(HANG_S)
    peak, busy = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    taken = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) / 1024
    assert taken < MOST_MB, f"took {taken:.0f} MB"
    assert time.process_time() - busy < BUSY_S, f"{time.process_time() - busy:.0f} s of processor"


def check_message(error: TasadorError) -> None:
    """Check that an error says in few words, in either language, what is wrong and what to do."""
    said = str(error)
    assert error.message.strip()
    assert len(said) < LONGEST_MESSAGE, said[:500]
    parts = (error.expected, error.got, error.remedy)
    assert any(parts) or "expected" in said or ": " in said, said
    said.encode("utf-8", "strict")
    error.told("es")


@pytest.fixture
def fuzz(request: pytest.FixtureRequest) -> Fuzz:
    """Feed examples of a strategy to a check: `quick` of them, or for a share of a long run."""

    def run(
        strategy: SearchStrategy[Any], check: Callable[[Any], str], *, quick: int, share: float
    ) -> Counter[str]:
        counts: Counter[str] = Counter()

        def once(example: Any) -> None:
            with bounded():
                try:
                    counts[check(example)] += 1
                except TasadorError as error:
                    check_message(error)
                    counts[f"refused: {type(error).__name__}"] += 1

        def one_round(number: int, examples: int) -> None:
            feed = settings(
                max_examples=examples, database=None, phases=[Phase.generate, Phase.shrink],
                suppress_health_check=list(HealthCheck), report_multiple_bugs=False,
            )(seed(number)(given(strategy)(once)))  # fmt: skip
            try:
                feed()
            except BaseException as error:
                error.add_note(f"round {number} of {examples} examples")
                raise

        seconds = long_seconds(request.config, share)
        if seconds is None:
            one_round(0, quick)
            return counts
        end, number = time.monotonic() + seconds, int(time.time())
        while time.monotonic() < end:
            one_round(number, ROUND)
            number += 1
        print(f"{request.node.name}: {json.dumps(counts, sort_keys=True)}")
        return counts

    return run
