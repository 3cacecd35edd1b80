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
                raise _refused(name, f"type {array.dtype}")
            entry = io.BytesIO()
            np.lib.format.write_array(entry, array.reshape(np.shape(arrays[name])), (1, 0), False)
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
        raise BundleError(
            f"{what} is damaged: {str(error) or type(error).__name__}"[:300],
            expected="an .npz archive of arrays",
        ) from None


def _check_entries(entries: list[zipfile.ZipInfo], what: str, max_bytes: int, present: int) -> None:
    names = {entry.filename for entry in entries}
    if len(names) != len(entries) or len(entries) > _MAX_ENTRIES:
        raise BundleError(f"{what} is refused", expected="each array once", got="duplicate names")
    if not all(name.endswith(_SUFFIX) for name in names):
        raise BundleError(f"{what} is refused", expected="arrays only", got=str(sorted(names))[:99])
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise BundleError(f"{what} is refused", expected="stored arrays", got="compressed ones")
    declared = sum(entry.file_size for entry in entries)
    if declared > max_bytes:
        raise BundleError(
            f"{what} is too large when unpacked",
            expected=f"at most {max_bytes} bytes",
            got=f"{declared} declared",
        )
    if declared > present:  # entries that lie over one another
        raise BundleError(
            f"{what} is damaged", expected=f"at most {present} bytes", got=f"{declared} declared"
        )


def _read(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, what: str) -> NDArray[Any]:
    with archive.open(entry) as file:
        raw = file.read(entry.file_size + 1)
    if raw[: len(_MAGIC) - 2] != _MAGIC[:-2]:
        raise ValueError(f"{entry.filename} is no array")
    if raw[: len(_MAGIC)] != _MAGIC:
        version = tuple(raw[len(_MAGIC) - 2 : len(_MAGIC)])
        raise BundleError(f"{what} is refused", expected="npy format 1.0", got=str(version))
    start = len(_MAGIC) + 2
    size = int.from_bytes(raw[len(_MAGIC) : start], "little")
    header = raw[start : start + size]
    found = _HEADER.fullmatch(header) if size <= _LONGEST_HEADER else None
    if found is None:
        kind = re.match(rb"\{'descr': '([^']{1,20})'", header)
        if kind is not None and kind[1][1:2].decode("latin-1") not in _KINDS:
            raise _refused(f"{what}:{entry.filename}", f"type {kind[1].decode('latin-1')}")
        raise ValueError(f"{entry.filename} has no header of a plain array")
    dtype = np.dtype(found[1].decode())
    shape = tuple(int(number) for number in found[2].split(b",") if number.strip())
    body = len(raw) - start - size
    if math.prod(shape) * dtype.itemsize != body:
        raise BundleError(
            f"{what}:{entry.filename} is damaged",
            expected=f"{math.prod(shape) * dtype.itemsize} bytes for shape {shape}",
            got=str(body),
        )
    flat: NDArray[Any] = np.frombuffer(raw, dtype=dtype, offset=start + size)
    return flat.reshape(shape, order="F" if b"'fortran_order': True" in header else "C")


def _refused(name: str, got: str) -> BundleError:
    return BundleError(
        f"the array {name} is refused",
        expected="plain numbers (objects could carry code)",
        got=got,
    )
