"""Standard output and error: consoles, notes, JSON; any encoding, and readers that close early."""

from __future__ import annotations

import codecs
import contextlib
import datetime as dt
import io
import json
import os
import re
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import markup
from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook, RenderResult
from rich.measure import Measurement
from rich.segment import Segment

from tasador.core import clock
from tasador.core.escape import lines
from tasador.core.languages import Language

if TYPE_CHECKING:
    from rich.table import Table


class _Escaped:
    """What is to be printed, its control characters escaped wherever its texts came from."""

    def __init__(self, printed: ConsoleRenderable) -> None:
        self._printed = printed

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for part in console.render(self._printed, options):
            yield part if part.control else Segment(lines(part.text), part.style)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement.get(console, options, self._printed)


class _EscapeAll(RenderHook):
    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [_Escaped(one) for one in renderables]


out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)
out.push_render_hook(_EscapeAll())
err.push_render_hook(_EscapeAll())
_HANDLER = "tasador.legible"
#: Commands with the option --workspace, but not --model and --registry.
_WITHOUT_MODEL = {
    "up", "monitor", "watch", "alerts", "simulate", "records", "outcomes", "review", "report",
}  # fmt: skip
_ALIKE = str.maketrans(
    dict(zip("▁▂▃▄▅▆▇█", "_.:-=+*#", strict=True))
    | {"·": " ", "–": "-", "—": "-", "−": "-", "…": "...", "→": "->", "≤": "<=", "≥": ">="}
    | {"×": "x", "²": "2", "±": "+-", "’": "'", "“": '"', "”": '"', "•": "*"}
)


def escape(text: str) -> str:
    """Return text that a terminal shows as it is: no markup of rich's, no control sequences."""
    return markup.escape(lines(text))


def language() -> Language:
    """Return the language of errors: that of TASADOR_LANGUAGE, else of the locale's messages."""
    names = ("TASADOR_LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG")
    wanted = next((found for name in names if (found := os.environ.get(name))), "")
    return "es" if re.match(r"es(?![a-z])", wanted, re.IGNORECASE) else "en"


def note(line: str) -> None:
    """Print which choice was made where the user made none, or what was repaired."""
    err.print(f"[yellow]note:[/] {escape(line)}")


def print_json(value: Any) -> None:
    """Print plain values as JSON."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def table(columns: Iterable[str], rows: Iterable[Sequence[str]], *, grid: bool = True) -> Table:
    """Return a table of texts; a narrow terminal breaks long ones and never cuts them off.

    Without its grid a column takes two characters of 80 instead of three.
    """
    from rich.table import Table

    found = Table(*columns) if grid else Table(*columns, box=None, pad_edge=False)
    for column in found.columns:
        column.overflow = "fold"
    for row in rows:
        found.add_row(*(escape(cell) for cell in row))
    return found


def time_text(seconds: float) -> str:
    """Return a time for people, in the time zone of this machine: ``27 Nov 23:06``.

    Of another year, the date: ``27 Nov 2025``. Exact times in UTC are in what `--json` prints.
    """
    then, now = (dt.datetime.fromtimestamp(s).astimezone() for s in (seconds, clock.seconds()))
    return f"{then:%d %b %H:%M}" if then.year == now.year else f"{then:%d %b %Y}"


def short_id(bundle: str) -> str:
    """Return the first seven digits of a bundle's hash, as Git shows a commit."""
    return bundle.rpartition("-")[2][:7]


def percent(text: str | None) -> str:
    """Return a figure in percent as kept in a registry's tag, with its unit: ``12.31%``."""
    try:
        return f"{float(text):.2f}%" if text else ""
    except ValueError:
        return text or ""


def follow(
    command: str,
    workspace: Path | None = None,
    registry: str | None = None,
    model: str | None = None,
    *,
    to: Console = out,
) -> None:
    """Print the command that comes next, with the options that this one was given.

    `run` takes none of them; `up` and what is about records take the workspace alone.

    Args:
        command: Without `tasador`.
        workspace: As given; the usual one is left out.
        registry: As given.
        model: As given.
        to: Standard error where standard output is for programs; then it is only shown to people.
    """
    if to is err and not sys.stderr.isatty():
        return
    words = ["tasador", command]
    options = {"model": model, "registry": registry, "workspace": workspace}
    first = command.partition(" ")[0]
    taken = () if first == "run" else ("workspace",) if first in _WITHOUT_MODEL else tuple(options)
    for name in taken:
        value = options[name]
        if value is not None and (name, str(value)) != ("workspace", "workspace"):
            words += [f"--{name}", shlex.quote(str(value))]
    to.print(f"next: {escape(' '.join(words))}")


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
