"""What gates say, how strict they are, and what they are told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tasador.metrics.ratio_study import ACCEPTED

Floats = NDArray[np.float64]
State = Literal["pass", "fail", "cannot tell"]
MIB = 2**20


@dataclass(frozen=True)
class GateSettings:
    """How strict the gates are.

    Attributes:
        confidence: Of each one-sided bound.
        draws: Resamples behind it.
        error_margin: By which share of the champion's MAPE and wMAPE a model may be worse.
        within_margin: By how many points its share within 10% may be lower.
        segment_limit: By which share of its MAPE no segment may be worse.
        min_rows: Fewest sealed rows on which anything is decided.
        min_segment_rows: Fewest rows of a segment that is looked at.
        coverage_slack: By how much the intervals may hold less than they promise.
        prd_slack: By how much further from 1 the PRD may lie, outside the accepted range.
        prb_slack: By how much further from 0 the PRB may lie, outside the accepted range.
        latency_ms: Longest median time of one valuation.
        latency_factor: Most times the champion's.
        bundle_mib: Largest bundle.
    """

    confidence: float = 0.95
    draws: int = 2000
    error_margin: float = 0.02
    within_margin: float = 3.0
    segment_limit: float = 0.10
    min_rows: int = 200
    min_segment_rows: int = 30
    coverage_slack: float = 0.03
    prd_slack: float = 0.01
    prb_slack: float = 0.01
    latency_ms: float = 20.0
    latency_factor: float = 3.0
    bundle_mib: float = 512.0


@dataclass(frozen=True)
class SealedRows:
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
        challenger: The bundle judged.
        champion: The bundle it was compared with; empty for none.
        rows: Where the sealed rows come from, or why there are none.
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


def within_accepted(name: str, value: float, times: float = 1.0) -> bool:
    """Tell whether a ratio-study figure lies in the accepted range, made `times` as wide."""
    low, high = ACCEPTED[name]
    middle, half = (low + high) / 2, (high - low) / 2
    return abs(value - middle) <= times * half
