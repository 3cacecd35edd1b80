"""Which benchmarks there are, in which order they run, and under which headings they are shown."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Benchmark:
    """One command of the suite.

    Attributes:
        name: Its result is results/NAME.json.
        section: The heading under which it is shown.
        text: What it measures.
        arguments: What Python is started with; `{workspace}` is one with a trained default model,
            `{bundle}` that model.
        small: The same at a size that only shows that it works.
        minutes: About how long it takes on two quiet cores.
        keeps: Whether it keeps figures; otherwise what it prints is shown as it is.
        needs: Programs without which it does not run.
        limit_s: It is stopped after this.
    """

    name: str
    section: str
    text: str
    arguments: tuple[str, ...]
    small: tuple[str, ...]
    minutes: int
    keeps: bool = True
    needs: tuple[str, ...] = ()
    limit_s: float = 1800.0


#: Headings in the order of the page, each with what the reader should know first.
SECTIONS = {
    "The main job": (
        "What `make run` does on the default table, in a process of its own, beside the goals "
        "that the product sets itself. Here and below the table is split at random with seed 42 "
        "(`segregate.method=random`), as published figures are; by default a row's side is "
        "decided by what it holds."
    ),
    "The first hour": (
        "What a newcomer waits for who has a copy of the repository, a Python with the pip that "
        "it bundles and no uv: [the first valuation](../tutorial/first-valuation.md), and "
        "[a server](../how-to/deploy.md) as the documentation installs it."
    ),
    "Accuracy": (
        "The default table, split 80/20 at random with seed 42, as the reference pipeline does. "
        "Every method gets the training part as a file, and the test part without its prices; it "
        "writes its estimates to a file, and tasador's metrics score them all. Nothing is tuned "
        "on the test part, with one exception in the reference's favour: its gradient boosting "
        "has the parameters whose test error comes nearest to the one it publishes. Each peer runs "
        "in an environment of its own, on all cores, within the "
        "same wall time, and is told what tasador's contract says: which column is a category, "
        "and that prices are to be modelled on a logarithmic scale."
    ),
    "End to end": (
        "From a file on disk to a registered model: `tasador run` in a fresh workspace, and the "
        "seven steps of the reference pipeline, re-created from their description. In full they "
        "take hours, so the stated part of each is measured and extrapolated."
    ),
    "Selection": (
        "The reference's grid of 594 candidates, by scikit-learn's `GridSearchCV` and by "
        "tasador's exact search, which shares the work that candidates have in common."
    ),
    "Serving": (
        "One worker each, loaded by wrk on the same machine, in rounds that visit all servers in "
        "turn."
    ),
    "Batch scoring": ("Rows a second of `tasador score`, Parquet to Parquet."),
    "Explanations": (
        "Every estimate can be had with its parts in money: exact Shapley values of trees, which "
        "add up to it. [How to explain](../how-to/explain.md)."
    ),
    "Valuation reports": (
        "One property, one page: value, interval, comparables, map, parts in money, accuracy. "
        "[How to write them](../how-to/write-valuation-reports.md)."
    ),
    "Cache of predictions": ("Whether a cache pays; it is off by default."),
    "Records": ("What keeping a record of every valuation costs."),
    "One valuation": (
        "Where the microseconds of one valuation go, with the compiled kernels and without them. "
        "[How it came to that](valuation-path.md)."
    ),
    "Limits": (
        "What bounds the parts above on this machine, whoever writes them. "
        "[Where the time goes](where-the-time-goes.md)."
    ),
    "Ratio study": (
        "The figures by which assessors are judged, of generated sales, beside those of assesspy "
        "(Cook County) and of MPAC (Ontario), each in an environment of its own. "
        "[How to make one](../how-to/ratio-study.md)."
    ),
    "Drift": ("Judging a window of rows against a reference, beside Evidently and NannyML."),
    "Scale out": (
        "Scoring, a grid and drift by processes of a Ray cluster of this machine, with equal "
        "results, also when one is killed. [How to scale out](../how-to/scale-out.md)."
    ),
    "Growth": (
        "How cost grows with rows, columns and categories. Each measurement is a process of its "
        "own on a generated table. The exponent is the slope of a line through the points on "
        "logarithmic axes: 1 is proportional, below 1 cheaper."
    ),
    "A million rows": (
        "`tasador init` and `tasador run` on a generated table of a million rows, 30 columns and "
        "a column of 10 000 categories. How it was made is known: its noise alone makes a median "
        "error of 8.4%, and who knows everything but a row's town, which overlap, has 11.6% "
        "(`big_table.least_error`), the least possible for a model."
    ),
    "Many columns": (
        "The same on a table of a thousand columns, a tenth of which say something about the "
        "price: with eight rows a column, a model cannot learn all of it."
    ),
    "Another table": (
        "A table without coordinates: 53 940 diamonds, beside a LightGBM tuned by Optuna. Both are "
        "tuned on the MAPE of cross-validation, and both may grow trees of many leaves."
    ),
    "Strangers' tables": (
        "Tables of people who do this job, as they arrive: `tasador init FILE --target T --yes` "
        "and `tasador run`, beside a LightGBM of ten lines with all columns (500 trees, native "
        "categories), CatBoost with its defaults and AutoGluon, each in an environment of its own. "
        "Money, units and dates are parsed by hand for the peers "
        "(`benchmarks/tables_data.py`); the last two have as long as tasador took. All estimate "
        "the logarithm and are scored on the same test rows."
    ),
    "Sales to come": (
        "The sales of King County, 2008 to 2013, valued by what was known before: the median error "
        "beside ten lines of LightGBM, the same on prices brought to one level by the market's "
        "true index, which is known afterwards only, and the assessor's values, levelled by their "
        "median ratio of that year. [How to work with dates](../how-to/time.md). Then the newest "
        "sales of two tables, by tasador, openavmkit 0.7 by the steps of its notebooks (without "
        "what needs the network), ten lines of LightGBM on the absolute error, CatBoost with its "
        "defaults and AutoGluon. Each gets the same earlier sales and the same columns, but the "
        "parcel's number, which only tasador's contract uses (for the subdivision and for sales of "
        "the same house). openavmkit's values are as of the last day that it knows, as an "
        "assessor's roll is; the others get the day of the sale."
    ),
    "Confidence": (
        "Rows that no step has seen: how often the error stays within the forecast standard "
        "deviation (FSD), which is to hold 68% of the errors of all rows (within 2 points) and of "
        "each class (within 4), how often intervals hold the price, and what valuing fewer rows "
        "is worth. [What confidence is](../how-to/confidence.md)."
    ),
    "What refitting in the API costs": (
        "[Why the fitted state is shipped](why-not-synthetic-kmeans.md)."
    ),
}


def _one(
    name: str,
    section: str,
    text: str,
    arguments: str,
    small: str,
    minutes: int,
    *,
    keeps: bool = True,
    needs: tuple[str, ...] = (),
    limit_s: float = 1800.0,
) -> Benchmark:
    def words(options: str) -> tuple[str, ...]:
        script, *rest = options.split()
        return (f"benchmarks/{script}.py", *rest)

    return Benchmark(name, section, text, words(arguments), words(small), minutes, keeps, needs,
                     limit_s)  # fmt: skip


BENCHMARKS = (
    _one("main_job", "The main job", "time, memory, accuracy and repeatability of the default run",
         "main_job", "main_job", 12),
    _one("first_hour", "The first hour", "install, first run, first valuation, a server",
         "first_hour", "first_hour --small", 8, needs=("make", "git")),
    _one("accuracy", "Accuracy", "tasador's quick profile and the reference's own method",
         "accuracy_peers --methods tasador reference --workspace {workspace}",
         "accuracy_peers --methods tasador reference --rows 2000 --workspace {workspace}", 2),
    _one("accuracy_boosters", "Accuracy", "LightGBM and CatBoost, tuned",
         "accuracy_peers --methods lightgbm catboost --budget 220",
         "accuracy_peers --methods lightgbm catboost --budget 20 --rows 2000", 8),
    _one("accuracy_automl", "Accuracy", "FLAML and AutoGluon",
         "accuracy_peers --methods flaml autogluon --budget 220",
         "accuracy_peers --methods flaml autogluon --budget 60 --rows 2000", 8),
    _one("end_to_end", "End to end", "the whole run against the reference's seven steps",
         "end_to_end", "end_to_end --small", 8),
    _one("grid_search", "Selection", "exact search and race against GridSearchCV",
         "grid_search", "grid_search --rows 300", 13),
    _one("serving", "Serving", "throughput, latency, cold start and memory beside four peers",
         "serving --workspace {workspace}",
         "serving --workspace {workspace} --peers reference --seconds 1 --rounds 1", 7,
         needs=("wrk",)),
    _one("serving_limits", "Serving", "the road without work, stages, two workers",
         "serving_limits --workspace {workspace}",
         "serving_limits --workspace {workspace} --seconds 1 --rounds 1", 5,
         needs=("wrk", "taskset")),
    _one("mixed_load", "Serving", "half an hour of mixed load: memory, failures, latency",
         "mixed_load", "mixed_load --minutes 0.5 --rows 1000", 33, limit_s=3600.0),
    _one("batch_scoring", "Batch scoring", "rows a second of whole files",
         "batch_scoring {bundle}", "batch_scoring {bundle} --rows 5000 --trees 20", 5,
         keeps=False),
    _one("explain", "Explanations", "50 000 rows with their reasons, beside the library shap",
         "explain {bundle}", "explain {bundle} --rows 2000 --peer-rows 300 --trees 50", 4),
    _one("appraise", "Valuation reports", "in process, by the command, by the service",
         "appraise --workspace {workspace}",
         "appraise --workspace {workspace} --reports 20 --times 10", 4),
    _one("serving_cache", "Cache of predictions", "requests per second: none, memory, Redis",
         "serving_cache --workspace {workspace}",
         "serving_cache --workspace {workspace} --seconds 0", 3, keeps=False,
         needs=("wrk", "redis-server")),
    _one("records", "Records", "requests per second and added latency by mode and database",
         "records", "records sqlite bytes", 5, keeps=False),
    _one("valuation_path", "One valuation", "microseconds by stage",
         "valuation_path --workspace {workspace}",
         "valuation_path --workspace {workspace} --passes 1", 2, keeps=False),
    _one("limits", "Limits", "memory, parsing, loopback", "limits", "limits --rows 20000", 1),
    _one("ratio", "Ratio study", "figures, seconds and memory beside assesspy and MPAC's package",
         "ratio", "ratio --sales 1000 5000", 4),
    _one("drift_speed", "Drift", "a million rows judged, beside Evidently and NannyML",
         "drift_speed", "drift_speed 20000 40000", 5),
    _one("drift_power", "Drift", "false alarms and changes seen", "drift_power 200",
         "drift_power 5", 5, keeps=False),
    _one("error_estimate", "Drift", "errors estimated without outcomes, beside NannyML",
         "error_estimate", "error_estimate 5", 2, keeps=False),
    _one("scale_out", "Scale out", "score, search and drift by 1, 2 and 4 workers, and one killed",
         "scale_out {bundle}", "scale_out {bundle} --small --workers 2", 20),
    _one("growth_rows", "Growth", "seconds and memory by rows", "growth rows",
         "growth rows --small", 14),
    _one("growth_columns", "Growth", "seconds and memory by columns",
         "growth columns", "growth columns --small", 3),
    _one("growth_categories", "Growth", "seconds and memory by categories",
         "growth categories", "growth categories --small", 3),
    _one("growth_comparables", "Growth", "memory and query time of the comparables' index",
         "growth comparables", "growth comparables --small", 2),
    _one("million_rows", "A million rows", "the whole run on a generated table",
         "million_rows", "million_rows --rows 3000 --categories 50", 15),
    _one("many_columns", "Many columns", "the whole run on a table of a thousand columns",
         "million_rows --rows 10000 --columns 1000 --categories 10",
         "million_rows --rows 1000 --columns 60 --categories 10", 17),
    _one("diamonds", "Another table", "tasador beside a tuned LightGBM",
         "diamonds --trials 20 sweep.metric=mape sweep.wide=true",
         "diamonds --trials 1 --rows 2000 sweep.trials=2", 16, keeps=False),
    _one("tables", "Strangers' tables", "init and run on nine tables beside three peers",
         "tables --splits 2",
         "tables --tables insurance --splits 1 --rows 400 --methods tasador lightgbm", 85,
         limit_s=36_000.0),
    _one("tables_full", "Strangers' tables", "what profile full costs and brings beside quick",
         "tables --tables insurance used_cars housing diamonds --splits 3 --rows 5000 "
         "--methods tasador full",
         "tables --tables insurance --splits 1 --rows 300 --methods tasador full", 60,
         limit_s=14_400.0),
    _one("sales", "Sales to come", "years of sales valued by what was known before", "sales",
         "sales --rows 3000 --yearly sweep.trials=2", 8),
    _one("valuation_peers", "Sales to come", "the newest sales of two tables, beside four peers",
         "valuation_peers",
         "valuation_peers --rows 800 --methods tasador lightgbm --settings sweep.trials=2", 45,
         limit_s=14_400.0),
    _one("confidence", "Confidence", "promised and kept, on three tables", "confidence",
         "confidence --tables california --rows 3000 --settings sweep.trials=2", 15),
    _one("synthetic_kmeans", "What refitting in the API costs", "labels and errors",
         "synthetic_kmeans", "synthetic_kmeans", 1, keeps=False),
)  # fmt: skip
