"""Dataclasses of settings built from plain values: types, names and values are checked.

Used instead of OmegaConf's structured configs because those know neither tuples of literals nor
which key a message should name.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import types
from collections.abc import Collection, Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

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
    "impute.min_gap_share": (0, 1),
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
    """Refuse a value of the right type that is invalid; other keys pass.

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


Settings = TypeVar("Settings")


def build(kind: type[Settings], plain: Any, where: str) -> Settings:
    """Return a `kind` (a dataclass) from a mapping; keys left out keep their defaults.

    Raises:
        ConfigError: Naming the key, what was expected there and what was found.
    """
    if not isinstance(plain, Mapping):
        raise ConfigError(f"{where}: expected a group of settings, got {plain!r}")
    hints = get_type_hints(kind)
    names = [entry.name for entry in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for key in plain:
        if key not in names:
            raise unknown(f"{where}.{key}", str(key), names)
    values = {key: convert(value, hints[key], f"{where}.{key}") for key, value in plain.items()}
    missing = [
        entry.name
        for entry in dataclasses.fields(kind)  # type: ignore[arg-type]
        if entry.name not in values
        and entry.default is dataclasses.MISSING
        and entry.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(f"{where}: {', '.join(missing)} must be set")
    return kind(**values)


def unknown(where: str, key: str, known: Collection[str]) -> ConfigError:
    """Return the error for a key that nobody reads."""
    close = difflib.get_close_matches(key, known, n=1)
    return ConfigError(
        f"{where}: unknown setting",
        expected=f"one of {', '.join(known)}",
        remedy=f"did you mean {close[0]!r}?" if close else None,
    )


def convert(value: Any, kind: Any, where: str) -> Any:
    """Return `value` as `kind`, a type as dataclass fields use them.

    Raises:
        ConfigError: It is of another type, or out of the range that `where` allows.
    """
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, types.UnionType):
        options = [option for option in inner if option is not type(None)]
        return None if value is None else convert(value, options[0], where)
    if origin is Literal:
        if value is False and "off" in inner:  # what YAML makes of a bare off
            return "off"
        if value not in inner:
            raise ConfigError(
                f"{where}: expected one of {', '.join(map(str, inner))}, got {value!r}"
            )
        return value
    if origin is list:
        if not isinstance(value, (list, tuple)):
            raise _wrong(where, "a list", value)
        return [convert(item, inner[0], f"{where}[{i}]") for i, item in enumerate(value)]
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise _wrong(where, "a list", value)
        return tuple(convert(item, inner[0], f"{where}[{i}]") for i, item in enumerate(value))
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise _wrong(where, "a mapping", value)
        return {str(key): convert(item, inner[1], f"{where}.{key}") for key, item in value.items()}
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return build(kind, value, where)
    scalar = _scalar(value, kind, where)
    check(where, scalar)
    return scalar


def _scalar(value: Any, kind: Any, where: str) -> Any:
    is_flag = isinstance(value, bool)
    if kind is float and isinstance(value, (int, float)) and not is_flag:
        return float(value)
    if kind is int and isinstance(value, int) and not is_flag:
        return value
    if kind is bool and is_flag:
        return value
    if kind is str and isinstance(value, (str, int, float)) and not is_flag:
        return str(value)
    words = {float: "a number", int: "a whole number", bool: "true or false", str: "a text"}
    raise _wrong(where, words.get(kind, str(kind)), value)


def _wrong(where: str, expected: str, value: Any) -> ConfigError:
    return ConfigError(f"{where}: wrong type", expected=expected, got=repr(value))
