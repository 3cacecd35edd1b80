"""Bayesian sweep of the winning family's parameters, by cross-validation on the training part."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from tasador.core import seeds
from tasador.core.errors import MissingExtraError, TrainingError
from tasador.core.hashing import fingerprint, sha256_bytes, to_plain
from tasador.core.parallel import Engine, LocalEngine
from tasador.core.progress import progress
from tasador.data.table import Part
from tasador.modeling.target_transform import TargetTransform
from tasador.selection.errors import SweepStorageError
from tasador.selection.families.base import Trial
from tasador.selection.families.catalog import family
from tasador.selection.folds import Fold
from tasador.selection.paired_tests import corrected_standard_error
from tasador.selection.search.grid_search import CandidateResult, result_from_plain
from tasador.selection.search.trial import RUNGS, Bench, SpaceRecorder, Task, open_bench, run_trial
from tasador.settings.run import SweepSettings

_log = logging.getLogger(__name__)
_RESULT, _START = "result", "start"
#: A point of the space is next to another within this share of each range.
_NEXT_TO = 0.01
#: What databases say when another worker has just made the same table or row.
_MET = ("already exists", "duplicate key", "unique constraint")
#: Called with each finished trial, the first being the selection's winner.
OnTrial = Callable[[CandidateResult], None]


@dataclass(frozen=True)
class SweepResult:
    """The parameters found, and every trial on the way.

    Attributes:
        family: The family swept.
        metric: What was minimised.
        best: The trial with the smallest mean over all folds.
        trials: All trials in the order tried, the selection's winner first.
        final_params: The parameters of the final model.
        importance: Share of each parameter in the differences between trials (fANOVA of Hutter et
            al., 2014), the largest first; empty with fewer than four whole trials.
    """

    family: str
    metric: str
    best: CandidateResult
    trials: tuple[CandidateResult, ...]
    final_params: dict[str, Any]
    importance: dict[str, float] = field(default_factory=dict)


def sweep(
    name: str,
    start: dict[str, Any],
    settings: SweepSettings,
    folds: Sequence[Fold],
    part: Part,
    transform: TargetTransform,
    seed: int,
    *,
    measured: CandidateResult | None = None,
    final_rows: int | None = None,
    journal: Path | None = None,
    on_trial: OnTrial | None = None,
    engine: Engine | None = None,
) -> SweepResult:
    """Search the family's space with Optuna's TPE, starting from the selection's winner.

    `measured` is what the selection measured of `start`; its first folds are `folds`, and are not
    measured again. `final_rows` is how many rows the final model will be fitted on, those of `part`
    when None.

    The test part is not in reach: `folds` and `part` are the training part's. Alone, the sweep
    gives the same trials on every run, also when it goes on after an interruption; workers that
    share a study influence each other and do not. Trials follow one another, since each is proposed
    from those before; `engine` (this machine's cores by default) fits a trial's folds side by side.

    Raises:
        EngineError: The cluster was lost; what was finished is in the journal.
        StorageError: The storage cannot be reached.
        TrainingError: Every trial failed.
    """
    folds = folds[: settings.folds]
    task = Task.of(name, folds, part, transform, settings.metric, seed)
    with (
        _quiet_optuna(),
        _study(_key(task, folds, part, start, settings), settings, journal) as study,
        open_bench(task, engine or LocalEngine()) as bench,
    ):
        first = _first_trial(study, bench, start, settings, measured)
        tell = on_trial or (lambda _: None)
        tell(first)
        with progress("sweeping parameters", settings.trials) as advance:
            advance(1 if settings.trials else 0)
            while (done := len(found := _finished(study))) < settings.trials - 1:
                if has_settled(
                    [first, *map(_result_of, found)], settings.metric, settings.patience
                ):
                    break
                result = _next_trial(study, bench, start, settings, done)
                tell(result)
                advance(note=f"{settings.metric} {_lowest(study, first, settings.metric):.3f}")
        results = [first, *(_result_of(trial) for trial in _finished(study))]
        importance = _importance(study, seeds.derive_seed(seed, "importance"))
    whole = [r for r in results if r.error is None and r.dropped is None]
    if not whole:
        raise TrainingError(f"every trial of the sweep failed, the first with: {first.error}")
    best = min(whole, key=lambda result: result.mean(settings.metric))
    final = family(name).slow(best.params, settings.slowdown_for(final_rows or len(part)))
    return SweepResult(name, settings.metric, best, tuple(results), final, importance)


@contextlib.contextmanager
def _quiet_optuna() -> Iterator[None]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


def _key(
    task: Task, folds: Sequence[Fold], part: Part, start: dict[str, Any], settings: SweepSettings
) -> str:
    """Return what tells this very sweep from others, wherever its models are fitted."""
    rows = [sha256_bytes(part.row_hash[fold.held_rows].tobytes()) for fold in folds]
    columns = [fold.names for fold in folds]
    weights = [sha256_bytes(fold.weight.tobytes()) for fold in folds if fold.weight is not None]
    what = [task.family, start, settings.wide, task.metric, task.seed, columns, rows]
    what += [weights] if weights else []
    return fingerprint(what)[:16]


@contextlib.contextmanager
def _study(key: str, settings: SweepSettings, journal: Path | None) -> Iterator[Any]:
    """Open the study of that key, in its storage."""
    import optuna
    from optuna.storages.journal import JournalFileBackend

    shared, storage, engine = settings.storage, None, None
    try:
        if shared is not None:
            storage = _database(shared)
            engine = storage.engine
        elif journal is not None:
            journal.parent.mkdir(parents=True, exist_ok=True)
            storage = optuna.storages.JournalStorage(JournalFileBackend(str(journal)))
        study = optuna.create_study(
            study_name=f"{settings.study}-{key}",
            storage=storage,
            direction="minimize",
            pruner=_pruner(settings.pruner),
            load_if_exists=True,
        )
        if shared is None:
            _end_interrupted(study)
        yield study
    except Exception as error:  # SQLAlchemy's and Optuna's errors share no root
        if shared is not None and type(error).__module__.split(".")[0] in ("sqlalchemy", "optuna"):
            raise SweepStorageError.failed(error, _without_password(shared)) from None
        raise
    finally:
        if engine is not None:
            engine.dispose()


def _database(url: str) -> Any:
    """Open the database; workers that begin together may meet while one makes its tables.

    Raises:
        MissingExtraError: The database's driver is not installed.
    """
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    for pause in (0.2, 0.4, 0.8, 1.6, 0.0):
        try:
            return optuna.storages.RDBStorage(url)
        except ImportError:
            driver = "psycopg" if "psycopg" in url else url.partition(":")[0]
            raise MissingExtraError.for_package(driver, "postgres") from None
        except SQLAlchemyError as error:
            if not pause or not any(word in str(error).lower() for word in _MET):
                raise
            time.sleep(pause)
    raise AssertionError("unreachable")


def _without_password(url: str) -> str:
    head, at, tail = url.rpartition("@")
    return f"{head.rpartition(':')[0]}:***@{tail}" if at else url


def _pruner(name: str) -> Any:
    import optuna

    if name == "hyperband":
        return optuna.pruners.HyperbandPruner(
            min_resource=RUNGS[0], max_resource=RUNGS[-1], reduction_factor=3
        )
    if name == "halving":
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=RUNGS[0], reduction_factor=3)
    return optuna.pruners.NopPruner()


def _end_interrupted(study: Any) -> None:
    """Close what an interrupted sweep left open; its place in the order is given again."""
    import optuna

    for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)


def _finished(study: Any) -> list[Any]:
    return [t for t in study.get_trials(deepcopy=False) if _RESULT in t.user_attrs]


def _result_of(trial: Any) -> CandidateResult:
    return result_from_plain(trial.user_attrs[_RESULT])


def _space(
    task: Task, start: dict[str, Any], settings: SweepSettings
) -> Callable[[Trial], dict[str, Any]]:
    """Return the family's space; what it does not search, such as a loss, stays the winner's."""
    chosen = family(task.family)
    space = chosen.wide_space if settings.wide else chosen.space
    return lambda trial: {**start, **space(trial)}


def _first_trial(
    study: Any,
    bench: Bench,
    start: dict[str, Any],
    settings: SweepSettings,
    measured: CandidateResult | None,
) -> CandidateResult:
    """Measure the selection's winner, or take what is measured, and begin the search beside it.

    Where the space holds the winner, or a point next to it, the sampler starts from its error;
    elsewhere the nearest point of the space is what is tried next.
    """
    import optuna

    if _START in study.user_attrs:
        return result_from_plain(study.user_attrs[_START])
    task = bench.task
    if measured is None or len(measured.held) < len(task.folds):
        result = run_trial(bench, start, lambda *_: False)
    else:
        most = len(task.folds)
        held, fitted = measured.held[:most], measured.fitted[:most]
        result = replace(measured, params=dict(start), held=held, fitted=fitted)
    study.set_user_attr(_START, to_plain(result))
    space = SpaceRecorder()
    _space(task, start, settings)(space)
    nearest, away = space.nearest(family(task.family).canonical(start))
    if away <= _NEXT_TO and result.error is None:
        study.add_trial(
            optuna.trial.create_trial(
                params=nearest, distributions=space.distributions, value=result.mean(task.metric)
            )
        )
    else:
        study.enqueue_trial(nearest)
    return result


def _next_trial(
    study: Any, bench: Bench, start: dict[str, Any], settings: SweepSettings, done: int
) -> CandidateResult:
    """Ask for parameters, measure them, tell what came out.

    The sampler is made again from a seed for each trial, so that what it proposes depends on the
    trials before and on nothing else. Workers that share a study have a seed each.
    """
    import optuna

    task = bench.task
    worker = [] if settings.storage is None else [socket.gethostname(), os.getpid()]
    study.sampler = optuna.samplers.TPESampler(
        seed=seeds.derive_seed(task.seed, "sweep", done, *worker),
        # with few trials, half of them by chance
        n_startup_trials=max(3, min(10, settings.trials // 2)),
        multivariate=True,
        constant_liar=bool(worker),
    )
    trial = study.ask()

    def give_up(rung: int, error: float) -> bool:
        trial.report(error, rung)
        return rung < RUNGS[-1] and bool(trial.should_prune())

    result = run_trial(bench, _space(task, start, settings)(trial), give_up)
    trial.set_user_attr(_RESULT, to_plain(result))
    if result.dropped is not None:
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    elif np.isfinite(result.mean(task.metric)):
        study.tell(trial, result.mean(task.metric))
    else:
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
    return result


def has_settled(trials: Sequence[CandidateResult], metric: str, patience: int | None) -> bool:
    """Tell whether the last `patience` trials made the best no better than chance explains.

    Chance is one standard error of the mean difference of the two over the folds, corrected for
    the rows that folds share. Optuna's `BestValueStagnationEvaluator` counts any gain, and its
    terminators that weigh gains against the error of cross-validation need torch.
    """
    if patience is None or len(trials) <= patience:
        return False
    before, now = (
        min(
            (one for one in some if one.state == "whole"),
            key=lambda one: one.mean(metric),
            default=None,
        )
        for some in (trials[:-patience], trials)
    )
    if before is None or now is None:
        return False
    gains = [a[metric] - b[metric] for a, b in zip(before.held, now.held, strict=True)]
    return float(np.mean(gains)) <= corrected_standard_error(gains, 1.0 / len(gains))


def _lowest(study: Any, first: CandidateResult, metric: str) -> float:
    whole = (r for r in map(_result_of, _finished(study)) if r.dropped is None)
    return min(first.mean(metric), *(r.mean(metric) for r in whole), float("inf"))


def _importance(study: Any, seed: int) -> dict[str, float]:
    import optuna

    complete = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    # fANOVA shares out the variance of the errors, of which there has to be some
    if len(complete) < 4 or len({trial.value for trial in complete}) < 2:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=seed)
    found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {name: float(share) for name, share in found.items()}
