"""The compiled comparables give the bits of scipy's search and numpy's sums."""

import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasador.core.kernels import Native, native
from tasador.features import comparables as module
from tasador.features.comparables import ComparablesIndex
from tasador.features.plan import neighbourly_order

compiled = pytest.mark.skipif(native().library is None, reason=native().reason)


def table(seed, m, d, contexts, similar, decimals):
    """Training rows on a coarse grid: many lie equally far away, some at the same spot."""
    rng = np.random.default_rng(seed)
    points = np.round(rng.normal(size=(m, d)), decimals)
    return ComparablesIndex.fit(
        points,
        rng.normal(size=m),
        rng.normal(size=m) if similar else None,
        rng.normal(size=(m, contexts)),
    )


def questions(index, seed, n):
    rng = np.random.default_rng(seed + 1)
    points = np.round(rng.normal(size=(n, index.points.shape[1])) * 2, 1)
    points[: n // 2] = index.points[rng.integers(0, index.size, n // 2)]
    points[n - 1] = 1e100
    return points, (rng.normal(size=n) if len(index.similar) else None)


@compiled
@settings(max_examples=60)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(2, 400),
    st.integers(1, 6),
    st.integers(0, 5),
    st.booleans(),
    st.integers(0, 3),
    st.integers(1, 30),
)
def test_the_kernel_gives_the_bits_of_scipy_and_numpy(seed, m, d, contexts, similar, decimals, n):
    index = table(seed, m, d, contexts, similar, decimals)
    points, attribute = questions(index, seed, n)
    assert index._compact is not None
    position, distance = index._compact.neighbours(points)
    near = index.neighbours(points)
    assert (position == near.index).all()
    assert distance.tobytes() == near.distance.tobytes()
    got = index.features(points, attribute)
    assert got.tobytes() == index._features(points, attribute).tobytes()
    single = [
        index.features(points[i : i + 1], None if attribute is None else attribute[i : i + 1])
        for i in range(n)
    ]
    assert got.tobytes() == np.concatenate(single).tobytes()


@compiled
def test_many_rows_are_searched_in_chunks_with_the_same_bits():
    index = table(1, 3000, 2, 4, True, 1)
    points, attribute = questions(index, 1, 700)
    got = index.features(points[::-1], attribute[::-1])
    assert (got == index._features(points, attribute)[::-1]).all()
    assert index.features(points[:0], attribute[:0]).shape == (0, got.shape[1])
    together, own = np.repeat(points, 3, axis=0), np.repeat(attribute, 3) + np.arange(2100) % 3
    out = np.zeros((2100, got.shape[1] + 5))
    assert index.features(together, own, out=out[:, 2:-3]) is not None
    assert (out[:, 2:-3] == index._features(together, own)).all()
    assert not out[:, :2].any()
    assert not out[:, -3:].any()


def test_rows_of_one_place_follow_one_another_and_then_those_near():
    rng = np.random.default_rng(4)
    places = np.round(rng.normal(size=(3_000, 2)), 1)
    order = neighbourly_order(places)
    assert sorted(order.tolist()) == list(range(3_000))
    steps = np.diff(places[order], axis=0)
    assert (steps != 0).any(axis=1).sum() == len(np.unique(places, axis=0)) - 1
    assert np.abs(steps).mean() < 0.1 * np.abs(np.diff(places, axis=0)).mean()
    places[::7] = np.nan
    for odd in (places, places[:1], np.ones((5, 1)), np.ones((2, 3))):
        assert sorted(neighbourly_order(odd).tolist()) == list(range(len(odd)))


@compiled
def test_a_place_that_is_not_finite_is_refused_as_scipy_refuses_it():
    index = table(2, 100, 2, 1, False, 1)
    with pytest.raises(ValueError, match="finite"):
        index.features(np.array([[np.nan, 0.0]]), None)


@compiled
def test_a_search_that_answers_differently_is_not_used(monkeypatch, caplog):
    class Wrong(module.CompactIndex):
        def features(self, points, similar):
            return np.nextafter(super().features(points, similar), np.inf)

    monkeypatch.setattr(module, "CompactIndex", Wrong)
    index = table(3, 200, 2, 2, True, 1)
    with caplog.at_level(logging.WARNING, logger="tasador"):
        assert index._compact is None
    assert "answers differ on this machine" in caplog.text


@compiled
def test_more_context_than_the_kernel_takes_is_left_to_numpy(caplog):
    index = table(4, 90, 2, 70, True, 1)
    with caplog.at_level(logging.WARNING, logger="tasador"):
        features = index.features(*questions(index, 4, 3))
    assert features.shape == (3, len(index.names(tuple("c" * 70))))
    assert "too many for the kernel" in caplog.text


def test_without_the_kernels_the_features_are_the_same(monkeypatch):
    index = table(5, 300, 2, 3, True, 2)
    points, attribute = questions(index, 5, 40)
    want = index.features(points, attribute)
    monkeypatch.setattr(module, "native", lambda: Native(None, "not compiled"))
    plain = table(5, 300, 2, 3, True, 2)
    assert plain._compact is None
    assert (plain.features(points, attribute) == want).all()


@pytest.mark.parametrize("name", ["target", "similar", "context", "points"])
def test_arrays_that_do_not_fit_together_are_refused(name):
    spec, arrays = table(6, 80, 2, 2, True, 1).state()
    arrays[name] = arrays[name][:-1]
    with pytest.raises(ValueError, match="do not fit together"):
        ComparablesIndex.from_state(spec, arrays)
