"""What a family's search space is, found by walking through it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class SpaceRecorder:
    """Stands where an Optuna trial stands, proposes the low ends and notes the ranges.

    Attributes:
        distributions: Optuna's distribution by parameter.
    """

    def __init__(self) -> None:
        self.distributions: dict[str, Any] = {}

    def holds(self, params: Mapping[str, Any]) -> bool:
        """Return whether `params` name each parameter of the space, with a value from its range."""
        return params.keys() == self.distributions.keys() and all(
            value in found.choices
            if hasattr(found, "choices")
            else found.low <= value <= found.high
            for found, value in ((self.distributions[k], v) for k, v in params.items())
        )

    def nearest(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return the point of the space nearest to `params`.

        A number outside its range becomes the end of it; what is not named (or, like a depth
        without limit, no number) becomes the high end of whole numbers, the low end of others, and
        the first of choices.
        """
        return {
            name: _nearest(found, params.get(name)) for name, found in self.distributions.items()
        }

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        """Note a range of whole numbers."""
        from optuna.distributions import IntDistribution

        self.distributions[name] = IntDistribution(low, high, log=log)
        return low

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """Note a range of numbers."""
        from optuna.distributions import FloatDistribution

        self.distributions[name] = FloatDistribution(low, high, log=log)
        return low

    def suggest_categorical(self, name: str, choices: list[Any]) -> Any:
        """Note a choice."""
        from optuna.distributions import CategoricalDistribution

        self.distributions[name] = CategoricalDistribution(choices)
        return choices[0]


def _nearest(found: Any, value: Any) -> Any:
    if hasattr(found, "choices"):
        return value if value in found.choices else found.choices[0]
    whole = hasattr(found, "step") and isinstance(found.low, int)
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return found.high if whole else found.low
    bounded = min(max(value, found.low), found.high)
    return round(bounded) if whole else float(bounded)
