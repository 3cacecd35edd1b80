"""Unpack the one table that an archive holds: tar, zip, gz, bz2, xz or zstd, also nested.

Nothing is written to disk, so a member's path cannot lead anywhere.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

from tasador.core.errors import SourceError
from tasador.data.file_kinds import is_tar, workbook_parts

MAX_UNPACKED_BYTES = 1 << 30
_TABLES = (".csv", ".tsv", ".txt", ".tab", ".parquet", ".xlsx", ".xlsm", ".xlsb", ".xls", ".ods",
           ".json", ".jsonl", ".ndjson", ".arrow", ".feather")  # fmt: skip
_PACKED = (".gz", ".bz2", ".xz", ".zst")
_NESTED = 3
_OPENERS: dict[bytes, Any] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}
_ZSTD = b"\x28\xb5\x2f\xfd"
_DAMAGED = (EOFError, zlib.error, lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile, OSError)


def unpack(data: bytes, name: str, member: str | None = None) -> bytes:
    """Return the table's bytes: those in the archive, or `data` itself when it is none.

    A workbook is a zip file too, and is returned as it is.

    Raises:
        SourceError: The archive is damaged, too large once unpacked, or `member` is not in it.
    """
    for _ in range(_NESTED):
        inner = _unpack_once(data, name, member)
        if inner is data:
            break
        data = inner
    return data


def _unpack_once(data: bytes, name: str, member: str | None) -> bytes:
    if not data:
        raise SourceError(f"{name} is empty", expected="a table with a header and rows")
    try:
        if data[:2] == b"PK":
            if workbook_parts(data) is not None:
                return data
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                names = [item.filename for item in archive.infolist() if not item.is_dir()]
                with archive.open(_select(names, name, member)) as file:
                    return _read_limited(file, name)
        for mark, opener in _OPENERS.items():
            if data.startswith(mark):
                with opener(io.BytesIO(data)) as file:
                    return _read_limited(file, name)
        if data.startswith(_ZSTD):
            return _unpack_zstd(data, name)
        if is_tar(data):
            with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
                names = [item.name for item in archive.getmembers() if item.isfile()]
                extracted = archive.extractfile(_select(names, name, member))
                assert extracted is not None  # noqa: S101 - only regular files are selected
                return _read_limited(extracted, name)
    except (*_DAMAGED, NotImplementedError, RuntimeError) as error:  # RuntimeError: encrypted zip
        raise SourceError(
            f"the archive {name} is damaged or cut short: {error}", remedy="download it again"
        ) from error
    return data


def _unpack_zstd(data: bytes, name: str) -> bytes:
    import pyarrow as pa

    try:
        with pa.CompressedInputStream(pa.BufferReader(data), "zstd") as file:
            return _read_limited(file, name)
    except pa.ArrowException as error:
        raise OSError(str(error)) from None


def _select(names: list[str], archive: str, member: str | None) -> str:
    """Choose the file of an archive: `member`, by path or file name, or else the only table."""
    if member is not None:
        found = [n for n in names if n == member or Path(n).name == Path(member).name]
    else:
        visible = [n for n in names if not Path(n).name.startswith((".", "__MACOSX"))]
        visible = [n for n in visible if not n.startswith("__MACOSX/")]
        tables = [n for n in visible if _is_table(n)]
        found = tables if tables else visible
    if len(found) == 1:
        return found[0]
    raise SourceError(
        f"cannot tell which file of the archive {archive} is the table",
        expected=f"the member {member!r}" if member else "exactly one table",
        got=", ".join(sorted(names)[:10]) or "an empty archive",
        remedy="set `source.member` in the contract",
    )


def _is_table(name: str) -> bool:
    lower = name.lower()
    for suffix in _PACKED:
        lower = lower.removesuffix(suffix)
    return lower.endswith(_TABLES)


def _read_limited(file: IO[bytes], name: str) -> bytes:
    data = file.read(MAX_UNPACKED_BYTES + 1)
    if len(data) > MAX_UNPACKED_BYTES:
        raise SourceError(
            f"the archive {name} is too large once unpacked",
            expected=f"at most {MAX_UNPACKED_BYTES} bytes",
            remedy="unpack it yourself and name the file inside",
        )
    return bytes(data)
