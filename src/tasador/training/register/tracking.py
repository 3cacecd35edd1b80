"""What a finished run leaves: the files about its model, and its bundle registered in MLflow."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tasador.core.errors import RegistryError
from tasador.core.storage import write_bytes, write_text
from tasador.metrics.regression import METRICS, Estimate
from tasador.registry.manifest import MANIFEST_NAME, SIGNATURE, Manifest
from tasador.registry.mlflow.registration import (
    CandidateScore,
    MlflowRun,
    StepRun,
    StepStatus,
    as_texts,
    model_metadata,
    next_release,
    page_links,
    stamp_release,
)
from tasador.registry.mlflow.registry import list_versions
from tasador.registry.model_bundle import load_bundle
from tasador.registry.signature import password, sign_bundle, signing_key
from tasador.registry.versions import ModelVersion
from tasador.reporting.cards import Card, CardTable, render, save_figures
from tasador.reporting.model_card import FILES
from tasador.reporting.reports import Check
from tasador.selection.families.catalog import family
from tasador.selection.search.grid_search import CandidateResult
from tasador.settings.compose import to_yaml
from tasador.training.context import (
    Evidence,
    RunContext,
    TrainedModel,
    code_commit,
    load_json,
    save_json,
)
from tasador.training.errors import RegistrationError
from tasador.training.register.result import against_champion
from tasador.training.selection_card import describe, short_labels

#: What is attached to the run in the model registry.
MODEL_FILES = ("metrics.json", "best_params.yaml", "model_config.yaml", *FILES)


def write_model_files(run: RunContext, made: Evidence, model: TrainedModel) -> None:
    """Write `MODEL_FILES` into the run's folder, from the bundle's manifest as it is now.

    Raises:
        StorageError: The disk refuses.
    """
    outcome, sweep = model.outcome, made.sweep.result
    path = run.bundles / outcome["folder"] / MANIFEST_NAME
    metadata = model_metadata(Manifest.from_json(path.read_bytes()))
    folder, documents = run.run_folder, model.documents
    save_json(folder / "metrics.json", outcome["metrics"])
    best = {
        "family": outcome["family"],
        "metric": sweep.metric,
        "score": sweep.best.mean(sweep.metric),
        "trials": len(sweep.trials),
        "params": outcome["params"],
    }
    write_text(folder / "best_params.yaml", to_yaml(best))
    write_text(folder / "model_config.yaml", to_yaml({**metadata, "bundle": outcome["folder"]}))
    page, plain, review = FILES
    table = CardTable("Metadata", ("fact", "value"), tuple(as_texts(metadata).items()))
    shown = render("model_metadata.html.j2", metadata=table)
    text = (documents / page).read_text(encoding="utf-8")
    write_text(folder / page, text.replace("</main>", f"{shown}</main>", 1))
    card = {**load_json(documents / plain), "metadata": metadata}
    write_text(folder / plain, json.dumps(card, ensure_ascii=False, indent=1))
    write_bytes(folder / review, (documents / review).read_bytes())


def tracking_uri(run: RunContext) -> str:
    """Return where runs are tracked: as configured, or SQLite in the workspace."""
    return run.settings.tracking.uri or f"sqlite:///{run.workspace.resolve()}/mlflow.db"


@dataclass(frozen=True)
class Published:
    """Where a run's model is registered.

    Attributes:
        uri: ``models:/name/version``.
        pages: Addresses in MLflow's web app: of the run, where this run made the version, and of
            the version. None where the registry is no server.
    """

    uri: str
    pages: tuple[str, ...]


def champion_check(run: RunContext, made: Evidence, model: TrainedModel) -> tuple[Check, ...]:
    """Return how the model compares with the champion; empty where none can be read."""
    if not run.settings.tracking.enabled:
        return ()
    try:
        versions = list_versions(tracking_uri(run), run.settings.contract.model_name)
    except RegistryError:  # said when the version is registered
        return ()
    outcome, metric = model.outcome, run.settings.sweep.metric
    test = outcome["metrics"]["test"]
    return against_champion(versions, outcome["version"], metric, test, made.table.content_hash)


def publish(
    run: RunContext, made: Evidence, model: TrainedModel, cards: list[Card]
) -> Published | None:
    """Register the run's bundle unless the registry has a version of the very same content.

    Returns:
        Where it is; None when tracking is switched off.

    Raises:
        RegistryError: The registry cannot be reached or refuses; the bundle stays on disk.
    """
    if not run.settings.tracking.enabled:
        return None
    uri = tracking_uri(run)
    name = run.settings.contract.model_name
    try:
        earlier = list_versions(uri, name)
        for version in earlier:
            if version.bundle == model.outcome["version"]:
                if version.release:
                    _released(run, made, model, earlier)
                pages = page_links(uri, name, version.number)
                return Published(f"models:/{name}/{version.number}", pages)
        return _register(run, made, model, cards, _released(run, made, model, earlier))
    except RegistryError as error:
        raise RegistrationError.of(model.outcome["version"], error) from error


def _register(
    run: RunContext, made: Evidence, model: TrainedModel, cards: list[Card], manifest: Manifest
) -> Published:
    from tasador.registry.mlflow.registry import register_bundle

    uri = tracking_uri(run)
    version = register_bundle(
        run.bundles / model.outcome["folder"],
        tracking_uri=uri,
        experiment=run.settings.tracking.experiment,
        model_name=run.settings.contract.model_name,
        run=_mlflow_run(run, made, model, cards, manifest),
        alias=run.settings.register.alias,
        artifact_root=run.workspace.resolve() / "mlartifacts",
    )
    made_by = version.experiment_id, version.run_id
    return Published(version.uri, page_links(uri, version.name, version.version, made_by))


def _released(
    run: RunContext, made: Evidence, model: TrainedModel, earlier: Sequence[ModelVersion]
) -> Manifest:
    """Give the bundle its release, sign it where a key is configured, bring the files up to it."""
    folder = run.bundles / model.outcome["folder"]
    bundle = load_bundle(folder, trusted=None)
    key = signing_key(run.workspace, run.settings.tracking.signing_key)
    release = next_release(bundle.manifest, earlier)
    signed = (bundle.folder / SIGNATURE).exists()
    if signed and (key is None or bundle.manifest.release == release):
        return replace(bundle.manifest, release=release)  # the signature covers the manifest
    manifest = stamp_release(bundle.folder, release)
    if key is not None:
        sign_bundle(bundle.folder, key, password())
    write_model_files(run, made, model)
    return manifest


def _mlflow_run(
    run: RunContext, made: Evidence, model: TrainedModel, cards: list[Card], manifest: Manifest
) -> MlflowRun:
    outcome, contract, table = model.outcome, run.settings.contract, made.table
    metrics, search = outcome["metrics"], made.search
    other = {f"random_cv.{k}": v for k, v in metrics["random_cv"].items()}
    other |= {f"time_cv.{k}": v for k, v in (metrics["time_cv"] or {}).items()}
    other |= {f"spatial_cv.{k}": v for k, v in (metrics["spatial_cv"] or {}).items()}
    other["interval.coverage"] = metrics["interval"]["coverage"]
    scoring = search.scoring
    figures = run.run_folder / "figures"
    for card in cards:
        save_figures(figures, card)
    attached = ["report.html", *MODEL_FILES]
    if made.sweep.trial_runs:
        attached.append("trial_runs.json")
    return MlflowRun(
        run_id=run.run_id,
        started=run.started,
        seconds=sum(card.seconds for card in cards),
        dataset=contract.name,
        title=contract.title,
        origin=table.origin,
        source=table.source,
        data_hash=table.content_hash,
        content_hash=manifest.content_hash,
        tags=as_texts(model_metadata(manifest)),
        code_commit=code_commit(),
        unit=contract.target.unit,
        test_metrics={
            name: Estimate(value, *metrics["test_intervals"][name])
            for name, value in metrics["test"].items()
        },
        other_metrics=other,
        candidates=tuple(
            CandidateScore(describe(c), {scoring: c.mean(scoring)}, chosen=c is search.best)
            for c in search.best_of_families()
        ),
        params={"family": outcome["family"], **outcome["params"]},
        artifacts=(
            *(run.run_folder / name for name in attached),
            *([figures] if figures.is_dir() else []),
        ),
        steps=tuple(_step(run, made, card) for card in cards),
        chosen=family(outcome["family"]).title,
        rows={"training": len(made.train), "test": len(made.rows.test)},
    )


def _tried(found: Sequence[CandidateResult], metric: str, kind: str) -> tuple[StepRun, ...]:
    """Return what was tried as nested runs, the best of those measured on all folds first."""
    numbered = [(one, f"{kind} {number}") for number, one in enumerate(found, 1)]
    several = len({one.family for one in found}) > 1
    if several:
        titles = short_labels(found)
        numbered = [
            (one, f"{name}: {title}") for (one, name), title in zip(numbered, titles, strict=True)
        ]
    numbered.sort(key=lambda pair: (pair[0].state != "whole", pair[0].mean(metric)))
    status: dict[str, StepStatus] = {"failed": "failed", "given up early": "interrupted"}
    return tuple(
        StepRun(
            title,
            status.get(one.state, "done"),
            seconds=one.seconds,
            params={**({"family": one.family} if several else {}), **one.params},
            metrics=_metrics(one, metric),
            tags={"kind": kind, "state": one.state, **_reason(one)},
        )
        for one, title in numbered
    )


def _metrics(one: CandidateResult, metric: str) -> dict[str, float]:
    if not one.held:
        return {}
    return {
        **{name: one.mean(name) for name in METRICS},
        f"{metric}_spread": one.spread(metric),
        f"{metric}_fitted": one.train_mean(metric),
        # MLflow's comparison begins with the first metric by name, which is to be an error
        "seconds_cpu": one.seconds,
        "measured_folds": len(one.held),
    }


def _reason(one: CandidateResult) -> dict[str, str]:
    why = one.error or one.dropped
    return {"reason": why} if why else {}


def _step(run: RunContext, made: Evidence, card: Card) -> StepRun:
    search, sweep = made.search, made.sweep.result
    tried = {
        "select": lambda: _tried(search.candidates, search.scoring, "candidate"),
        "sweep": lambda: _tried(sweep.trials, sweep.metric, "trial"),
    }
    numbers = {
        fact.label: float(fact.value)
        for fact in card.facts
        if isinstance(fact.value, (int, float)) and not isinstance(fact.value, bool)
    }
    texts = {fact.label: str(fact.value) for fact in card.facts if isinstance(fact.value, str)}
    return StepRun(
        name=card.step,
        status=card.status,
        started=card.started,
        seconds=card.seconds,
        params=texts,
        metrics=numbers,
        artifacts=(run.run_folder / "cards" / f"{card.step}.html",),
        children=tried[card.step]() if card.step in tried else (),
    )
