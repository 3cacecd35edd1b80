"""The benchmark suite: its page says what the results say, and every figure has its command."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("benchmark_scripts")]

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "benchmarks"
SLEEP = "import time; time.sleep(600)"
LONG = ("main_job", "grid_search", "growth_rows", "million_rows", "many_columns", "diamonds",
        "mixed_load", "scale_out", "tables", "tables_full", "valuation_peers",
        "confidence")  # fmt: skip
HOUSING = ("longitude", "latitude", "housing_median_age", "total_rooms", "total_bedrooms",
           "population", "households", "median_income", "ocean_proximity")  # fmt: skip


def result(name: str, **figures: Any) -> dict[str, Any]:
    return {
        "name": name,
        "command": f"python benchmarks/{name}.py",
        "commit": "abc1234",
        "date": "2026-11-24 23:10 UTC",
        "seconds": 61.2,
        "load_before": 0.1,
        "exit_code": 0,
        "machine": {"cpu": "a processor", "cores": 2, "ram_gib": 8.0, "system": "Linux 6"},
        "versions": {"python": "3.11.9"},
        "figures": {"tables": [], "goals": [], "plots": []} | figures,
        "printed": "",
    }


def test_the_page_of_benchmarks_says_what_the_results_say() -> None:
    import suite_page

    found = (ROOT / suite_page.PAGE).read_text(encoding="utf-8")
    wanted = suite_page.draw_page(suite_page.read_results(ROOT))
    assert found == wanted, "run `python benchmarks/suite.py --page` and commit what changed"


def test_a_benchmark_sees_nothing_of_what_the_environment_configures(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from isolation import isolate

    live = ("TASADOR_RECORDS__URL", "TASADOR_SOURCE__TRACKING_URI", "MLFLOW_TRACKING_URI",
            "WANDB_API_KEY", "TASADOR_ACTOR")  # fmt: skip
    kept = ("TASADOR_REAL_DATA", "TASADOR_NATIVE", "TASADOR_BENCH_JSON")
    for name in (*live, *kept):
        monkeypatch.setenv(name, "x")
    isolate()
    assert [name for name in (*live, *kept) if name in os.environ] == list(kept)


@pytest.mark.parametrize("script", sorted(SCRIPTS.glob("*.py")), ids=lambda path: path.stem)
def test_every_benchmark_leaves_the_environment_before_it_begins(script: Path) -> None:
    text = script.read_text()
    assert text.count('if __name__ == "__main__":\n') == text.count(
        'if __name__ == "__main__":\n    isolate()\n'
    )


def test_every_picture_of_the_page_is_there_and_no_other() -> None:
    import suite_page

    results = suite_page.read_results(ROOT).values()
    plots = [plot for one in results for plot in (one["figures"] or {}).get("plots", ())]
    wanted = {suite_page.picture_name(plot["title"]) for plot in plots}
    assert len(wanted) == len(plots)
    assert {path.name for path in (ROOT / suite_page.PICTURES).glob("*.svg")} == wanted


def test_every_result_has_a_command_of_the_suite_and_the_machine_it_belongs_to() -> None:
    import suite_plan

    scripts = {one.name: one.arguments[0] for one in suite_plan.BENCHMARKS}
    for path in (SCRIPTS / "results").glob("*.json"):
        found = json.loads(path.read_text())
        assert found["command"].startswith(f"python {scripts[path.stem]}")
        assert found["machine"]["cpu"]
        assert found["machine"]["cores"] > 0
        assert found["commit"]
        assert found["versions"]["python"]
        assert not found["commit"].endswith("+"), "measured with uncommitted changes"


def test_every_benchmark_has_a_script_and_a_heading() -> None:
    import suite_plan

    assert {one.section for one in suite_plan.BENCHMARKS} <= set(suite_plan.SECTIONS)
    for one in suite_plan.BENCHMARKS:
        assert (ROOT / one.arguments[0]).exists()
        assert one.small[0] == one.arguments[0]
        # a part is short enough to be repeated, but for those whose size is what they measure
        assert one.minutes <= 8 or one.name in LONG


def test_a_table_stands_above_its_command_and_parts_of_one_table_are_joined() -> None:
    from suite_page import draw_page

    parts = {
        name: result(
            name,
            tables=[{"title": "Errors", "columns": ["Method", "MAPE"], "rows": [[name, value]],
                     "note": "of the test part"}],
        )
        for name, value in (("growth_rows", 12.3456), ("growth_columns", None))
    }  # fmt: skip
    page = draw_page(parts)
    assert page.count("**Errors**") == 1
    assert page.count("of the test part") == 1
    assert "| growth_rows | 12.35 |\n| growth_columns | – |" in page
    assert page.index("| growth_rows | 12.35 |") < page.index("`python benchmarks/growth_rows.py`")
    assert "`python benchmarks/suite.py --only serving`" in page
    assert "a processor, 2 cores, 8 GiB, Linux 6; python 3.11.9" in page


def test_a_goal_that_was_missed_is_reported() -> None:
    from suite_page import draw_page

    goals = [
        {"name": "seconds", "value": 3.0, "goal": 2.0, "sign": "<="},
        {"name": "times", "value": 3.0, "goal": 2.0, "sign": ">="},
    ]
    page = draw_page({"main_job": result("main_job", goals=goals)})
    assert "| seconds | 3 | at most 2 | **no** |" in page
    assert "| times | 3 | at least 2 | yes |" in page


@pytest.mark.parametrize(
    ("cell", "shown"),
    [
        (None, "–"),
        (True, "yes"),
        (0.00012345, "1.2e-04"),
        (12345.6, "12\u00a0346"),
        ("a|b", "a\\|b"),
    ],
)
def test_cells_are_shown_for_people(cell: Any, shown: str) -> None:
    from suite_page import show

    assert show(cell) == shown


def test_pictures_are_the_same_each_time_and_name_what_they_show() -> None:
    from figures import Figures
    from suite_page import draw_picture

    kept = Figures()
    kept.bars("Speed", "", ["tasador", "a peer"], [2.0, None])
    kept.lines("Cost", "", ("rows", "s"), {"a part": [(10, 0.1), (100, 1.1)]})
    for plot, text in zip(kept.plots, ("a peer", "a part"), strict=True):
        assert draw_picture(plot) == draw_picture(plot)
        assert text in draw_picture(plot).decode()


def test_an_exponent_is_the_slope_on_logarithmic_axes() -> None:
    from growth import exponent

    assert exponent([(n, 3.0 * n**1.5) for n in (10, 100, 1000)]) == pytest.approx(1.5)
    assert exponent([(10, 5.0), (100, 5.0)]) == pytest.approx(0.0)
    assert exponent([(10, 0.001), (100, 1.0)], least=0.02) is None


def test_a_benchmark_is_run_and_kept_with_what_it_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import suite
    from suite_plan import Benchmark

    script = tmp_path / "one.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(SCRIPTS)!r})\n"
        "from figures import Figures\n"
        "kept = Figures(); kept.goal('seconds', 1.0, 2.0); kept.keep(); print('done')\n"
        "sys.exit(int(sys.argv[1]))\n"
    )
    benchmark = Benchmark("one", "The main job", "text", (), (), 1)
    found = suite.measure(benchmark, [str(script), "1"])
    assert found is not None
    assert found["figures"]["goals"][0]["value"] == 1.0
    assert found["command"] == f"python {script} 1"
    assert suite.measure(benchmark, [str(script), "3"]) is None
    assert "FAILED with exit code 3" in capsys.readouterr().out

    kept = tmp_path / "one.json"
    kept.write_text(json.dumps(found | {"commit": "abc"}))
    monkeypatch.setattr(suite, "measured_commit", lambda: "abc")
    arguments = [str(script), "1"]
    assert suite.is_fresh(kept, arguments)
    assert not suite.is_fresh(kept, [*arguments, "--other"])
    monkeypatch.setattr(suite, "measured_commit", lambda: "abd")
    assert not suite.is_fresh(kept, arguments)


def test_a_benchmark_that_is_stopped_may_stop_what_it_started(tmp_path: Path) -> None:
    import suite

    script = tmp_path / "one.py"
    script.write_text(
        "import time\ntry:\n    print('ready', flush=True)\n    time.sleep(600)\n"
        "except KeyboardInterrupt:\n    print('tidied up')\n"
    )
    command = [sys.executable, str(script)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        suite.stop(process)
        assert process.stdout.read() == "tidied up\n"


@pytest.mark.slow
def test_growth_is_measured_and_its_answers_checked(tmp_path: Path) -> None:
    import growth

    sizes = (1000, 6, 10)
    growth.measure("table", tmp_path, sizes)
    for part in ("validate and split", "features, fit"):
        found = growth.measure(part, tmp_path, sizes)
        assert found["holds"], found
        assert found["peak_gb"] > 0
    found = growth.measure("no such part", tmp_path, sizes)
    assert not found["holds"]
    assert found["check"].startswith("failed: KeyError")


def test_a_peer_that_is_missing_or_fails_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import accuracy_peers

    def cannot(name: str) -> Path:
        raise OSError(f"no {name} here")

    monkeypatch.setattr(accuracy_peers, "peer_python", cannot)
    found = accuracy_peers.run_peer("flaml", tmp_path, 1.0)
    assert found.estimates is None
    assert "cannot be installed" in found.told
    assert "no flaml here" in found.told

    monkeypatch.setattr(accuracy_peers, "peer_python", lambda _: Path(sys.executable))
    found = accuracy_peers.run_peer("lightgbm", tmp_path, 1.0)  # there is no table
    assert found.estimates is None
    assert found.told.startswith("failed: FileNotFoundError")


def test_sales_of_a_year_are_valued_by_what_was_known_before_the_year_or_their_month() -> None:
    import sales

    class Known(sales.Sales):
        def __init__(self) -> None:
            self.month = np.repeat(np.arange((2014 - 1970) * 12), 2)
            self.month = self.month[self.month != (2010 - 1970) * 12 + 4]  # a month without sales
            self.price, self.index = np.full((2, len(self.month)), 100.0)
            self.assessed = np.where(np.arange(len(self.month)) % 2, 50.0, 0.0)

        def by_model(self, first: int, months: int) -> np.ndarray:
            # one more for each month since the origin
            return 100.0 + self.month[self.within(first, months)] - first

        def by_lightgbm(self, first: int, months: int, level: np.ndarray) -> np.ndarray:
            return 2.0 * level[self.within(first, months)]

    found = sales.compare(Known(), monthly=True)
    months = np.repeat(np.arange(12.0), 2)
    assert found["tasador"][2008] == pytest.approx(months)
    assert found["tasador"][2010] == pytest.approx(months[months != 4])
    assert found["tasador, monthly"][2010] == pytest.approx(np.zeros(22))
    assert found["plain"][2013] == pytest.approx(np.full(24, 98.0))
    assert found["true index"][2013] == pytest.approx(np.full(24, 100.0))
    assert np.nanmax(found["assessor"][2009]) == pytest.approx(0.0)
    assert np.isnan(found["assessor"][2009]).sum() == 12


def test_the_ratio_study_is_compared_with_what_assesspy_finds_on_the_same_sales(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import ratio
    from figures import VARIABLE

    # the peer that our own environment has, and of its bootstrap as little as says something
    monkeypatch.setattr(ratio, "PEERS", {"assesspy 2.0.2": ratio.PEERS["assesspy 2.0.2"]})
    monkeypatch.setattr(ratio, "peer_python", lambda _: Path(sys.executable))
    monkeypatch.setattr(ratio, "MEASURED", 30_000)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "kept.json"))
    ratio.main(["--sales", "1000"])
    assert "figures within" in capsys.readouterr().out
    kept = json.loads((tmp_path / "kept.json").read_text())
    gap, verdicts = (goal["value"] for goal in kept["goals"][:2])
    assert 0 < gap < 1e-9
    assert verdicts == 0
    (row,) = kept["tables"][1]["rows"]
    assert all(0.5 < times < 2 for times in row[8:11])
    ours = {"figures": {"a": 1.0, "b": -2.0}}
    assert ratio.gaps(ours, {"figures": {"a": 1.1, "b": -2.0}}) == pytest.approx([0.1 / 1.1, 0.0])


def test_each_part_of_the_reference_is_measured_in_the_proportion_that_is_stated() -> None:
    import end_to_end
    from grid_search import design

    grid = {"n_estimators": [50, 100, 150, 200], "learning_rate": [0.1, 0.2], "depth": [3, 4, 5]}
    picked = design(grid, 12)
    for name, values in grid.items():
        counts = [sum(one[name] == value for one in picked) for value in values]
        assert counts == [12 // len(values)] * len(values)
    assert picked == design(grid, 12)
    numbers = end_to_end.reference.CLUSTERS
    assert np.mean(end_to_end.TRIED_CLUSTERS) == np.mean(numbers)  # the line through them is fair


def test_the_references_features_are_fitted_on_the_training_part_alone() -> None:
    import pandas as pd

    from reference_method import ReferenceFeatures

    random = np.random.default_rng(0)
    rows = pd.DataFrame(random.uniform(1, 9, (60, 8)), columns=list(HOUSING[:-1]))
    rows["ocean_proximity"] = ["INLAND", "NEAR BAY"] * 30
    rows["median_house_value"] = random.uniform(1e5, 5e5, 60)
    train, test = rows[:40].copy(), rows[40:].copy()
    train.loc[3, "total_bedrooms"] = np.nan
    test["total_bedrooms"] = np.nan
    fitted = ReferenceFeatures(clusters=3).fit(train)
    found = fitted.transform(test)
    assert found.shape == (20, 8 + 2 + 1)
    assert np.isfinite(found).all()
    place = HOUSING.index("total_bedrooms")
    scaler, median = fitted.scaler, train["total_bedrooms"].median()
    filled = (median - scaler.mean_[place]) / scaler.scale_[place]
    assert found[:, place] == pytest.approx(filled)
    assert fitted.transform(test.drop(columns="median_house_value")) == pytest.approx(found)


@pytest.mark.parametrize(
    "arguments",
    [
        ["suite.py"],
        ["main_job.py"],
        ["diamonds.py"],
        ["drift_power.py", "1"],
        ["synthetic_kmeans.py"],
        ["reference_method.py"],
        ["tables.py"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_benchmark_without_its_table_ends_with_one_line(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TASADOR_REAL_DATA", raising=False)
    script = ROOT / "benchmarks" / arguments[0]
    done = subprocess.run(
        [sys.executable, str(script), *arguments[1:]], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "TASADOR_REAL_DATA" in line


def test_sales_to_come_are_cut_by_date_and_the_newest_are_valued() -> None:
    import valuation_peers

    days = np.array([10.0, 30.0, 20.0, 30.0, 50.0, 40.0, 0.0, 5.0, 7.0, 9.0])
    order, tests = valuation_peers.by_date(days, np.arange(10), None)
    assert order[:tests].tolist() == [4, 5]
    order, tests = valuation_peers.by_date(days, np.arange(10), "1970-01-31")
    assert order[:tests].tolist() == [4, 5, 1, 3]
    order, tests = valuation_peers.by_date(days, np.array([1, 3, 6, 7, 8]), None)
    assert sorted(order[:tests]) == [1, 3]  # a day is not divided
    assert days[order[tests:]].max() < 30.0


def test_levels_of_prices_are_compared_apart_from_their_scale() -> None:
    import valuation_peers

    index = {"2010-01": 100.0, "2010-02": 110.0, "2010-03": 121.0, "2010-05": 130.0}
    same = {month: value / 7 for month, value in index.items()} | {"2010-04": 9.0}
    assert valuation_peers.disagreement(same, index) == (4, pytest.approx(0.0, abs=1e-9))
    flat = {"2010-01": 1.0, "2010-03": 1.0}
    gap = valuation_peers.disagreement(flat, index)[1]
    assert gap == pytest.approx(100 * np.log(1.21) / 2)


def test_a_peer_is_measured_and_stopped_in_time(tmp_path: Path) -> None:
    from peer_environments import run_measured

    took = "x = bytearray(200_000_000); print('done')"
    done = run_measured([sys.executable, "-c", took], tmp_path, 60.0)
    assert (done.out, done.problem) == ("done\n", "")
    assert 0.2 < done.peak_gb < 2.0
    assert 0.0 < done.cpu < 60.0
    failed = run_measured([sys.executable, "-c", "raise SystemExit('why')"], tmp_path, 60.0)
    assert failed.problem == "why"
    child = f"import subprocess; subprocess.run([{sys.executable!r}, '-c', {SLEEP!r}])"
    stopped = run_measured([sys.executable, "-c", child], tmp_path, 1.0)
    assert stopped.problem == "stopped after 1 s"
    assert stopped.seconds < 60.0


def test_a_report_of_a_valuation_is_timed_as_page_and_as_pdf(confident_bundle: Any) -> None:
    import appraise

    rows = [{"lon": -3.5, "lat": 40.5, "income": 3.0, "rooms": 4, "area": area, "kind": "flat"}
            for area in (60.0, 90.0)]  # fmt: skip
    page = appraise.in_process(confident_bundle, rows, "html")
    assert page(0).lstrip().startswith(b"<!doctype html>")
    assert page(0) == page(2) != page(1)
    assert appraise.in_process(confident_bundle, rows, "pdf")(0).startswith(b"%PDF")
    p50, p99 = appraise.spent(lambda _: time.sleep(0.002), 20)
    assert 2.0 <= p50 <= p99


def test_promises_of_confidence_are_counted_by_class_tenth_segment_and_hit_rate() -> None:
    import confidence

    n = 4000
    error = np.tile(np.linspace(0.005, 0.995, 100), n // 100)
    high = np.arange(n) < n // 2
    found = confidence.Valued(
        np.arange(1.0, n + 1.0), np.where(high, 0.12, 0.68), error, np.where(high, "H", "L"),
        np.where(np.arange(n) < 100, "few", "many"), {0.9: error < 0.9, 0.5: error < 0.4},
    )  # fmt: skip
    by_class = {name: figures for name, *figures in confidence.classes(found)}
    assert list(by_class) == ["all", "H", "L"]
    assert by_class["L"] == pytest.approx([n / 2, 50.0, 68.0, 10.0])
    assert by_class["H"][2] == pytest.approx(12.0)
    assert [goal.reached for goal in confidence.goals_of("t", found)] == [False, False, True]
    assert [name for name, _ in confidence.groups(found)][-2:] == ["tenth 10", "many"]
    assert all(rows.sum() == n // 10 for name, rows in confidence.groups(found)
               if name.startswith("tenth"))  # fmt: skip
    whole, *_, half = confidence.hit_rates(found)
    assert whole == pytest.approx((100.0, 0.68, 50.0, 10.0))
    assert half[:2] == pytest.approx((50.0, 0.12))


def test_intervals_of_the_command_are_held_against_the_prices(
    tmp_path: Path, confident_bundle: Any, house_rows: tuple[np.ndarray, np.ndarray]
) -> None:
    import pandas as pd

    import confidence
    from tables import Split

    shutil.copytree(confident_bundle.folder, tmp_path / "workspace" / "bundles" / "houses")
    X, price = house_rows[0][:200], house_rows[1][:200]
    names = ["lon", "lat", "income", "rooms", "area", "kind"]
    rows = pd.DataFrame(X, columns=names).astype({"kind": int})
    rows["kind"] = rows["kind"].map(dict(enumerate(("flat", "house", "villa"))))
    rows.loc[0, "area"] = -1.0  # refused, so that it has no value
    test = tmp_path / "test.csv"
    rows.to_csv(test, index=False)
    found = confidence.values(tmp_path, Split(test, test, price, 1.0), rows["kind"].tolist())
    own = confident_bundle.appraise(X[1:])
    assert found.estimate == pytest.approx(own.prediction)
    assert found.error == pytest.approx(abs(own.prediction - price[1:]) / price[1:])
    assert found.segment.tolist() == rows["kind"].tolist()[1:]
    wide, _, narrow = (found.inside[promise] for promise in (0.9, 0.8, 0.5))
    assert (wide == ((own.lower <= price[1:]) & (price[1:] <= own.upper))).all()
    assert narrow.sum() < wide.sum()
    assert (wide | ~narrow).all()


def test_the_first_hour_has_no_uv_and_ends_with_what_a_step_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import first_hour

    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "uv").touch()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}/usr/bin{os.pathsep}/bin")
    monkeypatch.setenv("VIRTUAL_ENV", "/somewhere")
    env = first_hour.bare_environment(tmp_path, cached=False)
    assert env["PATH"] == f"/usr/bin{os.pathsep}/bin"
    assert "VIRTUAL_ENV" not in env
    assert env["UV_CACHE_DIR"] == str(tmp_path / "cache")
    assert "UV_CACHE_DIR" not in first_hour.bare_environment(tmp_path, cached=True)
    user = first_hour.Newcomer(tmp_path, env)
    user.step("count", ["sh", "-c", "echo x >> counted"], times=4)
    assert (tmp_path / "counted").read_text() == "x\n" * 4
    assert [title for title, _ in user.steps] == ["count"]
    with pytest.raises(SystemExit, match="no such table"):
        user.step("fail", ["sh", "-c", "echo no such table >&2; exit 3"])
