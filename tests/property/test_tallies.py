"""A window counted in parts is the window counted at once, however it is cut and put together."""

from __future__ import annotations

import dataclasses
import functools
import pickle
from itertools import pairwise
from unittest import mock

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tasador.contract.model import Column
from tasador.monitoring import window_summary as tallies
from tasador.monitoring.reference import build_reference
from tasador.monitoring.verdict import Finding
from tasador.monitoring.window import Window
from tasador.monitoring.window_summary import WindowSummary

N = 400
COLUMNS = (
    Column("area", "number", bounds=(20.0, 300.0)),
    Column("kind", "category", role="segment", categories=("flat", "house")),
)


def _rows(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    area = random.lognormal(4.5, 0.6, n)
    area[random.random(n) < 0.05] = np.nan
    area[random.random(n) < 0.01] = np.inf
    kind = random.integers(0, 3, n).astype(float)  # the last is unknown
    price = 1000 * np.nan_to_num(area, nan=90, posinf=90)
    return np.column_stack([area, kind]), price


@functools.cache
def reference():
    X, price = _rows(2000, 1)
    noise = np.exp(np.random.default_rng(2).normal(0, 0.1, 2000))
    return build_reference(COLUMNS, X, prediction=price * noise, actual=price, log=True)


@functools.cache
def window() -> Window:
    X, price = _rows(N, 3)
    random = np.random.default_rng(4)
    failed = random.random(N) < 0.05
    prediction = np.where(failed, np.nan, price * np.exp(random.normal(0, 0.2, N)))
    return Window.of(
        reference().names, X,
        prediction=prediction, lower=prediction * 0.8, upper=prediction * 1.2,
        actual=np.where(random.random(N) < 0.5, price, np.nan),
        latency_ms=random.normal(5, 4, N), time=1e9 + np.arange(N) * 60.0,
        failed=failed, version=random.integers(-1, 2, N), versions=("v1", "v2"),
        problems=(Finding("input", "area", "warn", "odd"),),
    )  # fmt: skip


def part(begin: int, end: int) -> Window:
    """Cut rows out; a part names only the versions that it has, in an order of its own."""
    whole = window()
    values = {
        field.name: getattr(whole, field.name)[begin:end]
        for field in dataclasses.fields(Window)
        if field.name not in ("columns", "versions", "problems")
    }
    has = [v for v in (1, 0) if (values["version"] == v).any()]
    codes = np.array([*(has.index(v) if v in has else -1 for v in (0, 1)), -1])
    values["version"] = codes[values["version"]]
    versions = tuple(whole.versions[v] for v in has)
    problems = whole.problems if begin == 0 else ()
    return Window(whole.columns, versions=versions, problems=problems, **values)


def counted(begin: int, end: int) -> WindowSummary:
    tally = WindowSummary(reference(), begin)
    tally.add(part(begin, end))
    return tally


def plain(value: object) -> object:
    """Return nested arrays and values as what can be compared."""
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    return value.tobytes() if isinstance(value, np.ndarray) else value


def state(tally: WindowSummary) -> object:
    return plain(tally.state())


@settings(max_examples=25)
@given(cuts=st.lists(st.integers(0, N), max_size=6), order=st.randoms(use_true_random=False))
def test_parts_add_up_to_the_whole_in_any_order_and_grouping(cuts, order) -> None:
    edges = sorted({0, N, *cuts})
    with (
        mock.patch.object(tallies, "MOST_ROWS", 60),
        mock.patch.object(tallies, "MOST_FIGURES", 90),
    ):
        parts = [counted(a, b) for a, b in pairwise(edges)]
        in_order = functools.reduce(WindowSummary.merge, parts)
        while len(parts) > 1:
            one = parts.pop(order.randrange(len(parts)))
            other = parts.pop(order.randrange(len(parts)))
            parts.append(one.merge(other) if order.random() < 0.5 else other.merge(one))
        at_once = WindowSummary(reference())
        for a, b in pairwise(edges):
            at_once.add(part(a, b))
    assert state(parts[0]) == state(in_order) == state(at_once)  # to the last bit
    assert parts[0].n == N


@settings(max_examples=10)
@given(cut=st.integers(1, N - 1))
def test_a_merge_changes_neither_part_and_a_tally_travels(cut) -> None:
    one, other = counted(0, cut), counted(cut, N)
    before = state(one), state(other)
    merged = one.merge(other)
    assert state(merged) == state(other.merge(one))
    assert (state(one), state(other)) == before
    sent = WindowSummary.from_state(reference(), pickle.loads(pickle.dumps(one.state())))
    assert state(sent) == before[0]
    assert state(sent.merge(other)) == state(merged)
