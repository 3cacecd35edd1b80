"""Which files a bundle has, and that each is the one its manifest names; nothing is parsed here."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from tasador.core.errors import BundleError, StorageError
from tasador.core.hashing import sha256_bytes
from tasador.registry.manifest import MANIFEST_NAME, Manifest

FEATURES, MODEL, PROFILE = "features.npz", "model.onnx", "profile.json"
CARD, GOLDEN, EXPLAIN = "card.md", "golden.npz", "explain.npz"
#: Not listed in the manifest, since it is made after it: see `registry.signature`.
SIGNATURE = "model.sig"
FETCH_AGAIN = "fetch the bundle again, or register the model again"
_SIGNATURE_BYTES = 1 << 20
_MOST_FILES = 64
_FILES = frozenset({FEATURES, MODEL, PROFILE, CARD, GOLDEN, EXPLAIN})
#: What monitoring compares later rows with; bundles without them load, and are watched less well.
REFERENCE, ERROR_MODEL = "reference.npz", "error.onnx"
#: What training rows are worth to models that did not learn from them (`modeling.training_rows`).
OUT_OF_FOLD = "out_of_fold.npz"
_OPTIONAL = frozenset({REFERENCE, ERROR_MODEL, OUT_OF_FOLD})


class DamagedBundleError(BundleError):
    """A folder that is not the bundle which its manifest describes."""

    @classmethod
    def no_bundle(cls, folder: Path, expected: str, got: str | None = None) -> DamagedBundleError:
        """Return the error of a folder that holds something else."""
        return cls(f"{folder} is no bundle", expected=expected, got=got)

    @classmethod
    def unreadable(cls, folder: Path, error: OSError) -> DamagedBundleError:
        """Return the error of a folder that cannot be listed."""
        return cls(f"there is no bundle at {folder}", got=error.strerror, remedy="check the path")

    @classmethod
    def not_plain(cls, what: str, got: str | None = None) -> DamagedBundleError:
        """Return the error of a link, a device or the like."""
        return cls(f"{what} is refused", expected="plain files only", got=got)

    @classmethod
    def of_files(cls, problem: str, names: Iterable[str]) -> DamagedBundleError:
        """Return the error of files that are missing, or too many."""
        return cls(f"the bundle {problem}: {', '.join(sorted(names)[:5])}", remedy=FETCH_AGAIN)

    @classmethod
    def changed(cls, what: str, expected: str, got: str) -> DamagedBundleError:
        """Return the error of a file that is not the one its manifest names."""
        return cls(what, expected=expected, got=got, remedy=FETCH_AGAIN)

    @classmethod
    def too_large(cls, what: str, limit: int, got: int) -> DamagedBundleError:
        """Return the error of more bytes than are read."""
        return cls(
            f"{what} is too large",
            expected=f"at most {limit} bytes",
            got=str(got),
            remedy="raise the limit if you trust where it comes from",
        )


class ForeignFolderError(StorageError):
    """A folder that is not replaced, since it holds something else than a bundle."""

    @classmethod
    def of(cls, folder: Path) -> ForeignFolderError:
        """Return the error of `folder`."""
        return cls(
            f"{folder} is not replaced",
            expected="a new folder or an older bundle",
            got="something else of that name",
            remedy="name another folder",
        )


@dataclass(frozen=True, slots=True)
class BundleLimits:
    """Sizes above which a bundle is refused unread.

    Attributes:
        manifest_bytes: Size of ``manifest.json``.
        total_bytes: Size of all other files together, and of any archive of arrays unpacked.
    """

    manifest_bytes: int = 50 * 2**20
    total_bytes: int = 2 * 2**30


def read_verified(
    folder: Path,
    limits: BundleLimits,
    signed: Callable[[Mapping[str, bytes]], object] | None = None,
) -> tuple[Manifest, dict[str, bytes]]:
    """Return the manifest and the content of every file, each checked against it.

    What is checked is what is returned: a file that changes afterwards changes nothing. A signature
    is returned with the files, unread.

    Args:
        folder: The bundle's folder.
        limits: Sizes above which it is refused unread.
        signed: Given every file by its name, the signature too; raises `BundleError` for files that
            nobody trusted has signed. It is asked before the manifest, or anything, is parsed.

    Raises:
        BundleError: See `load_bundle`.
    """
    present = _listed(folder)
    if MANIFEST_NAME not in present:
        names = ", ".join(sorted(present)[:5]) or "nothing there"
        raise DamagedBundleError.no_bundle(folder, f"a folder with a {MANIFEST_NAME}", names)
    size, most = present[MANIFEST_NAME], limits.manifest_bytes
    if size > most:
        raise DamagedBundleError.too_large(MANIFEST_NAME, most, size)
    read = {MANIFEST_NAME: _read(folder / MANIFEST_NAME, most)}
    # before the manifest is parsed: a parser is no place for what nobody trusted has signed
    if signed is not None:
        read |= _read_unparsed(folder, present, limits)
        signed(read)
    manifest = Manifest.from_json(read[MANIFEST_NAME])
    _check_files(manifest, present, limits)
    contents = {}
    for name, entry in sorted(manifest.files.items()):
        contents[name] = read[name] if name in read else _read(folder / name, entry.bytes)
        got = sha256_bytes(contents[name])
        if got != entry.sha256:
            what = f"{name} in {folder} was changed after the bundle was written"
            raise DamagedBundleError.changed(what, f"SHA-256 {entry.sha256}", got)
    if SIGNATURE in present:
        contents[SIGNATURE] = (
            read[SIGNATURE] if SIGNATURE in read else _read(folder / SIGNATURE, _SIGNATURE_BYTES)
        )
    return manifest, contents


def _read_unparsed(
    folder: Path, present: Mapping[str, int], limits: BundleLimits
) -> dict[str, bytes]:
    """Return every file but the manifest, within the limits, whatever the manifest says of them."""
    others = {name: size for name, size in present.items() if name != MANIFEST_NAME}
    if others.get(SIGNATURE, 0) > _SIGNATURE_BYTES:
        raise DamagedBundleError.too_large(SIGNATURE, _SIGNATURE_BYTES, others[SIGNATURE])
    if sum(others.values()) > limits.total_bytes:
        raise DamagedBundleError.too_large("the bundle", limits.total_bytes, sum(others.values()))
    return {name: _read(folder / name, size) for name, size in sorted(others.items())}


def _listed(folder: Path) -> dict[str, int]:
    """Return the size of every file in `folder`; links and special files are refused."""
    try:
        with os.scandir(folder) as found:
            # one more than may be: a folder of a million files is refused without listing it
            entries = list(islice(found, _MOST_FILES + 1))
        states = [entry.stat(follow_symlinks=False) for entry in entries]
    except OSError as error:
        raise DamagedBundleError.unreadable(folder, error) from None
    if len(entries) > _MOST_FILES:
        raise DamagedBundleError.no_bundle(folder, f"at most {_MOST_FILES} files")
    sizes = {}
    for entry, status in zip(entries, states, strict=True):
        if not stat.S_ISREG(status.st_mode):
            kind = "a link" if entry.is_symlink() else "a folder or device"
            raise DamagedBundleError.not_plain(f"{entry.name} in {folder}", kind)
        sizes[entry.name] = status.st_size
    return sizes


def _check_files(manifest: Manifest, present: Mapping[str, int], limits: BundleLimits) -> None:
    listed, found = set(manifest.files), set(present) - {MANIFEST_NAME, SIGNATURE}
    for problem, names in (
        ("lacks files", (_FILES | listed) - (found & listed)),
        ("has files that its manifest does not list", found - listed),
        ("lists files that format 1 does not have", listed - _FILES - _OPTIONAL),
    ):
        if names:
            raise DamagedBundleError.of_files(problem, names)
    if present.get(SIGNATURE, 0) > _SIGNATURE_BYTES:
        raise DamagedBundleError.too_large(SIGNATURE, _SIGNATURE_BYTES, present[SIGNATURE])
    total = sum(entry.bytes for entry in manifest.files.values())
    if total > limits.total_bytes:
        raise DamagedBundleError.too_large("the bundle", limits.total_bytes, total)
    for name, entry in manifest.files.items():
        if present[name] != entry.bytes:
            what = f"{name} is truncated or was changed"
            raise DamagedBundleError.changed(what, f"{entry.bytes} bytes", str(present[name]))


def _read(path: Path, limit: int) -> bytes:
    """Read at most one byte more than `limit`, never through a link."""
    try:
        # without O_NONBLOCK a pipe of that name would be waited for without end
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0)
        with os.fdopen(os.open(path, flags), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):  # changed since it was listed
                raise DamagedBundleError.not_plain(str(path))
            # a file that grew since it was listed then fails its checksum, and is not read whole
            return file.read(limit + 1)
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}") from None


def refuse_foreign(folder: Path) -> None:
    """Refuse to replace a folder that holds anything but a bundle.

    Raises:
        StorageError: There is such a folder, or a file in its place.
    """
    if not folder.exists() and not folder.is_symlink():
        return
    replaceable = folder.is_dir() and not folder.is_symlink()
    if not replaceable or (any(folder.iterdir()) and not (folder / MANIFEST_NAME).is_file()):
        raise ForeignFolderError.of(folder)
