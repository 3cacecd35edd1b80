"""The compiled comparables give the bits of those found and summed by scipy and numpy."""

import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasador.core.kernels import Native, native
from tasador.features import comparables as module
from tasador.features.comparables import FAR_NEIGHBOUR, REACH_QUANTILE, ComparablesIndex
from tasador.features.neighbours_kernel import halved
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
def test_the_kernel_gives_the_bits_of_the_definition(seed, m, d, contexts, similar, decimals, n):
    index = table(seed, m, d, contexts, similar, decimals)
    points, attribute = questions(index, seed, n)
    assert index._compact is not None
    position, distance = index._compact.neighbours(points)
    near = index._neighbours(index.asked(points, None, None, None))
    assert (position == near.index).all()
    assert distance.tobytes() == near.distance.tobytes()
    got = index.features(points, attribute)
    assert got.tobytes() == index._features(points, attribute).tobytes()
    single = [
        index.features(points[i : i + 1], None if attribute is None else attribute[i : i + 1])
        for i in range(n)
    ]
    assert got.tobytes() == np.concatenate(single).tobytes()


@given(st.integers(1, 700), st.integers(1, 4), st.sampled_from([0.0, 1.0]))
def test_a_tree_s_cells_have_all_points_once_and_on_their_side(m, d, spread):
    points = spread * np.random.default_rng(m).normal(size=(m, d))
    cells, order = halved(points)
    assert sorted(order.tolist()) == list(range(m))

    def within(cell):
        """The points of a cell, checked to stand where its splits say."""
        of = cells[cell]
        if of["axis"] < 0:
            rows = order[of["less"] : of["greater"]]
            assert len(rows) <= 24
        else:
            less, greater = within(of["less"]), within(of["greater"])
            assert (points[less, of["axis"]] <= of["split"]).all()
            assert (points[greater, of["axis"]] >= of["split"]).all()
            rows = np.concatenate([less, greater])
        assert of["earliest"] == min(rows, default=m)
        return rows

    assert len(within(0)) == m


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
    for wrong, message in ((out[:-1, 2:-3], "one row of features"), (out, "features asked for")):
        with pytest.raises(ValueError, match=message):
            index.features(together, own, out=wrong)


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
        def features(self, *asked):
            return np.nextafter(super().features(*asked), np.inf)

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


def sales(seed, m, d, contexts, similar, dated, copies):
    """Training rows of which many are alike, and some sold on one day: points ... times."""
    rng = np.random.default_rng(seed)
    at = rng.integers(0, max(1, m // copies), m)
    return {
        "points": np.round(rng.normal(size=(m, d)), 1)[at],
        "target": rng.normal(size=m),
        "similar": np.round(rng.normal(size=m), 1)[at] if similar else None,
        "context": np.round(rng.normal(size=(m, contexts)), 1)[at],
        "times": 86400.0 * rng.integers(0, 60, m) if dated else None,
    }


def some(arrays, rows):
    return {name: None if a is None else a[rows] for name, a in arrays.items()}


def informed(index, asked):
    """Return the features of rows, by the definition, whatever there is of kernels."""
    return index._features(
        *index.asked(asked["points"], asked["similar"], asked["times"], asked["context"])
    )


def features_of(index, asked):
    return index.features(asked["points"], asked["similar"], asked["times"], asked["context"])


RESTRICTED = st.tuples(
    st.integers(0, 2**32 - 1),
    st.integers(1, 300),
    st.integers(1, 5),
    st.integers(0, 3),
    st.booleans(),
    st.booleans(),
    st.sampled_from([1, 3, 50]),
)


def restricted(arrays):
    return ComparablesIndex.fit(**arrays, excludes_own=arrays["times"] is None)


@settings(max_examples=60)
@given(RESTRICTED)
def test_no_sale_of_the_day_or_later_and_no_row_itself_informs_a_row(of):
    seed, m, *_ = of
    arrays = sales(*of)
    index = restricted(arrays)
    rows = np.random.default_rng(seed).integers(0, m, 20)
    asked = some(arrays, rows)
    near = index.neighbours(asked["points"], 64, asked["similar"], asked["times"], asked["context"])
    defined = index._neighbours(
        index.asked(asked["points"], asked["similar"], asked["times"], asked["context"])
    )
    assert (near.index == defined.index).all()
    assert (near.distance == defined.distance).all()
    assert np.isfinite(features_of(index, asked)).all()
    for i in range(len(rows)):
        squared = np.zeros(m)
        for axis, own in zip(
            index._places.T,
            index.asked(
                *[
                    asked[n][i : i + 1] if asked[n] is not None else None
                    for n in ("points", "similar", "times", "context")
                ]
            ).places[0],
            strict=True,
        ):
            squared += (axis - own) ** 2
        if arrays["times"] is not None:
            allowed = index.times < asked["times"][i]
        else:
            allowed = (index.points != asked["points"][i]).any(axis=1)
            allowed |= (index.context != asked["context"][i]).any(axis=1)
            if asked["similar"] is not None:
                allowed |= index.similar != asked["similar"][i]
        order = np.lexsort((np.arange(m), squared))
        want = order[allowed[order]][:64]
        assert near.index[i][: len(want)].tolist() == want.tolist()
        if len(want):
            assert (near.index[i][len(want) :] == want[-1]).all()
            assert near.distance[i].tolist() == np.sqrt(squared[near.index[i]]).tolist()
        else:
            assert np.isinf(near.distance[i]).all()
            assert (features_of(index, some(asked, slice(i, i + 1)))[0] == index._prior).all()


@settings(max_examples=60)
@given(RESTRICTED)
def test_the_order_of_sales_changes_nothing_and_the_kernel_gives_the_same_bits(of):
    seed, m, *_ = of
    arrays = sales(*of)
    index = restricted(arrays)
    rng = np.random.default_rng(seed)
    asked = some(arrays, rng.integers(0, m, 30))
    asked["points"][::3] += 0.05
    if asked["times"] is not None:
        asked["times"][::4] = np.nan
        asked["times"][1::4] += 1e9
    got = features_of(index, asked)
    assert got.tobytes() == informed(index, asked).tobytes()
    assert (index._compact is None) == (native().library is None)
    single = [features_of(index, some(asked, slice(i, i + 1))) for i in range(30)]
    assert got.tobytes() == np.concatenate(single).tobytes()
    names = ("points", "similar", "times", "context")
    asked["context"] = np.asfortranarray(asked["context"])  # as a table's columns are
    found = index.search(index.asked(*(asked[name] for name in names)))
    count, nearest = index.within_reach(found)
    kept = []
    index.features(*(asked[name] for name in names), found=kept)
    assert len(kept) == (index._compact is not None)
    assert all(np.array_equal(a, b) for one in kept for a, b in zip(one, found, strict=True))
    near = index.neighbours(asked["points"], 64, *(asked[name] for name in names[1:]))
    distinct = np.diff(near.index, axis=1, prepend=-1) != 0
    inside = distinct & (near.distance <= index.reach) & np.isfinite(near.distance)
    assert count.tolist() == inside.sum(axis=1).tolist()
    assert (
        nearest.tolist()
        == np.where(np.isfinite(near.distance[:, 0]), near.index[:, 0], -1).tolist()
    )
    other = restricted(some(arrays, rng.permutation(m)))
    assert features_of(other, asked).tobytes() == got.tobytes()
    again = ComparablesIndex.from_state(*index.state())
    assert features_of(again, asked).tobytes() == got.tobytes()


@compiled
@settings(max_examples=25)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 4),
    st.booleans(),
    st.sampled_from([1, 40, 2_500]),
    st.sampled_from([1.0, 1e-170, 1e100]),
    st.sampled_from([1.0, 30.0]),
)
def test_rows_searched_one_near_the_other_get_the_bits_of_the_definition(
    seed, d, dated, copies, scale, skew
):
    rng = np.random.default_rng(seed)
    arrays = sales(seed, 2_500, d, 1, True, dated, copies)
    arrays["points"] = scale * np.sign(arrays["points"]) * np.abs(arrays["points"]) ** skew
    index = restricted(arrays)
    asked = some(arrays, rng.integers(0, 2_500, 300))
    asked["points"] = asked["points"] + scale * rng.choice([0.0, 0.01, 3.0], (300, 1))
    asked["points"][-1] = 1e100
    order = neighbourly_order(asked["points"]) if d == 2 else np.argsort(asked["points"][:, 0])
    for rows in (order, np.arange(300)):
        near = some(asked, rows)
        with np.errstate(all="ignore"):
            want = informed(index, near)
        assert features_of(index, near).tobytes() == want.tobytes()


def test_a_sale_is_informed_by_what_was_known_on_its_day_whatever_was_sold_later():
    arrays = sales(7, 400, 2, 2, True, True, 3)
    early = arrays["times"] < 86400.0 * 30
    asked = some(arrays, early)
    scale = restricted(arrays).age_scale
    both = [restricted(arrays), restricted(some(arrays, early))]
    found = [
        index.neighbours(asked["points"], 8, asked["similar"], asked["times"]) for index in both
    ]
    sold = [index.target[near.index] for index, near in zip(both, found, strict=True)]
    if scale == both[1].age_scale:
        assert sold[0].tolist() == sold[1].tolist()
    first = asked["times"] == arrays["times"].min()
    assert np.isinf(found[0].distance[first]).all()


@pytest.mark.parametrize("fault", ["descends", "short"])
def test_dates_that_do_not_fit_are_refused(fault):
    spec, arrays = restricted(sales(8, 90, 2, 1, False, True, 2)).state()
    arrays["times"] = arrays["times"][::-1] if fault == "descends" else arrays["times"][:-1]
    with pytest.raises(ValueError, match="dates do not ascend"):
        ComparablesIndex.from_state(spec, arrays)


@pytest.mark.parametrize("dated", [True, False])
def test_without_the_kernels_the_sales_that_inform_a_row_are_the_same(dated, monkeypatch):
    arrays = sales(11, 250, 2, 2, True, dated, 2)
    asked = some(arrays, np.arange(0, 250, 3))
    asked["points"][::4] += 0.03
    names = ("points", "similar", "times", "context")

    def searched():
        index = restricted(arrays)
        found = index.search(index.asked(*(asked[name] for name in names)))
        return index, found, index.within_reach(found), features_of(index, asked)

    want = searched()
    monkeypatch.setattr(module, "native", lambda: Native(None, "not compiled"))
    got = searched()
    assert got[0]._compact is None
    for before, after in ((want[1], got[1]), (want[2], got[2]), (want[3:], got[3:])):
        assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("informs", ["all", "others", "earlier"])
@pytest.mark.parametrize("rows", [41, 90])
def test_the_reach_is_how_far_the_fourth_row_is_from_nearly_all(informs, rows):
    arrays = sales(rows, rows, 2, 1, False, informs == "earlier", 1)
    arrays["points"] = np.random.default_rng(rows).normal(size=(rows, 2))  # all of them apart
    if informs == "earlier":
        arrays["points"][np.argmax(arrays["times"])] = 9.0  # the newest is the farthest
    index = ComparablesIndex.fit(**arrays, excludes_own=informs == "others")
    places, first = index.points, 0
    if informs == "earlier":
        age = (index.times - index.times.max()) * index.age_scale
        places, first = np.column_stack([index.points, age]), rows // 2
    fourth = []
    for i in range(first, rows):
        distance = np.sqrt(np.square(places - places[i]).sum(axis=1))
        told = np.arange(rows) != i if index.times is None else index.times < index.times[i]
        fourth.append(np.sort(distance[told])[FAR_NEIGHBOUR - 1])
    if informs == "earlier":  # of half of the rows, some of which count twice
        assert sorted(fourth)[-2] < index.reach <= max(fourth)
    else:
        assert index.reach == pytest.approx(np.quantile(fourth, REACH_QUANTILE))


def test_without_rows_to_compare_nothing_is_out_of_reach():
    same = ComparablesIndex.fit(np.ones((9, 2)), np.arange(9.0), None, np.ones((9, 0)))
    alone = ComparablesIndex.fit(
        np.ones((1, 2)), np.ones(1), None, np.ones((1, 0)), excludes_own=True
    )
    assert (same.reach, alone.reach) == (np.inf, np.inf)


def test_a_year_of_age_counts_as_the_way_to_the_sixteenth_neighbour():
    points = np.random.default_rng(12).normal(size=(60, 2))
    times = np.arange(60.0)
    between = np.sqrt(np.square(points[:, None] - points).sum(axis=2))
    way = np.median(np.sort(between, axis=1)[:, 15])  # the row itself is the first
    index = ComparablesIndex.fit(points, times, None, points[:, :0], times)
    assert index.age_scale * 365.25 * 86_400 == pytest.approx(way)
    # twenty sales at each place: one without an extent, so that a side of it has to do
    index = ComparablesIndex.fit(
        np.repeat([[0.0, 0.0], [3.0, 4.0]], 20, axis=0), np.arange(40.0), None,
        np.ones((40, 0)), np.arange(40.0),
    )  # fmt: skip
    assert index.age_scale * 365.25 * 86_400 == pytest.approx(np.sqrt(12.0) / np.sqrt(40.0))
