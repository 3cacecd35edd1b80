"""The league of strangers' tables: how it cuts them, and what it says of who is worse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("benchmark_scripts")]


def test_a_table_of_the_league_is_cut_without_its_target_and_keeps_the_bytes_of_its_rows(
    tmp_path: Path,
) -> None:
    import tables
    from tables_data import Table, read_table

    source = tmp_path / "flats.csv"
    head = b"area,note,price,seen\r\n"
    body = [f'{i}.50,"two\r\nlines, {i}","$1,{i:03d} ",{i}/12/2020\r\n'.encode() for i in range(40)]
    body[7] = b"7.50,no price,,7/12/2020\r\n"
    source.write_bytes(head + b"".join(body))
    table, seen = Table("flats.csv", "price"), []
    for seed in range(3):
        folder = tmp_path / str(seed)
        folder.mkdir()
        split = tables.cut(table, source, folder, tables.drawn(source, seed, 0), 8)
        kept = tables.records(split.train.read_bytes())
        assert kept[0] == head
        assert len(kept) == 33
        assert set(kept[1:]) <= set(body)
        test = read_table(split.test, table)
        assert list(test.columns) == ["area", "note", "seen"]
        rows = [round(area - 0.5) for area in test["area"]]
        assert split.actual.tolist() == [1000.0 + row for row in rows]
        assert not {body[row] for row in rows} & set(kept)
        seen.append(tuple(rows))
    assert len(set(seen)) == 3


def test_a_name_in_front_of_each_row_of_the_league_stays_when_the_target_goes(
    tmp_path: Path,
) -> None:
    import tables
    from tables_data import Table

    source = tmp_path / "sales.tsv"
    source.write_text("price\trooms\n" + "".join(f"{i}\t{1000 + i}\t{i % 5}\n" for i in range(40)))
    table = Table("sales.tsv", "price")
    split = tables.cut(table, source, tmp_path, tables.drawn(source, 0, 0), 8)
    head, *rows = split.test.read_text().splitlines()
    assert head == "rooms"
    assert [row.split("\t") for row in rows] == [
        [f"{price - 1000:g}", f"{(price - 1000) % 5:g}"] for price in split.actual
    ]


def test_the_league_says_who_is_worse_by_more_than_chance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tables
    from figures import VARIABLE

    random = np.random.default_rng(0)
    actual = random.uniform(50, 150, 300)
    near = actual + random.normal(0, 5, 300)
    far = actual + random.normal(0, 15, 300)

    def answer(estimates: np.ndarray | None, seconds: float, told: str = "") -> tables.Answer:
        return tables.Answer(None if estimates is None else estimates.tolist(), seconds, told)

    def league(ours: np.ndarray | None) -> tuple[int, dict[str, Any]]:
        found = {"tasador": answer(ours, 60.0, "why"), "lightgbm": answer(near, 2.0)}
        monkeypatch.setenv(VARIABLE, str(tmp_path / "kept.json"))
        worse = tables.keep({"flats": tables.standings([actual] * 2, [found] * 2)}, 2)
        return worse, json.loads((tmp_path / "kept.json").read_text())

    worse, kept = league(far)
    assert worse == 1
    values = {goal["name"]: goal["value"] for goal in kept["goals"]}
    assert values["tables with a clearly larger wMAPE than the plain LightGBM"] == 1
    assert values["share of tables with a smaller one"] == 0
    assert values["wMAPE beside the best peer's, at worst (%)"] > 100
    assert league(actual + (near - actual) / 2)[0] == 0
    worse, kept = league(None)
    assert worse == 0
    assert kept["goals"][0]["value"] == 0.0
    assert kept["tables"][0]["rows"][0][-1] == "why"


def test_the_league_says_what_the_full_profile_costs_and_brings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tables
    from figures import VARIABLE

    random = np.random.default_rng(0)
    actual = random.uniform(50, 150, 300)
    near, far = (actual + random.normal(0, spread, 300) for spread in (5, 15))

    def league(quick: np.ndarray, full: np.ndarray) -> tuple[int, dict[str, Any]]:
        found = {
            "tasador": tables.Answer(quick.tolist(), 60.0, "", cpu=20.0),
            "full": tables.Answer(full.tolist(), 300.0, "", cpu=120.0),
        }
        monkeypatch.setenv(VARIABLE, str(tmp_path / "kept.json"))
        worse = tables.keep({"flats": tables.standings([actual] * 2, [found] * 2)}, 2)
        return worse, json.loads((tmp_path / "kept.json").read_text())

    worse, kept = league(far, near)
    values = {goal["name"]: goal["value"] for goal in kept["goals"]}
    assert worse == values["tables with a clearly larger wMAPE by profile full than by quick"] == 0
    assert values["CPU seconds of profile full, times those of quick, at worst"] == 6.0
    (row,) = kept["tables"][1]["rows"]
    assert row[:4] == ["flats", 20.0, 120.0, 6.0]
    assert row[4] > row[5] > 0
    assert league(near, far)[0] == 1
