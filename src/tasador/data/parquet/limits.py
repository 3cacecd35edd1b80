"""What a Parquet file would take in memory, found out before Arrow decodes any of it.

A few bytes of Parquet can unpack to gigabytes: a compressed page, a dictionary of one long value
that every row repeats, a text that shares its beginning with the one before. Arrow believes what
the file declares, so the footer and the headers of the pages are read here first, without building
anything, and what is too large is refused. The rest is read in batches that fit.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

import numpy as np

from tasador.core.errors import SourceError
from tasador.data.parquet.thrift import DamagedError, Struct, TooMuchError, read_struct

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


#: How many times its own size a file may take in memory.
TIMES_SIZE = 100
#: Bytes that a value takes besides its text.
VALUE_BYTES = 16


@dataclass(frozen=True)
class ParquetLimits:
    """How much of a file may be in memory.

    Attributes:
        footer_bytes: Longest footer.
        footer_values: Most values in the footer; each costs Arrow up to 300 bytes.
        page_bytes: Most bytes of the pages that are open at once, one or two a column.
        batch_bytes: Most bytes that one batch may have. Where pages are larger, the pages that it
            lies in may have twice the bytes of the largest.
    """

    footer_bytes: int
    footer_values: int
    page_bytes: int
    batch_bytes: int

    def for_size(self, size: int) -> ParquetLimits:
        """Return the limits of a file of `size` bytes: a large one may have large pages."""
        return replace(self, page_bytes=self.page_bytes + TIMES_SIZE * size)


#: For what clients of the service send, and for files that a command is given.
UPLOADED = ParquetLimits(4 << 20, 200_000, 32 << 20, 16 << 20)
NAMED = ParquetLimits(64 << 20, 4_000_000, 12 << 20, 8 << 20)


@dataclass(frozen=True)
class _Leaf:
    """A column of the file: the name of its outermost field, and whether it lies within others."""

    name: str
    nested: bool
    kind: int
    length: int

    @property
    def width(self) -> int:
        """Bytes of a value, without those of a text of its own length."""
        if self.kind == _FIXED:
            return max(0, self.length) + VALUE_BYTES
        return VALUE_BYTES if self.kind == _BYTE_ARRAY else 8


@dataclass(frozen=True)
class _Pages:
    """A column's pages in one row group.

    Attributes:
        counts: How many values each data page has.
        sizes: Their bytes, unpacked.
        dictionary: The bytes of its largest dictionary.
        shared: Whether a value takes its beginning from the one before.
    """

    counts: Any
    sizes: Any
    dictionary: int
    shared: bool

    @property
    def largest(self) -> int:
        return int(self.sizes.max(initial=0))

    @property
    def values(self) -> int:
        return int(self.counts.sum())

    @property
    def bytes(self) -> int:
        return int(self.sizes.sum())

    @property
    def repeats(self) -> bool:
        return self.shared or self.dictionary > 0

    def most_bytes(self, rows: int) -> int:
        """Return the most bytes of the pages that any `rows` rows in a row lie in."""
        if not len(self.sizes):
            return 0
        ends = np.cumsum(self.counts)
        last = np.minimum(np.searchsorted(ends, ends + (rows - 1)), len(ends) - 1)
        return int((np.cumsum(self.sizes)[last] - np.cumsum(self.sizes) + self.sizes).max())


class ParquetFacts:
    """What a Parquet file declares of itself.

    Args:
        file: The file; it is left at another place.
        limits: How much may be in memory.

    Attributes:
        dictionaries: Columns of texts to read as dictionaries: each value is then decoded once.
        groups: How many rows each row group declares.

    Raises:
        SourceError: It is no Parquet file, or its footer is too large.
    """

    def __init__(self, file: BinaryIO, limits: ParquetLimits) -> None:
        self._file, self._limits = file, limits
        footer = _footer(file, limits)
        self._leaves = list(enumerate(_leaves(_members(footer, 2, _STRUCT))))
        row_groups = _members(footer, 4, _STRUCT)
        self.groups = [int(group.get((3, _I64), 0)) for group in row_groups]
        self._chunks = [_chunks(group) for group in row_groups]
        self._known: dict[int, _Pages] = {}
        self.dictionaries = self._dictionaries()

    def of_columns(self, names: Collection[str]) -> ParquetFacts:
        """Return the facts of some columns, the only ones that will be read.

        Raises:
            SourceError: One of them holds lists or objects.
        """
        narrowed = copy.copy(self)
        narrowed._leaves = [(i, leaf) for i, leaf in self._leaves if leaf.name in names]
        for _, leaf in narrowed._leaves:
            if leaf.nested:
                raise SourceError(
                    f"the column {leaf.name[:100]!r} holds lists or objects",
                    expected="one value in each row",
                    got="nested values",
                )
        narrowed.dictionaries = narrowed._dictionaries()
        return narrowed

    @property
    def names(self) -> set[str]:
        """The columns' names, as the file has them."""
        return {leaf.name for _, leaf in self._leaves}

    def on(self, file: BinaryIO) -> ParquetFacts:
        """Return the facts, with `file` as what the pages are looked up in."""
        other = copy.copy(self)
        other._file = file
        return other

    def _dictionaries(self) -> list[str]:
        return [leaf.name for i, leaf in self._leaves if self._is_dictionary(i, leaf)]

    def ranges(self, group: int) -> Iterator[tuple[int, int]]:
        """Yield the first byte of each column in a row group, and the one after its last."""
        for position, _ in self._leaves:
            if position >= len(self._chunks[group]):
                raise _damaged("a row group lacks columns")
            start, end = _place(self._chunks[group][position])
            yield start, end + _SLACK

    def repeated(self) -> list[str]:
        """Return the columns in which a stored text can stand in many rows."""
        found = []
        for position, leaf in self._leaves:
            chunks = [chunks[position] for chunks in self._chunks if position < len(chunks)]
            if leaf.kind == _BYTE_ARRAY and any(self._pages(one).repeats for one in chunks):
                found.append(leaf.name)
        return found

    def unpacked_bytes(self, measured: Collection[str]) -> Iterator[int]:
        """Yield what the columns take at most once decoded; of those in `measured` without texts.

        Raises:
            SourceError: The pages are damaged.
        """
        for chunks in self._chunks:
            for position, leaf in self._leaves:
                if position >= len(chunks):
                    raise _damaged("a row group lacks columns")
                pages = self._pages(chunks[position])
                yield pages.values * leaf.width
                if leaf.kind == _BYTE_ARRAY and leaf.name not in measured:
                    longest = max(pages.dictionary, pages.largest)
                    yield pages.values * longest if pages.repeats else pages.bytes

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
        chunks = self.check_pages(group)
        row_bytes, largest, texts = 0, 0, []
        for (_, leaf), pages in zip(self._leaves, chunks, strict=True):
            row_bytes += leaf.width
            if leaf.kind != _BYTE_ARRAY:
                continue
            dictionary = 0 if leaf.name in as_dictionaries else pages.dictionary
            if dictionary or pages.shared:
                row_bytes += max(pages.largest, dictionary)
            texts.append(pages)
            largest += pages.largest
        allowed = max(self._limits.batch_bytes, 2 * largest)
        if row_bytes > allowed:
            raise SourceError(
                "the Parquet file takes too much memory",
                expected=f"rows of at most {allowed >> 20} MiB",
                got=f"up to {row_bytes >> 20} MiB in a row",
                remedy="shorten the values",
            )
        rows = max(1, min(most, allowed // max(1, row_bytes)))
        while rows > 1 and sum(pages.most_bytes(rows) for pages in texts) > allowed:
            rows //= 2
        return rows

    def check_pages(self, group: int) -> list[_Pages]:
        """Refuse pages that are too large; returns those of each column.

        Raises:
            SourceError: As for `rows_at_once`.
        """
        open_bytes, found = 0, []
        for position, leaf in self._leaves:
            if position >= len(self._chunks[group]):
                raise _damaged("a row group lacks columns")
            pages = self._pages(self._chunks[group][position])
            found.append(pages)
            open_bytes += pages.largest + pages.dictionary
            if open_bytes > self._limits.page_bytes:
                raise SourceError(
                    "the Parquet file takes too much memory",
                    expected=f"pages of at most {self._limits.page_bytes >> 20} MiB in all columns",
                    got=f"{open_bytes >> 20} MiB up to the column {leaf.name[:100]!r}",
                    remedy="write it with smaller pages, or as CSV",
                )
        return found

    def _pages(self, chunk: Struct) -> _Pages:
        """Look at the headers of a column's pages in one row group, once."""
        known = self._known.get(id(chunk))
        if known is None:
            known = self._known[id(chunk)] = self._looked_up(chunk)
        return known

    def _looked_up(self, chunk: Struct) -> _Pages:
        at, end = _place(chunk)
        left = chunk.get((5, _I64), 0)
        dictionary, shared = 0, False
        sizes: list[int] = []
        counts: list[int] = []
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
                dictionary = max(dictionary, size)
            else:
                data = header.get((5, _STRUCT)) or header.get((8, _STRUCT)) or {}
                counts.append(max(0, data.get((1, _I32), 0)))
                sizes.append(size)
                left -= counts[-1]
                shared = shared or _DELTA_TEXTS in {data.get((2, _I32)), data.get((4, _I32))}
            at += length + packed
        return _Pages(np.array(counts, np.int64), np.array(sizes, np.int64), dictionary, shared)

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


def _place(chunk: Struct) -> tuple[int, int]:
    """Return where a column's pages begin in a row group, and where they should end."""
    at, dictionary_at = chunk.get((9, _I64), -1), chunk.get((11, _I64), 0)
    if 0 < dictionary_at < at:
        at = dictionary_at
    return at, at + chunk.get((7, _I64), 0)


def _leaves(elements: Sequence[Any]) -> Iterator[_Leaf]:
    """Yield the columns in order from the flattened tree of the schema."""
    waiting: list[int] = []  # fields still to come at each level
    outermost = ""
    for place, element in enumerate(elements):
        name = _text(element.get((4, _TEXT), b""))
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


def _text(name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        shown = name.decode("utf-8", "backslashreplace")
        raise _damaged(f"a column's name that is not UTF-8: {shown[:40]}") from None


def _damaged(got: str) -> SourceError:
    return SourceError(
        "the Parquet file is damaged", expected="a whole Parquet file", got=got,
        remedy="write or copy it again",
    )  # fmt: skip
