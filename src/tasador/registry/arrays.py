"""Named numpy arrays in one ``.npz`` file, written reproducibly and read without trust."""

from __future__ import annotations

import io
import math
import tokenize
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
_DAMAGED = (zipfile.BadZipFile, tokenize.TokenError, ValueError, EOFError, OSError, RuntimeError)


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
            _check_entries(entries, what, max_bytes)
            return {
                entry.filename.removesuffix(_SUFFIX): _read(archive, entry, what)
                for entry in entries
            }
    except _DAMAGED as error:
        raise BundleError(
            f"{what} is damaged: {error}", expected="an .npz archive of arrays"
        ) from None


def _check_entries(entries: list[zipfile.ZipInfo], what: str, max_bytes: int) -> None:
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


def _read(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, what: str) -> NDArray[Any]:
    with archive.open(entry) as file:
        raw = file.read(entry.file_size + 1)
    stream = io.BytesIO(raw)
    version = np.lib.format.read_magic(stream)
    if version != (1, 0):
        raise BundleError(f"{what} is refused", expected="npy format 1.0", got=str(version))
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    if dtype.kind not in _KINDS or dtype.hasobject:
        raise _refused(f"{what}:{entry.filename}", f"type {dtype}")
    body = len(raw) - stream.tell()
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != body:
        raise BundleError(
            f"{what}:{entry.filename} is damaged",
            expected=f"{math.prod(shape) * dtype.itemsize} bytes for shape {shape}",
            got=str(body),
        )
    flat: NDArray[Any] = np.frombuffer(raw, dtype=dtype, offset=stream.tell())
    return flat.reshape(shape, order="F" if fortran else "C")


def _refused(name: str, got: str) -> BundleError:
    return BundleError(
        f"the array {name} is refused",
        expected="plain numbers (objects could carry code)",
        got=got,
    )
