from hashlib import blake2b

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasador.modeling.training_rows import TrainingRows


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 6), st.booleans())
def test_exactly_the_training_rows_are_found_in_any_order_and_number(seed, n, p, gaps):
    rng = np.random.default_rng(seed)
    X = rng.integers(0, 4, (n, p)).astype(float)
    if gaps:
        X[rng.random(X.shape) < 0.2] = np.nan
    scores = rng.normal(size=n)
    kept = TrainingRows.from_state(TrainingRows.of(X, scores).state())
    asked = np.concatenate([X[rng.permutation(n)], X[:3] + 0.5, np.where(X == 0.0, -0.0, X)])
    found, places = kept.find(asked)
    got = kept.scores[places]
    known = [tuple(row) for row in np.nan_to_num(X, nan=-1.0).tolist()]
    for i, row in enumerate(np.nan_to_num(asked, nan=-1.0).tolist()):
        same = [scores[j] for j, other in enumerate(known) if other == tuple(row)]
        assert (i in found) == bool(same)
        if same:
            assert got[found.tolist().index(i)] == pytest.approx(np.mean(same), abs=1e-12)
        one, place = kept.find(asked[i : i + 1])
        assert one.tolist() == [0] * bool(same)
        assert kept.scores[place].tolist() == got[found == i].tolist()


def test_rows_on_a_grid_have_hashes_of_their_own() -> None:
    rows = np.stack(np.meshgrid(*[np.arange(-8.0, 8.0)] * 4), axis=-1).reshape(-1, 4)
    assert len(TrainingRows.of(rows, np.zeros(len(rows))).hashes) == len(rows)


def test_the_training_rows_of_a_bundle_from_before_are_found() -> None:
    rows = np.random.default_rng(1).normal(size=(40, 3))
    hashes = np.array([int.from_bytes(blake2b(row, digest_size=8).digest(), "little", signed=True)
                       for row in rows])  # fmt: skip
    order = hashes.argsort()
    kept = TrainingRows.from_state({"hashes": hashes[order], "scores": np.arange(40.0)[order]})
    found, places = kept.find(np.concatenate([rows[7:9], rows[:1] + 1.0]))
    assert (found.tolist(), kept.scores[places].tolist()) == ([0, 1], [7.0, 8.0])
    assert TrainingRows.from_state(kept.state()).find(rows)[0].tolist() == list(range(40))


@pytest.mark.parametrize(
    ("hashes", "scores", "fault"),
    [
        ([3, 2], [0.0, 0.0], "do not ascend"),
        ([2, 2], [0.0, 0.0], "do not ascend"),
        ([], [], "are none"),
        ([1, 2], [0.0], "has shape"),
        ([1, 2], [0.0, np.nan], "NaN"),
        ([1.0, 2.0], [0.0, 0.0], "holds float64"),
    ],
)
def test_arrays_that_are_no_training_rows_are_refused(hashes, scores, fault):
    arrays = {
        "hashes": np.array(hashes, np.int64 if not hashes or isinstance(hashes[0], int) else float),
        "scores": np.array(scores, float),
    }
    with pytest.raises(ValueError, match=fault):
        TrainingRows.from_state(arrays)
