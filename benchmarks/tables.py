"""A league of strangers' tables: unedited `tasador init` and `run` beside what else one would use.

    python benchmarks/tables.py [--tables NAME ...] [--splits 5]
        [--methods tasador full lightgbm catboost autogluon] [--rows N] [--again]

Each table is cut into 80% for training and 20% for testing, by chance, `--splits` times; the
training file keeps the bytes of its rows, the test file has no target. tasador gets
`init FILE --target T --yes`, `run` (profile quick; `full` is the profile of that name) and
`predict`, by its commands. Of its training file it holds 5% back for its own report
(`segregate.test_share=0.05`); the peers learn from all of it. A test row that it refuses is
estimated by the median of the training targets and counted. The peers get what a pandas user makes
of the table by hand (`tables_data.py`). CatBoost and AutoGluon have as long as tasador took.
`tasador.metrics` scores them all. Where both profiles are measured, `full` is compared with quick
by CPU seconds, which a busy machine changes little, and by its error on the same rows.

Estimates are kept in benchmarks/workspace/tables, so that an interrupted league goes on where it
was: those of peers until `--again`, those of tasador for its commit. Exits with 1 when tasador is
worse than the plain LightGBM on a table by more than chance, or `full` than quick.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from figures import Figures
from inputs import data_folder, real_table
from isolation import isolate
from peer_environments import peer_python, run_measured
from tables_data import TABLES, Table, read_table
from tasador.contract.reader import read_contract
from tasador.core import seeds
from tasador.metrics.regression import all_metrics, label

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]
HERE = Path(__file__).parent
KEPT = HERE / "workspace" / "tables"
SHOWN = ("wmape", "mape", "median_ape", "rmse", "r2")
OURS, PEERS = ("tasador", "full"), ("lightgbm", "catboost", "autogluon")
TITLES = {"tasador": "tasador, quick profile", "full": "tasador, full profile",
          "lightgbm": "LightGBM, plain", "catboost": "CatBoost, defaults",
          "autogluon": "AutoGluon"}  # fmt: skip
TEST_SHARE, HELD_BACK = 0.2, 0.05
#: Seconds for the peers where tasador gave up; each method is stopped after so many.
BUDGET, LIMIT = 90.0, 7200.0
DRAWS = 2000


@dataclass(frozen=True)
class Answer:
    """What a method answered on one split: estimates in the order of the test rows, or why not."""

    estimates: list[float] | None
    seconds: float
    told: str
    peak_gb: float = 0.0
    cpu: float = 0.0


@dataclass(frozen=True)
class Split:
    """One cut of a table: a training file, a test file without targets, the test targets."""

    train: Path
    test: Path
    actual: Floats
    median: float


def records(content: bytes) -> list[bytes]:
    """Return the lines of a file, those within quotes joined, each with its end."""
    found: list[bytes] = []
    open_quote = False
    for line in content.splitlines(keepends=True):
        if open_quote:
            found[-1] += line
        else:
            found.append(line)
        open_quote ^= line.count(b'"') % 2 == 1
    return found


def drawn(path: Path, seed: int, rows: int) -> Rows:
    """Return the places of so many rows of a file by chance, of all for 0."""
    order = seeds.generator(seed, "league").permutation(len(records(path.read_bytes())) - 1)
    return order[: rows or None]


def cut(table: Table, path: Path, folder: Path, order: Rows, tests: int) -> Split:
    """Write the first rows of an order to the test file, the others to the training file.

    Rows without a positive target are not tested.
    """
    head, *body = records(path.read_bytes())
    delimiter = "\t" if path.suffix == ".tsv" else ","
    train, test = folder / f"train{path.suffix}", folder / f"test{path.suffix}"
    train.write_bytes(b"".join([head, *(body[i] for i in np.sort(order[tests:]))]))
    test.write_bytes(b"".join([head, *(body[i] for i in np.sort(order[:tests]))]))
    targets = read_table(test, table)[table.target].to_numpy(float)
    cells = list(csv.reader(io.StringIO(test.read_text("utf-8-sig")), delimiter=delimiter))
    at = cells[0].index(table.target)
    kept = targets > 0
    with test.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
        writer.writerow(cells[0][:at] + cells[0][at + 1 :])
        for row, wanted in zip(cells[1:], kept, strict=True):
            if wanted:  # a row may have one cell more than the header has: a name in front
                place = at + max(len(row) - len(cells[0]), 0)
                writer.writerow(row[:place] + row[place + 1 :])
    prices = read_table(train, table)[table.target]
    return Split(train, test, targets[kept], float(prices[prices > 0].median()))


def run_tasador(
    name: str,
    table: Table,
    split: Split,
    folder: Path,
    settings: Sequence[str] = (),
    *,
    shipped: bool = False,
) -> Answer:
    """Let the commands do everything; what goes wrong is told in the table.

    The contract of that name is shipped or written by `init`; `settings` are of the run.
    """
    command = [sys.executable, "-W", "ignore", "-m", "tasador.cli.app"]
    init = ["init", split.train.name, "--target", table.target, "--name", name, "--yes"]
    run = ["run", f"dataset={name}", "tracking=none", f"segregate.test_share={HELD_BACK}"]
    run += settings
    if shipped:
        run += [f"dataset.source.paths=[{split.train}]", "dataset.source.sha256=null"]
    predict = ["predict", split.test.name, "-o", "estimates.csv"]
    steps = [run, predict] if shipped else [init, run, predict]
    seconds = peak = cpu = 0.0
    for step in steps:
        done = run_measured([*command, *step], folder, LIMIT)
        peak = max(peak, done.peak_gb)
        if step is not predict:
            seconds, cpu = seconds + done.seconds, cpu + done.cpu
        if done.problem:
            return Answer(None, seconds, f"{step[0]} failed: {done.problem}", peak, cpu)
    with (folder / "estimates.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    if len(rows) != len(split.actual):
        return Answer(None, seconds, f"{len(rows)} estimates for {len(split.actual)} rows", peak)
    column = next(one for one in rows[0] if one.startswith("predicted_"))
    refused = sum(not row[column] for row in rows)
    told = [f"{refused} rows refused" * bool(refused)]
    if not shipped:
        contract = read_contract(folder / "conf" / "dataset" / f"{name}.yaml")
        leaks = [one for one in table.leaks if one in contract.feature_names]
        told.append(f"kept {', '.join(leaks)}" * bool(leaks))
    estimates = [float(row[column]) if row[column] else split.median for row in rows]
    return Answer(estimates, seconds, "; ".join(filter(None, told)), peak, cpu)


def run_peer(
    method: str, name: str, split: Split, folder: Path, budget: float, limit: float = LIMIT
) -> Answer:
    """Run a peer in its own environment; what goes wrong is told in the table."""
    try:
        python = peer_python(method)
    except (subprocess.CalledProcessError, OSError) as error:
        return Answer(None, 0.0, f"cannot be installed: {error}"[:200])
    target = folder / f"{method}.txt"
    command = [str(python), "-W", "ignore", str(HERE / "tables_methods.py"), method, name,
               str(split.train), str(split.test), str(target), f"{budget:g}"]  # fmt: skip
    done = run_measured(command, folder, limit)
    if done.problem:
        return Answer(None, done.seconds, f"failed: {done.problem}", done.peak_gb)
    told = json.loads(done.out.strip().splitlines()[-1])
    return Answer(
        np.loadtxt(target).tolist(), done.seconds, ", ".join(f"{k} {v}" for k, v in told.items()),
        done.peak_gb,
    )  # fmt: skip


def commit() -> str:
    """Return what is checked out; empty when files differ from it, so that nothing is kept."""
    asked = (["git", "status", "--porcelain", "src"], ["git", "rev-parse", "--short", "HEAD"])
    changed, head = (
        subprocess.run(one, cwd=HERE.parent, capture_output=True, text=True, check=False).stdout
        for one in asked
    )
    return "" if changed.strip() else head.strip()


def answers(
    name: str, seed: int, given: argparse.Namespace, head: str
) -> tuple[Floats, dict[str, Answer]]:
    """Return the test targets of one split, and what each method answered."""
    table, found = TABLES[name], dict[str, Answer]()
    with tempfile.TemporaryDirectory(prefix="tasador-tables-") as place:
        folder = Path(place)
        source = real_table(table.file)
        order = drawn(source, seed, given.rows)
        split = cut(table, source, folder, order, round(TEST_SHARE * len(order)))
        for method in given.methods:
            whose = f"-{head}" if method in OURS else ""
            path = KEPT / f"{name}-{given.rows}-{seed}-{method}{whose}.json"
            lasting = bool(head) or method not in OURS
            if path.exists() and lasting and not given.again:
                found[method] = Answer(**json.loads(path.read_text()))
                continue
            if method in OURS:
                own = folder / method
                own.mkdir()
                for file in (split.train, split.test):
                    (own / file.name).symlink_to(file)
                settings = ["profile=full"] if method == "full" else []
                found[method] = run_tasador(name, table, split, own, settings)
            else:
                ours = found.get("tasador")
                budget = ours.seconds if ours and ours.estimates else BUDGET
                found[method] = run_peer(method, name, split, folder, budget)
            if lasting and found[method].estimates:
                KEPT.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(asdict(found[method])))
        return split.actual, found


def difference(parts: Sequence[tuple[Floats, Floats, Floats]]) -> tuple[float, float, float]:
    """Return how much larger the first wMAPE is than the second, in points, and its 95% interval.

    The mean over the splits; rows are drawn anew within each split, in pairs.

    Args:
        parts: Targets and two estimates of each split.
    """
    random = seeds.generator(42, "league bootstrap")
    means, draws = [], np.zeros(DRAWS)
    for actual, first, second in parts:
        gap = np.abs(first - actual) - np.abs(second - actual)
        means.append(100.0 * gap.sum() / actual.sum())
        for draw in range(DRAWS):
            rows = random.integers(0, len(actual), len(actual))
            draws[draw] += 100.0 * gap[rows].sum() / actual[rows].sum() / len(parts)
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(np.mean(means)), float(low), float(high)


@dataclass(frozen=True)
class Standing:
    """A method on one table: means over the splits; scores are empty where a split has none.

    `against` compares it with the plain LightGBM, profile full also with quick, in `beside`.
    """

    scores: dict[str, float]
    seconds: float
    told: str
    against: tuple[float, float, float] | None
    cpu: float = 0.0
    beside: tuple[float, float, float] | None = None


def standings(actual: list[Floats], found: list[dict[str, Answer]]) -> dict[str, Standing]:
    """Return how each method did over the splits of one table."""
    table: dict[str, Standing] = {}

    def compared(method: str, other: str) -> tuple[float, float, float] | None:
        parts = []
        for y, one in zip(actual, found, strict=True):
            if method == other or not all(m in one and one[m].estimates for m in (method, other)):
                return None
            parts.append((y, np.array(one[method].estimates), np.array(one[other].estimates)))
        return difference(parts)

    for method in found[0]:
        mine, scores = [one[method] for one in found], dict[str, float]()
        estimates = [np.array(one.estimates) for one in mine if one.estimates is not None]
        if len(estimates) == len(mine):
            each = [all_metrics(y, one) for y, one in zip(actual, estimates, strict=True)]
            scores = {name: float(np.mean([one[name] for one in each])) for name in SHOWN}
        told = next((one.told for one in mine if one.estimates is None), mine[0].told)
        seconds, cpu = (float(np.mean([getattr(o, k) for o in mine])) for k in ("seconds", "cpu"))
        beside = compared(method, "tasador") if method == "full" else None
        table[method] = Standing(scores, seconds, told, compared(method, "lightgbm"), cpu, beside)
    return table


def described(against: tuple[float, float, float] | None) -> str:
    """Return a difference and its interval as text, empty for none."""
    return "" if against is None else "{:+.2f} ({:+.2f} to {:+.2f})".format(*against)


def keep(league: dict[str, dict[str, Standing]], splits: int) -> int:
    """Keep the league's table and goals; return on how many tables tasador is clearly worse.

    Than the plain LightGBM; and profile full than quick.
    """
    rows: list[list[Any]] = []
    accepted = worse = better = compared = 0
    shortfalls, times = list[float](), list[float]()
    for name, table in league.items():
        for method, one in table.items():
            gap = described(one.against) or None
            rows.append([name, TITLES[method], *(one.scores.get(key) for key in SHOWN), gap,
                         one.seconds, one.told])  # fmt: skip
        ours = table.get("tasador")
        if ours is None:
            continue
        accepted += bool(ours.scores)
        if ours.scores:
            times.append(ours.seconds)
            best = [table[p].scores["wmape"] for p in PEERS if p in table and table[p].scores]
            if best:
                shortfalls.append(100.0 * (ours.scores["wmape"] / min(best) - 1.0))
        if ours.against is not None:
            compared += 1
            better += ours.against[0] < 0
            worse += ours.against[1] > 0
    kept = Figures()
    kept.goal(
        "tables accepted unedited, of all", accepted / len(league), 1.0, lower_is_better=False
    )
    if compared:
        kept.goal("tables with a clearly larger wMAPE than the plain LightGBM", worse, 0)
        kept.goal("share of tables with a smaller one", better / compared, 0.5,
                  lower_is_better=False)  # fmt: skip
    if shortfalls:
        kept.goal("wMAPE beside the best peer's, at worst (%)", max(shortfalls), 2.0)
    if times:
        kept.goal("longest init and run (s)", max(times), 90.0)
    kept.table(
        "Strangers' tables",
        ["Table", "Method", *(label(name) for name in SHOWN),
         "wMAPE less the plain LightGBM's (95%)", "seconds", "Note"],
        rows,
        f"Means of {splits} random splits. RMSE in the target's unit, R² without unit, the others "
        "in percent. Columns that say the target in other words are dropped by hand for the peers; "
        "what tasador keeps of them is noted.",
    )  # fmt: skip
    worse += keep_profiles(kept, league, splits)
    kept.keep()
    return worse


def keep_profiles(kept: Figures, league: dict[str, dict[str, Standing]], splits: int) -> int:
    """Keep what profile full costs and brings; return on how many tables it is clearly worse."""
    pairs = {
        name: (table["tasador"], table["full"])
        for name, table in league.items()
        if "full" in table and table["full"].beside
    }
    rows, times, worse = list[list[Any]](), list[float](), 0
    for name, (quick, full) in pairs.items():
        times.append(full.cpu / quick.cpu)
        worse += full.beside is not None and full.beside[1] > 0
        rows.append([name, quick.cpu, full.cpu, times[-1], quick.scores["wmape"],
                     full.scores["wmape"], described(full.beside)])  # fmt: skip
    if rows:
        kept.goal("CPU seconds of profile full, times those of quick, at worst", max(times), 5.0)
        kept.goal("tables with a clearly larger wMAPE by profile full than by quick", worse, 0)
        kept.table(
            "What profile full costs and brings",
            ["Table", "quick (CPU s)", "full (CPU s)", "times", "wMAPE (%), quick",
             "wMAPE (%), full", "difference (95%)"],
            rows,
            f"Means of {splits} random splits: `init` and `run`; errors of held-out rows, in "
            "percentage points.",
        )  # fmt: skip
    return worse


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES), metavar="NAME")
    parser.add_argument("--splits", type=int, default=5)
    methods = (*OURS, *PEERS)
    parser.add_argument("--methods", nargs="+", choices=methods, default=("tasador", *PEERS))
    parser.add_argument("--rows", type=int, default=0, help="a sample of each table; 0 for all")
    parser.add_argument("--again", action="store_true", help="measure again what is kept")
    given = parser.parse_args(arguments)
    given.methods = [method for method in methods if method in given.methods]
    missing = [name for name in given.tables if not (data_folder() / TABLES[name].file).is_file()]
    for name in missing:
        print(f"{name:<18} not measured: {TABLES[name].file} is not in {data_folder()}")
    given.tables = [name for name in given.tables if name not in missing]
    if not given.tables:
        raise SystemExit(f"expected tables in {data_folder()}: set TASADOR_REAL_DATA to its folder")
    league: dict[str, dict[str, Standing]] = {}
    head = commit()
    for name in given.tables:
        parts = [answers(name, seed, given, head) for seed in range(given.splits)]
        league[name] = standings([actual for actual, _ in parts], [found for _, found in parts])
        for method, one in league[name].items():
            figures = " ".join(f"{key} {value:.4g}" for key, value in one.scores.items())
            told = f"{one.seconds:.0f} s, {one.cpu:.0f} s of CPU  "
            told += f"{described(one.beside or one.against)}  {one.told}"
            print(f"{name:<18} {TITLES[method]:<22} {figures}  {told}", flush=True)
    return 1 if keep(league, given.splits) else 0


if __name__ == "__main__":
    isolate()
    sys.exit(main())
