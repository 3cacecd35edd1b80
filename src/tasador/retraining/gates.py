"""The gates before the champion's place: what a new model must show, each with its numbers.

Pure functions over two bundles and sealed rows. A gate passes, fails, or cannot tell; only a model
that passes them all is promoted without force. Each comparison asks for *proof of not being worse*:
the upper bound of the loss must lie below a margin. That a loss is not proven is not enough, for
then ten rows would let anything pass. All gates must pass, so no correction for their number is due
(an intersection-union test: Berger 1982, Technometrics 24, 295-300).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from tasador.core.errors import DataError
from tasador.metrics.ratio_study import prb, prd
from tasador.metrics.regression import mape
from tasador.modeling.parity import TOLERANCE
from tasador.registry.bundle import ModelBundle
from tasador.retraining.gate import (
    MIB,
    Cost,
    Gate,
    GateReport,
    GateSettings,
    SealedRows,
    State,
    decided,
    within_accepted,
)
from tasador.retraining.relative_gates import not_worse, ratios_not_worse, segments_not_worse
from tasador.serving.compatibility import incompatibilities

Floats = NDArray[np.float64]


def judge(
    challenger: ModelBundle,
    champion: ModelBundle | None,
    rows: SealedRows | str,
    costs: tuple[Cost, Cost | None],
    settings: GateSettings | None = None,
) -> GateReport:
    """Hold `challenger` against the gates.

    Args:
        challenger: The new model, loaded and thereby verified.
        champion: The model whose place it would take; None for the first one.
        rows: Sealed rows, or why there are none.
        costs: What the two take.
        settings: How strict the gates are.
    """
    settings = settings or GateSettings()
    gates = [_integrity(challenger), *_absolute(costs, settings)]
    if champion is not None:
        gates += [_contract(challenger, champion), _origin(challenger, champion)]
    gates += _measured(challenger, champion, rows, settings)
    return GateReport(
        challenger.version,
        "" if champion is None else champion.version,
        rows if isinstance(rows, str) else rows.note,
        tuple(gates),
    )


def least_rows(settings: GateSettings) -> dict[str, int]:
    """Return the fewest sealed rows that each gate needs to compare a model with the champion."""
    names = ("interval coverage", "level (PRD, PRB)", "MAPE", "wMAPE", "within 10%", "segments")
    return dict.fromkeys(names, settings.min_rows)


def _integrity(bundle: ModelBundle) -> Gate:
    parity = float(bundle.manifest.parity["max_relative"])
    return decided(
        "hash and parity",
        parity <= TOLERANCE,
        f"every file's SHA-256 and the golden rows' answers were verified; export and library "
        f"differ by {parity:.1e} at most (limit {TOLERANCE:.0e})",
        parity=parity,
    )


def _contract(challenger: ModelBundle, champion: ModelBundle) -> Gate:
    reasons = incompatibilities(champion.contract, challenger.contract)
    text = "; ".join(reasons[:5]) or "whatever clients send now is accepted and means the same"
    return decided("contract compatible", not reasons, text)


def _origin(challenger: ModelBundle, champion: ModelBundle) -> Gate:
    good = challenger.origin == "real" or champion.origin == "synthetic"
    text = f"{challenger.origin} over {champion.origin}"
    return decided("real only over real", good, text)


def _absolute(costs: tuple[Cost, Cost | None], settings: GateSettings) -> Iterator[Gate]:
    own, other = costs
    size = own.bytes / MIB
    yield decided(
        "bundle size", size <= settings.bundle_mib,
        f"{size:.1f} MiB (limit {settings.bundle_mib:g})", mib=size,
    )  # fmt: skip
    limit = settings.latency_ms
    if other is not None:
        limit = min(limit, max(settings.latency_factor * other.median_ms, 1.0))
    beside = "" if other is None else f", champion {other.median_ms:.3f} ms"
    yield decided(
        "latency", own.median_ms <= limit,
        f"one row in {own.median_ms:.3f} ms{beside} (limit {limit:.3g} ms)",
        median_ms=own.median_ms,
    )  # fmt: skip


def _measured(
    challenger: ModelBundle,
    champion: ModelBundle | None,
    rows: SealedRows | str,
    settings: GateSettings,
) -> list[Gate]:
    """Return the gates that need sealed rows; without enough of them they cannot tell."""
    enough = not isinstance(rows, str) and len(rows.actual) >= settings.min_rows
    if isinstance(rows, str) or not enough:
        why = rows if isinstance(rows, str) else (
            f"{len(rows.actual)} sealed rows, at least {settings.min_rows} are needed"
        )  # fmt: skip
        names = list(least_rows(settings))
        if champion is None:
            names = [*names[:2], "error"]
        return [Gate(name, "cannot tell", why) for name in names]
    predicted, lower, upper = challenger.value_arrays(rows.X)
    gates = [_coverage(rows.actual, lower, upper, challenger.interval.coverage, settings)]
    if champion is None:
        return [*gates, _beats_guess(rows.actual, predicted), _level(rows.actual, predicted)]
    try:
        old = champion.predict(_encoded_for(champion, challenger, rows.X))
    except DataError as error:
        why = f"the champion cannot value the rows: {error}"
        return [*gates, Gate("not worse than the champion", "cannot tell", why)]
    return [
        *gates,
        *not_worse(rows.actual, predicted, old, settings),
        segments_not_worse(challenger, rows, predicted, old, settings),
        *ratios_not_worse(rows.actual, predicted, old, settings),
    ]


def _encoded_for(champion: ModelBundle, challenger: ModelBundle, X: Floats) -> Floats:
    """Encode rows anew for a contract that names fewer columns or other codes."""
    if champion.contract.features == challenger.contract.features:
        return X
    columns = challenger.encoder.decode(X)
    return champion.encoder.columns(
        {name: columns[name] for name in champion.contract.feature_names}
    )


def _coverage(
    actual: Floats, lower: Floats, upper: Floats, promised: float, settings: GateSettings
) -> Gate:
    n, inside = len(actual), float(np.mean((lower <= actual) & (actual <= upper)))
    least = promised - settings.coverage_slack
    # Wilson's upper bound: is it sure that too few are inside?
    z = 1.6448536269514722
    centre = (inside + z * z / (2 * n)) / (1 + z * z / n)
    wide = z * math.sqrt(inside * (1 - inside) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    state: State = "pass" if inside >= least else "fail" if centre + wide < least else "cannot tell"
    text = f"{inside:.1%} of {n} rows inside, {promised:.0%} promised (at least {least:.1%})"
    return Gate("interval coverage", state, text, {"coverage": inside, "least": least})


def _beats_guess(actual: Floats, predicted: Floats) -> Gate:
    guess = np.full(len(actual), float(np.median(actual)))
    own, blind = mape(actual, predicted), mape(actual, guess)
    text = f"MAPE {own:.2f}%, guessing the median {blind:.2f}%; no champion to compare with"
    return decided("error", own < blind, text, mape=own, guess=blind)


def _level(actual: Floats, predicted: Floats) -> Gate:
    """Look at the first champion's ratios: reported, and refused only where they are absurd."""
    figures = {"prd": prd(actual, predicted), "prb": prb(actual, predicted)}
    good = all(
        within_accepted(name, value, 5.0) for name, value in figures.items() if value == value
    )
    text = (
        f"PRD {figures['prd']:.3f}, PRB {figures['prb']:+.3f} (refused beyond 5 times IAAO's range)"
    )
    return decided("level (PRD, PRB)", good, text, **figures)
