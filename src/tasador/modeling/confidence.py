"""`ConfidenceModel`: how large an error to expect of each estimate, and what it is called.

One model of the size of errors, learnt from errors on rows that no model had seen, gives the width
of the intervals and the forecast standard deviation. What it says is calibrated in groups that
overlap: segments, tenths of the estimates and tenths of the expected size of the error.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasador.core.input_checks import FLAG, Expected
from tasador.modeling.errors import CoverageError, UnreadableError
from tasador.modeling.prediction import Class
from tasador.trees.onnx_model import Regressor

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Positions = NDArray[np.intp]

#: Share of the errors that the forecast standard deviation holds, as one of a normal does.
FSD_COVERAGE = 0.68
#: Coverages that may be asked for.
LEAST_COVERAGE, MOST_COVERAGE = 0.5, 0.99
#: Rows of a group beyond its interval that it takes to give the group a factor of its own.
FEWEST_BEYOND = 8


@dataclass(frozen=True)
class JointRange:
    """Which values lie outside the training rows' range, given the row's other values.

    Numbers are taken as ``arcsinh((x - centre) / scale)``, so that long tails do not decide. What
    is left of each after the others' linear prediction, in standard deviations, is compared with
    the largest that a training row has.

    Attributes:
        columns: Shape (k,): positions of the numbers among the encoded columns.
        centre, scale: Shape (k,): median, and half the distance of the quartiles.
        mean: Shape (k,): of the transformed training values.
        precision: Shape (k, k): inverse of their covariance.
        limit: Shape (k,): the largest remainder among the training rows.
    """

    columns: Positions
    centre: Floats
    scale: Floats
    mean: Floats
    precision: Floats
    limit: Floats

    @classmethod
    def of(cls, X: Floats, columns: Positions) -> JointRange:
        """Learn the range of encoded training rows (n, p) in those `columns` (k,)."""
        values = X[:, columns]
        known = np.isfinite(values).any(axis=0) & (np.nanmax(values, 0) > np.nanmin(values, 0))
        columns, values = columns[known], values[:, known]
        quarters = np.empty((3, 0))
        if len(columns):  # of no columns `nanquantile` forgets how many quantiles it was asked for
            quarters = np.nanquantile(values, (0.25, 0.5, 0.75), axis=0)
        low, centre, high = quarters
        scale = (high - low) / 2.0
        spread = np.nanstd(values, axis=0)
        scale = np.where(scale > 0.0, scale, spread)
        k = len(columns)
        made = cls(columns, centre, scale, np.zeros(k), np.eye(k), np.zeros(k))
        U = made._transformed(X)
        mean = U.mean(axis=0)
        covariance = np.atleast_2d(np.cov(U, rowvar=False)) if k else np.zeros((0, 0))
        # columns that repeat one another would otherwise have no inverse
        precision = np.linalg.inv(covariance + 1e-3 * np.eye(k)).astype(np.float64)
        made = replace(made, mean=mean, precision=precision)
        return replace(made, limit=np.abs(made._remainders(X)).max(axis=0))

    def outside(self, X: Floats) -> Flags:
        """Return which of `columns` (n, k) lie outside, for encoded rows (n, p); NaN never does."""
        beyond: Flags = np.abs(self._remainders(X)) > self.limit
        return beyond

    def _transformed(self, X: Floats) -> Floats:
        values = np.arcsinh((X.take(self.columns, axis=1) - self.centre) / self.scale)
        # nothing finite comes near the ends; for a single row `nan_to_num` costs five times as much
        values[np.isnan(values)] = 0.0
        result: Floats = np.minimum(np.maximum(values, -1e3, out=values), 1e3, out=values)
        return result

    def _remainders(self, X: Floats) -> Floats:
        U = self._transformed(X) - self.mean
        # sums in one order, so that a row gets the same bits alone and among others
        whole = np.einsum("ij,jk->ik", U, self.precision)
        result: Floats = whole * self._factor
        return result

    @cached_property
    def _factor(self) -> Floats:
        return 1.0 / np.sqrt(np.diag(self.precision))


class Sizes(NamedTuple):
    """Expected errors of n rows.

    Attributes:
        half: Shape (n,): half the interval's width, on the model's scale.
        fsd: Shape (n,): forecast standard deviation of the relative error.
    """

    half: Floats
    fsd: Floats


@dataclass(frozen=True)
class ConfidenceModel:
    """Expected sizes of errors, calibrated.

    Attributes:
        trees: From features and score (n, q + 1) to the logarithm of the error's size.
        levels: Shape (l,), ascending: coverages that are calibrated.
        factors: Shape (l + 1, g): logarithms of what the size is multiplied by to hold each
            coverage, and in the last row to give the forecast standard deviation: one for all
            rows, then one for each group, which add up.
        size_edges, score_edges: Ascending: what divides the groups by size and by score.
        segments: How many codes of the segment column have a group of their own.
        coverage: What the interval holds unless another coverage is asked for.
        far_factor: How much larger errors are beyond the training rows' support, >= 1.
        cuts: Least confidence of the classes H and M.
        log: Whether scores are logarithms, so that errors on their scale are relative.
        joint: Which values are unusual beside the others.
        columns: Shape (q,): which features the trees take, in their order, -1 for one that is not
            made; None for all as they are.
    """

    trees: Regressor
    levels: Floats
    factors: Floats
    size_edges: Floats
    score_edges: Floats
    segments: int
    coverage: float
    far_factor: float
    cuts: tuple[float, float]
    log: bool
    joint: JointRange
    columns: Positions | None = None

    def of_features(self, before: Sequence[str], names: Sequence[str]) -> ConfidenceModel:
        """Return the model for features `names` in place of those of `before`."""
        if tuple(before) == tuple(names):
            return self
        places = {name: at for at, name in enumerate(names)}
        taken = range(len(before)) if self.columns is None else self.columns
        found = [places.get(before[at], -1) if at >= 0 else -1 for at in taken]
        return replace(self, columns=np.array(found, dtype=np.intp))

    def size(self, Z: Floats, score: Floats) -> Floats:
        """Return the logarithm (n,) of the expected size of the error of features (n, q)."""
        if self.columns is not None:
            Z = np.where(self.columns < 0, np.nan, Z.take(self.columns, axis=1))
        rows = np.empty((len(Z), Z.shape[1] + 1))
        rows[:, :-1] = Z
        rows[:, -1] = score
        return self.trees.predict(rows)

    def sizes(
        self,
        Z: Floats,
        score: Floats,
        segment: Floats | None,
        beyond: Flags | None = None,
        coverage: float | None = None,
    ) -> Sizes:
        """Return the interval's half width and the forecast standard deviation of rows.

        Args:
            Z: Features (n, q).
            score: Their scores (n,).
            segment: Codes (n,) of the segment column; None without one. Others than those of
                training, and NaN, are of no group.
            beyond: Shape (n,): which lie beyond the training rows' support; None for none.
            coverage: Of the interval, from `LEAST_COVERAGE` to `MOST_COVERAGE`; None is the usual.

        Raises:
            CoverageError: `coverage` is out of range.
        """
        size = self.size(Z, score)
        groups = self.groups(size, score, segment)
        usual = coverage is None or coverage == self.coverage
        both = self._usual if usual else self.factors
        # one group after another, so that a row gets the same bits alone and among others
        logs = size + both[:, :1]
        for column in groups:
            logs = logs + both.take(column, axis=1)
        half = logs[0] if usual else self._between(logs[:-1], float(coverage or 0.0))
        found = np.exp(np.stack((half, logs[-1])))
        if beyond is not None:
            found = np.where(beyond, found * self.far_factor, found)
        fsd = found[1]
        if not self.log:
            with np.errstate(divide="ignore"):
                fsd = fsd / np.abs(score)
        return Sizes(found[0], fsd)

    def times_usual(
        self, Z: Floats, score: Floats, segment: Floats | None, coverage: float | None
    ) -> Floats:
        """Return how many times as wide (n,) intervals of `coverage` are as those of the usual one.

        Args:
            Z: Features (n, q).
            score: Their scores (n,).
            segment: Codes of their segments; see `sizes`.
            coverage: Of the interval; None is the usual.
        """
        if coverage is None or coverage == self.coverage:
            return np.ones(len(Z))
        asked, usual = (self.sizes(Z, score, segment, None, c).half for c in (coverage, None))
        result: Floats = asked / usual
        return result

    @cached_property
    def _usual(self) -> Floats:
        """Factors (2, g) of the usual coverage and of the forecast standard deviation."""
        at = int(np.flatnonzero(self.levels == self.coverage)[0])
        return self.factors[[at, -1]]

    def _between(self, logs: Floats, coverage: float) -> Floats:
        """Return the half widths (n,) of a coverage from those (l, n) of the calibrated ones.

        Linear in the deviate of a normal distribution; a wider promise never has a narrower width.
        """
        checked_coverage(coverage)
        logs = np.maximum.accumulate(logs, axis=0)
        at = int(np.clip(np.searchsorted(self.levels, coverage), 1, len(self.levels) - 1))
        low, here, high = (_deviate(c) for c in (self.levels[at - 1], coverage, self.levels[at]))
        share = (here - low) / (high - low)
        result: Floats = logs[at - 1] + share * (logs[at] - logs[at - 1])
        return result

    def groups(self, size: Floats, score: Floats, segment: Floats | None) -> list[Positions]:
        """Return the columns of `factors` (n,) that each row's groups have, one array a kind."""
        first = 1 + len(self.size_edges) + 1
        found = [
            1 + self.size_edges.searchsorted(size),
            first + self.score_edges.searchsorted(score),
        ]
        if segment is not None and self.segments:
            first += len(self.score_edges) + 1
            with np.errstate(invalid="ignore"):
                known = (segment >= 0) & (segment < self.segments)
            # the last column is of rows without a segment: it stays 0
            found.append(np.where(known, first + np.where(known, segment, 0), -1).astype(np.intp))
        return found

    def bounds(
        self,
        Z: Floats,
        score: Floats,
        segment: Floats | None,
        beyond: Flags | None = None,
        level_error: Floats | None = None,
        coverage: float | None = None,
    ) -> tuple[Floats, Floats, Floats]:
        """Return the (low, high) scores around `score`, and the forecast standard deviation.

        Args:
            Z: Features (n, q).
            score: Their scores (n,).
            segment: Codes of their segments; see `sizes`.
            beyond: Which lie beyond the support; see `sizes`.
            coverage: Of the interval; see `sizes`.
            level_error: Shape (n,): standard error of the level of prices at the rows' dates, which
                is independent of the model's own error; None for none.

        Raises:
            CoverageError: `coverage` is out of range.
        """
        half, fsd = self.sizes(Z, score, segment, beyond, coverage)
        if level_error is not None:
            half = np.hypot(half, _deviate(coverage or self.coverage) * level_error)
            relative = level_error if self.log else level_error / np.abs(score)
            fsd = np.hypot(fsd, relative)
        return score - half, score + half, fsd

    def graded(self, fsd: list[float]) -> list[tuple[float, Class]]:
        """Return the confidence and the class of each forecast standard deviation."""
        high, medium = self.cuts
        found: list[tuple[float, Class]] = []
        for size in fsd:
            confidence = 100.0 * max(0.0, 1.0 - size)
            found.append(
                (confidence, "H" if confidence >= high else "M" if confidence >= medium else "L")
            )
        return found

    def classes(self, fsd: Floats) -> NDArray[np.intp]:
        """Return the places in `CLASSES` of the classes that `graded` gives, for many at once."""
        confidence = 100.0 * np.fmax(0.0, 1.0 - fsd)
        high, medium = self.cuts
        return np.where(confidence >= high, 0, np.where(confidence >= medium, 1, 2))

    def widened(
        self, Z: Floats, score: Floats, segment: Floats | None, errors: Floats, far: Flags | None
    ) -> ConfidenceModel:
        """Return the model with `far_factor` fitted to errors with whole areas held out.

        Args:
            Z: Features (n, q) of rows valued without any other of their area.
            score: Their scores (n,).
            segment: Their segments, see `sizes`.
            errors: Their errors (n,) on the model's scale.
            far: Which lie far from every comparable; None for none.
        """
        ratio = np.abs(errors) / self.sizes(Z, score, segment).half
        for rows in (far if far is not None else np.zeros(len(ratio), np.bool_), ratio >= 0.0):
            if rows.sum() >= FEWEST_BEYOND / (1.0 - self.coverage):
                factor = float(
                    np.exp(conformal_quantile(np.log(ratio[rows] + 1e-300), self.coverage))
                )
                return replace(self, far_factor=max(1.0, factor))
        return self

    def state(self) -> dict[str, NDArray[Any]]:
        """Return the arrays that `from_state` takes; the trees are a file of their own."""
        joint = self.joint
        return {
            "levels": self.levels,
            "factors": self.factors,
            "size_edges": self.size_edges,
            "score_edges": self.score_edges,
            "numbers": np.array([self.segments, self.coverage, self.far_factor, *self.cuts]),
            "log": np.array([self.log]),
            "joint.columns": joint.columns.astype(np.int64),
            "joint.numbers": np.stack((joint.centre, joint.scale, joint.mean, joint.limit)),
            "joint.precision": joint.precision,
        } | ({} if self.columns is None else {"columns": self.columns.astype(np.int64)})

    @classmethod
    def from_state(
        cls, trees: Regressor, arrays: Mapping[str, NDArray[Any]], p: int, q: int
    ) -> ConfidenceModel:
        """Rebuild from `state` and the trees, for `p` encoded columns and `q` features.

        Raises:
            BundleError: The state is incomplete, or its arrays do not fit together.
        """
        try:
            levels, factors = arrays["levels"], arrays["factors"]
            edges = arrays["size_edges"], arrays["score_edges"]
            columns, k = arrays["joint.columns"], len(arrays["joint.columns"])
            for name, array in zip(("levels", "size_edges", "score_edges"), (levels, *edges),
                                   strict=True):  # fmt: skip
                anywhere = Expected((len(array),), low=-np.inf, high=np.inf, ascending=True)
                anywhere.check(name, array)
            Expected((5,)).check("numbers", arrays["numbers"])
            Expected((1,), FLAG).check("log", arrays["log"])
            Expected((4, k)).check("joint.numbers", arrays["joint.numbers"])
            Expected((k, k)).check("joint.precision", arrays["joint.precision"])
            segments, coverage, far, high, medium = arrays["numbers"].tolist()
            width = 1 + sum(len(one) + 1 for one in edges) + int(segments) + 1
            Expected((len(levels) + 1, width)).check("factors", factors)
            if k and not 0 <= columns.min() <= columns.max() < p:
                raise ValueError(f"columns up to {columns.max()} of {p}")
            taken = arrays.get("columns")
            made = q if taken is None else len(taken)
            if trees.n_features != made + 1 or (
                taken is not None and made and not -1 <= taken.min() <= taken.max() < q
            ):
                raise ValueError(f"trees of {trees.n_features} columns for {q} features")
            if not (coverage in levels and far >= 1.0 and 0 <= medium <= high <= 100):
                raise ValueError(f"coverage {coverage}, factor {far}, classes {high} and {medium}")
            centre, scale, mean, limit = arrays["joint.numbers"]
            joint = JointRange(
                columns.astype(np.intp), centre, scale, mean, arrays["joint.precision"], limit
            )
            log = bool(arrays["log"][0])
        except (KeyError, TypeError, ValueError) as error:
            raise UnreadableError.of("the confidence", "the arrays of its state", error) from None
        return cls(
            trees, levels, factors, edges[0], edges[1], int(segments), coverage, far,
            (high, medium), log, joint, None if taken is None else taken.astype(np.intp),
        )  # fmt: skip


def conformal_quantile(ratio: Floats, coverage: float) -> float:
    """Return the quantile of n ratios that holds a new one with probability `coverage`."""
    rank = min(math.ceil((len(ratio) + 1) * coverage * (1.0 - 1e-12)), len(ratio))
    return float(np.partition(ratio, rank - 1)[rank - 1])


def checked_coverage(coverage: float) -> float:
    """Return a coverage that may be asked for.

    Raises:
        CoverageError: It is out of range.
    """
    if not LEAST_COVERAGE <= coverage <= MOST_COVERAGE:
        raise CoverageError.of(LEAST_COVERAGE, MOST_COVERAGE, coverage)
    return coverage


@cache
def _deviate(coverage: float) -> float:
    return NormalDist().inv_cdf((1.0 + coverage) / 2.0)
