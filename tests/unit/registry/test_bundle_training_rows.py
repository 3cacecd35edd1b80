"""A bundle values its own training rows by models that did not learn from them."""

import numpy as np
import pytest

from tasador.core.errors import BundleError
from tasador.modeling.training_rows import NOT_LEARNT, NOTE, TrainingRows
from tasador.registry.explainer import Wanted
from tasador.registry.model_bundle import load_bundle
from tasador.registry.writer import write_bundle


@pytest.fixture
def bundle(changed_parts, house_rows, tmp_path):
    X, _ = house_rows
    kept = TrainingRows.of(X[:100], np.linspace(9.0, 11.0, 100))
    return write_bundle(tmp_path / "bundle", changed_parts(training_rows=kept))


def test_a_training_row_gets_its_out_of_fold_estimate_and_a_note(
    bundle, written_bundle, house_rows
):
    X, _ = house_rows
    plain = load_bundle(written_bundle)
    assert bundle.predict(X[100:]).tolist() == plain.predict(X[100:]).tolist()
    want = bundle.target.inverse(np.linspace(9.0, 11.0, 100))
    assert bundle.predict(X)[:100].tolist() == want.tolist()
    values = bundle.value_encoded(X)
    assert [value.prediction for value in values] == bundle.predict(X).tolist()
    assert [NOTE in value.warnings for value in values] == [True] * 100 + [False] * (len(X) - 100)
    assert all(value.lower < value.prediction < value.upper for value in values)
    assert [bundle.value_encoded(X[i : i + 1])[0] for i in (0, 99, 100)] == [
        values[i] for i in (0, 99, 100)
    ]
    assert bundle.version != plain.version


@pytest.mark.parametrize("row", [0, 100])
def test_an_explanation_adds_up_to_the_estimate(bundle, house_rows, row):
    X, _ = house_rows
    found = bundle.reasons(X[row : row + 1], Wanted(3))
    score = found.expected + sum(found.contributions.values())
    assert bundle.target.inverse(np.array([score]))[0] == pytest.approx(bundle.predict(X)[row])
    assert (NOT_LEARNT in found.contributions) == (row < 100)


def test_changed_hashes_are_the_bundles_fault(changed_parts, house_rows, tmp_path):
    kept = TrainingRows.of(house_rows[0][:30], np.zeros(30))
    wrong = TrainingRows(kept.hashes[::-1], kept.scores)
    with pytest.raises(BundleError, match="do not ascend"):
        write_bundle(tmp_path / "bundle", changed_parts(training_rows=wrong))


def test_an_interval_that_was_kept_is_answered_with_the_estimate(
    changed_parts, house_rows, tmp_path
):
    X, _ = house_rows
    scores, half = np.linspace(9.0, 11.0, 100), np.linspace(0.0, 0.3, 100)
    half[:50] = np.nan
    kept = TrainingRows.of(X[:100], scores, half)
    bundle = write_bundle(tmp_path / "kept", changed_parts(training_rows=kept))
    plain = write_bundle(
        tmp_path / "plain", changed_parts(training_rows=TrainingRows.of(X[:100], scores))
    )
    got, want = bundle.value_arrays(X), plain.value_arrays(X)
    assert got[0].tolist() == want[0].tolist()
    for bound, other, sign in ((got[1], want[1], -1.0), (got[2], want[2], 1.0)):
        assert bound[:50].tolist() == other[:50].tolist()
        assert bound[100:].tolist() == other[100:].tolist()
        assert np.log(bound[50:100]) == pytest.approx(scores[50:] + sign * half[50:])
    negative = TrainingRows(kept.hashes, kept.scores, np.full(len(kept.hashes), -0.1))
    with pytest.raises(BundleError, match="half_widths"):
        write_bundle(tmp_path / "bundle", changed_parts(training_rows=negative))
