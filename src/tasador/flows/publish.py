"""Track a finished run and register its bundle in MLflow."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from tasador.core.errors import RegistryError
from tasador.flows.cards import Card, save_figures
from tasador.flows.lineage import code_commit
from tasador.flows.model_files import MODEL_FILES, write_model_files
from tasador.flows.state import RunState, load_json, needed, save_json
from tasador.flows.steps.selection_card import describe
from tasador.metrics.bootstrap import Estimate
from tasador.registry.bundle import ModelBundle, load_bundle
from tasador.registry.manifest import Manifest
from tasador.registry.metadata import as_texts, model_metadata
from tasador.registry.registration import CandidateScore, MlflowRun, StepRun
from tasador.registry.release import next_release, stamp_release
from tasador.registry.verify import SIGNATURE


def tracking_uri(state: RunState) -> str:
    """Return where runs are tracked: as configured, or SQLite in the workspace."""
    return state.settings.tracking.uri or f"sqlite:///{state.workspace.resolve()}/mlflow.db"


def publish(state: RunState, cards: list[Card]) -> str | None:
    """Register the run's bundle unless the very same one is registered already.

    Returns:
        ``models:/name/version``, or None when tracking is switched off.

    Raises:
        RegistryError: The registry cannot be reached or refuses; the bundle stays on disk.
    """
    if not state.settings.tracking.enabled:
        return None
    outcome = needed(state.outcome, "register")
    uri = tracking_uri(state)
    note = state.bundles / f"{outcome['folder']}.registered.json"
    known = _known(note)
    if known is not None:
        database = uri.removeprefix("sqlite:///")
        still_there = uri == f"sqlite:///{database}" and (state.workspace / "mlflow.db").exists()
        if known["tracking_uri"] == uri and known["version"] == outcome["version"] and still_there:
            return str(known["uri"])
    registered = _register(state, cards, uri)
    save_json(note, {"tracking_uri": uri, "version": outcome["version"], "uri": registered})
    return registered


def _known(note: Path) -> dict[str, Any] | None:
    """Return what was noted when this bundle was registered; None when that is not to be read."""
    try:
        known: dict[str, Any] = load_json(note)
        return known if {"tracking_uri", "version", "uri"} <= set(known) else None
    except (OSError, ValueError, TypeError):
        return None


def _register(state: RunState, cards: list[Card], uri: str) -> str:
    from tasador.registry.mlflow_registry import register_bundle

    outcome, contract = needed(state.outcome, "register"), state.settings.contract
    bundle = load_bundle(state.bundles / outcome["folder"])
    try:
        manifest = _released(state, bundle, uri)
        version = register_bundle(
            bundle.folder,
            tracking_uri=uri,
            experiment=state.settings.tracking.experiment,
            model_name=contract.model_name,
            run=_run(state, cards, manifest),
            alias=state.settings.register.alias,
            artifact_root=state.workspace.resolve() / "mlartifacts",
        )
    except RegistryError as error:
        raise RegistryError(
            f"the bundle {bundle.version} is on disk but was not registered: {error.message}",
            expected=error.expected,
            got=error.got,
            remedy=error.remedy,
        ) from error
    return version.uri


def _released(state: RunState, bundle: ModelBundle, uri: str) -> Manifest:
    """Give the bundle its release, sign it where a key is configured, bring the files up to it."""
    from tasador.registry.mlflow_versions import registered_versions

    key = state.settings.tracking.signing_key
    release = next_release(bundle.manifest, registered_versions(uri, bundle.manifest.name))
    if key is None and (bundle.folder / SIGNATURE).exists():
        return replace(bundle.manifest, release=release)  # its signature covers the manifest
    manifest = stamp_release(bundle.folder, release)
    _sign(bundle.folder, key)
    write_model_files(state)
    return manifest


def _sign(folder: Path, key: str | None) -> None:
    """Sign the bundle, where a key is configured."""
    if key is None:
        return
    from tasador.registry.signature import sign_bundle

    password = os.environ.get("TASADOR_SIGNING_PASSWORD")
    sign_bundle(folder, Path(key), password.encode() if password else None)


def _run(state: RunState, cards: list[Card], manifest: Manifest) -> MlflowRun:
    outcome, contract = needed(state.outcome, "register"), state.settings.contract
    metrics, search = outcome["metrics"], needed(state.search, "select")
    other = {f"random_cv.{k}": v for k, v in metrics["random_cv"].items()}
    other |= {f"spatial_cv.{k}": v for k, v in (metrics["spatial_cv"] or {}).items()}
    other["interval.coverage"] = metrics["interval"]["coverage"]
    scoring = search.scoring
    return MlflowRun(
        run_id=state.run_id,
        started=state.started,
        seconds=sum(card.seconds for card in cards),
        dataset=contract.name,
        title=contract.title,
        origin=needed(state.origin, "download"),
        source=needed(state.source, "download"),
        data_hash=needed(state.content_hash, "download"),
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
        artifacts=tuple(
            state.run_folder / name
            for name in (*MODEL_FILES, *(["trial_runs.json"] if state.trial_runs else []))
        ),
        steps=tuple(_step(state, card) for card in cards),
    )


def _step(state: RunState, card: Card) -> StepRun:
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
        artifacts=(
            state.run_folder / "cards" / f"{card.step}.html",
            *save_figures(state.run_folder / "figures", card),
        ),
    )
