import numpy as np

from tasador.data.table import Part
from tasador.selection.test_metrics import CrossValidation
from tasador.training.register_step import _training_rows


def test_rows_that_were_never_ahead_in_time_get_their_random_estimate():
    X = np.arange(12.0).reshape(6, 2)
    part = Part(X, np.ones(6), np.arange(6, dtype=np.uint64))

    def answers(rows, by):
        return CrossValidation(np.array(rows), by + np.array(rows, float), X[rows], {}, {})

    forward, random = answers([3, 4, 5], 10.0), answers([0, 2, 3, 5], 20.0)
    found, scores = _training_rows(part, forward, random).find(X)
    assert found.tolist() == [0, 2, 3, 4, 5]
    assert scores.tolist() == [20.0, 22.0, 13.0, 14.0, 15.0]
    assert _training_rows(part, forward, None).find(X)[0].tolist() == [3, 4, 5]
