"""Start, watch, stop and settle a canary: the operator's side of an experiment."""

from __future__ import annotations

from dataclasses import dataclass

from tasador.core import clock
from tasador.core.errors import ConfigError, RegistryError
from tasador.lifecycle.alias_updates import CHALLENGER, OperationResult
from tasador.lifecycle.api import Lifecycle
from tasador.lifecycle.errors import CanaryError, NoChampionError
from tasador.lifecycle.promote import PromotionRequest, promote
from tasador.records.record import new_id
from tasador.registry.versions import CHAMPION, find_version
from tasador.serving.experiment import Criteria, Evidence, Experiment, collect
from tasador.settings.run import GateSettings


@dataclass(frozen=True)
class Report:
    """An experiment with the evidence so far."""

    experiment: Experiment
    evidence: Evidence


def start(lifecycle: Lifecycle, rules: Criteria) -> Experiment:
    """Begin an experiment with the versions that the aliases point to.

    Raises:
        ConfigError: There is no champion or challenger, they are the same, one is running, or the
            rules are invalid.
        BundleError: The challenger is not signed by a trusted key where there are any.
    """
    _check(rules)
    versions, book = lifecycle.versions, lifecycle.experiments
    aliases = versions.aliases()
    for alias in (CHAMPION, CHALLENGER):
        if alias not in aliases:
            raise NoChampionError.for_canary(versions.name, alias)
    champion, challenger = (find_version(versions, a) for a in (CHAMPION, CHALLENGER))
    if champion.bundle == challenger.bundle:
        raise CanaryError("champion and challenger are the same bundle", got=champion.bundle)
    before, seen = book.read()
    if before is not None and before.status == "running":
        raise CanaryError.running(before.number)
    # servers would refuse it: there would be an experiment, and no evidence
    lifecycle.check_trusted(challenger)
    now = clock.seconds()
    experiment = Experiment(
        new_id(), champion.bundle, challenger.bundle, challenger.number, "running", 0, now, now,
        "started", rules,
    )  # fmt: skip
    if not book.write(experiment, seen, lifecycle.place.who):
        raise RegistryError("somebody else began a canary at the same time")
    return experiment


def status(lifecycle: Lifecycle) -> Report | None:
    """Return the last experiment with its evidence; None when there never was one."""
    book = lifecycle.experiments
    experiment, _ = book.read()
    if experiment is None:
        return None
    return Report(experiment, collect(lifecycle.ledger.database, book, experiment))


def stop(lifecycle: Lifecycle, reason: str) -> Experiment:
    """End the experiment; servers send the challenger nothing from their next poll on.

    Raises:
        ConfigError: None is running, and none that passed waits to be settled.
    """
    why = reason or "stopped by hand"
    ended = lifecycle.experiments.end("stopped", lifecycle.place.who, lambda _: why)
    if ended is None:
        raise ConfigError("no canary is running")
    return ended


def settle(lifecycle: Lifecycle, gates: GateSettings | None = None) -> OperationResult | None:
    """Draw the consequence: a challenger that passed is promoted, one rolled back is rejected.

    Returns:
        What was done; None when there was nothing to do.

    Raises:
        GateError: The challenger passed, but a gate of safety refuses it.
        RegistryError: See `lifecycle.alias_updates.carry_out`.
    """
    experiment, _ = lifecycle.experiments.read()
    if experiment is None:
        return None
    version = find_version(lifecycle.versions, experiment.number)
    # once it is settled, or somebody has decided by hand, the version is challenger no more
    if experiment.status == "passed" and CHALLENGER in version.aliases:
        request = PromotionRequest(
            version.number, CHAMPION, f"canary {experiment.id} passed: {experiment.reason}",
            gates="safety",
        )  # fmt: skip
        return promote(lifecycle, request, settings=gates)
    if experiment.status == "rolled back" and CHALLENGER in version.aliases:
        return lifecycle.reject(version.number, f"canary {experiment.id}: {experiment.reason}")
    return None


def _check(rules: Criteria) -> None:
    stages = rules.stages
    good = (
        len(stages) > 0
        and all(0.0 <= share <= 1.0 for share in stages)
        and list(stages) == sorted(set(stages))
        and stages[-1] > 0
    )
    if not good:
        raise CanaryError.of_stages(stages)
