"""The file of API keys: one line a key, only hashes, replaced as a whole when it changes."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tasador.core.errors import ConfigError, StorageError
from tasador.serving.http.auth import Key, parse_key

_HEAD = "# API keys of tasador: name:role:sha256 of the key. Made by `tasador keys new`.\n"


def read_keys(file: Path) -> list[Key]:
    """Return the keys in `file`, none when it does not exist.

    Raises:
        ConfigError: It cannot be read, or a line is no key.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the keys' file {file} cannot be read: {error}") from None
    return [parse_key(line) for line in lines if line.strip() and not line.startswith("#")]


def add_key(file: Path, key: Key) -> None:
    """Add `key`; others of its name stay valid, so that holders can change over.

    Raises:
        ConfigError: The file cannot be read.
        StorageError: It cannot be written.
    """
    _write(file, [*read_keys(file), key])


def revoke_keys(file: Path, name: str, *, keep_newest: bool = False) -> int:
    """Remove the keys called `name`; returns how many.

    Args:
        file: The keys' file.
        name: The keys' name.
        keep_newest: Whether the one that was made last stays, at the end of a change-over.

    Raises:
        ConfigError: There is none of that name, or the file cannot be read.
        StorageError: It cannot be written.
    """
    keys = read_keys(file)
    named = [key for key in keys if key.name == name]
    if not named:
        raise ConfigError(
            f"no key is called {name!r}",
            expected=", ".join(sorted({key.name for key in keys}))
            or "no key at all is in the file",
            got=name,
        )
    gone = named[:-1] if keep_newest else named
    _write(file, [key for key in keys if not any(key is one for one in gone)])
    return len(gone)


def _write(file: Path, keys: Sequence[Key]) -> None:
    """Replace the file at once: a service that reads meanwhile sees the old one or the new."""
    text = _HEAD + "".join(f"{key.line()}\n" for key in keys)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as written:  # readable by its owner only
                written.write(text)
                written.flush()
                os.fsync(written.fileno())
            if file.exists() and not (mode := file.stat().st_mode) & 0o007:
                Path(temporary).chmod(mode & 0o770)  # a service of another user may share a group
            Path(temporary).replace(file)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise StorageError(f"the keys' file {file} cannot be written: {error}") from None
