"""Bundles as one file: a plain zip, written reproducibly and unpacked without trust."""

from __future__ import annotations

import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tasador.core.errors import BundleError
from tasador.core.storage import atomic_file, atomic_folder, is_plain
from tasador.registry.integrity import BundleLimits, read_verified, refuse_foreign
from tasador.registry.manifest import MANIFEST_NAME, checked_path
from tasador.registry.model_bundle import ModelBundle, load_bundle

_CHUNK = 1 << 20
_ENCRYPTED = 0x1
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_DAMAGED = (zipfile.BadZipFile, zlib.error, RuntimeError, ValueError, EOFError)


class ArchiveError(BundleError):
    """An archive that is damaged, or holds what no packed bundle does."""

    @classmethod
    def of(cls, what: str, expected: str, got: str) -> ArchiveError:
        """Return the error of an archive, or a file in it, as tasador packs none."""
        return cls(
            f"the archive is refused because of {what!r}",
            expected=expected,
            got=got,
            remedy="do not use it: nothing that `tasador` packs looks like that",
        )

    @classmethod
    def damaged(cls, file: Path, error: Exception) -> ArchiveError:
        """Return the error of a file that zip cannot read."""
        return cls(
            f"{file} is damaged: {error}",
            expected="a zip archive of a bundle",
            remedy="fetch the archive again",
        )


@dataclass(frozen=True, slots=True)
class ArchiveLimits:
    """What an archive may hold; anything above is refused before it is unpacked.

    Attributes:
        entries: Number of files.
        total_bytes: Size of all files unpacked, and of the archive itself.
        ratio: Unpacked over packed size of a file of more than 1 MiB.
    """

    entries: int = 64
    total_bytes: int = 2 * 2**30
    ratio: float = 200.0


def pack(folder: Path, file: Path) -> None:
    """Write the bundle in `folder` as the archive `file`.

    Equal bundles give equal bytes on every machine, which is why nothing is compressed.

    Raises:
        BundleError: The folder is no bundle, or a damaged one.
        StorageError: The disk refuses.

    Example:
        >>> import tasador
        >>> from pathlib import Path
        >>> tasador.pack(Path("cars"), Path("cars.zip"))
        >>> Path("cars.zip").stat().st_size > 1000
        True
    """
    manifest, contents = read_verified(folder, BundleLimits())
    contents[MANIFEST_NAME] = manifest.to_json()
    with atomic_file(file) as target, zipfile.ZipFile(target, "w") as archive:
        for name in sorted(contents):
            # a fixed time and mode: today's would make the bytes differ between machines
            entry = zipfile.ZipInfo(name)
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            archive.writestr(entry, contents[name])


def unpack(file: Path, folder: Path, limits: ArchiveLimits | None = None) -> ModelBundle:
    """Unpack the archive `file` into `folder` and load the bundle.

    The folder appears only when the whole bundle has been verified.

    Args:
        file: An archive made by `pack`, or any zip of a bundle's files without a folder.
        folder: Where to put them; an older bundle there is replaced, anything else refused.
        limits: What the archive may hold.

    Returns:
        The loaded bundle.

    Raises:
        BundleError: The archive is damaged, too large, encrypted, has paths that lead elsewhere,
            links, or duplicate names; or the bundle inside is refused by `load_bundle`.
        StorageError: The disk refuses, or `folder` holds something that is no bundle.

    Example:
        >>> import tasador
        >>> from pathlib import Path
        >>> tasador.pack(Path("cars"), Path("sent.zip"))
        >>> tasador.unpack(Path("sent.zip"), Path("received")).version
        'cars_model-8c615dec97ef'
    """
    limits = limits or ArchiveLimits()
    refuse_foreign(folder)
    with _opened(file, limits) as archive:
        entries = archive.infolist()
        _check_entries(entries, file, limits)
        with atomic_folder(folder) as temporary:
            for entry in entries:
                _extract(archive, entry, temporary / entry.filename)
            bundle = load_bundle(temporary, limits=BundleLimits(total_bytes=limits.total_bytes))
    return replace(bundle, folder=folder)


@contextmanager
def _opened(file: Path, limits: ArchiveLimits) -> Iterator[zipfile.ZipFile]:
    try:
        if file.exists() and not is_plain(file):
            raise ArchiveError(f"{file} cannot be read", expected="a plain file")
        size = file.stat().st_size
        if size > limits.total_bytes:
            raise ArchiveError.of(file.name, f"at most {limits.total_bytes} bytes", str(size))
        archive = zipfile.ZipFile(file)
    except OSError as error:
        raise ArchiveError(f"{file} cannot be read: {error.strerror or error}") from None
    except _DAMAGED as error:
        raise ArchiveError.damaged(file, error) from None
    with archive:
        try:
            yield archive
        except _DAMAGED as error:
            raise ArchiveError.damaged(file, error) from None


def _check_entries(entries: list[zipfile.ZipInfo], file: Path, limits: ArchiveLimits) -> None:
    if len(entries) > limits.entries:
        raise ArchiveError.of(file.name, f"at most {limits.entries} files", str(len(entries)))
    if entries and min(entry.header_offset for entry in entries) > 0:
        # a truncated archive would otherwise pass for the last archive of arrays inside it
        raise ArchiveError.of(
            file.name, "an archive and nothing else", "other data before its files"
        )
    seen: set[str] = set()
    for entry in entries:
        _check_entry(entry, limits)
        # in whatever case: some file systems would write the second over the first
        if entry.filename.casefold() in seen:
            raise ArchiveError.of(entry.filename, "every name once", "a duplicate name")
        seen.add(entry.filename.casefold())
    declared = sum(entry.file_size for entry in entries)
    if declared > limits.total_bytes:
        raise ArchiveError.of(
            file.name, f"at most {limits.total_bytes} bytes unpacked", str(declared)
        )


def _check_entry(entry: zipfile.ZipInfo, limits: ArchiveLimits) -> None:
    # zipfile cuts a name at a null byte: what is checked is what the archive says
    checked_path(entry.orig_filename)
    if "/" in entry.filename:
        raise ArchiveError.of(entry.filename, "files without a folder", "a folder")
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        raise ArchiveError.of(entry.filename, "a plain file", "a link or special file")
    if entry.flag_bits & _ENCRYPTED or entry.compress_type not in _METHODS:
        raise ArchiveError.of(entry.filename, "stored or deflated", "an encrypted or unusual entry")
    if entry.file_size > max(_CHUNK, limits.ratio * entry.compress_size):
        got = f"{entry.compress_size} bytes that unpack to {entry.file_size}"
        most = f"at most {limits.ratio:g} times its packed size"
        raise ArchiveError.of(entry.filename, most, got)


def _extract(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, path: Path) -> None:
    """Write one file, and stop when there is more in it than it declares."""
    written = 0
    with archive.open(entry) as source, path.open("xb") as target:
        while chunk := source.read(_CHUNK):
            written += len(chunk)
            if written > entry.file_size:
                raise ArchiveError.of(
                    entry.filename, f"{entry.file_size} bytes", "more than declared"
                )
            target.write(chunk)
    if written != entry.file_size:
        raise ArchiveError.of(entry.filename, f"{entry.file_size} bytes", f"{written}")
