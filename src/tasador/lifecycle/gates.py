"""The gates: absolute ones, and ones relative to the champion on the same rows.

Pure functions over two bundles and held-out rows. A gate passes, fails, or cannot tell; only a
model that passes them all is promoted without force. Each comparison asks for *proof
of not being worse*: the upper bound of the loss must lie below a margin. That a loss is not proven
is not enough, for then ten rows would let anything pass. All gates must pass, so no correction for
their number is due (an intersection-union test: Berger 1982, Technometrics 24, 295-300).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tasador.contract.compatibility import incompatibilities
from tasador.core import seeds
from tasador.core.errors import DataError
from tasador.metrics.ratio_study import is_met
from tasador.metrics.regression import (
    ACCEPTED,
    HIGHER_IS_BETTER,
    METRICS,
    cod,
    label,
    mape,
    median_ratio,
    prb,
    prd,
)
from tasador.modeling.parity import TOLERANCE
from tasador.registry.model_bundle import ModelBundle
from tasador.settings.run import GateSettings

Floats = NDArray[np.float64]
State = Literal["pass", "fail", "cannot tell"]
MIB = 2**20


@dataclass(frozen=True)
class HeldOutRows:
    """Rows that neither model was trained on.

    Attributes:
        X: Shape (n, p), encoded by the challenger's contract.
        actual: Shape (n,): their true values.
        note: Where they come from, and how it was verified that nobody has seen them.
    """

    X: Floats
    actual: Floats
    note: str


@dataclass(frozen=True)
class Cost:
    """What a bundle takes: its size, and the median time of valuing one row."""

    bytes: int
    median_ms: float


@dataclass(frozen=True)
class Gate:
    """One gate's result.

    Attributes:
        name: What is asked.
        state: ``pass``, ``fail`` or ``cannot tell``.
        text: The numbers, for people.
        figures: The numbers.
    """

    name: str
    state: State
    text: str
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class GateReport:
    """All gates' results.

    Attributes:
        challenger: The bundle evaluated.
        champion: The bundle it was compared with; empty for none.
        rows: Where the held-out rows come from, or why there are none.
        gates: The results.
    """

    challenger: str
    champion: str
    rows: str
    gates: tuple[Gate, ...]

    @property
    def passed(self) -> bool:
        """Whether every gate passes."""
        return all(gate.state == "pass" for gate in self.gates)

    @property
    def summary(self) -> str:
        """One line: how many pass, and which do not."""
        bad = [f"{gate.name} ({gate.state})" for gate in self.gates if gate.state != "pass"]
        passed = f"{len(self.gates) - len(bad)} of {len(self.gates)} gates pass"
        return f"{passed}; not: {', '.join(bad)}" if bad else passed


def decided(name: str, good: bool, text: str, **figures: float) -> Gate:
    """Return a gate that passes or fails."""
    return Gate(name, "pass" if good else "fail", text, figures)


_CHUNK = 200
_RATIO_DRAWS = 400


@dataclass(frozen=True)
class Difference:
    """A metric of two models on the same rows.

    Attributes:
        challenger: The new model's figure.
        champion: The other's.
        worse: By how much the new model is worse; negative when it is better.
        low: Lower bound of `worse`, one-sided, at the asked confidence.
        high: Upper bound of `worse`, likewise.
    """

    challenger: float
    champion: float
    worse: float
    low: float
    high: float


def paired_bootstrap(
    actual: Floats,
    challenger: Floats,
    champion: Floats,
    *,
    confidence: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
) -> dict[str, Difference]:
    """Compare MAPE, wMAPE and the share within 10%.

    Both models are measured on the same resampled rows, so that what rows have in common cancels:
    Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), section 16.4, with percentile
    bounds.
    All three are ratios of sums over rows, so a draw is a vector of counts and no row is copied.

    Args:
        actual: Shape (n,): true values; rows where it is zero have no percentage error.
        challenger: Shape (n,): the new model's estimates.
        champion: Shape (n,): the other's.
        confidence: Of each one-sided bound.
        draws: How many resamples.
        seed: Of the resamples.

    Returns:
        ``mape``, ``wmape``, ``within_10``, the last with `worse` as champion minus challenger. NaN
        where no row has a percentage error.
    """
    n = len(actual)
    some = (actual != 0).astype(np.float64)
    # a row of value zero has no percentage error: its weight is 0, and it divides by 1
    scale = np.where(actual != 0, np.abs(actual), 1.0)
    new, old = np.abs(challenger - actual), np.abs(champion - actual)
    percent = [some * 100 * error / scale for error in (new, old)]
    within = [some * 100 * (one <= 10.0) for one in percent]
    table = np.column_stack([some, *percent, *within, np.abs(actual), 100 * new, 100 * old])
    random = seeds.generator(seed, "paired")
    sums = []
    # in chunks: all draws at once would take draws times n numbers of memory
    for start in range(0, draws, _CHUNK):
        size = min(_CHUNK, draws - start)
        counts = random.multinomial(n, np.full(n, 1.0 / n), size).astype(np.float64)
        sums.append(counts @ table)
    drawn = np.vstack(sums)
    # a draw may hold only rows of value zero; `_bounds` leaves its NaN out
    with np.errstate(divide="ignore", invalid="ignore"):
        differences = {
            "mape": (drawn[:, 1] - drawn[:, 2]) / drawn[:, 0],
            "wmape": (drawn[:, 6] - drawn[:, 7]) / drawn[:, 5],
            "within_10": (drawn[:, 4] - drawn[:, 3]) / drawn[:, 0],
        }
    result = {}
    for name, drawn_worse in differences.items():
        metric = METRICS[name]
        a, b = metric(actual, challenger), metric(actual, champion)
        worse = b - a if name in HIGHER_IS_BETTER else a - b
        result[name] = Difference(a, b, worse, *_bounds(drawn_worse, confidence))
    return result


def ratio_differences(
    actual: Floats, challenger: Floats, champion: Floats, *, confidence: float, seed: int
) -> dict[str, Difference]:
    """Compare how far PRD lies from 1 and PRB from 0; `worse` is the difference of distances."""
    random, n = seeds.generator(seed, "ratios"), len(actual)
    drawn = np.empty((_RATIO_DRAWS, 2))
    for draw in range(_RATIO_DRAWS):
        rows = random.integers(0, n, n)
        y, a, b = actual[rows], challenger[rows], champion[rows]
        # distances from the ideal: a model that errs to the other side is not better for that
        drawn[draw] = (
            abs(prd(y, a) - 1) - abs(prd(y, b) - 1),
            abs(prb(y, a)) - abs(prb(y, b)),
        )
    result = {}
    for column, (name, metric, ideal) in enumerate((("prd", prd, 1.0), ("prb", prb, 0.0))):
        own, other = metric(actual, challenger), metric(actual, champion)
        worse = abs(own - ideal) - abs(other - ideal)
        result[name] = Difference(own, other, worse, *_bounds(drawn[:, column], confidence))
    return result


def _bounds(drawn: Floats, confidence: float) -> tuple[float, float]:
    known = drawn[np.isfinite(drawn)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.quantile(known, [1.0 - confidence, confidence])
    return float(low), float(high)


def not_worse(actual: Floats, new: Floats, old: Floats, settings: GateSettings) -> Iterator[Gate]:
    """Ask whether errors are, for sure, not larger than the champion's by more than a margin."""
    found = paired_bootstrap(actual, new, old, confidence=settings.confidence, draws=settings.draws)
    for name, one in found.items():
        # percentage points for a share; of an error a part of the champion's own
        margin = settings.within_margin if name == "within_10" else (
            settings.error_margin * one.champion
        )  # fmt: skip
        yield Gate(
            label(name),
            _state(one, margin),
            _compared(one, margin, settings, "%"),
            _figures(one, margin),
        )


def ratios_not_worse(
    actual: Floats, new: Floats, old: Floats, settings: GateSettings
) -> Iterator[Gate]:
    """Ask whether PRD and PRB are accepted, or no worse than the champion's."""
    found = ratio_differences(actual, new, old, confidence=settings.confidence, seed=0)
    for name, margin in (("prd", settings.prd_slack), ("prb", settings.prb_slack)):
        one = found[name]
        # a figure that the IAAO accepts is good enough, whatever the champion's is
        met = is_met(name, one.challenger) is True
        state = "pass" if met else _state(one, margin)
        low, high = ACCEPTED[name]
        verdict = "met" if met else "not met"
        text = f"{_compared(one, margin, settings, '')}; accepted {low:g} to {high:g}: {verdict}"
        yield Gate(label(name), state, text, _figures(one, margin))


def segments_not_worse(
    bundle: ModelBundle, rows: HeldOutRows, new: Floats, old: Floats, settings: GateSettings
) -> Gate:
    """Look for a segment that pays for what others gain.

    A segment counts as worse when it is beyond the limit and that is sure at the confidence
    divided among the segments (Bonferroni), so that many segments raise no false alarm.
    """
    column = bundle.contract.with_role("segment")
    if column is None:
        return Gate("segments", "pass", "the contract names no segment")
    codes = rows.X[:, bundle.contract.position(column.name)]
    groups = {float(code): codes == code for code in np.unique(codes[~np.isnan(codes)])}
    # a few rows cannot show with confidence that a segment is worse
    large = {c: chosen for c, chosen in groups.items() if chosen.sum() >= settings.min_segment_rows}
    few = len(groups) - len(large)
    confidence = 1.0 - (1.0 - settings.confidence) / max(1, len(large))
    worst, bad, figures = "", [], {}
    most = -math.inf
    for code, chosen in large.items():
        name = _named(bundle, column.name, code)
        one = paired_bootstrap(
            rows.actual[chosen], new[chosen], old[chosen],
            confidence=confidence, draws=settings.draws,
        )["mape"]  # fmt: skip
        # where the champion makes no error, any is infinitely larger
        infinite = math.inf if one.worse > 0 else 0.0
        share = one.worse / one.champion if one.champion else infinite
        figures[name] = share
        if share > most:
            most, worst = share, f"{name}: MAPE {one.challenger:.2f}%, champion {one.champion:.2f}%"
        # beyond the limit by luck alone is no reason to refuse
        if share > settings.segment_limit and one.low > 0:
            bad.append(name)
    left_out = f"; {few} with fewer than {settings.min_segment_rows} rows left out" if few else ""
    text = f"{len(large)} compared{left_out}; the worst is {worst or 'none'} (limit +"
    text += f"{settings.segment_limit:.0%})" + (f"; worse: {', '.join(bad)}" if bad else "")
    return Gate("segments", "fail" if bad else "pass", text, figures)


def _named(bundle: ModelBundle, column: str, code: float) -> str:
    categories = next(c.categories for c in bundle.contract.features if c.name == column)
    return categories[int(code)] if code < len(categories) else f"{code:g}"


def _state(one: Difference, margin: float) -> State:
    if one.high <= margin:
        return "pass"
    # worse for sure, or only not sure enough to be let in?
    return "fail" if one.low > 0 or one.worse > margin else "cannot tell"


def _compared(one: Difference, margin: float, settings: GateSettings, unit: str) -> str:
    change = "worse" if one.worse > 0 else "better"
    digits = 2 if unit else 3
    return (
        f"{one.challenger:.{digits}f}{unit}, champion {one.champion:.{digits}f}{unit}: "
        f"{abs(one.worse):.{digits}f} {change}, at most {one.high:+.{digits}f} worse at "
        f"{settings.confidence:.0%} (margin {margin:.{digits}f})"
    )


def _figures(one: Difference, margin: float) -> dict[str, float]:
    return {
        "challenger": one.challenger, "champion": one.champion, "worse": one.worse,
        "low": one.low, "high": one.high, "margin": margin,
    }  # fmt: skip


def evaluate_gates(
    challenger: ModelBundle,
    champion: ModelBundle | None,
    rows: HeldOutRows | str,
    costs: tuple[Cost, Cost | None],
    settings: GateSettings | None = None,
) -> GateReport:
    """Hold `challenger` against the gates.

    Args:
        challenger: The new model, loaded and thereby verified.
        champion: The model whose place it would take; None for the first one.
        rows: Held-out rows, or why there are none.
        costs: What the two take.
        settings: How strict the gates are.
    """
    settings = settings or GateSettings()
    gates = [_integrity(challenger), *_absolute(costs, settings)]
    # the first champion has no clients and no predecessor to compare with
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
    """Return the fewest held-out rows that each gate needs to compare a model with the champion."""
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
        # below a millisecond a factor would refuse what nobody notices
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
    rows: HeldOutRows | str,
    settings: GateSettings,
) -> list[Gate]:
    """Return the gates that need held-out rows; without enough of them they cannot tell."""
    enough = not isinstance(rows, str) and len(rows.actual) >= settings.min_rows
    if isinstance(rows, str) or not enough:
        why = rows if isinstance(rows, str) else (
            f"{len(rows.actual)} held-out rows, at least {settings.min_rows} are needed"
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
        # no comparison is not a passed one: it goes on only by force
        why = f"the champion cannot value the rows: {error}"
        return [*gates, Gate("not worse than the champion", "cannot tell", why)]
    return [
        *gates,
        *not_worse(rows.actual, predicted, old, settings),
        segments_not_worse(challenger, rows, predicted, old, settings),
        *ratios_not_worse(rows.actual, predicted, old, settings),
    ]


def _encoded_for(champion: ModelBundle, challenger: ModelBundle, X: Floats) -> Floats:
    """Encode rows again for a contract that names fewer columns or other codes."""
    if champion.contract.features == challenger.contract.features:
        return X
    columns = challenger.encoder.decode(X)
    return champion.encoder.columns(
        {n: columns[n] for n in champion.contract.feature_names if n in columns}
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
    # without a champion this is the least that a model must beat
    guess = np.full(len(actual), float(np.median(actual)))
    own, blind = mape(actual, predicted), mape(actual, guess)
    text = f"MAPE {own:.2f}%, guessing the median {blind:.2f}%; no champion to compare with"
    return decided("error", own < blind, text, mape=own, guess=blind)


def _level(actual: Floats, predicted: Floats) -> Gate:
    """Look at the first champion's ratios: reported, and refused only where they are absurd."""
    metrics = {"prd": prd, "prb": prb, "median_ratio": median_ratio, "cod": cod}
    figures = {name: metric(actual, predicted) for name, metric in metrics.items()}
    # NaN where a figure is not defined, which says nothing against the model
    good = all(is_met(name, figures[name], times=5.0) is not False for name in ("prd", "prb"))
    words = {True: "met", False: "not met", None: "undefined"}
    shown = ", ".join(
        f"{label(name)} {value:.3f} ({words[is_met(name, value)]})"
        for name, value in figures.items()
    )
    text = f"{shown}; refused where PRD or PRB is beyond 5 times the IAAO's range"
    return decided("level (PRD, PRB)", good, text, **figures)
