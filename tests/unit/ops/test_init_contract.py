"""A first contract for any table, with what was assumed."""

from __future__ import annotations

import datetime as dt

import numpy as np
import polars as pl
import pytest

from tasador.contract.encoding import Encoder
from tasador.contract.formats import Extract
from tasador.contract.reader import read_contract, write_contract
from tasador.core.errors import ConfigError, SourceError, ValidationError
from tasador.data.readers import read_table
from tasador.data.table import Table
from tasador.data.validation import validate_table
from tasador.ops.init_contract import infer_contract, write_new_contract

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
    assert found.contract.column("a").nullable
    assert any("'unknown' for a missing value" in text for text in found.assumptions)


def test_a_cell_that_cannot_be_read_is_missing_and_its_row_is_kept(tmp_path):
    values = [str(i / 2) for i in range(199)] + ["three and a half"]
    path = written(tmp_path, a=values, y=np.arange(200) % 37)
    found = infer_contract(path, "y")
    assert any("1 cell(s) such as 'three and a half'" in text for text in found.assumptions)
    valid = validate_table(Table(read_table(path), "h", "real", "s"), found.contract)
    assert len(valid.y) == 200
    assert np.isnan(valid.X[199, 0])


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


def test_names_that_differ_in_every_row_identify_and_those_that_repeat_are_a_category(tmp_path):
    names = [f"n{i}" for i in range(200)]
    half = [f"n{i % 120}" for i in range(200)]
    path = written(tmp_path, a=names, b=half, parcelId=half[:1] + names[1:], x=np.arange(200) % 7,
                   y=np.arange(200) % 9)  # fmt: skip
    kinds = {c.name: c.kind for c in infer_contract(path, "y").contract.columns}
    assert kinds == {"a": "identifier", "b": "category", "parcelId": "identifier", "x": "integer"}


def test_texts_are_a_category_when_each_level_has_many_rows_or_when_they_are_said_to_be(tmp_path):
    zips = [f"zip {i % 700}" for i in range(70_000)]
    path = written(tmp_path, zip=zips, y=np.arange(70_000) % 9)
    assert len(infer_contract(path, "y").contract.columns[0].categories) == 700
    few = written(tmp_path, zip=zips[:2000], number=np.arange(2000) % 40, y=np.arange(2000) % 9)
    said = infer_contract(few, "y", categories=["zip", "number"]).contract.columns
    assert [(c.kind, len(c.categories)) for c in said] == [("category", 700), ("category", 40)]
    with pytest.raises(ConfigError, match="no column 'zap' to take for a category"):
        infer_contract(few, "y", categories=["zap"])


def test_categories_take_other_levels_with_a_warning(tmp_path):
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
        "town": True, "street": True, "style": True, "pool": True,
    }  # fmt: skip
    assert "'town' is a category with 3 levels" in found.assumptions
    assert any("other levels are valued with a warning" in said for said in found.assumptions)
    (tmp_path / "c.yaml").write_text(write_contract(found.contract), encoding="utf-8")
    assert read_contract(tmp_path / "c.yaml") == found.contract


def test_parts_of_texts_that_explain_the_target_become_columns(tmp_path):
    rng = np.random.default_rng(0)
    power, litres = rng.integers(60, 400, 600), rng.uniform(1, 6, 600).round(1)
    engines = [
        f"{p}.0HP {v}L Engine {i}" for i, (p, v) in enumerate(zip(power, litres, strict=True))
    ]
    notes = [("with a pool and " if i % 3 else "") + f"a garden number {i}" for i in range(600)]
    noise = rng.lognormal(0, 0.2, 600)
    price = (power * 100 * np.where(np.arange(600) % 3, 2.0, 1.0) * noise).round()
    found = infer_contract(written(tmp_path, engine=engines, note=notes, price=price), "price")
    columns = {c.name: c for c in found.contract.columns}
    assert columns["engine"].kind == columns["note"].kind == "text"
    assert columns["engine_hp"].extract == Extract("before", "HP")
    assert columns["note_has_pool"].extract == Extract("contains", "pool")
    row = {"engine": "210.0HP 2.0L", "note": "a pool"}
    codes = Encoder(found.contract).codes(row)
    at = found.contract.position
    assert (codes[at("engine_hp")], codes[at("note_has_pool")]) == (210.0, 1.0)
    assert found.contract.field_names == ("engine", "note")


def test_a_column_set_aside_that_explains_the_target_is_named_with_its_remedy(tmp_path):
    rng = np.random.default_rng(1)
    level = rng.normal(size=3000)
    texts = [f"{'word' * 40} {int(10 * v)}" for v in level]
    found = infer_contract(written(tmp_path, long=texts, x=level % 1, y=level), "y")
    assert [c.name for c in found.aside if c.explains > 0.5] in ([], ["long"])
    assert ("--category long" in found.conclusion) == bool(found.conclusion)


def test_questions_have_defaults_and_obey_answers(tmp_path):
    n = 120
    days = [f"{1 + i % 12:02d}/{1 + i * 7 % 12:02d}/2021" for i in range(n)]
    path = written(tmp_path, sold=days, y=np.arange(n) % 50)
    found = infer_contract(path, "y")
    (question,) = found.questions
    assert (question.key, question.default) == ("sold.dates", "%d/%m/%Y")
    other = infer_contract(path, "y", answers={"sold.dates": "%m/%d/%Y"})
    assert other.contract.column("sold").format.dates == ("%m/%d/%Y",)


def test_a_column_named_as_weights_are_is_asked_about(tmp_path):
    values = {"area": np.arange(120) % 37, "y": np.arange(120) % 50}
    heavy = written(tmp_path, weight=1.0 + np.arange(120) % 7 / 2, **values)
    found = infer_contract(heavy, "y")
    (question,) = found.questions
    assert (question.key, question.default) == ("weight", "no")
    assert found.contract.feature_names == ("weight", "area")
    answered = infer_contract(heavy, "y", answers={"weight": "yes"}).contract
    assert answered.column("weight").role == "weight"
    assert answered.feature_names == ("area",)
    named = written(tmp_path, sample_weight=1.0 + np.arange(120) % 7 / 2, **values)
    assert infer_contract(named, "y").contract.column("sample_weight").role == "weight"


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


def test_another_price_and_what_makes_it_one_together_with_an_index_are_suspected(tmp_path):
    rng = np.random.default_rng(0)
    price, index = rng.lognormal(12, 0.5, 300).round(), rng.uniform(0.7, 1.0, 300)
    path = written(tmp_path, AdjSalePrice=price / index, moved=price / index**2, index=index,
                   area=price * rng.lognormal(0, 0.3, 300), SalePrice=price)  # fmt: skip
    leaks = infer_contract(path, "SalePrice").leaks
    assert [leak.split()[0] for leak in leaks] == ["'AdjSalePrice'", "'moved'"]
    assert "together with 'index' (R2 1.0000) on a logarithmic scale" in leaks[1]


def test_bands_of_the_target_are_suspected(tmp_path):
    price = np.random.default_rng(0).lognormal(12, 0.5, 400)
    bands = np.array(["low", "middling", "high", "top"])[
        np.searchsorted(np.quantile(price, [0.25, 0.5, 0.75]), price)
    ]
    (leak,) = infer_contract(written(tmp_path, band=bands, x=price % 7, p=price), "p").leaks
    assert "'band' gives the target in bands (4 levels" in leak


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
        ({"a": [1, 2, 3], "b": [4, 4, 4]}, "a", r"nothing is left.*columns set aside: 'b'"),
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


def _written(tmp_path, header, *columns):
    rows = [",".join(map(str, row)) for row in zip(*columns, strict=True)]
    path = tmp_path / "t.csv"
    path.write_text("\n".join([header, *rows]))
    return path


@pytest.fixture
def noisy():
    """An area, and a price that depends on it."""
    rng = np.random.default_rng(8)
    area = rng.integers(30, 300, 120)
    return area, (area * 2000 * rng.uniform(0.6, 1.6, 120)).astype(int)


def test_a_number_such_as_minus_999_is_taken_for_missing_and_asked(tmp_path, noisy):
    area, price = noisy
    lot = [-999 if i % 4 == 0 else a * 2 for i, a in enumerate(area)]
    path = _written(tmp_path, "area,lot,price", area, lot, price)
    found = infer_contract(path, "price")
    column = found.contract.column("lot")
    assert (column.format.missing, column.nullable) == (("-999",), True)
    assert column.bounds[0] == 0
    assert "-999 in 'lot' is taken for a missing value" in found.assumptions
    other = infer_contract(path, "price", answers={"lot.missing": "a number"})
    assert other.contract.column("lot").bounds[0] < -999


def test_numbers_in_texts_that_differ_in_every_row_become_columns(tmp_path, noisy):
    area, price = noisy
    sizes = [f"lot of {a} m; floor {i % 9} no {i}" for i, a in enumerate(area)]
    codes = [f"u{i}.x@post.org" for i in range(120)]
    contract = infer_contract(
        _written(tmp_path, "a,size,mail,price", area % 7, sizes, codes, price), "price"
    ).contract
    assert contract.column("mail").kind == "identifier"
    assert any(column.source == "size" for column in contract.features)


def test_rows_whose_target_is_a_word_have_none(tmp_path, noisy):
    area, price = noisy
    said = [f"${p}" if i % 4 else ("POA", "ring us")[i % 8 // 4] for i, p in enumerate(price)]
    found = infer_contract(_written(tmp_path, "area,price", area, said), "price")
    assert "30 row(s) have no target" in " ".join(found.assumptions)
    words = [f"${p}" if i % 3 == 0 else "ring us" for i, p in enumerate(price)]
    with pytest.raises(ValidationError, match=r"'ring us' and 79 more of 120 values"):
        infer_contract(_written(tmp_path, "area,price", area, words), "price")


def test_a_table_of_which_nothing_is_left_says_why(tmp_path, noisy):
    _, price = noisy
    with pytest.raises(ValidationError, match="it is the only column"):
        infer_contract(_written(tmp_path, "price", price), "price")
    with pytest.raises(ValidationError, match=r"set aside: 'flat' \(constant"):
        infer_contract(_written(tmp_path, "flat,price", ["x"] * 120, price), "price")
    found = infer_contract(_written(tmp_path, "area,price", price * 2, price), "price")
    assert found.contract.feature_names == ("area",)
    assert "kept, since no other column is left" in found.assumptions[-1]


def test_a_missing_target_is_explained_by_how_the_file_was_read(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes("Überschrift;;\na;b;c\n1;2;3\n4;5;6\n".encode("cp1252"))
    with pytest.raises(ValidationError, match=r"Windows-1252.*the header is in line 2"):
        infer_contract(path, "price")


def test_an_infinite_value_is_a_gap_when_combinations_are_looked_for(tmp_path):
    random = np.random.default_rng(4)
    land, house = random.uniform(1, 9, (2, 200)).round(3)
    endless = np.where(np.arange(200) == 7, np.inf, random.uniform(1, 9, 200).round(3))
    table = written(tmp_path, land=land, house=house, endless=endless, y=(land + house).round(3))
    found = infer_contract(table, "y")  # numpy's warnings are errors here
    assert any("gives the target together with" in leak for leak in found.leaks)


def test_a_column_of_how_a_sale_came_about_is_proposed_as_a_filter_in_a_comment(tmp_path):
    rng = np.random.default_rng(1)
    method = rng.choice(["S", "PI", "VB"], 200)
    frame = pl.DataFrame(
        {"Method": method, "Roof_Type": method, "area": rng.uniform(20, 90, 200),
         "price": rng.uniform(1e5, 9e5, 200)}
    )  # fmt: skip
    frame.write_csv(tmp_path / "sold.csv")
    inference = infer_contract(tmp_path / "sold.csv", "price")
    text = write_new_contract(inference, project=tmp_path).path.read_text()
    assert "# 'Method' may say which rows are no market sales (PI, S, VB); if so:" in text
    assert "#   exclude: [{column: Method, in: [...], reason: " in text
    assert "column: Roof_Type" not in text
    assert not inference.contract.exclude
