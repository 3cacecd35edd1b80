"""Sales that were still to come: King County, each span valued by what was known before it.

``python benchmarks/sales.py``. The model is trained as a user would (`tasador run
dataset=king_county_sales`) and fitted again at each origin as by `tasador backtest`: at the
beginning of each year, and of each month. Beside it, on the same sales: ten lines of LightGBM (500
trees, 0.05, absolute loss, postal code and type as categories, the date as a number); the same on
prices over the market's true index of their month, whose estimates are brought back by the index
of theirs; and the assessor's values. The index of a month to come, and the median ratio by which
the assessor's values are levelled, are known afterwards only.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diamonds import SEED, absolute_percentage_errors
from figures import Figures
from inputs import real_table
from isolation import isolate
from tasador.core import seeds
from tasador.core.parallel import in_parallel
from tasador.lifecycle.gate_evaluation import reference_table
from tasador.lifecycle.reproduce import settings_of
from tasador.registry.bundle_stores import newest_bundle
from tasador.registry.model_bundle import load_bundle
from tasador.selection.paired_tests import median_differences
from tasador.training.backtest import as_of

Floats = NDArray[np.float64]
TABLE, DATE, INDEX, PRICE = (
    "tables/king_county_sales.tsv", "DocumentDate", "zhvi_idx", "SalePrice"
)  # fmt: skip
ASSESSED = ("LandVal", "ImpsVal")
CATEGORIES = ("ZipCode", "PropertyType")
NUMBERS = (
    "NbrLivingUnits", "SqFtLot", "SqFtTotLiving", "SqFtFinBasement", "Bathrooms", "Bedrooms",
    "BldgGrade", "YrBuilt", "YrRenovated", "TrafficNoise", "NewConstruction",
)  # fmt: skip
YEARS = range(2008, 2014)
#: Median APE that is to be reached in the mean of the years, and years to be below the plain line.
BY_YEAR, BY_MONTH, BETTER = 9.5, 8.8, 6


def train(source: Path, workspace: Path, settings: Sequence[str]) -> None:
    """Train on the table, unless the workspace has a model already."""
    if any((workspace / "bundles").glob("*/manifest.json")):
        return
    command = [sys.executable, "-m", "tasador.cli.app", "run", "dataset=king_county_sales"]
    command += [f"dataset.source.paths=[{source}]", f"storage.workspace={workspace}"]
    command += ["dataset.source.sha256=null", "tracking=none", "register.backtest=0", *settings]
    subprocess.run(command, check=True, stdout=sys.stderr)


class Sales:
    """The table's rows that the model's contract accepts, and estimates of them at an origin.

    Attributes:
        price, index, assessed: Shape (n,): price, the market's index of its month, the assessor's
            value.
        month: Shape (n,): the month of the sale, counted from January 1970.
    """

    def __init__(self, source: Path, workspace: Path) -> None:
        import pandas

        self._bundle = load_bundle(newest_bundle(workspace / "bundles"), trusted=None)
        self._settings, _ = settings_of(self._bundle)
        accepted = reference_table(self._bundle, workspace / "data")
        self._part = accepted.aged(self._settings.model.half_life).part
        rows = pandas.read_csv(source, sep="\t").iloc[accepted.row].reset_index(drop=True)
        sold = pandas.to_datetime(rows[DATE])
        self.month = ((sold.dt.year - 1970) * 12 + sold.dt.month - 1).to_numpy()
        self.price, self.index, self.assessed = (
            found.to_numpy(float)
            for found in (rows[PRICE], rows[INDEX], rows[list(ASSESSED)].sum(axis=1))
        )
        self._X = rows[[*NUMBERS, *CATEGORIES]].astype(dict.fromkeys(CATEGORIES, "category"))
        self._X[DATE] = sold.dt.year + sold.dt.day_of_year / 366

    def within(self, first: int, months: int) -> NDArray[np.intp]:
        """Return the positions of the sales of some months."""
        return np.flatnonzero((self.month >= first) & (self.month < first + months))

    def by_model(self, first: int, months: int) -> Floats:
        """Return what the model of the month's first day says of the sales that follow."""
        known = self._part.take(np.flatnonzero(self.month < first))
        asked = self._part.X[self.within(first, months)]
        return as_of(self._bundle, self._settings, known).predict(asked)

    def by_lightgbm(self, first: int, months: int, level: Floats) -> Floats:
        """Return what the plain LightGBM says of them, of prices over a level (n,)."""
        import lightgbm

        before, after = self.month < first, self.within(first, months)
        model = lightgbm.LGBMRegressor(
            objective="l1", n_estimators=500, learning_rate=0.05, random_state=SEED, n_jobs=1,
            verbosity=-1,
        )  # fmt: skip
        model.fit(self._X[before], np.log(self.price / level)[before])
        return np.exp(np.asarray(model.predict(self._X.iloc[after]))) * level[after]

    def by_assessor(self, first: int, months: int) -> Floats:
        """Return the assessor's values of them at their median ratio; NaN where there is none."""
        after = self.within(first, months)
        ratio = np.where(self.assessed > 0, self.assessed, np.nan)[after] / self.price[after]
        levelled: Floats = ratio / np.nanmedian(ratio) * self.price[after]
        return levelled


def compare(sales: Sales, *, monthly: bool) -> dict[str, dict[int, Floats]]:
    """Return the sales' errors in percent by method and year, monthly ones joined."""
    flat = np.ones(len(sales.price))
    methods: dict[str, Any] = {
        "tasador": sales.by_model,
        "plain": lambda *span: sales.by_lightgbm(*span, flat),
        "true index": lambda *span: sales.by_lightgbm(*span, sales.index),
        "assessor": sales.by_assessor,
    }
    spans = [(name, (year - 1970) * 12, 12) for name in methods for year in YEARS]
    if monthly:
        methods["tasador, monthly"] = sales.by_model
        spans += [
            ("tasador, monthly", (year - 1970) * 12 + month, 1)
            for year in YEARS for month in range(12)
        ]  # fmt: skip
    spans = [span for span in spans if len(sales.within(*span[1:]))]

    def measured(span: tuple[str, int, int]) -> Floats:
        name, *months = span
        price = sales.price[sales.within(*months)]
        return absolute_percentage_errors(price, methods[name](*months))

    parts: dict[str, dict[int, list[Floats]]] = {name: {} for name in methods}
    for place, errors in sorted(in_parallel(measured, spans), key=lambda found: found[0]):
        name, first, _ = spans[place]
        parts[name].setdefault(1970 + first // 12, []).append(errors)
    return {
        name: {year: np.concatenate(some) for year, some in years.items()}
        for name, years in parts.items()
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; exit with 1 where the model is surely worse than the plain LightGBM."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=0, help="a sample of the table; 0 for all")
    parser.add_argument("--workspace", type=Path, help="whose model is taken; else one is trained")
    parser.add_argument("--yearly", action="store_true", help="leave out the monthly origins")
    parser.add_argument("settings", nargs="*", help="of our run, e.g. profile=full")
    chosen = parser.parse_args(arguments)
    source = real_table(TABLE)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if chosen.rows:
            head, *body = source.read_text(encoding="utf-8").splitlines(keepends=True)
            drawn = np.sort(seeds.generator(SEED, "rows").permutation(len(body))[: chosen.rows])
            source = folder / source.name
            source.write_text("".join([head, *(body[i] for i in drawn)]), encoding="utf-8")
        workspace = chosen.workspace or folder / "workspace"
        train(source, workspace, chosen.settings)
        errors = compare(Sales(source, workspace), monthly=not chosen.yearly)
    years = sorted(errors["tasador"])
    pairs = [(errors["tasador"][year], errors["plain"][year]) for year in years]
    gaps, _ = median_differences(pairs, seed=SEED)
    medians = {
        name: [float(np.nanmedian(one[year])) for year in years] for name, one in errors.items()
    }
    between = [f"{gap.value:+.2f} ({gap.low:+.2f} to {gap.high:+.2f})" for gap in gaps]
    columns = ["year", "sales", *medians, "tasador - plain (95%)"]
    rows = [
        [str(year), len(errors["tasador"][year]), *(one[i] for one in medians.values()), between[i]]
        for i, year in enumerate(years)
    ]
    mean = {name: float(np.mean(one)) for name, one in medians.items()}
    gain = f"{mean['tasador'] - mean['plain']:+.2f}"
    rows.append(["mean", sum(row[1] for row in rows), *mean.values(), gain])
    kept = Figures()
    kept.table(
        "Median error of sales to come (%)", columns, rows,
        "Each year is valued by what was known before it; monthly: each month by what was known "
        "before that. Differences with their 95% interval by paired bootstrap over the sales.",
    )  # fmt: skip
    kept.goal("Mean of the yearly medians", mean["tasador"], BY_YEAR)
    if not chosen.yearly:
        kept.goal("The same at monthly origins", mean["tasador, monthly"], BY_MONTH)
    better = sum(gap.high < 0 for gap in gaps)
    kept.goal("Years surely better than plain", better, BETTER, lower_is_better=False)
    kept.keep()
    print("  ".join(columns))
    for row in rows:
        cells = (f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in row)
        print("  ".join(text.rjust(len(name)) for text, name in zip(cells, columns, strict=True)))
    return 1 if any(gap.low > 0 for gap in gaps) else 0


if __name__ == "__main__":
    isolate()
    sys.exit(main())
