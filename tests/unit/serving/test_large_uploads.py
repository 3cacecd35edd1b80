"""Small files that stand for gigabytes cost a real server no memory."""

from __future__ import annotations

import gzip
import io
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fixtures.parquet_files import FILES, PLAIN, written
from fixtures.process import Server, free_port
from tasador.serving.api.uploads import LONGEST_ROW

PARQUET = "application/vnd.apache.parquet"
MOST_MB = 200.0
ROUTES = ("/api/v1/score", "/invocations")


@pytest.fixture(scope="module")
def server(written_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real server that has read a Parquet file before, as pyarrow itself takes 60 MB."""
    running = Server(tmp_path_factory.mktemp("uploads"), written_bundle, free_port())
    running.start()
    try:
        running.wait()
        assert send(running, "/api/v1/score", written()).status_code == 200
        yield running
    finally:
        running.end()


def send(server: Server, route: str, content: bytes, kind: str = PARQUET, **headers: str) -> Any:
    return httpx.post(
        server.url + route, content=content, headers={"content-type": kind, **headers}, timeout=60
    )


def resident_mb(server: Server) -> float:
    assert server.process is not None
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) / 1024


class Watch:
    """Notes the most memory that a server takes meanwhile, above what it took before."""

    def __init__(self, server: Server) -> None:
        self._server, self._before, self.peak = server, resident_mb(server), 0.0
        self._over = threading.Event()

    def __enter__(self) -> Watch:
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def _look(self) -> None:
        while not self._over.wait(0.003):
            self.peak = max(self.peak, self.kept)

    @property
    def kept(self) -> float:
        return resident_mb(self._server) - self._before

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def with_page_size(content: bytes, old: int, new: int) -> bytes:
    """Return a file whose first page declares `new` bytes where it has `old`."""

    def varint(value: int) -> bytes:
        value, found = value << 1, b""
        while value > 127:
            found += bytes([value & 127 | 128])
            value >>= 7
        return found + bytes([value])

    assert len(varint(old)) == len(varint(new))
    assert varint(old) in content
    return content.replace(b"\x15" + varint(old), b"\x15" + varint(new), 1)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.no_cover
def test_a_small_parquet_file_that_expands_to_gigabytes_costs_no_memory(
    server: Server, name: str
) -> None:
    content = FILES[name]()
    assert len(content) < 4 << 20
    for route in ROUTES:
        with Watch(server) as watch:
            answer = send(server, route, content)
        assert answer.status_code in (200, 422), answer.text[:500]
        assert watch.peak < MOST_MB, f"{route}: {watch.peak:.0f} MB"
        if answer.status_code == 422:
            assert re.search("MiB|characters|one value in each row", answer.text), answer.text[:500]
        else:
            assert re.search("characters|further", answer.text), answer.text[:500]
    end = time.monotonic() + 5
    while watch.kept > 60 and time.monotonic() < end:
        time.sleep(0.05)
    assert watch.kept < 60


def test_a_page_that_declares_more_than_it_holds_is_refused_before_it_is_unpacked(
    server: Server,
) -> None:
    text = {"kind": pa.array(["x" * 300_000])}
    content = written(1, text, compression="zstd", use_dictionary=False)
    # of as many bytes as the true size: 134 million is the most that is written in four
    small = written(
        1, {"kind": pa.array(["x" * 2_000_000])}, compression="zstd", use_dictionary=False
    )
    assert content != small
    forged = with_page_size(small, 2_000_010, 134_000_000)
    with Watch(server) as watch:
        answer = send(server, "/api/v1/score", forged)
    assert answer.status_code == 200
    assert "cannot be read any further" in answer.text
    assert watch.peak < MOST_MB


def test_a_footer_of_too_many_columns_is_refused_before_arrow_reads_it(server: Server) -> None:
    names = [f"c{i}" for i in range(10_000)]
    file = io.BytesIO()
    pq.write_table(pa.table({name: pa.array([1], pa.int8()) for name in names}), file)
    with Watch(server) as watch:
        answer = send(server, "/api/v1/score", file.getvalue())
    assert answer.status_code == 422
    assert "too large a footer" in answer.text
    assert watch.peak < MOST_MB


@pytest.mark.parametrize("name", ["no line end", "long cells", "a quote without end"])
@pytest.mark.no_cover
def test_csv_without_line_ends_or_with_long_cells_is_read_in_pieces(
    server: Server, name: str
) -> None:
    header, one = ",".join(PLAIN), "-3.5,40.5,3.0,4,100.0,"
    text = {
        "no line end": f"{header}\n{one}flat\n{one}" + "x" * (250 << 20),
        "long cells": f"{header}\n" + f"{one}{'x' * 1_000_000}\n" * 256,
        "a quote without end": f'{header}\n{one}"' + ("y" * 100_000 + "\n") * 2500,
    }[name]
    content = gzip.compress(text.encode(), 1)
    with Watch(server) as watch:
        answer = send(server, ROUTES[0], content, "text/csv", **{"content-encoding": "gzip"})
    assert answer.status_code == 200
    assert "characters in a row" in answer.text
    assert watch.peak < MOST_MB


def test_a_row_of_the_most_characters_is_read_and_one_more_is_not(server: Server) -> None:
    for more, said in ((0, "kind: expected one of"), (1, "characters in a row")):
        text = pa.array(["x" * (LONGEST_ROW + more)] * 2)
        answer = send(server, "/api/v1/score", written(2, {"kind": text}))
        assert answer.text.count(said) == 2, answer.text[:300]


def test_what_ordinary_writers_write_is_read_whole(server: Server) -> None:
    expected = [line.split(",")[1] for line in send(server, ROUTES[0], written(3000)).text.split()]
    for options in (
        {"data_page_version": "2.0"},
        {"use_dictionary": False, "compression": "gzip"},
        {"row_group_size": 7},
        {"use_dictionary": False, "column_encoding": {"kind": "DELTA_BYTE_ARRAY"}},
        {"use_dictionary": False, "column_encoding": {"kind": "DELTA_LENGTH_BYTE_ARRAY"}},
        {"store_schema": False, "write_page_index": True, "write_page_checksum": True},
        {"compression": "none", "version": "1.0", "store_decimal_as_integer": True},
    ):
        answer = send(server, ROUTES[0], written(3000, **options))  # type: ignore[arg-type]
        assert [line.split(",")[1] for line in answer.text.split()] == expected
