"""Texts that came from data, made safe for the format they go into: one function a format.

Names of columns and categories, titles, descriptions, file names and reasons are text. They must
not become markup, links, formulas, further lines or control sequences of what shows them. HTML
pages escape in their templates, JSON by its own rules.
"""

from __future__ import annotations

import json
import re
import unicodedata

#: Control characters, and those that change the direction of text or hide in it.
_UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\U000e0000-\U000e007f]"
)
_MARKDOWN = re.compile(r"[\\`*\[\]|~]|(?<!\w)_|_(?!\w)")
_MRKDWN = re.compile(r"(?<!\w)[*_~`]|[*_~`](?!\w)")
_LEADING = re.compile(r"^(\d+)(?=[.)]\s)|^(?=[#+=>-])")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_NUMBER = re.compile(r"[+-]?(\d+([.,]\d+)*|[.,]\d+)([eE][+-]?\d+)?%?")


def visible(text: str) -> str:
    """Return one line of text whose control characters can be seen, escaped as in Python."""
    return _UNSEEN.sub(lambda found: found.group().encode("unicode_escape").decode(), text)


def json_text(text: str) -> str:
    """Return JSON whose unseen characters are escaped; it is read as before."""
    return _UNSEEN.sub(lambda found: json.dumps(found.group())[1:-1], text)


def lines(text: str) -> str:
    """Return text for a terminal or a plain e-mail, where lines and tabs may stay."""
    return _UNSEEN.sub(
        lambda found: (
            found.group()
            if found.group() in "\n\t"
            else found.group().encode("unicode_escape").decode()
        ),
        text,
    )


def one_line(text: str) -> str:
    """Return text without control characters, its runs of white space made one."""
    return " ".join(_UNSEEN.sub(" ", text).split())


def markdown(text: str) -> str:
    """Return text that Markdown shows as it is, also in a cell of a table and in HTML."""
    plain = one_line(text).replace("&", "&amp;").replace("<", "&lt;")
    plain = _MARKDOWN.sub(lambda found: f"\\{found.group()}", plain)
    return _LEADING.sub(lambda found: f"{found.group(1) or ''}\\", plain, count=1)


def streamlit(text: str) -> str:
    """Return text that Streamlit's Markdown shows as it is: no formula, icon or colour either."""
    plain = "".join(f"\\{one}" if one in "\\`*_[]#$:<>|~&" else one for one in one_line(text))
    return _LEADING.sub(lambda found: f"{found.group(1) or ''}\\", plain, count=1)


def code(text: str) -> str:
    """Return a code span of Markdown that holds the text, also in a cell of a table."""
    plain = one_line(text).replace("`", "'").replace("|", "\\|").replace("<", "\u2039")
    return f"`{plain or ' '}`"


def chart(text: str) -> str:
    """Return text for plotly's labels, which read a part of HTML."""
    return one_line(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def slack(text: str) -> str:
    """Return text in which Slack's mrkdwn finds no mention, no channel, no link and no markup."""
    plain = _MRKDWN.sub("\u2060\\g<0>", lines(text))  # an unseen joiner: it has no escapes
    return plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def cell(value: object) -> object:
    """Return a value for a CSV or spreadsheet that people open: a text is never a formula.

    Such a text gets an apostrophe before it, which spreadsheets do not show; numbers stay numbers,
    also those written as text.
    """
    if not isinstance(value, str):
        return value
    first = unicodedata.normalize("NFKC", value.lstrip(" \u00a0\ufeff"))[:1]
    if value.startswith(_FORMULA) or first in ("=", "+", "-", "@"):
        return value if _NUMBER.fullmatch(value) else f"'{value}"
    return value
