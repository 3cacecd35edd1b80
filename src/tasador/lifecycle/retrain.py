"""Train the champion's successor on reference rows and recorded outcomes, if there is reason to."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tasador.core import clock, seeds
from tasador.core.errors import TasadorError
from tasador.core.hashing import to_plain
from tasador.data.sources import read_stored, store_frame
from tasador.data.table import Table, ValidatedTable
from tasador.lifecycle import canary
from tasador.lifecycle.alias_updates import (
    CHALLENGER,
    IN_FORCE,
    LEASE_S,
    Operation,
    new_operation_id,
)
from tasador.lifecycle.api import Lifecycle, Place, opened
from tasador.lifecycle.errors import LineageError, NoChampionError
from tasador.lifecycle.gate_evaluation import VersionEvaluation, held_out, reference_table
from tasador.lifecycle.new_rows import NewRows, common_shift, extended_table, read_rows, usable_rows
from tasador.lifecycle.promote import PromotionRequest, promote
from tasador.lifecycle.reproduce import in_workspace, settings_of
from tasador.lifecycle.retraining_policy import RetrainDecision, Situation, decide
from tasador.records.audit_log import AuditEntry, Verdicts
from tasador.records.store import RecordStore
from tasador.registry.model_bundle import ModelBundle
from tasador.registry.versions import CHAMPION, ModelVersion
from tasador.serving.experiment import Criteria
from tasador.settings.run import GateSettings, RetrainSettings, RunSettings, TrackingSettings
from tasador.training.context import StoredTable
from tasador.training.pipeline import train
from tasador.training.step_cache import OnStep

Floats = NDArray[np.float64]
_ROWS = 500


def important_columns(bundle: ModelBundle, X: Floats, share: float) -> frozenset[str]:
    """Return the columns that make up at least `share` of how much estimates move.

    Each column's values are shuffled among the rows, as in Breiman's permutation importance (2001);
    what counts is how far estimates move, so that no outcomes are needed.

    Args:
        bundle: The model.
        X: Shape (n, p): encoded rows; at most 500 of them are used.
        share: In [0, 1].
    """
    # a fixed seed: the same champion has the same important columns in every round
    random = seeds.generator(0, "importance")
    rows = X if len(X) <= _ROWS else X[np.sort(random.choice(len(X), _ROWS, replace=False))]
    before = bundle.predict(rows)
    moved = []
    for column in range(X.shape[1]):
        shuffled = rows.copy()
        shuffled[:, column] = random.permutation(shuffled[:, column])
        moved.append(float(np.mean(np.abs(bundle.predict(shuffled) - before))))
    total = sum(moved)
    names = bundle.contract.feature_names
    # a model that no column moves: any of them may matter to the next one
    if total <= 0:
        return frozenset(names)
    return frozenset(n for n, one in zip(names, moved, strict=True) if one / total >= share)


_MOST_CONFLICTS = 100_000


@dataclass(frozen=True)
class RetrainRequest:
    """What a person or the watcher asks for.

    Attributes:
        manual: Why it is asked for by hand; None leaves it to the triggers.
        dry_run: Decide and count, train nothing.
        alias: The place that a model which passes all gates gets.
        settings: The policy.
        gates: How strict the gates are.
    """

    manual: str | None = None
    dry_run: bool = False
    alias: str = CHALLENGER
    settings: RetrainSettings = field(default_factory=RetrainSettings)
    gates: GateSettings = field(default_factory=GateSettings)


@dataclass(frozen=True)
class Listeners:
    """Called on the way: with the decision and its rows, with each step, with the gates."""

    decided: Callable[[RetrainDecision, NewRows | None], None] = lambda *_: None
    step: OnStep | None = None
    evaluated: Callable[[VersionEvaluation], None] = lambda _: None


@dataclass(frozen=True)
class Retrained:
    """The result of a retraining.

    Attributes:
        decision: Whether and why.
        usable: New rows that may be trained on.
        left_out: New rows left out, by reason.
        table: Content hash of the new training table; None when nothing was trained.
        version: The new version's number; None when nothing was trained.
    """

    decision: RetrainDecision
    usable: int
    left_out: Mapping[str, int]
    table: str | None = None
    version: str | None = None


def retrain(
    lifecycle: Lifecycle, request: RetrainRequest | None = None, listeners: Listeners | None = None
) -> Retrained:
    """Decide, and if so train, register, evaluate and promote the new version.

    The champion is untouched whatever happens, unless `request` asks for its place and all gates
    pass. Every training and its end are in the history. Nothing is trained when the gates could
    not be decided afterwards for lack of rows; that costs no cool-down and no budget.

    Raises:
        GateError: The new model does not pass the gates; it stays registered, without a place.
        TasadorError: Training or registering failed.
        ConfigError: There is no champion.
        RegistryError: Somebody else is retraining this model; a dry run does not mind.
    """
    request, listeners = request or RetrainRequest(), listeners or Listeners()
    champion = lifecycle.champion()
    if champion is None:
        raise NoChampionError.to_retrain(lifecycle.versions.name)
    # a dry run changes nothing, and may look while somebody else retrains
    with (
        nullcontext() if request.dry_run else _alone(lifecycle) as check_alone,
        lifecycle.fetched(champion) as bundle,
    ):
        reference = _reference(lifecycle, bundle)
        known = _situation(lifecycle, champion, bundle, request, reference.X)
        at_most = RecordStore(lifecycle.ledger.database).count_outcomes(0.0, known.now + 1.0)
        hopeful = decide(request.settings, replace(known, usable=at_most))
        if not hopeful.retrain and not request.dry_run:  # no need to read a million outcomes
            uncounted = replace(request.settings, new_outcomes=0)  # most may be known already
            decision = decide(uncounted, replace(known, usable=at_most))
            listeners.decided(decision, None)
            return Retrained(decision, at_most, {})
        rows = _rows(lifecycle, bundle, reference, request.settings)
        known = replace(known, usable=len(rows))
        decision = decide(request.settings, known)
        if decision.retrain or request.dry_run:
            level = common_shift(rows, bundle, request.settings)
            frame = _new_table(lifecycle, bundle, rows, level)
            settings = _settings(lifecycle, bundle)
            found = held_out(
                Table(frame, "", bundle.manifest.origin, ""), bundle, reference,
                settings.segregate, request.gates,
            )  # fmt: skip
            decision = decide(request.settings, replace(known, held_out=found))
        listeners.decided(decision, rows)
        if request.dry_run or not decision.retrain:
            return Retrained(decision, len(rows), rows.left_out)
        table = _stored(lifecycle, bundle, frame, len(rows), level)
        noted = {"level": level, "table": table.content_hash}
        with _noted(lifecycle, champion, decision, rows, noted) as details:
            outcome = train(settings, listeners.step, table)
            number = str(outcome.registered).rpartition("/")[2]
            details |= {"new_version": number}
            if check_alone is not None:
                check_alone()
            reason = "; ".join(decision.triggers)
            promotion = PromotionRequest(number, request.alias, f"retrained: {reason}", gates="all")
            promote(lifecycle, promotion, settings=request.gates, tell=listeners.evaluated)
    return Retrained(decision, len(rows), rows.left_out, table.content_hash, number)


@contextmanager
def _alone(lifecycle: Lifecycle) -> Iterator[Callable[[], None]]:
    """Be the only one who retrains this model, and note how those ended who died at it."""
    ledger = lifecycle.ledger
    silent = ledger.silent("retrain")
    with ledger.busy("retrain", lifecycle.place.who) as check:
        _note_dead(lifecycle, silent)
        yield check


def _note_dead(lifecycle: Lifecycle, silent: float | None) -> None:
    """Note the end of trainings without one: nobody is at them who could.

    Args:
        lifecycle: Where.
        silent: Seconds since the last one was alive; None when that is not known, for no minutes.
    """
    ledger, placed = lifecycle.ledger, (CHALLENGER, CHAMPION)
    trainings = ledger.audit.read(subject=ledger.model, action="retrain")
    ended = {e.details["operation"] for e in trainings if e.details.get("phase") != "intent"}
    dead = [entry for entry in trainings if entry.details["operation"] not in ended]
    versions = lifecycle.versions.all() if dead else []
    for entry in dead:
        details = dict(entry.details)
        identity, _, number, _ = (details.pop(k) for k in ("operation", "phase", "version", "note"))
        table, phase = details.get("table"), "aborted"
        for version in versions:
            # all that was left to do is to say so; older releases noted no table at the beginning
            if table == version.tags.get("data_hash") and set(placed) & set(version.aliases):
                phase, number = "done", version.number
                details["new_version"] = number
        took = 0.0 if silent is None else clock.seconds() - silent - entry.time
        details["seconds"] = max(0.0, took)
        operation = Operation(
            identity, "retrain", number, entry.from_value, entry.to_value, (), entry.actor,
            entry.reason, details,
        )  # fmt: skip
        ledger.note(operation, phase, "its process died")


def _reference(lifecycle: Lifecycle, bundle: ModelBundle) -> ValidatedTable:
    try:
        return reference_table(bundle, lifecycle.place.workspace / "data")
    except KeyError as error:
        raise LineageError.of_table(bundle.version, error) from None


def _rows(
    lifecycle: Lifecycle,
    bundle: ModelBundle,
    reference: ValidatedTable,
    settings: RetrainSettings,
) -> NewRows:
    """Return the new rows that may be trained on."""
    store = RecordStore(lifecycle.ledger.database)
    now = clock.seconds()
    conflicts = store.conflicts(0.0, now + 1.0, _MOST_CONFLICTS)
    found = read_rows(
        store.read(0.0, now + 1.0, with_outcome=True),
        frozenset(one.prediction_id for one in conflicts),
        bundle,
    )
    known = np.column_stack([reference.X, reference.y])
    return usable_rows(found, known, bundle, settings)


def _situation(
    lifecycle: Lifecycle,
    champion: ModelVersion,
    bundle: ModelBundle,
    request: RetrainRequest,
    X: np.ndarray[Any, np.dtype[np.float64]],
) -> Situation:
    """Return everything but the rows."""
    important = important_columns(bundle, X, request.settings.importance)
    ledger = lifecycle.ledger
    entries = ledger.audit.read(subject=ledger.model)
    since = next(
        (e.time for e in entries if e.to_value == champion.number and e.from_value != e.to_value
         and e.details.get("phase") in IN_FORCE),
        None,
    )  # fmt: skip
    own = (ledger.model, bundle.version)
    now, policy = clock.seconds(), request.settings
    # `decide` looks at no more windows than its triggers need
    windows = max(policy.psi_windows, policy.performance_windows)
    verdicts = Verdicts(ledger.database).apart(own, since or 0.0, windows)
    trainings = ledger.audit.read(subject=ledger.model, action="retrain")
    attempts, aborted, minutes = _spent(
        trainings, now - policy.budget_days * 86_400.0, ledger.silent("retrain")
    )
    return Situation(
        now, [one.body for one in verdicts], important, 0, since, attempts, request.manual, minutes,
        aborted=aborted,
    )  # fmt: skip


def _spent(
    trainings: Sequence[AuditEntry], since: float, silent: float | None
) -> tuple[list[float], list[float], float]:
    """Return when trainings and aborted ones began, the newest first, and all minutes since then.

    One that somebody interrupted may be begun again at once, and counts with its minutes only.

    Args:
        trainings: Their entries in the history, the newest first.
        since: From when on minutes count.
        silent: See `Ledger.silent`: whether one without an end is under way or died.
    """
    alive = silent is not None and silent < LEASE_S
    ends = {
        e.details["operation"]: e for e in trainings if e.details.get("phase") != "intent"
    }  # fmt: skip
    begins: list[float] = []
    aborted: list[float] = []
    minutes = 0.0
    for entry in trainings:
        if entry.details.get("phase") != "intent":
            continue
        end = ends.get(entry.details["operation"])
        unnoted = "" if alive else "aborted"
        phase = unnoted if end is None else end.details.get("phase")
        if phase != "interrupted":
            (aborted if phase == "aborted" else begins).append(entry.time)
        if end is not None and entry.time >= since:
            # older releases noted no seconds
            took = end.details.get("seconds", max(0.0, end.time - entry.time))
            minutes += took / 60.0
    return begins, aborted, minutes


def _new_table(
    lifecycle: Lifecycle, bundle: ModelBundle, rows: NewRows, level: float | None
) -> pl.DataFrame:
    old = read_stored(lifecycle.place.workspace / "data", bundle.manifest.lineage["data_hash"])
    return extended_table(old, rows, bundle, level)


def _stored(
    lifecycle: Lifecycle, bundle: ModelBundle, frame: pl.DataFrame, new: int, level: float | None
) -> StoredTable:
    content_hash = store_frame(frame, lifecycle.place.workspace / "data")
    levelled = "" if level is None else f", its values times {level:.4g},"
    old = bundle.manifest.lineage["data_hash"]
    source = f"table {old[:12]}{levelled} and {new} recorded outcomes"
    return StoredTable(content_hash, bundle.manifest.origin, source)


def _settings(lifecycle: Lifecycle, bundle: ModelBundle) -> RunSettings:
    """Return the champion's own settings, its rows split by time or else by what they hold.

    A random split of a longer table would move most of the rows that the champion was not trained
    on to the training part, and there would be nothing to compare the two models on.
    """
    settings, _ = settings_of(bundle)
    # where the champion is registered, wherever it was trained
    tracking = TrackingSettings(uri=lifecycle.place.registry_uri)
    how = settings.segregate
    if how.method != "time":
        how = replace(how, method="row_hash")
    settings = replace(in_workspace(settings, str(lifecycle.place.workspace)), tracking=tracking)
    return replace(settings, segregate=how)


@contextmanager
def _noted(
    lifecycle: Lifecycle,
    champion: ModelVersion,
    decision: RetrainDecision,
    rows: NewRows,
    more: Mapping[str, Any],
) -> Iterator[dict[str, Any]]:
    """Note the attempt before it begins, and how it ended."""
    details: dict[str, Any] = {
        "decision": to_plain(decision),
        "new_rows": len(rows),
        "left_out": dict(rows.left_out),
        **more,
    }

    def note(phase: str, text: str = "") -> None:
        operation = Operation(
            identity, "retrain", str(details.get("new_version", champion.number)),
            champion.number, champion.number, (), lifecycle.place.who,
            "; ".join(decision.triggers), details,
        )  # fmt: skip
        lifecycle.ledger.note(operation, phase, text)

    identity, began = new_operation_id(), time.monotonic()
    note("intent")
    try:
        yield details
    # also on Ctrl-C: without an end in the history the attempt would look as if it still ran
    except BaseException as error:
        ours = isinstance(error, TasadorError)
        text = str(error) if ours else f"{type(error).__name__}: {error}"
        details["seconds"] = time.monotonic() - began
        note("failed" if isinstance(error, Exception) else "interrupted", text[:2000])
        raise
    details["seconds"] = time.monotonic() - began
    note("done")


def reconcile(place: Place, settings: RunSettings, rules: Criteria | None = None) -> list[str]:
    """Do whatever is due, and say it in a line each; what fails is said too and tried again later.

    Args:
        place: Where the model is.
        settings: The policy and the gates.
        rules: What a canary is decided by.
    """
    lines: list[str] = []
    try:
        with opened(place) as lifecycle:
            _reconcile(lifecycle, settings, rules or Criteria(), lines)
    except TasadorError as error:
        lines.append(f"the model is left as it is: {error}")
    return lines


def _reconcile(
    lifecycle: Lifecycle, settings: RunSettings, rules: Criteria, lines: list[str]
) -> None:
    settled = canary.settle(lifecycle, settings.gates)
    if settled is not None:
        operation = settled.operation
        lines.append(f"{operation.action} of version {operation.version}: {operation.reason}")
    # one change at a time: a retraining would take the challenger's alias from the canary
    report = canary.status(lifecycle)
    if report is not None and report.experiment.status == "running":
        one = report.experiment
        lines.append(f"canary of version {one.number}: {one.share:.0%}, {one.reason}")
        return
    with _alone(lifecycle):
        if _waits_for_canary(lifecycle):
            begun = canary.start(lifecycle, rules)
            lines.append(f"version {begun.number} was retrained before: canary begun")
            return
    request = RetrainRequest(settings=settings.retraining, gates=settings.gates)
    done = retrain(lifecycle, request)
    if done.version is not None:
        begun = canary.start(lifecycle, rules)
        why = "; ".join(done.decision.triggers)
        lines.append(f"retrained ({why}): version {begun.number} passed the gates, canary begun")
    elif done.decision.triggers:
        lines.append(
            f"not retrained although {'; '.join(done.decision.triggers)}: "
            f"{'; '.join(done.decision.obstacles)}"
        )


def _waits_for_canary(lifecycle: Lifecycle) -> bool:
    """Tell whether the challenger is of a retraining of ours that did not live to begin its canary.

    A person's own challenger is left to them, and so is one whose canary they have stopped.
    """
    ledger = lifecycle.ledger
    trainings = ledger.audit.read(subject=ledger.model, action="retrain", limit=1)
    number = lifecycle.versions.aliases().get(CHALLENGER)
    experiment, _ = lifecycle.experiments.read()
    return (
        number is not None
        and any(
            (e.actor, e.details.get("phase"), e.details.get("new_version"))
            == (lifecycle.place.who, "done", number)
            for e in trainings
        )
        and (experiment is None or experiment.number != number)
    )
