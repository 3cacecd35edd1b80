"""How often the monitor alarms for nothing, and how often it sees what has changed.

Each draw splits the real housing table anew: one half is the reference, windows come from the other
half without replacement. With nothing changed, any verdict of warn or alert is a false alarm. Then
one thing is changed in windows of 1000 rows, and the share of verdicts that name the change is
counted. Prints shares with their 95% intervals (Wilson) and exits with 1 when a goal is missed.

    TASADOR_REAL_DATA=... python benchmarks/drift_power.py [draws]
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inputs import housing
from isolation import isolate
from tasador.contract.model import TableContract
from tasador.monitoring.checks.performance import share_interval
from tasador.monitoring.evaluate import evaluate
from tasador.monitoring.reference import Reference, build_reference
from tasador.monitoring.verdict import Verdict
from tasador.monitoring.window import Window

Floats = NDArray[np.float64]
Change = Callable[[Floats, TableContract, np.random.Generator], str]

SIZES = (200, 1000, 10_000)
CHANGED = 1000


def shift(X: Floats, contract: TableContract, random: np.random.Generator) -> str:
    """Move one numeric column, another one each time, by half a standard deviation."""
    names = [c.name for c in contract.features if c.kind in ("number", "integer")]
    name = str(random.choice(names))
    i = contract.position(name)
    X[:, i] += 0.5 * np.nanstd(X[:, i]) * random.choice([-1, 1])
    return name


def unit(X: Floats, contract: TableContract, random: np.random.Generator) -> str:
    """Give one column in another unit: a thousand times as large."""
    names = [c.name for c in contract.features if c.kind in ("number", "integer")]
    name = str(random.choice(names))
    X[:, contract.position(name)] *= 1000
    return name


def missing_feed(X: Floats, contract: TableContract, random: np.random.Generator) -> str:
    """Lose one column."""
    name = str(random.choice(contract.feature_names))
    X[:, contract.position(name)] = np.nan
    return name


def new_category(X: Floats, contract: TableContract, random: np.random.Generator) -> str:
    """Give one row in fifty a category that nobody knows."""
    column = next(c for c in contract.features if c.kind == "category")
    rows = random.choice(len(X), len(X) // 50, replace=False)
    X[rows, contract.position(column.name)] = len(column.categories)
    return column.name


CHANGES: dict[str, Change] = {
    "half a standard deviation": shift,
    "a unit (x1000)": unit,
    "a missing feed": missing_feed,
    "a new category in 2% of the rows": new_category,
}


def halves(
    contract: TableContract, X: Floats, random: np.random.Generator
) -> tuple[Reference, Floats]:
    """Return a reference of one half of the rows, and the other half."""
    order = random.permutation(len(X))
    half = len(X) // 2
    return build_reference(contract.features, X[order[:half]]), X[order[half:]]


def names_it(verdict: Verdict, column: str) -> bool:
    """Tell whether the verdict warns or alerts about the column itself."""
    return any(f.subject == column for f in verdict.trouble)


def line(name: str, hits: int, draws: int, goal: float, *, at_most: bool) -> bool:
    """Print one figure; return whether its goal is reached."""
    share = hits / draws
    low, high = share_interval(share, draws)
    reached = share <= goal if at_most else share >= goal
    sign, mark = ("<=" if at_most else ">="), ("ok" if reached else "MISSED")
    print(
        f"{name:<52} {share:7.2%} ({low:.2%} to {high:.2%})  {sign} {goal:.0%}  {mark}", flush=True
    )
    return reached


def main() -> int:
    """Print every figure as it is known."""
    draws = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    started, random = time.perf_counter(), np.random.default_rng(7)
    with tempfile.TemporaryDirectory() as folder:
        contract, table = housing(Path(folder))
    X = table.X
    print(f"{len(X)} rows, {X.shape[1]} columns, {draws} draws each")
    alarms, blind = dict.fromkeys(SIZES, 0), dict.fromkeys(SIZES, 0)
    seen, named = dict.fromkeys(CHANGES, 0), dict.fromkeys(CHANGES, 0)
    for _ in range(draws):
        reference, others = halves(contract, X, random)
        for n in SIZES:
            verdict = evaluate(reference, Window.of(reference.names, others[:n]))
            alarms[n] += verdict.level in ("warn", "alert")
            blind[n] += verdict.level == "cannot_tell"
        for what, change in CHANGES.items():
            rows = others[:CHANGED].copy()
            column = change(rows, contract, random)
            verdict = evaluate(reference, Window.of(reference.names, rows))
            seen[what] += verdict.level in ("warn", "alert")
            named[what] += names_it(verdict, column)
    results = [line(f"false alarms, {n} rows", alarms[n], draws, 0.05, at_most=True) for n in SIZES]
    results += [line(f"cannot tell, {n} rows", blind[n], draws, 0.05, at_most=True) for n in SIZES]
    for what in CHANGES:
        results.append(line(f"seen: {what}", seen[what], draws, 0.99, at_most=False))
        results.append(line(f"  and named: {what}", named[what], draws, 0.99, at_most=False))
    print(f"{time.perf_counter() - started:.0f} s")
    return 0 if all(results) else 1


if __name__ == "__main__":
    isolate()
    sys.exit(main())
