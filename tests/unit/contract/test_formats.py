"""Values as people write them are read back as the values that were meant."""

from __future__ import annotations

import datetime as dt
import math
from collections import Counter

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasador.contract.arrow_encoding import encode_arrow
from tasador.contract.cells import cell_encoder
from tasador.contract.encoding import encode_values
from tasador.contract.format_inference import date_reading, duration_reading, number_reading
from tasador.contract.formats import Extract, Format, extractor
from tasador.contract.model import Column
from tasador.core.errors import ValidationError


def read(texts: list[str]) -> list[float]:
    """Infer how numbers are written and read them."""
    reading = number_reading(Counter(texts))
    assert reading is not None, texts
    encode = cell_encoder(Column("c", "number", format=reading.form))
    return [encode(text) for text in texts]


@pytest.mark.parametrize(
    ("texts", "values"),
    [
        (["$153,048.00", "$2,000.00", "$15.00"], [153_048, 2000, 15]),
        (["1.250,50 €", "980,00 €", "12,5 €"], [1250.5, 980, 12.5]),
        (["R$8,000", "R$500", "-"], [8000, 500, math.nan]),
        (["51,000 mi.", "1,200 mi.", "980 mi."], [51_000, 1200, 980]),
        (["12 345", "900", "1 002 003"], [12_345, 900, 1_002_003]),
        (["12\u202f345", "900", "1\u00a0002"], [12_345, 900, 1002]),
        (["1'234'567.5", "900"], [1_234_567.5, 900]),
        (["37%", "5 %", "12.5%"], [37, 5, 12.5]),
        (["74 m2", "80.5 m2", "102 m2"], [74, 80.5, 102]),
        (["740 - 1040", "800", "1133-1384"], [890, 800, 1258.5]),
        (["100 to 200", "150", "170"], [150, 150, 170]),
        (["Desde $ 859.500.000", "$ 90.000.000"], [859_500_000, 90_000_000]),
        (["£350k", "£1.2m", "£90k"], [350_000, 1_200_000, 90_000]),
        (["45 Lac", "1.2 Cr", "80 Lac"], [4_500_000, 12_000_000, 8_000_000]),
        (["Rs. 1,23,456", "Rs. 2,000"], [123_456, 2000]),
        (["(1,200)", "300", "2,500"], [-1200, 300, 2500]),
        (["-$5.20", "$3.10"], [-5.2, 3.1]),
        (["\u22125.2", "3.1"], [-5.2, 3.1]),
        (["16,5", "7,25", "n.a."], [16.5, 7.25, math.nan]),
        (["1.5e3", "20", "?"], [1500, 20, math.nan]),
        (["USD 5", "7.5 USD"], [5, 7.5]),
        (["(98)", "62", "(160)"], [-98, 62, -160]),
        (['="0012.5"', "3"], [12.5, 3]),
        (["'7", "3"], [7, 3]),
        (["$300", "Contact agent", "POA", "$250", "$20"], [300, math.nan, math.nan, 250, 20]),
    ],
)
def test_numbers_are_read_as_they_are_written(texts, values):
    np.testing.assert_allclose(read(texts * 5), values * 5)


def test_another_unit_is_another_number_and_counts_as_missing():
    texts = ["1200 sqft"] * 40 + ["34.46Sq. Meter"]
    values = read(texts)
    assert values[0] == 1200
    assert math.isnan(values[-1])


@pytest.mark.parametrize(
    "texts",
    [
        ["300.0HP 3.7L V6", "200.0HP 2.0L", "100.0HP 1.0L"],
        ["Town 1", "Town 2", "Town 3"],
        ["12 Main St", "14 Oak Rd", "7 Elm Ave", "3 Low Rd"],
        ["red", "blue", "12"],
    ],
)
def test_texts_with_numbers_in_them_are_no_numbers(texts):
    assert number_reading(Counter(texts * 30)) is None


def test_one_mark_that_may_be_a_point_or_stand_between_thousands_has_two_readings():
    texts = [f"{i}.{i * 37 % 900 + 100}" for i in range(1, 40)]
    reading = number_reading(Counter(texts))
    assert (reading.form.decimal, reading.other.thousands) == (".", ".")
    settled = number_reading(Counter([*texts, "1.234.567"]))
    assert (settled.form.thousands, settled.other) == (".", None)
    assert number_reading(Counter(texts), decimal=",").form.thousands == "."


_AMOUNTS = st.lists(
    st.decimals(min_value=0, max_value=10**9, places=2, allow_nan=False), min_size=12, max_size=30
)


@given(
    amounts=_AMOUNTS,
    marks=st.sampled_from([(",", "."), (".", ","), (" ", ","), ("'", "."), ("", "."), ("", ",")]),
    before=st.sampled_from(["", "$", "$ ", "US$", "€", "R$ "]),
    after=st.sampled_from(["", " mi.", "%", " €", " m2", " kg"]),
)
def test_amounts_written_in_any_of_these_ways_are_read_back(amounts, marks, before, after):
    thousands, decimal = marks
    texts = [
        before
        + f"{amount:,.2f}".replace(",", "T").replace(".", decimal).replace("T", thousands)
        + after
        for amount in amounts
    ]
    np.testing.assert_allclose(read(texts), [float(amount) for amount in amounts], rtol=1e-12)


@pytest.mark.parametrize(
    ("texts", "name", "days"),
    [
        (["3/12/2016", "25/01/2017"], "sold", ["2016-12-03", "2017-01-25"]),
        (["12/25/2016", "01/02/2017"], "sold", ["2016-12-25", "2017-01-02"]),
        (["31.12.2020", "1.2.2021"], "sold", ["2020-12-31", "2021-02-01"]),
        (["25-01-17", "3-12-16"], "sold", ["2017-01-25", "2016-12-03"]),
        (["2022-01", "2022-02"], "month", ["2022-01-01", "2022-02-01"]),
        (["01/2022", "02/2022"], "month", ["2022-01-01", "2022-02-01"]),
        (["20140502", "20141231"], "anything", ["2014-05-02", "2014-12-31"]),
        (["201405", "201412"], "month", ["2014-05-01", "2014-12-01"]),
        (["5 de enero de 2020", "12 de marzo de 2021"], "fecha", ["2020-01-05", "2021-03-12"]),
        (["5. Januar 2020", "12. März 2021"], "Datum", ["2020-01-05", "2021-03-12"]),
        (["January 5, 2020", "Mar 12, 2021"], "sold", ["2020-01-05", "2021-03-12"]),
        (["Jan 2020", "Mar 2021"], "sold", ["2020-01-01", "2021-03-01"]),
        (["15-Mar-19", "02-Dec-20"], "sold", ["2019-03-15", "2020-12-02"]),
        (["Mon, 5 Jan 2020", "Tue, 6 Jan 2020"], "sold", ["2020-01-05", "2020-01-06"]),
        (["2020Q1", "2021 Q3"], "quarter", ["2020-01-01", "2021-07-01"]),
        (["1609459200", "1612137600"], "timestamp", ["2021-01-01", "2021-02-01"]),
        (["2020-01-31", "n/a"], "sold", ["2020-01-31", None]),
    ],
)
def test_dates_are_read_as_they_are_written(texts, name, days):
    reading = date_reading(Counter(texts), name)
    encode = cell_encoder(Column("c", "datetime", format=reading.form))
    for text, day in zip(texts, days, strict=True):
        seconds = encode(text)
        if day is None:
            assert math.isnan(seconds)
        else:
            assert dt.datetime.fromtimestamp(seconds, dt.UTC).date().isoformat() == day


def test_a_year_with_a_fraction_is_a_date_and_times_have_zones():
    reading = date_reading(Counter(["2012.917", "2013.25"]), "transaction date")
    encode = cell_encoder(Column("c", "datetime", format=reading.form))
    assert dt.datetime.fromtimestamp(encode(2013.25), dt.UTC).date() == dt.date(2013, 4, 2)
    zoned = date_reading(Counter(["25/01/2017 10:00 +02:00", "1/2/2017 11:30 +02:00"]), "sold")
    encode = cell_encoder(Column("c", "datetime", format=zoned.form))
    assert dt.datetime.fromtimestamp(encode("25/01/2017 10:00 +02:00"), dt.UTC).hour == 8


@given(
    days=st.lists(st.dates(dt.date(1950, 1, 1), dt.date(2049, 12, 31)), min_size=15, max_size=40),
    way=st.sampled_from(["%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y", "%Y/%m/%d", "%d-%b-%Y", "%B %d, %Y"]),
    time=st.sampled_from(["", " %H:%M", " %I:%M:%S %p"]),
)
def test_days_written_in_any_order_are_read_back_or_asked(days, way, time):
    texts = [dt.datetime.combine(day, dt.time(13, 45)).strftime(way + time) for day in days]
    reading = date_reading(Counter(texts), "sold")
    forms = [reading.form] + ([reading.other] if reading.other else [])
    expected = [
        dt.datetime.combine(day, dt.time(13, 45) if time else dt.time(0), dt.UTC).timestamp()
        for day in days
    ]
    found = [[cell_encoder(Column("c", "datetime", format=f))(t) for t in texts] for f in forms]
    assert expected in found


def test_dates_that_may_be_read_in_two_ways_are_asked_about():
    reading = date_reading(Counter(["03/04/2021", "05/06/2021", "02/03/2021"]), "sold")
    assert reading.form.dates == ("%d/%m/%Y",)
    assert reading.other.dates == ("%m/%d/%Y",)


def test_durations_become_numbers_of_their_largest_unit():
    reading = duration_reading(Counter(["61 years 04 months", "58 years", "60 years 6 months"]))
    encode = cell_encoder(Column("c", "number", format=reading.form))
    assert encode("61 years 06 months") == pytest.approx(61.5)
    assert encode(dt.timedelta(days=365.25)) == pytest.approx(1)


@pytest.mark.parametrize(
    ("extract", "text", "part"),
    [
        (Extract("before", "HP"), "300.0HP 3.7L V6 Cylinder", "300.0"),
        (Extract("before", "L"), "300.0HP 3.7L V6 Cylinder", "3.7"),
        (Extract("after", "V"), "300.0HP 3.7L V6 Cylinder", "6"),
        (Extract("number", 2), "300.0HP 3.7L V6 Cylinder", "3.7"),
        (Extract("word", 1), "300.0HP 3.7L V6 Cylinder", "v6"),
        (Extract("contains", "cylinder"), "300.0HP 3.7L V6 Cylinder", "1"),
        (Extract("contains", "cyl"), "300.0HP 3.7L V6 Cylinder", "0"),
        (Extract("words", 1), "two words", "2"),
        (Extract("before", "HP"), "electric", ""),
    ],
)
def test_parts_of_texts(extract, text, part):
    assert extractor(extract, Format())(text) == part


_COLUMNS = [
    Column("c", "number", format=Format(thousands=",", affixes=("$",), missing=("-",))),
    Column("c", "number", format=Format(decimal=",", thousands=".", unreadable="missing")),
    Column("c", "datetime", format=Format(dates=("%d/%m/%Y",))),
    Column("c", "number", source="t", extract=Extract("before", "hp"), nullable=True),
    Column("c", "number", source="t", extract=Extract("contains", "pool"), nullable=True),
]


@given(
    texts=st.lists(
        st.one_of(
            st.none(),
            st.text(max_size=12),
            st.sampled_from(["$1,234", "1.234,5", "3/4/2021", "300hp", "a pool", "-", " 7 "]),
        ),
        max_size=30,
    ),
    column=st.sampled_from(_COLUMNS),
)
def test_a_cell_a_series_and_an_arrow_column_give_the_same(texts, column):
    one_by_one = []
    for text in texts:
        try:
            one_by_one.append((cell_encoder(column)(text), False))
        except ValidationError:
            one_by_one.append((math.nan, True))
    codes = np.array([code for code, _ in one_by_one])
    wrong = np.array([flag for _, flag in one_by_one], dtype=bool)
    for found in (
        encode_values(column, texts),
        encode_values(column, pl.Series("c", texts, dtype=pl.String)),
        encode_arrow(column, pa.array(texts, pa.string())),
    ):
        np.testing.assert_array_equal(found[0], codes)
        np.testing.assert_array_equal(found[1], wrong)


def test_brackets_alone_need_nothing_in_the_contract():
    reading = number_reading(Counter({"(98)": 5, "62": 9}))
    assert (reading.form, reading.said) == (Format(), "")


@pytest.mark.parametrize(
    "texts", [["AB-0001", "AB-0002"], ["Q01", "Q02"], ["no-1", "no-2"], ["ca-7", "ca-12"]]
)
def test_codes_with_letters_are_no_numbers(texts):
    assert number_reading(Counter(texts)) is None


@pytest.mark.parametrize(
    ("texts", "several"),
    [(["$5", "€7"], True), (["CHF 5", "7 EUR"], True), (["USD 5", "$7"], False)],
)
def test_amounts_in_several_currencies_are_said_to_be(texts, several):
    said = number_reading(Counter(texts)).said
    assert ("several currencies, of which none is converted" in said) == several


def test_words_may_stand_in_for_more_of_a_target_than_of_other_columns():
    counts = Counter({"$300": 10, "$250": 5, "ring us": 6})
    assert number_reading(counts) is None
    reading = number_reading(counts, words=0.5)
    assert (reading.unread, reading.example) == (6, "ring us")
    assert number_reading(Counter({"300": 10, "1 or 2 flats": 9}), words=0.5) is None


def test_days_as_spreadsheets_count_them_are_dates_in_a_column_named_as_one():
    counts = Counter(["44197", "44562.5"])
    assert date_reading(counts, "area") is None
    reading = date_reading(counts, "sale_date")
    assert reading.form == Format(dates=("excel_days",))
    encode = cell_encoder(Column("c", "datetime", format=reading.form))
    expected = [dt.datetime(2021, 1, 1, tzinfo=dt.UTC), dt.datetime(2022, 1, 1, 12, tzinfo=dt.UTC)]
    assert [encode(text) for text in counts] == [moment.timestamp() for moment in expected]
    assert encode_values(Column("c", "datetime", format=reading.form), pl.Series([44197]))[0] == (
        expected[0].timestamp()
    )


def test_a_level_is_the_same_with_marks_that_keep_it_a_text():
    encode = cell_encoder(Column("c", "category", categories=("01000", "02000")))
    assert [encode(text) for text in ("02000", '="02000"', "'02000")] == [1, 1, 1]
