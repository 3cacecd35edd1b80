import numpy as np
import pytest

from tasador.core.errors import TrainingError
from tasador.monitoring.error_estimation import (
    ErrorModel,
    error_inputs,
    error_terms,
    fit_error_model,
    residuals,
)
from tasador.trees.onnx_model import OnnxRegressor


def rows(n, seed, *, log=True):
    """Rows whose error grows fourfold with their first column."""
    random = np.random.default_rng(seed)
    X = random.uniform(0, 1, (n, 3))
    predicted = np.exp(11 + random.normal(size=n))
    noise = random.normal(size=n) * (0.05 + 0.15 * X[:, 0])
    actual = predicted * np.exp(noise) if log else predicted + 1000 * noise
    lower, upper = predicted * 0.8, predicted * 1.25
    return error_inputs(X, predicted, lower, upper, log=log), actual, predicted


@pytest.mark.parametrize("log", [True, False])
def test_the_error_of_rows_unlike_the_training_rows_is_estimated(log):
    inputs, actual, predicted = rows(4000, 1, log=log)
    model, graph = fit_error_model(inputs, actual, predicted, log=log, seed=3)
    inputs, actual, predicted = rows(8000, 2, log=log)
    hard = inputs[:, 0] > 0.8
    expected = model.expected(inputs[hard])
    terms = error_terms(actual[hard], predicted[hard], log=log)
    for position, name in ((0, "size"), (4, "absolute"), (7, "within_10")):
        usual = error_terms(actual, predicted, log=log)[:, position].mean()
        truth, guess = terms[:, position].mean(), expected[name].mean()
        assert abs(guess - truth) < 0.35 * abs(usual - truth) + 1e-9
    again = ErrorModel.from_state(OnnxRegressor(graph), model.state())
    assert (again.expected(inputs)["ape"] == model.expected(inputs)["ape"]).all()


def test_errors_that_cannot_be_learnt_from_are_refused():
    inputs, actual, predicted = rows(150, 1)
    with pytest.raises(TrainingError, match=r"at least 200 rows.*got 150 rows"):
        fit_error_model(inputs, actual, predicted, log=True, seed=0)
    inputs, actual, predicted = rows(300, 1)
    with pytest.raises(TrainingError, match="the largest error 0"):
        fit_error_model(inputs, predicted, predicted, log=True, seed=0)


def test_a_state_that_does_not_fit_is_refused():
    inputs, actual, predicted = rows(400, 1)
    model, graph = fit_error_model(inputs, actual, predicted, log=True, seed=3)
    state = model.state() | {"error.terms": np.zeros((2, 2))}
    with pytest.raises(ValueError, match="terms of shape"):
        ErrorModel.from_state(OnnxRegressor(graph), state)


def test_a_value_without_logarithm_has_no_relative_error():
    got = residuals(np.array([1.0, 0.0, -2.0]), np.array([2.0, 1.0, 1.0]), log=True)
    assert got == pytest.approx([-np.log(2), np.nan, np.nan], nan_ok=True)
    got = residuals(np.array([1.0, 0.0]), np.array([2.0, 1.0]), log=False)
    assert got.tolist() == [-1.0, -1.0]
