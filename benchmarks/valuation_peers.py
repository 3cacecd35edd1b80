"""Sales to come, valued by tasador and by what else one would use, in one run.

    python benchmarks/valuation_peers.py [--tables king_county melbourne] [--rows N] [--seconds S]
        [--methods tasador openavmkit lightgbm catboost autogluon] [--limit 7200] [--small]

King County is cut at the first day of 2013, Melbourne where its newest 20% begin: all earlier sales
are for training, the same for every method, the later ones are valued without their prices. tasador
gets `run` with profile quick, for King County with its shipped contract, for Melbourne after an
unedited `init`. CatBoost and AutoGluon have as many seconds as tasador took, or `--seconds`;
openavmkit tries parameters accordingly (`openavmkit_steps.py`); the plain LightGBM takes what it
takes. Each is stopped after `--limit` seconds. `tasador.metrics` scores them all.

The level of prices by month that tasador and openavmkit find in the training sales is held against
the market's index, which King County's table has and no method sees.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from figures import Figures
from inputs import real_table
from isolation import isolate
from peer_environments import PEERS
from tables import BUDGET, LIMIT, TEST_SHARE, Answer, Rows, cut, drawn, run_peer, run_tasador
from tables_data import SALES, read_table
from tasador.metrics.regression import METRICS, RATIO_STUDY, label
from tasador.registry.bundle_stores import newest_bundle
from tasador.registry.model_bundle import load_bundle

Days = NDArray[np.float64]
SHOWN = ("median_ape", "mape", "wmape", "median_ratio", "cod", "prd")
METHODS = ("tasador", "openavmkit", "lightgbm", "catboost", "autogluon")
TITLES = {"lightgbm": "LightGBM, plain", "catboost": "CatBoost, defaults",
          "autogluon": "AutoGluon"}  # fmt: skip
NAMES = {"king_county": "King County, sales since 2013", "melbourne": "Melbourne, the newest 20%"}
SINCE = {"king_county": "2013-01-01"}
#: The market's index and its month, and contracts that are shipped.
INDEX, MONTH = "zhvi_idx", "ym"
SHIPPED = {"king_county": "king_county_sales"}


def by_date(days: Days, order: Rows, since: str | None) -> tuple[Rows, int]:
    """Return rows with the newest first, and how many of them are for testing.

    Args:
        days: Shape (n,): date of each row of the table, in days since 1970.
        order: Which of them are taken.
        since: The first day of the test part; None for the newest fifth, whole days.
    """
    newest = order[np.argsort(-days[order], kind="stable")]
    if since is None:
        first = days[newest][round(TEST_SHARE * len(newest)) - 1]
    else:
        first = float((pd.Timestamp(since) - pd.Timestamp("1970-01-01")).days)
    return newest, int((days[newest] >= first).sum())


def disagreement(levels: Mapping[str, float], index: Mapping[str, float]) -> tuple[int, float]:
    """Return how many months two levels of prices share, and by how much they differ, in percent.

    Each is relative to its mean over those months; the difference is the root mean square of that
    of the logarithms.
    """
    months = sorted(set(levels) & set(index))
    ratio = np.log([levels[month] / index[month] for month in months])
    return len(months), float(100.0 * np.std(ratio))


def levels_of(method: str, folder: Path) -> dict[str, float]:
    """Return the level of prices by month that a method found, empty where it tells none."""
    kept = folder / f"{method}.levels.json"
    if method == "tasador":
        trend = load_bundle(newest_bundle(folder / "workspace" / "bundles")).target.trend
        return {row["month"]: float(np.exp(row["level"])) for row in trend.table()} if trend else {}
    return json.loads(kept.read_text()) if kept.exists() else {}


def measure(name: str, given: argparse.Namespace, kept: Figures) -> None:
    """Let every method value one table's newest sales; print and keep the figures."""
    known = f"{name}_by_date"
    table = SALES[known]
    source = real_table(table.file)
    order, tests = by_date(
        read_table(source, table)[table.date].to_numpy(float), drawn(source, 0, given.rows),
        SINCE.get(name),
    )  # fmt: skip
    rows, levels = list[list[Any]](), dict[str, dict[str, float]]()
    with tempfile.TemporaryDirectory(prefix="tasador-valuation-") as place:
        folder = Path(place)
        split = cut(table, source, folder, order, tests)
        seconds = given.seconds or BUDGET
        for method in given.methods:
            if method == "tasador":
                answer = run_tasador(
                    SHIPPED.get(name, name), table, split, folder, given.settings,
                    shipped=name in SHIPPED,
                )  # fmt: skip
                seconds = given.seconds or answer.seconds
            else:
                answer = run_peer(method, known, split, folder, seconds, given.limit)
            if answer.estimates is not None:
                levels[method] = levels_of(method, folder)
            rows.append(row_of(method, answer, split.actual))
            figures = " ".join(f"{x:.4g}" for x in rows[-1][1 : 1 + len(SHOWN)] if x is not None)
            print(f"{name:<12} {rows[-1][0]:<22} {figures}  {answer.seconds:.0f} s  "
                  f"{answer.peak_gb:.1f} GB  {answer.told}", flush=True)  # fmt: skip
    kept.table(
        NAMES[name],
        ["Method", *(label(one) for one in SHOWN), "seconds", "peak GB", "Note"],
        rows,
        f"{len(order) - tests:,} sales to learn from, {len(split.actual):,} later ones to value. "
        "Ratios have no unit, errors and COD are in percent.",
    )
    frame = pd.read_csv(source, sep=None, engine="python")
    if INDEX in frame and any(levels.values()):
        index = frame.groupby(frame[MONTH].str[:7])[INDEX].first().to_dict()
        found = [
            [TITLES.get(method, method), *disagreement(one, index)]
            for method, one in levels.items()
            if one
        ]
        kept.table(
            "Level of prices by month beside the market's index",
            ["Method", "months", "root mean square difference (%)"],
            found,
            "Of the training sales of King County; Zillow's index, which no method sees.",
        )
        for method, months, gap in found:
            print(f"{name:<12} {method:<22} {gap:.2f}% from the index in {months} months")


def row_of(method: str, answer: Answer, actual: Days) -> list[Any]:
    """Return a method's line of the table."""
    package = PEERS[method][0].split("==")[-1] if method in PEERS else "quick profile"
    title = f"{TITLES.get(method, method)}, {package}"
    scores: list[float | None] = [None] * len(SHOWN)
    if answer.estimates is not None:
        every = {**METRICS, **RATIO_STUDY}
        scores = [every[one](actual, np.array(answer.estimates)) for one in SHOWN]
    return [title, *scores, answer.seconds, answer.peak_gb, answer.told]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tables", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--rows", type=int, default=0, help="a sample of each table; 0 for all")
    parser.add_argument("--seconds", type=float, default=0.0, help="for each peer; 0: as tasador")
    parser.add_argument("--limit", type=float, default=LIMIT, help="a peer is stopped after it")
    parser.add_argument("--settings", nargs="*", default=[], help="of our run")
    given = parser.parse_args(arguments)
    given.methods = [method for method in METHODS if method in given.methods]
    kept = Figures()
    for name in given.tables:
        measure(name, given, kept)
    kept.keep()
    return 0


if __name__ == "__main__":
    isolate()
    sys.exit(main())
