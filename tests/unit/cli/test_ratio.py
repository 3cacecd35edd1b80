from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from tests.fixtures.command_line import run_here
from tests.fixtures.workbooks import workbook

N = 400
WORDS = ("ratio", "roll.csv", "--sale", "price", "--estimate", "value")


def sales(spread: float = 0.08) -> pl.DataFrame:
    random = np.random.default_rng(1)
    price = random.lognormal(12.5, 0.4, N).round(-2)
    days = np.datetime64("2024-01-01") + random.integers(0, 700, N)
    ratio = random.normal(1.0, spread, N)
    return pl.DataFrame(
        {
            "price": price,
            "value": (price * ratio).round(0),
            "roll": (price**0.9 * 3.4).round(0),
            "district": random.choice(["North", "South", "Río"], N, p=[0.5, 0.46, 0.04]),
            "sold": [str(day) for day in days],
        }
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    sales().write_csv(tmp_path / "roll.csv")
    return tmp_path


def test_a_study_says_what_is_met_in_80_columns(folder: Path) -> None:
    code, out, err = run_here(folder, *WORDS, "--by", "district", "--time", "sold", "--fail")
    assert code == 0, err
    assert max(map(len, out.splitlines())) <= 80
    assert re.search(r"median ratio +0\.9 to 1\.1 .* met\b", out)
    assert "value: every figure is inside its accepted range" in out
    assert "By district" in out
    assert "1 groups of fewer than 30 sales are left out" in out
    assert "2024 Q1" in out
    assert "no sign of sales chasing" in out


def test_several_workbooks_of_one_pattern_are_one_study(folder: Path) -> None:
    for name, some in (("a", sales()[:100]), ("b", sales()[100:])):
        some.write_excel(folder / f"part_{name}.xlsx")
    for file in ("part_*.xlsx", "part_a.xlsx"):
        code, out, err = run_here(folder, "ratio", file, *WORDS[2:])
        assert code == 0, err
        assert f"{400 if '*' in file else 100} sales of" in out
    code, _, err = run_here(folder, "ratio", "none_*.xlsx", *WORDS[2:])
    assert code == 3
    assert "no file matches none_*.xlsx" in err


def test_a_roll_that_is_not_met_has_an_exit_code_of_its_own(folder: Path) -> None:
    words = ("ratio", "roll.csv", "--sale", "price", "--estimate", "roll")
    assert run_here(folder, *words)[0] == 0
    code, out, _ = run_here(folder, *words, "--fail")
    assert code == 16
    assert re.search(r"PRB .* not met", out)
    code, out, _ = run_here(
        folder, *words, "--fail", "--accept", "prb=-1:1", "--accept", "prd=0:2",
        "--accept", "cod=0:50", "--accept", "median_ratio=0:9",
    )  # fmt: skip
    assert code == 0, out


def test_a_group_that_is_off_is_named_in_words(folder: Path) -> None:
    frame = sales().with_columns(
        pl.when(pl.col("district") == "South").then(pl.col("value") * 1.14).otherwise("value")
    )
    frame.write_csv(folder / "roll.csv")
    code, out, err = run_here(folder, *WORDS, "--by", "district")
    assert code == 0, err
    assert max(map(len, out.splitlines())) <= 80
    assert re.search(r"value: district South is valued \d% too high .median\s+ratio 1\.1\d", out)
    code, out, _ = run_here(folder, *WORDS, "--by", "district", "--json")
    groups = json.loads(out)["studies"]["value"]["groups"]
    (south,) = (group for group in groups if group["name"] == "South")
    assert south["figures"]["mape"] > south["figures"]["median_ape"] > 5
    assert south["gap"] > 0.03


def test_two_rolls_are_studied_on_the_same_sales(folder: Path) -> None:
    frame = sales().with_columns(
        pl.when(pl.int_range(N) < 7).then(None).otherwise(pl.col("roll")).alias("roll")
    )
    frame.write_csv(folder / "roll.csv")
    code, out, err = run_here(folder, *WORDS, "--against", "roll", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert {study["rows"] for study in found["studies"].values()} == {N - 7}
    assert found["left_out"] == [{"column": "roll", "reason": "without", "rows": 7}]
    assert found["studies"]["value"]["met"] is True
    assert found["studies"]["roll"]["met"] is False


def test_texts_of_money_workbooks_and_parquet_give_the_same_study(folder: Path) -> None:
    frame = sales()
    frame.write_parquet(folder / "roll.parquet")
    rows = [frame.columns, *map(list, frame.rows())]
    (folder / "roll.xlsx").write_bytes(workbook({"roll": rows}))
    money = [f"$ {price:,.0f}" for price in frame["price"]]
    frame.with_columns(price=pl.Series(money)).write_csv(folder / "money.csv", separator=";")
    outs = []
    for name in ("roll.csv", "roll.parquet", "roll.xlsx", "money.csv"):
        code, out, err = run_here(
            folder, "ratio", name, "--sale", "price", "--estimate", "value",
            "--time", "sold", "--json",
        )  # fmt: skip
        assert code == 0, err
        outs.append(json.loads(out)["studies"])
    assert outs[0] == outs[1] == outs[2] == outs[3]


@pytest.mark.parametrize(("language", "words"), [("en", "not met"), ("es", "no cumple")])
@pytest.mark.no_cover
def test_the_page_is_complete_and_in_its_language(folder: Path, language: str, words: str) -> None:
    code, out, err = run_here(
        folder, *WORDS, "--against", "roll", "--by", "district", "--html", "a.html",
        "--lang", language,
    )  # fmt: skip
    assert code == 0, err
    assert "wrote a.html" in out
    page = (folder / "a.html").read_text(encoding="utf-8")
    assert f'<html lang="{language}">' in page
    assert f'<td class="left unmet">{words}</td>' in page
    assert not re.search(r"https?://(?!www\.w3\.org)", page)
    assert "<script" not in page
    assert ("Razón: estimación entre precio" in page) == (language == "es")


def test_names_from_the_file_are_escaped(folder: Path) -> None:
    frame = sales().rename({"value": "<b>value</b>"})
    frame.write_csv(folder / "roll.csv")
    code, _, err = run_here(
        folder, "ratio", "roll.csv", "--sale", "price", "--estimate", "<b>value</b>",
        "--html", "a.html",
    )  # fmt: skip
    assert code == 0, err
    assert "<b>value" not in (folder / "a.html").read_text(encoding="utf-8")


def test_bad_input_says_what_was_expected_and_what_to_do(folder: Path) -> None:
    def error(*words: str) -> tuple[int, str]:
        code, _, err = run_here(folder, "ratio", *words)
        return code, " ".join(err.split())

    code, text = error("roll.csv", "--sale", "prize", "--estimate", "value")
    assert code == 3
    assert "there is no column 'prize': expected one of price, value" in text
    assert "did you mean 'price'?" in text
    code, text = error("roll.csv", "--sale", "district", "--estimate", "value")
    assert code == 3
    assert "'district' is not a column of numbers" in text
    code, text = error(*WORDS[1:], "--time", "district")
    assert code == 3
    assert "'district' is not a column of dates" in text
    code, text = error(*WORDS[1:], "--accept", "cot=5:15")
    assert code == 2
    assert "did you mean 'cod'?" in text
    for text in ("cod=15:5", "cod=5", "cod=a:b", "cod=nan:5"):
        code, said = error(*WORDS[1:], "--accept", text)
        assert code == 2
        assert "expected FIGURE=LOW:HIGH, e.g. cod=5:15" in said


def test_prices_of_0_are_left_out_and_nothing_but_them_is_an_error(folder: Path) -> None:
    frame = sales()
    some = frame.with_columns(
        price=pl.when(pl.int_range(N) < 9).then(0.0).otherwise(pl.col("price"))
    )
    some.write_csv(folder / "roll.csv")
    code, out, err = run_here(folder, *WORDS)
    assert code == 0, err
    assert "Left out: 9 with price of 0 or less" in out
    for price, reason in ((0.0, "400 with 'price' of 0 or less"), (None, "no value at all")):
        frame.with_columns(price=pl.lit(price, pl.Float64)).write_csv(folder / "roll.csv")
        code, _, err = run_here(folder, *WORDS)
        text = " ".join(err.split())
        assert code == 3
        assert reason in text
    frame.head(4).write_csv(folder / "roll.csv")
    code, _, err = run_here(folder, *WORDS)
    assert code == 3
    assert "expected at least 5 with a price and an estimate above 0, got 4 of 4 rows" in " ".join(
        err.split()
    )
