"""Appraisal reports as PDF, drawn with fpdf2 from the same texts and pictures as the HTML."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cache
from importlib import util
from pathlib import Path

from fpdf import FPDF
from fpdf.enums import XPos, YPos

from tasador.core import clock
from tasador.reporting.appraisal.document import Grid, Page, Pairs
from tasador.reporting.appraisal.pictures import (
    INK,
    LINE,
    MUTED,
    Box,
    Dot,
    Line,
    Mark,
    Picture,
    Polyline,
    Text,
)
from tasador.reporting.appraisal.portfolio import Summary

_MARGIN, _BOTTOM = 14.0, 12.0
_GAP = 6.0
_BODY, _CELL, _SMALL, _HEAD = 8.2, 7.8, 7.0, 9.2
#: Of a line of a table, in millimetres.
_STEP = 3.3
_ALERT = "#b42318"
#: Characters that the PDF's own fonts lack, and what is written instead.
_ALIKE = str.maketrans({"✕": "x", "−": "-", "\u202f": " ", "≤": "<=", "≥": ">=", "→": "->"})


def pdf_of(pages: Sequence[Page], summary: Summary | None = None) -> bytes:
    """Return a PDF of A4 pages; the data of each page are attached as JSON.

    The PDF's own fonts (Windows-1252) are used where they have every character. Texts with others
    are set in DejaVu Sans, which comes with matplotlib; without it such characters become "?".
    """
    with warnings.catch_warnings():
        # fpdf2 warns that attached files are no part of a page, which is as meant
        warnings.simplefilter("ignore")
        paper = _Paper(_needs_unicode(pages, summary))
        if summary is not None:
            _draw_summary(paper, summary)
        for page in pages:
            _draw_page(paper, page)
        return bytes(paper.output())


class _Paper(FPDF):
    """A4 sheets with a position from which things are drawn downwards."""

    def __init__(self, unicode: bool) -> None:
        super().__init__(format="A4")
        self.footer_text = ""
        self.face, self.plain = "helvetica", True
        fonts = _dejavu() if unicode else None
        if fonts is not None:
            self.face, self.plain = "dejavu", False
            self.add_font("dejavu", "", fonts / "DejaVuSans.ttf")
            self.add_font("dejavu", "B", fonts / "DejaVuSans-Bold.ttf")
        self.core_fonts_encoding = "cp1252"
        self.c_margin = 0.0
        self.set_margins(_MARGIN, _BOTTOM, _MARGIN)
        self.set_auto_page_break(True, _BOTTOM + 4)
        self.set_creation_date(clock.now())
        self.set_creator("tasador")
        self.set_line_width(0.2)
        self.width = self.w - 2 * _MARGIN

    def footer(self) -> None:
        """Draw the line below a sheet; called by fpdf2."""
        self.set_y(-_BOTTOM)
        self.style(_SMALL - 0.6, MUTED)
        self.cell(self.width, 3, self.fit(self.footer_text, self.width - 12))
        self.set_xy(-_MARGIN - 12, -_BOTTOM)
        self.cell(12, 3, f"{self.page_no()}", align="R")

    def style(self, size: float, colour: str = INK, *, bold: bool = False) -> None:
        """Set size in points, colour and weight of the texts that follow."""
        self.set_font(self.face, "B" if bold else "", size)
        self.set_text_color(colour)

    def known(self, text: str) -> str:
        """Return a text in the characters that the font has."""
        if not self.plain:
            return text
        return text.translate(_ALIKE).encode("cp1252", "replace").decode("cp1252")

    def fit(self, text: str, width: float) -> str:
        """Return a text that is no wider than `width`, its end cut off where it is."""
        text = self.known(text)
        if self.get_string_width(text) <= width:
            return text
        while len(text) > 1 and self.get_string_width(text + "...") > width:
            text = text[:-1]
        return text.rstrip() + "..."

    def lines(self, text: str, width: float, height: float, align: str = "L") -> None:
        """Draw a text from here, broken at `width`."""
        self.multi_cell(
            width, height, self.known(text), align=align, new_x=XPos.LEFT, new_y=YPos.NEXT
        )

    def room(self, height: float) -> None:
        """Go on with a new sheet where less than `height` is left."""
        if self.will_page_break(height):
            self.add_page()

    def heading(self, text: str, height: float = 14.0) -> None:
        """Draw a heading, on the sheet that has room for `height` below it."""
        self.room(height + 6)
        self.ln(2.4)
        self.style(_HEAD, bold=True)
        self.lines(text, self.width, 4.6)
        self.ln(0.4)

    def note(self, text: str) -> None:
        """Draw small print."""
        if text:
            self.ln(0.6)
            self.style(_SMALL, MUTED)
            self.lines(text, self.width, 3.1)

    def bullets(self, texts: Sequence[str], width: float | None = None) -> None:
        """Draw a list, as wide as the sheet unless a `width` is given."""
        self.style(_BODY)
        for text in texts:
            self.cell(3, 3.6, "•")
            self.lines(text, (width or self.width) - 3, 3.6)
            self.set_x(_MARGIN)

    def grid(self, grid: Grid, links: Sequence[str] = ()) -> None:
        """Draw a table, its header again on every sheet; `links` are of the second column."""
        self.style(_CELL, bold=True)
        widths = self._widths(grid)
        self._row(grid, grid.header, widths, header=True)
        for at, cells in enumerate(grid.rows):
            self.style(_CELL)
            if self.will_page_break(self._height(cells, widths)):
                self.add_page()
                self._row(grid, grid.header, widths, header=True)
            self._row(grid, cells, widths, link=links[at] if links else "")
        self.note(grid.note)

    def _height(self, cells: Sequence[str], widths: Sequence[float]) -> float:
        tall = max(len(self.broken(c, w - 1.6)) for c, w in zip(cells, widths, strict=True))
        return tall * _STEP + 0.7

    def _row(
        self, grid: Grid, cells: Sequence[str], widths: Sequence[float], *,
        header: bool = False, link: str = "",
    ) -> None:  # fmt: skip
        self.style(_CELL, MUTED if header else INK, bold=header)
        x, y, tall = _MARGIN, self.get_y(), self._height(cells, widths)
        for at, (cell, wide) in enumerate(zip(cells, widths, strict=True)):
            for line, text in enumerate(self.broken(cell, wide - 1.6)):
                back = wide - self.get_string_width(text) - (at < len(cells) - 1) * 2.0
                self.text(x + (back if at in grid.right else 0), y + (line + 0.8) * _STEP, text)
            if link and at == 1:
                self.link(x, y, wide, tall, link)
            x += wide
        self.set_draw_color(INK if header else LINE)
        self.line(_MARGIN, y + tall, _MARGIN + self.width, y + tall)
        self.set_draw_color(LINE)
        self.set_xy(_MARGIN, y + tall)

    def broken(self, text: str, width: float) -> list[str]:
        """Return a text as lines no wider than `width`, broken at spaces where there are any."""
        text = self.known(text)
        if self.get_string_width(text) <= width:
            return [text]
        lines = [""]
        for word in text.split(" "):
            longer = f"{lines[-1]} {word}".strip()
            if self.get_string_width(longer) <= width:
                lines[-1] = longer
                continue
            if lines[-1]:
                lines.append("")
            for letter in word:
                if lines[-1] and self.get_string_width(lines[-1] + letter) > width:
                    lines.append("")
                lines[-1] += letter
        return lines

    def _widths(self, grid: Grid) -> list[float]:
        """Return what the columns' texts ask for, the widest giving way; called in bold."""
        count = len(grid.header)
        if grid.even:
            first = 0.22 * self.width
            return [first, *[(self.width - first) / (count - 1)] * (count - 1)]
        wanted, least = [], []
        for cells in zip(grid.header, *grid.rows, strict=True):
            texts = [self.known(cell) for cell in cells[:60]]
            words = [word for text in texts for word in text.split()] or [""]
            wanted.append(max(map(self.get_string_width, texts)) + 2.6)
            least.append(min(max(map(self.get_string_width, words)) + 2.6, 30.0))
        more = [max(w - m, 0.0) for w, m in zip(wanted, least, strict=True)]
        share = min(1.0, (self.width - sum(least)) / (sum(more) or 1.0))
        found = [w + share * m for w, m in zip(least, more, strict=True)]
        # what is left over goes to columns of text, or to all
        wide = [at for at in range(count) if at not in grid.right] or list(range(count))
        for at in wide:
            found[at] += max(self.width - sum(found), 0.0) / len(wide)
        return found

    def picture(self, picture: Picture, x: float, width: float) -> float:
        """Draw a picture with its upper left corner at (x, here); return its height."""
        scale, y = width / picture.width, self.get_y()
        for mark in picture.marks:
            self._mark(mark, x, y, scale)
        self.set_draw_color(LINE)
        self.set_line_width(0.2)
        return picture.height * scale

    def _mark(self, mark: Mark, x: float, y: float, scale: float) -> None:
        match mark:
            case Line():
                self.set_draw_color(mark.colour)
                self.set_line_width(mark.width * scale)
                ends = (x + mark.x1 * scale, y + mark.y1 * scale)
                self.line(*ends, x + mark.x2 * scale, y + mark.y2 * scale)
            case Polyline():
                self.set_draw_color(mark.colour)
                self.set_line_width(mark.width * scale)
                self.polyline([(x + px * scale, y + py * scale) for px, py in mark.points])
            case Box():
                style = ("D" if mark.outline else "") + ("F" if mark.fill else "")
                self.set_draw_color(mark.outline or LINE)
                self.set_fill_color(mark.fill or LINE)
                self.set_line_width(scale)
                at = (x + mark.x * scale, y + mark.y * scale)
                self.rect(*at, mark.width * scale, mark.height * scale, style=style)
            case Dot():
                self.set_fill_color(mark.fill)
                centre = (x + mark.x * scale, y + mark.y * scale)
                self.circle(*centre, mark.radius * scale, style="F")
            case Text():
                self.style(mark.size * scale * 72 / 25.4, mark.colour, bold=mark.bold)
                text = self.known(mark.content)
                wide = self.get_string_width(text)
                back = {"start": 0.0, "middle": wide / 2, "end": wide}[mark.anchor]
                self.text(x + mark.x * scale - back, y + mark.y * scale, text)


def _draw_page(paper: _Paper, page: Page) -> None:
    paper.add_page()
    # now, for the foot of the sheet before was drawn only when this one began
    paper.footer_text = f"{page.say('page_hash')} {page.digest} · {page.title}"
    paper.set_link(name=page.anchor)
    paper.set_title(paper.known(f"{page.title} · {page.kind}"))
    paper.set_lang(page.language)
    _draw_head(paper, page.banner, page.kind, page.title, page.subtitle, page.meta)
    _draw_value(paper, page)
    _draw_pairs(paper, page.tiles)
    _draw_facts(paper, page)
    paper.heading(page.say("comparables"))
    if page.comparables is not None:
        paper.grid(page.comparables)
    else:
        paper.note(page.say("no_comparables"))
    paper.note(page.reconciled)
    if page.parts is not None:
        width = paper.width
        height = page.parts.height * width / page.parts.width
        paper.heading(page.say("parts"), height)
        height = paper.picture(page.parts, _MARGIN, width)
        paper.set_y(paper.get_y() + height)
        paper.note(page.say("parts_note"))
    paper.heading(page.say("unusual"))
    paper.bullets(page.unusual)
    if page.accuracy is not None:
        paper.heading(page.say("accuracy"), 22)
        paper.grid(page.accuracy)
    _draw_end(paper, page)
    paper.embed_file(
        bytes=page.data.encode(), basename=f"{page.anchor}.json", desc=page.digest,
        modification_date=clock.now(), creation_date=clock.now(),
    )  # fmt: skip


def _draw_head(
    paper: _Paper, banner: str, kind: str, title: str, subtitle: str, meta: Pairs
) -> None:
    if banner:
        paper.set_fill_color(_ALERT)
        paper.style(_BODY, "#ffffff", bold=True)
        paper.multi_cell(
            paper.width, 4.4, paper.known(banner), fill=True, padding=1,
            new_x=XPos.LMARGIN, new_y=YPos.NEXT,
        )  # fmt: skip
        paper.ln(2)
    paper.style(_SMALL, MUTED)
    paper.lines(kind.upper(), paper.width, 3.4)
    paper.style(15, bold=True)
    paper.lines(title, paper.width, 6.6)
    if subtitle:
        paper.style(_BODY, MUTED)
        paper.lines(subtitle, paper.width, 3.8)
    paper.ln(1)
    paper.style(_SMALL)
    paper.lines("    ".join(f"{name}: {value}" for name, value in meta), paper.width, 3.6)
    paper.ln(1.6)


def _draw_value(paper: _Paper, page: Page) -> None:
    paper.set_draw_color(INK)
    paper.set_line_width(0.5)
    top = paper.get_y()
    paper.line(_MARGIN, top, _MARGIN + paper.width, top)
    half = (paper.width - _GAP) / 2
    if page.range is not None:
        paper.set_y(top + 2.2)
        paper.picture(page.range, _MARGIN + half + _GAP, half)
    paper.set_xy(_MARGIN, top + 2.4)
    paper.style(_SMALL, MUTED)
    paper.lines(page.headline[0], half, 3.4)
    paper.style(18, bold=True)
    paper.lines(page.headline[1], half, 8)
    if page.reason:
        paper.style(_BODY, _ALERT)
        paper.lines(page.reason, paper.width, 4)
    paper.set_y(max(paper.get_y(), top + (15.5 if page.range is not None else 0)))
    paper.set_draw_color(LINE)
    paper.set_line_width(0.2)
    paper.line(_MARGIN, paper.get_y(), _MARGIN + paper.width, paper.get_y())
    paper.ln(2)


def _draw_pairs(paper: _Paper, pairs: Pairs) -> None:
    """Draw names above their values, in columns."""
    if not pairs:
        return
    each, top, low = paper.width / max(len(pairs), 3), paper.get_y(), 0.0
    for at, (name, value) in enumerate(pairs):
        paper.set_xy(_MARGIN + at * each, top)
        paper.style(_SMALL, MUTED)
        paper.lines(name, each - 2, 3.2)
        paper.style(_BODY + 0.6, bold=True)
        paper.lines(value, each - 2, 4)
        low = max(low, paper.get_y())
    paper.set_xy(_MARGIN, low)


def _draw_facts(paper: _Paper, page: Page) -> None:
    half = (paper.width - _GAP) / 2
    step = 4.1
    rows = len(page.facts) if page.map is not None else -(-len(page.facts) // 2)
    tall = 0.0 if page.map is None else page.map.height * half / page.map.width + 8
    paper.room(max(rows * step, tall) + 8)
    paper.heading(page.say("property"))
    top = paper.get_y()
    for at, (name, value) in enumerate(page.facts):
        column, row = divmod(at, rows)
        x, y = _MARGIN + column * (half + _GAP), top + row * step
        paper.style(_BODY)
        shown = paper.fit(value, 0.62 * half)
        wide = paper.get_string_width(shown)
        paper.text(x + half - wide, y + 2.9, shown)
        paper.style(_BODY, MUTED)
        paper.text(x, y + 2.9, paper.fit(name, half - wide - 2))
        paper.line(x, y + step, x + half, y + step)
    low = top + rows * step
    if page.map is not None:
        x = _MARGIN + half + _GAP
        paper.set_y(top)
        low = max(low, top + paper.picture(page.map, x, half))
        paper.set_xy(x, top + page.map.height * half / page.map.width + 0.8)
        paper.style(_SMALL, MUTED)
        paper.lines(page.map_note, half, 3.1)
        low = max(low, paper.get_y())
    paper.set_xy(_MARGIN, low)


def _draw_end(paper: _Paper, page: Page) -> None:
    """Draw the limits and, beside them, what the value was made from."""
    half = (paper.width - _GAP) / 2
    paper.room(48)
    paper.heading(page.say("limits"))
    top = paper.get_y()
    paper.bullets(page.limits, half)
    low = paper.get_y()
    left = _MARGIN + half + _GAP
    paper.set_xy(left, top - 5)
    paper.style(_HEAD, bold=True)
    paper.lines(page.say("provenance"), half, 4.6)
    paper.set_y(top)
    paper.style(_SMALL)
    wide = max(paper.get_string_width(paper.known(name)) for name, _ in page.provenance) + 3
    for name, value in page.provenance:
        paper.style(_SMALL, MUTED)
        paper.set_x(left)
        paper.cell(wide, 3.2, paper.known(name))
        paper.style(_SMALL)
        paper.lines(value, half - wide, 3.2)
    paper.set_xy(left, paper.get_y() + 0.6)
    paper.style(_SMALL, MUTED)
    paper.lines(page.say("hash_note"), half, 3.1)
    paper.set_xy(_MARGIN, max(low, paper.get_y()))


def _draw_summary(paper: _Paper, summary: Summary) -> None:
    paper.add_page()
    paper.footer_text = f"{summary.title} · {summary.kind}"
    paper.set_title(paper.known(f"{summary.title} · {summary.kind}"))
    paper.set_lang(summary.language)
    _draw_head(paper, summary.banner, summary.kind, summary.title, "", summary.meta)
    _draw_pairs(paper, summary.tiles)
    paper.heading(summary.say("values"))
    paper.grid(summary.table, summary.links)
    if summary.refused is not None:
        paper.heading(summary.say("refused_rows"))
        paper.grid(summary.refused)


def _needs_unicode(pages: Sequence[Page], summary: Summary | None) -> bool:
    """Tell whether a text has a character that the PDF's own fonts lack."""
    try:
        repr((pages, summary)).translate(_ALIKE).encode("cp1252")
    except UnicodeEncodeError:
        return True
    return False


@cache
def _dejavu() -> Path | None:
    """Return the folder of DejaVu Sans, which matplotlib brings; None where that is missing."""
    found = util.find_spec("matplotlib")
    if found is None or found.origin is None:
        return None
    folder = Path(found.origin).parent / "mpl-data" / "fonts" / "ttf"
    return folder if (folder / "DejaVuSans-Bold.ttf").is_file() else None
