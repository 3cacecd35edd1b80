"""The results of gates, how strict they are, and what they are computed from."""

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


def within_accepted(name: str, value: float, times: float = 1.0) -> bool:
    """Tell whether a ratio-study figure lies in the accepted range, made `times` as wide."""
    low, high = ACCEPTED[name]
    middle, half = (low + high) / 2, (high - low) / 2
    return abs(value - middle) <= times * half
