"""Find the table that a contract describes and store it by content.

Sources are tried in the contract's order: paths, the published address, the built-in generator.
A source that is not there is skipped and the reason kept; a source that is there but wrong
(checksum, format) is an error, because silently using the next one would hide it.
"""

from __future__ import annotations

import io
import logging
import re
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import replace
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.parse import urlsplit

import polars as pl

from tasador.contract.encoding import columns_with_missing_words
from tasador.contract.model import Source, TableContract
from tasador.core import storage
from tasador.core.deadlines import Deadline, retry_context
from tasador.core.errors import DeadlineError, MissingExtraError, SourceError, StorageError
from tasador.core.hashing import sha256_bytes
from tasador.core.http import Patience, UnsafeAddressError, opened
from tasador.core.progress import progress
from tasador.data import synthetic
from tasador.data.errors import UnreadableTableError
from tasador.data.readers import TableFile, concatenated, parse_file, read_source
from tasador.data.sql_table import without_password
from tasador.data.table import Table
from tasador.data.text.text_format import known_names

logger = logging.getLogger(__name__)

MAX_DOWNLOAD_BYTES = 1 << 30
_CHUNK = 1 << 16
_FIRST_WAIT_S = 0.2
#: A download may take this many times the timeout in all, however steadily it trickles.
_DURATION_FACTOR = 10
_MOST_REDIRECTIONS = 5
_ABSENT = "no such file"


class _RetryableError(Exception):
    """A download that may well succeed when tried again."""


class _GivenUpError(Exception):
    """A download that would not succeed when tried again."""


def load_table(
    contract: TableContract,
    storage_folder: Path,
    *,
    search: Sequence[storage.Location] = (),
    allow_synthetic: bool = True,
    timeout_s: float,
    attempts: int,
    offline: bool = False,
    synthetic_rows: int | None = None,
    seed: int,
) -> Table:
    """Read the contract's table from the first source that has it, and store it.

    Args:
        contract: Names the sources, their checksums and the CSV's delimiter.
        storage_folder: Where the table is kept as ``<content hash>.parquet``.
        search: Folders or prefixes of object stores under which relative paths are looked for
            after the working folder, also by file name alone; the one in `REAL_DATA_VARIABLE` is
            the last.
        allow_synthetic: Whether generated rows may stand in for the table.
        timeout_s: Seconds without a sign of life after which a connection is given up.
        attempts: How often a download is tried.
        offline: Skip everything that needs the network.
        synthetic_rows: Number of generated rows; None takes the generator's own.
        seed: Seed of the generator.

    Raises:
        SourceError: No source has it (every place tried is listed), or the one that has it holds
            something else: wrong checksum, damaged, not a table.
        StorageError: The table cannot be stored.
    """
    source = contract.source
    failures: list[str] = []
    for place in storage.places(source.paths, search):
        contents = _read_places(place, offline, failures)
        if contents:
            return _accept(contract, contents, place, storage_folder, failures)
    if source.sql is not None:
        queried = _read_query(source, offline, failures)
        if queried is not None:
            place = without_password(source.sql.url)[0]
            return _stored(queried, place, storage_folder, failures)
    if source.url is not None:
        downloaded = _read_url(source.url, timeout_s, attempts, offline, failures)
        if downloaded is not None:
            contents = {source.url: downloaded}
            return _accept(contract, contents, source.url, storage_folder, failures)
    if source.synthetic is not None and allow_synthetic:
        frame = synthetic.generate(source.synthetic, synthetic_rows, seed)
        return _synthetic_table(contract, frame, storage_folder, failures, seed)
    if source.synthetic is not None:
        failures.append(f"generator {source.synthetic}: not allowed by the configuration")
    raise SourceError(
        f"the table {contract.name!r} was not found",
        expected="a path, an address or a generator in `source` that has it",
        got="; ".join(failures) or "no source at all",
        remedy="put the file in one of these places, or set "
        f"{storage.REAL_DATA_VARIABLE} to its folder",
    )


def check_pin(data: bytes, pins: Sequence[str], place: str) -> None:
    """Refuse content whose SHA-256 is not among the pinned ones; no pins accept anything.

    Raises:
        SourceError: Saying which checksums were expected and which one came.
    """
    got = sha256_bytes(data)
    if pins and got not in pins:
        raise SourceError(
            f"{place} has the wrong checksum and was not used",
            expected=f"SHA-256 {' or '.join(pins)}",
            got=f"{got} ({len(data)} bytes)",
            remedy="replace the file by the published one, or, if the change is meant, put the "
            "new checksum into `source.sha256` of the contract",
        )


def store_frame(frame: pl.DataFrame, storage_folder: Path) -> str:
    """Store a table as ``<SHA-256>.parquet`` and return that hash of the file's bytes.

    Equal tables give equal bytes with one version of polars. A damaged older copy is replaced.

    Raises:
        StorageError: The folder cannot be written.
    """
    buffer = io.BytesIO()
    frame.rechunk().write_parquet(
        buffer, compression="zstd", compression_level=3, statistics=False, row_group_size=1 << 18
    )
    data = buffer.getvalue()
    content_hash = sha256_bytes(data)
    path = storage_folder / f"{content_hash}.parquet"
    if not path.is_file() or sha256_bytes(storage.read_bytes(path)) != content_hash:
        storage.write_bytes(path, data)
    return content_hash


def read_stored(storage_folder: Path, content_hash: str) -> pl.DataFrame:
    """Read a stored table back, after checking its bytes against its hash.

    Raises:
        StorageError: It is gone, or its bytes changed since it was stored.
    """
    path = storage_folder / f"{content_hash}.parquet"
    data = storage.read_bytes(path)
    got = sha256_bytes(data)
    if got != content_hash:
        raise StorageError(
            f"the stored table {path} is corrupt",
            expected=f"SHA-256 {content_hash}",
            got=got,
            remedy="delete it and run the download step again",
        )
    return pl.read_parquet(io.BytesIO(data))


def _read_places(place: str, offline: bool, failures: list[str]) -> dict[str, bytes]:
    """Return the contents of a path, or of all files that its pattern names, by place.

    There are none, with the reason in `failures`, if it is not there.
    """
    if not storage.is_remote(place):
        if storage.is_folder(place):
            raise UnreadableTableError.folder(place, "*.csv")
        files = [file for file in storage.find(place) if storage.exists(file)]
        if not files:
            failures.append(f"{place}: {_ABSENT}")
        return {file: storage.read_bytes(file) for file in files}
    if offline:
        failures.append(f"{place}: skipped, offline")
        return {}
    try:
        files = [file for file in storage.find(place) if storage.exists(file)]
        if not files:
            failures.append(f"{place}: no such object")
        return {file: storage.read_bytes(file) for file in files}
    except (StorageError, MissingExtraError) as error:
        failures.append(f"{place}: {error}")
    return {}


def _read_query(source: Source, offline: bool, failures: list[str]) -> TableFile | None:
    """Return what a query gives, or None with the reason in `failures`."""
    if offline:
        failures.append("the SQL query: skipped, offline")
        return None
    try:
        return read_source(replace(source, paths=()))
    except (SourceError, MissingExtraError) as error:
        failures.append(str(error))
    return None


def _read_url(
    url: str, timeout_s: float, attempts: int, offline: bool, failures: list[str]
) -> bytes | None:
    """Return what the address holds, or None with the reason in `failures`."""
    if offline:
        failures.append(f"{url}: skipped, offline")
        return None
    _check_address(url)
    try:
        for attempt in retry_context(
            on=_RetryableError,
            attempts=attempts,
            timeout=timeout_s * attempts,
            wait_initial=_FIRST_WAIT_S,
            wait_max=timeout_s,
        ):
            with attempt:
                return _download(url, timeout_s)
    except (_RetryableError, _GivenUpError) as error:
        failures.append(f"{url}: {error}")
    return None


def _check_address(url: str) -> None:
    """Refuse what is no address before anything is sent."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname)
        usable = usable and parts.port != 0 and re.search(r"[^!-~]", url) is None
        (parts.hostname or "").encode("idna")
    except ValueError:  # a port that is no number, brackets without an end, a host with gaps
        usable = False
    if not usable:
        raise SourceError(
            f"cannot download {url}",
            expected="an http:// or https:// address, without blanks and with other signs than "
            "ASCII written as %XX",
            remedy="correct `source.url`, or list local files under `source.paths`",
        )


def _download(url: str, timeout_s: float) -> bytes:
    """Return the whole of what the address answers; an interrupted answer is an error."""
    request = urllib.request.Request(url, headers={"User-Agent": "tasador"})  # noqa: S310 - checked
    patience = Patience(timeout_s, timeout_s, Deadline.after(_DURATION_FACTOR * timeout_s))
    try:
        with opened(request, patience, redirections=_MOST_REDIRECTIONS) as response:
            if response.status >= 500 or response.status == 429:
                raise _RetryableError(f"the server answers {response.status}")
            if response.status != 200:
                raise _GivenUpError(f"the server answers {response.status} {response.reason}")
            return _receive(response, patience.deadline)
    except UnsafeAddressError as error:
        raise _GivenUpError(str(error)) from None
    except urllib.error.URLError as error:
        if isinstance(error.reason, UnsafeAddressError):
            raise _GivenUpError(str(error.reason)) from None
        raise _RetryableError(f"cannot connect: {error.reason}") from error
    except DeadlineError as error:
        raise _RetryableError(f"too slow: {error.message}") from None
    except TimeoutError as error:
        raise _RetryableError(f"no answer within {timeout_s} s") from error
    except (HTTPException, OSError) as error:
        raise _RetryableError(f"interrupted: {error!r}") from error


def _receive(response: HTTPResponse, deadline: Deadline) -> bytes:
    """Read the body in chunks; it is held in memory, so that nothing can be left behind."""
    length = response.headers.get("Content-Length")
    expected = int(length) if length is not None and length.isdigit() else None
    received = io.BytesIO()
    with progress("download [KiB]", None if expected is None else expected / 1024) as advance:
        while chunk := response.read1(_CHUNK):
            received.write(chunk)
            advance(len(chunk) / 1024)
            if received.tell() > MAX_DOWNLOAD_BYTES:
                most = f"at most {MAX_DOWNLOAD_BYTES} bytes"
                raise SourceError("the download is too large and was given up", expected=most)
            deadline.check(f"the download ({received.tell()} bytes so far)")
    deadline.check(f"the download ({received.tell()} bytes so far)")
    if expected is not None and received.tell() != expected:
        raise _RetryableError(f"interrupted after {received.tell()} of {expected} bytes")
    return received.getvalue()


def _accept(
    contract: TableContract,
    contents: Mapping[str, bytes],
    place: str,
    folder: Path,
    failures: Sequence[str],
) -> Table:
    """Check the pin, parse and store what a source gave."""
    for file, data in contents.items():
        check_pin(data, contract.source.sha256, file)
    tables = [
        parse_file(
            data,
            file,
            contract.source,
            keep_text=columns_with_missing_words(contract),
            known=known_names(contract),
        )
        for file, data in contents.items()
    ]
    return _stored(concatenated(tables, list(contents)), place, folder, failures)


def _stored(read: TableFile, place: str, folder: Path, failures: Sequence[str]) -> Table:
    frame = read.frame
    logger.info("read %d rows from %s", frame.height, place)
    # that one of several usual places has no file is no news; that a store failed is
    warnings = [f"skipped {f}" for f in failures if not f.endswith(_ABSENT)]
    return Table(frame, store_frame(frame, folder), "real", place, (*warnings, *read.notes))


def _synthetic_table(
    contract: TableContract, frame: pl.DataFrame, folder: Path, failures: list[str], seed: int
) -> Table:
    reasons = "; ".join(failures) or "no other source is named"
    warning = (
        f"SYNTHETIC DATA: the table {contract.name!r} was not found ({reasons}). {frame.height} "
        "generated rows stand in for it; nothing measured on them says anything about the world"
    )
    logger.warning(warning)
    place = f"generator {contract.source.synthetic}, seed {seed}"
    return Table(frame, store_frame(frame, folder), "synthetic", place, (warning,))
