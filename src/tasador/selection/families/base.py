"""`Family`: what a family of models must be able to do."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from tasador.trees.ensemble import LinearModel, TreeEnsemble

Floats = NDArray[np.float64]
Params = Mapping[str, Any]
#: (kind, lowest, highest) by parameter.
Ranges = Mapping[str, tuple[type, float, float]]


class Trial(Protocol):
    """The part of an Optuna trial that a search space uses."""

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int: ...

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float: ...

    def suggest_categorical(self, name: str, choices: list[Any]) -> Any: ...


class Family(ABC):
    """One way of turning features into an estimate; it fits models of a library and keeps none.

    A new family is a subclass that is listed in `selection.families.catalog`. Estimates and targets
    are on the transformed scale. What it leaves out, it does without: a family that cannot grow is
    fitted again at each number of steps.

    Attributes:
        name: Key of the family in configuration.
        title: Name for people.
        defaults: What the library takes for each parameter; their names are what a grid may set.
        ranges: The least and the greatest value of numeric parameters that the library lets pass.
        choices: The values of textual parameters whose models can be exported.
        prefix: The parameter that counts steps or trees: the model with fewer is the beginning of
            the model with more. None where there is no such parameter.
        depth: The parameter that limits the depth, where a tree that stays above the limit is the
            one without it; None where it is not.
        grows: Whether it has `grow`.
        averages: Whether a model is the mean of its steps (a forest), not their sum.
        linear: Whether its models are linear, which cannot be averaged with trees.
        takes_missing: Whether features may be NaN.
        takes_weights: Whether rows may have weights; `fit` and `grow` are given none else.
        takes_codes: Whether it splits on sets of category codes.
        seconds_a_step: Seconds that a step takes on a middling table, roughly: they only decide
            what is begun first and how the progress bar counts.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    defaults: ClassVar[Params]
    ranges: ClassVar[Ranges] = {}
    choices: ClassVar[Mapping[str, Sequence[str]]] = {}
    prefix: ClassVar[str | None] = None
    depth: ClassVar[str | None] = None
    grows: ClassVar[bool] = False
    averages: ClassVar[bool] = False
    linear: ClassVar[bool] = False
    takes_missing: ClassVar[bool] = False
    takes_weights: ClassVar[bool] = False
    takes_codes: ClassVar[bool] = False
    seconds_a_step: ClassVar[float] = 0.05

    @abstractmethod
    def fit(
        self,
        params: Params,
        Z: Floats,
        target: Floats,
        seed: int,
        threads: int = 0,
        weight: Floats | None = None,
    ) -> Any:
        """Return the library's model, fitted on features (n, q) and the target (n,).

        It is the same whatever the number of threads, 0 for all cores. The weights (n,) of the
        rows are positive; without them all count alike.
        """

    @abstractmethod
    def export(self, model: Any) -> TreeEnsemble | LinearModel:
        """Return a fitted model as the arrays that are shipped."""

    @abstractmethod
    def space(self, trial: Trial) -> dict[str, Any]:
        """Draw the parameters of one trial of the sweep."""

    def wide_space(self, trial: Trial) -> dict[str, Any]:
        """Draw the same where trials and latency cost nothing."""
        return self.space(trial)

    def predict(self, model: Any, Z: Floats, threads: int = 1) -> Floats:  # noqa: ARG002
        """Return a model's estimates (n,) in double precision; more threads where it has them."""
        return np.asarray(model.predict(Z), dtype=np.float64)

    def fitted(self, model: Any) -> Floats | None:  # noqa: ARG002
        """Return the estimates (n,) of the rows that a model was fitted on in this process.

        As `predict` up to rounding; None where the library keeps none.
        """
        return None

    def staged(self, model: Any, Z: Floats, steps: Sequence[int]) -> list[Floats]:
        """Return the estimates of a model cut to each of these numbers of steps.

        The same as fitting that smaller model gives, in one pass over the trees. Families with a
        `prefix` have it.
        """
        raise NotImplementedError

    def grow(
        self,
        params: Params,
        Z: Floats,
        target: Floats,
        seed: int,
        steps: Sequence[int],
        weight: Floats | None = None,
    ) -> Iterator[Any]:
        """Yield the model at each of these ascending numbers of steps, the last being the whole.

        It is made on one thread, each from the one before. Families that `grows` have it.
        """
        raise NotImplementedError

    def constrained(self, params: Params, signs: Sequence[int]) -> dict[str, Any] | None:  # noqa: ARG002
        """Return the parameters with which estimates never fall as a feature rises, or never rise.

        Args:
            params: The parameters as `fit` takes them.
            signs: For each feature 1 where they may not fall, -1 where they may not rise, else 0.

        Returns:
            None where the family, or its loss, cannot keep to that.
        """
        return None

    @property
    def parameters(self) -> frozenset[str]:
        """Names that a grid may set."""
        return frozenset(self.defaults)

    def check(self, params: Params) -> None:
        """Refuse parameters that are invalid, before any fitting.

        Raises:
            ValueError: Naming the parameter, what it must be and what was found.
            MissingExtraError: The family's library is not installed.
        """
        for name, value in params.items():
            if name in self.choices and value not in self.choices[name]:
                raise ValueError(
                    f"{name} must be one of {', '.join(self.choices[name])}, got {value!r}"
                )
            if name in self.ranges:
                _check_range(name, value, *self.ranges[name])

    def canonical(self, params: Params) -> dict[str, Any]:
        """Return the parameters such that those which the library fits alike are equal.

        For parameters whose kind has no meaning of its own: 1 and 1.0 are the same.
        """
        filled = {**self.defaults, **params}
        for name, default in self.defaults.items():
            if isinstance(default, float) and type(filled[name]) is int:
                filled[name] = float(filled[name])
        return filled

    def slow(self, params: Params, factor: float) -> dict[str, Any]:
        """Turn parameters found at a high learning rate into the final model's.

        It takes `factor` times more steps, each that much smaller; the same parameters for families
        that learn at no rate.
        """
        if self.prefix is None or "learning_rate" not in self.defaults:
            return dict(params)
        found = {**self.defaults, **params}
        return {
            **params,
            "learning_rate": found["learning_rate"] / factor,
            self.prefix: math.ceil(found[self.prefix] * factor),
        }

    def vary(self, params: Params) -> dict[str, Any] | None:  # noqa: ARG002
        """Return the parameters with another loss, for an average; None where there is none."""
        return None

    def reached_depth(self, model: Any) -> int:
        """Return the depth of a fitted model's deepest tree. Families with a `depth` have it."""
        raise NotImplementedError


def _check_range(name: str, value: Any, kind: type, low: float, high: float) -> None:
    fits = isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is int:
        fits = fits and isinstance(value, int)
    if not fits or not low <= value <= high:
        what = "a whole number" if kind is int else "a number"
        raise ValueError(f"{name} must be {what} in [{low:g}, {high:g}], got {value!r}")


def check_estimator(estimator: Any) -> None:
    """Refuse parameters of a scikit-learn estimator by its own constraints, before any fitting.

    Raises:
        ValueError: Naming the parameter, what it must be and what was found.
    """
    estimator._validate_params()


class Booster(Family):
    """A family whose library adds one step after the other to a model that it keeps."""

    grows = True
    takes_missing = True
    takes_weights = True

    @abstractmethod
    def _grow(
        self,
        params: Params,
        Z: Floats,
        target: Floats,
        seed: int,
        steps: Sequence[int],
        threads: int,
        weight: Floats | None = None,
    ) -> Iterator[Any]:
        """Yield the model at each of these steps; threads as for `fit`."""

    def fit(
        self,
        params: Params,
        Z: Floats,
        target: Floats,
        seed: int,
        threads: int = 0,
        weight: Floats | None = None,
    ) -> Any:
        steps = int({**self.defaults, **params}[str(self.prefix)])
        (model,) = self._grow(params, Z, target, seed, [steps], threads, weight)
        return model

    def grow(
        self,
        params: Params,
        Z: Floats,
        target: Floats,
        seed: int,
        steps: Sequence[int],
        weight: Floats | None = None,
    ) -> Iterator[Any]:
        return self._grow(params, Z, target, seed, steps, 1, weight)


def staged_by_sklearn(model: Any, Z: Floats, steps: Sequence[int]) -> list[Floats]:
    """Return the estimates of a boosted model of scikit-learn cut to each number of steps."""
    wanted, found = set(steps), dict[int, Floats]()
    for number, estimate in enumerate(model.staged_predict(Z), start=1):
        if number in wanted:
            found[number] = np.array(estimate, dtype=np.float64)
        if number >= max(wanted):
            break
    return [found[step] for step in steps]
