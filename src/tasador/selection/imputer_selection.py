"""Which imputer for which column: known values are masked, filled in again and compared.

Every column that may lack values is compared by repeated cross-validation on the training part. The
smallest mean RMSE sets the mark; the cheapest imputer within one standard error of it is taken. A
small model fitted on the filled columns shows what the difference is worth in the target's unit.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasador.contract.model import TableContract
from tasador.core import seeds
from tasador.core.parallel import in_parallel
from tasador.core.progress import progress
from tasador.data.table import Part
from tasador.features.encoders import levels_of
from tasador.features.fitted import Kind
from tasador.features.imputation import FEWEST_KNOWN, STRATEGIES, Strategy, fit_imputer
from tasador.features.imputers import Imputer
from tasador.metrics.regression import mae, rmse
from tasador.modeling.target_transform import TargetTransform
from tasador.selection.families.catalog import family
from tasador.selection.families.inputs import fit_model
from tasador.settings.run import ImputationSettings

Floats = NDArray[np.float64]
_MASKED_SHARE = 0.2
#: Up to so many columns a comparison costs about the same; beyond, in proportion to them.
_USUAL_COLUMNS = 100
_DOWNSTREAM_FOLDS = 3
#: Most columns of the small model that shows what a difference is worth; the column's own, and of
#: the others those that by themselves go with the target most.
_DOWNSTREAM_FEATURES = 100
_DOWNSTREAM_MODEL = {
    "n_estimators": 40,
    "learning_rate": 0.2,
    "num_leaves": 15,
    "feature_fraction": 0.5,
}


@dataclass(frozen=True)
class ImputerScore:
    """How one imputer restored one column.

    Attributes:
        strategy: The imputer.
        errors: RMSE on the masked values of each fold of each repeat, in the column's unit; none
            for ``native``, which restores nothing.
        seconds: Time to fit it once.
        downstream: MAE of the small model on rows whose value was masked and filled in, in the
            target's unit; None where it could not be measured.
    """

    strategy: Strategy
    errors: tuple[float, ...]
    seconds: float
    downstream: float | None = None

    @property
    def mean(self) -> float:
        """Mean RMSE; infinite without one."""
        return float(np.mean(self.errors)) if self.errors else float("inf")

    @property
    def spread(self) -> float:
        """Standard deviation of the RMSE between folds."""
        return float(np.std(self.errors, ddof=1)) if len(self.errors) > 1 else 0.0

    def standard_error(self, folds: int) -> float:
        """Standard error of the mean for `folds` folds, repeated.

        The folds share most of their fitting rows, so their scores are not independent: Nadeau and
        Bengio's (2003) correction adds held-out rows / fitting rows to one over their number.
        """
        return self.spread * float(np.sqrt(1.0 / len(self.errors) + 1.0 / (folds - 1)))


@dataclass(frozen=True)
class ColumnEvidence:
    """What was measured for one column, and what follows.

    Attributes:
        column: Its name.
        scores: All imputers, the cheapest first.
        chosen: What fills it in.
        best: The imputer with the smallest mean RMSE; None without evidence.
        limit: The largest mean RMSE within one standard error of the best.
        unmasked: MAE of the small model on the same rows with their values known.
    """

    column: str
    scores: tuple[ImputerScore, ...]
    chosen: Strategy
    best: Strategy | None = None
    limit: float | None = None
    unmasked: float | None = None


def columns_to_impute(contract: TableContract, X: Floats) -> list[str]:
    """Return the numeric columns that may lack values: by contract, or because they do.

    The date of the sale is none of them: without one, a row is valued as of the newest date.
    """
    lacking = set(np.flatnonzero(np.isnan(X).any(axis=0)).tolist())
    return [
        column.name
        for i, column in enumerate(contract.features)
        if column.kind != "category"
        and column.role != "timestamp"
        and (column.nullable or i in lacking)
    ]


def choose_cheapest(
    scores: Sequence[ImputerScore], folds: int
) -> tuple[ImputerScore, ImputerScore, float]:
    """Apply the one-standard-error rule.

    Args:
        scores: The cheapest first.
        folds: Folds of each repeat.

    Returns:
        The cheapest imputer within the limit, the best, and the limit: the best's mean RMSE plus
        its standard error.
    """
    best = min(scores, key=lambda score: score.mean)  # of equals the cheapest, which comes first
    limit = best.mean + best.standard_error(folds)
    return next(score for score in scores if score.mean <= limit), best, limit


def compare_imputers(
    settings: ImputationSettings,
    contract: TableContract,
    part: Part,
    transform: TargetTransform,
    seed: int,
) -> tuple[ColumnEvidence, ...]:
    """Measure every imputer on every column that may lack values, and choose.

    Args:
        settings: What is compared, and whether the comparison decides.
        contract: The table's contract.
        part: The training part.
        transform: The target's transform.
        seed: Seed of samples, masks and imputers.
    """
    rows = seeds.sample_places(len(part), settings.max_rows, seed, "imputation rows")
    sample = part.take(rows)
    names = columns_to_impute(contract, part.X)
    gaps = {name: int(np.isnan(part.X[:, contract.position(name)]).sum()) for name in names}
    width = max(part.X.shape[1], _USUAL_COLUMNS)
    most = max(settings.max_columns * _USUAL_COLUMNS // width, min(settings.max_columns, 2))
    # where few rows lack a value, what is filled in changes next to nothing; what a text does not
    # say, and what follows from other columns, is no value that somebody forgot to write
    made = {c.name for c in contract.features if c.from_text or c.derive is not None}
    worth = [n for n in names if gaps[n] >= settings.min_gap_share * len(part) and n not in made]
    compared = sorted(worth, key=lambda name: -gaps[name])[:most]
    with progress("comparing imputers", len(compared) * len(STRATEGIES)) as advance:
        measured = in_parallel(
            lambda name: _column_evidence(
                settings, contract, sample, transform, seed, name, advance
            ),
            compared,
        )
        evidence = {compared[place]: found for place, found in measured}
    # without evidence the simplest, which also bounds the work on a table of a thousand columns
    usual: Strategy = "median" if settings.strategy == "auto" else settings.strategy
    return tuple(evidence.get(name) or ColumnEvidence(name, (), usual) for name in names)


def _column_evidence(
    settings: ImputationSettings,
    contract: TableContract,
    part: Part,
    transform: TargetTransform,
    seed: int,
    name: str,
    advance: Any,
) -> ColumnEvidence:
    known = np.flatnonzero(~np.isnan(part.X[:, contract.position(name)]))
    fixed = None if settings.strategy == "auto" else settings.strategy
    if len(known) < FEWEST_KNOWN * settings.folds:
        advance(len(STRATEGIES))
        return ColumnEvidence(name, (), fixed or "median")
    masks = [
        _mask_some(part.X, contract.position(name), known, seeds.derive_seed(seed, repeat))
        for repeat in range(settings.repeats)
    ]
    scores = []
    for strategy in STRATEGIES:
        advance(0, note=f"{name}: {strategy}")
        errors, seconds = _errors(settings, contract, part.X, known, name, strategy, seed)
        effect = _downstream(contract, masks, part, transform, name, strategy, seed)
        scores.append(ImputerScore(strategy, errors, seconds, effect))
        advance()
    chosen, best, limit = choose_cheapest(scores, settings.folds)
    effect = _downstream(contract, masks, part, transform, name, "native", seed)
    scores.append(ImputerScore("native", (), 0.0, effect))
    # the same rows with nothing masked: what the best possible imputer would reach
    known_masks = [(part.X, rows) for _, rows in masks]
    unmasked = _downstream(contract, known_masks, part, transform, name, None, seed)
    return ColumnEvidence(
        name, tuple(scores), fixed or chosen.strategy, best.strategy, limit, unmasked
    )


def _errors(
    settings: ImputationSettings,
    contract: TableContract,
    X: Floats,
    known: NDArray[np.intp],
    name: str,
    strategy: Strategy,
    seed: int,
) -> tuple[tuple[float, ...], float]:
    """Return the RMSE of each fold, the folds being the same for all imputers, and the time."""
    column = contract.position(name)
    errors, seconds = [], 0.0
    for repeat in range(settings.repeats):
        random = seeds.generator(seed, "mask", name, repeat)
        fold_of = random.permutation(len(known)) % settings.folds
        for fold in range(settings.folds):
            held = known[fold_of == fold]
            masked = X.copy()
            masked[held, column] = np.nan
            started = time.perf_counter()
            imputer = fit_imputer(contract, masked, {name: strategy}, seed)
            seconds += time.perf_counter() - started
            errors.append(rmse(X[held, column], imputer.fill(masked[held])[:, column]))
    return tuple(errors), seconds / len(errors)


def _mask_some(
    X: Floats, column: int, known: NDArray[np.intp], seed: int
) -> tuple[Floats, NDArray[np.intp]]:
    """Return `X` with a share of a column's known values masked, and the rows."""
    random = seeds.generator(seed, "downstream mask", column)
    rows = np.sort(random.choice(known, max(1, int(_MASKED_SHARE * len(known))), replace=False))
    masked = X.copy()
    masked[rows, column] = np.nan
    return masked, rows


def _downstream(
    contract: TableContract,
    masks: Sequence[tuple[Floats, NDArray[np.intp]]],
    part: Part,
    transform: TargetTransform,
    name: str,
    strategy: Strategy | None,
    seed: int,
) -> float | None:
    """Return a small LightGBM's cross-validated MAE on masked rows, the mean over the masks.

    It sees the table's own columns and whether the value was missing, nothing derived.
    """
    imputation = {} if strategy is None else {name: strategy}
    column = contract.position(name)
    codes = {
        i: len(found.categories)
        for i, found in enumerate(contract.features)
        if found.kind == "category"
    }
    target, model = transform.forward(part.y), family("lightgbm")
    model_seed = seeds.derive_seed(seed, "downstream")
    folds = seeds.generator(seed, "downstream folds").permutation(len(part)) % _DOWNSTREAM_FOLDS
    errors = []
    for X, rows in masks:
        # a single mask is a quick look, for which two folds do
        for fold in range(_DOWNSTREAM_FOLDS if len(masks) > 1 else 2):
            fit, held = folds != fold, rows[folds[rows] == fold]
            if not len(held):
                continue
            imputer = fit_imputer(contract, X[fit], imputation, seed)
            inputs = _filled(X[fit], imputer, column, codes)
            seen = _strongest(inputs, target[fit], (column, inputs.shape[1] - 1))
            kinds: list[Kind] = ["code" if i in codes else "number" for i in seen]
            small = fit_model(
                model,
                _DOWNSTREAM_MODEL,
                inputs[:, seen],
                kinds,
                target[fit],
                model_seed,
                1,
                part.fit_weight(np.flatnonzero(fit)),
            )
            others = _filled(X[held], imputer, column, codes)[:, seen]
            errors.append(mae(part.y[held], transform.inverse(model.predict(small, others))))
    found = float(np.mean(errors)) if errors else float("nan")
    return found if np.isfinite(found) else None


def _filled(X: Floats, imputer: Imputer, column: int, codes: Mapping[int, int]) -> Floats:
    """Return `X` (n, p) as the small model sees it: filled in, and a 0/1 column for the gaps."""
    filled = imputer.fill(X).copy()
    for place, levels in codes.items():
        filled[:, place] = levels_of(X[:, place], levels)
    if column in imputer.native:
        filled[:, column] = X[:, column]
    return np.column_stack([filled, np.isnan(X[:, column])])


def _strongest(Z: Floats, target: Floats, own: Sequence[int]) -> NDArray[np.intp]:
    """Return the columns (k,) that the small model sees of `Z` (n, q): all where they are few."""
    if Z.shape[1] <= _DOWNSTREAM_FEATURES:
        return np.arange(Z.shape[1])
    away = Z - Z.mean(axis=0)
    with np.errstate(all="ignore"):
        strength = np.abs((target - target.mean()) @ away) / np.sqrt(np.square(away).sum(axis=0))
    strength = np.nan_to_num(strength, nan=0.0, posinf=0.0)
    strength[list(own)] = np.inf  # the imputed column is what is measured, however weak it is
    return np.sort(np.argsort(-strength, kind="stable")[:_DOWNSTREAM_FEATURES])
