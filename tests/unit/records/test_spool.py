"""The spool: what it acknowledged is given back once its process is gone, whatever happened."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasador.core.errors import StorageError
from tasador.records.record import Record
from tasador.records.spool import (
    MAGIC,
    Spool,
    _locked,
    adopt,
    decode_frame,
    encode_frame,
    waiting_bytes,
)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
numbers = st.floats(allow_nan=False)
records_of_any_kind = st.builds(
    Record, texts, numbers, texts, texts, texts, st.binary(max_size=60),
    numbers, numbers, numbers, numbers, numbers, texts,
)  # fmt: skip


@pytest.fixture
def spool(tmp_path) -> Spool:
    return Spool(tmp_path / "spool", "normal", 1 << 20)


def drained(spool: Spool) -> list[Record]:
    found = []
    while chunk := spool.peek(100):
        found += chunk.records
        spool.advance(chunk)
    return found


@given(st.lists(records_of_any_kind, min_size=1, max_size=5))
def test_a_frame_gives_back_its_records(records) -> None:
    frame = encode_frame(records)
    assert decode_frame(b"?" + frame, 1) == ("whole", records, len(frame) + 1)


def test_a_frame_keeps_missing_and_infinite_numbers(make_records) -> None:
    (record,) = make_records(1, lower=math.nan, upper=-math.inf)
    _, (found,), _ = decode_frame(encode_frame([record]), 0)
    assert math.isnan(found.lower)
    assert found.upper == -math.inf


@given(records_of_any_kind, st.data())
def test_a_frame_cut_anywhere_is_torn_and_a_changed_one_is_damaged(record, data) -> None:
    frame = encode_frame([record])
    cut = data.draw(st.integers(1, len(frame) - 1))
    assert decode_frame(frame[:cut], 0)[0] == "torn"
    at = data.draw(st.integers(4, len(frame) - 1))  # the checksum or the payload
    changed = bytearray(frame)
    changed[at] ^= 0x40
    assert decode_frame(bytes(changed), 0) == ("damaged", [], 0)


def test_records_come_back_in_order_and_only_until_they_are_given_up(spool, make_records) -> None:
    records = make_records(300)
    for start in range(0, 300, 7):
        spool.append(records[start : start + 7])
    first = spool.peek(100)
    assert first.records == spool.peek(100).records == records[: len(first.records)]
    assert drained(spool) == records
    assert (spool.bytes, spool.peek()) == (0, None)


def test_appending_goes_on_while_the_front_is_read(spool, make_records) -> None:
    records = make_records(20)
    spool.append(records[:5])
    chunk = spool.peek()
    spool.append(records[5:])
    spool.advance(chunk)
    assert drained(spool) == records[5:]


def test_files_that_are_read_are_deleted_while_others_still_wait(
    spool, make_records, monkeypatch
) -> None:
    monkeypatch.setattr("tasador.records.spool.SEGMENT_BYTES", 4000)
    records = make_records(200)
    for record in records:
        spool.append([record])
    files = len(list(spool.folder.iterdir()))
    assert files > 5
    read = []
    while len(read) < 100:
        chunk = spool.peek(60)
        read += chunk.records
        spool.advance(chunk)
    assert 0 < len(list(spool.folder.iterdir())) < files
    assert read + drained(spool) == records
    spool.close()
    assert list(spool.folder.iterdir()) == []


def test_a_frame_larger_than_what_is_read_at_once_comes_back(tmp_path, make_records) -> None:
    spool = Spool(tmp_path, "full", 1 << 24)
    records = make_records(3, features=b"x" * 3_000_000)
    spool.append(records)
    assert drained(spool) == records


def test_a_full_spool_takes_nothing_and_keeps_what_it_has(tmp_path, make_records) -> None:
    spool = Spool(tmp_path, "normal", 3000)
    kept = make_records(5)
    spool.append(kept)
    with pytest.raises(StorageError, match=r"spool in .* is full: expected at most 3,000 bytes"):
        spool.append(make_records(20))
    assert drained(spool) == kept


def test_a_spool_whose_folder_cannot_be_made_says_so(tmp_path, make_records) -> None:
    (tmp_path / "file").write_text("")
    spool = Spool(tmp_path / "file" / "spool", "normal", 1 << 20)
    with pytest.raises(StorageError, match="cannot be used"):
        spool.prepare()
    with pytest.raises(StorageError, match="cannot be used"):
        spool.append(make_records(1))


def test_the_spool_of_a_living_process_is_left_alone(spool, make_records) -> None:
    spool.append(make_records(3))
    assert list(adopt(spool.folder)) == []
    assert waiting_bytes(spool.folder) == spool.bytes > 0


def test_what_a_closed_spool_left_is_adopted_once(spool, make_records) -> None:
    records = make_records(1200)
    for start in range(0, 1200, 100):
        spool.append(records[start : start + 100])
    spool.close()
    assert [record for chunk in adopt(spool.folder) for record in chunk] == records
    assert list(adopt(spool.folder)) == []
    assert list(spool.folder.iterdir()) == []


def test_a_file_stays_when_its_records_could_not_be_replayed(spool, make_records) -> None:
    records = make_records(10)
    spool.append(records)
    spool.close()
    adopting = adopt(spool.folder)
    next(adopting)
    adopting.close()
    assert [record for chunk in adopt(spool.folder) for record in chunk] == records


def test_a_torn_last_frame_is_skipped(spool, make_records) -> None:
    records = make_records(4)
    spool.append(records[:3])
    spool.append(records[3:])
    spool.close()
    (file,) = spool.folder.iterdir()
    os.truncate(file, file.stat().st_size - 9)
    assert [record for chunk in adopt(spool.folder) for record in chunk] == records[:3]
    assert list(spool.folder.iterdir()) == []


def test_zeros_after_the_last_frame_are_skipped(spool, make_records) -> None:
    records = make_records(2)
    spool.append(records)
    spool.close()
    (file,) = spool.folder.iterdir()
    os.truncate(file, file.stat().st_size + 4096)  # as after a power cut
    assert [record for chunk in adopt(spool.folder) for record in chunk] == records
    assert list(spool.folder.iterdir()) == []


def test_a_file_damaged_within_gives_what_is_readable_and_is_kept(spool, make_records) -> None:
    records = make_records(4)
    spool.append(records[:2])
    good = spool.bytes
    spool.append(records[2:])
    spool.close()
    (file,) = spool.folder.iterdir()
    content = bytearray(file.read_bytes())
    content[len(MAGIC) + good + 40] ^= 1
    file.write_bytes(content)
    assert [record for chunk in adopt(spool.folder) for record in chunk] == records[:2]
    assert [path.suffix for path in spool.folder.iterdir()] == [".damaged"]


@pytest.mark.parametrize(
    ("content", "left"), [(b"", []), (MAGIC[:5], []), (b"hello", [".damaged"])]
)
def test_a_file_without_the_header_is_no_spool(tmp_path, content, left) -> None:
    (tmp_path / "1-abc.spool").write_bytes(content)
    assert list(adopt(tmp_path)) == []
    assert [path.suffix for path in tmp_path.iterdir()] == left


FILLER = """
import resource, sys
from pathlib import Path
from tasador.core.errors import StorageError
from tasador.records.spool import MAGIC
from tasador.records.record import Record
from tasador.records.spool import Spool

resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
spool = Spool(Path(sys.argv[1]), "full", 1 << 20)
kept = 0
try:
    for i in range(1000):
        spool.append([Record(str(i), 0.0, "v", "c", "l", b"x" * 500, 1, 1, 1, 1, 1)])
        kept = i + 1
except StorageError as error:
    print(kept, error)
"""


def test_a_disk_that_takes_no_more_leaves_no_half_frame(tmp_path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FILLER, str(tmp_path)], capture_output=True, text=True, check=True
    )
    kept, _, reason = done.stdout.partition(" ")
    assert "the file would be too large" in reason
    assert int(kept) > 20
    found = [int(record.id) for chunk in adopt(tmp_path) for record in chunk]
    assert found == list(range(int(kept)))


def test_looking_whether_a_spool_has_space_adds_nothing_to_it(tmp_path, make_records) -> None:
    spool = Spool(tmp_path, "normal", 20_000)
    spool.append(make_records(3))
    before = spool.bytes
    spool.check()
    assert spool.bytes == before
    chunk = spool.peek()
    assert chunk is not None
    assert len(chunk.records) == 3
    with pytest.raises(StorageError, match="is full"):
        Spool(tmp_path, "normal", 4000).check()


@pytest.mark.parametrize(("synchronous", "flushes"), [("full", 3), ("normal", 0)])
def test_only_full_flushes_the_disk_and_for_every_frame(
    tmp_path, make_records, monkeypatch, synchronous, flushes
) -> None:
    spool = Spool(tmp_path / "spool", synchronous, 1 << 20)
    spool.prepare()
    flushed = []
    real = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda file: (flushed.append(file), real(file)))
    for record in make_records(3):
        spool.append([record])
    assert len(flushed) == flushes


def test_a_file_that_was_deleted_before_it_could_be_locked_is_nobody_s(tmp_path) -> None:
    path = tmp_path / "1-a.spool"
    path.write_bytes(MAGIC)
    file = os.open(path, os.O_RDWR)
    try:
        path.unlink()
        assert not _locked(file, path)
        path.write_bytes(MAGIC)  # another one of the same name
        assert not _locked(file, path)
    finally:
        os.close(file)
    file = os.open(path, os.O_RDWR)
    assert _locked(file, path)
    os.close(file)
