"""A first contract for any table, with what was assumed."""

from __future__ import annotations

import datetime as dt

import numpy as np
import polars as pl
import pytest

from tasador.contract.reader import read_contract, write_contract
from tasador.core.errors import ConfigError, SourceError, ValidationError
from tasador.data.readers import read_table
from tasador.data.table import Table
from tasador.data.validation import validate_table
from tasador.ops.init_contract import infer_contract

N = 400


@pytest.fixture
def odd() -> pl.DataFrame:
    """Odd names, mixed types, gaps, coordinates, leaks."""
    rng = np.random.default_rng(3)
    area = rng.uniform(20, 200, N).round(1)
    zone = rng.integers(0, 4, N)
    price = (area * 1000 * np.exp(0.3 * zone) * rng.lognormal(0, 0.3, N)).round()
    start = dt.date(2020, 1, 1)
    return pl.DataFrame(
        {
            "": np.arange(N),
            "Überschrift (m²)": area,
            "zone / Straße": [f"Zone {'ABCD'[z]}" for z in zone],
            "GPS Lat": rng.uniform(48, 49, N).round(5),
            "lng": rng.uniform(11, 12, N).round(5),
            "rooms": [None if i % 9 == 0 else int(a // 25) + 1 for i, a in enumerate(area)],
            "listing_id": [f"L-{i * 7919 % 100003}" for i in range(N)],
            "sold on": [str(start + dt.timedelta(days=int(d))) for d in rng.integers(0, 900, N)],
            "garden": ["yes" if i % 3 else "no" for i in range(N)],
            "description": [f"a house number {i % 150} " * 9 for i in range(N)],
            "country": ["DE"] * N,
            "nothing": [None] * N,
            "price_per_sqm": (price / area).round(2),
            "tax": (price * 0.035).round(2),
            "floor temp": rng.normal(0, 5, N).round(1),
            "Preis €": price,
        }
    )


def test_every_kind_is_recognised_under_odd_names(odd, tmp_path):
    odd.write_csv(tmp_path / "Häuser 2024.csv", separator=";")
    found = infer_contract(tmp_path / "Häuser 2024.csv", "Preis €")
    contract = found.contract
    kinds = {column.name: column.kind for column in contract.columns}
    assert kinds == {
        "unnamed_1": "identifier",
        "Überschrift (m²)": "number",
        "zone / Straße": "category",
        "GPS Lat": "number",
        "lng": "number",
        "rooms": "integer",
        "listing_id": "identifier",
        "sold on": "datetime",
        "garden": "category",
        "description": "text",
        "country": "text",
        "nothing": "text",
        "price_per_sqm": "text",
        "tax": "text",
        "floor temp": "number",
    }
    assert (contract.name, contract.model_name) == ("hauser_2024", "hauser_2024_model")
    assert contract.source.delimiter == ";"
    assert [c.name for c in contract.coordinates] == ["lng", "GPS Lat"]
    assert contract.with_role("segment").name == "zone / Straße"
    assert contract.with_role("timestamp").name == "sold on"
    assert contract.column("rooms").nullable
    assert contract.column("Überschrift (m²)").bounds[0] == 0.0
    assert contract.column("floor temp").bounds[0] < 0
    assert "constant" in contract.column("country").description
    assert contract.target.transform == "log"
    assert contract.target.prediction_name == "predicted_preis"
    assert len(found.leaks) == 2
    assert "'tax' ranks the rows" in " ".join(found.leaks)
    assert "bring it back with `kind: number`" in found.leaks[0]
    assert any("'rooms' is a whole number" in text for text in found.assumptions)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_the_written_contract_reads_back_and_accepts_its_own_file(odd, tmp_path, suffix):
    path = tmp_path / f"odd.{suffix}"
    odd.write_csv(path) if suffix == "csv" else odd.write_parquet(path)
    contract = infer_contract(path, "Preis €").contract
    written = tmp_path / "odd.yaml"
    written.write_text(write_contract(contract, "assumed"), encoding="utf-8")
    read = read_contract(written)
    assert read == contract
    frame = read_table(path, source=read.source)
    valid = validate_table(Table(frame, "h", "real", "s"), read)
    assert (len(valid.y), valid.refused) == (N, ())


@pytest.mark.parametrize(
    ("file", "target"), [("housing.tgz", "median_house_value"), ("diamonds.csv", "price")]
)
def test_the_real_tables_get_contracts_like_the_ones_written_by_hand(
    real_data, shipped, file, target
):
    contract = infer_contract(real_data / file, target).contract
    byhand = shipped("california_housing" if "housing" in file else "diamonds")
    assert [(c.name, c.kind, c.nullable) for c in contract.columns] == [
        (c.name, c.kind, c.nullable) for c in byhand.columns
    ]
    assert (contract.target.cap, contract.target.transform) == (byhand.target.cap, "log")
    assert [c and c.name for c in contract.coordinates or ()] == [
        c.name for c in byhand.coordinates or ()
    ]
    frame = read_table(real_data / file)
    assert validate_table(Table(frame, "h", "real", "s"), contract).refused == ()


def written(tmp_path, **columns):
    path = tmp_path / "t.csv"
    pl.DataFrame(columns).write_csv(path)
    return path


def test_a_few_words_among_numbers_do_not_change_the_kind(tmp_path):
    values = [str(i / 2) for i in range(199)] + ["unknown"]
    found = infer_contract(written(tmp_path, a=values, y=np.arange(200) % 37), "y")
    assert found.contract.column("a").kind == "number"
    assert any("1 cell(s) such as 'unknown'" in text for text in found.assumptions)


def test_spellings_of_one_category_are_one_level(tmp_path):
    kinds = ["Flat", "Flat", "FLAT", "house", "House ", "House"] * 20
    found = infer_contract(written(tmp_path, kind=kinds, y=np.arange(120) % 50), "y")
    assert found.contract.column("kind").categories == ("Flat", "House")


def test_flags_become_a_category_however_they_are_typed(tmp_path):
    frame = pl.DataFrame({"flag": [True, False] * 60, "y": [float(i % 50) for i in range(120)]})
    frame.write_parquet(tmp_path / "t.parquet")
    contract = infer_contract(tmp_path / "t.parquet", "y", name="flags").contract
    assert (contract.name, contract.column("flag").categories) == ("flags", ("false", "true"))
    typed = validate_table(Table(frame, "h", "real", "s"), contract)
    text = validate_table(Table(frame.cast({"flag": pl.String}), "h", "real", "s"), contract)
    np.testing.assert_array_equal(typed.X, text.X)


def test_typed_dates_and_nested_columns_are_understood_or_set_aside(tmp_path):
    pl.DataFrame(
        {
            "day": [dt.date(2024, 1, 1 + i % 28) for i in range(60)],
            "tags": [["a"]] * 60,
            "half": [float(i % 7) if i % 2 else float("nan") for i in range(60)],
            "y": [i % 20 for i in range(60)],
        }
    ).write_parquet(tmp_path / "t.parquet")
    contract = infer_contract(tmp_path / "t.parquet", "y").contract
    assert [c.kind for c in contract.columns] == ["datetime", "text", "number"]
    assert contract.column("half").nullable


def test_coordinates_out_of_range_are_just_numbers(tmp_path):
    path = written(
        tmp_path, lat=np.arange(200) * 10.5, lon=np.arange(200) / 7, y=np.arange(200) % 9
    )
    assert infer_contract(path, "y").contract.coordinates is None


def test_many_short_names_without_repetition_identify_and_others_are_text(tmp_path):
    names = [f"n{i}" for i in range(200)]
    half = [f"n{i % 120}" for i in range(200)]
    path = written(tmp_path, a=names, b=half, parcelId=half[:1] + names[1:], x=np.arange(200) % 7,
                   y=np.arange(200) % 9)  # fmt: skip
    kinds = {c.name: c.kind for c in infer_contract(path, "y").contract.columns}
    assert kinds == {"a": "identifier", "b": "text", "parcelId": "identifier", "x": "integer"}


def test_texts_are_a_category_when_each_level_has_many_rows_or_when_they_are_said_to_be(tmp_path):
    zips = [f"zip {i % 700}" for i in range(70_000)]
    path = written(tmp_path, zip=zips, y=np.arange(70_000) % 9)
    assert len(infer_contract(path, "y").contract.columns[0].categories) == 700
    few = written(tmp_path, zip=zips[:2000], number=np.arange(2000) % 40, y=np.arange(2000) % 9)
    said = infer_contract(few, "y", categories=["zip", "number"]).contract.columns
    assert [(c.kind, len(c.categories)) for c in said] == [("category", 700), ("category", 40)]
    with pytest.raises(ConfigError, match="no column 'zap' to take for a category"):
        infer_contract(few, "y", categories=["zap"])


def test_long_lists_and_rare_levels_are_open_and_short_ones_closed(tmp_path):
    n = 600
    path = written(
        tmp_path,
        town=[f"Town {i % 3}" for i in range(n)],
        street=[f"Street {i % 40}" for i in range(n)],
        style=["rare" if i < 2 else f"Style {i % 4}" for i in range(n)],
        pool=["yes" if i < 2 else "no" for i in range(n)],
        y=np.arange(n) % 50,
    )
    found = infer_contract(path, "y")
    assert {c.name: c.open for c in found.contract.columns} == {
        "town": False, "street": True, "style": True, "pool": False,
    }  # fmt: skip
    said = "\n".join(found.assumptions)
    assert (
        "'town' is a category with 3 levels, upper and lower case alike; other levels are " in said
    )
    assert "open (so many): other levels are valued with a warning" in said
    assert "open (some are rare)" in said
    (tmp_path / "c.yaml").write_text(write_contract(found.contract), encoding="utf-8")
    assert read_contract(tmp_path / "c.yaml") == found.contract


def test_levels_in_two_forms_of_unicode_are_one(tmp_path):
    towns = ["Ávila", "A\N{COMBINING ACUTE ACCENT}vila", "Lugo"] * 40
    found = infer_contract(written(tmp_path, town=towns, y=np.arange(120) % 50), "y").contract
    assert found.column("town").categories == ("Lugo", "Ávila")


def test_columns_named_after_the_target_are_suspected(tmp_path):
    rng = np.random.default_rng(0)
    path = written(tmp_path, rent_index=rng.normal(size=99), list_price=rng.normal(size=99),
                   x=rng.normal(size=99), rent=rng.normal(size=99))  # fmt: skip
    leaks = infer_contract(path, "rent").leaks
    assert "'rent_index' bears the target's name" in leaks[0]
    assert "'list_price' is named like a price" in leaks[1]


def test_huge_constant_and_signed_numbers_get_usable_bounds(tmp_path):
    path = written(tmp_path, huge=np.linspace(-1, 1, 99) * 1.5e308, same=np.ones(99),
                   debt=-1.0 - np.arange(99) % 13, y=np.arange(99) % 30 - 10.5)  # fmt: skip
    contract = infer_contract(path, "y").contract
    assert all(np.isfinite(contract.column("huge").bounds))
    assert contract.column("same").kind == "text"
    assert contract.column("debt").bounds[1] == 0.0
    assert contract.target.bounds[0] < -10.5
    assert contract.target.transform == "none"


@pytest.mark.parametrize(
    ("columns", "target", "words"),
    [
        ({"price": [1, 2]}, "prise", r"there is no column 'prise'.*did you mean 'price'"),
        ({"a": ["x", "y", "z"], "b": [1, 2, 3]}, "a", "target 'a' is not a number: got 'x' and 2"),
        ({"a": [5, 5], "b": [1, 2]}, "a", "target 'a' is constant: expected at least two"),
        ({"a": [None, None], "b": [1, 2]}, "a", "has no value in any row"),
        ({"a": [1, 2, 3], "b": [4, 4, 4]}, "a", r"nothing is left.*columns set aside: b"),
    ],
)
def test_targets_that_cannot_be_are_refused(tmp_path, columns, target, words):
    with pytest.raises(ValidationError, match=words):
        infer_contract(written(tmp_path, **columns), target)


def test_files_that_cannot_be_read_are_refused(tmp_path):
    with pytest.raises(SourceError, match="there is no file"):
        infer_contract(tmp_path / "none.csv", "y")
    with pytest.raises(SourceError, match="is a folder"):
        infer_contract(tmp_path, "y")
