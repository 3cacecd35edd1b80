"""Which outcomes belong to which rows, however their ids are stored."""

from decimal import Decimal

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasador.monitoring.reference_builder import join_tables
from tasador.monitoring.table_reader import Fields, TableFile

FIELDS = Fields(target="price", id="house")


def joined(folder, ids, late, *, prices=None):
    """Return which row got which price (the place of its outcome), and the findings."""
    places = []
    for name, values in (("rows", ids), ("late", late)):
        columns = {"house": values}
        if name == "late":
            columns["price"] = prices or [float(i) for i in range(len(values))]
        path = folder / f"{name}.parquet"
        if isinstance(values, list) and any(isinstance(v, str) for v in values):
            path = folder / f"{name}.csv"  # as people write it, each cell as it is
            pl.DataFrame(columns, strict=False).write_csv(path)
        else:
            pq.write_table(pa.table(columns), path)
        places.append(TableFile.open(str(path)))
    found = join_tables(places[:1], places[1], FIELDS)
    actual = [None if value != value else value for value in found.actual.tolist()]
    return actual, {key: n for f in found.problems for key, n in f.numbers.items()}, found.problems


@pytest.mark.parametrize(
    ("ids", "late"),
    [
        (pa.array([7, 8, 9]), pa.array([8.0, 7.0])),
        (pa.array([7, 8, 9], pa.int32()), ["8", "7"]),
        (["7", "8", "9"], pa.array([8.0, 7.0, None])),
        (["7", "8", "9"], ["8.0", "7.0"]),
        (["7.0", "8.0", "9.0"], pa.array([8, 7], pa.uint8())),
        (pa.array([7.0, 8.0, 9.0], pa.float32()), pa.array([Decimal("8.00"), Decimal("7.00")])),
        (pa.array(["a7", "a8", "a9"]).dictionary_encode(), pa.array(["a8", " a7 "])),
        (pa.array([b"x", b"y", b"z"]), pa.array(["y", "x"])),
        (pa.array(["1.0", "1.1", "1.2"]), pa.array(["1.1", "1.0"])),
        (pa.array([2**60 + 1, 2**60 + 2, 3]), [str(2**60 + 2), str(2**60 + 1)]),
    ],
)
def test_an_id_is_the_same_however_it_is_stored(tmp_path, ids, late):
    actual, numbers, _ = joined(tmp_path, ids, late)
    assert actual == [1.0, 0.0, None]
    assert (numbers["joined"], numbers["not_joined"]) == (2, 0)


@pytest.mark.parametrize(
    ("ids", "late"),
    [
        (["007", "7", "8"], ["7", "08"]),
        (["007", "x7", "8"], ["7", "8"]),
        (["0.7", "7", "8"], ["07", "8"]),
    ],
)
def test_leading_zeros_make_another_id(tmp_path, ids, late):
    actual, _, _ = joined(tmp_path, ids, late)
    expected = [None if key not in late else float(late.index(key)) for key in ids]
    assert actual == expected


NAMELESS = [
    pa.array([1, None, 3]),
    pa.array([1.0, float("nan"), 3.0]),
    pa.array(["1", "", "3"]),
    pa.array(["1", "nan", "3"]),
    pa.array(["1", "<NA>", "3"]),
    pa.array(["1", " None ", "3"]),
]


@pytest.mark.parametrize("ids", NAMELESS)
@pytest.mark.parametrize("late", NAMELESS)
def test_what_has_no_id_joins_nothing(tmp_path, ids, late):
    actual, numbers, problems = joined(tmp_path, ids, late)
    assert actual == [0.0, None, 2.0]
    assert (numbers["joined"], numbers["no_id"], numbers["rows_no_id"]) == (2, 1, 1)
    assert problems[0].reason == "2 outcomes joined to 2 of 3 rows, 1 rows have no id"


def test_outcomes_of_which_none_belongs_to_a_row_cannot_tell(tmp_path):
    _, numbers, problems = joined(tmp_path, pa.array([1, 2]), ["a1", "a2"])
    assert (problems[0].level, numbers["joined"], numbers["not_joined"]) == ("cannot_tell", 0, 2)
    assert "none of the 2 outcomes belongs to a row" in problems[0].reason


def test_the_last_known_value_of_an_id_counts_and_a_gap_corrects_nothing(tmp_path):
    late = pa.array([1, 1, 1])
    actual, numbers, _ = joined(tmp_path, pa.array([1, 1]), late, prices=[5.0, 6.0, float("nan")])
    assert actual == [6.0, 6.0]
    assert (numbers["repeated"], numbers["contradicting"], numbers["not_finite"]) == (1, 1, 1)
    assert numbers["shared_ids"] == 1
