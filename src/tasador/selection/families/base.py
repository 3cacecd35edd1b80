"""`Family`: what a family of models must be able to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tasador.trees.ensemble import LinearModel, TreeEnsemble

Floats = NDArray[np.float64]
Params = Mapping[str, Any]


class Fit(Protocol):
    """Fits a model: parameters, features (n, q), target (n,), seed, threads (0: all cores)."""

    def __call__(
        self, params: Params, Z: Floats, target: Floats, seed: int, threads: int = 0, /
    ) -> Any: ...


class Trial(Protocol):
    """The part of an Optuna trial that a search space uses."""

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int: ...

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float: ...

    def suggest_categorical(self, name: str, choices: list[Any]) -> Any: ...


def keep(params: Params, factor: float) -> dict[str, Any]:  # noqa: ARG001
    """Return the parameters of a family that has no steps to make smaller."""
    return dict(params)


def predict(model: Any, Z: Floats) -> Floats:
    """Return a fitted model's estimates (n,) in double precision."""
    return np.asarray(model.predict(Z), dtype=np.float64)


def fill_in(defaults: Params, params: Params) -> dict[str, Any]:
    """Return `params` with the library's `defaults`; whole numbers become floats where those are.

    For parameters whose kind has no meaning of its own: 1 and 1.0 must be the same to the library.
    """
    filled = {**defaults, **params}
    for name, default in defaults.items():
        if isinstance(default, float) and type(filled[name]) is int:
            filled[name] = float(filled[name])
    return filled


def check_estimator(estimator: Any) -> None:
    """Refuse parameters of a scikit-learn estimator by its own constraints, before any fitting.

    Raises:
        ValueError: Naming the parameter, what it must be and what was found.
    """
    estimator._validate_params()


@dataclass(frozen=True)
class Family:
    """One way of turning features into an estimate.

    Attributes:
        name: Key of the family in configuration.
        title: Name for people.
        parameters: Names that a grid may set.
        fit: (params, Z (n, q), target (n,), seed, threads) -> the library's fitted model; the same
            whatever the number of threads, 0 for all cores.
        predict: (model, Z) -> estimates (n,) on the transformed scale.
        export: The fitted model as the arrays that are shipped.
        fitted: (model) -> estimates (n,) of the rows that it was fitted on in this process, which
            some libraries keep; as `predict` up to rounding. None where they have to be predicted.
        space: Draws the parameters of one sweep trial.
        wide_space: The same where trials and latency cost nothing; `space` where there is none.
        vary: The parameters with another loss, for an average; None where there is nothing to vary.
        check: Raises ValueError, saying what is wrong, for parameters that are invalid.
        slow: Turns parameters found at a high learning rate into the final model's: `factor`
            times more steps, each that much smaller. The same parameters for other families.
        prefix: The parameter that counts steps or trees: the model with fewer is the beginning of
            the model with more. None where there is no such parameter.
        averages: Whether a model is the mean of its steps (a forest), not their sum.
        staged: (model, Z, steps) -> estimates of the model cut to each of these numbers of steps,
            the same as fitting that smaller model gives; in one pass over the trees.
        grow: (params, Z, target, seed, steps) -> the model at each of these ascending numbers of
            steps, the last of which is the whole one; made on one thread, each from the one before.
        canonical: Parameters that make the library fit the same model become equal.
        reached_depth: The depth that a fitted model's deepest tree reaches; with it, a model that
            stays above a smaller ``max_depth`` is the model with that limit.
        linear: Whether its models are linear, which cannot be averaged with trees.
        takes_missing: Whether Z may hold NaN.
        takes_codes: Whether it splits on sets of category codes.
    """

    name: str
    title: str
    parameters: frozenset[str]
    fit: Fit
    predict: Callable[[Any, Floats], Floats]
    export: Callable[[Any], TreeEnsemble | LinearModel]
    space: Callable[[Trial], dict[str, Any]]
    check: Callable[[Params], None]
    slow: Callable[[Params, float], dict[str, Any]] = keep
    fitted: Callable[[Any], Floats] | None = None
    wide_space: Callable[[Trial], dict[str, Any]] | None = None
    vary: Callable[[Params], dict[str, Any] | None] | None = None
    prefix: str | None = None
    averages: bool = False
    staged: Callable[[Any, Floats, Sequence[int]], list[Floats]] | None = None
    grow: Callable[[Params, Floats, Floats, int, Sequence[int]], Iterator[Any]] | None = None
    canonical: Callable[[Params], dict[str, Any]] = dict
    reached_depth: Callable[[Any], int] | None = None
    linear: bool = False
    takes_missing: bool = False
    takes_codes: bool = False


#: (kind, lowest, highest) by parameter.
Ranges = Mapping[str, tuple[type, float, float]]


def check_ranges(
    params: Mapping[str, Any], ranges: Ranges, choices: Mapping[str, Sequence[str]]
) -> None:
    """Refuse a value of the wrong kind or outside its range.

    Raises:
        ValueError: Naming the parameter, what it must be and what was found.
    """
    for name, value in params.items():
        if name in choices and value not in choices[name]:
            raise ValueError(f"{name} must be one of {', '.join(choices[name])}, got {value!r}")
        if name not in ranges:
            continue
        kind, low, high = ranges[name]
        fits = isinstance(value, (int, float)) and not isinstance(value, bool)
        if kind is int:
            fits = fits and isinstance(value, int)
        if not fits or not low <= value <= high:
            what = "a whole number" if kind is int else "a number"
            raise ValueError(f"{name} must be {what} in [{low:g}, {high:g}], got {value!r}")
