"""What a file is, found from its bytes; and the one table that an archive holds, also nested.

Unpacked are tar, zip, gz, bz2, xz and zstd. Nothing is written to disk, so a member's path cannot
lead anywhere. Of a text the encoding is found.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import re
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

from tasador.core.errors import SourceError
from tasador.data.errors import UnreadableTableError

#: What can be read, for messages.
ACCEPTED = "CSV, Excel, Parquet, Arrow, JSON, or a tar, gz or zip that holds one of them"
#: Kinds of files that are recognised and cannot be read: how they begin, and what to do.
_UNREADABLE: tuple[tuple[re.Pattern[bytes], str, str], ...] = tuple(
    (re.compile(pattern, re.I | re.S), kind, remedy)
    for pattern, kind, remedy in (
        (rb"SQLite format 3\x00", "an SQLite database",
         "name a query: tasador init --sql sqlite:///FILE 'SELECT ...' --target COLUMN"),
        (rb"\s*(?:<!doctype html|<html|<table|<head|<meta|<div)", "a web page, whatever its name",
         "open it in a spreadsheet program and save it as .xlsx or CSV (UTF-8)"),
        (rb"\s*<\?xml", "XML", "save it as .xlsx or CSV (UTF-8)"),
        (rb"%PDF", "a PDF document", "export the table as CSV (UTF-8)"),
        (rb"<stata_dta>|[\x69-\x73][\x01\x02]\x01\x00", "a Stata file",
         "save it as CSV or Parquet, for example with pandas.read_stata"),
        (rb"\$FL[23]", "an SPSS file",
         "save it as CSV or Parquet, for example with pandas.read_spss"),
        (rb"\x00{12}\xc2\xea\x81\x60", "a SAS file",
         "save it as CSV or Parquet, for example with pandas.read_sas"),
        (rb"\x89HDF", "an HDF5 file",
         "save it as Parquet, for example with pandas.read_hdf and to_parquet"),
        (rb"RD[AX][23]\n", "an R data file", "save it in R with write.csv"),
        (rb"\x80[\x02-\x05]", "a Python pickle", "save it as Parquet with to_parquet"),
        (rb"\x93NUMPY", "a numpy array", "save it as CSV with column names"),
        (rb"Obj\x01", "an Avro file", "save it as Parquet"),
        (rb"ORC", "an ORC file", "save it as Parquet"),
        (rb"\{\\rtf", "a text document (RTF)", "save the table as CSV (UTF-8)"),
    )
)  # fmt: skip

#: What an xls file begins with, and a workbook with a password, whatever its kind.
OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
ZIP = b"PK\x03\x04"
PARQUET = b"PAR1"
ARROW = b"ARROW1"
_WORKBOOK_PARTS = {"xl/workbook.xml", "xl/workbook.bin", "content.xml"}

_BOMS = (
    (b"\xef\xbb\xbf", "utf-8"),
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
#: Bytes to which cp1252 gives no character.
_NOT_CP1252 = re.compile(rb"[\x81\x8d\x8f\x90\x9d]")
_MULTIBYTE = re.compile(
    rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}"
)
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
#: What reading a damaged archive ends with. RuntimeError: an encrypted zip; ValueError: a place
#: before its beginning.
DAMAGED = (
    EOFError, zlib.error, lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile, OSError,
    NotImplementedError, RuntimeError, ValueError, struct.error,
)  # fmt: skip


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
        raise UnreadableTableError.empty(name)
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
    except DAMAGED as error:
        raise UnreadableTableError.damaged(f"the archive {name}", error) from error
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
        remedy = "unpack it yourself and name the file inside"
        raise UnreadableTableError.too_large(f"the archive {name}", MAX_UNPACKED_BYTES, remedy)
    return bytes(data)


def refuse_unreadable(data: bytes, name: str) -> None:
    """Raise SourceError, with a way out, for a file of a known kind that cannot be read."""
    beginning = data[:1024].removeprefix(b"\xef\xbb\xbf")
    for pattern, kind, remedy in _UNREADABLE:
        if pattern.match(beginning):
            raise SourceError(f"{name} is {kind}", expected=ACCEPTED, remedy=remedy)


def is_tar(beginning: bytes) -> bool:
    """Tell from its first 512 bytes whether something is a tar archive."""
    return beginning[257:262] == b"ustar"


def is_json(beginning: bytes) -> bool:
    """Tell whether a text may be JSON."""
    return beginning.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"{", b"[")


def is_workbook(data: bytes) -> bool:
    """Tell whether a whole file is a workbook."""
    return data.startswith(OLE) or workbook_parts(data) is not None


def workbook_parts(data: bytes) -> list[zipfile.ZipInfo] | None:
    """Return the files within a workbook; None when it is no zip file or another one."""
    if not data.startswith(ZIP):
        return None
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            parts = archive.infolist()
    except DAMAGED:
        return None
    return parts if _WORKBOOK_PARTS.intersection(part.filename for part in parts) else None


def detect_encoding(
    data: bytes, name: str, hint: str | None = None, *, beginning: bool = False
) -> str:
    """Return the encoding of a text.

    A byte order mark decides; without one a text of other than ASCII characters that is valid UTF-8
    is UTF-8, and any other is what `hint` says, or else cp1252, or latin-1 where cp1252 has no such
    byte. Words of nothing but bytes beyond ASCII are Cyrillic, Greek, Japanese, Korean or Chinese.

    Args:
        data: The text, or its beginning.
        name: What to call the file in messages.
        hint: The encoding to take for what is not UTF-8; of ASCII bytes too where it reads them
            otherwise (ISO-2022-JP).
        beginning: Whether rows are read one by one: it may end within a character, and damaged
            places are those rows' fault.

    Raises:
        SourceError: It is no text, or UTF-8 with damaged places.
    """
    for mark, encoding in _BOMS:
        if data.startswith(mark):
            return encoding
    if b"\x00" in data:
        return _wide_encoding(data, name, hint)
    try:
        data.decode("utf-8")
        return hint if hint is not None and _reads_otherwise(data, hint) else "utf-8"
    except UnicodeDecodeError as error:
        if beginning and error.reason == "unexpected end of data":
            return "utf-8"
        start = error.start
    if hint is not None and not hint.lower().replace("_", "-").startswith("utf-8"):
        return hint
    if re.search(rb"[\x01-\x06\x0e-\x19\x7f]", data):
        raise UnreadableTableError.binary(name)
    valid, high = len(_MULTIBYTE.findall(data)), len(re.findall(rb"[\x80-\xff]+", data))
    if valid * 2 > high:
        if beginning:
            return "utf-8"
        line = data.count(b"\n", 0, start) + 1
        raise SourceError(
            f"{name} is not UTF-8 text, though most of it is",
            got=f"byte {data[start]:#04x} in line {line}",
            remedy="correct that line, or write the file again in one encoding",
        )
    return _other_alphabet(data) or ("latin-1" if _NOT_CP1252.search(data) else "cp1252")


_TEXT_CHUNK = 1 << 18


class AsUtf8:
    """A stream of text in another encoding, read as UTF-8."""

    def __init__(self, stream: Any, encoding: str) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder(encoding)(errors="replace")
        self._ready = b""
        self.closed = False

    def read(self, size: int = -1) -> bytes:
        while size < 0 or len(self._ready) < size:
            chunk = self._stream.read(_TEXT_CHUNK)
            self._ready += self._decoder.decode(bytes(chunk), final=not chunk).encode()
            if not chunk:
                break
        size = len(self._ready) if size < 0 else size
        read, self._ready = self._ready[:size], self._ready[size:]
        return read

    def close(self) -> None:
        self.closed = True


def read_all(stream: Any, size: int) -> bytes:
    """Return the next `size` bytes of a stream that may give less at a time."""
    chunks, left = [], size
    while left > 0 and (chunk := stream.read(left)):
        chunks.append(bytes(chunk))
        left -= len(chunk)
    return b"".join(chunks)


class Lent:
    """A file that Arrow may close without closing it for its owner."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.closed = False
        self.read, self.seek, self.tell = file.read, file.seek, file.tell

    def close(self) -> None:
        self.closed = True


def _reads_otherwise(data: bytes, encoding: str) -> bool:
    """Tell whether a text of ASCII bytes has other characters in an encoding."""
    try:
        return data.isascii() and data.decode(encoding) != data.decode("ascii")
    except UnicodeDecodeError:
        return False


def _wide_encoding(data: bytes, name: str, hint: str | None) -> str:
    """Return the encoding of a text with zero bytes and without a byte order mark."""
    if hint is not None and re.match(r"utf[-_]?(?:16|32)", hint, re.I):
        return hint
    sample = data[: 4096 - 4096 % 4]
    even, odd = sample[::2].count(0), sample[1::2].count(0)
    half = max(1, len(sample) // 2)
    for zeros, others, encoding in ((odd, even, "utf-16-le"), (even, odd, "utf-16-be")):
        if zeros > 0.7 * half and others == 0:
            return encoding
    raise UnreadableTableError.binary(name)


def _other_alphabet(data: bytes) -> str | None:
    """Return the encoding of a text in another alphabet than the Latin one; None for none."""
    words = _HIGH_WORD.findall(data[:_SAMPLE])
    words = words[:-1] if len(data) > _SAMPLE else words  # the last one may be cut
    high = sum(map(len, words))
    # Western words have single such letters among others
    if high < 12 or 10 * high < len(re.findall(rb"[A-Za-z\x80-\xff]", data[:_SAMPLE])):
        return None
    whole = sum(len(word) for word in words if len(word) >= 3)
    if whole < 0.6 * high:
        return None
    sample, shares = b" ".join(words), dict[str, float]()
    for encoding, letters, least in _ALPHABETS:
        try:
            text = re.sub(r"[ -~]", "", sample.decode(encoding))
        except UnicodeDecodeError:
            continue
        share = len(re.findall(letters, text)) / max(1, len(text))
        if encoding == "gb18030":  # any bytes are Chinese to it: most are of frequent characters
            share = min(share, 2 * len(_FREQUENT_GB.findall(sample)) / high)
        if share >= least:
            shares[encoding] = share
    several = [encoding for encoding in shares if not encoding.startswith("cp12")]
    return several[0] if several else max(shares, key=lambda one: shares[one], default=None)


_FREQUENT_GB = re.compile(rb"[\xb0-\xd7][\xa1-\xfe]")
#: How much of a text is looked at for its alphabet.
_SAMPLE = 1 << 16
_HIGH_WORD = re.compile(rb"(?:[\x80-\xff]+[\x40-\x7e]?)+")
#: Encodings, the letters that are most frequent in what is written in them, and their least share.
_ALPHABETS = (
    ("cp932", "[\u3041-\u30ff\u4e00-\u9fff]", 0.97),
    ("euc_kr", "[\uac00-\ud7a3]", 0.97),
    ("gb18030", "[\u4e00-\u9fa5]", 0.85),
    ("cp1251", "[оеаинтсрвлкмдпуябьйз]", 0.6),
    ("cp1253", "[αοιετσνηυρπκμλςάίόέή]", 0.6),
)
