"""One valuation to look at: the first row of the training part, as a caller would send it."""

from __future__ import annotations

import datetime as dt
from itertools import islice
from typing import Any

from tasador.data.dates import date_text, seconds_of
from tasador.data.encode import Encoder
from tasador.flows.state import RunState, needed
from tasador.registry.bundle import load_bundle

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
        f"{contract.target.prediction_name}: {valuation.prediction:,.0f} {unit}".rstrip(),
        f"{valuation.coverage:.0%} interval: {valuation.lower:,.0f} to {valuation.upper:,.0f}",
        f"recorded {contract.target.name}: {train.y[0]:,.0f} (a training row)",
        f"model: {bundle.version}",
    )


def _shown(value: Any) -> str:
    return date_text(seconds_of(value)) if isinstance(value, dt.date) else str(value)
