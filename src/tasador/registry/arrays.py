"""Named numpy arrays in one ``.npz`` file, written reproducibly and read without trust."""

from __future__ import annotations

import io
import math
import re
import zipfile
from collections.abc import Mapping
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
            entry = io.BytesIO()
            # reshaped: `ascontiguousarray` gives an array without dimensions one
            np.lib.format.write_array(entry, array.reshape(np.shape(arrays[name])), (1, 0), False)
            # `np.savez` would write the time of day
            archive.writestr(zipfile.ZipInfo(name + _SUFFIX), entry.getvalue())
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
