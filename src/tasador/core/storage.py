"""Files behind one interface: local paths, ``gs://bucket/key`` and ``s3://bucket/key``.

Local writes are atomic: readers see the old content or the new one, never half of it. Object stores
give the same promise for a single object. Whatever the disk or the store refuses is a
`StorageError`; fsspec and its drivers are imported only when a remote address is used.
"""

from __future__ import annotations

import errno
import glob
import importlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from tasador.core.deadlines import Deadline
from tasador.core.errors import ConfigError, MissingExtraError, StorageError

Location = str | Path
#: A folder with tables, searched after the working folder.
REAL_DATA_VARIABLE = "TASADOR_REAL_DATA"

#: Scheme of a remote address: (driver, the extra that installs it).
_DRIVERS = {"gs": ("gcsfs", "gcs"), "s3": ("s3fs", "s3")}
_CHUNK = 1 << 20
_BLOCK = 4 << 20
#: Not of the operating system: something that is no plain file.
_NO_FILE = -1
_REASONS = {
    _NO_FILE: ("it is a pipe, a device or a socket", "name a plain file"),
    errno.ENXIO: ("it is a pipe, a device or a socket", "name a plain file"),
    errno.ENOSPC: ("the disk is full", "free some space, or choose another folder"),
    errno.EDQUOT: ("the disk quota is used up", "free some space, or choose another folder"),
    errno.EFBIG: ("the file would be too large", "choose another disk, or raise `ulimit -f`"),
    errno.EROFS: ("the file system is read-only", "choose a folder that can be written"),
    errno.EACCES: ("permission denied", "check who owns the folder, or choose another one"),
    errno.EPERM: ("permission denied", "check who owns the folder, or choose another one"),
    errno.ENOENT: ("it does not exist", "check the path"),
    errno.ENAMETOOLONG: ("its name is too long", "check the path"),
    errno.EISDIR: ("it is a folder", "name a file"),
    errno.ENOTDIR: ("a part of its path is a file", "check the path"),
    errno.EEXIST: ("a part of its path is a file", "check the path"),  # where a folder was to be
}
#: What a disk refuses, whoever was writing; anything else in a caller's body is the caller's.
_REFUSALS = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}
)
_NO_PLACE = frozenset({errno.EISDIR, errno.ENOTDIR, errno.EEXIST})


@dataclass(frozen=True, slots=True)
class Patience:
    """How long an object store may keep a reader waiting; drivers' own defaults are minutes.

    Attributes:
        connect_s: Seconds for a connection.
        read_s: Seconds of silence while reading.
    """

    connect_s: float
    read_s: float


def make_private(path: Path, *, folder: bool = False) -> None:
    """Make a file or folder that its owner alone can read, whatever the umask; or make it so.

    One that belongs to another user is left as it is.

    Raises:
        OSError: It cannot be made.
    """
    mode = 0o700 if folder else 0o600
    path.parent.mkdir(parents=True, exist_ok=True)
    if folder:
        with suppress(FileExistsError):
            path.mkdir(mode=mode)
    else:
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode))
    tighten(path)


def tighten(path: Path) -> None:
    """Take from others than its owner what they may do with a file or folder of this user."""
    with suppress(FileNotFoundError, PermissionError):
        status = path.stat()
        if status.st_mode & 0o077 and status.st_uid == os.geteuid():
            path.chmod(stat.S_IMODE(status.st_mode) & 0o700)


def is_remote(location: Location) -> bool:
    """Tell whether `location` is an address in an object store."""
    return isinstance(location, str) and location.partition("://")[0] in _DRIVERS


def check_scheme(location: Location) -> None:
    """Raise ConfigError for ``ftp://...`` and the like: as a path it would be a new folder."""
    if "://" in str(location) and not is_remote(location):
        known = " or ".join(f"{scheme}://" for scheme in _DRIVERS)
        raise ConfigError(f"{location} cannot be reached", expected=f"a local path, {known}")


def require_driver(location: Location) -> None:
    """Find out whether the packages that reach an address are installed; it is not contacted.

    Raises:
        MissingExtraError: One is not.
        ConfigError: The address is of an unknown kind.
    """
    check_scheme(location)
    if is_remote(location):
        driver, extra = _DRIVERS[str(location).partition("://")[0]]
        if os.environ.get("STORAGE_EMULATOR_HOST"):
            # read when gcsfs is imported; otherwise it waits for a gRPC service for ever
            os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
        for package in ("fsspec", driver):
            try:
                importlib.import_module(package)
            except ImportError:
                raise MissingExtraError.for_package(package, extra) from None


def local_folder(location: Location) -> Path:
    """Return a folder of this machine.

    Raises:
        ConfigError: It is an address: as a path it would be a folder that is never found.
    """
    if re.match(r"[a-z][a-z0-9+.-]+:/", str(location), re.IGNORECASE):  # a Path has lost one slash
        raise ConfigError(
            f"{location} is no folder of this machine", expected="a local path",
            remedy="give the address of an object store as TASADOR_SOURCE__OBJECT_STORE",
        )  # fmt: skip
    return Path(location)


def join(base: Location, *parts: str) -> str:
    """Return the location of `parts` under `base`, local or remote."""
    if is_remote(base):
        return "/".join([str(base).rstrip("/"), *(part.strip("/") for part in parts)])
    return str(Path(base).joinpath(*parts))


def exists(location: Location) -> bool:
    """Tell whether there is a file (or, locally, a folder) at `location`.

    Raises:
        StorageError: The disk or the object store cannot be reached or refuses to say.
    """
    with _storage_errors("look for", location):
        if not is_remote(location):
            return Path(location).exists()
        return bool(_filesystem(str(location)).exists(str(location)))


def is_folder(location: Location) -> bool:
    """Tell whether `location` is a local folder; object stores have none.

    Raises:
        StorageError: The disk refuses to say, e.g. because the name is too long.
    """
    with _storage_errors("look for", location):
        return not is_remote(location) and Path(location).is_dir()


def places(paths: Sequence[str], search: Sequence[Location]) -> Iterator[str]:
    """Yield the locations to try for a table, in order, each once.

    Args:
        paths: Where it may be; relative ones are sought in the working folder first.
        search: Folders to look in after that, also by file name alone; the one that
            `REAL_DATA_VARIABLE` names is the last.
    """
    folders = [*search]
    if os.environ.get(REAL_DATA_VARIABLE):
        folders.append(os.environ[REAL_DATA_VARIABLE])
    for place in folders:
        check_scheme(place)
    seen = set()
    for folder in [None, *folders]:
        for path in paths:
            if is_remote(path) or Path(path).is_absolute() or folder is None:
                candidates = [path]
            else:
                candidates = [join(folder, name) for name in (path, Path(path).name)]
            for candidate in candidates:
                if candidate not in seen:
                    seen.add(candidate)
                    yield candidate


def find_local(paths: Sequence[str], search: Sequence[Location] = ()) -> Path | None:
    """Return the local file among `places` that would be read first, or None."""
    for place in places(paths, search):
        if is_remote(place):
            return None  # an object comes first; what it holds is only known by reading it
        for file in find(place):
            if exists(file) and not is_folder(file):
                return Path(file)
    return None


def find(pattern: Location) -> list[str]:
    """Return the files that a location with ``*``, ``?``, ``[...]`` or ``**`` names, sorted.

    A location without any of them is returned as it is, whether it exists or not.

    Raises:
        StorageError: The disk or the object store cannot be reached or refuses to say.
    """
    text = str(pattern)
    if not any(mark in text for mark in "*?["):
        return [text]
    with _storage_errors("look for", text):
        if not is_remote(text):
            if Path(text).exists():  # a name may hold brackets
                return [text]
            found = glob.glob(text, recursive=True)  # noqa: PTH207 - keeps the pattern's spelling
            return sorted(name for name in found if Path(name).is_file())
        scheme = text.partition("://")[0]
        return sorted(f"{scheme}://{name}" for name in _filesystem(text).glob(text))


@dataclass(frozen=True, slots=True)
class Stamp:
    """What changes when a file does, short of reading it.

    Attributes:
        size: Its size in bytes.
        changed: Its time of change, or an object's tag.
    """

    size: int
    changed: str


def stamp(location: Location) -> Stamp:
    """Return a file's size and when it was changed.

    Raises:
        StorageError: It does not exist, or the disk or the object store refuses to say.
    """
    with _storage_errors("read", location):
        if not is_remote(location):
            found = Path(location).stat()
            return Stamp(found.st_size, str(found.st_mtime_ns))
        about = _filesystem(str(location)).info(str(location))
    named = (about.get(key) for key in ("etag", "ETag", "generation", "updated", "LastModified"))
    return Stamp(int(about["size"]), str(next((one for one in named if one is not None), "")))


@contextmanager
def open_read(
    location: Location, patience: Patience | None = None, *, scattered: bool = False
) -> Iterator[BinaryIO]:
    """Open a file for reading bytes; it is closed when the body ends.

    A pipe, a device or a socket is refused: it may keep the reader for ever, or never end.

    Args:
        location: The file.
        patience: How long an object store is waited for; None leaves that to its driver.
        scattered: Whether small parts of it are read: the driver then fetches little ahead.

    Raises:
        StorageError: It does not exist, or cannot be read.
    """
    with _storage_errors("read", location):
        if is_remote(location):
            store = _filesystem(str(location), patience)
            options = {"block_size": _BLOCK} if patience is not None else {}
            if scattered:
                options = {"block_size": _CHUNK}
            file = cast(BinaryIO, store.open(str(location), "rb", **options))
        else:
            # closed below, for both kinds
            file = open(location, "rb", opener=_open_plain)  # noqa: SIM115
    try:
        yield file
    finally:
        file.close()


def read_bytes(location: Location) -> bytes:
    """Return the content of a file.

    Raises:
        StorageError: It does not exist, or cannot be read.
    """
    with open_read(location) as file, _storage_errors("read", location):
        return file.read()


def read_limited(
    location: Location, limit: int, *, deadline: Deadline, patience: Patience | None = None
) -> bytes:
    """Return a file's content, of a longer one the first `limit` + 1 bytes.

    Raises:
        StorageError: It does not exist, or cannot be read.
        DeadlineError: The deadline passed between two chunks.
    """
    chunks: list[bytes] = []
    left = limit + 1
    with open_read(location, patience) as file, _storage_errors("read", location):
        while left > 0 and (chunk := file.read(min(_CHUNK, left))):
            deadline.check(f"reading {location}")
            chunks.append(chunk)
            left -= len(chunk)
    return b"".join(chunks)


def write_bytes(location: Location, data: bytes) -> None:
    """Write a file at once: other readers see the old content or all of the new one.

    Missing local parent folders are made. What a link points to is replaced, not the link; a pipe
    or a device such as ``/dev/stdout`` stays what it is and takes the bytes as they come.

    Raises:
        StorageError: Disk full, read-only, permission denied, store unreachable. Nothing is left
            behind and an older file at `location` is untouched.
    """
    with _storage_errors("write", location):
        if is_remote(location):
            _filesystem(str(location)).pipe_file(str(location), data)
        else:
            with open_write(Path(location)) as file:
                file.write(data)


def write_text(location: Location, text: str) -> None:
    """Write `text` as UTF-8; see `write_bytes`."""
    write_bytes(location, text.encode("utf-8"))


def copy_to_local(location: Location, target: Path) -> Path:
    """Copy a file to the local path `target`, atomically, and return `target`.

    Raises:
        StorageError: The file cannot be read or the copy cannot be written.
    """
    with (
        open_read(location) as source,
        _storage_errors("copy", location),
        atomic_file(target) as file,
    ):
        shutil.copyfileobj(source, file, _CHUNK)
    return target


def copy_from_local(source: Path, location: Location) -> None:
    """Copy the local file `source` to `location`, whole or not at all.

    Large files go to an object store in parts, so that memory holds one part and not the file.

    Raises:
        StorageError: The file cannot be read or the copy cannot be written.
    """
    if is_remote(location):
        with _storage_errors("write", location):
            _filesystem(str(location)).put_file(str(source), str(location))
    else:
        copy_to_local(str(source), Path(location))


def storage_error(error: OSError) -> StorageError | None:
    """Return what to say when a disk refused a write somewhere; None for any other error."""
    if error.errno not in _REFUSALS:
        return None
    reason, remedy = _REASONS[error.errno]
    where = f" {error.filename}" if error.filename else ""
    return StorageError(f"cannot write{where}: {reason}", remedy=remedy)


@contextmanager
def open_write(path: Path) -> Iterator[BinaryIO]:
    """Open a local file for writing, as `atomic_file`; a pipe or a device stays what it is."""
    if not path.exists() or path.is_file() or path.is_dir():
        with atomic_file(path.resolve() if path.is_symlink() else path) as file:
            yield file
    else:
        with path.open("wb") as file:
            yield file


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Open a new file that takes the place of `path` only when the body ends well.

    Raises:
        StorageError: Disk full, read-only or permission denied; the temporary file is removed.
    """
    temporary = _sibling(path)
    with _storage_errors("write", path, only=_REFUSALS | _NO_PLACE):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:  # Ctrl-C leaves nothing behind either
            temporary.unlink(missing_ok=True)
            raise


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Give an empty folder to fill; it takes the place of `path` only when the body ends well.

    An older folder at `path` is replaced; it stays as it was when the body raises.

    Raises:
        StorageError: Disk full, read-only or permission denied; the temporary folder is removed.
    """
    temporary, older = _sibling(path), _sibling(path)
    with _storage_errors("write", path, only=_REFUSALS):
        try:
            temporary.mkdir(parents=True)
            yield temporary
            if path.exists():
                path.rename(older)
            try:
                temporary.rename(path)
            except BaseException:
                if older.exists():
                    older.rename(path)
                raise
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        finally:
            shutil.rmtree(older, ignore_errors=True)


def _open_plain(path: str, flags: int) -> int:
    """Open a plain file; anything else is refused without waiting for whoever is at its end."""
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "", path)
    raise OSError(_NO_FILE, "", path)


def is_plain(path: Path) -> bool:
    """Tell whether `path` is a plain file, or a link to one."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False


def _sibling(path: Path) -> Path:
    """Return an unused hidden name in the folder of `path`, so that a rename stays on one disk."""
    return path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}.tmp")


@contextmanager
def _storage_errors(
    action: str, location: Location, only: frozenset[int] | None = None
) -> Iterator[None]:
    """Turn the operating system's (or `only` some of them) and drivers' errors into ours."""
    try:
        yield
    except OSError as error:
        if only is not None and error.errno not in only:
            raise
        known = _REASONS.get(error.errno or 0)
        if known is None and isinstance(error, FileNotFoundError):  # drivers leave errno out
            known = _REASONS[errno.ENOENT]
        reason, remedy = known or (error.strerror or str(error) or type(error).__name__, None)
        raise StorageError(f"cannot {action} {location}: {reason}", remedy=remedy) from error
    except Exception as error:
        # gcsfs, s3fs and aiohttp have error trees of their own without a common root
        if not is_remote(location) or not _from_driver(error):
            raise
        raise StorageError(
            f"cannot {action} {location}: {type(error).__name__}: {error}",
            remedy="check the address, the credentials and the network",
        ) from error


def _from_driver(error: Exception) -> bool:
    """Tell whether `error` was defined by an object store's driver and not by us."""
    root = type(error).__module__.partition(".")[0]
    return root in {"gcsfs", "s3fs", "fsspec", "aiohttp", "botocore", "aiobotocore", "google"}


def _filesystem(location: str, patience: Patience | None = None) -> Any:
    """Return the fsspec file system of a remote address."""
    scheme = location.partition("://")[0]
    emulated = scheme == "gs" and bool(os.environ.get("STORAGE_EMULATOR_HOST"))
    require_driver(location)
    fsspec = importlib.import_module("fsspec")
    options: dict[str, Any] = {"use_listings_cache": False}
    if emulated:
        options["token"] = "anon"  # noqa: S105 - the emulator knows no credentials
    if patience is not None and scheme == "gs":
        options["requests_timeout"] = patience.read_s
    elif patience is not None:
        options["config_kwargs"] = {
            "connect_timeout": patience.connect_s,
            "read_timeout": patience.read_s,
            "retries": {"max_attempts": 0},
        }
    filesystem = fsspec.filesystem(scheme, **options)
    with suppress(Exception):  # someone else may have written since; not every driver caches
        filesystem.invalidate_cache()
    return filesystem
