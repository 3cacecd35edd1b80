"""Where the time of a valuation goes: `python benchmarks/valuation_path.py [BUNDLE]`.

Values rows of the bundle's own table, 1, 16 and 10 000 at a time, with the compiled kernels and
without them, and prints microseconds of processor time per row and stage. Every answer is compared
bit for bit; the exit code is 1 when one differs. Each call gets rows that the one before did not:
the same row again would find caches and branch predictors prepared. Processor time, the smallest of
several passes, says the same on a busy machine as on an idle one as far as it can; what shares a
core or a cache still shows.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inputs import bundle_folder, table_of
from isolation import isolate
from tasador.core.kernels import SWITCH, native
from tasador.data.readers import read_table
from tasador.registry.model_bundle import ModelBundle, load_bundle

Floats = NDArray[np.float64]
SIZES = (1, 16, 10_000)
ROWS_A_PASS = 10_000
SINGLE_ROWS = 1_000


def load(folder: Path, kernels: bool) -> ModelBundle:
    """Load the bundle with or without the compiled kernels."""
    os.environ[SWITCH] = "1" if kernels else "0"
    native.cache_clear()
    return load_bundle(folder)


def rows_of(bundle: ModelBundle) -> Floats:
    """Return 10 000 encoded rows of the bundle's table, in random order."""
    frame = read_table(table_of(bundle.contract))
    X = bundle.encoder.columns({name: frame[name] for name in bundle.contract.feature_names})
    return X[np.random.default_rng(0).permutation(len(X))[:ROWS_A_PASS]]


@dataclass(frozen=True)
class Piece:
    """The rows of one call, and what the stages in its middle are asked with."""

    X: Floats
    Z: Floats
    points: Floats
    beside: tuple[Floats | None, Floats | None, Floats]

    @classmethod
    def of(cls, bundle: ModelBundle, X: Floats) -> Piece:
        """Prepare rows."""
        features = bundle.features
        if features.plan is None or features.index is None:
            sys.exit("the bundle has no comparables")
        frame = features.frame(X)
        points, beside = features.plan.points(frame), features.beside_place(features.plan, X, frame)
        return cls(X, features.transform(X), points, beside)


Stage = Callable[[ModelBundle, Piece], object]
STAGES: dict[str, Stage] = {
    "comparables": lambda bundle, p: bundle.features.index.features(p.points, *p.beside),
    "all features": lambda bundle, p: bundle.features.transform(p.X),
    "trees": lambda bundle, p: bundle.model.predict(p.Z),
    "whole valuation": lambda bundle, p: bundle.value_arrays(p.X),
}


def microseconds(stage: Stage, bundle: ModelBundle, pieces: list[Piece]) -> float:
    """Return processor time per row of one pass."""
    started = time.process_time()
    for piece in pieces:
        stage(bundle, piece)
    return (time.process_time() - started) * 1e6 / sum(len(piece.X) for piece in pieces)


def same_bits(before: ModelBundle, after: ModelBundle, X: Floats) -> bool:
    """Return whether both give rows the same features, estimates and intervals."""
    pairs = zip(before.value_arrays(X), after.value_arrays(X), strict=True)
    features = before.features.transform(X).tobytes() == after.features.transform(X).tobytes()
    return features and all(want.tobytes() == got.tobytes() for want, got in pairs)


def main() -> int:
    """Measure and print; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", nargs="?", type=Path)
    parser.add_argument("--passes", type=int, default=5)
    parser.add_argument("--workspace", type=Path, default=Path("workspace"))
    arguments = parser.parse_args()
    folder = arguments.bundle
    if folder is None:
        folder = bundle_folder(arguments.workspace)
    before, after = load(folder, kernels=False), load(folder, kernels=True)
    print(f"{folder.name}: trees run by {after.model.engine}; {native().reason}")
    X = rows_of(before)
    same = same_bits(before, after, X)
    print(f"{'rows':>7}  {'stage':<18}{'before':>10}{'after':>10}{'times':>8}   us of cpu per row")
    for n in SIZES:
        count = min(len(X), SINGLE_ROWS if n == 1 else ROWS_A_PASS)
        pieces = [Piece.of(before, X[i : i + n]) for i in range(0, count - n + 1, n)]
        same &= all(same_bits(before, after, piece.X) for piece in pieces[:50])
        best = {name: [np.inf, np.inf] for name in STAGES}
        for _ in range(arguments.passes):
            for side, bundle in enumerate((before, after)):
                for name, stage in STAGES.items():
                    spent = microseconds(stage, bundle, pieces)
                    best[name][side] = min(best[name][side], spent)
        for name, (old, new) in best.items():
            print(f"{n:>7}  {name:<18}{old:>10.2f}{new:>10.2f}{old / new:>8.1f}")
    print("every answer has the same bits" if same else "ANSWERS DIFFER")
    return 0 if same else 1


if __name__ == "__main__":
    isolate()
    sys.exit(main())
