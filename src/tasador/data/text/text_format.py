"""The form of a text table: its encoding, how cells are separated, where the header is.

Every reader of CSV asks this module: training, `predict`, `score`, uploads and `monitor`. It looks
at the beginning of a file only and needs neither polars nor pyarrow.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from tasador.contract.model import Source, TableContract, plain_name
from tasador.core.errors import SourceError
from tasador.data.archives import detect_encoding
from tasador.data.errors import UnreadableTableError
from tasador.data.text.decimal_commas import columns_with_commas

#: How much of a file is looked at; a header above this would be held in memory whole.
HEAD_BYTES = 1 << 20
DELIMITERS = (",", ";", "\t", "|")
SHOWN_DELIMITERS = {"\t": "tab", " ": "space"}
#: Longest cell: Python's own limit of 128 KiB refuses a long text beside the row's values, and none
#: at all would let one quote that is never closed take the whole file into memory.
_LONGEST_CELL = 1 << 24
_NUMBER = re.compile(
    r"[^\w\s,;.+-]{0,3}\s?[+-]?\s?[^\w\s,;.]{0,3}(?:\d[\d.,'\u00a0\u202f ]*|[.,]\d+)(?:e[+-]?\d+)?"
    r"\s?[^\w\s]{0,2}",
    re.I,
)
_DATE = re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}(?:[ T]\d.*)?|\d{1,2}:\d{2}(?::\d{2}.*)?")
_SEP_LINE = re.compile(r'"?sep=(.)"?,*;*\s*\r?\n?', re.I)
#: Records that are looked at, and those among which the header is looked for.
_SAMPLE, _HEADER_WITHIN = 200, 50
_SAMPLE_CHARACTERS = 1 << 16
_MOST = 0.9


@dataclass(frozen=True)
class TextFormat:
    """How a text table is written.

    Attributes:
        names: The columns by `plain_name`; each once, unless names were known (`unique_names`).
        header: The header's cells as written; empty without a header.
        header_row: Line of the header, from 1; None without one.
        records: Records before the first row, blank lines left out.
        encoding: The codec's name; a byte order mark is the codec's own to read.
        delimiter: What separates cells.
        body: Characters of the decoded text before the first row.
        skipped: What is written above the header.
        looks_like_data: Whether the header has the looks of a row.
        notes: What was decided, a sentence each.
    """

    names: tuple[str, ...]
    header: tuple[str, ...]
    header_row: int | None
    records: int
    encoding: str = "utf-8"
    delimiter: str = ","
    body: int = 0
    skipped: tuple[str, ...] = ()
    looks_like_data: bool = False
    notes: tuple[str, ...] = ()


def csv_rows(lines: Iterable[str], delimiter: str = ",") -> Any:
    """Return a `csv.reader` of `lines` for cells of up to 16 MiB."""
    allow_long_cells()
    return csv.reader(lines, delimiter=delimiter)


def allow_long_cells() -> None:
    """Let this process's `csv` readers take cells of up to 16 MiB."""
    csv.field_size_limit(_LONGEST_CELL)


def known_names(contract: TableContract) -> tuple[str, ...]:
    """Return the names by which the header of a file for this contract is recognised."""
    return (*(column.name for column in contract.columns), contract.target.name)


@dataclass(frozen=True)
class Beginning:
    """The beginning of a file that is read row by row.

    Attributes:
        form: How the file is written.
        offset: Bytes before its first row, of the text as UTF-8 without a byte order mark.
        rows: The part of the beginning that is rows.
        commas: Columns whose numbers have a decimal comma; see `columns_with_commas`.
    """

    form: TextFormat
    offset: int
    rows: str
    commas: frozenset[str] = frozenset()


def detect_beginning(head: bytes, name: str, contract: TableContract) -> Beginning:
    """Find out how a file is written from its first `HEAD_BYTES` bytes.

    Raises:
        SourceError: It is empty or no text, or its header is too long.
    """
    cut = len(head) >= HEAD_BYTES
    hint = contract.source.encoding
    encoding = detect_encoding(head, name, hint, beginning=True)
    if hint is not None and cut and head.isascii():
        encoding = hint  # other characters come later, if any do
    decoder = codecs.getincrementaldecoder("utf-8-sig" if encoding == "utf-8" else encoding)
    errors = "surrogateescape" if encoding == "utf-8" else "replace"
    text = decoder(errors=errors).decode(head, final=not cut)
    form = detect(
        text, name, encoding=encoding, source=contract.source, known=known_names(contract), cut=cut
    )
    offset = len(text[: form.body].encode("utf-8", errors="surrogateescape"))
    names = tuple(
        one.encode("utf-8", errors="surrogateescape").decode("utf-8", errors="replace")
        for one in form.names
    )
    rows = text[form.body :]
    cells = csv_rows(rows.splitlines(), form.delimiter)
    commas = columns_with_commas(names, cells, form.delimiter, contract)
    if commas:
        form = replace(form, notes=(*form.notes, "numbers are read with a decimal comma"))
    return Beginning(replace(form, names=names), offset, rows, commas)


def detect(
    text: str,
    name: str,
    *,
    encoding: str = "utf-8",
    source: Source | None = None,
    known: Collection[str] = (),
    cut: bool = False,
) -> TextFormat:
    """Find out how a text table is written from its beginning.

    Args:
        text: The beginning, decoded, without a byte order mark.
        name: What to call the file in messages.
        encoding: How it was decoded.
        source: What is known of the file. A delimiter other than ``,`` is followed; so is
            `header_row`, unless another line holds more of the `known` names.
        known: Names of columns by which the header is recognised.
        cut: Whether the text goes on.

    Raises:
        SourceError: There is nothing in it, or its header is too long.
    """
    source = source or Source()
    records = _Records(text, cut, name)
    if not records.texts:
        raise UnreadableTableError.empty(name)
    delimiter = records.separator or (None if source.delimiter == "," else source.delimiter)
    marks = DELIMITERS if delimiter is None else tuple(dict.fromkeys((delimiter, *DELIMITERS)))
    named = _by_names(records.texts, marks, known)
    if named is not None:
        delimiter = named[0]
    elif delimiter is None:
        delimiter = _best_delimiter(records.texts)
    rows = [_cells(record, delimiter) for record in records.texts]
    at = _position(rows, records.lines, name, source) if named is None else named[1]
    if at is None:
        form = _without_header(rows)
        start = records.ends[0] - len(records.texts[0])
    else:
        form, start = _with_header(rows, records.lines, at, known), 0
    body = records.ends[form.records - 1] if form.records else start
    return replace(form, encoding=encoding, delimiter=delimiter, body=body)


def detect_in_rows(
    rows: Sequence[Sequence[str]],
    lines: Sequence[int],
    name: str,
    *,
    source: Source,
    known: Collection[str] = (),
) -> TextFormat:
    """Find out where the header of a sheet is; see `detect`.

    Args:
        rows: The cells of the first rows that hold anything, as texts.
        lines: By row: its number in the sheet, from 1.
        name: What to call the file in messages.
        source: What is known of the file.
        known: Names of columns by which the header is recognised.
    """
    cells = [list(row) for row in rows]
    names = set(known)
    hits = [len(names.intersection(map(plain_name, row))) for row in cells[:_HEADER_WITHIN]]
    at = hits.index(max(hits)) if any(hits) else _position(cells, lines, name, source)
    return _without_header(cells) if at is None else _with_header(cells, lines, at, known)


def _position(
    rows: Sequence[Sequence[str]], lines: Sequence[int], name: str, source: Source
) -> int | None:
    """Return which row is the header; None when the source says that there is none."""
    if source.has_header is False:
        return None
    if source.header_row is None:
        return _header_position(rows, _width(rows))
    if source.header_row in lines:
        return lines.index(source.header_row)
    raise SourceError(
        f"{name} has no header in line {source.header_row}",
        expected="`source.header_row`: the number of the line with the column names",
        got=f"a blank line, or one beyond the first {_SAMPLE} rows",
        remedy="correct it, or leave it out to have the header found",
    )


class _Records:
    """The first records of a text: lines, joined where a quote is open at their end."""

    def __init__(self, text: str, cut: bool, name: str) -> None:
        self.separator: str | None = None
        self.texts: list[str] = []
        self.lines: list[int] = []  # by record: its first line
        self.ends: list[int] = []  # by record: characters up to its end
        position, line = 0, 1
        named = _SEP_LINE.fullmatch(text[: (_end_of_line(text, 0))])
        if named is not None:
            self.separator = named[1]
            position, line = named.end(), 2
        while (
            position < len(text)
            and len(self.texts) < _SAMPLE
            and (position < _SAMPLE_CHARACTERS or len(self.texts) < _HEADER_WITHIN // 2)
        ):
            end = _end_of_record(text, position)
            record = text[position:end]
            if record.strip("\r\n \ufeff"):
                self.texts.append(record)
                self.lines.append(line)
                self.ends.append(end)
            line += max(1, record.count("\n") + record.count("\r") - record.count("\r\n"))
            position = end
        if cut and position >= len(text):
            if len(self.texts) == 1:
                raise SourceError(
                    f"{name} is no table",
                    expected="a line of column names",
                    got=f"a first line of more than {HEAD_BYTES} bytes",
                )
            for kept in (self.texts, self.lines, self.ends):
                del kept[-1:]


def _end_of_line(text: str, start: int) -> int:
    found = re.compile(r"\r\n|\n|\r").search(text, start)
    return len(text) if found is None else found.end()


def _end_of_record(text: str, start: int) -> int:
    """Return where a record ends: the first line end at which no quote is open."""
    first = end = _end_of_line(text, start)
    quotes = text.count('"', start, end)
    while quotes % 2 and end < len(text):
        before, end = end, _end_of_line(text, end)
        quotes += text.count('"', before, end)
    return end if quotes % 2 == 0 else first  # a quote that is never closed is a mark of inches


def _cells(record: str, delimiter: str) -> list[str]:
    try:
        return [cell.strip() for cell in next(csv_rows(io.StringIO(record, newline=""), delimiter))]
    except (csv.Error, StopIteration):
        return [cell.strip() for cell in record.strip().split(delimiter)]


def _by_names(
    records: Sequence[str], marks: Sequence[str], known: Collection[str]
) -> tuple[str, int] | None:
    """Return the delimiter and the record that give most of the known names; None without any."""
    names = set(known)
    best: tuple[int, str, int] | None = None
    for mark in marks if names else ():
        for position, record in enumerate(records[:_HEADER_WITHIN]):
            hits = len(names.intersection(map(plain_name, _cells(record, mark))))
            if hits and (best is None or hits > best[0]):
                best = (hits, mark, position)
    return None if best is None else best[1:]


def _best_delimiter(records: Sequence[str]) -> str:
    """Return the delimiter that splits the records into the same number of cells most evenly."""
    shapes = {mark: _shape([_cells(record, mark) for record in records]) for mark in DELIMITERS}
    even = {mark: width for mark, (width, share) in shapes.items() if share >= _MOST and width > 1}
    others = [width for mark, width in even.items() if mark != ","]
    if "," in even and others and even[","] <= max(others) + 1 and _decimal_commas(records, even):
        del even[","]
    titled = len(_cells(records[0], ",")) == 1
    if set(even) == {","} and titled and _decimal_commas(records, even):
        if _is_headed(records, even[","]):
            return ","
        return ";"  # one column of numbers
    if even:
        leading = {mark: _leading(records, mark, width) for mark, width in even.items()}
        return max(even, key=lambda mark: (even[mark], -leading[mark]))
    return max(shapes, key=lambda mark: (shapes[mark][0] - 1) * shapes[mark][1])


def _is_headed(records: Sequence[str], width: int) -> bool:
    """Tell whether commas separate as many names as cells, above the first row of numbers."""
    for record in records[:_HEADER_WITHIN]:
        cells = _cells(record, ",")
        if _is_row(cells):
            return False
        if len(cells) == width and all(cells):
            return True
    return False


def _leading(records: Sequence[str], mark: str, width: int) -> int:
    """Return the first record that a delimiter splits into so many cells."""
    return next((i for i, record in enumerate(records) if len(_cells(record, mark)) == width), 0)


def _shape(rows: Sequence[Sequence[str]]) -> tuple[int, float]:
    """Return the usual number of cells, and the share of the rows from its first on that have it.

    What is written above the table does not count.
    """
    widths = [len(row) for row in rows]
    counts = Counter(width for width in widths if width > 1)
    if not counts:
        return 1, 1.0
    width = max(counts, key=lambda one: (counts[one], one))
    after = len(widths) - widths.index(width)
    return width, counts[width] / after


def _decimal_commas(records: Sequence[str], even: dict[str, int]) -> bool:
    """Tell whether commas are parts of numbers, in rows that something else separates."""
    first = len(_cells(records[0], ","))
    body = "".join(records[1:]) or records[0]
    commas, decimal = body.count(","), len(re.findall(r"(?<=\d),(?=\d)", body))
    return decimal >= 0.95 * commas and (first != even[","] or _is_row(_cells(records[0], ";")))


def _width(rows: Sequence[Sequence[str]]) -> int:
    return _shape(rows)[0]


def _is_row(cells: Sequence[str]) -> bool:
    return any(_is_number(cell) for cell in cells)


def _is_number(cell: str) -> bool:
    return bool(_NUMBER.fullmatch(cell) or _DATE.fullmatch(cell))


def _filled(row: Sequence[str]) -> int:
    return sum(1 for cell in row if cell)


def _is_title(row: Sequence[str], width: int) -> bool:
    """Tell whether a row has the looks of a title: few of its cells hold anything."""
    if row and row[0].startswith("#") and len(row) != width:
        return True
    if width == 2 and len(row) == 2 and not row[0] and row[1]:
        return False  # the header of an index without a name
    return _filled(row) <= (width - 1 if len(row) < width - 1 else max(1, width // 2))


def _header_position(rows: Sequence[Sequence[str]], width: int) -> int:
    """Return which row is the header: the first one that is no title and holds names.

    The first row is taken where no other one will do.
    """
    if width == 1:
        return next((i for i, row in enumerate(rows) if not row[0].startswith("#")), 0)
    first = next((i for i, row in enumerate(rows[:_HEADER_WITHIN]) if not _is_title(row, width)), 0)
    if first == 0:
        return 1 if _is_group_header(rows) else 0
    if not any(_is_number(cell) for cell in rows[first]) or _counts_up(rows[first]):
        return first
    above = rows[first - 1]
    sparse = len(above) >= width - 1 and _filled(above) and not above[0].startswith("#")
    return first - 1 if (sparse and _filled(above) > 1) or (sparse and first == 1) else first


def _is_group_header(rows: Sequence[Sequence[str]]) -> bool:
    """Tell whether the first row names groups of columns, and the second one the columns."""
    if len(rows) < 4 or all(rows[0]) or len(rows[0]) != len(rows[1]) or not all(rows[1]):
        return False
    body = [row for row in rows[2:] if len(row) == len(rows[1])]
    columns = [[row[i] for row in body if row[i]] for i in range(len(rows[1]))]
    numeric = any(cells and all(map(_is_number, cells)) for cells in columns)
    return numeric and not any(map(_is_number, rows[1]))


def _counts_up(cells: Sequence[str]) -> bool:
    """Tell whether the numbers among names are a sequence such as years, which are names too."""
    numbers = [int(cell) for cell in cells if re.fullmatch(r"\d{1,4}", cell)]
    if len(numbers) < 2 or len(numbers) < sum(map(_is_number, cells)):
        return False
    steps = {after - before for before, after in pairwise(numbers)}
    return steps == {1} or (len(steps) == 1 and len(numbers) > 2 and steps.pop() > 0)


def _looks_like_data(header: Sequence[str], body: Sequence[Sequence[str]]) -> bool:
    """Tell whether the header holds what the rows below it hold."""
    if not body or _counts_up(header):
        return False
    columns = [[row[i] for row in body if row[i]] for i in range(len(header))]
    numeric = [
        i for i, cells in enumerate(columns)
        if cells and sum(map(_is_number, cells)) >= _MOST * len(cells)
    ]  # fmt: skip
    if numeric:
        return 2 * sum(_is_number(header[i]) for i in numeric) >= len(numeric)
    repeated = sum(1 for cell, cells in zip(header, columns, strict=True) if cell in cells)
    return len(body) > 2 and repeated > 0 and 2 * repeated >= len(header)


def _without_header(rows: Sequence[Sequence[str]]) -> TextFormat:
    width = _width(rows)
    first = next((i for i, row in enumerate(rows) if len(row) == width), 0)
    skipped = _shown_rows(rows[:first])
    return TextFormat(
        names=tuple(f"column_{i + 1}" for i in range(width)),
        header=(),
        header_row=None,
        records=first,
        skipped=skipped,
        notes=tuple(_skipped_note(skipped)),
    )


def _with_header(
    rows: Sequence[list[str]], lines: Sequence[int], at: int, known: Collection[str]
) -> TextFormat:
    header, body = rows[at], rows[at + 1 :]
    notes: list[str] = []
    skipped = _shown_rows(rows[:at])
    if skipped and not known:
        notes += _skipped_note(skipped, lines[at])
    header, note = _fitted_to_rows(header, body)
    notes += note
    comparable = [row for row in body if len(row) == len(header)]
    like_data = not known and _looks_like_data(header, comparable)
    if like_data:
        shown = ", ".join(cell for cell in header[:6])
        notes.append(
            f"the first row looks like data ({shown}{', ...' if len(header) > 6 else ''}) and was "
            "taken for the column names: if the file has no header, use --no-header "
            "(`source.has_header: false` in the contract)"
        )
    raw = tuple(header)
    if header[0].startswith("#") and len(header) > 1:
        header = [header[0].lstrip("# "), *header[1:]]
    return TextFormat(
        names=unique_names(header, known, comparable),
        header=raw,
        header_row=lines[at],
        records=at + 1,
        skipped=skipped,
        looks_like_data=like_data,
        notes=tuple(notes),
    )


def _fitted_to_rows(
    header: list[str], body: Sequence[Sequence[str]]
) -> tuple[list[str], list[str]]:
    """Return a header of as many cells as the rows have, where it is clear what the others are."""
    if not body:
        return header, []
    width = _width(body)
    rows = [row for row in body if len(row) == width]
    more = width - len(header)
    if len(rows) < _MOST * len(body) or more == 0:
        return header, []
    if more < 0 and not any(header[width:]):
        return header[:width], []
    if more > 0 and not any(any(row[len(header) :]) for row in rows):
        return [*header, *[""] * more], []
    firsts = [row[0] for row in rows]
    if (
        more == 1
        and len(header) > 1
        and len(set(firsts)) == len(firsts)
        and not any(_is_number(c) for c in header)
    ):
        note = (
            "the header has one name less than the rows have cells: the first column is taken "
            "for names of rows, as R writes them"
        )
        return ["", *header], [note]
    return header, []


def unique_names(
    header: Sequence[str], known: Collection[str] = (), rows: Sequence[Sequence[str]] = ()
) -> tuple[str, ...]:
    """Return each column's name; a repeated one gets a number: ``zone``, ``zone_2``.

    Where names are known, a repeated one is changed into a known one, or where `rows` show that
    both columns hold the same: that a file has two columns of one name is for its reader to refuse.
    """
    cells = [plain_name(cell.strip()) for cell in header]
    taken, seen = set(cells), set[str]()
    names = []
    for position, cell in enumerate(cells):
        name = cell or f"unnamed_{position + 1}"
        if name in seen:
            number = 2
            while f"{name}_{number}" in taken:
                number += 1
            new = f"{name}_{number}"
            if not known or new in known or _same(rows, cells.index(cell), position):
                name = new
        seen.add(name)
        taken.add(name)
        names.append(name)
    return tuple(names)


def _same(rows: Sequence[Sequence[str]], first: int, second: int) -> bool:
    return bool(rows) and all(row[first] == row[second] for row in rows)


def _shown_rows(rows: Sequence[Sequence[str]]) -> tuple[str, ...]:
    return tuple(" ".join(cell for cell in row if cell)[:80] for row in rows if any(row))


def _skipped_note(skipped: Sequence[str], line: int | None = None) -> Iterator[str]:
    if not skipped:
        return
    where = "" if line is None else f", the header is in line {line}"
    count = f"{len(skipped)} line" + ("s" if len(skipped) > 1 else "")
    yield f"{count} above the table left out ({skipped[0]!r}){where}"
