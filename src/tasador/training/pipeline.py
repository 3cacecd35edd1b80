"""The training run: seven steps in their order, each cached by content, a card each, one report.

A step's result is kept by content key, and verified before it is used again.
"""

from __future__ import annotations

import datetime as dt
import errno
import fcntl
import json
import logging
import os
import secrets
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from tasador.contract.encoding import Encoder
from tasador.contract.formats import date_text, seconds_of
from tasador.core import clock
from tasador.core.hashing import fingerprint
from tasador.core.parallel import one_blas_thread
from tasador.core.ray_engine import check_engine
from tasador.data.contract_tables import with_files_read, with_levels_learned
from tasador.data.errors import HalfLifeError
from tasador.data.sources import read_stored
from tasador.registry.model_bundle import load_bundle
from tasador.reporting.cards import (
    Card,
    amount,
)
from tasador.reporting.reports import (
    BundleReference,
    Check,
    Comparison,
    Headline,
    RunSummary,
    write_report,
)
from tasador.selection.search.grid_search import wanted_candidates
from tasador.settings.run import RunSettings
from tasador.training import (
    data_steps,
    features_step,
    model_steps,
)
from tasador.training.context import (
    Evidence,
    Rows,
    RunContext,
    StoredTable,
    TrainedModel,
    save_json,
)
from tasador.training.errors import RunSettingsError, WorkspaceError
from tasador.training.final_model import check_refit
from tasador.training.register import step as register
from tasador.training.register.tracking import (
    Published,
    champion_check,
    publish,
    write_model_files,
)
from tasador.training.step_cache import OnStep, Step, StepCache, StepRunner, StoppedError
from tasador.training.wandb_trials import check_recording

_DATA = ("core", "contract", "settings", "data", "training.context")
_FEATURES = (*_DATA, "features")
_MODELS = (*_FEATURES, "metrics", "trees", "modeling", "selection", "training.model_steps")


def _contract(run: RunContext) -> str:
    """Hash of the contract without its source: where a table lies does not change its result.

    By which groups figures are compared changes the last step alone.
    """
    plain = run.settings.contract.to_dict()
    others = ("source", "fairness", "translations")
    return fingerprint({key: value for key, value in plain.items() if key not in others})


def _recording(run: RunContext) -> list[str]:
    """What a sweep's result holds beside its trials: where they were recorded, when they were."""
    tracking = run.settings.tracking
    return [] if tracking.wandb == "off" else [tracking.wandb, tracking.wandb_project]


DOWNLOAD = Step(
    "download",
    "Download: find the table and keep it",
    (*_DATA, "training.data_steps"),
    data_steps.download_inputs,
    data_steps.download,
    data_steps.load_download,
)
SEGREGATE = Step(
    "segregate",
    "Segregate: validate, then set the test part aside",
    (
        *_DATA,
        "metrics",
        "modeling",
        "training.data_steps",
        "training.sales",
        "selection.suspicious_sales",
        "selection.folds",
    ),
    lambda run: [_contract(run), *data_steps.segregate_inputs(run)],
    data_steps.segregate,
    data_steps.load_segregate,
)
IMPUTE = Step(
    "impute",
    "Impute: what stands in for missing values",
    (*_FEATURES, "metrics", "trees", "modeling", "selection", "training.data_steps"),
    # part of the key of all that follow
    lambda run: [run.settings.impute, run.settings.seed, run.settings.model.monotone],
    data_steps.impute,
    data_steps.load_impute,
)
FEATURES = Step(
    "features",
    "Features: encode, derive, cluster, compare",
    (*_MODELS, "training.features_step"),
    lambda run: [
        run.settings.features,
        run.settings.seed,
        run.settings.selection.scoring,
        run.settings.selection.folds,
        run.settings.selection.max_rows,
    ],
    features_step.features,
    features_step.load_features,
)
SELECT = Step(
    "select",
    "Select: compare model families",
    (*_MODELS, "training.selection_card"),
    lambda run: [run.settings.selection, run.settings.seed],
    model_steps.select,
    model_steps.load_select,
)
SWEEP = Step(
    "sweep",
    "Sweep: tune the winner",
    (*_MODELS, "training.selection_card", "training.wandb_trials"),
    lambda run: [run.settings.sweep, run.settings.seed, *_recording(run)],
    model_steps.run_sweep,
    model_steps.load_sweep_step,
)
REGISTER = Step(
    "register",
    "Register: fit, evaluate, bundle, register",
    (
        *_MODELS,
        "registry",
        "training.register.step",
        "training.register.measuring",
        "training.register.contents",
        "training.register.card",
        "training.register.result",
        "training.final_model",
        "training.sales",
        "monitoring.error_estimation",
        "monitoring.reference",
        "monitoring.column_summary",
        "training.selection_card",
        "reporting.model_card",
        "reporting.card_markdown",
        "reporting.evaluation_tables",
        "reporting.evaluation_plots",
        "reporting.result_plots",
    ),
    lambda run: [
        run.settings.register,
        run.settings.tracking,
        run.settings.contract.model_name,
        run.settings.model.even_ratios,
        run.settings.model.group,
        run.settings.contract.fairness,
    ],
    register.register,
    register.load_register,
)
#: Their names, in their order.
STEPS = tuple(
    step.name for step in (DOWNLOAD, SEGREGATE, IMPUTE, FEATURES, SELECT, SWEEP, REGISTER)
)


def run_steps(step: StepRunner) -> tuple[Evidence, TrainedModel]:
    """Run the pipeline: each step takes what the earlier ones returned.

    Raises:
        StoppedError: Later steps were not asked for.
    """
    table = step(DOWNLOAD)
    # the same bytes from another place give the same keys
    step.key = fingerprint([table.content_hash, table.origin])
    step.run = _with_levels(step.run, table)
    rows = step(SEGREGATE, table)
    imputation = step(IMPUTE, rows)
    features = step(FEATURES, rows, imputation)
    search = step(SELECT, rows, features)
    sweep = step(SWEEP, rows, features, search)
    evidence = Evidence(table, rows, features, search, sweep)
    return evidence, step(REGISTER, evidence)


def _with_levels(run: RunContext, table: StoredTable) -> RunContext:
    contract = run.settings.contract
    if not any(column.learned for column in contract.columns):
        return run
    frame = read_stored(run.workspace / "data", table.content_hash)
    return replace(
        run, settings=replace(run.settings, contract=with_levels_learned(contract, frame))
    )


_log = logging.getLogger(__name__)
_SHOWN_OF_COMMAND = 120


@contextmanager
def one_at_a_time(path: Path, on_wait: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock on `path` while the body runs; wait for it while somebody else has it.

    Who holds it is written in the file, for people: the lock itself is the system's, so that a
    holder that was killed leaves none behind. Where the file cannot be made, or its file system
    knows no locks, the body runs without one and a warning says so.

    Args:
        path: A file, made when missing and kept.
        on_wait: Called with who holds it, before waiting.
    """
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        _log.warning("%s cannot be locked (%s): start nothing else there", path, error.strerror)
        yield
        return
    try:
        _acquire(file, path, on_wait)
        yield
    finally:
        os.close(file)  # which also releases the lock


def _acquire(file: int, path: Path, on_wait: Callable[[str], None]) -> None:
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            on_wait(_holder(file))
            fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        _log.warning("%s cannot be locked (%s): start nothing else there", path, error.strerror)
        return
    with suppress(OSError):  # a full disk: only the message of who waits suffers
        os.ftruncate(file, 0)
        command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])[:_SHOWN_OF_COMMAND]
        me = {"pid": os.getpid(), "host": socket.gethostname(), "since": clock.timestamp()}
        os.pwrite(file, json.dumps(me | {"command": command}).encode(), 0)


def _holder(file: int) -> str:
    """Return who holds the lock, as far as the file says."""
    try:
        found = json.loads(os.pread(file, 4096, 0))
        place = "" if found["host"] == socket.gethostname() else f" on {found['host']}"
        return f"process {found['pid']}{place} ({found['command']}, since {found['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


_SHOWN = 30


def sample_valuation(run: RunContext, rows: Rows, model: TrainedModel) -> tuple[str, ...]:
    """Value one known row with the bundle as it lies on disk, and say so in a few lines."""
    contract, train = run.settings.contract, rows.train
    bundle = load_bundle(run.bundles / model.outcome["folder"], trusted=None)
    decoded = Encoder(contract).decode(train.X[:1])
    # training targets are at the newest level of prices; the row is valued as of its own date
    dated = replace(run.transform, trend=rows.trend)
    recorded = dated.recorded(
        dated.forward(train.y[:1]), None if train.time is None else train.time[:1]
    )
    row = {name: values[0] for name, values in decoded.items()}
    valuation = bundle.value(row)
    unit = contract.target.unit or ""
    inputs = ", ".join(f"{name}={_shown(value)}" for name, value in islice(row.items(), _SHOWN))
    if len(row) > _SHOWN:
        inputs += f" and {len(row) - _SHOWN} more"
    return (
        f"row: {inputs}",
        f"{contract.target.prediction_name}: {amount(valuation.prediction)} {unit}".rstrip(),
        f"{valuation.coverage:.0%} interval: {amount(valuation.lower)} to "
        f"{amount(valuation.upper)}",
        f"recorded {contract.target.name}: {amount(recorded[0])} (a training row)",
        f"model: {bundle.version}",
    )


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.10g}"
    return date_text(seconds_of(value)) if isinstance(value, dt.date) else str(value)


@dataclass(frozen=True)
class AfterRun:
    """What answers after a run, in lines for people, and the command that comes next."""

    lines: tuple[str, ...] = ()
    following: str = ""


#: Called with the run and the registered version when there is one.
AfterRegistration = Callable[[RunContext, str], AfterRun]


@dataclass(frozen=True)
class TrainOutcome:
    """What a run left.

    Attributes:
        run_id: The run's id.
        folder: Its folder.
        report: The report.
        cards: The steps' cards.
        outcome: What the register step made, or None when it was not asked for.
        sample: Lines of one sample valuation.
        registered: The registry's version, or None.
        standing: What answers now, and which command comes next.
        pages: Addresses in MLflow's web app, of the run and of the version, where it is a server.
    """

    run_id: str
    folder: Path
    report: Path
    cards: tuple[Card, ...]
    outcome: dict[str, Any] | None
    sample: tuple[str, ...]
    registered: str | None
    standing: AfterRun
    pages: tuple[str, ...] = ()


def train(
    settings: RunSettings,
    on_step: OnStep | None = None,
    table: StoredTable | None = None,
    on_wait: Callable[[str], None] = _log.warning,
    after: AfterRegistration | None = None,
) -> TrainOutcome:
    """Run the steps that `settings` ask for; earlier ones come from the cache or are made.

    `table` is trained on in place of the one that the contract's sources have. Runs in one
    workspace share its cache and registry: one waits for the other, and `on_wait` is called with a
    sentence that says for whom. `after` decides what follows a registration, before the next run
    may begin.

    The report is written however the run ends; an error passes through after it.
    """
    wanted_candidates(settings.selection)
    _check_family(settings)
    _check_monotone(settings)
    if settings.model.half_life is not None and settings.contract.timestamp_position is None:
        raise HalfLifeError.no_dates()
    check_refit(settings)
    check_recording(settings.tracking)
    check_engine(settings.engine, settings.ray)
    # a bundle values rows where the files of derived columns are not
    contract = with_files_read(settings.contract, settings.download.search)
    settings = replace(settings, contract=contract)
    workspace = _workspace(settings)

    def waiting(holder: str) -> None:
        on_wait(f"waiting for another run in {workspace}: {holder}")

    with one_at_a_time(workspace / "run.lock", waiting):
        return _train(settings, workspace, on_step, table, after)


def _train(
    settings: RunSettings,
    workspace: Path,
    on_step: OnStep | None,
    table: StoredTable | None,
    after: AfterRegistration | None,
) -> TrainOutcome:
    run = _start(settings, workspace, table)
    step = StepRunner(run, STEPS, StepCache(workspace / "cache"), on_step)
    model: TrainedModel | None = None
    sample: tuple[str, ...] = ()
    published: Published | None = None
    champion: tuple[Check, ...] = ()
    try:
        with suppress(StoppedError):
            with run.open, one_blas_thread():
                evidence, model = run_steps(step)
            run = step.run
            write_model_files(run, evidence, model)
            if evidence.sweep.trial_runs:
                save_json(run.run_folder / "trial_runs.json", evidence.sweep.trial_runs)
            sample = sample_valuation(run, evidence.rows, model)
            champion = champion_check(run, evidence, model)
        # before it is published: it is attached to the run
        report = _report(step, sample, champion)
        if model is not None:
            published = publish(run, evidence, model, step.cards)
    except BaseException:
        _report(step, sample, champion)
        raise
    registered = None if published is None else published.uri
    return TrainOutcome(
        run.run_id, run.run_folder, report, tuple(step.cards),
        None if model is None else model.outcome, sample, registered,
        AfterRun() if registered is None or after is None else after(run, registered),
        () if published is None else published.pages,
    )  # fmt: skip


def _workspace(settings: RunSettings) -> Path:
    if "://" in settings.storage.workspace:
        raise RunSettingsError.remote_workspace(settings.storage.workspace)
    workspace = Path(settings.storage.workspace)
    with _writable(workspace):
        workspace.mkdir(parents=True, exist_ok=True)
    return workspace


@contextmanager
def _writable(workspace: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise WorkspaceError.of(workspace, error) from None


def _check_family(settings: RunSettings) -> None:
    """Refuse to begin when the family to tune is not among those that are compared."""
    family, compared = settings.sweep.family, settings.selection.families
    if family is not None and family not in compared:
        raise RunSettingsError.family_not_compared(family, compared)


def _check_monotone(settings: RunSettings) -> None:
    """Refuse to begin where estimates cannot rise or fall with a column as they are asked to."""
    contract = settings.contract
    numbers = [c.name for c in contract.features if c.kind in ("number", "integer")]
    for name in settings.model.monotone or {}:
        if name not in contract.feature_names:
            raise RunSettingsError.no_monotone_column(name, numbers)
        if name not in numbers:
            raise RunSettingsError.not_a_number(name, contract.column(name).kind, numbers)
        if contract.coordinates is not None and contract.column(name) in contract.coordinates:
            raise RunSettingsError.monotone_coordinate(name)


def _start(settings: RunSettings, workspace: Path, table: StoredTable | None) -> RunContext:
    started = clock.now()
    run_id = f"{started:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    run_folder = workspace / "runs" / run_id
    with _writable(workspace):
        run_folder.mkdir(parents=True)
    return RunContext(
        settings=settings,
        run_id=run_id,
        started=started.strftime("%Y-%m-%dT%H:%M:%SZ"),
        workspace=workspace,
        run_folder=run_folder,
        given=table,
    )


def _report(step: StepRunner, sample: tuple[str, ...], champion: tuple[Check, ...] = ()) -> Path:
    run, cards = step.run, step.cards
    contract = run.settings.contract
    table: StoredTable | None = step.results.get(DOWNLOAD.name)
    model: TrainedModel | None = step.results.get(REGISTER.name)
    version = None if model is None else model.outcome["version"]
    save_json(run.run_folder / "run.json", {"dataset": contract.name, "version": version})
    headline: tuple[Headline, ...] = ()
    compared: tuple[Comparison, ...] = ()
    checks: tuple[Check, ...] = ()
    bundle = None
    if model is not None:
        checks = (*(Check(**entry) for entry in model.outcome["checks"]), *champion)
        headline = tuple(Headline(**entry) for entry in model.outcome["headline"])
        compared = tuple(Comparison(**entry) for entry in model.outcome["comparison"])
        folder = str(run.bundles / model.outcome["folder"])
        bundle = BundleReference(contract.model_name, model.outcome["version"], folder)
    summary = RunSummary(
        run_id=run.run_id,
        dataset=contract.name,
        title=contract.title,
        started=run.started,
        seconds=sum(card.seconds for card in cards if card.status != "cached"),
        origin=None if table is None else table.origin,
        source=None if table is None else table.source,
        content_hash=None if table is None else table.content_hash,
        unit=contract.target.unit,
        headline=headline,
        comparison=compared,
        bundle=bundle,
        sample=sample,
        cards=tuple(cards),
        measured="" if model is None else model.outcome["measured"],
        sentence="" if model is None else model.outcome["sentence"],
        checks=checks,
    )
    return write_report(run.run_folder / "report.html", summary)
