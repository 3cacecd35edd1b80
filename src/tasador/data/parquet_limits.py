"""What a Parquet file would take in memory, found out before Arrow decodes any of it.

A few bytes of Parquet can stand for gigabytes: a compressed page, a dictionary of one long value
that every row repeats, a text that shares its beginning with the one before. Arrow believes what
the file declares, so the footer and the headers of the pages are read here first, without building
anything, and what is too large is refused. The rest is read in batches that fit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from tasador.core.errors import SourceError
from tasador.data.thrift import DamagedError, Struct, TooMuchError, read_struct

_I32, _I64, _TEXT, _LIST, _STRUCT = 5, 6, 8, 9, 12
_BYTE_ARRAY, _FIXED = 6, 7
_REPEATED = 2
_DICTIONARY_PAGE = 2
_DICTIONARIES, _DELTAS = frozenset({2, 8}), frozenset({5, 6, 7})
_DELTA_TEXTS = 7
#: Readers of old files look this far behind the declared end of a column.
_SLACK = 100
_HEADS = (4096, 1 << 20)
_LISTS_OF_CHUNKS = ((2, _I32), (3, _TEXT), (8, _STRUCT), (13, _STRUCT))


@dataclass(frozen=True)
class ParquetLimits:
    """How much of a file may be in memory.

    Attributes:
        footer_bytes: Longest footer.
        footer_values: Most values in the footer; each costs Arrow up to 300 bytes.
        page_bytes: Most bytes of the pages that are open at once, one or two a column.
        batch_bytes: Most bytes that the long values of one batch may have.
    """

    footer_bytes: int
    footer_values: int
    page_bytes: int
    batch_bytes: int


#: For what clients of the service send, and for files that a command is given.
UPLOADED = ParquetLimits(4 << 20, 200_000, 48 << 20, 16 << 20)
NAMED = ParquetLimits(256 << 20, 20_000_000, 1 << 30, 256 << 20)


@dataclass(frozen=True)
class _Leaf:
    """A column of the file: the name of its outermost field, and whether it lies within others."""

    name: str
    nested: bool
    kind: int
    length: int


class ParquetFacts:
    """What a Parquet file declares of itself.

    Args:
        file: The file; it is left at another place.
        limits: How much may be in memory.
        wanted: Tells by a column's name whether it will be read.

    Attributes:
        dictionaries: Columns of texts to read as dictionaries: each value is then decoded once.
        groups: How many rows each row group declares.

    Raises:
        SourceError: It is no Parquet file, or its footer is too large.
    """

    def __init__(
        self, file: BinaryIO, limits: ParquetLimits, wanted: Callable[[str], bool]
    ) -> None:
        self._file, self._limits = file, limits
        footer = _footer(file, limits)
        leaves = _leaves(_members(footer, 2, _STRUCT))
        self._leaves = [(i, leaf) for i, leaf in enumerate(leaves) if wanted(leaf.name)]
        for _, leaf in self._leaves:
            if leaf.nested:
                raise SourceError(
                    f"the column {leaf.name[:100]!r} holds lists or objects",
                    expected="one value in each row",
                    got="nested values",
                )
        row_groups = _members(footer, 4, _STRUCT)
        self.groups = [int(group.get((3, _I64), 0)) for group in row_groups]
        self._chunks = [_chunks(group) for group in row_groups]
        self.dictionaries = [leaf.name for i, leaf in self._leaves if self._is_dictionary(i, leaf)]

    def _is_dictionary(self, position: int, leaf: _Leaf) -> bool:
        chunks = [chunks[position] for chunks in self._chunks if position < len(chunks)]
        encodings = {one for chunk in chunks for one in _members(chunk, 2, _I32)}
        return (
            leaf.kind == _BYTE_ARRAY
            and not encodings & _DELTAS
            and (bool(encodings & _DICTIONARIES) or any((11, _I64) in chunk for chunk in chunks))
        )

    def rows_at_once(self, group: int, most: int, as_dictionaries: Sequence[str]) -> int:
        """Return how many rows of a row group may be decoded at once, at most `most`.

        Args:
            group: Its number.
            most: How many rows are wanted.
            as_dictionaries: Columns that are really read as dictionaries.

        Raises:
            SourceError: Its pages are damaged or too large; none of it may be decoded.
        """
        row_bytes = self.check_pages(group, as_dictionaries)
        if row_bytes > self._limits.batch_bytes:
            raise SourceError(
                "the Parquet file takes too much memory",
                expected=f"rows of at most {self._limits.batch_bytes >> 20} MiB",
                got=f"up to {row_bytes >> 20} MiB in a row",
                remedy="shorten the values",
            )
        return min(most, self._limits.batch_bytes // row_bytes) if row_bytes else most

    def check_pages(self, group: int, as_dictionaries: Sequence[str] = ()) -> int:
        """Refuse pages that are too large; returns the most bytes of the long values in a row.

        Raises:
            SourceError: As for `rows_at_once`.
        """
        open_bytes, row_bytes = 0, 0
        for position, leaf in self._leaves:
            if position >= len(self._chunks[group]):
                raise _damaged("a row group lacks columns")
            largest, dictionary, repeats = self._pages(self._chunks[group][position])
            open_bytes += largest + dictionary
            if open_bytes > self._limits.page_bytes:
                raise SourceError(
                    "the Parquet file takes too much memory",
                    expected=f"pages of at most {self._limits.page_bytes >> 20} MiB in all columns",
                    got=f"{open_bytes >> 20} MiB up to the column {leaf.name[:100]!r}",
                    remedy="write it with smaller pages, or as CSV",
                )
            if leaf.kind == _FIXED:
                row_bytes += max(0, leaf.length)
            elif leaf.kind == _BYTE_ARRAY and repeats and leaf.name not in as_dictionaries:
                row_bytes += max(largest, dictionary)
        return row_bytes

    def _pages(self, chunk: Struct) -> tuple[int, int, bool]:
        """Return the bytes of a chunk's largest data page and of its largest dictionary, unpacked.

        And whether one stored value can stand in many rows.
        """
        at, dictionary_at = chunk.get((9, _I64), -1), chunk.get((11, _I64), 0)
        if 0 < dictionary_at < at:
            at = dictionary_at
        end, left = at + chunk.get((7, _I64), 0), chunk.get((5, _I64), 0)
        largest, dictionary, repeats = 0, 0, False
        while left > 0 and at < end + _SLACK:
            found = self._page_header(at)
            if found is None:
                if at >= end:
                    break
                raise _damaged("the header of a page cannot be read")
            header, length = found
            packed, plain = header.get((3, _I32), -1), header.get((2, _I32), -1)
            if packed < 0 or plain < 0:
                raise _damaged("a page has no size")
            size = max(packed, plain)
            if header.get((1, _I32)) == _DICTIONARY_PAGE:
                dictionary, repeats = max(dictionary, size), True
            else:
                largest = max(largest, size)
                data = header.get((5, _STRUCT)) or header.get((8, _STRUCT)) or {}
                left -= max(0, data.get((1, _I32), 0))
                encodings = {data.get((2, _I32)), data.get((4, _I32))}
                repeats = repeats or _DELTA_TEXTS in encodings
            at += length + packed
        return largest, dictionary, repeats

    def _page_header(self, at: int) -> tuple[Struct, int] | None:
        for size in _HEADS:
            self._file.seek(max(0, at))
            head = self._file.read(size)
            try:
                return read_struct(head, 10_000)
            except (DamagedError, TooMuchError):
                if len(head) < size:
                    break
        return None


def _footer(file: BinaryIO, limits: ParquetLimits) -> Struct:
    size = file.seek(0, 2)
    if size < 12:
        raise _damaged(f"{size} bytes")
    file.seek(size - 8)
    tail = file.read(8)
    length = int.from_bytes(tail[:4], "little")
    if tail[4:] != b"PAR1" or length > size - 12:
        raise _damaged("no footer at its end")
    too_large = SourceError(
        "the Parquet file has too large a footer",
        expected=f"at most {limits.footer_bytes >> 20} MiB and {limits.footer_values} values",
        got=f"{length} bytes",
        remedy="write fewer columns or larger row groups",
    )
    if length > limits.footer_bytes:
        raise too_large
    file.seek(size - 8 - length)
    try:
        footer = read_struct(file.read(length), limits.footer_values)[0]
        for number in (5, 7):
            _members(footer, number, _STRUCT)
        return footer
    except TooMuchError:
        raise too_large from None
    except DamagedError:
        raise _damaged("a footer that cannot be read") from None


def _members(struct: Struct, number: int, kind: int) -> list[Any]:
    """Return a list of `kind`; Arrow reads members as it expects them, whatever the file says."""
    found = struct.get((number, _LIST), [])
    if found and found.kind != kind:
        raise _damaged("a footer with a list of another type")
    return list(found)


def _chunks(group: Struct) -> list[Struct]:
    """Return what is said of each column in a row group."""
    found = []
    _members(group, 4, _STRUCT)
    for chunk in _members(group, 1, _STRUCT):
        if (8, _STRUCT) in chunk:
            raise _damaged("an encrypted column")
        about = chunk.get((3, _STRUCT), {})
        for number, kind in _LISTS_OF_CHUNKS:
            _members(about, number, kind)
        for number, kind in ((2, _I64), (3, _I64)):
            _members(about.get((16, _STRUCT), {}), number, kind)
        _members(about.get((17, _STRUCT), {}), 2, _I32)
        found.append(about)
    return found


def _leaves(elements: Sequence[Any]) -> Iterator[_Leaf]:
    """Yield the columns in order from the flattened tree of the schema."""
    waiting: list[int] = []  # fields still to come at each level
    outermost = ""
    for place, element in enumerate(elements):
        name = element.get((4, _TEXT), b"").decode("utf-8", "replace")
        children = element.get((5, _I32), 0)
        if place == 0:
            waiting.append(children)
            continue
        while waiting and waiting[-1] <= 0:
            waiting.pop()
        if not waiting or len(waiting) > 50:
            raise _damaged("a schema that cannot be read")
        waiting[-1] -= 1
        if len(waiting) == 1:
            outermost = name
        if children > 0:
            waiting.append(children)
            continue
        nested = len(waiting) > 1 or element.get((3, _I32)) == _REPEATED
        yield _Leaf(outermost, nested, element.get((1, _I32), -1), element.get((2, _I32), 0))


def _damaged(got: str) -> SourceError:
    return SourceError(
        "the Parquet file is damaged", expected="a whole Parquet file", got=got,
        remedy="write or copy it again",
    )  # fmt: skip
