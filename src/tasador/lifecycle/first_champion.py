"""What answers after a run: the first real model becomes champion, a later one waits."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable
from dataclasses import replace

from tasador.core.errors import TasadorError
from tasador.lifecycle.api import Place, opened
from tasador.lifecycle.gate_evaluation import VersionEvaluation
from tasador.lifecycle.promote import PromotionRequest, promote
from tasador.registry.mlflow.client import without_password
from tasador.registry.mlflow.registry import list_registered, list_versions
from tasador.registry.versions import (
    CHAMPION,
    REASON_TAG,
    REJECTED,
    ROLLED_BACK,
    ModelVersion,
)
from tasador.settings.run import GateSettings, RunSettings
from tasador.training import pipeline
from tasador.training.context import RunContext, StoredTable
from tasador.training.pipeline import AfterRun, TrainOutcome
from tasador.training.register.tracking import tracking_uri
from tasador.training.step_cache import OnStep

_log = logging.getLogger(__name__)
_FIRST = "the first model trained on real rows"


def train(
    settings: RunSettings,
    on_step: OnStep | None = None,
    table: StoredTable | None = None,
    on_wait: Callable[[str], None] = _log.warning,
) -> TrainOutcome:
    """Run the pipeline; the first model trained on real rows becomes champion if its gates pass.

    For arguments and errors see `training.pipeline.train`.

    Example:
        >>> import tasador
        >>> from pathlib import Path
        >>> settings = tasador.compose(["dataset=cars", "steps=[download,segregate]"], Path())
        >>> run = tasador.train(settings)
        >>> [card.step for card in run.cards]
        ['download', 'segregate']
    """
    return pipeline.train(settings, on_step, table, on_wait, _after_registration)


def _after_registration(run: RunContext, registered: str) -> AfterRun:
    place = Place(run.workspace, tracking_uri(run), model=run.settings.contract.model_name)
    return after_run(place, registered.rpartition("/")[2], run.settings.gates)


def after_run(place: Place, number: str, settings: GateSettings) -> AfterRun:
    """Promote a run's version if it is the first real one, and say what answers now.

    It is evaluated by the gates that need no predecessor. A failure here is reported,
    never raised: the version is registered all the same.

    Args:
        place: Where its model's versions are; names the model.
        number: The version's number.
        settings: How strict the gates are.
    """
    try:
        return _after_run(place, number, settings)
    # hours of training are registered: they must not end in an error about what comes after
    except TasadorError as error:
        return AfterRun((f"which version answers is unknown: {error}",), "tasador models")


def _after_run(place: Place, number: str, settings: GateSettings) -> AfterRun:
    listed = list_versions(place.registry_uri, str(place.model))
    own = next(one for one in listed if one.number == number)
    champion = next((one for one in listed if CHAMPION in one.aliases), None)
    # what is printed is copied into a shell: it has to work there as it stands
    clear = place.is_clear(list_registered(place.registry_uri))
    workspace = _workspace_option(place)
    up = f"tasador up{workspace}" if clear else f"tasador use {place.model}{workspace}"
    named = _registry_option(place) + ("" if clear else f" --model {place.model}")
    promoting = f"tasador promote {number}{named}{workspace}"
    if own.status in (REJECTED, ROLLED_BACK):
        why = own.tags.get(REASON_TAG)
        line = f"version {number} was {own.status}" + (f": {why}" if why else "")
        return AfterRun((line, _answers(champion)), up)
    if champion is not None and champion.number == number:
        return AfterRun((f"champion: version {number}, this very bundle",), up)
    real = own.tags.get("origin") == "real"
    # a champion trained on generated rows gives way to the first real model
    if champion is not None and (not real or champion.tags.get("origin") != "synthetic"):
        line = f"version {number} is registered; version {champion.number} is still champion"
        return AfterRun((line,), promoting if real else up)
    if not real:
        line = (
            f"version {number} was trained on generated rows: it does not become champion by itself"
        )
        return AfterRun((line, _answers(champion)), up)
    return _promoted(place, number, settings, champion, up, promoting)


def _promoted(
    place: Place,
    number: str,
    settings: GateSettings,
    champion: ModelVersion | None,
    up: str,
    promoting: str,
) -> AfterRun:
    evaluated: list[VersionEvaluation] = []
    try:
        with opened(place) as lifecycle:
            request = PromotionRequest(number, reason=_FIRST, gates="first")
            promote(lifecycle, request, settings=settings, tell=evaluated.append)
    except TasadorError as error:
        bad = [gate for one in evaluated for gate in one.report.gates if gate.state != "pass"]
        said = [f"  {gate.name}: {gate.state}, {gate.text}" for gate in bad] or [f"  {error}"]
        force = " --force --reason TEXT" if bad else ""
        lines = (f"version {number} is not champion:", *said, _answers(champion))
        return AfterRun(lines, promoting + force)
    passed = sum(len(one.report.gates) for one in evaluated)
    return AfterRun((f"champion: version {number} ({_FIRST}; passed {passed} gates)",), up)


def _answers(champion: ModelVersion | None) -> str:
    if champion is not None:
        return f"champion: version {champion.number}"
    return "there is no champion: the newest version that was not rejected answers"


def _workspace_option(place: Place) -> str:
    named = str(place.workspace)
    return "" if named == "workspace" else f" --workspace {shlex.quote(named)}"


def _registry_option(place: Place) -> str:
    default = replace(place, registry=None).registry_uri
    if place.registry_uri == default:
        return ""
    return f" --registry {shlex.quote(without_password(place.registry_uri))}"
