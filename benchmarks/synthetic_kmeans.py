"""What refitting KMeans on invented coordinates does to a model that was trained on real clusters.

    python benchmarks/synthetic_kmeans.py [housing.csv]

The system that inspired this one ships no fitted clusters: its API draws 1000 coordinates at random
inside California's bounds and fits KMeans to those, with the seed that training used. The same seed
on other points gives other centres, in another order. Measured here: how many rows get another
label, how many still do under the best possible renaming of the labels, and what that does to the
error of a forest trained with the real labels.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans
from sklearn.ensemble import RandomForestRegressor
from sklearn.model_selection import train_test_split

from inputs import real_table
from isolation import isolate

SEED, POINTS = 42, 1000
LABELS = NDArray[np.int64]


def differing(real: LABELS, invented: LABELS, k: int) -> tuple[float, float]:
    """Return the share of labels that differ, as they are and under the best renaming."""
    together = np.zeros((k, k))
    np.add.at(together, (real, invented), 1)
    rows, columns = linear_sum_assignment(-together)
    return float(np.mean(real != invented)), float(1 - together[rows, columns].sum() / len(real))


def with_labels(features: pd.DataFrame, labels: LABELS, k: int) -> NDArray[np.float64]:
    """Return the features with one column a cluster."""
    return np.hstack([features.to_numpy(float), np.eye(k)[labels]])


def main(path: Path) -> None:
    """Print the table."""
    table = pd.read_csv(path)
    target = table.pop("median_house_value").to_numpy(float)
    place = table[["longitude", "latitude"]].to_numpy(float)
    rest = table.drop(columns=["longitude", "latitude", "ocean_proximity"])
    rest = rest.fillna(rest.median()).assign(
        **{f"is_{name}": table.ocean_proximity == name for name in table.ocean_proximity.unique()}
    )
    invented = np.random.default_rng(SEED).uniform(place.min(0), place.max(0), (POINTS, 2))
    train, test = train_test_split(np.arange(len(table)), test_size=0.2, random_state=SEED)
    print(
        "| K | labels that differ | after the best renaming | MAPE, real labels | MAPE, invented |"
    )
    print("|---|---|---|---|---|")
    for k in (2, 5, 10):
        fitted = KMeans(k, random_state=SEED, n_init=10).fit(place[train])
        refitted = KMeans(k, random_state=SEED, n_init=10).fit(invented)
        labels, others = fitted.predict(place), refitted.predict(place)
        raw, best = differing(labels, others, k)
        forest = RandomForestRegressor(100, random_state=SEED, n_jobs=-1)
        forest.fit(with_labels(rest.iloc[train], labels[train], k), target[train])
        errors = [
            np.mean(
                np.abs(
                    forest.predict(with_labels(rest.iloc[test], shown[test], k)) / target[test] - 1
                )
            )
            for shown in (labels, others)
        ]
        print(f"| {k} | {raw:.1%} | {best:.1%} | {errors[0]:.1%} | {errors[1]:.1%} |")


if __name__ == "__main__":
    isolate()
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else real_table("housing.csv"))
