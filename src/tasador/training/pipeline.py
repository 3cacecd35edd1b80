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
from tasador.core.errors import BundleError, ConfigError, StorageError
from tasador.core.hashing import code_version, fingerprint, sha256_file
from tasador.core.ray_engine import check_engine
from tasador.core.storage import atomic_folder
from tasador.data.derive_files import with_files_read
from tasador.registry.model_bundle import load_bundle
from tasador.reporting.cards import (
    Card,
    CardBuilder,
    amount,
    read_card,
    recorded_card,
    write_card,
)
from tasador.reporting.reports import (
    BundleReference,
    Comparison,
    Headline,
    RunSummary,
    write_report,
)
from tasador.selection.grid_search import wanted_candidates
from tasador.settings.run import RunSettings
from tasador.training import (
    data_steps,
    features_step,
    model_steps,
    register_step,
)
from tasador.training.context import RunState, StoredTable, needed, save_json
from tasador.training.model_files import write_model_files
from tasador.training.register_run import publish
from tasador.training.wandb_trials import check_recording


@dataclass(frozen=True)
class Step:
    """One step of the pipeline.

    Attributes:
        name: Its name on the command line.
        title: Its name for people.
        packages: The packages and modules whose code decides its result.
        inputs: What beside the earlier steps decides its result, as plain values.
        run: Does the work: fills a folder with the result and a card with the evidence.
        load: Takes the result from a filled folder into the run's state.
    """

    name: str
    title: str
    packages: tuple[str, ...]
    inputs: Callable[[RunState], Any]
    run: Callable[[RunState, Path, CardBuilder], None]
    load: Callable[[RunState, Path], None]


_DATA = ("core", "contract", "settings", "data")
_FEATURES = (*_DATA, "features")
_MODELS = (*_FEATURES, "metrics", "trees", "modeling", "selection", "training.model_steps")


def _contract(state: RunState) -> str:
    """Hash of the contract without its source: where a table lies does not change its result."""
    plain = state.settings.contract.to_dict()
    return fingerprint({key: value for key, value in plain.items() if key != "source"})


def _recording(state: RunState) -> list[str]:
    """What a sweep's result holds beside its trials: where they were recorded, when they were."""
    tracking = state.settings.tracking
    return [] if tracking.wandb == "off" else [tracking.wandb, tracking.wandb_project]


STEPS: tuple[Step, ...] = (
    Step(
        "download",
        "Download: find the table and keep it",
        (*_DATA, "training.data_steps"),
        data_steps.download_inputs,
        data_steps.download,
        data_steps.load_download,
    ),
    Step(
        "segregate",
        "Segregate: validate, then set the test part aside",
        (*_DATA, "training.data_steps"),
        lambda s: [s.content_hash, s.origin, _contract(s), s.settings.segregate],
        data_steps.segregate,
        data_steps.load_segregate,
    ),
    Step(
        "impute",
        "Impute: what stands in for missing values",
        (*_FEATURES, "metrics", "trees", "modeling", "selection", "training.data_steps"),
        lambda s: [s.settings.impute, s.settings.seed],
        data_steps.impute,
        data_steps.load_impute,
    ),
    Step(
        "features",
        "Features: encode, derive, cluster, compare",
        (*_MODELS, "training.features_step"),
        lambda s: [
            s.settings.features,
            s.settings.seed,
            s.settings.selection.scoring,
            s.settings.selection.folds,
            s.settings.selection.max_rows,
        ],
        features_step.features,
        features_step.load_features,
    ),
    Step(
        "select",
        "Select: compare model families",
        (*_MODELS, "training.selection_card"),
        lambda s: [s.settings.selection, s.settings.seed],
        model_steps.select,
        model_steps.load_select,
    ),
    Step(
        "sweep",
        "Sweep: tune the winner",
        (*_MODELS, "training.selection_card", "training.wandb_trials"),
        lambda s: [s.settings.sweep, s.settings.seed, *_recording(s)],
        model_steps.run_sweep,
        model_steps.load_sweep_step,
    ),
    Step(
        "register",
        "Register: fit, evaluate, bundle, register",
        (
            *_MODELS,
            "registry",
            "training.register_step",
            "training.register_card",
            "training.final_model",
            "monitoring.error_estimation",
            "monitoring.reference",
            "monitoring.column_summary",
            "training.selection_card",
            "reporting.model_card",
        ),
        lambda s: [s.settings.register, s.settings.tracking, s.settings.contract.model_name],
        register_step.register,
        register_step.load_register,
    ),
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


_SEAL = "artifact.json"


class StepCache:
    """Results under ``<root>/<step>/<key>``, each with the hashes of its files."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def find(self, step: str, key: str) -> Path | None:
        """Return the folder of an intact result, or None when it must be made (again)."""
        folder = self._root / step / key
        if not folder.exists():
            return None
        try:
            files = json.loads((folder / _SEAL).read_text(encoding="utf-8"))
            for name, digest in files.items():
                if sha256_file(folder / name) != digest:
                    raise ValueError(f"{name} has changed")
        except (OSError, ValueError, AttributeError) as error:
            _log.warning("the cached result of %s is damaged (%s): made again", step, error)
            return None
        return folder

    @contextmanager
    def create(self, step: str, key: str) -> Iterator[Path]:
        """Give a folder to fill; it becomes the result only when the body ends well."""
        target = self._root / step / key
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_folder(target) as folder:
            yield folder
            files = {
                path.relative_to(folder).as_posix(): sha256_file(path)
                for path in sorted(folder.rglob("*"))
                if path.is_file()
            }
            (folder / _SEAL).write_text(json.dumps(files, indent=1), encoding="utf-8")

    def journal(self, step: str, key: str) -> Path:
        """Return the file in which a step notes what it has finished, to resume from."""
        return self._root / step / f"{key}.journal.jsonl"


_SHOWN = 30


def sample_valuation(state: RunState) -> tuple[str, ...]:
    """Value one known row with the bundle as it lies on disk, and say so in a few lines."""
    contract, outcome = state.settings.contract, needed(state.outcome, "register")
    bundle = load_bundle(state.bundles / outcome["folder"], trusted=None)
    train = needed(state.train, "segregate")
    decoded = Encoder(contract).decode(train.X[:1])
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
        f"recorded {contract.target.name}: {amount(train.y[0])} (a training row)",
        f"model: {bundle.version}",
    )


def _shown(value: Any) -> str:
    return date_text(seconds_of(value)) if isinstance(value, dt.date) else str(value)


#: Called with a step's name and its card when it has ended.
OnStep = Callable[[str, Card], None]


@dataclass(frozen=True)
class AfterRun:
    """What answers after a run, in lines for people, and the command that comes next."""

    lines: tuple[str, ...] = ()
    following: str = ""


#: Called with the run's state and the registered version when there is one.
AfterRegistration = Callable[[RunState, str], AfterRun]


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
    """

    run_id: str
    folder: Path
    report: Path
    cards: tuple[Card, ...]
    outcome: dict[str, Any] | None
    sample: tuple[str, ...]
    registered: str | None
    standing: AfterRun


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
    state = _start(settings, workspace)
    state.table = table
    cache = StepCache(state.workspace / "cache")
    cards: list[Card] = []
    wanted = _wanted(settings)
    last = max(i for i, step in enumerate(STEPS) if step.name in wanted)
    chain: str = ""
    try:
        with state.open:
            for step in STEPS[: last + 1]:
                fresh = settings.force and step.name in wanted
                chain = _key(step, state, chain)
                _run_step(step, chain, state, cache, fresh=fresh, cards=cards)
                if on_step is not None:
                    on_step(step.name, cards[-1])
        sample = _leave(state)
        registered = publish(state, cards) if state.outcome else None
    except BaseException:
        _report(state, cards, ())
        raise
    report = _report(state, cards, sample)
    return TrainOutcome(
        state.run_id, state.run_folder, report, tuple(cards), state.outcome, sample, registered,
        AfterRun() if registered is None or after is None else after(state, registered),
    )  # fmt: skip


def _workspace(settings: RunSettings) -> Path:
    if "://" in settings.storage.workspace:
        raise ConfigError(
            f"storage.workspace={settings.storage.workspace} is not a local folder",
            remedy="work in a local folder, and publish from it: tasador publish LOCATION --with "
            "data,splits,cards,report",
        )
    workspace = Path(settings.storage.workspace)
    with _writable(workspace):
        workspace.mkdir(parents=True, exist_ok=True)
    return workspace


@contextmanager
def _writable(workspace: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"the workspace {workspace} cannot be written: {error.strerror}",
            remedy="choose another with storage.workspace=FOLDER",
        ) from None


def _check_family(settings: RunSettings) -> None:
    """Refuse to begin when the family to tune is not among those that are compared."""
    family, compared = settings.sweep.family, settings.selection.families
    if family is not None and family not in compared:
        raise ConfigError(
            f"sweep.family: {family!r} is not compared",
            expected=f"one of {', '.join(compared)}, or null for that of the best candidate",
            remedy="add it to selection.families, or name another",
        )


def _start(settings: RunSettings, workspace: Path) -> RunState:
    started = clock.now()
    run_id = f"{started:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    run_folder = workspace / "runs" / run_id
    with _writable(workspace):
        run_folder.mkdir(parents=True)
    return RunState(
        settings=settings,
        run_id=run_id,
        started=started.strftime("%Y-%m-%dT%H:%M:%SZ"),
        workspace=workspace,
        run_folder=run_folder,
    )


def _wanted(settings: RunSettings) -> set[str]:
    names = [step.name for step in STEPS]
    if settings.from_step is not None:
        return set(names[names.index(settings.from_step) :])
    return set(settings.steps or names)


def _key(step: Step, state: RunState, chain: str) -> str:
    """Return the step's cache key: its inputs, its settings and the code that it runs.

    The table enters by its content, not by the way it came: from segregate on, the same bytes
    from another place give the same key.
    """
    upstream = "" if step.name == "segregate" else chain
    return fingerprint([step.name, upstream, step.inputs(state), code_version(step.packages)])


def _run_step(
    step: Step, key: str, state: RunState, cache: StepCache, *, fresh: bool, cards: list[Card]
) -> None:
    state.journal = cache.journal(step.name, key)
    builder: CardBuilder | None = None
    try:
        with recorded_card(state.run_folder / "cards", step.name, step.title) as builder:
            found = None if fresh else cache.find(step.name, key)
            if found is None or not _reused(step, state, found, builder):
                with cache.create(step.name, key) as folder:
                    step.run(state, folder, builder)
                    write_card(folder / "card", builder.build())
                step.load(state, cache_folder(cache, step.name, key))
                state.journal.unlink(missing_ok=True)
    finally:
        card = state.run_folder / "cards" / f"{step.name}.json"
        if builder is not None and card.exists():  # a full disk takes no card either
            cards.append(read_card(card))


def cache_folder(cache: StepCache, step: str, key: str) -> Path:
    """Return the folder that a step has just filled."""
    folder = cache.find(step, key)
    if folder is None:
        raise StorageError(
            f"the result of step {step!r} could not be read back",
            remedy="check the disk under the workspace",
        )
    return folder


def _reused(step: Step, state: RunState, folder: Path, builder: CardBuilder) -> bool:
    """Take a cached result into the state; False when something it needs is gone or damaged."""
    try:
        earlier = read_card(folder / "card" / f"{step.name}.json")
        step.load(state, folder)
    except (OSError, ValueError, KeyError, StorageError, BundleError) as error:
        _log.warning("the cached result of %s cannot be used (%s): made again", step.name, error)
        return False
    builder.use_cached(earlier)
    return True


def _leave(state: RunState) -> tuple[str, ...]:
    """Write the run's own files, once everything has been decided."""
    if state.outcome is None:
        return ()
    write_model_files(state)
    if state.trial_runs:
        save_json(state.run_folder / "trial_runs.json", state.trial_runs)
    return sample_valuation(state)


def _report(state: RunState, cards: list[Card], sample: tuple[str, ...]) -> Path:
    contract, outcome = state.settings.contract, state.outcome
    version = None if outcome is None else outcome["version"]
    save_json(state.run_folder / "run.json", {"dataset": contract.name, "version": version})
    headline: tuple[Headline, ...] = ()
    compared: tuple[Comparison, ...] = ()
    bundle = None
    if outcome is not None:
        headline = tuple(Headline(**entry) for entry in outcome["headline"])
        compared = tuple(Comparison(**entry) for entry in outcome["comparison"])
        folder = str(state.bundles / outcome["folder"])
        bundle = BundleReference(contract.model_name, outcome["version"], folder)
    summary = RunSummary(
        run_id=state.run_id,
        dataset=contract.name,
        title=contract.title,
        started=state.started,
        seconds=sum(card.seconds for card in cards if card.status != "cached"),
        origin=state.origin,
        source=state.source,
        content_hash=state.content_hash,
        unit=contract.target.unit,
        headline=headline,
        comparison=compared,
        bundle=bundle,
        sample=sample,
        cards=tuple(cards),
    )
    return write_report(state.run_folder / "report.html", summary)
