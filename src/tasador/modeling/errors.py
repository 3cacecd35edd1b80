"""What can be wrong with a model's scale, interval and export; each class holds its messages.

::

    ValidationError
    ├── TransformError          a target transform, or targets that it cannot take
    └── CoverageError           a coverage of the interval that cannot be asked for
    TrainingError
    ├── IntervalError           an interval that cannot be calibrated or used
    ├── ConfidenceError         errors from which no confidence follows
    └── ParityError             an exported model that answers differently
    BundleError
    └── UnreadableError         a part of a manifest that is not what was written
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasador.core.errors import BundleError, TrainingError, ValidationError


class TransformError(ValidationError):
    """A target transform, or targets that it cannot take."""

    @classmethod
    def unknown(cls, kind: str) -> TransformError:
        """Return the error of a kind that does not exist."""
        return cls(f"unknown target transform {kind!r}", expected="'log' or 'none'")

    @classmethod
    def smearing(cls, factor: float) -> TransformError:
        """Return the error of a smearing factor."""
        return cls(
            "the smearing factor cannot be used",
            expected="a positive finite number",
            got=repr(factor),
        )

    @classmethod
    def targets(cls, number: int, value: float, row: int, *, log: bool) -> TransformError:
        """Return the error of targets, of which `value` in `row` is the first."""
        other = ", or set `transform: none` in the contract" if log else ""
        return cls(
            f"{number} target values cannot be used",
            expected="numbers above zero" if log else "finite numbers",
            got=f"{value!r} in row {row}",
            remedy=f"refuse those rows{other}",
        )


class IntervalError(TrainingError):
    """An interval that cannot be calibrated or used."""

    @classmethod
    def invalid(cls, values: dict[str, Any]) -> IntervalError:
        """Return the error of an interval with these values."""
        return cls(
            "the interval cannot be used",
            expected="coverage in (0, 1), far_factor >= 1, all else finite and not negative",
            got=str(values),
        )

    @classmethod
    def errors(cls, rows: int, shape: tuple[int, ...], not_finite: int) -> IntervalError:
        """Return the error of out-of-fold errors that do not fit the rows, or are not finite."""
        return cls(
            "the interval cannot be calibrated",
            expected=f"{rows} finite errors, one a row",
            got=f"shape {shape}, {not_finite} not finite",
        )

    @classmethod
    def too_few_rows(cls, least: int, coverage: float, rows: int) -> IntervalError:
        """Return the error of a coverage that so few rows cannot promise."""
        return cls(
            "too few rows to calibrate the interval",
            expected=f"at least {least} for {coverage:.0%}",
            got=str(rows),
            remedy="lower the coverage or train on more rows",
        )


class ConfidenceError(TrainingError):
    """Errors from which no confidence follows."""

    @classmethod
    def nothing_to_learn(cls, fewest: int, size: NDArray[np.float64]) -> ConfidenceError:
        """Return the error of too few errors (n,), or of none above zero."""
        return cls(
            "there is nothing to learn the size of errors from",
            expected=f"errors of at least {fewest} rows, not all of them zero",
            got=f"{len(size)} rows, the largest error {size.max() if len(size) else 0:g}",
        )

    @classmethod
    def too_few(cls, rows: int, fewest: int) -> ConfidenceError:
        """Return the error of fewer rows than a confidence is calibrated on."""
        return cls(
            "too few rows to calibrate the confidence",
            expected=f"at least {fewest} held out with an error",
            got=str(rows),
        )


class CoverageError(ValidationError):
    """A coverage of the interval that cannot be asked for."""

    @classmethod
    def of(cls, least: float, most: float, got: float) -> CoverageError:
        """Return the error of a share outside `least` to `most`."""
        return cls(
            "the coverage cannot be had",
            expected=f"{least:.0%} to {most:.0%}",
            got=f"{got:.6g}",
            remedy="ask for a coverage such as 0.8",
        )

    @classmethod
    def fixed(cls, only: float, got: float) -> CoverageError:
        """Return the error of another coverage than an older bundle has."""
        return cls(
            "the coverage cannot be had: the model was calibrated for one only",
            expected=f"{only:.6g}",
            got=f"{got:.6g}",
            remedy="train a new version, or leave the coverage out",
        )


class ParityError(TrainingError):
    """An exported model that answers differently."""

    @classmethod
    def of(cls, relative: float, tolerance: float, want: float, got: float) -> ParityError:
        """Return the error of a row on which library and export differ by `relative`."""
        return cls(
            "the exported model answers differently from the library that trained it",
            expected=f"differences up to {tolerance:g}",
            got=f"{relative:.3g} ({want!r} from the library, {got!r} exported)",
            remedy="do not register it; report the model's kind and library version",
        )


class UnreadableError(BundleError):
    """A part of a manifest that is not what was written."""

    @classmethod
    def of(cls, what: str, expected: str, error: Exception) -> UnreadableError:
        """Return the error of a part, `what`, which holds `expected`."""
        return cls(f"{what} cannot be read", expected=expected, got=str(error))
