"""Grid search over the families by cross-validation on the training part."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tasador.core import seeds
from tasador.core.errors import TrainingError
from tasador.core.parallel import Engine, LocalEngine
from tasador.core.progress import Advance, progress
from tasador.data.table import Part
from tasador.metrics.regression import all_metrics
from tasador.modeling.target_transform import TargetTransform
from tasador.selection.errors import NoCandidateError
from tasador.selection.families.catalog import expand_grid, family
from tasador.selection.families.inputs import keeps_monotone
from tasador.selection.folds import Fold, FoldRows
from tasador.selection.paired_tests import corrected_paired_test
from tasador.selection.search import racing as race
from tasador.selection.search.checkpoint import FoldScore, Journal
from tasador.selection.search.early_stopping import Growth, grow_group
from tasador.selection.search.shared_work import (
    Candidate,
    Drop,
    Estimates,
    Group,
    estimate_group,
    group_candidates,
)
from tasador.settings.run import SelectionSettings

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class SearchData:
    """What candidates are measured on, the same for all of them.

    Attributes:
        folds: The folds, features made.
        y: Shape (n,): the training part's target.
        target: Shape (n,): the same on the transformed scale.
        transform: The target's transform.
        scoring: The metric that decides.
        racing: Whether row losses are kept.
        seed: Seed of the models.
    """

    folds: tuple[FoldRows, ...]
    y: Floats
    target: Floats
    transform: TargetTransform
    scoring: str
    racing: bool
    seed: int


@dataclass(frozen=True)
class FoldTask:
    """Some candidates that share work, on one fold.

    Attributes:
        group: The candidates.
        fold: The fold's number.
        leader: Shape (m,): the row losses that growing models must come up to, or None.
    """

    group: Group
    fold: int
    leader: Floats | None = None


def measure_task(data: SearchData, task: FoldTask) -> list[FoldScore]:
    """Fit a group's candidates on a fold and measure each."""
    fold = data.folds[task.fold]
    seed = seeds.derive_seed(data.seed, task.group.family)
    matrices = (fold.Z_held, fold.Z_fit)
    common = (task.group, fold.Z_fit, data.target[fold.fit_rows], matrices, seed)
    seen = (fold.kinds, fold.weight)
    if task.leader is None:
        estimates = estimate_group(*common, *seen)
    else:
        estimates = grow_group(*common, _watch(data, fold, task.leader), *seen)
    return [_score(data, found, task.fold) for found in estimates]


def _watch(data: SearchData, fold: FoldRows, leader: Floats) -> Callable[[Growth], Drop | None]:
    actual, row_losses = data.y[fold.held_rows], race.ROW_LOSSES[data.scoring]

    def loss(score: Floats) -> Floats:
        return row_losses(actual, data.transform.inverse(score))

    return lambda growth: race.find_hopeless(growth, loss, leader, len(data.folds))


def _score(data: SearchData, found: Estimates, number: int) -> FoldScore:
    fold, error = data.folds[number], found.error
    if found.given_up is not None:
        return FoldScore(found.candidate, number, {}, {}, found.seconds, drop=found.given_up)
    values = [data.transform.inverse(value) for value in found.values]
    if error is None and not all(np.isfinite(value).all() for value in values):
        error = "the model's estimates are not finite"
    if error is not None:
        return FoldScore(found.candidate, number, {}, {}, found.seconds, None, error)
    actual = data.y[fold.held_rows]
    losses = None
    if data.racing:
        losses = race.ROW_LOSSES[data.scoring](actual, values[0]).astype(np.float32)
    return FoldScore(
        found.candidate,
        number,
        all_metrics(actual, values[0]),
        all_metrics(data.y[fold.fit_rows], values[1]),
        found.seconds,
        losses,
    )


_log = logging.getLogger(__name__)
#: Two families tie when the p-value of their equality is above this, and when the difference is
#: below this share of the error: five folds tell no more apart.
TIED = 0.05
TIED_WITHIN = 0.03


@dataclass(frozen=True)
class CandidateResult:
    """What one candidate reached.

    Attributes:
        family: Its family.
        params: Its parameters.
        held: For each fold, every metric on the held-out rows; empty when it failed.
        fitted: For each fold, every metric on the fitting rows.
        seconds: CPU seconds to fit and value all folds; of work that candidates share, its part.
        error: Why it failed, or None.
        dropped: Why a race left it on the way, or None.
    """

    family: str
    params: dict[str, Any]
    held: tuple[dict[str, float], ...]
    fitted: tuple[dict[str, float], ...]
    seconds: float
    error: str | None = None
    dropped: str | None = None

    @property
    def state(self) -> Literal["failed", "given up early", "whole"]:
        """Whether it was measured on all folds."""
        return "failed" if self.error else "given up early" if self.dropped else "whole"

    def mean(self, metric: str) -> float:
        """Mean of a metric over the folds; infinite when the candidate failed."""
        return float(np.mean([f[metric] for f in self.held])) if self.held else float("inf")

    def spread(self, metric: str) -> float:
        """Standard deviation of a metric over the folds."""
        return float(np.std([f[metric] for f in self.held], ddof=1)) if len(self.held) > 1 else 0.0

    def train_mean(self, metric: str) -> float:
        """Mean of a metric over the folds' fitting rows."""
        return float(np.mean([f[metric] for f in self.fitted])) if self.fitted else float("inf")


@dataclass(frozen=True)
class SearchResult:
    """Every candidate, every fold score, what it cost.

    Attributes:
        scoring: The metric that decides.
        candidates: Those measured on all folds, best first; then the dropped; then the failed.
        baseline: The plain baseline on the same folds; None where it was not measured.
    """

    scoring: str
    candidates: tuple[CandidateResult, ...]
    baseline: CandidateResult | None = None

    @property
    def best(self) -> CandidateResult:
        """The candidate with the smallest mean score."""
        return self.candidates[0]

    @property
    def complete(self) -> tuple[CandidateResult, ...]:
        """The candidates that were measured on all folds, best first."""
        return tuple(c for c in self.candidates if c.error is None and c.dropped is None)

    def best_of_families(self) -> tuple[CandidateResult, ...]:
        """The best candidate of each family, best first."""
        seen: dict[str, CandidateResult] = {}
        for candidate in self.complete:
            seen.setdefault(candidate.family, candidate)
        return tuple(seen.values())

    def best_of(self, family: str | None) -> CandidateResult:
        """Return the best candidate of a family; None takes the best of all.

        Raises:
            TrainingError: The family has no candidate that was measured on all folds.
        """
        if family is None:
            return self.best
        for candidate in self.best_of_families():
            if candidate.family == family:
                return candidate
        raise NoCandidateError.of_family(family, [c.family for c in self.best_of_families()])

    def contenders(self, family: str | None, most: int = 2) -> tuple[CandidateResult, ...]:
        """Return the best candidates of those families that are worth tuning, the winner first.

        Families that tie with the winner are: the paired test on the folds does not tell them
        apart, and they are behind by less than `TIED_WITHIN` of its error.

        Args:
            family: The only one that is asked for; None for the winner and those that tie with it.
            most: How many at most.
        """
        if family is not None:
            return (self.best_of(family),)
        chances, best = self.tie_probabilities(), self.best.mean(self.scoring)
        tied = [
            c
            for c in self.best_of_families()
            if c is not self.best
            and chances[c.family] > TIED
            and c.mean(self.scoring) <= best * (1.0 + TIED_WITHIN)
        ]
        return (self.best, *tied)[:most]

    def tie_probabilities(self) -> dict[str, float]:
        """Return, for the best candidate of each family, the p-value that it equals the winner.

        Nadeau and Bengio's corrected paired t-test on the fold scores.
        """
        best = [fold[self.scoring] for fold in self.best.held]
        return {
            c.family: corrected_paired_test(
                [fold[self.scoring] for fold in c.held], best, 1.0 / len(best)
            )
            for c in self.best_of_families()
        }


def wanted_candidates(settings: SelectionSettings) -> list[tuple[str, dict[str, Any]]]:
    """Return the family and parameters of every candidate, in the grids' order.

    Nothing is fitted: called at a run's start, it says what is wrong before any work is done.

    Raises:
        ConfigError: A grid names an unknown family, parameter or value, or racing a metric that it
            cannot use.
        MissingExtraError: A family's library is not installed.
        TrainingError: There is no candidate.
    """
    if settings.racing:
        race.check_scoring(settings.scoring)
    wanted = [
        (name, params)
        for name, grid in settings.families.items()
        for params in expand_grid(name, grid)
    ]
    if not wanted:
        raise TrainingError("no candidate to compare", remedy="name one in selection.families")
    return wanted


#: Why candidates are left out: what is asked of them, and they cannot do.
NOT_MONOTONE = "cannot keep estimates monotone as model.monotone asks"
NOT_WEIGHTED = "take no weights of rows, which the contract or model.half_life gives them"


def kept_candidates(
    settings: SelectionSettings, folds: Sequence[FoldRows]
) -> tuple[list[tuple[str, dict[str, Any]]], dict[str, list[str]]]:
    """Return the candidates that can do what the folds' features and weights ask for.

    And the families of the others, one for each candidate, by why they are left out.

    Raises:
        ConfigError, MissingExtraError, TrainingError: As `wanted_candidates`.
    """
    kinds = folds[0].kinds if folds else ()
    weighted = any(fold.weight is not None for fold in folds)
    kept, left_out = [], dict[str, list[str]]()
    for name, params in wanted_candidates(settings):
        if not keeps_monotone(family(name), params, kinds):
            left_out.setdefault(NOT_MONOTONE, []).append(name)
        elif weighted and not family(name).takes_weights:
            left_out.setdefault(NOT_WEIGHTED, []).append(name)
        else:
            kept.append((name, params))
    return kept, left_out


def grid_search(
    settings: SelectionSettings,
    folds: Sequence[Fold],
    part: Part,
    transform: TargetTransform,
    seed: int,
    journal: Path | None = None,
    *,
    gaps: bool = False,
    engine: Engine | None = None,
) -> SearchResult:
    """Compare every candidate of every family's grid.

    Candidates that share work are fitted together (`selection.search.shared_work`), the longest
    first on all cores, one thread each. The scores are those of fitting each candidate alone.

    Args:
        settings: The grids and the score.
        folds: Folds with their features, shared by all candidates.
        part: The training part.
        transform: The target's transform.
        seed: Seed of the models.
        journal: File to which each finished fold of a candidate is appended; what is found in it
            is not computed again, so that an interrupted search goes on where it was.
        gaps: Whether features may be NaN; families that take none then fail.
        engine: Where candidates are fitted, this machine's cores by default. The scores are the
            same wherever that is.

    Raises:
        ConfigError: A grid names an unknown family or parameter, or racing a metric that it cannot
            use (before anything is fitted).
        TrainingError: No candidate could be fitted.
        EngineError: The cluster was lost.
    """
    wanted, left_out = kept_candidates(settings, folds)
    if not wanted:
        unweighted = left_out.get(NOT_WEIGHTED)
        if unweighted:
            raise NoCandidateError.none_weighted(sorted(set(unweighted)))
        raise NoCandidateError.none_monotone(sorted(set(left_out[NOT_MONOTONE])))
    candidates = [Candidate(i, name, params) for i, (name, params) in enumerate(wanted)]
    search = _Search(
        settings,
        candidates,
        folds,
        part,
        transform,
        seed,
        Journal(journal),
        engine or LocalEngine(),
    )
    if gaps:
        search.errors |= {
            c.position: f"{c.family} takes no missing values, which impute.strategy=native leaves"
            for c in candidates
            if not family(c.family).takes_missing
        }
    with _one_line_on_convergence():
        results = search.run()
    failed = [result for result in results if result.error is not None]
    if len(failed) == len(results):
        raise NoCandidateError.all_failed(len(results), failed[0].error)
    ordered = sorted(
        results,
        key=lambda r: (
            r.error is not None,
            r.dropped is not None,
            -len(r.held),
            r.mean(settings.scoring),
            r.family,
            str(r.params),
        ),
    )
    return SearchResult(settings.scoring, tuple(ordered))


class _Search:
    """One search in progress: what is measured of each candidate on each fold so far."""

    def __init__(
        self,
        settings: SelectionSettings,
        candidates: Sequence[Candidate],
        folds: Sequence[Fold],
        part: Part,
        transform: TargetTransform,
        seed: int,
        journal: Journal,
        engine: Engine,
    ) -> None:
        self.settings, self.candidates, self.folds = settings, candidates, folds
        self.journal, self.engine = journal, engine
        data = SearchData(
            tuple(fold.rows for fold in folds),
            part.y,
            transform.forward(part.y),
            transform,
            settings.scoring,
            settings.racing,
            seed,
        )
        self.shared = engine.share(data)
        self.scores: dict[int, dict[int, FoldScore]] = {c.position: {} for c in candidates}
        self.errors: dict[int, str] = {}
        self.failed_on: dict[int, int] = {}  # fold
        self.dropped: dict[int, Drop] = {}
        self.given_up: dict[int, float] = {}  # seconds until then

    def run(self) -> list[CandidateResult]:
        for candidate in self.candidates:
            for score in self.journal.known(candidate).values():
                self._take(score)
        everything = range(len(self.folds))
        rounds = [[fold] for fold in everything] if self.settings.racing else [list(everything)]
        total = sum(task.group.cost for fold in rounds for task in self._tasks(fold))
        with progress("comparing models", total) as advance:
            for number, some in enumerate(rounds, start=1):
                if self.settings.racing and number == 1:
                    self._measure_in_rounds(advance)
                else:
                    self._measure(self._tasks(some), advance)
                if self.settings.racing and number < len(rounds):
                    self._drop(rounds[:number])
        return [self._result(candidate) for candidate in self.candidates]

    def _running(self) -> list[Candidate]:
        out = self.errors.keys() | self.dropped.keys()
        return [c for c in self.candidates if c.position not in out]

    def _tasks(self, folds: Sequence[int]) -> list[FoldTask]:
        return [
            FoldTask(group, fold)
            for fold in folds
            for group in group_candidates(
                [c for c in self._running() if fold not in self.scores[c.position]]
            )
        ]

    def _measure(self, tasks: Sequence[FoldTask], advance: Advance) -> None:
        measured = self.engine.map(
            measure_task, self.shared, tasks, cost=lambda task: task.group.cost
        )
        for place, found in measured:
            for score in found:
                if score.error is not None:
                    _log.warning("%s failed: %s", score.candidate, score.error)
                    self._note_error(score, score.error)
                    continue
                self._take(score)
                self.journal.append(score)
            advance(tasks[place].group.cost, note=tasks[place].group.family)

    def _note_error(self, score: FoldScore, error: str) -> None:
        """Keep the first fold's error, whichever fold is done first."""
        place = score.candidate.position
        if score.fold < self.failed_on.get(place, len(self.folds)):
            self.errors[place], self.failed_on[place] = error, score.fold

    def _take(self, score: FoldScore) -> None:
        if score.drop is not None:
            self.dropped[score.candidate.position] = score.drop
            self.given_up[score.candidate.position] = score.seconds
        else:
            self.scores[score.candidate.position][score.fold] = score

    def _measure_in_rounds(self, advance: Advance) -> None:
        """Measure the first fold of a race; what grows is watched from the second heat on.

        A group of which something is lacking is run as a whole, so that a race that was interrupted
        gives up what it would have given up.
        """
        failed = self.errors.keys()
        groups = group_candidates([c for c in self.candidates if c.position not in failed])
        before: list[int] = []
        for heat in race.rounds(groups):
            leader = self._leader(before)
            before += [c.position for group in heat for c in group.members]
            waiting = [
                FoldTask(group, 0, leader)
                for group in heat
                if any(
                    0 not in self.scores[c.position] and c.position not in self.dropped
                    for c in group.members
                )
            ]
            self._measure(waiting, advance)

    def _leader(self, before: Sequence[int]) -> NDArray[np.float64] | None:
        """Return the row losses on the first fold of the best of earlier rounds."""
        done = [self.scores[i][0].row_losses for i in before if 0 in self.scores[i]]
        return min(done, key=lambda losses: float(losses.mean())).astype(float) if done else None

    def _drop(self, rounds: Sequence[Sequence[int]]) -> None:
        seen = [fold for some in rounds for fold in some]
        losses = {
            c.position: [self.scores[c.position][fold].row_losses for fold in seen]
            for c in self._running()
        }
        self.dropped |= race.find_drops(losses, losses, len(self.folds))

    def _result(self, candidate: Candidate) -> CandidateResult:
        error, drop = self.errors.get(candidate.position), self.dropped.get(candidate.position)
        scores = [] if error else [s for _, s in sorted(self.scores[candidate.position].items())]
        why = None
        if drop is not None:
            scores, why = scores[: drop.after], drop.reason(len(self.folds))
        return CandidateResult(
            candidate.family,
            dict(candidate.params),
            tuple(s.held for s in scores),
            tuple(s.fitted for s in scores),
            sum(s.seconds for s in scores) + self.given_up.get(candidate.position, 0.0),
            error,
            why,
        )


@contextmanager
def _one_line_on_convergence() -> Iterator[None]:
    """Log in one line how many linear fits stopped early, in place of a warning for each.

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


def result_from_plain(plain: Mapping[str, Any]) -> CandidateResult:
    """Rebuild a candidate's result from JSON."""
    return CandidateResult(
        **{**plain, "held": tuple(plain["held"]), "fitted": tuple(plain["fitted"])}
    )
