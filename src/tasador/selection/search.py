"""Grid search over the families by cross-validation on the training part."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tasador.core import seeds
from tasador.core.errors import TrainingError
from tasador.core.fingerprints import fingerprint, to_plain
from tasador.core.progress import progress
from tasador.data.table import Part
from tasador.metrics.regression import all_metrics
from tasador.modeling.target import TargetTransform
from tasador.selection.families import expand_grid, family
from tasador.selection.folds import Fold

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SelectionSettings:
    """Which candidates are compared, and how.

    Attributes:
        families: For each family, the values to try of each parameter.
        folds: Folds of the cross-validation.
        scoring: The metric that decides; the smaller mean over the folds wins.
    """

    families: dict[str, dict[str, list[Any]]] = field(default_factory=dict)
    folds: int = 5
    scoring: str = "mae"


@dataclass(frozen=True)
class CandidateResult:
    """What one candidate reached.

    Attributes:
        family: Its family.
        params: Its parameters.
        held: For each fold, every metric on the held-out rows; empty when it failed.
        fitted: For each fold, every metric on the fitting rows.
        seconds: Time to fit and value all folds.
        error: Why it failed, or None.
    """

    family: str
    params: dict[str, Any]
    held: tuple[dict[str, float], ...]
    fitted: tuple[dict[str, float], ...]
    seconds: float
    error: str | None = None

    def mean(self, metric: str) -> float:
        """Mean of a metric over the folds; infinite when the candidate failed."""
        return float(np.mean([f[metric] for f in self.held])) if self.held else float("inf")

    def spread(self, metric: str) -> float:
        """Standard deviation of a metric over the folds."""
        return float(np.std([f[metric] for f in self.held], ddof=1)) if len(self.held) > 1 else 0.0

    def train_mean(self, metric: str) -> float:
        """Mean of a metric over the folds' fitting rows."""
        return float(np.mean([f[metric] for f in self.fitted])) if self.fitted else float("inf")


@dataclass(frozen=True)
class SearchResult:
    """Every candidate, every fold score, what it cost; best first."""

    scoring: str
    candidates: tuple[CandidateResult, ...]

    @property
    def best(self) -> CandidateResult:
        """The candidate with the smallest mean score."""
        return self.candidates[0]

    def best_of_families(self) -> tuple[CandidateResult, ...]:
        """The best candidate of each family, best first."""
        seen: dict[str, CandidateResult] = {}
        for candidate in self.candidates:
            if candidate.error is None:
                seen.setdefault(candidate.family, candidate)
        return tuple(seen.values())


def evaluate_candidate(
    name: str,
    params: Mapping[str, Any],
    folds: Sequence[Fold],
    part: Part,
    transform: TargetTransform,
    seed: int,
) -> CandidateResult:
    """Fit one candidate on every fold; a fit that fails is recorded, not raised."""
    chosen = family(name)
    target = transform.forward(part.y)
    held: list[dict[str, float]] = []
    fitted: list[dict[str, float]] = []
    started = time.perf_counter()
    try:
        for fold in folds:
            model = chosen.fit(
                params, fold.Z_fit, target[fold.fit_rows], seeds.derive_seed(seed, name)
            )
            for Z, rows, scores in (
                (fold.Z_held, fold.held_rows, held),
                (fold.Z_fit, fold.fit_rows, fitted),
            ):
                estimate = transform.inverse(chosen.predict(model, Z))
                if not np.isfinite(estimate).all():
                    raise TrainingError("the model's estimates are not finite")
                scores.append(all_metrics(part.y[rows], estimate))
    except Exception as error:  # one candidate's failure must not lose the others
        _log.warning("%s %s failed: %s", name, dict(params), error)
        seconds = time.perf_counter() - started
        return CandidateResult(name, dict(params), (), (), seconds, f"{error}")
    seconds = time.perf_counter() - started
    return CandidateResult(name, dict(params), tuple(held), tuple(fitted), seconds)


def grid_search(
    settings: SelectionSettings,
    folds: Sequence[Fold],
    part: Part,
    transform: TargetTransform,
    seed: int,
    journal: Path | None = None,
) -> SearchResult:
    """Compare every candidate of every family's grid.

    Args:
        settings: The grids and the score.
        folds: Folds with their features, shared by all candidates.
        part: The training part.
        transform: The target's transform.
        seed: Seed of the models.
        journal: File to which each finished candidate is appended; candidates found in it are not
            computed again, so that an interrupted search goes on where it was.

    Raises:
        ConfigError: A grid names an unknown family or parameter (before anything is fitted).
        TrainingError: No candidate could be fitted.
    """
    wanted = [
        (name, params)
        for name, grid in settings.families.items()
        for params in expand_grid(name, grid)
    ]
    if not wanted:
        raise TrainingError("no candidate to compare", remedy="name one in selection.families")
    known = _read_journal(journal)
    results = []
    with progress("comparing models", len(wanted)) as advance:
        for name, params in wanted:
            advance(0, note=name)
            key = fingerprint([name, params])
            if key in known:
                result = known[key]
            else:
                result = evaluate_candidate(name, params, folds, part, transform, seed)
                _append(journal, key, result)
            results.append(result)
            advance()
    failed = [result for result in results if result.error is not None]
    if len(failed) == len(results):
        raise TrainingError(
            f"all {len(results)} candidates failed, the first with: {failed[0].error}"
        )
    ordered = sorted(results, key=lambda r: (r.mean(settings.scoring), r.family, str(r.params)))
    return SearchResult(settings.scoring, tuple(ordered))


def result_from_plain(plain: Mapping[str, Any]) -> CandidateResult:
    """Rebuild a candidate's result from JSON."""
    return CandidateResult(
        **{**plain, "held": tuple(plain["held"]), "fitted": tuple(plain["fitted"])}
    )


def _read_journal(journal: Path | None) -> dict[str, CandidateResult]:
    if journal is None or not journal.exists():
        return {}
    known = {}
    for line in journal.read_text(encoding="utf-8", errors="replace").splitlines():
        if not line:
            continue
        try:
            entry = json.loads(line)
            known[entry["key"]] = result_from_plain(entry["result"])
        except (ValueError, KeyError, TypeError):
            _log.warning("a damaged line of %s is ignored (an interrupted write)", journal)
    return known


def _append(journal: Path | None, key: str, result: CandidateResult) -> None:
    if journal is None or result.error is not None:
        return
    journal.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps({"key": key, "result": to_plain(result)})
    with journal.open("a", encoding="utf-8") as file:
        file.write(f"\n{line}\n")  # the break in front ends a line that was cut off
