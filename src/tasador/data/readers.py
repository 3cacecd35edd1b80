"""Read a table from bytes: CSV, Parquet, or an archive (tar, tar.gz, gz, zip) that holds one.

What the bytes are is decided by looking at them; the file's name only helps to say what went
wrong. Every cell of a CSV is read as text, so that a word in a number column reaches the
validation instead of being lost here.
"""

from __future__ import annotations

import gzip
import io
import lzma
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import IO

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tasador.contract.formats import MISSING_TEXTS
from tasador.contract.model import plain_name
from tasador.core import storage
from tasador.core.errors import SourceError
from tasador.data.csv_header import csv_rows
from tasador.data.parquet_table import ParquetTable

MAX_COLUMNS = 5000
MAX_UNPACKED_BYTES = 1 << 30
DELIMITERS = (",", ";", "\t", "|")

_SHOWN = {"\t": "tab"}
_DAMAGED = (EOFError, zlib.error, lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile, OSError)


def read_table(
    location: storage.Location,
    *,
    delimiter: str = ",",
    member: str | None = None,
    keep_text: Collection[str] = (),
    sniff: bool = False,
) -> pl.DataFrame:
    """Read the table in a file, local or remote; see `parse_table` for what comes out.

    Raises:
        SourceError: The file is missing, a folder, or holds no readable table.
        StorageError: It exists but the disk or the store refuses to give it.
    """
    if storage.is_folder(location):
        raise SourceError(f"{location} is a folder", expected="a CSV, Parquet, tgz or zip file")
    if not storage.exists(location):
        raise SourceError(f"there is no file {location}", remedy="check the path")
    return parse_table(
        storage.read_bytes(location),
        str(location),
        delimiter=delimiter,
        member=member,
        keep_text=keep_text,
        sniff=sniff,
    )


def parse_table(
    data: bytes,
    name: str,
    *,
    delimiter: str = ",",
    member: str | None = None,
    keep_text: Collection[str] = (),
    sniff: bool = False,
    packed: int | None = None,
) -> pl.DataFrame:
    """Turn the bytes of a file into a table.

    Args:
        data: The file's content.
        name: What to call it in messages.
        delimiter: Separator of a CSV.
        member: Which file of an archive to read; needed when it holds several.
        keep_text: Columns in which words such as ``None`` are values, not missing cells.
        sniff: Whether to take the most likely separator when `delimiter` splits nothing.
        packed: The file's bytes as it came, when `data` was in an archive.

    Returns:
        The table. Columns of a CSV are all text with missing cells as null (see `MISSING_TEXTS`);
        Parquet columns keep their type.

    Raises:
        SourceError: Empty, damaged, not text, of another delimiter, ragged, without rows, with
            duplicate column names or more than `MAX_COLUMNS` columns.
    """
    size = len(data) if packed is None else packed
    if data[:4] != b"PAR1":
        data = unpack(data, name, member)
    if data[:4] == b"PAR1":
        frame = _parse_parquet(data, name, size)
    else:
        if sniff and not _splits(data, delimiter):
            delimiter = sniff_delimiter(data)
        frame = _parse_csv(data, name, delimiter)
    if frame.height == 0:
        raise SourceError(f"{name} has a header but no rows", expected="at least one row")
    return _without_missing_texts(frame, keep_text)


def unpack(data: bytes, name: str, member: str | None = None) -> bytes:
    """Return the table's bytes: those in the archive, or `data` itself when it is none.

    Nothing is written to disk, so a member's path cannot lead anywhere.

    Raises:
        SourceError: The archive is damaged, too large once unpacked, or `member` is not in it.
    """
    if not data:
        raise SourceError(f"{name} is empty", expected="a table with a header and rows")
    try:
        if data[:2] == b"PK":
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                names = [item.filename for item in archive.infolist() if not item.is_dir()]
                with archive.open(_select(names, name, member)) as file:
                    return _read_limited(file, name)
        if data[:2] == b"\x1f\x8b":
            with gzip.open(io.BytesIO(data)) as file:
                data = _read_limited(file, name)
        if data[257:262] == b"ustar":
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


def sniff_delimiter(data: bytes) -> str:
    """Return which of `DELIMITERS` splits the header of a CSV into most fields."""
    header = _beginning(data)
    return max(DELIMITERS, key=lambda mark: len(_header_fields(header, mark)))


def _splits(data: bytes, delimiter: str) -> bool:
    return len(_header_fields(_beginning(data), delimiter)) > 1


def _beginning(data: bytes) -> str:
    return data[:1_000_000].decode("utf-8-sig", errors="replace").lstrip("\r\n")


def _select(names: list[str], archive: str, member: str | None) -> str:
    """Choose the file of an archive: `member`, by path or file name, or else the only table."""
    if member is not None:
        found = [n for n in names if n == member or Path(n).name == Path(member).name]
    else:
        visible = [n for n in names if not Path(n).name.startswith((".", "__MACOSX"))]
        tables = [n for n in visible if n.lower().endswith((".csv", ".tsv", ".txt", ".parquet"))]
        found = tables if tables else visible
    if len(found) == 1:
        return found[0]
    raise SourceError(
        f"cannot tell which file of the archive {archive} is the table",
        expected=f"the member {member!r}" if member else "exactly one table",
        got=", ".join(sorted(names)[:10]) or "an empty archive",
        remedy="set `source.member` in the contract",
    )


def _read_limited(file: IO[bytes] | gzip.GzipFile, name: str) -> bytes:
    data = file.read(MAX_UNPACKED_BYTES + 1)
    if len(data) > MAX_UNPACKED_BYTES:
        raise SourceError(
            f"the archive {name} is too large once unpacked",
            expected=f"at most {MAX_UNPACKED_BYTES} bytes",
            remedy="unpack it yourself and name the file inside",
        )
    return data


def _parse_parquet(data: bytes, name: str, size: int) -> pl.DataFrame:
    """Decode a Parquet file of `size` bytes as it came, once it is known to fit into memory."""
    import pyarrow as pa

    if data[-4:] != b"PAR1":
        raise SourceError(f"the Parquet file {name} is cut short", remedy="copy it again")
    try:
        ParquetTable(io.BytesIO(data)).check_whole(name, size)
        names = [plain_name(field) for field in pl.read_parquet_schema(io.BytesIO(data))]
        _check_names(names, name)
        frame = pl.read_parquet(io.BytesIO(data))
        frame.columns = names
        return frame
    except SourceError as error:
        raise SourceError(
            error.message
            if name in error.message
            else error.message.replace("the Parquet file", f"the Parquet file {name}", 1),
            expected=error.expected, got=error.got, remedy=error.remedy,
        ) from None  # fmt: skip
    except (pl.exceptions.PolarsError, pa.ArrowException, OSError) as error:
        raise SourceError(
            f"the Parquet file {name} is damaged: {error}", remedy="copy it again"
        ) from error


def _parse_csv(data: bytes, name: str, delimiter: str) -> pl.DataFrame:
    _check_text(data, name)
    data = data.removeprefix(b"\xef\xbb\xbf").lstrip(b"\r\n")
    if not data.strip():
        raise SourceError(f"{name} is empty", expected="a table with a header and rows")
    if b"\n" not in data:
        data = data.replace(b"\r", b"\n")  # line ends of classic Mac OS
    if not data.endswith(b"\n"):
        data += b"\n"
    ends, separators = _records(data, name, delimiter)
    header = data[: ends[0] + 1].decode()
    names = [plain_name(field.strip()) for field in _header_fields(header, delimiter)]
    names = [field or f"unnamed_{i + 1}" for i, field in enumerate(names)]
    _check_delimiter(header, names, name, delimiter)
    _check_names(names, name)
    blank = _blank_records(data, ends)
    _check_widths(ends, separators, blank, len(names), name)
    if blank.all():
        raise SourceError(f"{name} has a header but no rows", expected="at least one row")
    if blank.any():
        filled = np.flatnonzero(~blank)
        body = b"".join(data[ends[i] + 1 : ends[i + 1] + 1] for i in filled)
    else:
        body = data[ends[0] + 1 :]
    return _read_body(body, names, int((~blank).sum()), name, delimiter)


def _read_body(body: bytes, names: list[str], rows: int, name: str, delimiter: str) -> pl.DataFrame:
    """Split the lines below the header into cells of text."""
    try:
        frame = pl.read_csv(
            body, has_header=False, separator=delimiter, schema=dict.fromkeys(names, pl.String)
        )
    except pl.exceptions.PolarsError as error:
        raise SourceError(
            f"{name} cannot be split into cells: {str(error).splitlines()[0]}",
            remedy="put cells that hold quotes into quotes, and double the quotes inside",
        ) from error
    if frame.height != rows:  # a quote in the middle of a cell is read differently by some
        raise SourceError(
            f"{name} can be split into rows in more than one way",
            expected=f"{rows} rows",
            got=str(frame.height),
            remedy="put cells with quotes into quotes, and double the quotes inside",
        )
    return frame


def _check_text(data: bytes, name: str) -> None:
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise SourceError(f"{name} is UTF-16", expected="UTF-8", remedy="convert it with iconv")
    if b"\x00" in data:
        raise SourceError(
            f"{name} is not a table that can be read",
            expected="CSV, Parquet, tar, tar.gz, gz or zip",
            got="binary data",
        )
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SourceError(
            f"{name} is not UTF-8 text",
            got=f"byte {data[error.start]:#04x} in line {line}",
            remedy=f"convert it, for example with `iconv -f latin1 -t utf-8 {Path(name).name}`",
        ) from None


def _records(data: bytes, name: str, delimiter: str) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the positions of the line ends and of the separators that are not in quotes."""
    codes = np.frombuffer(data, dtype=np.uint8)
    breaks, marks = codes == ord("\n"), codes == ord(delimiter)
    if b'"' in data:
        # modulo 256 keeps the parity: odd means inside quotes ("" inside them toggles twice)
        outside = (np.cumsum(codes == ord('"'), dtype=np.uint8) & 1) == 0
        if not outside[-1]:
            raise SourceError(f"in {name} a quote is opened and never closed",
                              remedy="double the quotes inside quoted cells")  # fmt: skip
        breaks, marks = breaks & outside, marks & outside
    return np.flatnonzero(breaks), np.flatnonzero(marks)


def _header_fields(header: str, delimiter: str) -> list[str]:
    return next(csv_rows(io.StringIO(header), delimiter), [])


def _check_delimiter(header: str, names: list[str], name: str, delimiter: str) -> None:
    best = max(DELIMITERS, key=lambda mark: len(_header_fields(header, mark)))
    count = len(_header_fields(header, best))
    if len(names) == 1 and count > 1:
        raise SourceError(
            f"{name} has a single column when split at {_SHOWN.get(delimiter, delimiter)!r}",
            got=f"{count} columns when split at {_SHOWN.get(best, best)!r}",
            remedy=f"set `source.delimiter` to {best!r} in the contract",
        )


def _check_names(names: list[str], name: str) -> None:
    if len(names) > MAX_COLUMNS:
        raise SourceError(
            f"{name} has too many columns",
            expected=f"at most {MAX_COLUMNS}",
            got=str(len(names)),
            remedy="keep the columns that say most about the target",
        )
    twice = sorted(field for field, count in Counter(names).items() if count > 1)
    if twice:
        raise SourceError(
            f"{name} has duplicate column names",
            got=", ".join(repr(field) for field in twice[:10]),
            remedy="rename or drop one of each",
        )


def _blank_records(data: bytes, ends: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Tell which records after the header are blank lines."""
    lengths = np.diff(ends) - 1
    before_end = np.frombuffer(data, dtype=np.uint8)[ends[1:] - 1]
    blank: NDArray[np.bool_] = (lengths == 0) | ((lengths == 1) & (before_end == ord("\r")))
    return blank


def _check_widths(
    ends: NDArray[np.intp],
    separators: NDArray[np.intp],
    blank: NDArray[np.bool_],
    columns: int,
    name: str,
) -> None:
    """Refuse rows with more or fewer cells than the header."""
    cells = np.diff(np.searchsorted(separators, ends)) + 1
    wrong = np.flatnonzero((cells != columns) & ~blank)
    if len(wrong):
        raise SourceError(
            f"{name} has {len(wrong)} ragged row(s)",
            expected=f"{columns} cells in each row, as in the header",
            got=f"{cells[wrong[0]]} in row {wrong[0] + 1} (the first below the header is 1)",
            remedy="fix the rows, or put cells that contain the separator in quotes",
        )


def _without_missing_texts(frame: pl.DataFrame, keep_text: Collection[str]) -> pl.DataFrame:
    """Turn the words for "missing" into null in the text columns not named in `keep_text`."""
    texts = [c for c, kind in frame.schema.items() if kind == pl.String]
    marks = {c: {""} if c in keep_text else MISSING_TEXTS for c in texts}
    return frame.with_columns(
        pl.when(pl.col(c).str.strip_chars().str.to_lowercase().is_in(sorted(marks[c])))
        .then(None)
        .otherwise(pl.col(c))
        .alias(c)
        for c in texts
    )
