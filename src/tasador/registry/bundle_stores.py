"""Where bundles lie: in a workspace's folder, or published under a location.

A location is an object store's prefix, or a folder::

    <location>/latest.json                what is offered now; written last, replaced at once
    <location>/bundles/<content hash>/    one folder a bundle, never changed once it is there

A reader that is half way through a bundle while another one is published is not disturbed. The
last good copy that a server keeps on its disk has the same layout.

Also bundles as one file: a plain zip, written reproducibly and unpacked without trust.
"""

from __future__ import annotations

import json
import re
import shutil
import stat
import time
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import orjson

from tasador.core import clock, storage
from tasador.core.deadlines import Deadline
from tasador.core.errors import BundleError, NothingOfferedError, StorageError
from tasador.core.hashing import to_plain
from tasador.core.storage import atomic_file, atomic_folder, is_plain
from tasador.registry.manifest import (
    MANIFEST_NAME,
    BundleLimits,
    checked_path,
    read_verified,
    refuse_foreign,
)

if TYPE_CHECKING:
    from tasador.registry.model_bundle import ModelBundle

POINTER_NAME = "latest.json"
_FORMAT = 1
_POINTER_BYTES = 1 << 20
_MOST_FILES = 64
_SPARED_S = 3600.0
#: In the name of a folder that a later run moved aside.
MOVED_ASIDE = ".damaged-"

_CHUNK = 1 << 20
_ENCRYPTED = 0x1
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_DAMAGED = (zipfile.BadZipFile, zlib.error, RuntimeError, ValueError, EOFError)


class NoBundleError(NothingOfferedError):
    """A place where there is no bundle to take."""

    @classmethod
    def in_folder(cls, folder: Path, name: str | None, content_hash: str | None) -> NoBundleError:
        """Return the error of a workspace's folder without the one that is asked for."""
        named = f" of the model {name!r}" if name else ""
        exact = f" with the content hash {content_hash}" if content_hash else ""
        return cls(
            f"no bundle under {folder}{named}{exact}",
            remedy="make one with `tasador run`, or name one with --bundle",
        )

    @classmethod
    def published(cls, location: storage.Location) -> NoBundleError:
        """Return the error of a location where nothing was published."""
        return cls(
            f"nothing is published at {location}",
            expected=f"a {POINTER_NAME}",
            remedy="publish a bundle there, or check the address",
        )


class PublishedBundleError(BundleError):
    """A published bundle that cannot be used, or one that must not be published."""

    @classmethod
    def of_pointer(cls, where: storage.Location, error: Exception) -> PublishedBundleError:
        """Return the error of a pointer that `publish_bundle` does not write."""
        return cls(
            f"{where} cannot be read: {type(error).__name__}: {error}",
            expected=f"a pointer of format {_FORMAT}",
            remedy="publish the bundle again, or update tasador",
        )

    @classmethod
    def too_large(cls, version: str, limit: int, got: int) -> PublishedBundleError:
        """Return the error of more bytes than are fetched."""
        return cls(
            f"the bundle {version} is too large", expected=f"at most {limit} bytes", got=str(got)
        )

    @classmethod
    def of_file(cls, version: str, name: str, got: str) -> PublishedBundleError:
        """Return the error of a file that is missing or of another size."""
        return cls(
            f"the published bundle {version} is damaged: {name}",
            got=got,
            remedy="publish it again",
        )

    @classmethod
    def synthetic(cls, real: str) -> PublishedBundleError:
        """Return the error of a synthetic bundle where the version `real` is offered."""
        return cls(
            f"a model trained on synthetic rows must not take the place of {real}",
            expected="a bundle of real origin",
            got="origin synthetic",
            remedy="give the run the real table, or publish to another location",
        )


def newest_bundle(
    folder: Path, name: str | None = None, *, content_hash: str | None = None
) -> Path:
    """Return the bundle in `folder` that was written last; one trained on real rows comes first.

    What a manifest claims decides; whether it is true is checked when the bundle is loaded.

    Args:
        folder: Where the bundles' folders are.
        name: The model's name; None takes any.
        content_hash: The bundle's content hash; None takes any.

    Raises:
        NothingOfferedError: There is none.
    """
    wanted = {"name": name, "content_hash": content_hash}
    found = []
    for manifest in _manifests(folder):
        claims = _claims(manifest)
        if any(value is not None and claims.get(key) != value for key, value in wanted.items()):
            continue
        try:
            stamp = manifest.stat().st_mtime_ns
        except OSError:  # removed meanwhile
            continue
        found.append((claims.get("origin") == "real", stamp, manifest.parent.name))
    if not found:
        raise NoBundleError.in_folder(folder, name, content_hash)
    return folder / max(found)[2]


def bundle_names(folder: Path) -> list[str]:
    """Return the names of the models that the bundles in `folder` are of, in order."""
    names = {str(_claims(manifest).get("name", "")) for manifest in _manifests(folder)}
    return sorted(names - {""})


def _manifests(folder: Path) -> Iterator[Path]:
    for manifest in folder.glob(f"*/{MANIFEST_NAME}"):
        own = manifest.parent.name
        # a folder that is being written has a name with a dot until it is whole
        if not own.startswith(".") and MOVED_ASIDE not in own:
            yield manifest


def _claims(manifest: Path) -> dict[str, Any]:
    try:
        plain = json.loads(storage.read_bytes(manifest))
    except (StorageError, ValueError):
        return {}
    return plain if isinstance(plain, dict) else {}


@dataclass(frozen=True)
class Pointer:
    """What ``latest.json`` says.

    Attributes:
        name: The model's name.
        version: The bundle's version.
        content_hash: The bundle's content hash.
        origin: ``real`` or ``synthetic``.
        published: When, ISO 8601 in UTC.
        files: Size of every file by its name, the manifest included. The manifest's own checksum
            is the content hash; it holds those of all others.
        notes: Whatever else is worth keeping, texts.
    """

    name: str
    version: str
    content_hash: str
    origin: Literal["real", "synthetic"]
    published: str
    files: Mapping[str, int]
    notes: Mapping[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> str:
        """Where the bundle's files are, relative to the location."""
        return f"bundles/{self.content_hash}"


def publish_bundle(
    folder: Path,
    location: storage.Location,
    notes: Mapping[str, str] | None = None,
) -> Pointer:
    """Copy the bundle in `folder` to `location` and offer it from there.

    Args:
        folder: The bundle; verified first, so that a damaged one is never published.
        location: ``gs://bucket/prefix``, ``s3://bucket/prefix`` or a folder.
        notes: Kept in the pointer.

    Raises:
        BundleError: The bundle is damaged, or it is of synthetic origin while a real one of the
            same name is offered.
        StorageError: The store or the disk refuses; what was offered before still is.
    """
    manifest, contents = read_verified(folder, BundleLimits())
    contents[MANIFEST_NAME] = (folder / MANIFEST_NAME).read_bytes()
    pointer = Pointer(
        name=manifest.name,
        version=manifest.version,
        content_hash=manifest.content_hash,
        origin=manifest.origin,
        published=clock.timestamp(),
        files={name: len(content) for name, content in sorted(contents.items())},
        notes={**(notes or {}), **({"release": manifest.release} if manifest.release else {})},
    )
    _refuse_synthetic_over_real(location, pointer)
    # the pointer last: a reader must never be sent to a bundle that is not whole
    for name, content in sorted(contents.items()):
        storage.write_bytes(storage.join(location, pointer.folder, name), content)
    plain = {"format": _FORMAT, **to_plain(pointer)}
    storage.write_bytes(
        storage.join(location, POINTER_NAME), orjson.dumps(plain, option=orjson.OPT_INDENT_2)
    )
    return pointer


def read_pointer(
    location: storage.Location, *, deadline: Deadline, patience: storage.Patience | None = None
) -> Pointer:
    """Return what is offered at `location`.

    Raises:
        NothingOfferedError: There is no pointer.
        BundleError: It is none that `publish_bundle` writes.
        StorageError: The location cannot be reached, or took too long.
    """
    where = storage.join(location, POINTER_NAME)
    try:
        data = storage.read_limited(where, _POINTER_BYTES, deadline=deadline, patience=patience)
    except StorageError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise NoBundleError.published(location) from None
        raise
    # written elsewhere: whatever it makes Python raise, it is not a pointer
    try:
        return _parsed(data)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise PublishedBundleError.of_pointer(where, error) from None


def fetch_published(
    location: storage.Location,
    pointer: Pointer,
    destination: Path,
    *,
    deadline: Deadline,
    patience: storage.Patience | None = None,
    limits: BundleLimits | None = None,
) -> Path:
    """Copy the bundle that `pointer` names into the new folder `destination`.

    Only sizes are checked here; `load_bundle` checks every checksum before it parses a file.

    Raises:
        BundleError: A file is missing or of another size, or the bundle is too large.
        StorageError: The location cannot be reached, the disk refuses, or it took too long.
    """
    limits = limits or BundleLimits()
    total = sum(pointer.files.values())
    if total > limits.total_bytes + limits.manifest_bytes:
        raise PublishedBundleError.too_large(pointer.version, limits.total_bytes, total)
    with storage.atomic_folder(destination) as temporary:
        for name, size in pointer.files.items():
            where = storage.join(location, pointer.folder, name)
            try:
                content = storage.read_limited(where, size, deadline=deadline, patience=patience)
            except StorageError as error:
                if isinstance(error.__cause__, FileNotFoundError):
                    got = "no such file"
                    raise PublishedBundleError.of_file(pointer.version, name, got) from None
                raise
            if len(content) != size:
                got = f"{len(content)} bytes instead of {size}"
                raise PublishedBundleError.of_file(pointer.version, name, got)
            (temporary / name).write_bytes(content)
    return destination


def prune_published(folder: Path, keep: int = 2) -> None:
    """Remove bundles from a local `folder` beyond the `keep` newest.

    What the pointer names stays, and what another process may be writing this very hour.
    """
    pointer = read_pointer(folder, deadline=Deadline.after(60.0))
    found = [path for path in (folder / "bundles").iterdir() if path.is_dir()]
    found.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for path in found[keep:]:
        # a clock that was set back makes a folder look new, never old: it then stays for longer
        old = time.time() - path.stat().st_mtime > _SPARED_S
        if old and path.name != pointer.content_hash:
            shutil.rmtree(path, ignore_errors=True)


def _parsed(data: bytes) -> Pointer:
    plain: dict[str, Any] = orjson.loads(data)
    if plain.pop("format") != _FORMAT:
        raise ValueError("another format")
    pointer = Pointer(**plain)
    texts = (pointer.name, pointer.version, pointer.published, *pointer.notes.values())
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("texts expected")
    if re.fullmatch(r"[0-9a-f]{64}", pointer.content_hash) is None:
        raise ValueError("a content hash has 64 hexadecimal digits")
    if pointer.origin not in ("real", "synthetic"):
        raise ValueError("an origin is real or synthetic")
    sizes = pointer.files.values()
    if len(pointer.files) > _MOST_FILES or not all(type(n) is int and n >= 0 for n in sizes):
        raise ValueError(f"at most {_MOST_FILES} files with their sizes")
    # the names become paths on this disk
    for name in pointer.files:
        if "/" in checked_path(name, "pointer"):
            raise ValueError("files without a folder")
    return pointer


def _refuse_synthetic_over_real(location: storage.Location, new: Pointer) -> None:
    if new.origin == "real":
        return
    try:
        old = read_pointer(location, deadline=Deadline.after(60.0))
    except BundleError:
        return
    if old.origin == "real" and old.name == new.name:
        raise PublishedBundleError.synthetic(old.version)


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
    # what lists or copies bundles does without the model and its features
    from tasador.registry.model_bundle import load_bundle

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
    checked_path(entry.orig_filename, "archive")
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
