"""HTML pages from the templates beside this module; everything that goes in is escaped.

Step cards: what a step saw and decided, as JSON for machines and HTML for people.

A step always leaves a card, even when it fails or is interrupted: it fills a `CardBuilder` while it
works, and `recorded_card` writes what is there, however the step ends.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tasador.core import clock, storage
from tasador.core.errors import MissingExtraError, StorageError
from tasador.core.hashing import to_plain
from tasador.core.languages import Language, text_of

if TYPE_CHECKING:
    from jinja2 import Environment


Value = str | int | float | None

THIN_SPACE = "\u202f"
DASH = "–"
MINUS = "\u2212"


def decimals_for(values: Iterable[Value]) -> int | None:
    """Return the decimals that suit a column of numbers: fewer for large ones.

    None when the numbers are of too different size to share one; each then gets its own.
    """
    sizes = [abs(v) for v in values if isinstance(v, float) and math.isfinite(v)]
    if all(size.is_integer() for size in sizes):
        return 0
    some = [size for size in sizes if size > 0]
    if max(some) > 100 * min(some):
        return None
    return _decimals(max(some))


def _decimals(size: float) -> int:
    for limit, decimals in ((1000.0, 0), (100.0, 1), (10.0, 2), (0.1, 3)):
        if size >= limit:
            return decimals
    return 4 if size >= 0.01 or size < 1e-6 else 2 - math.floor(math.log10(size))


def number(value: Value, decimals: int | None = None, *, trim: bool = False) -> str:
    """Return a number with commas, a text as it is, and a dash for nothing.

    Args:
        value: Whole numbers are shown whole; floats with `decimals`.
        decimals: By default what suits the number's size.
        trim: Whether to drop zeros at the end of a fraction.
    """
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return DASH
    if isinstance(value, str):
        return value
    places = decimals
    if isinstance(value, int) or (places is None and value.is_integer()):
        places = 0
    elif places is None:
        places = _decimals(abs(value))
    text = f"{value:,.{places}f}"
    if trim and "." in text:
        text = text.rstrip("0").rstrip(".")
    if value != 0 and float(text.replace(",", "")) == 0:
        text = f"{value:.2g}"
    return text.replace("-", MINUS)


def amount(value: float) -> str:
    """Return a number rounded by its size, to four significant digits, with commas.

    >>> [amount(v) for v in (0.35, 12.3456, 183_427.1, 3_512_345_678.0)]
    ['0.35', '12.35', '183,400', '3,512,000,000']
    """
    if not math.isfinite(value) or value == 0:
        return f"{value:g}"
    places = 3 - math.floor(math.log10(abs(value)))
    rounded = round(value, places)
    if places > 9:
        return f"{value:.4g}"
    text = f"{rounded:,.{max(places, 0)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def duration(seconds: float) -> str:
    """Return a span of time in its natural unit: ``0.4 s``, ``12 s``, ``3 min 5 s``."""
    if seconds < 0.05:
        return f"{seconds * 1000:.0f}{THIN_SPACE}ms"
    if seconds < 10:
        return f"{seconds:.1f}{THIN_SPACE}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}{THIN_SPACE}s"
    if whole < 3600:
        return f"{whole // 60}{THIN_SPACE}min {whole % 60}{THIN_SPACE}s"
    return f"{whole // 3600}{THIN_SPACE}h {whole % 3600 // 60}{THIN_SPACE}min"


Status = Literal["done", "cached", "failed", "interrupted"]
Align = Literal["left", "right"]
Cell = str | int | float | None

_DATA_URI = re.compile(r"data:image/(svg\+xml|png);base64,([A-Za-z0-9+/=]*)")


@dataclass(frozen=True, slots=True)
class Fact:
    """One labelled value, e.g. rows refused: 3.

    Attributes:
        label: What it is.
        value: A text, or a number that is formatted when shown.
        note: A remark in small print.
    """

    label: str
    value: Cell
    note: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", _cell(self.value))


@dataclass(frozen=True, slots=True)
class CardTable:
    """A table of texts and numbers; numbers that are not finite become None, shown as a dash.

    Attributes:
        title: Its heading.
        header: Names of the columns.
        rows: One tuple per row, as long as the header.
        note: A remark below the table.
        align: Alignment per column; None puts columns of numbers to the right.
        language: Of its texts; pages fold tables of other languages than theirs.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str | None = None
    align: tuple[Align, ...] | None = None
    language: Language = "en"

    def __post_init__(self) -> None:
        rows = tuple(tuple(_cell(cell) for cell in row) for row in self.rows)
        if any(len(row) != len(self.header) for row in rows):
            raise ValueError(f"table {self.title!r}: every row needs {len(self.header)} cells")
        object.__setattr__(self, "header", tuple(self.header))
        object.__setattr__(self, "rows", rows)


@dataclass(frozen=True, slots=True)
class Figure:
    """A picture as a ``data:image/svg+xml`` or ``data:image/png`` URI.

    It is always shown through an ``<img>`` element, where nothing inside an SVG can run.
    """

    title: str
    data: str
    caption: str = ""

    def __post_init__(self) -> None:
        if _DATA_URI.fullmatch(self.data) is None:
            raise ValueError(
                f"figure {self.title!r}: expected a base64 data URI of image/svg+xml or image/png"
            )

    @classmethod
    def from_bytes(
        cls, title: str, content: bytes, kind: Literal["svg", "png"], caption: str = ""
    ) -> Figure:
        """Wrap the bytes of an SVG or PNG file."""
        media = "svg+xml" if kind == "svg" else "png"
        text = base64.b64encode(content).decode("ascii")
        return cls(title, f"data:image/{media};base64,{text}", caption)

    def to_file(self) -> tuple[str, bytes]:
        """Return a file name made from the title, and the file's bytes."""
        match = _DATA_URI.fullmatch(self.data)
        assert match is not None  # noqa: S101  (checked when the figure was made)
        stem = re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")[:60] or "figure"
        suffix = "svg" if match.group(1) == "svg+xml" else "png"
        return f"{stem}.{suffix}", base64.b64decode(match.group(2))


@dataclass(frozen=True, slots=True)
class Card:
    """What one step saw and decided.

    Attributes:
        step: The step's name, also the stem of the card's files.
        title: The same for people.
        status: How the step ended; ``cached`` when an earlier result was used again.
        started: ISO 8601 in UTC.
        seconds: How long it took.
        facts: Labelled values.
        tables: Tables.
        figures: Pictures.
        notes: Sentences that explain a choice.
        warnings: What the reader should look at.
        error: Why the step failed, when it did.
    """

    step: str
    title: str
    status: Status
    started: str
    seconds: float
    facts: tuple[Fact, ...] = ()
    tables: tuple[CardTable, ...] = ()
    figures: tuple[Figure, ...] = ()
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    error: str | None = None


class CardBuilder:
    """A card in the making, filled while the step runs.

    Args:
        step: The step's name.
        title: The same for people.
    """

    def __init__(self, step: str, title: str) -> None:
        self.step = step
        self.title = title
        self.cached = False
        self._started = clock.now()
        self._facts: list[Fact] = []
        self._tables: list[CardTable] = []
        self._figures: list[Figure] = []
        self._notes: list[str] = []
        self._warnings: list[str] = []

    def fact(self, label: str, value: Cell, note: str | None = None) -> None:
        """Add a labelled value."""
        self._facts.append(Fact(label, value, note))

    def table(
        self,
        title: str,
        header: Sequence[str],
        rows: Sequence[Sequence[Cell]],
        *,
        note: str | None = None,
        align: Sequence[Align] | None = None,
    ) -> None:
        """Add a table."""
        cells = tuple(tuple(row) for row in rows)
        aligned = None if align is None else tuple(align)
        self._tables.append(CardTable(title, tuple(header), cells, note, aligned))

    def add(self, *tables: CardTable) -> None:
        """Add tables that are made already."""
        self._tables.extend(tables)

    def figure(self, *figures: Figure) -> None:
        """Add pictures."""
        self._figures.extend(figures)

    def note(self, text: str) -> None:
        """Add a sentence that explains a choice."""
        self._notes.append(text)

    def warn(self, text: str) -> None:
        """Add something that the reader should look at."""
        self._warnings.append(text)

    def use_cached(self, earlier: Card) -> None:
        """Take over an earlier run's evidence: the step's result was found in the cache."""
        self.cached = True
        self._facts.extend(earlier.facts)
        self._tables.extend(earlier.tables)
        self._figures.extend(earlier.figures)
        self._notes.extend(earlier.notes)
        self._warnings.extend(earlier.warnings)

    def build(self, status: Status | None = None, error: str | None = None) -> Card:
        """Return the card as it stands; the status defaults to done, or cached."""
        return Card(
            step=self.step,
            title=self.title,
            status=status or ("cached" if self.cached else "done"),
            started=self._started.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            seconds=max(0.0, (clock.now() - self._started).total_seconds()),
            facts=tuple(self._facts),
            tables=tuple(self._tables),
            figures=tuple(self._figures),
            notes=tuple(self._notes),
            warnings=tuple(self._warnings),
            error=error,
        )


@contextmanager
def recorded_card(folder: Path, step: str, title: str) -> Iterator[CardBuilder]:
    """Yield a builder while a step runs, and write its card however the step ends.

    Exceptions pass through unchanged; a card that cannot be written never hides them.
    """
    builder = CardBuilder(step, title)
    try:
        yield builder
    except BaseException as error:
        failed = isinstance(error, Exception)
        card = builder.build("failed" if failed else "interrupted", _explained(error))
        with suppress(Exception):
            write_card(folder, card)
        raise
    write_card(folder, builder.build())


def write_card(folder: Path, card: Card) -> tuple[Path, Path]:
    """Write ``<step>.json`` and ``<step>.html`` into `folder` and return their paths.

    Raises:
        StorageError: The folder cannot be written.
    """
    text = json.dumps(to_plain(card), ensure_ascii=False, indent=1, allow_nan=False) + "\n"
    as_json, as_html = folder / f"{card.step}.json", folder / f"{card.step}.html"
    storage.write_text(as_json, text)
    storage.write_text(as_html, render("card.html.j2", card=card))
    return as_json, as_html


def read_card(path: Path) -> Card:
    """Read a card back from its ``.json`` file.

    Raises:
        StorageError: The file cannot be read or is not a card.
    """
    try:
        plain: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        plain["facts"] = tuple(Fact(**item) for item in plain["facts"])
        plain["tables"] = tuple(_table(item) for item in plain["tables"])
        plain["figures"] = tuple(Figure(**item) for item in plain["figures"])
        for key in ("notes", "warnings"):
            plain[key] = tuple(plain[key])
        return Card(**plain)
    except (OSError, ValueError, TypeError, KeyError, binascii.Error) as error:
        raise StorageError(
            f"cannot read the card {path}",
            got=f"{type(error).__name__}: {error}",
            remedy="run the step again with force=true",
        ) from error


def save_figures(folder: Path, card: Card) -> list[Path]:
    """Write a card's pictures as files into `folder`, for registries that attach files."""
    paths = []
    for number, figure in enumerate(card.figures, 1):
        name, content = figure.to_file()
        path = folder / f"{card.step}-{number:02d}-{name}"
        storage.write_bytes(path, content)
        paths.append(path)
    return paths


def _table(plain: dict[str, Any]) -> CardTable:
    align = plain["align"]
    return CardTable(
        plain["title"],
        tuple(plain["header"]),
        tuple(tuple(row) for row in plain["rows"]),
        plain["note"],
        None if align is None else tuple(align),
        plain.get("language", "en"),  # older cards have none
    )


def _cell(value: Any) -> Cell:
    plain = to_plain(value)
    if isinstance(plain, float) and not math.isfinite(plain):
        return None
    if plain is None or (isinstance(plain, (str, int, float)) and not isinstance(plain, bool)):
        return plain
    return str(plain)


def _explained(error: BaseException) -> str:
    if not isinstance(error, Exception):
        by = "Ctrl-C" if isinstance(error, KeyboardInterrupt) else type(error).__name__
        return f"stopped by {by}"
    return str(error) or type(error).__name__


def render(template: str, **values: Any) -> str:
    """Fill a template of ``reporting/templates``.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> Environment:
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as error:
        raise MissingExtraError.for_package("jinja2", "train") from error
    environment = Environment(
        loader=PackageLoader("tasador.reporting", "templates"),
        autoescape=True,  # for every template, whatever its name
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, duration=duration, table_view=table_view)
    return environment


def table_view(table: CardTable) -> dict[str, Any]:
    """Return a table ready to be drawn: each cell as text, each column with its alignment."""
    columns = list(zip(*table.rows, strict=True)) or [()] * len(table.header)
    aligns: tuple[str, ...] = table.align or tuple(map(_natural_alignment, columns))
    decimals = [decimals_for(column) for column in columns]
    return {
        "head": list(zip(table.header, aligns, strict=True)),
        "rows": [
            [
                (number(cell, places, trim=places is None), align + _colour(cell))
                for cell, places, align in zip(row, decimals, aligns, strict=True)
            ]
            for row in table.rows
        ],
    }


def without_empty(table: CardTable) -> CardTable:
    """Return a table without the columns that have no value in any row."""
    kept = [i for i, cells in enumerate(zip(*table.rows, strict=True)) if {*cells} - {None, ""}]
    align = None if table.align is None else tuple(table.align[i] for i in kept)
    rows = tuple(tuple(row[i] for i in kept) for row in table.rows)
    return replace(table, header=tuple(table.header[i] for i in kept), rows=rows, align=align)


def verdict_text(met: bool | None, language: Language = "en") -> str:
    """Return whether a figure is met, which tables colour; empty for None."""
    return "" if met is None else text_of(_VERDICTS, "met" if met else "unmet", language)


_VERDICTS = {"met": ("met", "cumple"), "unmet": ("not met", "no cumple")}


def _colour(cell: Value) -> str:
    """Return the class of a cell that begins with a verdict, in any language of the reports."""
    if not isinstance(cell, str):
        return ""
    if cell.startswith(_VERDICTS["unmet"]):
        return " unmet"
    return " met" if cell in _VERDICTS["met"] else ""


def _natural_alignment(column: Sequence[Value]) -> str:
    some = [cell for cell in column if cell is not None]
    numbers = bool(some) and all(not isinstance(cell, str) for cell in some)
    return "right" if numbers else "left"
