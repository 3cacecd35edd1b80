"""Just enough of Thrift's compact protocol to look into Parquet's footers and page headers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

#: Values by the number of their field and their wire type: one of another type than the reader
#: expects is skipped by every implementation of Thrift.
Struct = dict[tuple[int, int], Any]

_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _TEXT, _LIST, _SET, _MAP, _STRUCT = range(1, 13)
_DEEPEST = 40


class Members(list[Any]):
    """The members of a list, and their wire type."""

    def __init__(self, kind: int, members: Iterable[Any]) -> None:
        super().__init__(members)
        self.kind = kind


class DamagedError(Exception):
    """These bytes are no struct."""


class TooMuchError(Exception):
    """There are more values than allowed."""


def read_struct(data: bytes, most: int) -> tuple[Struct, int]:
    """Return the struct at the beginning of `data`, and how many bytes it takes.

    Args:
        data: Bytes in the compact protocol.
        most: Most values and members of lists that may be in it, at any depth.

    Raises:
        DamagedError: There is none.
        TooMuchError: It holds more.
    """
    reader = _Reader(data, most)
    try:
        return reader.struct(0), reader.at
    except IndexError:
        raise DamagedError("it ends too early") from None


class _Reader:
    def __init__(self, data: bytes, most: int) -> None:
        self._data, self._left = data, most
        self.at = 0

    def struct(self, depth: int) -> Struct:
        found: Struct = {}
        if depth > _DEEPEST:
            raise DamagedError("it is nested too deeply")
        number, seen = 0, set[int]()
        while head := self._byte():
            self._count()
            step, kind = head >> 4, head & 15
            number = number + step if step else _signed(self._varint())
            if number in seen:  # which of the two counts differs between readers
                raise DamagedError("a field comes twice")
            seen.add(number)
            found[number, kind] = self._value(kind, depth)
        return found

    def _value(self, kind: int, depth: int) -> Any:
        if kind in (_TRUE, _FALSE):
            return kind == _TRUE
        if kind == _BYTE:
            return self._byte()
        if kind in (_I16, _I32, _I64):
            return _narrow(_signed(self._varint()), {_I16: 16, _I32: 32, _I64: 64}[kind])
        if kind == _DOUBLE:
            return self._take(8)
        if kind == _TEXT:
            return self._take(self._varint())
        if kind in (_LIST, _SET):
            head = self._byte()
            size = head >> 4 if head >> 4 != 15 else self._varint()
            return Members(head & 15, (self._member(head & 15, depth) for _ in range(size)))
        if kind == _MAP:
            size = self._varint()
            kinds = self._byte() if size else 0
            return [
                (self._member(kinds >> 4, depth), self._member(kinds & 15, depth))
                for _ in range(size)
            ]
        if kind == _STRUCT:
            return self.struct(depth + 1)
        raise DamagedError("a type that is not known")

    def _member(self, kind: int, depth: int) -> Any:
        """Return a member of a list; there, a truth value takes a byte."""
        self._count()
        if kind in (_TRUE, _FALSE):
            return self._byte() == _TRUE
        return self._value(kind, depth + 1) if depth < _DEEPEST else self.struct(depth + 1)

    def _count(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise TooMuchError

    def _byte(self) -> int:
        found = self._data[self.at]
        self.at += 1
        return found

    def _take(self, size: int) -> bytes:
        if size > len(self._data) - self.at:
            raise DamagedError("it ends too early")
        self.at += size
        return self._data[self.at - size : self.at]

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value & 0xFFFF_FFFF_FFFF_FFFF
            shift += 7
            if shift > 63:
                raise DamagedError("a number of too many bytes")


def _signed(value: int) -> int:
    return (value >> 1) ^ -(value & 1)


def _narrow(value: int, bits: int) -> int:
    """Return the value as a number of so many bits holds it."""
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value
