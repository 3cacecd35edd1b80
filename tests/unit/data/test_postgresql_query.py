"""A query on a real PostgreSQL server gives what the CSV of the same rows gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import psycopg
import pytest

from tasador.contract.encoding import encode_values
from tasador.contract.model import Source, SqlQuery
from tasador.core.errors import SourceError
from tasador.data.readers import read_source
from tasador.ops.init_contract import infer_contract

COLUMNS = (
    "area numeric(8,2), sold date, seen timestamptz, zone text, lift boolean, rooms smallint, "
    "code varchar(5), price numeric(12,2)"
)


@pytest.fixture
def sales(postgres_url: str) -> str:
    """A table of 120 sales with gaps; its address."""
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"CREATE TABLE sales ({COLUMNS})")
        connection.execute(
            "INSERT INTO sales SELECT 30 + i % 77 + 0.25, "
            "CASE WHEN i % 9 = 0 THEN NULL ELSE date '2020-01-01' + i END, "
            "timestamptz '2021-06-01 10:00+02' + i * interval '1 hour', "
            "CASE WHEN i % 8 = 0 THEN NULL ELSE 'Zone ' || chr(65 + i % 3) END, i % 2 = 0, "
            "nullif(i % 5, 0), lpad((i % 7)::text, 5, '0'), 90000 + i * 500 + (i * 37 % 41) * 2000 "
            "FROM generate_series(1, 120) i"
        )
    return postgres_url


def test_a_query_gives_the_values_of_the_csv_of_the_same_rows(sales: str, tmp_path: Path) -> None:
    query = "SELECT * FROM sales ORDER BY seen"
    source = Source(sql=SqlQuery(sales, query))
    file = tmp_path / "sales.csv"
    copied = f"COPY ({query}) TO STDOUT (FORMAT csv, HEADER)"
    with (
        psycopg.connect(sales) as connection,
        connection.cursor() as cursor,
        cursor.copy(copied) as rows,
    ):
        file.write_bytes(b"".join(map(bytes, rows)))
    queried, written = read_source(source).frame, read_source(file).frame
    assert queried.columns == written.columns
    of_query, of_file = infer_contract(source, "price").contract, infer_contract(file, "price")
    kinds = {column.name: column.kind for column in of_file.contract.columns}
    assert {column.name: column.kind for column in of_query.columns} == kinds
    assert (kinds["sold"], kinds["seen"], kinds["code"]) == ("datetime", "datetime", "category")
    for column in (*of_file.contract.features, of_file.contract.target.column):
        codes, wrong = encode_values(column, queried[column.name])
        assert not wrong.any(), column.name
        np.testing.assert_array_equal(codes, encode_values(column, written[column.name])[0])


def test_a_query_that_a_server_refuses_is_an_error_of_one_line(sales: str) -> None:
    for query, words in (
        ("SELECT nothing FROM sales", 'column "nothing" does not exist'),
        ("WITH d AS (DELETE FROM sales RETURNING *) SELECT * FROM d", "read-only transaction"),
    ):
        with pytest.raises(SourceError, match=words):
            read_source(Source(sql=SqlQuery(sales, query)))
    with psycopg.connect(sales) as connection:
        assert connection.execute("SELECT count(*) FROM sales").fetchone() == (120,)
