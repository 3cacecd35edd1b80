"""Penalised linear models for many penalties at once, as scikit-learn fits each alone.

Both stand for ``make_pipeline(StandardScaler(), Ridge(alpha))`` and ``Lasso(alpha)``: columns are
standardised (a constant column is only centred), the intercept is not penalised.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

_log = logging.getLogger(__name__)
Floats = NDArray[np.float64]
Params = Mapping[str, Any]


def ridge_together(
    params: Sequence[Params], Z: Floats, target: Floats, matrices: Sequence[Floats]
) -> list[list[Floats]]:
    """Return the estimates of a ridge regression for each ``alpha``, by one decomposition.

    With the singular value decomposition X = U S V', the weights for a penalty a are
    V S / (S^2 + a) U'y (Hastie, Tibshirani and Friedman, 2009, eq. 3.47).

    Args:
        params: Parameter sets; of each, only ``alpha`` is looked at.
        Z: Shape (n, q): the rows to fit on.
        target: Shape (n,).
        matrices: Rows to estimate, (m, q) each.

    Returns:
        For each parameter set, an array (m,) for each matrix.

    Raises:
        ValueError: A penalty is negative or not a number.
    """
    alphas = [_alpha(p) for p in params]
    X, scaled, centre = _standardised(Z, target, matrices)
    U, S, Vt = np.linalg.svd(X, full_matrices=False)
    projected = U.T @ (target - centre)
    tiny = S.max(initial=0.0) * np.finfo(float).eps * max(X.shape) >= S
    estimates = []
    for alpha in alphas:
        with np.errstate(divide="ignore", invalid="ignore"):
            factor = np.where(tiny & (alpha == 0.0), 0.0, S / (S * S + alpha))
        weights = Vt.T @ (np.nan_to_num(factor) * projected)
        estimates.append([M @ weights + centre for M in scaled])
    return estimates


def lasso_together(
    params: Sequence[Params], Z: Floats, target: Floats, matrices: Sequence[Floats]
) -> list[list[Floats]]:
    """Return the estimates of a lasso for each ``alpha``, from one matrix of products.

    scikit-learn's coordinate descent with Z'Z goes through the same steps as on the rows
    themselves, at q^2 in place of n q a round. A penalty that leaves no weight, alpha >=
    max |X'y| / n, needs no descent at all.

    Arguments, returns and errors are `ridge_together`'s.
    """
    from sklearn.linear_model import lasso_path

    alphas = [_alpha(p) for p in params]
    X, scaled, centre = _standardised(Z, target, matrices)
    y = target - centre
    X = np.asfortranarray(X)
    gram, products = X.T @ X, X.T @ y
    largest = float(np.abs(products).max(initial=0.0)) / len(X)
    estimates = []
    for alpha in alphas:
        weights = np.zeros(X.shape[1])
        if alpha < largest:
            # from zero each time: a start from the neighbouring penalty would stop elsewhere
            _, path, _ = lasso_path(
                X, y, alphas=[alpha], precompute=gram, Xy=products, tol=1e-4, max_iter=1000
            )
            weights = path[:, 0]
        estimates.append([M @ weights + centre for M in scaled])
    return estimates


def _alpha(params: Params) -> float:
    alpha = float(params.get("alpha", 1.0))
    if not alpha >= 0.0:
        raise ValueError(f"alpha must be 0 or more, got {alpha}")
    return alpha


def _standardised(
    Z: Floats, target: Floats, matrices: Sequence[Floats]
) -> tuple[Floats, list[Floats], float]:
    """Return the standardised rows and matrices, and the target's mean."""
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(Z)
    return scaler.transform(Z), [scaler.transform(M) for M in matrices], float(np.mean(target))


@contextmanager
def convergence_told_once() -> Iterator[None]:
    """Say in one line of the log how many linear fits stopped early, in place of one for each.

    The filter holds for all threads that work while the body runs; other warnings pass.
    """
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        yield
    early = sum(issubclass(found.category, ConvergenceWarning) for found in caught)
    if early:
        _log.warning(
            "%d linear fits stopped after scikit-learn's 1000 rounds without having converged",
            early,
        )
    for found in caught:
        if not issubclass(found.category, ConvergenceWarning):
            warnings.warn_explicit(found.message, found.category, found.filename, found.lineno)
