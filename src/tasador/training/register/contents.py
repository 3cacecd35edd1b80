"""Register: what is written into the bundle, and where it goes."""

from __future__ import annotations

import logging
import secrets
import shutil
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasador.contract.model import TableContract
from tasador.core import seeds
from tasador.core.errors import BundleError, TrainingError
from tasador.core.hashing import code_version, to_plain, without_nan
from tasador.data import sources
from tasador.data.profile import reference_profile
from tasador.data.table import Origin, Part
from tasador.modeling.confidence import ConfidenceModel
from tasador.modeling.conformal import ConformalInterval
from tasador.modeling.training_rows import TrainingRows
from tasador.monitoring.error_estimation import error_inputs, fit_error_model
from tasador.monitoring.reference import build_reference
from tasador.registry.known_sales import KnownSales, short_text
from tasador.registry.manifest import CARD_HASH, CARD_TIME, CARD_VERSION
from tasador.registry.model_bundle import ModelBundle, load_bundle
from tasador.registry.writer import BundleParts, write_bundle
from tasador.reporting.model_card import ModelFacts
from tasador.selection.feature_worth import BASELINE_PARAMS
from tasador.selection.test_metrics import EvaluationReport
from tasador.settings.run import ModelSettings
from tasador.training.context import (
    Evidence,
    RunContext,
    code_commit,
    library_versions,
)
from tasador.training.final_model import (
    Estimates,
    FinalChoice,
    FinalModel,
)
from tasador.training.model_steps import pipeline_of
from tasador.training.register.card import (
    confidence_figures,
    describe_member,
)

Floats = NDArray[np.float64]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shipped:
    """What the bundle is made from.

    Attributes:
        made: The rows that its model learned from, and their features.
        final: The model.
        interval: The interval, calibrated on errors of the model that was evaluated.
        confidence: How large its errors are where, and the graph of that model's trees.
        estimates: Estimates of rows by models that had not seen them, forward in time.
        own: What training rows are valued by later; None where they are not known again.
        refitted: Whether another model was evaluated, which had not seen the test part.
    """

    made: Evidence
    final: FinalModel
    interval: ConformalInterval
    confidence: tuple[ConfidenceModel, bytes] | None
    estimates: Estimates
    own: TrainingRows | None
    refitted: bool


def watched_parts(run: RunContext, train: Part, found: Estimates) -> dict[str, Any]:
    """Return the arguments of `BundleParts` that monitoring needs, from out-of-fold estimates.

    Too few rows, or errors that are all zero, ship without an error model.
    """
    transform = run.transform
    X, y = train.X[found.rows], train.y[found.rows]
    log = transform.kind == "log"
    predicted = transform.inverse(found.score)
    half = found.half_widths
    low, high = transform.inverse(found.score - half), transform.inverse(found.score + half)
    model = graph = None
    with suppress(TrainingError):  # estimated performance is then "cannot tell"
        model, graph = fit_error_model(
            error_inputs(X, predicted, low, high, log=log),
            y,
            predicted,
            log=log,
            seed=seeds.derive_seed(run.settings.seed, "errors"),
        )
    reference = build_reference(
        run.settings.contract.features,
        train.X,
        held=found.rows,
        prediction=predicted,
        actual=y,
        log=log,
        error_model=model,
    )
    return {"reference": reference.state(), "error_model": graph}


def metrics_of(
    origin: Origin, report: EvaluationReport, choice: FinalChoice, cuts: tuple[float, float]
) -> dict[str, Any]:
    """Return what goes into ``metrics.json``; equal runs give equal bytes."""
    return {
        "origin": origin,
        "test": {name: estimate.value for name, estimate in report.test.items()},
        "test_intervals": {n: [e.low, e.high] for n, e in report.test.items()},
        "random_cv": report.random_cv,
        "time_cv": report.time_cv,
        "cv_spread": choice.cv.spread,
        "baseline": {
            "model": "plain LightGBM",
            "cv": choice.baseline.metrics,
            "outcome": choice.baseline.outcome,
        },
        "spatial_cv": report.spatial_cv,
        "interval": {"promised": report.promised, "coverage": report.coverage},
        "segments": to_plain(report.segments),
        "deciles": to_plain(report.deciles),
        "capped": to_plain(report.capped),
        "weakest_segments": without_nan(to_plain(report.weakest)),
        **({"fairness": without_nan(to_plain(report.fairness))} if report.fairness else {}),
        **({"rivals": without_nan(to_plain(report.rivals))} if report.rivals else {}),
    } | ({} if report.fsd is None else {"confidence": confidence_figures(report, cuts)})


def write_bundle_of(
    folder: Path,
    run: RunContext,
    made: Evidence,
    choice: FinalChoice,
    shipped: Shipped,
    report: EvaluationReport,
    metrics: dict[str, Any],
    card: str,
) -> ModelBundle:
    """Write the run's bundle into `folder`, with the model card `card`, Markdown."""
    settings, contract = run.settings, run.settings.contract
    every, final, members = shipped.made, shipped.final, choice.members
    train = every.train
    name, params = members[0].family, members[0].params
    lineage = {
        "data_hash": made.table.content_hash,
        "source": made.table.source,
        "rows": _row_counts(made, report, shipped),
        "code_commit": code_commit(),
        "code_version": code_version(
            ["core", "contract", "settings", "data", "trees", "features", "modeling", "selection"]
        ),
        "config": {
            "features": to_plain(settings.features),
            "segregate": {**to_plain(settings.segregate), "method": made.rows.method},
            "impute": {**to_plain(settings.impute), "chosen": made.features.choice.imputation},
            "selection": to_plain(settings.selection),
            # what changes no model is left out; where trials are kept may hold a password
            "sweep": _without(settings.sweep, "storage", "study"),
            "register": _without(settings.register, "alias", "backtest"),
        }
        | ({} if settings.model == ModelSettings() else {"model": to_plain(settings.model)}),
        "seed": settings.seed,
        "libraries": library_versions(),
        "family": name,
        "params": params,
        "members": [_without(m, *(() if m.grouped else ("grouped",))) for m in members],
        "bias_factor": choice.bias.factor,
        "baseline": {"params": BASELINE_PARAMS, "outcome": choice.baseline.outcome},
    }
    if choice.stretch is not None:
        lineage["stretch"] = {"factor": choice.stretch.factor, "shift": choice.stretch.shift}
    parts = BundleParts(
        name=contract.model_name,
        origin=made.table.origin,
        contract=contract,
        features=every.features.fitted,
        model=final.model,
        model_kind=name,
        contributions=final.contributions,
        target=replace(run.transform, trend=every.rows.trend),
        interval=shipped.interval,
        parity=final.parity,
        golden=train.X[:20],  # valued again at each load: few enough to take no time
        metrics=metrics,
        lineage=lineage,
        profile=reference_profile(
            train.X, train.y, contract, run.transform.inverse(shipped.estimates.score)
        ),
        card=card,
        training_rows=shipped.own,
        confidence=shipped.confidence,
        known_sales=_known_sales(run, every),
        **watched_parts(run, train, shipped.estimates),
    )
    return write_bundle(folder, parts)


def _row_counts(made: Evidence, report: EvaluationReport, shipped: Shipped) -> dict[str, Any]:
    """Return how many rows each part has; `refit` are all those that the shipped model knows."""
    rows = {"train": len(made.train), "test": len(report.actual), "refused": made.rows.refused}
    again = {"refit": len(shipped.made.train)} if shipped.refitted else {}
    left_out = {"left_out": dict(made.rows.left_out)} if made.rows.left_out else {}
    return {**rows, **again, **left_out}


def _known_sales(run: RunContext, made: Evidence) -> KnownSales | None:
    """Return what explanations say of comparables; None where there are none."""
    fitted, train, contract = made.features.fitted, made.train, run.settings.contract
    pipeline, target = pipeline_of(run, made.features.choice), run.transform.forward(train.y)
    index = None
    # comparables that do not pay as features are evidence all the same, unless switched off
    if fitted.index is None and run.settings.features.comparables is None:
        fitted = pipeline.with_index(fitted, train.X, target)
        index = fitted.index
    if fitted.index is None:
        return None
    order = pipeline.comparables_rows(fitted, train.X, target)
    named = contract.comparables
    columns = [*([] if named.identifier is None else [named.identifier]), *named.label]
    if not columns or train.row is None:
        return KnownSales(train.X[order], index=index)
    frame = sources.read_stored(run.workspace / "data", made.table.content_hash)
    texts = {
        name: [short_text(value) for value in frame[name].gather(train.row[order])]
        for name in dict.fromkeys(columns)
    }
    parts = [texts[name] for name in named.label]
    labels = [short_text(", ".join(filter(None, cells))) for cells in zip(*parts, strict=True)]
    identifiers = tuple(texts.get(named.identifier or "", ()))
    return KnownSales(train.X[order], identifiers, tuple(labels), index)


def _without(settings: Any, *names: str) -> dict[str, Any]:
    return {key: value for key, value in to_plain(settings).items() if key not in names}


def move_in(draft: ModelBundle, bundles: Path) -> ModelBundle:
    """Move a bundle to the folder of its version; an equal one that is there already is kept.

    What is left of a damaged one is moved aside: nothing is deleted.
    """
    folder = bundles / draft.version
    bundles.mkdir(parents=True, exist_ok=True)
    if folder.exists():
        try:
            bundle = load_bundle(folder, trusted=None)
        except BundleError as error:
            kept = folder.with_name(f"{folder.name}.damaged-{secrets.token_hex(3)}")
            folder.rename(kept)
            _log.warning("%s: moved to %s", error, kept.name)
        else:
            shutil.rmtree(draft.folder)
            return bundle
    draft.folder.rename(folder)
    return replace(draft, folder=folder)


def model_facts(
    made: Evidence,
    choice: FinalChoice,
    report: EvaluationReport,
    contract: TableContract,
    shipped: Shipped,
) -> ModelFacts:
    train = made.train
    cap = contract.target.cap
    return ModelFacts(
        model=" and ".join(describe_member(member) for member in choice.members),
        version=CARD_VERSION,
        trained=CARD_TIME,
        origin=made.table.origin,
        source=made.table.source,
        data_hash=made.table.content_hash,
        code_commit=code_commit(),
        bundle_hash=CARD_HASH,
        train_rows=len(train),
        test_rows=len(report.actual),
        refused_rows=made.rows.refused,
        left_out=tuple(made.rows.left_out.items()),
        train_range=(float(train.y.min()), float(train.y.max())),
        capped_share=None if cap is None else float(np.mean(train.y >= cap)),
        interval_coverage=(report.coverage, report.promised),
        test_openings=report.openings,
        refitted=shipped.refitted,
    )
