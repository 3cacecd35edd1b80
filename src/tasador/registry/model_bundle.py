"""`ModelBundle`: everything needed to value a row, in one verified folder.

Loading never runs code that came with a bundle: it is JSON, plain number arrays and an ONNX graph,
and every file's SHA-256 is checked before anything but the manifest is parsed.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import orjson
from numpy.typing import NDArray

from tasador.contract.encoding import Encoder
from tasador.contract.model import TableContract
from tasador.contract.reader import from_dict
from tasador.contract.row_check import RowCheck, TrainingRange
from tasador.core.errors import (
    BundleError,
    ConfigError,
    ContractError,
    MissingExtraError,
    StorageError,
)
from tasador.core.input_checks import Expected, check_arrays, check_depth, read_arrays
from tasador.features.fitted import FittedFeatures
from tasador.features.neighbours_kernel import Found
from tasador.modeling.confidence import ConfidenceModel, checked_coverage
from tasador.modeling.conformal import ConformalInterval
from tasador.modeling.errors import CoverageError
from tasador.modeling.parity import TOLERANCE
from tasador.modeling.prediction import (
    Appraised,
    Comparable,
    Explanation,
    Reasons,
    Reconciled,
    Valuation,
)
from tasador.modeling.target_transform import TargetTransform
from tasador.modeling.training_rows import NOTE, TrainingRows
from tasador.registry.errors import GOLDEN_ROWS, GoldenRowsError, MisfitError
from tasador.registry.explainer import Explainer, Wanted
from tasador.registry.known_sales import KnownSales
from tasador.registry.manifest import (
    CARD,
    CONFIDENCE,
    CONFIDENCE_TREES,
    ERROR_MODEL,
    EXPLAIN,
    FEATURES,
    FETCH_AGAIN,
    GOLDEN,
    KNOWN_SALES,
    MODEL,
    OUT_OF_FOLD,
    PROFILE,
    REFERENCE,
    BundleLimits,
    Manifest,
    read_verified,
)
from tasador.registry.signature import Trusted, trusted_keys
from tasador.trees.onnx_model import OnnxRegressor, Regressor, load_model
from tasador.trees.tree_shap import Contributions, contributions_from_state

__all__ = ["BundleLimits", "ModelBundle", "load_bundle"]

Floats = NDArray[np.float64]
_T = TypeVar("_T")

_MOST_GOLDEN_ROWS = 10_000
_MOST_LEVELS = 64
_NO_ROWS = np.empty(0, np.intp)
#: Errors that are not the bundle's: a disk that is full, a library that is not installed.
_NOT_ITS_OWN = (BundleError, StorageError, ConfigError, MissingExtraError)


class _Valued(NamedTuple):
    prediction: Floats
    lower: Floats
    upper: Floats
    fsd: Floats | None
    outside: NDArray[np.bool_] | None
    far: NDArray[np.bool_] | None


class _Scored(NamedTuple):
    """What rows are valued by.

    Attributes:
        Z: Shape (n, q): their features.
        score: Shape (n,): on the model's scale; of `own` rows by models that had not seen them.
        own: Shape (k,): positions of the rows that were trained on.
        half_widths: Shape (k,): half the width of their intervals, NaN for the bundle's own; None
            where it is the bundle's own throughout.
        neighbours: What the features were made of, where that was kept.
    """

    Z: Floats
    score: Floats
    own: NDArray[np.intp]
    half_widths: Floats | None
    neighbours: Found | None = None


@dataclass(frozen=True)
class ModelBundle:
    """A loaded, verified bundle; may be used from several threads at once.

    Attributes:
        folder: Where it was loaded from.
        manifest: What it says about itself.
        contract: The table's contract.
        features: The fitted features.
        model: The model; its `engine` says what runs it.
        target: The target's transform.
        interval: The calibrated interval.
        contributions: What tells each feature's part in the model's scores.
        profile: The reference profile of the training rows.
        card: The model card, Markdown, with the version, time and hash of the manifest.
        encoder: Turns rows into numbers by the contract.
        golden: Encoded training rows kept with the bundle, shape (k, p), k <= 20; for warming up
            and for examples.
        reference: What `monitoring.reference.Reference.of_bundle` reads; None in older
            bundles.
        error_model: Tells how large an error to expect where; None in older bundles.
        training_rows: What training rows are valued by, instead of the model that learnt from
            them; None in older bundles.
        confidence: How large an error to expect of each estimate; None in older bundles.
        known_sales: What is kept of the comparables beside their places; None in older bundles.

    Example:
        >>> import tasador
        >>> bundle = tasador.load_bundle("cars")
        >>> isinstance(bundle, tasador.ModelBundle)
        True
        >>> bundle.value({"mass": 1200, "doors": 5, "fuel": "coal"})
        Traceback (most recent call last):
        tasador.core.errors.ValidationError: ...
    """

    folder: Path
    manifest: Manifest
    contract: TableContract
    features: FittedFeatures
    model: Regressor
    target: TargetTransform
    interval: ConformalInterval
    contributions: Contributions
    profile: Mapping[str, Any]
    card: str
    encoder: Encoder
    golden: Floats
    reference: Mapping[str, NDArray[Any]] | None = None
    error_model: OnnxRegressor | None = None
    training_rows: TrainingRows | None = None
    confidence: ConfidenceModel | None = None
    known_sales: KnownSales | None = None

    @cached_property
    def check(self) -> RowCheck:
        """What decides whether a row is valid."""
        return RowCheck(self.encoder)

    @cached_property
    def _range(self) -> TrainingRange:
        return TrainingRange(self.contract, self.profile)

    @property
    def version(self) -> str:
        """The model's name and the first 12 digits of the content hash."""
        return self.manifest.version

    @property
    def origin(self) -> str:
        """``real`` or ``synthetic``: what the model was trained on."""
        return self.manifest.origin

    def predict(self, X: Floats) -> Floats:
        """Return the estimates (n,) of encoded rows (n, p), in the target's unit."""
        return self.target.inverse(self._scored(X).score, self.dates(X))

    def dates(self, X: Floats) -> Floats | None:
        """Return as of when rows (n, p) are valued, in seconds since 1970 UTC, shape (n,).

        A row without a date is as of the newest one. None for a model without a trend of prices.
        """
        at = self.contract.timestamp_position
        return None if self.target.trend is None or at is None else X[:, at]

    def predict_columns(self, columns: Mapping[str, Sequence[Any]]) -> Floats:
        """Return the estimates (n,) of n rows given as columns.

        Raises:
            ValidationError: A column is missing, or a row does not meet the contract; names the
                first, counted from 1.
        """
        return self.predict(self.check.columns(columns))

    def value(self, row: Mapping[str, Any], *, coverage: float | None = None) -> Valuation:
        """Value one row.

        Args:
            row: Values by column name, as the contract describes them; None for missing.
            coverage: Share of truths that the interval is to hold, from 0.5 to 0.99; None takes
                the one that the model was registered with.

        Raises:
            ValidationError: A value is missing or does not meet the contract, or `coverage` cannot
                be had.
        """
        return self.value_encoded(self.check.row(row), coverage)[0]

    def value_rows(
        self, rows: Sequence[Mapping[str, Any]], *, coverage: float | None = None
    ) -> list[Valuation]:
        """Value several rows; each gets the same answer as from `value`.

        Raises:
            ValidationError: As for `value`; names the first row, counted from 1.
        """
        return self.value_encoded(self.check.rows(rows), coverage) if rows else []

    def value_arrays(self, X: Floats) -> tuple[Floats, Floats, Floats]:
        """Value encoded rows (n, p): estimates, lower and upper ends, each (n,).

        Whether the rows meet the contract is for the caller to check, with `check`.
        """
        found = self._valued(X, self._scored(X), None)
        return found.prediction, found.lower, found.upper

    def appraise(
        self, X: Floats, coverage: float | None = None, *, support: bool = False
    ) -> Appraised:
        """Value encoded rows as `value_arrays`, with what their senders should know, by row.

        Args:
            X: The rows.
            coverage: Of their intervals; see `value`.
            support: Whether to say what each estimate rests on.

        Raises:
            ValidationError: `coverage` cannot be had; see `value`.
        """
        return self._appraised(X, self._scored(X), coverage, support)

    def appraise_in_parts(
        self, X: Floats, coverage: float | None = None, *, support: bool = False
    ) -> tuple[Appraised, Floats]:
        """Value encoded rows (n, p) as `appraise`, with their parts (n, groups) in money.

        Those of `explainer.money_groups`, in their order; with `explainer.base` they add up to the
        estimates.
        """
        scored = self._scored(X)
        parts = self.contributions.of_rows(scored.Z)
        money = self.explainer.in_money(parts, scored.score, self.dates(X))
        return self._appraised(X, scored, coverage, support), money

    def _appraised(
        self, X: Floats, scored: _Scored, coverage: float | None, support: bool
    ) -> Appraised:
        found = self._valued(X, scored, coverage)
        notes = self._range.notes(X)
        for row in scored.own.tolist():
            notes.setdefault(row, []).append(NOTE)
        if found.far is not None:
            for row, note in self.features.far_notes(X, np.flatnonzero(found.far)).items():
                notes.setdefault(row, []).append(f"{note}: {self._far_interval}")
        return Appraised(
            found.prediction, found.lower, found.upper, notes, found.fsd, found.outside,
            self.explainer.support(X, found.outside, scored.neighbours)
            if support and self.confidence is not None else None,
        )  # fmt: skip

    def check_coverage(self, coverage: float | None) -> float:
        """Return the coverage of the intervals that are made when `coverage` is asked for.

        Raises:
            ValidationError: It cannot be had; see `value`.
        """
        usual = self.interval.coverage
        if coverage is None or coverage == usual:
            return usual
        if self.confidence is None:
            raise CoverageError.fixed(usual, coverage)
        return checked_coverage(coverage)

    def _outside(self, X: Floats, confidence: ConfidenceModel) -> NDArray[np.bool_] | None:
        """Return which values (n, p) lie outside the training range; None where none does.

        A date of the sale does not: how the level of prices goes on has its own error.
        """
        outside = self._range.outside(X)
        joint = confidence.joint.outside(X)
        if joint.any():
            outside[:, confidence.joint.columns] |= joint
        at = self.contract.timestamp_position
        if at is not None:
            outside[:, at] = False
        return outside if outside.any() else None

    @cached_property
    def _far_interval(self) -> str:
        factor = (self.confidence or self.interval).far_factor
        if factor == 1.0:
            return "the interval does not hold there"
        return (
            f"the interval is {factor:.2g} times as wide, as measured on areas without "
            "comparables, and may still be too narrow"
        )

    def _scored(self, X: Floats) -> _Scored:
        kept: list[Found] = []
        Z = self.features.transform(X, kept)
        near = kept[0] if kept else None
        score = self.model.predict(Z)
        if self.training_rows is None:
            return _Scored(Z, score, _NO_ROWS, None, near)
        own, places = self.training_rows.find(X)
        half = None
        if len(own):
            score = score.copy()
            score[own] = self.training_rows.scores[places]
            if self.training_rows.half_widths is not None:
                half = self.training_rows.half_widths[places]
        return _Scored(Z, score, own, half, near)

    def _valued(self, X: Floats, scored: _Scored, coverage: float | None) -> _Valued:
        Z, score = scored.Z, scored.score
        far, dates = self.features.far(Z), self.dates(X)
        level_error, fsd, outside = self.target.level_error(dates), None, None
        segment = None if self._segment is None else X[:, self._segment]
        if self.confidence is None:
            self.check_coverage(coverage)
            low, high = self.interval.bounds(score, Z, far, level_error)
        else:
            outside = self._outside(X, self.confidence)
            beyond = far
            if outside is not None:
                beyond = np.logical_or(outside.any(axis=1), False if far is None else far)
            low, high, fsd = self.confidence.bounds(
                Z, score, segment, beyond, level_error, coverage
            )
        if scored.half_widths is not None:
            known = np.flatnonzero(~np.isnan(scored.half_widths))
            own, half = scored.own[known], scored.half_widths[known]
            if self.confidence is not None and len(own):  # kept for the usual coverage
                codes = None if segment is None else segment[own]
                half = half * self.confidence.times_usual(Z[own], score[own], codes, coverage)
            low[own], high[own] = score[own] - half, score[own] + half
        if dates is not None:
            dates = np.concatenate((dates, dates, dates))
        # one call for all three: for a single row a call costs more than its arithmetic
        answers, n = self.target.inverse(np.concatenate((score, low, high)), dates), len(score)
        return _Valued(answers[:n], answers[n : 2 * n], answers[2 * n :], fsd, outside, far)

    @cached_property
    def _segment(self) -> int | None:
        column = self.contract.with_role("segment")
        return None if column is None else self.contract.position(column.name)

    def value_encoded(self, X: Floats, coverage: float | None = None) -> list[Valuation]:
        """Value encoded rows (n, p) that `check` accepts; `coverage` is that of `value`."""
        return self._valuations(X, self._scored(X), coverage)

    def _valuations(
        self, X: Floats, scored: _Scored, coverage: float | None = None
    ) -> list[Valuation]:
        version, unit, held = self.version, self.contract.target.unit, self.check_coverage(coverage)
        found = self._appraised(X, scored, coverage, support=True)
        columns = (found.prediction, found.lower, found.upper)
        estimates, lower, upper = (array.tolist() for array in columns)
        notes = [tuple(found.notes.get(i, ())) for i in range(len(X))]
        if self.confidence is None or found.fsd is None:
            return [
                Valuation(estimate, lower[i], upper[i], held, version, unit, notes[i])
                for i, estimate in enumerate(estimates)
            ]
        sizes, support = found.fsd.tolist(), found.support
        graded = self.confidence.graded(sizes)
        return [
            Valuation(
                estimate, lower[i], upper[i], held, version, unit, notes[i],
                sizes[i], *graded[i], None if support is None else support[i],
            )
            for i, estimate in enumerate(estimates)
        ]  # fmt: skip

    def explain(
        self,
        row: Mapping[str, Any],
        *,
        comparables: int = 5,
        radius_km: float | None = None,
        since: dt.date | None = None,
        same: Sequence[str] = (),
    ) -> Explanation:
        """Value one row and say why.

        The first call on a bundle of trees prepares their paths and takes about half a second.

        Args:
            row: As for `value`; the contract's ``comparables.identifier``, where it is there, tells
                earlier sales of the same thing.
            comparables: How many training rows near it to name, at most 64.
            radius_km: Only those within so many kilometres.
            since: Only those sold since this day.
            same: Only those that have the row's value in these columns.

        Raises:
            ValidationError: A value is missing or does not meet the contract, or the bundle does
                not know what comparables are to be chosen by.
        """
        X = self.check.row(row)
        wanted = Wanted(comparables, radius_km, since, tuple(same))
        valuation, found = self.value_with_reasons(X, wanted, self.identifier_of(row))
        fields = {name: getattr(found, name) for name in Reasons.__dataclass_fields__}
        return Explanation(**fields, valuation=valuation)

    def value_with_reasons(
        self, X: Floats, wanted: Wanted, identifier: Any = None
    ) -> tuple[Valuation, Reasons]:
        """Value one encoded row (1, p), which `check` accepts, and say why; see `explain`."""
        scored = self._scored(X)
        return self._valuations(X, scored)[0], self._reasons(X, scored, wanted, identifier)

    def identifier_of(self, row: Mapping[str, Any]) -> Any:
        """Return what names the thing that a row is about, None where nothing does."""
        column = self.contract.comparables.identifier
        return None if column is None else row.get(column)

    def reasons(self, X: Floats, wanted: Wanted, identifier: Any = None) -> Reasons:
        """Say why one encoded row (1, p), which `check` accepts, has its value; see `explain`."""
        return self._reasons(X, self._scored(X), wanted, identifier)

    def _reasons(self, X: Floats, scored: _Scored, wanted: Wanted, identifier: Any) -> Reasons:
        score, dates = float(scored.score[0]), self.dates(X)
        return self.explainer.reasons(X, scored.Z, score, dates, wanted, identifier)

    def comparables_of_rows(
        self, X: Floats, n: int, identifiers: Sequence[Any]
    ) -> Iterator[tuple[tuple[Comparable, ...], Reconciled | None]]:
        """Yield `n` comparables of each row (m, p) and their value, see `Explainer`."""
        parts = self.contributions.of_rows(self.features.transform(X))
        return self.explainer.comparables_of_rows(X, parts, self.dates(X), n, identifiers)

    @cached_property
    def explainer(self) -> Explainer:
        """What explains estimates."""
        return Explainer(self.features, self.contributions, self.target, self.known_sales)


def load_bundle(
    folder: str | Path,
    *,
    check_golden: bool = True,
    threads: int = 1,
    limits: BundleLimits | None = None,
    trusted: Trusted = "configured",
) -> ModelBundle:
    """Load and verify the bundle in `folder`.

    Args:
        folder: The bundle's folder.
        check_golden: Whether to value the golden rows and compare with their kept answers; there
            have to be `GOLDEN_ROWS` of them.
        threads: How many threads share a batch of rows.
        limits: Sizes above which the bundle is refused.
        trusted: Keys, one of which must have signed the bundle; by default those of
            TASADOR_SOURCE__TRUSTED_KEYS. None asks for no signature: for bundles that this
            process has just made.

    Raises:
        BundleError: The folder is no bundle, or one that is damaged, incomplete, tampered with, too
            large, of an unknown format, not signed by a trusted key where one is asked for, or
            that answers differently on this machine. Whatever else goes wrong while a bundle is
            read is the bundle's fault too, so that another one may be tried in its place.
    """
    limits = limits or BundleLimits()
    if trusted == "configured":
        trusted = trusted_keys()
    signed, folder = None if trusted is None else trusted.check, Path(folder)
    try:
        manifest, contents = read_verified(folder, limits, signed)
        return _rebuilt(folder, manifest, contents, check_golden, threads, limits)
    except Exception as error:  # of any kind: JSON, arrays and graphs are somebody else's words
        if isinstance(error, _NOT_ITS_OWN) and not isinstance(error, ContractError):
            raise
        text = f"the bundle in {folder} cannot be rebuilt: {type(error).__name__}: {error}"
        raise BundleError(text[:500], remedy=FETCH_AGAIN) from None


def _rebuilt(
    folder: Path,
    manifest: Manifest,
    contents: Mapping[str, bytes],
    check_golden: bool,
    threads: int,
    limits: BundleLimits,
) -> ModelBundle:
    """Put a bundle together; arrays are checked before anything is built from them."""

    def arrays_of(name: str) -> dict[str, NDArray[Any]]:
        return read_arrays(contents[name], name, limits.total_bytes)

    def kept(name: str, build: Callable[[dict[str, NDArray[Any]]], _T]) -> _T | None:
        return build(arrays_of(name)) if name in contents else None

    errors, q = contents.get(ERROR_MODEL), manifest.model.n_features
    contract = from_dict(manifest.contract)
    made = manifest.features["names"]
    if not isinstance(made, list) or len(made) != q:
        raise MisfitError.of(f"{q} features", f"{len(made)} made")
    golden = _golden_rows(contents[GOLDEN], len(contract.features), limits)
    features = FittedFeatures.from_state(contract, manifest.features, arrays_of(FEATURES))
    bundle = ModelBundle(
        folder=folder,
        manifest=manifest,
        contract=contract,
        features=features,
        model=load_model(contents[MODEL], threads, q),
        target=TargetTransform.from_dict(manifest.target),
        interval=ConformalInterval.from_dict(manifest.interval),
        contributions=contributions_from_state(arrays_of(EXPLAIN), q),
        profile=_profile(contents[PROFILE]),
        card=manifest.filled(contents[CARD].decode()),
        encoder=Encoder(contract),
        golden=golden["X"],
        reference=kept(REFERENCE, dict),
        error_model=OnnxRegressor(errors, threads) if errors is not None else None,
        training_rows=kept(OUT_OF_FOLD, TrainingRows.from_state),
        confidence=kept(
            CONFIDENCE,
            lambda arrays: ConfidenceModel.from_state(
                load_model(contents[CONFIDENCE_TREES], threads), arrays, len(contract.features), q
            ),
        ),
        known_sales=kept(KNOWN_SALES, lambda arrays: KnownSales.from_state(arrays, features)),
    )
    _check_fit(bundle)
    _ = bundle.check, bundle._range  # built on loading rather than inside the first valuation
    if check_golden:
        _check_golden(bundle, golden["prediction"])
    return bundle


def _profile(content: bytes) -> dict[str, Any]:
    plain = orjson.loads(content)
    check_depth(plain, _MOST_LEVELS)
    if not isinstance(plain, dict):
        raise ValueError(f"{PROFILE} holds no values by name")
    return plain


def _check_fit(bundle: ModelBundle) -> None:
    """Refuse parts that were not made for each other."""
    q = len(bundle.features.names)
    if {q, bundle.model.n_features} != {bundle.manifest.model.n_features}:
        got = f"{q} made, {bundle.model.n_features} taken by the model"
        raise MisfitError.of(f"{bundle.manifest.model.n_features} features", got)
    if (index := bundle.interval.scale_index) is not None and index >= q:
        raise MisfitError.of(f"an interval scaled by one of {q} features", f"scale {index}")


def _golden_rows(content: bytes, p: int, limits: BundleLimits) -> dict[str, Floats]:
    golden = read_arrays(content, GOLDEN, limits.total_bytes)
    try:
        k = len(golden["prediction"])
        if not 0 < k <= _MOST_GOLDEN_ROWS:
            raise ValueError(f"{k} rows")
        X, prediction = Expected((k, p), gaps=True), Expected((k,))
        check_arrays(golden, {"X": X, "prediction": prediction})
    except (KeyError, TypeError, ValueError) as error:
        raise GoldenRowsError.unreadable(p, error) from None
    return golden


def _check_golden(bundle: ModelBundle, want: Floats) -> None:
    Z = bundle.features.transform(bundle.golden)
    score = bundle.model.predict(Z)
    # as if all rows were far from comparables: the widest ends are the first to overflow
    widest = bundle.interval.bounds(score, Z, np.ones(len(Z), dtype=np.bool_))
    dates = bundle.dates(bundle.golden)
    got, lower, upper = (bundle.target.inverse(scores, dates) for scores in (score, *widest))
    close = np.isclose(got, want, rtol=TOLERANCE, atol=0.0)
    if not close.all():
        row = int(np.flatnonzero(~close)[0])
        raise GoldenRowsError.differ(row, float(want[row]), float(got[row]))
    if not np.isfinite((got, lower, upper)).all():
        raise GoldenRowsError.not_finite()
    if len(want) < GOLDEN_ROWS:
        raise GoldenRowsError.incomplete(len(want))
