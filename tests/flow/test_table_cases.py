"""Small tables that people really have: `tasador init` reads each as its note says."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasador.cli.app import app

CASES = Path(os.environ.get("TASADOR_CASES", "")) / "tables"
pytestmark = pytest.mark.skipif(
    not os.environ.get("TASADOR_CASES") or not CASES.is_dir(), reason="the cases are not here"
)


@pytest.fixture
def tasador(tmp_path, capsys, monkeypatch):
    """Run a command in an empty folder; its exit code and what it printed."""
    monkeypatch.chdir(tmp_path)
    # made when the module is imported, at the width that the terminal had then
    monkeypatch.setattr("tasador.cli.output.out._width", 300)

    def call(*words: str) -> tuple[int, str]:
        capsys.readouterr()
        code = app([*words], standalone_mode=False) or 0
        return code, capsys.readouterr().out

    return call


@pytest.fixture
def init(tasador, tmp_path):
    def run(case: str, target: str = "price") -> tuple[dict[str, Any], str]:
        code, said = tasador("init", str(CASES / f"{case}.csv"), "--target", target, "--yes")
        assert code == 0, said
        written = tmp_path / "conf" / "dataset" / f"{case}.yaml"
        return yaml.safe_load(written.read_text(encoding="utf-8")), said

    return run


@pytest.mark.parametrize(
    ("case", "column", "expected"),
    [
        ("date_dmy", "sold", {"kind": "datetime", "role": "timestamp"}),
        ("date_month", "month", {"kind": "datetime", "role": "timestamp"}),
        ("iso_date", "sold", {"kind": "datetime", "role": "timestamp"}),
        ("latt_long", "Lattitude", {"kind": "number", "role": "latitude"}),
        ("latt_long", "Longtitude", {"kind": "number", "role": "longitude"}),
        ("lease_years", "remaining_lease", {"kind": "number", "unit": "years"}),
        ("percent_feature", "rate", {"kind": "integer", "unit": "%"}),
        ("pid_number", "PID", {"kind": "identifier"}),
        ("question_missing", "power", {"kind": "integer", "nullable": True}),
        ("range_feature5", "total_sqft", {"kind": "number"}),
        ("sum_leak", "total", {"kind": "text"}),
        ("text_leak", "price_band", {"kind": "text"}),
        ("thousands_feature", "mileage", {"kind": "integer", "unit": "mi."}),
        ("towns60", "town", {"kind": "category"}),
        ("yes_no_missing", "pool", {"kind": "category", "nullable": True}),
        ("zip_zero", "zip", {"kind": "category"}),
    ],
)
def test_a_column_is_read_as_what_it_is(init, case, column, expected):
    contract, _ = init(case, "rent" if case == "sum_leak" else "price")
    found = contract["columns"][column]
    assert {key: found.get(key) for key in expected} == expected


def test_leading_zeros_stay_and_towns_are_all_kept(init):
    assert "01101" in init("zip_zero")[0]["columns"]["zip"]["categories"]
    assert len(init("towns60")[0]["columns"]["town"]["categories"]) == 60


def test_the_target_may_be_money_and_rows_without_one_are_counted(init):
    assert init("money_dollar")[0]["target"]["format"] == {"thousands": ",", "affixes": ["$"]}
    _, said = init("target_missing")
    assert "20 row(s) have no target: left out of training" in said


def test_sales_of_nothing_are_said_and_left_out(init):
    contract, said = init("zero_prices")
    assert "34 row(s) have a target of 0" in said
    assert contract["target"]["format"]["missing"] == ["0"]
    assert contract["target"]["transform"] == "log"


def test_what_gives_the_target_away_is_named_with_its_evidence(init):
    _, said = init("sum_leak", "rent")
    assert "'total' gives the target together with 'hoa', 'tax'" in " ".join(said.split())


def test_the_end_says_what_was_set_aside_and_the_next_command(init):
    _, said = init("date_dmy")
    assert "no column set aside explains 5% of the target" in said
    assert said.rstrip().endswith("next: tasador run dataset=date_dmy")
    assert "2022-01-08" in said  # of the preview, day first


def test_monitoring_a_later_window_of_a_dated_table_is_no_alert(init, tasador):
    init("iso_date")
    early, late = (str(CASES / f"iso_date_{part}.csv") for part in ("early", "late"))
    code, said = tasador(
        "monitor", "--reference", early, "--current", late,
        "--contract", "conf/dataset/iso_date.yaml",
    )  # fmt: skip
    assert code == 0, said


def test_monitoring_reads_what_is_written_in_its_own_way(init, tasador):
    """With a contract, and by looking at the files."""
    init("date_dmy")
    file = str(CASES / "date_dmy.csv")
    code, said = tasador(
        "monitor", "--reference", file, "--current", file,
        "--contract", "conf/dataset/date_dmy.yaml",
    )  # fmt: skip
    assert (code, "01 Jan 2022 to" in said) == (0, True), said
    for case, named in (("money_dollar", ["--target", "price"]), ("thousands_feature", [])):
        file = str(CASES / f"{case}.csv")
        code, said = tasador("monitor", "--reference", file, "--current", file, *named)
        assert code == 0, said
        assert "taken as missing" not in said
    assert "mileage" in said
    assert "not watched" not in said


@pytest.mark.skipif(not os.environ.get("TASADOR_REAL_DATA"), reason="the tables are not here")
def test_monitoring_finds_parts_of_texts(tasador):
    file = str(Path(os.environ["TASADOR_REAL_DATA"]) / "tables" / "used_cars.csv")
    tasador("init", file, "--target", "price", "--yes")
    code, said = tasador(
        "monitor", "--reference", file, "--current", file,
        "--contract", "conf/dataset/used_cars.yaml",
    )  # fmt: skip
    assert code == 0, said
    assert "engine_hp" in said
