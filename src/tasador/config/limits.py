"""Which values of the settings can be meant, beyond their type."""

from __future__ import annotations

import re
from typing import Any

from tasador.core.errors import ConfigError
from tasador.metrics.regression import METRICS

_INFINITY = float("inf")
#: Lowest and highest value by key, both allowed.
_RANGES: dict[str, tuple[float, float]] = {
    "seed": (0, 2**32 - 1),
    "download.timeout_s": (0.001, 86_400),
    "download.attempts": (1, 100),
    "download.synthetic_rows": (1, 10_000_000),
    "segregate.seed": (0, 2**32 - 1),
    "segregate.test_share": (0.01, 0.99),
    "segregate.max_refused_share": (0, 1),
    "segregate.min_rows": (1, _INFINITY),
    "impute.folds": (2, 100),
    "impute.repeats": (1, 100),
    "impute.max_rows": (100, 10_000_000),
    "features.clusters": (0, 1000),
    "features.most_clusters": (2, 1000),
    "features.cross_fit_folds": (2, 1000),
    "features.max_one_hot": (0, 1000),
    "features.target_mean_weight": (0, _INFINITY),
    "features.max_near": (1, 100),
    "selection.folds": (2, 1000),
    "sweep.trials": (0, 100_000),
    "sweep.folds": (1, 1000),
    "sweep.slowdown": (1, 1000),
    "register.spatial_folds": (2, 1000),
    "register.coverage": (0.01, 0.999),
    "register.average": (1, 20),
    "register.least_gain": (0, 1),
    "register.parity_rows": (1, 100_000_000),
    "register.bootstrap_draws": (1, 1_000_000),
    "gates.confidence": (0.5, 0.9999),
    "gates.draws": (100, 1_000_000),
    "gates.min_rows": (10, _INFINITY),
    "gates.min_segment_rows": (5, _INFINITY),
    "gates.coverage_slack": (0, 1),
    "gates.latency_factor": (1, _INFINITY),
    "retraining.psi": (0, _INFINITY),
    "retraining.psi_windows": (1, 1000),
    "retraining.importance": (0, 1),
    "retraining.performance_windows": (1, 1000),
    "retraining.schedule_days": (0, _INFINITY),
    "retraining.new_outcomes": (0, _INFINITY),
    "retraining.cooldown_hours": (0, _INFINITY),
    "retraining.min_new_rows": (1, _INFINITY),
    "retraining.budget": (0, _INFINITY),
    "retraining.budget_minutes": (0, _INFINITY),
    "retraining.budget_days": (0.001, 36_500),
    "retraining.max_new_share": (0, 0.99),
    "retraining.max_client_share": (0, 1),
    "retraining.outlier_spreads": (1, _INFINITY),
    "retraining.client_spreads": (1, _INFINITY),
    "retraining.level_from": (0, 10),
    "ray.cpus": (1, 100_000),
    "ray.retries": (0, 1000),
}
#: (pattern, in words) by key.
_TEXTS: dict[str, tuple[str, str]] = {
    "register.alias": (r"[A-Za-z][A-Za-z0-9_-]*", "a letter, then letters, digits, '_' and '-'"),
    "sweep.study": (r"[A-Za-z0-9][\w.-]*", "letters, digits, '_', '-' and '.'"),
    "tracking.experiment": (r"\s*\S.*", "a name"),
    "tracking.wandb_project": (r"[\w.-]+", "letters, digits, '_', '-' and '.'"),
    "storage.workspace": (r"\s*\S.*", "a folder"),
}
# the smaller mean wins, so a metric that grows with quality cannot decide
_ERRORS = tuple(name for name in METRICS if name != "r2" and not name.startswith("within"))
_CHOICES: dict[str, tuple[str, ...]] = {"selection.scoring": _ERRORS, "sweep.metric": _ERRORS}


def check(where: str, value: Any) -> None:
    """Refuse a value of the right type that cannot be meant; other keys pass.

    Raises:
        ConfigError: Naming the key, what may stand there and what was found.
    """
    if where in _RANGES:
        low, high = _RANGES[where]
        if not low <= value <= high:  # NaN is in no range
            upto = "" if high == _INFINITY else f" and at most {high:,}"
            raise ConfigError(
                f"{where}: out of range", expected=f"at least {low:,}{upto}", got=repr(value)
            )
    if where in _TEXTS and not re.fullmatch(_TEXTS[where][0], value):
        raise ConfigError(f"{where}: cannot be used", expected=_TEXTS[where][1], got=repr(value))
    if where in _CHOICES and value not in _CHOICES[where]:
        raise ConfigError(f"{where}: expected one of {', '.join(_CHOICES[where])}, got {value!r}")
