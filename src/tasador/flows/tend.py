"""One look after a model: settle its canary, retrain it if there is reason to, begin the next."""

from __future__ import annotations

from tasador.config.settings import RunSettings
from tasador.core.errors import TasadorError
from tasador.flows import canary
from tasador.flows.lifecycle import Lifecycle, Place, opened
from tasador.flows.retrain import Order, retrain
from tasador.serving.experiment import Rules


def tend(place: Place, settings: RunSettings, rules: Rules | None = None) -> list[str]:
    """Do whatever is due, and say it in a line each; what fails is said too and tried again later.

    Args:
        place: Where the model is.
        settings: The policy and the gates.
        rules: What a canary is decided by.
    """
    lines: list[str] = []
    try:
        with opened(place) as lifecycle:
            _tend(lifecycle, settings, rules or Rules(), lines)
    except TasadorError as error:
        lines.append(f"the model is left as it is: {error}")
    return lines


def _tend(lifecycle: Lifecycle, settings: RunSettings, rules: Rules, lines: list[str]) -> None:
    settled = canary.settle(lifecycle, settings.gates)
    if settled is not None:
        operation = settled.operation
        lines.append(f"{operation.action} of version {operation.version}: {operation.reason}")
    report = canary.status(lifecycle)
    if report is not None and report.experiment.status == "running":
        one = report.experiment
        lines.append(f"canary of version {one.number}: {one.share:.0%}, {one.reason}")
        return
    order = Order(settings=settings.retraining, gates=settings.gates)
    done = retrain(lifecycle, order)
    if done.version is not None:
        begun = canary.start(lifecycle, rules)
        why = "; ".join(done.decision.triggers)
        lines.append(f"retrained ({why}): version {begun.number} passed the gates, canary begun")
    elif done.decision.triggers:
        lines.append(
            f"not retrained although {'; '.join(done.decision.triggers)}: "
            f"{'; '.join(done.decision.obstacles)}"
        )
