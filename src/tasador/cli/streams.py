"""Standard output and error as they come: in any encoding, or closed before all was written."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import sys
from pathlib import Path

from rich import markup

from tasador.core.escape import lines

_HANDLER = "tasador.legible"
_ALIKE = str.maketrans(
    dict(zip("▁▂▃▄▅▆▇█", "_.:-=+*#", strict=True))
    | {"·": " ", "–": "-", "—": "-", "−": "-", "…": "...", "→": "->", "≤": "<=", "≥": ">="}
    | {"×": "x", "²": "2", "±": "+-", "’": "'", "“": '"', "”": '"', "•": "*"}
)


def escape(text: str) -> str:
    """Return text that a terminal shows as it is: no markup of rich's, no control sequences."""
    return markup.escape(lines(text))


def accept_any_encoding() -> None:
    """Let output show what its encoding lacks in other characters, instead of failing.

    A bar or a dash becomes one of ASCII; any other character its escape as in JSON.
    """
    codecs.register_error(_HANDLER, _legible)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by the caller, as `>&-` does
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_HANDLER)


def _legible(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].translate(_ALIKE)
    shown = "".join(char if char.isascii() else _escaped(char) for char in text)
    return shown, error.end


def _escaped(char: str) -> str:
    units = char.encode("utf-16-be", "surrogatepass")
    return "".join(
        f"\\u{int.from_bytes(units[i : i + 2], 'big'):04x}" for i in range(0, len(units), 2)
    )


def drop_what_is_not_taken() -> None:
    """Write out what is left; where nobody takes it, let the interpreter's own flush go nowhere."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
