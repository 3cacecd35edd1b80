"""Where a table comes from, in which order, and what happens when a place fails."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import time
from pathlib import Path

import polars as pl
import pytest

from tasador.contract.model import Source
from tasador.core import storage
from tasador.core.errors import MissingExtraError, SourceError, StorageError
from tasador.data import sources
from tasador.data.sources import check_pin, load_table, read_stored, store_frame

CSV = b"a,b\n1,x\n2,y\n"
PIN = hashlib.sha256(CSV).hexdigest()


@pytest.fixture
def load(tmp_path, flats, monkeypatch):
    """Load the table of a source, with everything in a folder of its own."""
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")

    def run(source: Source, **options):
        contract = dataclasses.replace(flats, source=source)
        given = {"timeout_s": 0.5, "attempts": 3, "seed": 1, **options}
        return load_table(contract, tmp_path / "store", **given)

    return run


def left_behind(tmp_path: Path) -> list[str]:
    return [p.name for p in tmp_path.rglob("*") if p.is_file()]


def test_a_local_file_is_read_and_stored_by_content(load, tmp_path):
    Path("t.csv").write_bytes(CSV)
    table = load(Source(paths=("absent.csv", "t.csv"), sha256=("0" * 64, PIN)))
    assert (table.origin, table.source, table.warnings) == ("real", "t.csv", ())
    assert table.frame.rows() == [("1", "x"), ("2", "y")]
    stored = tmp_path / "store" / f"{table.content_hash}.parquet"
    assert hashlib.sha256(stored.read_bytes()).hexdigest() == table.content_hash
    assert read_stored(tmp_path / "store", table.content_hash).equals(table.frame)


def test_search_folders_come_after_the_working_folder_also_by_file_name(
    load, tmp_path, monkeypatch
):
    for name in ("first", "real/data", "real"):
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
    (tmp_path / "real" / "t.csv").write_bytes(CSV)
    monkeypatch.setenv("TASADOR_REAL_DATA", str(tmp_path / "real"))
    source = Source(paths=("data/t.csv",))
    assert load(source).source == str(tmp_path / "real" / "t.csv")
    (tmp_path / "first" / "t.csv").write_bytes(CSV)
    assert load(source, search=[tmp_path / "first"]).source == str(tmp_path / "first" / "t.csv")
    Path("data").mkdir()
    Path("data/t.csv").write_bytes(CSV)
    assert load(source, search=[tmp_path / "first"]).source == "data/t.csv"


def test_an_absolute_path_is_taken_as_it_is(load, tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(CSV)
    assert load(Source(paths=(str(path),))).source == str(path)


def test_a_local_file_with_the_wrong_checksum_is_not_skipped(load):
    Path("t.csv").write_bytes(CSV + b"3,z\n")
    with pytest.raises(
        SourceError, match=rf"t.csv has the wrong checksum.*expected SHA-256 {PIN}.*got"
    ):
        load(Source(paths=("t.csv",), sha256=(PIN,), synthetic="california_housing"))


def test_a_folder_or_a_broken_file_in_the_right_place_is_an_error(load):
    Path("t.csv").mkdir()
    with pytest.raises(SourceError, match=r"t\.csv is a folder"):
        load(Source(paths=("t.csv",), synthetic="california_housing"))
    Path("u.csv").write_bytes(b"%PDF-1.7 ...")
    with pytest.raises(SourceError, match="is a PDF document"):
        load(Source(paths=("u.csv",), synthetic="california_housing"))


def test_the_contracts_delimiter_and_category_words_are_respected(load, flats):
    Path("t.csv").write_bytes(b"a;kind\n1;None\nNone;x\n")
    kind = dataclasses.replace(flats.columns[3], categories=("None", "x"))
    contract = dataclasses.replace(
        flats, columns=(kind,), source=Source(paths=("t.csv",), delimiter=";")
    )
    table = load_table(contract, Path("store"), timeout_s=1, attempts=1, seed=1)
    assert table.frame.rows() == [("1", "None"), (None, "x")]


def test_a_download_is_used_when_no_path_exists(load, site):
    site.answers = [("200", CSV)]
    table = load(Source(paths=("absent.csv",), url=site.url, sha256=(PIN,)))
    assert (table.source, table.frame.height, table.origin) == (site.url, 2, "real")


def test_a_download_without_a_length_is_accepted(load, site):
    site.answers = [("unsized", CSV)]
    assert load(Source(url=site.url)).frame.height == 2


def test_a_server_that_stumbles_is_asked_again(load, site):
    site.answers = [("500", b""), ("truncated", CSV), ("200", CSV)]
    assert load(Source(url=site.url), timeout_s=3).frame.height == 2
    assert site.requests == 3


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("truncated", r"interrupted after 6 of 12 bytes"),
        ("503", "the server answers 503"),
        ("hang", r"no answer within|timed out|cannot connect"),
    ],
)
def test_a_failing_download_is_an_error_and_leaves_nothing(load, site, tmp_path, answer, words):
    site.answers = [(answer, CSV)]
    with pytest.raises(SourceError, match=words):
        load(Source(url=site.url), attempts=2, timeout_s=0.3)
    assert left_behind(tmp_path) == []
    assert 1 <= site.requests <= 2


def test_a_trickling_download_is_given_up(load, site, monkeypatch):
    monkeypatch.setattr(sources, "_DURATION_FACTOR", 0.5)
    site.answers = [("trickle", CSV * 4)]
    started = time.monotonic()
    with pytest.raises(SourceError, match="too slow"):
        load(Source(url=site.url), attempts=1, timeout_s=0.3)
    assert time.monotonic() - started < 1.5


def test_a_page_that_is_gone_is_not_asked_for_twice(load, site):
    site.answers = [("404", b"")]
    with pytest.raises(SourceError, match="the server answers 404"):
        load(Source(url=site.url))
    assert site.requests == 1


def test_a_download_with_the_wrong_checksum_is_never_used(load, site, tmp_path):
    site.answers = [("200", b"a,b\n6,6\n")]
    with pytest.raises(SourceError, match=rf"wrong checksum and was not used.*{PIN}"):
        load(Source(url=site.url, sha256=(PIN,), synthetic="california_housing"))
    assert site.requests == 1
    assert left_behind(tmp_path) == []


def test_too_large_a_download_is_given_up(load, site, monkeypatch):
    monkeypatch.setattr(sources, "MAX_DOWNLOAD_BYTES", 5)
    site.answers = [("200", CSV)]
    with pytest.raises(SourceError, match="too large"):
        load(Source(url=site.url))


def test_addresses_other_than_http_are_refused(load):
    with pytest.raises(SourceError, match="expected an http:// or https:// address"):
        load(Source(url="file:///etc/passwd"))


def test_the_generator_stands_in_loudly(load, caplog):
    source = Source(
        paths=("absent.csv",), url="http://127.0.0.1:1/x", synthetic="california_housing"
    )
    with caplog.at_level(logging.WARNING, logger="tasador"):
        table = load(source, synthetic_rows=50, attempts=1)
    assert (table.origin, table.frame.height) == ("synthetic", 50)
    assert "absent.csv: no such file; http://127.0.0.1:1/x" in table.warnings[0]
    assert "SYNTHETIC DATA" in caplog.text
    assert table.source == "generator california_housing, seed 1"


def test_offline_passes_over_everything_on_the_network(load, site):
    source = Source(paths=("gs://b/t.csv",), url=site.url, synthetic="california_housing")
    table = load(source, offline=True, synthetic_rows=20)
    assert site.requests == 0
    assert "gs://b/t.csv: skipped, offline" in table.warnings[0]


def test_when_nothing_works_every_place_is_listed(load, tmp_path):
    source = Source(paths=("a.csv",), url="http://127.0.0.1:1/x", synthetic="california_housing")
    with pytest.raises(SourceError, match="not found") as caught:
        load(source, search=[tmp_path], allow_synthetic=False, attempts=1)
    text = str(caught.value)
    for part in ("a.csv: no such file", str(tmp_path / "a.csv"), "127.0.0.1:1", "not allowed"):
        assert part in text
    with pytest.raises(SourceError, match="no source at all"):
        load(Source())


def test_the_local_file_that_would_be_read_is_known_beforehand(flats, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    contract = dataclasses.replace(flats, source=Source(paths=("data/t.csv",)))
    assert storage.find_local(contract.source.paths, [tmp_path]) is None
    Path("t.csv").write_bytes(CSV)
    assert storage.find_local(contract.source.paths, [tmp_path]) == tmp_path / "t.csv"
    remote = dataclasses.replace(flats, source=Source(paths=("gs://b/t.csv", "t.csv")))
    assert storage.find_local(remote.source.paths) is None


def test_an_object_in_a_store_is_read_like_a_file(load, monkeypatch):
    monkeypatch.setattr(storage, "exists", lambda place: place == "s3://b/t.csv")
    monkeypatch.setattr(sources.storage, "read_bytes", lambda place: CSV)
    monkeypatch.setattr(sources, "store_frame", lambda frame, folder: "hash")
    table = load(Source(paths=("s3://b/absent.csv", "s3://b/t.csv")))
    assert table.source == "s3://b/t.csv"
    assert table.warnings == ("skipped s3://b/absent.csv: no such object",)


@pytest.mark.parametrize("error", [StorageError("403"), MissingExtraError("no driver")])
def test_an_unreachable_store_is_skipped_with_a_warning(load, monkeypatch, error):
    there = storage.exists

    def refuse(location):
        if storage.is_remote(location):
            raise error
        return there(location)

    monkeypatch.setattr(storage, "exists", refuse)
    Path("t.csv").write_bytes(CSV)
    table = load(Source(paths=("gs://b/t.csv", "t.csv")))
    assert table.warnings == (f"skipped gs://b/t.csv: {error}",)


def test_the_pin_check_accepts_any_listed_checksum_and_anything_without_pins():
    check_pin(CSV, [], "t")
    check_pin(CSV, ["0" * 64, PIN], "t")
    with pytest.raises(SourceError, match=r"got .* \(12 bytes\)"):
        check_pin(CSV, ["0" * 64], "t")


def test_storing_twice_gives_one_file_and_heals_a_damaged_one(tmp_path):
    frame = pl.DataFrame({"a": ["x", None], "b": [1.5, 2.5]})
    content_hash = store_frame(frame, tmp_path)
    assert store_frame(frame.clone(), tmp_path) == content_hash
    path = tmp_path / f"{content_hash}.parquet"
    path.write_bytes(b"damaged")
    with pytest.raises(StorageError, match="is corrupt"):
        read_stored(tmp_path, content_hash)
    assert store_frame(frame, tmp_path) == content_hash
    assert read_stored(tmp_path, content_hash).equals(frame)
    assert left_behind(tmp_path) == [path.name]
    path.unlink()
    with pytest.raises(StorageError, match="does not exist"):
        read_stored(tmp_path, content_hash)


def test_the_shipped_contract_finds_the_real_table(tmp_path, real_data, shipped, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TASADOR_REAL_DATA", str(real_data))
    contract = shipped("california_housing")
    table = load_table(contract, tmp_path / "s", timeout_s=1, attempts=1, seed=1)
    assert (table.origin, table.frame.height) == ("real", 20640)
