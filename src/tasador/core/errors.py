"""Every error tasador raises on purpose, under one root.

::

    TasadorError                 exit code 1
    ├── ConfigError                        2   an invalid setting or command line
    │   └── ContractError                  2   a table contract that is wrong, names the key
    ├── DataError                          3   the table itself
    │   ├── SourceError                    3   it cannot be read: missing, truncated, wrong checksum
    │   └── ValidationError                3   it was read but does not meet its contract
    ├── TrainingError                      4   nothing could be fitted, or a fit went wrong
    ├── BundleError                        5   a bundle that is damaged, tampered with or unknown
    │   └── NothingOfferedError            5   a source that answered, and has no bundle to give
    ├── RegistryError                      6   the model registry refused or cannot be reached
    │   └── RegistryRejectedError                   6   it answered, and asking again would not help
    ├── StorageError                       7   a disk or object store: full, read-only, unreachable
    │   └── DeadlineError                  7   no answer in the time it was given
    ├── MissingExtraError                  8   an optional dependency is not installed
    ├── ServingError                       9   a request is refused, or the service cannot start
    ├── GateError                         10   a model may not take the place it was to have
    └── EngineError                       13   a cluster that cannot be reached, or lost the work

Each message has up to four parts: what happened, what was expected, what came instead, and what
to do about it. The command line prints them without a traceback and exits with the class's code;
130 is an interruption (Ctrl-C).
"""

from __future__ import annotations

import difflib
import json
import re
import shlex
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import ClassVar
from urllib.parse import unquote, urlsplit

from tasador.core.languages import Language, translated

#: Modules whose distribution has another name.
_DISTRIBUTIONS = {
    "sklearn": "scikit-learn",
    "hydra": "hydra-core",
    "xgboost": "xgboost-cpu",
    "fpdf": "fpdf2",
}


def extra_with(module: str) -> str | None:
    """Return the first extra that brings the top-level `module`; None when no extra names it."""
    package = _DISTRIBUTIONS.get(module, module.replace("_", "-"))
    for requirement in metadata.requires("tasador") or ():
        named = re.match(r"[\w.-]+", requirement)
        extra = re.search(r"extra == ['\"]([\w-]+)['\"]", requirement)
        if named and extra and named[0].lower() == package.lower():
            return extra[1]
    return None


def install_command(extra: str) -> str:
    """Return the command that adds `extra` (or several, with commas) to this installation.

    In a checkout's own environment that is ``make install``, which takes the locked versions; for
    an installation from a folder the command names the folder.
    """
    origin = json.loads(_direct_url() or "{}")
    url = urlsplit(origin.get("url", ""))
    if url.scheme != "file" or "dir_info" not in origin:
        return f'pip install "tasador[{extra}]"'
    folder = Path(unquote(url.path))
    if Path(sys.prefix) == folder / ".venv" and (folder / "Makefile").is_file():
        place = "" if folder == Path.cwd() else f" -C {shlex.quote(str(folder))}"
        return f'make{place} install EXTRAS="{extra.replace(",", " ")}"'
    editable = "-e " if origin["dir_info"].get("editable") else ""
    return f'pip install {editable}"{folder}[{extra}]"'


def _direct_url() -> str | None:
    """Return what the installer recorded about where tasador came from (PEP 610)."""
    try:
        return metadata.distribution("tasador").read_text("direct_url.json")
    except metadata.PackageNotFoundError:
        return None


def closest(given: str, known: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """Return that of the `known` words which is most like the one given; None when none is.

    Args:
        given: What somebody wrote.
        known: What there is.
        cutoff: How alike they must be, as `difflib.get_close_matches` has it.
    """
    return next(iter(difflib.get_close_matches(given, list(known), n=1, cutoff=cutoff)), None)


def did_you_mean(given: str, known: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """Return the remedy that names the `closest` word; None when none is like the one given."""
    found = closest(given, known, cutoff=cutoff)
    return None if found is None else f"did you mean {found!r}?"


INTERRUPTED_EXIT_CODE = 130
_LABELS: dict[Language, tuple[str, str, str]] = {
    "en": ("expected", "got", "To do"),
    "es": ("se esperaba", "se recibió", "Qué hacer"),
}


class TasadorError(Exception):
    """Root of all errors that tasador raises on purpose.

    Args:
        message: What happened, in one sentence without a full stop.
        expected: What would have been right.
        got: What came instead.
        remedy: What the reader can do about it.

    Example:
        >>> import tasador
        >>> try:
        ...     tasador.compose(["sweep.trial=5"])
        ... except tasador.TasadorError as error:
        ...     error.exit_code, error.remedy
        (2, "did you mean 'trials'?")
    """

    exit_code: ClassVar[int] = 1

    def __init__(
        self,
        message: str,
        *,
        expected: str | None = None,
        got: str | None = None,
        remedy: str | None = None,
    ) -> None:
        super().__init__(message, expected, got, remedy)
        self.message = message
        self.expected = expected
        self.got = got
        self.remedy = remedy

    def __str__(self) -> str:
        return self.told("en")

    def told(self, language: Language) -> str:
        """Return the whole message in a language; what has no form there stays English."""
        expected, got, to_do = _LABELS[language]
        text = translated(self.message, language)
        details = [
            f"{label} {translated(value, language)}"
            for label, value in ((expected, self.expected), (got, self.got))
            if value is not None
        ]
        if details:
            text += ": " + ", ".join(details)
        if self.remedy is not None:
            text += f". {to_do}: {translated(self.remedy, language)}"
        return text

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.message, self.expected, self.got, self.remedy)


def _rebuild(
    kind: type[TasadorError],
    message: str,
    expected: str | None,
    got: str | None,
    remedy: str | None,
) -> TasadorError:
    """Rebuild an error in another process (worker pools send them back by value)."""
    return kind(message, expected=expected, got=got, remedy=remedy)


class ConfigError(TasadorError):
    """An invalid setting or command line."""

    exit_code = 2


class ContractError(ConfigError):
    """A table contract that is wrong; the message names the key."""


class DataError(TasadorError):
    """Something is wrong with the table itself."""

    exit_code = 3


class SourceError(DataError):
    """The table cannot be read: missing, truncated, of another format, wrong checksum."""


class ValidationError(DataError):
    """The table was read but does not meet its contract."""


class TrainingError(TasadorError):
    """Nothing could be fitted, or a fit gave something unusable."""

    exit_code = 4


class BundleError(TasadorError):
    """A bundle that is damaged, tampered with, or of an unknown format."""

    exit_code = 5


class NothingOfferedError(BundleError):
    """A source of bundles that answered, and has none to give."""


class RegistryError(TasadorError):
    """The model registry refused, or cannot be reached."""

    exit_code = 6


class RegistryRejectedError(RegistryError):
    """The model registry answered, and asking again would not help: credentials, a bad request."""


class StorageError(TasadorError):
    """A disk or an object store: full, read-only, unreachable."""

    exit_code = 7


class DeadlineError(StorageError):
    """No answer in the time it was given; what was asked may still be under way."""


class MissingExtraError(TasadorError):
    """An optional dependency is not installed."""

    exit_code = 8

    @classmethod
    def for_package(cls, package: str, extra: str) -> MissingExtraError:
        """Build the message for `package`, which comes with `extra`."""
        return cls(f"the package {package!r} is not installed", remedy=install_command(extra))

    @classmethod
    def for_module(cls, module: str) -> MissingExtraError:
        """Build the message for a failed import of `module`."""
        return cls.for_package(module, extra_with(module) or "train,serve")


class GateError(TasadorError):
    """A model that may not take the place it was to have."""

    exit_code = 10


class EngineError(TasadorError):
    """A cluster that cannot be reached, or that lost the work too often."""

    exit_code = 13  # 11 and 12 are verdicts of `tasador monitor`


class ServingError(TasadorError):
    """A request that the service refuses, or a service that cannot start."""

    exit_code = 9
