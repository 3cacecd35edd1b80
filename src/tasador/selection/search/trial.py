"""One trial of a sweep: a set of parameters measured on the folds, or given up on the way."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasador.core import seeds
from tasador.core.errors import EngineError, TrainingError
from tasador.core.parallel import Actors, Engine, Held
from tasador.data.table import Part
from tasador.metrics.regression import METRICS, all_metrics
from tasador.modeling.target_transform import TargetTransform
from tasador.selection.families.catalog import family
from tasador.selection.families.inputs import fit_model, grow_model
from tasador.selection.folds import Fold, FoldRows
from tasador.selection.search.grid_search import CandidateResult


class SpaceRecorder:
    """Stands where an Optuna trial stands, proposes the low ends and notes the ranges.

    Attributes:
        distributions: Optuna's distribution by parameter.
    """

    def __init__(self) -> None:
        self.distributions: dict[str, Any] = {}

    def holds(self, params: Mapping[str, Any]) -> bool:
        """Return whether `params` name each parameter of the space, with a value from its range."""
        return params.keys() == self.distributions.keys() and all(
            value in found.choices
            if hasattr(found, "choices")
            else found.low <= value <= found.high
            for found, value in ((self.distributions[k], v) for k, v in params.items())
        )

    def nearest(self, params: Mapping[str, Any]) -> tuple[dict[str, Any], float]:
        """Return the point of the space nearest to `params`, and how far away it is.

        A number outside its range becomes the end of it; what is not named (or, like a depth
        without limit, no number) becomes the high end of whole numbers, the low end of others, and
        the first of choices. The distance is the largest of all parameters, as a share of its
        range; infinite where a value is not named or no choice.
        """
        found = {
            name: _nearest(distribution, params.get(name))
            for name, distribution in self.distributions.items()
        }
        gaps = [
            _gap(distribution, params.get(name), found[name])
            for name, distribution in self.distributions.items()
        ]
        return found, max(gaps, default=0.0)

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        """Note a range of whole numbers."""
        from optuna.distributions import IntDistribution

        self.distributions[name] = IntDistribution(low, high, log=log)
        return low

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """Note a range of numbers."""
        from optuna.distributions import FloatDistribution

        self.distributions[name] = FloatDistribution(low, high, log=log)
        return low

    def suggest_categorical(self, name: str, choices: list[Any]) -> Any:
        """Note a choice."""
        from optuna.distributions import CategoricalDistribution

        self.distributions[name] = CategoricalDistribution(choices)
        return choices[0]


def _nearest(found: Any, value: Any) -> Any:
    if hasattr(found, "choices"):
        return value if value in found.choices else found.choices[0]
    whole = hasattr(found, "step") and isinstance(found.low, int)
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return found.high if whole else found.low
    bounded = min(max(value, found.low), found.high)
    return round(bounded) if whole else float(bounded)


def _gap(found: Any, value: Any, nearest: Any) -> float:
    if value == nearest:
        return 0.0
    if hasattr(found, "choices") or not isinstance(value, (int, float)) or isinstance(value, bool):
        return float("inf")
    return float(abs(value - nearest) / max(found.high - found.low, 1e-300))


_log = logging.getLogger(__name__)
Floats = NDArray[np.float64]

#: The rungs, in ninths of a trial's own steps, after which it may be given up.
RUNGS = (1, 3, 9)
#: On so many folds a trial is grown rung by rung; the others only measure what is left.
_GROWN_FOLDS = 2
#: (rung, error so far) -> whether to give the trial up.
GiveUp = Callable[[int, float], bool]


@dataclass(frozen=True)
class Task:
    """What a trial is measured on, the same for all trials.

    Attributes:
        family: The family.
        folds: The folds, features made.
        y: Shape (n,): the training part's target.
        transform: The target's transform.
        metric: The metric that decides.
        seed: Seed of the models.
    """

    family: str
    folds: tuple[FoldRows, ...]
    y: Floats
    transform: TargetTransform
    metric: str
    seed: int

    @classmethod
    def of(
        cls,
        name: str,
        folds: Sequence[Fold],
        part: Part,
        transform: TargetTransform,
        metric: str,
        seed: int,
    ) -> Task:
        """Take from folds and rows what trials need of them."""
        return cls(name, tuple(fold.rows for fold in folds), part.y, transform, metric, seed)

    def error(self, fold: FoldRows, estimate: Floats) -> float:
        """Return the metric of estimates (m,) of a fold's held-out rows."""
        return METRICS[self.metric](self.y[fold.held_rows], estimate)

    def measure(
        self, fold: FoldRows, model: Any, estimate: Floats
    ) -> tuple[dict[str, float], dict[str, float]]:
        """Return every metric on a fold's held-out rows, estimated so, and on its fitting rows."""
        kept = family(self.family).fitted(model)
        own = self.estimate(model, fold.Z_fit) if kept is None else self._inverse(kept)
        return (
            all_metrics(self.y[fold.held_rows], estimate),
            all_metrics(self.y[fold.fit_rows], own),
        )

    def grow(self, params: Mapping[str, Any], fold: FoldRows) -> Iterator[Any]:
        """Yield the model on a fold at each rung; the whole one at all where it cannot grow."""
        chosen = family(self.family)
        target = self.transform.forward(self.y[fold.fit_rows])
        seed = seeds.derive_seed(self.seed, self.family)
        model, left = None, len(RUNGS)
        common = (fold.Z_fit, fold.kinds, target, seed)
        if not chosen.grows or chosen.prefix is None:
            model = fit_model(chosen, params, *common, 1, fold.weight)
        else:
            whole = int(chosen.canonical(params)[chosen.prefix])
            steps = sorted({max(1, whole * rung // RUNGS[-1]) for rung in RUNGS})
            for model in grow_model(chosen, params, *common, steps, fold.weight):
                left -= 1
                yield model
        yield from left * [model]

    def estimate(self, model: Any, Z: Floats) -> Floats:
        """Return a model's estimates (m,) in the target's unit.

        Raises:
            TrainingError: One is not finite.
        """
        return self._inverse(family(self.family).predict(model, Z))

    def _inverse(self, score: Floats) -> Floats:
        estimate = self.transform.inverse(score)
        if not np.isfinite(estimate).all():
            raise TrainingError("the model's estimates are not finite")
        return estimate


@dataclass(frozen=True)
class _Question:
    """What a fold is asked: the error of a trial at a rung's place, or `whole`, every metric."""

    params: Mapping[str, Any]
    place: int
    whole: bool = False


@dataclass(frozen=True)
class _Growth:
    """What a fold answers, and the CPU seconds for it."""

    seconds: float
    error: float = float("nan")
    held: dict[str, float] = field(default_factory=dict)
    fitted: dict[str, float] = field(default_factory=dict)


class _GrowingFold:
    """A trial's model on one fold, grown as far as it is asked about, from nothing.

    Args:
        task: What trials are measured on.
        number: The fold's.
    """

    def __init__(self, task: Task, number: int) -> None:
        self._task, self._fold = task, task.folds[number]
        self._params: Mapping[str, Any] | None = None
        self._growing: Iterator[Any] = iter(())
        self._place = -1
        self._model: Any = None
        self._held: Floats | None = None

    def __call__(self, question: _Question) -> _Growth:
        started = time.thread_time()
        if question.params != self._params or question.place < self._place:
            self._params, self._place = question.params, -1
            self._growing = self._task.grow(question.params, self._fold)
        while self._place < question.place:
            self._model = next(self._growing)
            self._place, self._held = self._place + 1, None
        if self._held is None:
            self._held = self._task.estimate(self._model, self._fold.Z_held)
        if not question.whole:
            error = self._task.error(self._fold, self._held)
            return _Growth(time.thread_time() - started, error)
        held, fitted = self._task.measure(self._fold, self._model, self._held)
        return _Growth(time.thread_time() - started, float("nan"), held, fitted)


@dataclass(frozen=True)
class Bench:
    """Where the trials of a sweep are measured; see `open_bench`."""

    task: Task
    held: Held[Task]
    grown: Actors[_Question, _Growth]
    engine: Engine


@contextmanager
def open_bench(task: Task, engine: Engine) -> Iterator[Bench]:
    """Bring a task to where its models are fitted, while the body runs."""
    held = engine.share(task)
    numbers = range(len(task.folds[:_GROWN_FOLDS]))
    with engine.actors(_GrowingFold, held, numbers) as grown:
        yield Bench(task, held, grown, engine)


def run_trial(bench: Bench, params: Mapping[str, Any], give_up: GiveUp) -> CandidateResult:
    """Measure a set of parameters; a fit that fails is recorded, not raised.

    The first two folds grow side by side. At each rung their mean error goes to `give_up`; a trial
    that is given up keeps what its two folds measured last.

    Raises:
        EngineError: The cluster was lost.
    """
    task, started = bench.task, time.perf_counter()
    dropped = None
    measured: list[_Growth] = []
    seconds = 0.0
    place = 0
    try:
        for place, rung in enumerate(RUNGS):
            found = bench.grown.call(_Question(params, place))
            seconds += sum(one.seconds for one in found)
            if give_up(rung, float(np.mean([one.error for one in found]))):
                dropped = f"given up after {rung}/{RUNGS[-1]} of its steps"
                break
        measured += bench.grown.call(_Question(params, place, whole=True))
        if dropped is None:
            rest = [(params, i) for i in range(len(task.folds))][_GROWN_FOLDS:]
            others = dict(bench.engine.map(_whole, bench.held, rest))
            measured += [others[i] for i in range(len(rest))]
    except EngineError:
        raise
    except Exception as error_:  # one trial's failure must not lose the others
        _log.warning("%s %s failed: %s", task.family, dict(params), error_)
        wall = time.perf_counter() - started
        return CandidateResult(task.family, dict(params), (), (), wall, f"{error_}")
    return CandidateResult(
        task.family,
        dict(params),
        tuple(one.held for one in measured),
        tuple(one.fitted for one in measured),
        seconds + sum(one.seconds for one in measured),
        dropped=dropped,
    )


def _whole(task: Task, asked: tuple[Mapping[str, Any], int]) -> _Growth:
    params, number = asked
    return _GrowingFold(task, number)(_Question(params, len(RUNGS) - 1, whole=True))
