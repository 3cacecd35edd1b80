"""JSON and arrays that somebody else may have made, read and checked without trust.

Arrays are numbers in one ``.npz`` file, which `write_arrays` writes reproducibly.
"""

from __future__ import annotations

import io
import json
import math
import re
import zipfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasador.core.errors import BundleError

_SUFFIX = ".npy"
#: Kinds of numpy types that are plain numbers: bool, signed, unsigned, float.
_KINDS = "biuf"
_MAX_ENTRIES = 10_000
#: The beginning of an array of format 1.0, and its header as numpy writes it. It is matched, not
#: evaluated: what Python makes of an expression that somebody else wrote takes stack and memory.
_MAGIC = b"\x93NUMPY\x01\x00"
_HEADER = re.compile(
    rb"\{'descr': '([<|][biuf][1248])', 'fortran_order': (?:False|True),"
    rb" 'shape': \(((?:\d{1,19}, ?)*(?:\d{1,19})?)\), \} *\n"
)
_LONGEST_HEADER = 512


class RepeatedNameError(ValueError):
    """An object has a name twice."""

    def __init__(self, name: str) -> None:
        super().__init__(f"the name {name[:100]!r} is given twice in one object")
        self.name = name[:100]


def read_json(text: str | bytes) -> Any:
    """Return a JSON value; NaN and Infinity are read as Python's own parser reads them.

    Raises:
        RepeatedNameError: An object has a name twice.
        ValueError: It is no JSON, or nested too deeply.
    """
    try:
        return json.loads(text, object_pairs_hook=_object, parse_int=_number)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def check_depth(value: Any, most: int) -> None:
    """Refuse JSON that is nested more deeply than anybody means.

    Whatever goes through it later, one level at a time or on the stack, ends.

    Raises:
        ValueError: It has more than `most` levels of objects and lists.
    """
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(most):
        if not level:
            return
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
    if level:
        raise ValueError(f"nested more than {most} levels deep")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    plain = dict(pairs)
    if len(plain) < len(pairs):
        raise RepeatedNameError(Counter(name for name, _ in pairs).most_common(1)[0][0])
    return plain


def _number(text: str) -> float:
    return int(text) if len(text) < 19 else float(text)  # as orjson reads them


#: Numbers beyond this are in no table; their squares are still finite.
MOST = 1e150
#: Types that state is kept in: doubles, flags, and integers of two sizes.
FLOAT, FLAG = ("float64",), ("bool",)
INTEGER = ("int32", "int64")


@dataclass(frozen=True)
class Expected:
    """What one array has to be.

    Attributes:
        shape: Size of each dimension; None for any size.
        types: Names of the numpy types that it may have.
        low: Smallest value.
        high: Largest value.
        infinite: Whether infinities may be among them.
        gaps: Whether NaN may be among them.
        ascending: Whether each value has to be at least the one before it.
    """

    shape: tuple[int | None, ...]
    types: tuple[str, ...] = FLOAT
    low: float = -MOST
    high: float = MOST
    infinite: bool = False
    gaps: bool = False
    ascending: bool = False

    def check(self, name: str, array: NDArray[Any]) -> None:
        """Refuse an array that is something else.

        Raises:
            ValueError: It is; names it.
        """
        if array.dtype.name not in self.types or not array.dtype.isnative:
            raise ValueError(f"{name} holds {array.dtype}, expected {' or '.join(self.types)}")
        fits = array.ndim == len(self.shape) and all(
            wanted in (None, size) for size, wanted in zip(array.shape, self.shape, strict=True)
        )
        if not fits:
            raise ValueError(f"{name} has shape {array.shape}, expected {_said(self.shape)}")
        if not array.size or array.dtype.kind == "b":
            return
        values = array[~np.isnan(array)] if self.gaps else array
        if self.infinite:
            values = values[~np.isinf(values)]
        # NaN fails both comparisons
        if values.size and not (values.min() >= self.low and values.max() <= self.high):
            raise ValueError(
                f"{name} holds values outside of [{self.low:g}, {self.high:g}], or NaN"
            )
        if self.ascending and (np.diff(array) < 0).any():
            raise ValueError(f"{name} is not in ascending order")


def check_arrays(arrays: Mapping[str, NDArray[Any]], expected: Mapping[str, Expected]) -> None:
    """Refuse arrays that are missing, unknown, or not what is expected.

    Raises:
        ValueError: They are; names the first.
    """
    missing = sorted(expected.keys() - arrays.keys())
    unknown = sorted(arrays.keys() - expected.keys())
    if missing or unknown:
        raise ValueError(f"arrays are missing {missing[:5]}, or unknown {unknown[:5]}")
    for name, what in expected.items():
        what.check(name, arrays[name])


def _said(shape: tuple[int | None, ...]) -> str:
    return "(" + ", ".join("any" if size is None else str(size) for size in shape) + ")"


class ArraysError(BundleError):
    """A file of arrays that is damaged, or holds what `write_arrays` does not write."""

    @classmethod
    def of_content(cls, what: str, expected: str, got: str) -> ArraysError:
        """Return the error of entries that are no plain arrays."""
        return cls(f"{what} is refused", expected=expected, got=got)

    @classmethod
    def of_type(cls, name: str, got: str) -> ArraysError:
        """Return the error of an array that holds anything but numbers."""
        expected = "plain numbers (objects could carry code)"
        return cls.of_content(f"the array {name}", expected, got)

    @classmethod
    def of_size(cls, what: str, expected: str, got: int | str) -> ArraysError:
        """Return the error of another number of bytes than there must be."""
        return cls(f"{what} is damaged", expected=expected, got=str(got))

    @classmethod
    def too_large(cls, what: str, limit: int, declared: int) -> ArraysError:
        """Return the error of more bytes than are unpacked."""
        return cls(
            f"{what} is too large when unpacked",
            expected=f"at most {limit} bytes",
            got=f"{declared} declared",
        )

    @classmethod
    def unreadable(cls, what: str, error: Exception) -> ArraysError:
        """Return the error of a file that zip or numpy cannot read."""
        return cls(
            f"{what} is damaged: {str(error) or type(error).__name__}"[:300],
            expected="an .npz archive of arrays",
        )


def write_arrays(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Return `arrays` as an uncompressed ``.npz``; equal arrays give equal bytes.

    Raises:
        BundleError: An array holds anything but numbers.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(arrays):
            array = np.ascontiguousarray(arrays[name])
            if array.dtype.kind not in _KINDS:
                raise ArraysError.of_type(name, f"type {array.dtype}")
            # `np.savez` would write the time of day
            with archive.open(zipfile.ZipInfo(name + _SUFFIX), "w") as entry:
                # reshaped: `ascontiguousarray` gives an array without dimensions one
                shaped = array.reshape(np.shape(arrays[name]))
                np.lib.format.write_array(entry, shaped, (1, 0), False)
    return buffer.getvalue()


def read_arrays(data: bytes, what: str, max_bytes: int) -> dict[str, NDArray[Any]]:
    """Read what `write_arrays` wrote; nothing is unpacked before its declared size is known.

    Args:
        data: The file's content.
        what: The file's name, for messages.
        max_bytes: Limit on the unpacked size of all arrays together.

    Returns:
        The arrays, by name, not writeable.

    Raises:
        BundleError: It is no archive of plain number arrays, or it would unpack beyond the limit.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            _check_entries(entries, what, max_bytes, len(data))
            return {
                entry.filename.removesuffix(_SUFFIX): _read(archive, entry, what)
                for entry in entries
            }
    except BundleError:
        raise
    except Exception as error:  # whatever the archive makes of what somebody wrote
        raise ArraysError.unreadable(what, error) from None


def _check_entries(entries: list[zipfile.ZipInfo], what: str, max_bytes: int, present: int) -> None:
    names = {entry.filename for entry in entries}
    if len(names) != len(entries) or len(entries) > _MAX_ENTRIES:
        raise ArraysError.of_content(what, "each array once", "duplicate names")
    if not all(name.endswith(_SUFFIX) for name in names):
        raise ArraysError.of_content(what, "arrays only", str(sorted(names))[:99])
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ArraysError.of_content(what, "stored arrays", "compressed ones")
    declared = sum(entry.file_size for entry in entries)
    if declared > max_bytes:
        raise ArraysError.too_large(what, max_bytes, declared)
    if declared > present:  # entries that lie over one another
        raise ArraysError.of_size(what, f"at most {present} bytes", f"{declared} declared")


def _read(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, what: str) -> NDArray[Any]:
    with archive.open(entry) as file:
        # one byte more than declared: a longer entry is then refused by its size
        raw = file.read(entry.file_size + 1)
    if raw[: len(_MAGIC) - 2] != _MAGIC[:-2]:
        raise ValueError(f"{entry.filename} is no array")
    if raw[: len(_MAGIC)] != _MAGIC:
        version = tuple(raw[len(_MAGIC) - 2 : len(_MAGIC)])
        raise ArraysError.of_content(what, "npy format 1.0", str(version))
    start = len(_MAGIC) + 2
    size = int.from_bytes(raw[len(_MAGIC) : start], "little")
    header = raw[start : start + size]
    found = _HEADER.fullmatch(header) if size <= _LONGEST_HEADER else None
    if found is None:
        kind = re.match(rb"\{'descr': '([^']{1,20})'", header)
        if kind is not None and kind[1][1:2].decode("latin-1") not in _KINDS:
            raise ArraysError.of_type(
                f"{what}:{entry.filename}", f"type {kind[1].decode('latin-1')}"
            )
        raise ValueError(f"{entry.filename} has no header of a plain array")
    dtype = np.dtype(found[1].decode())
    shape = tuple(int(number) for number in found[2].split(b",") if number.strip())
    body = len(raw) - start - size
    if math.prod(shape) * dtype.itemsize != body:
        expected = f"{math.prod(shape) * dtype.itemsize} bytes for shape {shape}"
        raise ArraysError.of_size(f"{what}:{entry.filename}", expected, body)
    flat: NDArray[Any] = np.frombuffer(raw, dtype=dtype, offset=start + size)
    return flat.reshape(shape, order="F" if b"'fortran_order': True" in header else "C")
