"""A whole text table, CSV of any form, as columns of text.

Every cell is read as text, so that a word in a number column reaches the validation instead of
being lost here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tasador.contract.model import Source
from tasador.data.archives import detect_encoding
from tasador.data.errors import UnreadableTableError
from tasador.data.text.extra_rows import FOOT, is_footnote, lines_below_note, runs
from tasador.data.text.text_format import HEAD_BYTES, TextFormat, detect

#: Below this share, rows with too few or too many cells are left out; above it they are an error.
_RAGGED_SHARE = 0.01
_ENCODINGS = {
    "cp1252": "Windows-1252", "latin-1": "Latin-1", "cp1251": "Windows-1251 (Cyrillic)",
    "cp1253": "Windows-1253 (Greek)", "cp932": "Shift JIS (Japanese)", "euc_kr": "EUC-KR (Korean)",
    "gb18030": "GB 18030 (Chinese)",
}  # fmt: skip


@dataclass(frozen=True)
class TextTable:
    """What a text holds.

    Attributes:
        frame: Text columns, empty cells as null.
        form: How it is written.
        notes: What was decided, a sentence each.
    """

    frame: pl.DataFrame
    form: TextFormat
    notes: tuple[str, ...]


def read_text_table(
    data: bytes, name: str, source: Source, known: tuple[str, ...] = ()
) -> TextTable:
    """Split a text into cells.

    Args:
        data: The text's bytes.
        name: What to call it in messages.
        source: What is known of its form; the rest is detected.
        known: Names of columns by which the header is recognised.

    Raises:
        SourceError: Empty, no text, damaged, ragged, or without rows.
    """
    encoding = detect_encoding(data, name, source.encoding)
    notes = []
    if encoding in _ENCODINGS and source.encoding is None:
        notes.append(f"the text is not UTF-8: read as {_ENCODINGS[encoding]} ({encoding})")
    elif source.encoding is not None and encoding == "utf-8" and not data.isascii():
        notes.append(f"the text is UTF-8 and was read so, not as {source.encoding}")
    data = _unified_line_ends(_as_utf8(data, encoding, name))
    if not data.strip():
        raise UnreadableTableError.empty(name)
    if not data.endswith(b"\n"):
        data += b"\n"
    cut = len(data) > HEAD_BYTES
    head = data[:HEAD_BYTES].decode("utf-8", errors="replace")
    form = detect(head, name, encoding=encoding, source=source, known=known, cut=cut)
    if len(set(form.names)) < len(form.names):
        twice = {one for one in form.names if form.names.count(one) > 1}
        raise UnreadableTableError.duplicate_names(name, twice)
    body = data[len(head[: form.body].encode()) :]
    frame, more = _read_body(body, form, name)
    return TextTable(frame, replace(form, encoding=encoding), (*notes, *form.notes, *more))


def _as_utf8(data: bytes, encoding: str, name: str) -> bytes:
    if encoding == "utf-8":
        return data.removeprefix(b"\xef\xbb\xbf")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        found = data[error.start : error.start + 2].hex(" ")
        raise UnreadableTableError.not_encoded(name, encoding, found, line) from None
    if "\x00" in text:
        raise UnreadableTableError.binary(name)
    return text.encode("utf-8", errors="replace")


def _unified_line_ends(data: bytes) -> bytes:
    r"""Return a text in which every line outside quotes ends in ``\n`` or ``\r\n``."""
    if data.count(b"\r") == data.count(b"\r\n"):
        return data
    if b'"' not in data:
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    codes = np.frombuffer(data + b"\n", dtype=np.uint8).copy()
    inside = (np.cumsum(codes == ord('"'), dtype=np.uint8) & 1) == 1
    lone = np.flatnonzero((codes[:-1] == ord("\r")) & (codes[1:] != ord("\n")) & ~inside[:-1])
    codes[lone] = ord("\n")
    return codes[:-1].tobytes()


def _read_body(body: bytes, form: TextFormat, name: str) -> tuple[pl.DataFrame, list[str]]:
    no_rows = UnreadableTableError.no_rows(name)
    if not body.strip(b"\r\n"):
        raise no_rows
    quotes = _has_quotes(body, form.delimiter)
    ends, separators = _records(body, name, form.delimiter, quotes)
    starts = np.concatenate(([0], ends[:-1] + 1))
    keep = ~_blank_records(body, starts, ends)
    cells = np.diff(np.searchsorted(separators, ends), prepend=0) + 1
    if not keep.any():
        raise no_rows
    notes = _leave_ragged_out(body, starts, ends, cells, keep, form, name)
    if not keep.any():
        raise no_rows
    kept = body
    if not keep.all():
        kept = b"".join(body[starts[a] : ends[b - 1] + 1] for a, b in runs(keep))
    frame = _split(kept, list(form.names), int(keep.sum()), name, form.delimiter, quotes)
    return frame, notes


def _has_quotes(body: bytes, delimiter: str) -> bool:
    """Tell whether a cell begins with a quote; within cells they are marks, such as of inches."""
    if b'"' not in body:
        return False
    return bool(re.search(rb"(?:\A|[\r\n" + re.escape(delimiter.encode()) + rb']) *"', body))


def _split(
    body: bytes, names: list[str], rows: int, name: str, delimiter: str, quotes: bool
) -> pl.DataFrame:
    """Split rows into cells of text."""
    try:
        frame = pl.read_csv(
            body,
            has_header=False,
            separator=delimiter,
            quote_char='"' if quotes else None,
            schema=dict.fromkeys(names, pl.String),
        )
    except pl.exceptions.PolarsError as error:
        reason = str(error).splitlines()[0]
        problem = f"{name} cannot be split into cells: {reason}"
        raise UnreadableTableError.not_split(problem) from error
    if frame.height != rows:  # a quote in the middle of a cell is read differently by some
        problem = f"{name} can be split into rows in more than one way"
        raise UnreadableTableError.not_split(problem, f"{rows} rows", str(frame.height))
    return frame


def _records(
    data: bytes, name: str, delimiter: str, quotes: bool
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the positions of the line ends and of the separators that are not in quotes."""
    codes = np.frombuffer(data, dtype=np.uint8)
    breaks, marks = codes == ord("\n"), codes == ord(delimiter)
    if quotes:
        # modulo 256 keeps the parity: odd means inside quotes ("" inside them toggles twice)
        outside = (np.cumsum(codes == ord('"'), dtype=np.uint8) & 1) == 0
        if not outside[-1]:
            raise UnreadableTableError.not_split(f"in {name} a quote is opened and never closed")
        breaks, marks = breaks & outside, marks & outside
    return np.flatnonzero(breaks), np.flatnonzero(marks)


def _blank_records(
    data: bytes, starts: NDArray[np.intp], ends: NDArray[np.intp]
) -> NDArray[np.bool_]:
    """Tell which records are blank lines."""
    lengths = ends - starts
    first = np.frombuffer(data, dtype=np.uint8)[starts]
    blank: NDArray[np.bool_] = (lengths == 0) | ((lengths == 1) & (first == ord("\r")))
    return blank


def _leave_ragged_out(
    body: bytes,
    starts: NDArray[np.intp],
    ends: NDArray[np.intp],
    cells: NDArray[np.intp],
    keep: NDArray[np.bool_],
    form: TextFormat,
    name: str,
) -> list[str]:
    """Take rows with more or fewer cells than the header out of `keep`, or refuse the file.

    Lines below the table are no rows; of the others few may be ragged.
    """
    columns, notes = len(form.names), []
    wrong = np.flatnonzero((cells != columns) & keep)
    for row in wrong[cells[wrong] == 1]:
        keep[row] = bool(body[starts[row] : ends[row]].strip())  # a line of blanks is no row
    wrong = wrong[keep[wrong]]
    if not len(wrong):
        return []
    below: list[int] = []
    for row in np.flatnonzero(keep)[::-1][:FOOT]:
        line = body[starts[row] : ends[row]].decode().strip().strip(form.delimiter)
        if cells[row] == columns or (form.delimiter in line and not is_footnote(line)):
            break
        below.append(int(row))
    if below and keep.sum() > len(below):
        keep[below] = False
        shown = body[starts[below[-1]] : ends[below[-1]]].decode().strip(form.delimiter + "\r\n ")
        notes.append(lines_below_note(len(below), shown))
        wrong = wrong[keep[wrong]]
    if not len(wrong):
        return notes
    first = f"{cells[wrong[0]]} in row {wrong[0] + 1} (the first below the header is 1)"
    if len(wrong) >= _RAGGED_SHARE * keep.sum():
        raise UnreadableTableError.ragged(name, len(wrong), columns, first)
    keep[wrong] = False
    rows = f"{len(wrong)} row" + ("s" if len(wrong) > 1 else "")
    notes.append(
        f"{rows} left out for having more or fewer cells than the header's {columns}: {first}"
    )
    return notes
