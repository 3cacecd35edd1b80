import dataclasses

import numpy as np
import pytest

from tasador.core.errors import BundleError
from tasador.monitoring.error_estimation import error_inputs, fit_error_model
from tasador.monitoring.reference import Reference, build_reference, sample_places
from tasador.registry.model_bundle import load_bundle
from tasador.registry.writer import write_bundle


@pytest.fixture(scope="module")
def reference(house_contract, house_rows):
    X, price = house_rows
    predicted = price * np.exp(np.random.default_rng(0).normal(0, 0.1, len(price)))
    inputs = error_inputs(X, predicted, predicted * 0.9, predicted * 1.1, log=True)
    model, graph = fit_error_model(inputs, price, predicted, log=True, seed=1)
    return build_reference(
        house_contract.features, X, prediction=predicted, actual=price, log=True, error_model=model
    ), graph


def test_a_reference_survives_the_bundle(reference, changed_parts, house_rows, tmp_path):
    made, graph = reference
    parts = changed_parts(reference=made.state(), error_model=graph)
    bundle = write_bundle(tmp_path / "watched", parts)
    got = Reference.of_bundle(bundle)
    assert (got.columns, got.n, got.log, got.coverage) == (made.columns, 600, True, 0.9)
    assert (got.version, got.unit, got.segment.name) == (bundle.version, "USD", "kind")
    for name in ("prediction", "target", "residual"):
        ours, theirs = getattr(made, name), getattr(got, name)
        assert (ours.summary.counts == theirs.summary.counts).all()
        assert (ours.grid.edges == theirs.grid.edges).all()
    assert [p.summary.n for p in got.profiles] == [600] * 6
    np.testing.assert_array_equal(got.rows, house_rows[0])
    np.testing.assert_array_equal(got.error_model.terms, made.error_model.terms)


def test_an_older_bundle_says_that_it_cannot_be_watched(written_bundle):
    with pytest.raises(BundleError, match="ships no reference for monitoring"):
        Reference.of_bundle(load_bundle(written_bundle))


def test_a_reference_of_another_format_or_without_a_column_is_refused(reference, written_bundle):
    arrays = reference[0].state()
    bundle = load_bundle(written_bundle)
    other = arrays | {"format": np.array([9])}
    with pytest.raises(BundleError, match="format 9, expected 1"):
        Reference.of_bundle(dataclasses.replace(bundle, reference=other))
    fewer = {key: value for key, value in arrays.items() if not key.startswith("column3.")}
    with pytest.raises(BundleError, match="cannot be read"):
        Reference.of_bundle(dataclasses.replace(bundle, reference=fewer))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("rows", lambda a: np.concatenate([a, a], axis=1)),
        ("rows", lambda a: a.astype("f4")),
        ("column0.counts", lambda a: a[:-1]),
        ("column0.counts", lambda a: -a - 1),
        ("column0.starts", lambda a: a + 10**9),
        ("column0.starts", lambda a: a[:0]),
        ("column0.edges", lambda a: a[::-1]),
        ("column0.edges", lambda a: a * np.nan),
        ("column0.numbers", lambda a: np.full_like(a, np.inf)),
        ("column0.center", lambda a: a[:0]),
        ("n", lambda a: a[:0]),
    ],
)
def test_forged_arrays_of_a_reference_are_refused(reference, written_bundle, name, change):
    arrays = reference[0].state()
    bundle = dataclasses.replace(load_bundle(written_bundle), reference=arrays)
    with pytest.raises(BundleError, match="cannot be read"):
        Reference.of_bundle(
            dataclasses.replace(bundle, reference=arrays | {name: change(arrays[name])})
        )


def test_a_sample_is_the_same_every_time_and_never_more_than_asked():
    assert sample_places(5, 9).tolist() == [0, 1, 2, 3, 4]
    places = sample_places(10_000, 50)
    assert len(set(places.tolist())) == 50
    assert (places == sample_places(10_000, 50)).all()
