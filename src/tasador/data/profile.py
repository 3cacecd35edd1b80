"""The reference profile: how the training rows are distributed, in plain JSON.

It says which values of a row were seen in training, and the API's example row is made of it. What
monitoring compares later rows with is counted apart, in `monitoring.reference`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasador.contract.model import Column, TableContract

Floats = NDArray[np.float64]

_QUANTILES = {"p01": 0.01, "p05": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95,
              "p99": 0.99}  # fmt: skip
_INNER_DECILES = np.arange(1, 10) / 10


def reference_profile(
    X: Floats, y: Floats, contract: TableContract, prediction: Floats | None = None
) -> dict[str, Any]:
    """Describe encoded rows.

    Args:
        X: Shape (n, p), in the order of ``contract.feature_names``; NaN is missing. n may be 0.
        y: Shape (n,): the target.
        contract: Says what the columns are.
        prediction: Shape (n,): out-of-fold estimates of the same rows, if there are any.

    Returns:
        ``{"rows": n, "columns": {name: profile}, "target": profile}``, and ``"prediction"``
        beside the target when given. Numbers and datetimes
        (seconds since 1970 UTC) have ``n`` (rows), ``missing`` (share), ``min``, ``max``, ``mean``,
        ``std``, ``p01`` ... ``p99``, ``median`` and ``deciles`` (the 9 inner edges) of the finite
        values; each is None, and the deciles empty, when there is none. Categories have
        ``counts`` by code, the last one for unknown, and ``categories`` with the codes' names.
    """
    profile = {
        "rows": len(y),
        "columns": {
            column.name: _category(X[:, i], column)
            if column.kind == "category"
            else _number(X[:, i], column.kind)
            for i, column in enumerate(contract.features)
        },
        "target": {"name": contract.target.name, **_number(y, "number")},
    }
    if prediction is not None:
        name = contract.target.prediction_name
        profile["prediction"] = {"name": name, **_number(prediction, "number")}
    return profile


def _missing_share(values: Floats) -> float:
    return float(np.isnan(values).mean()) if len(values) else 0.0


def _number(values: Floats, kind: str) -> dict[str, Any]:
    finite = values[np.isfinite(values)]
    profile: dict[str, Any] = {"kind": kind, "n": len(values), "missing": _missing_share(values)}
    if len(finite) == 0:
        empty = dict.fromkeys(("min", "max", "mean", "std", *_QUANTILES))
        return {**profile, **empty, "deciles": []}
    quantiles = np.quantile(finite, list(_QUANTILES.values()))
    return {
        **profile,
        "min": float(finite.min()),
        "max": float(finite.max()),
        "mean": float(finite.mean()),
        "std": float(finite.std()),
        **dict(zip(_QUANTILES, quantiles.tolist(), strict=True)),
        "deciles": np.quantile(finite, _INNER_DECILES).tolist(),
    }


def _category(values: Floats, column: Column) -> dict[str, Any]:
    known = values[~np.isnan(values)].astype(np.int64)
    return {
        "kind": "category",
        "n": len(values),
        "missing": _missing_share(values),
        "categories": list(column.categories),
        "counts": np.bincount(known, minlength=len(column.categories) + 1).tolist(),
    }
