"""Track a finished run and register its bundle in MLflow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tasador.core.errors import RegistryError
from tasador.metrics.regression import Estimate
from tasador.registry.integrity import SIGNATURE
from tasador.registry.manifest import Manifest
from tasador.registry.metadata import as_texts, model_metadata, next_release, stamp_release
from tasador.registry.mlflow.registration import CandidateScore, MlflowRun, StepRun
from tasador.registry.mlflow.registry import list_versions
from tasador.registry.model_bundle import load_bundle
from tasador.registry.signature import password, sign_bundle, signing_key
from tasador.registry.versions import ModelVersion
from tasador.reporting.cards import Card, save_figures
from tasador.training.context import RunState, code_commit, needed
from tasador.training.model_files import MODEL_FILES, write_model_files
from tasador.training.selection_card import describe


def tracking_uri(state: RunState) -> str:
    """Return where runs are tracked: as configured, or SQLite in the workspace."""
    return state.settings.tracking.uri or f"sqlite:///{state.workspace.resolve()}/mlflow.db"


def publish(state: RunState, cards: list[Card]) -> str | None:
    """Register the run's bundle unless the registry has a version of the very same content.

    Returns:
        ``models:/name/version``, or None when tracking is switched off.

    Raises:
        RegistryError: The registry cannot be reached or refuses; the bundle stays on disk.
    """
    if not state.settings.tracking.enabled:
        return None
    outcome = needed(state.outcome, "register")
    uri = tracking_uri(state)
    name = state.settings.contract.model_name
    try:
        earlier = list_versions(uri, name)
        for version in earlier:
            if version.bundle == outcome["version"]:
                if version.release:
                    _released(state, earlier)
                return f"models:/{name}/{version.number}"
        return _register(state, cards, uri, _released(state, earlier))
    except RegistryError as error:
        raise RegistryError(
            f"the bundle {outcome['version']} is on disk but was not registered: {error.message}",
            expected=error.expected,
            got=error.got,
            remedy=error.remedy,
        ) from error


def _register(state: RunState, cards: list[Card], uri: str, manifest: Manifest) -> str:
    from tasador.registry.mlflow.registry import register_bundle

    outcome, contract = needed(state.outcome, "register"), state.settings.contract
    version = register_bundle(
        state.bundles / outcome["folder"],
        tracking_uri=uri,
        experiment=state.settings.tracking.experiment,
        model_name=contract.model_name,
        run=_run(state, cards, manifest),
        alias=state.settings.register.alias,
        artifact_root=state.workspace.resolve() / "mlartifacts",
    )
    return version.uri


def _released(state: RunState, earlier: Sequence[ModelVersion]) -> Manifest:
    """Give the bundle its release, sign it where a key is configured, bring the files up to it."""
    folder = state.bundles / needed(state.outcome, "register")["folder"]
    bundle = load_bundle(folder, trusted=None)
    key = signing_key(state.workspace, state.settings.tracking.signing_key)
    release = next_release(bundle.manifest, earlier)
    signed = (bundle.folder / SIGNATURE).exists()
    if signed and (key is None or bundle.manifest.release == release):
        return replace(bundle.manifest, release=release)  # the signature covers the manifest
    manifest = stamp_release(bundle.folder, release)
    if key is not None:
        sign_bundle(bundle.folder, key, password())
    write_model_files(state)
    return manifest


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
