"""Select, sweep; and the features and folds that the steps share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from tasador.data.table import Part
from tasador.features.pipeline import FeaturePipeline
from tasador.reporting.cards import CardBuilder
from tasador.selection.families.catalog import family
from tasador.selection.families.inputs import INPUTS
from tasador.selection.feature_worth import WAYS, measure_baseline
from tasador.selection.folds import (
    Fold,
    FoldAssignment,
    comparing_folds,
    make_folds,
    sample_rows,
)
from tasador.selection.search.grid_search import (
    SearchResult,
    grid_search,
    kept_candidates,
    result_from_plain,
)
from tasador.selection.search.optuna_sweep import SweepResult, sweep
from tasador.settings.run import SelectionSettings
from tasador.training.context import (
    FeatureChoice,
    Features,
    Rows,
    RunContext,
    StepOutput,
    Sweep,
    load_json,
    save_json,
)
from tasador.training.selection_card import show_recorded, show_search, show_sweep
from tasador.training.wandb_trials import TrialRecorder, record_families, runs_of


def pipeline_of(run: RunContext, choice: FeatureChoice) -> FeaturePipeline:
    """Return the unfitted feature pipeline of this run."""
    settings = run.settings
    features = replace(settings.features, clusters=choice.clusters, comparables=choice.comparables)
    return FeaturePipeline(
        settings.contract,
        features,
        settings.seed,
        choice.imputation,
        settings.model.monotone or {},
    )


def compared_part(run: RunContext, train: Part) -> Part:
    """Return the training rows on which candidates are compared: all, or a sample of very many."""
    return sample_rows(train, run.settings.selection.max_rows, run.settings.seed)


def compared_folds(run: RunContext, train: Part, choice: FeatureChoice) -> list[Fold]:
    """Return the folds of the compared rows, features fitted inside."""
    part, settings = compared_part(run, train), run.settings
    wanted = comparing_folds(part, settings.selection.folds, settings.seed)
    return folds_of(run, part, choice, wanted)


def folds_of(
    run: RunContext, part: Part, choice: FeatureChoice, wanted: Sequence[tuple[FoldAssignment, int]]
) -> list[Fold]:
    """Return folds by chance or forward in time by their numbers, features fitted inside."""

    def make(assignment: FoldAssignment, numbers: list[int]) -> Iterator[Fold]:
        return make_folds(part, assignment, pipeline_of(run, choice), run.transform, numbers)

    return run.folds.get(choice, len(part), wanted, make)


def select(run: RunContext, out: StepOutput, rows: Rows, features: Features) -> None:
    """Compare every candidate by cross-validation on train."""
    settings, part = run.settings, compared_part(run, rows.train)
    folds = compared_folds(run, rows.train, features.choice)
    result = grid_search(
        _with_inputs(settings.selection, features.inputs),
        folds,
        part,
        run.transform,
        settings.seed,
        out.journal,
        gaps="native" in features.choice.imputation.values(),
        engine=run.engine,
    )
    baseline = measure_baseline(
        settings.selection, folds, part, run.transform, settings.seed, engine=run.engine
    )
    result = replace(result, baseline=baseline)
    save_json(out.folder / "search.json", result)
    show_search(out.card, result, settings.selection)
    _, left_out = kept_candidates(settings.selection, folds)
    for why, families in left_out.items():
        names = ", ".join(dict.fromkeys(family(name).title for name in families))
        out.card.note(f"Left out, since they {why}: {names} (candidates: {len(families)}).")
    note_sample(run, rows.train, out.card)


def _with_inputs(settings: SelectionSettings, inputs: str | None) -> SelectionSettings:
    """Add how categories of many levels are seen to the grids that leave it open."""
    if inputs is None:
        return settings
    way = {key: [value] for key, value in WAYS[inputs].items()}
    families = {
        name: {**way, **grid} if family(name).takes_codes and INPUTS not in grid else grid
        for name, grid in settings.families.items()
    }
    return replace(settings, families=families)


def note_sample(run: RunContext, train: Part, card: CardBuilder) -> None:
    """Say so where not all training rows were compared on."""
    used, rows = len(compared_part(run, train)), len(train)
    if used < rows:
        card.fact("Rows compared on", used, f"a seeded sample of {rows:,} training rows")


def load_select(_: RunContext, folder: Path) -> SearchResult:
    """Read the search result."""
    plain = load_json(folder / "search.json")
    baseline = plain["baseline"]
    return SearchResult(
        plain["scoring"],
        tuple(map(result_from_plain, plain["candidates"])),
        None if baseline is None else result_from_plain(baseline),
    )


def run_sweep(
    run: RunContext, out: StepOutput, rows: Rows, features: Features, search: SearchResult
) -> None:
    """Tune the winning family on train."""
    settings = run.settings
    contenders = search.contenders(settings.sweep.family)
    runs, dataset = runs_of(settings.tracking, run.workspace), settings.contract.name
    # here and not in select, whose result is then not made again when recording is switched on
    families = record_families(search, runs, f"{dataset}-select-{run.run_id}", dataset)
    notes = out.journal.with_suffix(".wandb")
    recorder = TrialRecorder(
        runs,
        group=f"{dataset}-{contenders[0].family}-{run.run_id}",
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
            compared_folds(run, rows.train, features.choice)[: settings.sweep.folds],
            compared_part(run, rows.train),
            run.transform,
            settings.seed,
            measured=contender,
            final_rows=len(rows.train),
            journal=out.journal,
            on_trial=recorder,
            engine=run.engine,
        )
        for contender in contenders
    ]
    results.sort(key=lambda found: found.best.mean(found.metric))
    result, others = results[0], results[1:]
    links = [one.link for one in recorder.runs]
    save_json(out.folder / "sweep.json", result)
    save_json(out.folder / "trial_runs.json", links)
    show_sweep(out.card, result, settings.sweep, others)
    show_recorded(out.card, families, links, runs.trouble)
    notes.unlink(missing_ok=True)


def load_sweep_step(_: RunContext, folder: Path) -> Sweep:
    """Read the sweep result."""
    plain = load_json(folder / "sweep.json")
    best, trials = result_from_plain(plain["best"]), map(result_from_plain, plain["trials"])
    result = SweepResult(**{**plain, "best": best, "trials": tuple(trials)})
    return Sweep(result, load_json(folder / "trial_runs.json"))
