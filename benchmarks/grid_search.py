"""The exact search and the race against scikit-learn's GridSearchCV.

The reference's grid has 594 candidates; GridSearchCV takes some
thirty hours of CPU time for them on the default table with comparables. So all is measured on a
stated part of it, in one process, in CPU time, and extrapolated by families, which is said as such:

* rows: a seeded sample of the training rows (`--rows`, 0 for all), five folds of them;
* GridSearchCV: a Latin design over each family's axes, on the first fold, with features that are
  ready (the most favourable case for it: in a pipeline it would fit them again for each candidate);
* exact search: whole groups of candidates that share work, those of that design, on the first fold;
* race: the same groups on all five folds, beside the other families of `profile=full`.

Scores are compared candidate by candidate. Exits with 1 when a goal is missed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import yaml

from figures import Figures
from isolation import isolate
from tasador.core import seeds
from tasador.core.hashing import fingerprint
from tasador.data.sources import load_table
from tasador.data.split import split_table
from tasador.data.table import Part
from tasador.data.validation import validate_table
from tasador.features.pipeline import FeaturePipeline
from tasador.modeling.target_transform import TargetTransform
from tasador.selection.families.catalog import expand_grid, family
from tasador.selection.families.linear import TrainingRange
from tasador.selection.folds import Fold, make_folds, random_assignment
from tasador.selection.search.grid_search import SearchResult, grid_search
from tasador.selection.search.shared_work import Candidate, Group, group_candidates
from tasador.settings.compose import compose, conf_folder
from tasador.settings.run import SegregateSettings, SelectionSettings

FAMILIES = ("random_forest", "gradient_boosting", "decision_tree", "ridge", "lasso")
DESIGN = {"random_forest": 5, "gradient_boosting": 10, "decision_tree": 6, "ridge": 3, "lasso": 3}
FOLDS, SEED = 5, 42
Result = TypeVar("Result")


@dataclass(frozen=True)
class Table:
    """The rows to search on, and their folds."""

    part: Part
    folds: list[Fold]
    transform: TargetTransform
    seconds_a_fold: float


def cpu(work: Callable[[], Result]) -> tuple[float, Result]:
    """Return the CPU seconds of the whole process, and the result."""
    started = time.process_time()
    result = work()
    return time.process_time() - started, result


def read(rows: int, folder: Path) -> Table:
    """Return the default table's training rows, or a sample of them, with features by fold."""
    settings = compose(["segregate.method=random"])
    found = load_table(
        settings.contract,
        folder,
        search=[],
        allow_synthetic=True,
        timeout_s=5,
        attempts=1,
        offline=False,
        synthetic_rows=None,
        seed=SEED,
    )
    print(f"table: {found.source} ({found.origin})")
    train = split_table(
        validate_table(found, settings.contract, max_refused_share=0.05, min_rows=100),
        SegregateSettings(method="random", seed=SEED, test_share=0.2),
    ).train
    if rows:
        kept = np.sort(seeds.generator(SEED, "benchmark").permutation(len(train))[:rows])
        train = train.take(kept)
    transform = TargetTransform(settings.contract.target.transform)
    features = dataclasses.replace(settings.features, clusters=10)
    pipeline = FeaturePipeline(settings.contract, features, SEED, {})
    assignment = random_assignment(len(train), FOLDS, SEED)
    seconds, folds = cpu(lambda: list(make_folds(train, assignment, pipeline, transform)))
    return Table(train, folds, transform, seconds / FOLDS)


def design(grid: dict[str, list[Any]], size: int) -> list[dict[str, Any]]:
    """Return `size` candidates that go through each axis evenly: a Latin design."""
    columns = []
    for place, values in enumerate(grid.values()):
        order = seeds.generator(SEED, "design", place).permutation(size)
        columns.append([values[i * len(values) // size] for i in range(size)])
        if place:
            columns[-1] = [columns[-1][i] for i in order]
    return [dict(zip(grid, row, strict=True)) for row in zip(*columns, strict=True)]


def groups_of(name: str, grid: dict[str, list[Any]]) -> list[Group]:
    """Return a family's candidates by the work that they share."""
    everything = enumerate(expand_grid(name, grid))
    return group_candidates([Candidate(i, name, params) for i, params in everything])


def theirs(name: str, params: dict[str, Any], table: Table) -> tuple[float, float, float]:
    """Return GridSearchCV's CPU seconds on the first fold, and its scores held out and fitted."""
    from sklearn import ensemble, linear_model, tree
    from sklearn.base import BaseEstimator, TransformerMixin
    from sklearn.compose import TransformedTargetRegressor
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    class Range(TrainingRange, TransformerMixin, BaseEstimator):
        """The step of the linear families, as GridSearchCV copies it."""

    classes = {
        "random_forest": ensemble.RandomForestRegressor,
        "gradient_boosting": ensemble.GradientBoostingRegressor,
        "decision_tree": tree.DecisionTreeRegressor,
        "ridge": linear_model.Ridge,
        "lasso": linear_model.Lasso,
    }
    linear = name in ("ridge", "lasso")
    seeded = {} if linear else {"random_state": seeds.derive_seed(SEED, name)}
    steps = [Range(), StandardScaler()] if linear else []
    model = make_pipeline(*steps, classes[name](**seeded))
    transform, fold = table.transform, table.folds[0]
    whole = TransformedTargetRegressor(
        model, func=transform.forward, inverse_func=transform.inverse, check_inverse=False
    )
    prefix = f"regressor__{classes[name].__name__.lower()}__"
    n = len(fold.fit_rows)
    search = GridSearchCV(
        whole,
        {prefix + key: [value] for key, value in params.items()},
        scoring="neg_mean_absolute_error",
        cv=[(np.arange(n), np.arange(n, n + len(fold.held_rows)))],
        return_train_score=True,
        refit=False,
    )
    Z = np.vstack([fold.Z_fit, fold.Z_held])
    y = table.part.y[np.concatenate([fold.fit_rows, fold.held_rows])]
    seconds, _ = cpu(lambda: search.fit(Z, y))
    found = search.cv_results_
    return seconds, -found["mean_test_score"][0], -found["mean_train_score"][0]


def ours(
    grids: dict[str, list[dict[str, Any]]], table: Table, *, racing: bool, folds: int
) -> tuple[float, SearchResult]:
    """Return the CPU seconds and the result of searching these candidates."""
    import tasador.selection.search.grid_search as module

    wanted = {name: {"": list(some)} for name, some in grids.items()}
    settings = SelectionSettings(wanted, folds=FOLDS, racing=racing)
    expand = module.expand_grid
    module.expand_grid = lambda _, grid: iter(grid[""])  # a list of candidates in place of axes
    try:
        return cpu(
            lambda: grid_search(settings, table.folds[:folds], table.part, table.transform, SEED)
        )
    finally:
        module.expand_grid = expand


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, compare with the goals."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=5000, help="training rows; 0 for all")
    parser.add_argument("--folder", type=Path, default=Path("workspace/data"))
    chosen = parser.parse_args(arguments)
    grids, full = (
        yaml.safe_load((conf_folder() / "selection" / f"{profile}.yaml").read_text())["families"]
        for profile in ("article", "full")
    )
    table = read(chosen.rows, chosen.folder)
    print(
        f"{os.cpu_count()} cores, {len(table.part)} training rows, "
        f"{table.folds[0].Z_fit.shape[1]} features, made in {table.seconds_a_fold:.1f} s a fold"
    )
    print(f"{'family':<20}{'candidates':>11}{'GridSearchCV s':>16}{'exact s':>10}{'factor':>8}")
    sampled: dict[str, list[dict[str, Any]]] = {}
    total_theirs = total_exact = apart = 0.0
    same_winner, kept, rows = True, Figures(), []
    shares: dict[str, float] = {}
    for name in FAMILIES:
        every, size = groups_of(name, grids[name]), DESIGN[name]
        count = sum(len(group.members) for group in every)
        picked = design(grids[name], size)
        scores = {fingerprint(params): theirs(name, params, table) for params in picked}
        seconds_theirs = float(np.mean([found[0] for found in scores.values()])) * count * FOLDS
        keys = {fingerprint(params) for params in picked}
        shared = [g for g in every if any(fingerprint(c.params) in keys for c in g.members)]
        sampled[name] = [dict(c.params) for group in shared for c in group.members]
        shares[name] = len(shared) / len(every)
        spent, result = ours({name: sampled[name]}, table, racing=False, folds=1)
        seconds_exact = spent / shares[name] * FOLDS
        mine = {fingerprint(c.params): c for c in result.candidates}
        for key, (_, held, fitted) in scores.items():
            apart = max(apart, abs(mine[key].held[0]["mae"] / held - 1.0))
            apart = max(apart, abs(mine[key].fitted[0]["mae"] / fitted - 1.0))
        best = min(scores, key=lambda key: scores[key][1])
        same_winner &= min(scores, key=lambda key: mine[key].held[0]["mae"]) == best
        total_theirs += seconds_theirs
        total_exact += seconds_exact
        print(
            f"{name:<20}{count:>11}{seconds_theirs:>16,.0f}{seconds_exact:>10,.0f}"
            f"{seconds_theirs / seconds_exact:>8.1f}   measured: {len(scores)} candidates, "
            f"{len(shared)} of {len(every)} groups, one fold",
            flush=True,
        )
        rows.append((name, count, len(scores), seconds_theirs, seconds_exact,
                     seconds_theirs / seconds_exact))  # fmt: skip
    total_exact += table.seconds_a_fold * FOLDS
    exact = total_theirs / total_exact
    print(f"{'whole grid':<20}{'':>11}{total_theirs:>16,.0f}{total_exact:>10,.0f}{exact:>8.1f}")
    print(f"scores apart by at most {apart:.1e} (relative); same winners: {same_winner}")
    others = {
        name: list(expand_grid(name, grid)) for name, grid in full.items() if name not in FAMILIES
    }
    spent, raced = ours({**others, **sampled}, table, racing=True, folds=FOLDS)
    total_race = table.seconds_a_fold * FOLDS
    for name in [*others, *FAMILIES]:
        some = [c for c in raced.candidates if c.family == name]
        seconds = sum(c.seconds for c in some) / shares.get(name, 1.0)
        total_race += seconds
        through = sum(c.dropped is None and c.error is None for c in some)
        print(
            f"  race, {family(name).title:<28}{seconds:>10,.0f} s, "
            f"{through} of {len(some)} measured on all folds"
        )
    race = total_theirs / total_race
    print(f"{'race, whole grid':<47}{total_race:>10,.0f}{race:>8.1f}   winner: {raced.best.family}")
    print(json.dumps({"exact": exact, "race": race, "apart": apart, "same_winner": same_winner}))
    rows.append(("whole grid", sum(row[1] for row in rows), sum(row[2] for row in rows),
                 total_theirs, total_exact, exact))  # fmt: skip
    kept.table(
        "CPU seconds of searching the grid, five folds, extrapolated by family",
        ("Family", "candidates", "measured with GridSearchCV", "GridSearchCV s", "exact search s",
         "times as fast"),
        rows,
        f"{len(table.part)} training rows. Scores of every candidate measured by both agree within "
        f"{apart:.1e} (relative); both pick the same winner: {'yes' if same_winner else 'NO'}.",
    )  # fmt: skip
    kept.goal("exact search, times as fast", exact, 2, lower_is_better=False)
    kept.goal("race over the whole grid, times as fast", race, 5, lower_is_better=False)
    kept.goal("scores apart, relative", apart, 1e-9)
    kept.keep()
    reached = exact >= 2.0 and race >= 5.0 and apart <= 1e-9 and same_winner
    print("all goals reached" if reached else "a goal is MISSED (exact 2, race 5, apart 1e-9)")
    return 0 if reached else 1


if __name__ == "__main__":
    isolate()
    sys.exit(main())
