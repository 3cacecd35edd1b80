"""`Manifest`: what a bundle says about itself, read strictly and before anything else.

Also which files a bundle has, and that each is the one its manifest names: `read_verified` parses
none of them but the manifest.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, Literal, cast

import orjson

from tasador.core.errors import BundleError, StorageError
from tasador.core.hashing import sha256_bytes, to_plain
from tasador.core.input_checks import check_depth, read_json

FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"
#: Keys that say when and under which release, not what: equal content has an equal hash.
_NOT_CONTENT = frozenset({"created", "release", "content_hash"})
_OPTIONAL_KEYS = frozenset({"release"})
RELEASE_PATTERN = r"\d{1,9}\.\d{1,9}\.\d{1,9}"
_VERSION_DIGITS = 12
#: Levels of objects and lists; a manifest has about seven.
_MOST_LEVELS = 64
FEATURES, MODEL, PROFILE = "features.npz", "model.onnx", "profile.json"
CARD, GOLDEN, EXPLAIN = "card.md", "golden.npz", "explain.npz"
#: What a bundle's card says instead of its version, time and hash: they follow from its files, the
#: card among them. `ModelBundle.card` has them filled in.
CARD_VERSION = "the version in this bundle's manifest.json"
CARD_TIME = "the time in this bundle's manifest.json"
CARD_HASH = "in this bundle's manifest.json"
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
#: How large an error to expect of each estimate (`modeling.confidence`): trees, and calibration.
CONFIDENCE_TREES, CONFIDENCE = "confidence.onnx", "confidence.npz"
#: What is kept of the comparables beside their places (`registry.explainer`).
KNOWN_SALES = "comparables.npz"
_OPTIONAL_FILES = frozenset(
    {REFERENCE, ERROR_MODEL, OUT_OF_FOLD, CONFIDENCE_TREES, CONFIDENCE, KNOWN_SALES}
)


class InvalidManifestError(BundleError):
    """A manifest that cannot be read, or be written."""

    @classmethod
    def of_value(cls, where: str, expected: str, got: Any) -> InvalidManifestError:
        """Return the error of a value of a different type."""
        return cls(
            f"{MANIFEST_NAME}: {where} cannot be read",
            expected=expected,
            got=repr(got)[:80],
            remedy=FETCH_AGAIN,
        )

    @classmethod
    def of_keys(cls, where: str, names: set[str], present: set[str]) -> InvalidManifestError:
        """Return the error of missing and unknown keys."""
        return cls(
            f"{MANIFEST_NAME}: {where} does not have the keys of format {FORMAT_VERSION}",
            expected=", ".join(sorted(names)),
            got=f"missing {sorted(names - present)}, unknown {sorted(present - names)}",
            remedy=FETCH_AGAIN,
        )

    @classmethod
    def of_format(cls, version: Any) -> InvalidManifestError:
        """Return the error of another format version."""
        newer = isinstance(version, int) and version > FORMAT_VERSION
        return cls(
            "the bundle has an unknown format version",
            expected=str(FORMAT_VERSION),
            got=repr(version),
            remedy="update tasador" if newer else FETCH_AGAIN,
        )

    @classmethod
    def not_json(cls, error: ValueError) -> InvalidManifestError:
        """Return the error of a text that is not JSON."""
        return cls(f"{MANIFEST_NAME} is not JSON: {error}", remedy=FETCH_AGAIN)

    @classmethod
    def changed(cls, expected: str, got: str) -> InvalidManifestError:
        """Return the error of a content hash that is not the content's."""
        return cls(
            f"{MANIFEST_NAME} was changed after it was written",
            expected=f"content hash {expected}",
            got=got,
            remedy=FETCH_AGAIN,
        )

    @classmethod
    def not_writable(cls, error: TypeError) -> InvalidManifestError:
        """Return the error of a value that JSON does not have."""
        return cls(
            f"the manifest cannot be written: {error}",
            expected="texts, numbers, lists and mappings in metrics, lineage and states",
        )


class UnsafePathError(BundleError):
    """A path in a bundle that may lead out of its folder."""

    @classmethod
    def of(cls, path: str, where: str) -> UnsafePathError:
        """Return the error of `path`, which may be of any length, and where it stands."""
        return cls(
            f"the {where}'s path {path[:200]!r} is refused",
            expected="a relative path inside the bundle, of letters, digits, '.', '_' and '-'",
            remedy="do not use this bundle: nothing that tasador writes looks like that",
        )


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file of the bundle: its SHA-256 as 64 hexadecimal digits, and its size."""

    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """The model: its file, what it is (e.g. ``"lightgbm"``) and how many features it takes."""

    file: str
    kind: str
    n_features: int


@dataclass(frozen=True)
class Manifest:
    """Everything about a bundle that is no array, and the checksums of the rest.

    Attributes:
        format_version: Version of this layout.
        name: The model's name.
        created: ISO 8601 in UTC, e.g. ``2026-11-23T10:00:00Z``.
        origin: Whether the model was trained on real or on generated rows.
        contract: `TableContract.to_dict`.
        features: The JSON half of `FittedFeatures.state`.
        target: `TargetTransform.to_dict`.
        interval: `ConformalInterval.to_dict`.
        model: Where the model is and what it takes.
        metrics: What was measured at training time.
        lineage: Data hash, code commit, configuration, seeds, library versions.
        parity: Proof that the exported model answers as the library did.
        files: Every file of the folder but the manifest, by relative path.
        release: The version people say, e.g. ``1.2.0``; given when the model is registered, empty
            before that and in older bundles.
        content_hash: SHA-256 over all of the above but `created` and `release`.
    """

    format_version: int
    name: str
    created: str
    origin: Literal["real", "synthetic"]
    contract: Mapping[str, Any]
    features: Mapping[str, Any]
    target: Mapping[str, Any]
    interval: Mapping[str, Any]
    model: ModelEntry
    metrics: Mapping[str, Any]
    lineage: Mapping[str, Any]
    parity: Mapping[str, Any]
    files: Mapping[str, FileEntry]
    content_hash: str = ""
    release: str = ""

    @property
    def version(self) -> str:
        """The model's name and the first 12 digits of the content hash."""
        return f"{self.name}-{self.content_hash[:_VERSION_DIGITS]}"

    def filled(self, card: str) -> str:
        """Return a bundle's card with its version, time and hash where it points to this."""
        gaps = {
            CARD_VERSION: self.version, CARD_TIME: self.created, CARD_HASH: self.content_hash,
        }  # fmt: skip
        for gap, value in gaps.items():
            card = card.replace(gap, value)
        return card

    def with_content_hash(self) -> Manifest:
        """Return the manifest with its content hash filled in."""
        return replace(self, content_hash=_content_hash(orjson.loads(self.to_json())))

    def to_json(self) -> bytes:
        """Return the manifest as JSON: equal manifests give equal bytes.

        Keys keep their order, for the order of a contract's columns means something.

        Raises:
            BundleError: Something in it is no JSON value.
        """
        plain = to_plain(self)
        if not self.release:
            del plain["release"]
        try:
            return orjson.dumps(plain, option=orjson.OPT_INDENT_2)
        except TypeError as error:
            raise InvalidManifestError.not_writable(error) from None

    @classmethod
    def from_json(cls, data: bytes) -> Manifest:
        """Read a manifest, strictly.

        Raises:
            BundleError: No JSON, another format version, missing or unknown keys, values of the
                wrong kind, paths that lead out of the folder, or a content hash that does not fit.
        """
        try:
            plain = orjson.loads(data)
            check_depth(plain, _MOST_LEVELS)
            # orjson keeps the last of two equal names in silence: readers would see two manifests
            read_json(data)
        except ValueError as error:
            raise InvalidManifestError.not_json(error) from None
        if not isinstance(plain, dict):
            raise InvalidManifestError.of_value(MANIFEST_NAME, "an object", plain)
        _check_format(plain)
        names = {field.name for field in fields(cls)}
        _check_keys(plain, names - (_OPTIONAL_KEYS - plain.keys()), MANIFEST_NAME)
        for key, check in _CHECKS.items():
            if key in plain:
                check(key, plain[key])
        if plain["content_hash"] != _content_hash(plain):
            raise InvalidManifestError.changed(plain["content_hash"], _content_hash(plain))
        files = {path: FileEntry(**entry) for path, entry in plain["files"].items()}
        return cls(**{**plain, "model": ModelEntry(**plain["model"]), "files": files})


def checked_path(path: str, where: str = "bundle") -> str:
    """Return `path` if it is a plain relative path that stays inside its folder.

    Args:
        path: The path.
        where: What it was read from, for the error.

    Raises:
        BundleError: It is absolute, climbs with ``..``, or is written in a way that some system
            reads differently (backslashes, drive letters, ``.``, empty parts, control characters).
    """
    pure = PurePosixPath(path)
    parts = path.split("/")
    plain = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*", path)
    if plain is None or pure.is_absolute() or ".." in parts or len(path) > 200:
        raise UnsafePathError.of(path, where)
    return path


def _content_hash(plain: Mapping[str, Any]) -> str:
    # sorted at this level only: below it order may mean something, as that of a contract's columns
    content = {key: plain[key] for key in sorted(plain) if key not in _NOT_CONTENT}
    return sha256_bytes(orjson.dumps(content))


def _check_format(plain: dict[str, Any]) -> None:
    version = plain.get("format_version")
    # in Python True equals 1
    if version != FORMAT_VERSION or isinstance(version, bool):
        raise InvalidManifestError.of_format(version)


def _check_keys(plain: Mapping[str, Any], names: set[str], where: str) -> None:
    if names != set(plain):
        raise InvalidManifestError.of_keys(where, names, set(plain))


def _matches(pattern: str, expected: str) -> Callable[[str, Any], None]:
    def check(where: str, value: Any) -> None:
        if not isinstance(value, str) or re.fullmatch(pattern, value) is None:
            raise InvalidManifestError.of_value(where, expected, value)

    return check


def _is_mapping(where: str, value: Any) -> None:
    if not isinstance(value, dict):
        raise InvalidManifestError.of_value(where, "an object", value)


def _is_size(where: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InvalidManifestError.of_value(where, "a number of 0 or more", value)


_is_sha256 = _matches(r"[0-9a-f]{64}", "64 hexadecimal digits")


def _check_model(where: str, value: Any) -> None:
    _is_mapping(where, value)
    _check_keys(value, {"file", "kind", "n_features"}, where)
    _matches(r".{1,200}", "a path")(f"{where}.file", value["file"])
    _matches(r".{1,100}", "a text")(f"{where}.kind", value["kind"])
    _is_size(f"{where}.n_features", value["n_features"])


def _check_files(where: str, value: Any) -> None:
    _is_mapping(where, value)
    for path, entry in cast(dict[str, Any], value).items():
        checked_path(path, "manifest")
        _is_mapping(f"{where}.{path}", entry)
        _check_keys(entry, {"sha256", "bytes"}, f"{where}.{path}")
        _is_sha256(f"{where}.{path}.sha256", entry["sha256"])
        _is_size(f"{where}.{path}.bytes", entry["bytes"])


_CHECKS: dict[str, Callable[[str, Any], None]] = {
    "name": _matches(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", "letters, digits, '.', '_' and '-'"),
    "created": _matches(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "a time such as 2026-11-23T10:00:00Z"),
    "origin": _matches("real|synthetic", "real or synthetic"),
    "contract": _is_mapping,
    "features": _is_mapping,
    "target": _is_mapping,
    "interval": _is_mapping,
    "model": _check_model,
    "metrics": _is_mapping,
    "lineage": _is_mapping,
    "parity": _is_mapping,
    "files": _check_files,
    "content_hash": _is_sha256,
    "release": _matches(RELEASE_PATTERN, "a release such as 1.2.0"),
}


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
    _check_listed(manifest, present, limits)
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


def _check_listed(manifest: Manifest, present: Mapping[str, int], limits: BundleLimits) -> None:
    listed, found = set(manifest.files), set(present) - {MANIFEST_NAME, SIGNATURE}
    for problem, names in (
        ("lacks files", (_FILES | listed) - (found & listed)),
        ("has files that its manifest does not list", found - listed),
        ("lists files that format 1 does not have", listed - _FILES - _OPTIONAL_FILES),
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
