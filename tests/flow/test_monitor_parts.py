"""A window in several files is judged like the same rows in one, here and on a cluster."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tasador.cli.app import main
from tasador.core.errors import SourceError
from tasador.core.parallel import LocalEngine
from tasador.core.ray_engine import RayEngine
from tasador.monitoring.settings import Thresholds
from tasador.monitoring.table_reader import Fields
from tasador.monitoring.verdict import Verdict
from tasador.ops.monitor_files import Comparison, monitor_files

FIELDS = Fields(target="price", prediction="estimate", time="sold", version="model", id="number")
REAL = Path(os.environ.get("TASADOR_REAL_DATA", "/nowhere")) / "housing.csv"


def frame(n: int, seed: int) -> pl.DataFrame:
    random = np.random.default_rng(seed)
    area = random.lognormal(4.5, 0.5, n)
    price = 900 * area
    return pl.DataFrame(
        {
            "number": np.arange(n),
            "area": np.where(random.random(n) < 0.02, np.nan, area),
            "rooms": np.round(area / 30),
            "town": random.choice(["Lugo", "Vigo", "Ourense"], n),
            "sold": pl.from_epoch(pl.Series(1_700_000_000 + np.arange(n) * 60)),
            "model": np.where(np.arange(n) < 7 * n // 10, "v1", "v2"),
            "price": np.where(random.random(n) < 0.3, price, np.nan),
            "estimate": price * np.exp(random.normal(0, 0.15, n)),
        }
    )


def in_parts(table: pl.DataFrame, folder: Path, parts: int, suffix: str = "parquet") -> str:
    """Write a table in parts of unlike sizes; return the pattern that names them."""
    folder.mkdir(parents=True, exist_ok=True)
    cuts = [round(len(table) * (i / parts) ** 1.5) for i in range(parts + 1)]
    for i in range(parts):
        some = table[cuts[i] : cuts[i + 1]]
        place = folder / f"part-{i}.{suffix}"
        some.write_parquet(place) if suffix == "parquet" else some.write_csv(place)
    return str(folder / f"*.{suffix}")


def plain(verdict: Verdict) -> object:
    """Return a verdict without the time of day, its numbers to nine digits.

    Where the same rows are cut otherwise, sums of values differ in their last bits.
    """

    def rounded(value: object) -> object:
        if isinstance(value, float):
            return round(float(f"{value:.9g}"), 9)
        if isinstance(value, dict):
            return {key: rounded(one) for key, one in value.items()}
        return [rounded(one) for one in value] if isinstance(value, (list, tuple)) else value

    return rounded(dataclasses.asdict(dataclasses.replace(verdict, made="")))


def undated(verdict: Verdict) -> Verdict:
    return dataclasses.replace(verdict, made="")


def judged(before: Path, now: object, engine: object = None, **more: object) -> Verdict:
    fields = more.pop("fields", FIELDS)
    comparison = Comparison(str(before), now, fields, **more)  # type: ignore[arg-type]
    return monitor_files(comparison, Thresholds(), engine)[0]  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    frame(3000, 1).write_parquet(folder / "before.parquet")
    now = frame(2500, 2).with_columns(pl.col("area") * 1.3)
    now.write_parquet(folder / "now.parquet")
    now.write_csv(folder / "now.csv")
    in_parts(now, folder / "parts", 5)
    in_parts(now, folder / "csv", 3, "csv")
    return folder


def test_parts_are_evaluated_like_the_whole(folder: Path) -> None:
    whole = judged(folder / "before.parquet", str(folder / "now.parquet"))
    parts = judged(folder / "before.parquet", str(folder / "parts" / "*.parquet"))
    assert whole.level == "alert"
    assert [group.name for group in whole.versions] == ["v1", "v2"]
    assert len(whole.timeline) > 5
    assert plain(parts) == plain(whole)
    named = tuple(str(folder / "parts" / f"part-{i}.parquet") for i in range(5))
    assert plain(judged(folder / "before.parquet", named)) == plain(whole)


def test_what_is_wrong_with_values_is_reported_once_for_all_files(
    folder: Path, tmp_path: Path
) -> None:
    def spoilt(i: int) -> pl.DataFrame:
        return pl.read_csv(folder / "csv" / f"part-{i}.csv").with_columns(
            pl.when(pl.col("number") % 50 == 0)
            .then(pl.lit(f"odd {i}"))
            .otherwise(pl.col("area").cast(pl.String))
            .alias("area")
        )

    for i in (2, 0, 1):
        spoilt(i).drop("rooms").write_csv(tmp_path / f"{i}.csv")
    pl.concat([spoilt(i).drop("rooms") for i in range(3)]).write_csv(tmp_path / "whole")
    parts, whole = (
        judged(folder / "before.parquet", str(tmp_path / name)).of_check("input")
        for name in ("*.csv", "whole")
    )
    reasons = [{finding.subject: finding.reason for finding in some} for some in (parts, whole)]
    assert reasons[0]["area"] == reasons[1]["area"]
    assert "50 values (2.00%) are no number, such as 'odd 0'" in reasons[0]["area"]
    assert f"missing in {tmp_path}/0.csv and 2 other files" in reasons[0]["rooms"]


def test_outcomes_that_came_later_find_their_rows_in_every_file(
    folder: Path, tmp_path: Path
) -> None:
    late = frame(2500, 2).select("number", pl.col("price").fill_nan(50_000.0))
    late.write_parquet(tmp_path / "late.parquet")
    without = pl.read_parquet(folder / "now.parquet").drop("price")
    without.write_parquet(tmp_path / "now.parquet")
    pattern = in_parts(without, tmp_path / "parts", 4)
    outcomes = str(tmp_path / "late.parquet")
    whole = judged(folder / "before.parquet", str(tmp_path / "now.parquet"), outcomes=outcomes)
    assert sum(group.outcomes for group in whole.versions) == 2500
    figures = {figure.name: figure.value for figure in whole.figures if not figure.estimated}
    sold = late.join(without, on="number")
    error = (sold["estimate"] - sold["price"]).abs() / sold["price"]
    assert figures["mape"] == pytest.approx(100 * error.mean())
    assert plain(judged(folder / "before.parquet", pattern, outcomes=outcomes)) == plain(whole)


def test_a_pattern_that_names_no_file_is_said(folder: Path) -> None:
    with pytest.raises(SourceError, match=r"no file is called .*nothing-\*"):
        judged(folder / "before.parquet", str(folder / "nothing-*"))


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_a_cluster_whose_workers_are_killed_gives_the_same_verdict(
    suffix: str, folder: Path, ray_cluster
) -> None:
    pattern = str(folder / {"parquet": "parts", "csv": "csv"}[suffix] / f"*.{suffix}")
    local = judged(folder / "before.parquet", pattern, LocalEngine())
    with ray_cluster.killing("ray::_run", times=1, after_s=0.0) as killed:
        away = judged(folder / "before.parquet", pattern, RayEngine(5))
    assert undated(away) == undated(local)  # to the last bit
    assert len(killed) == 1


@pytest.mark.slow
@pytest.mark.skipif(not REAL.exists(), reason="the real table is not here")
def test_the_real_table_in_seven_parts_is_evaluated_like_the_whole(
    tmp_path: Path, ray_cluster
) -> None:
    fields = Fields(target="median_house_value")
    table = pl.read_csv(REAL)
    table.write_parquet(tmp_path / "whole.parquet")
    shifted = table.with_columns(pl.col("median_income") * 1.2)
    shifted.write_parquet(tmp_path / "shifted.parquet")
    pattern = in_parts(shifted, tmp_path / "parts", 7)
    local = judged(tmp_path / "whole.parquet", str(tmp_path / "shifted.parquet"), fields=fields)
    with ray_cluster.killing("ray::_run", times=1, after_s=0.0) as killed:
        away = judged(tmp_path / "whole.parquet", pattern, RayEngine(5), fields=fields)
    assert (local.level, local.rows) == ("alert", 20_640)  # more than a sample keeps
    assert plain(away) == plain(local)
    assert undated(away) == undated(judged(tmp_path / "whole.parquet", pattern, fields=fields))
    assert len(killed) == 1


@pytest.mark.slow
def test_the_command_works_on_a_cluster(
    folder: Path, tmp_path: Path, ray_cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    pattern = str(folder / "parts" / "*.parquet")
    found = []
    for engine in ("local", "ray"):
        words = ["monitor", "--reference", str(folder / "before.parquet"), "--current", pattern]
        words += ["--target", "price", "--json", str(tmp_path / "verdict.json"), "-q"]
        monkeypatch.setattr(sys, "argv", ["tasador", *words, "--engine", engine])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 10
        found.append(json.loads((tmp_path / "verdict.json").read_text()))
        del found[-1]["made"]
    assert found[0] == found[1]
