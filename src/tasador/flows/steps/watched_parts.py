"""What a bundle ships so that its model can be watched: the reference, and the error model."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasador.core import seeds
from tasador.core.errors import TrainingError
from tasador.flows.state import RunState, needed
from tasador.modeling.interval import ConformalInterval
from tasador.monitoring.error_model import error_inputs, fit_error_model
from tasador.monitoring.reference import build_reference
from tasador.selection.evaluate import CrossValidation

Floats = NDArray[np.float64]


def watched_parts(
    state: RunState, cv: CrossValidation, interval: ConformalInterval
) -> dict[str, Any]:
    """Return the arguments of `BundleParts` that monitoring needs, from out-of-fold estimates.

    Too few rows, or errors that are all zero, ship without an error model.
    """
    train, transform = needed(state.train, "segregate"), state.transform
    X, y = train.X[cv.rows], train.y[cv.rows]
    log = transform.kind == "log"
    predicted = transform.inverse(cv.score)
    low, high = (transform.inverse(bound) for bound in interval.bounds(cv.score, cv.Z))
    model = graph = None
    with suppress(TrainingError):  # estimated performance is then "cannot tell"
        model, graph = fit_error_model(
            error_inputs(X, predicted, low, high, log=log),
            y,
            predicted,
            log=log,
            seed=seeds.derive_seed(state.settings.seed, "errors"),
        )
    reference = build_reference(
        state.settings.contract.features,
        train.X,
        held=cv.rows,
        prediction=predicted,
        actual=y,
        log=log,
        error_model=model,
    )
    return {"reference": reference.state(), "error_model": graph}
