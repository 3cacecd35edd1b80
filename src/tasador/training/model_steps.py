"""Select, sweep; and the features and folds that the steps share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tasador.data.table import Part
from tasador.features.pipeline import FeaturePipeline
from tasador.reporting.cards import CardBuilder
from tasador.selection.families.catalog import family
from tasador.selection.families.inputs import INPUTS
from tasador.selection.feature_worth import measure_baseline
from tasador.selection.folds import Fold, make_folds, random_assignment, sample_rows
from tasador.selection.grid_search import grid_search
from tasador.selection.optuna_sweep import sweep
from tasador.settings.run import SelectionSettings
from tasador.training.context import RunState, load_json, load_search, load_sweep, needed, save_json
from tasador.training.selection_card import show_recorded, show_search, show_sweep
from tasador.training.wandb_trials import TrialRecorder, record_families, runs_of


def pipeline_of(state: RunState, clusters: int | None = None) -> FeaturePipeline:
    """Return the unfitted feature pipeline of this run, or with another number of clusters."""
    settings = state.settings
    k = state.clusters if clusters is None else clusters
    features = replace(settings.features, clusters=k, comparables=state.comparables)
    return FeaturePipeline(settings.contract, features, settings.seed, state.imputation)


def compared_part(state: RunState) -> Part:
    """Return the training rows on which candidates are compared: all, or a sample of very many."""
    train = needed(state.train, "segregate")
    return sample_rows(train, state.settings.selection.max_rows, state.settings.seed)


def random_folds(state: RunState, clusters: int | None = None) -> list[Fold]:
    """Return the random folds of the compared rows, features fitted inside; made once in a run."""
    k = state.clusters if clusters is None else clusters
    if k not in state.folds:
        part, n_folds = compared_part(state), state.settings.selection.folds
        assignment = random_assignment(len(part), n_folds, state.settings.seed)
        pipeline = pipeline_of(state, k)
        state.folds[k] = list(make_folds(part, assignment, pipeline, state.transform))
    return state.folds[k]


def select(state: RunState, folder: Path, card: CardBuilder) -> None:
    """Compare every candidate by cross-validation on train."""
    settings, part = state.settings, compared_part(state)
    result = grid_search(
        _with_inputs(settings.selection, state.inputs),
        random_folds(state),
        part,
        state.transform,
        settings.seed,
        state.journal,
        gaps="native" in state.imputation.values(),
        engine=state.engine,
    )
    baseline = measure_baseline(
        settings.selection,
        random_folds(state),
        part,
        state.transform,
        settings.seed,
        engine=state.engine,
    )
    result = replace(result, baseline=baseline)
    save_json(folder / "search.json", result)
    show_search(card, result, settings.selection)
    note_sample(state, card)


def _with_inputs(settings: SelectionSettings, inputs: str | None) -> SelectionSettings:
    """Add how categories of many levels are seen to the grids that leave it open."""
    if inputs is None:
        return settings
    families = {
        name: {**grid, INPUTS: [inputs]}
        if family(name).takes_codes and INPUTS not in grid
        else grid
        for name, grid in settings.families.items()
    }
    return replace(settings, families=families)


def note_sample(state: RunState, card: CardBuilder) -> None:
    """Say so where not all training rows were compared on."""
    used, rows = len(compared_part(state)), len(needed(state.train, "segregate"))
    if used < rows:
        card.fact("Rows compared on", used, f"a seeded sample of {rows:,} training rows")


def load_select(state: RunState, folder: Path) -> None:
    """Take the search result."""
    state.search = load_search(folder / "search.json")


def run_sweep(state: RunState, folder: Path, card: CardBuilder) -> None:
    """Tune the winning family on train."""
    settings, search = state.settings, needed(state.search, "select")
    contenders = search.contenders(settings.sweep.family)
    runs, dataset = runs_of(settings.tracking, state.workspace), settings.contract.name
    # here and not in select, whose result is then not made again when recording is switched on
    families = record_families(search, runs, f"{dataset}-select-{state.run_id}", dataset)
    notes = None if state.journal is None else state.journal.with_suffix(".wandb")
    recorder = TrialRecorder(
        runs,
        group=f"{dataset}-{contenders[0].family}-{state.run_id}",
        facts={"dataset": dataset, "metric": settings.sweep.metric},
        notes=notes,
    )
    # families that tie share the trials, so that tuning two takes no longer than tuning one
    trials = -(-settings.sweep.trials // len(contenders))
    results = [
        sweep(
            contender.family,
            contender.params,
            replace(settings.sweep, trials=trials),
            random_folds(state)[: settings.sweep.folds],
            compared_part(state),
            state.transform,
            settings.seed,
            measured=contender,
            final_rows=len(needed(state.train, "segregate")),
            journal=state.journal,
            on_trial=recorder,
            engine=state.engine,
        )
        for contender in contenders
    ]
    results.sort(key=lambda found: found.best.mean(found.metric))
    result, others = results[0], results[1:]
    links = [run.link for run in recorder.runs]
    save_json(folder / "sweep.json", result)
    save_json(folder / "trial_runs.json", links)
    show_sweep(card, result, settings.sweep, others)
    show_recorded(card, families, links, runs.trouble)
    if notes is not None:
        notes.unlink(missing_ok=True)


def load_sweep_step(state: RunState, folder: Path) -> None:
    """Take the sweep result."""
    state.sweep = load_sweep(folder / "sweep.json")
    state.trial_runs = load_json(folder / "trial_runs.json")
