"""Hostile texts stay text in every format; the renderers here are the real ones."""

from __future__ import annotations

import io
import logging
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from tasador.cli import output
from tasador.core import escape
from tasador.core.logging import formatter

markdown_it = pytest.importorskip("markdown_it")

HOSTILE = [
    "![x](http://evil.example/a.png)",
    "[click](http://evil.example)",
    "<img src=http://evil.example/a.png>",
    "<script>alert(1)</script>",
    "a | b",
    "`code`",
    "*bold* _it_ ~~no~~",
    "# heading",
    "- item",
    "1. one",
    "a\n\n# heading",
    "&lt;b&gt;",
    "\\",
    "[red]x[/red] [link=http://evil.example]y[/link]",
    ":red[x] :material/home: $x^2$",
    "<!channel> <http://evil.example|x>",
    "\x1b[31mred\x1b]8;;http://evil.example\x07link",
    "\u202eevil",
]


class Page(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def rendered(text: str) -> Page:
    return Page(
        markdown_it.MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(text)
    )


def seen(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("function", [escape.markdown, escape.streamlit])
def test_markdown_shows_a_text_as_it_is(text: str, function) -> None:
    page = rendered(function(text))
    assert page.tags == ["p"]
    assert seen(page.text) == escape.one_line(text)
    table = rendered(f"| a | b |\n|---|---|\n| {function(text)} | end |")
    assert sorted(set(table.tags)) == ["table", "tbody", "td", "th", "thead", "tr"]
    assert table.tags.count("td") == 2
    quoted = rendered(f"before {escape.code(text)} after")
    assert set(quoted.tags) == {"p", "code"}


@given(st.text())
def test_no_text_at_all_becomes_markup(text: str) -> None:
    page = rendered(escape.markdown(text) or "x")
    assert page.tags == ["p"]
    assert "<" not in escape.slack(text)
    assert "\n" not in escape.visible(text)


@pytest.mark.parametrize("text", [text for text in HOSTILE if not text.endswith("\\")])
def test_a_terminal_shows_a_text_as_it_is(text: str) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, color_system="truecolor", highlight=False)
    console.print(output.escape(text), soft_wrap=True)
    assert "\x1b" not in out.getvalue()
    assert "\u202e" not in out.getvalue()
    assert out.getvalue().rstrip("\n") == escape.lines(text)


def test_a_log_line_is_one_line_without_control_characters() -> None:
    record = logging.LogRecord(
        "tasador", 30, "", 1, "row %s", ("a\nWARNING tasador: b\x1b[2J",), None
    )
    line = formatter(as_json=False).format(record)
    assert line == "WARNING tasador: row a\\nWARNING tasador: b\\x1b[2J"


@pytest.mark.parametrize(
    "value",
    ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", " =1", "\uff1d1", "\n=1",
     "=", "-", "+1+1", "-1 and more"],
)  # fmt: skip
def test_no_text_is_a_formula(value: str) -> None:
    assert escape.cell(value) == f"'{value}"


@pytest.mark.parametrize(
    "value", ["-5", "+5.5", "-1e-3", "-1,234.5", "-5%", "", "a=b", "5-3", -5, 1.5, None]
)
def test_numbers_and_plain_texts_stay(value: object) -> None:
    assert escape.cell(value) is value
