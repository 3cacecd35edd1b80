"""The training run: seven steps, each cached by content, a card each, one report."""

from __future__ import annotations

import datetime as dt
import logging
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from tasador.contract.encoding import Encoder
from tasador.contract.formats import date_text, seconds_of
from tasador.core import clock
from tasador.core.errors import BundleError, ConfigError, StorageError
from tasador.core.hashing import code_version, fingerprint
from tasador.core.ray_engine import check_engine
from tasador.data.derive_files import with_files_read
from tasador.registry.bundle.model_bundle import load_bundle
from tasador.reporting.cards import (
    Card,
    CardBuilder,
    amount,
    read_card,
    recorded_card,
    write_card,
)
from tasador.reporting.run_report import (
    BundleReference,
    Comparison,
    Headline,
    RunSummary,
    write_report,
)
from tasador.selection.search.grid_search import wanted_candidates
from tasador.settings.run import RunSettings
from tasador.training.context import RunState, StoredTable, needed, save_json
from tasador.training.model_files import write_model_files
from tasador.training.register_run import publish
from tasador.training.step_cache import StepCache, one_at_a_time
from tasador.training.steps import STEPS, Step
from tasador.training.wandb_trials import check_recording

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


_log = logging.getLogger(__name__)
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
