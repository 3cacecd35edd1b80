"""Reports in Spanish: finished pages are said again, text by text, from a catalogue of sentences.

A report says much that was written when a step ran or a check was made, and lies in files since:
reasons, notes, captions of pictures, whose SVGs hold real text. The catalogue therefore goes by
the English sentence, with ``{}`` and ``{#}`` for what changes, and any stored page can be read.
"""

from __future__ import annotations

import base64
import html as escaping
import re
from collections.abc import Callable, Collection, Iterator
from functools import cache
from importlib.resources import files

from tasador.core.languages import Language, digits_in, sentences
from tasador.reporting.cards import MINUS
from tasador.reporting.evaluation_tables import TEXTS

#: What stays as it is, a tag, or the text between two of them.
_PIECE = re.compile(r"(<(style|script|pre|code)\b.*?</\2>|<!--.*?-->|<[^>]*>)|([^<]+)", re.DOTALL)
_SPOKEN = re.compile(r'\b(title|alt|aria-label|lang)="([^"]*)"')
_SVG = re.compile(r'(src="data:image/svg\+xml;base64,)([A-Za-z0-9+/=]+)"')
_SVG_TEXT = re.compile(r"(<text\b[^>]*>)([^<]+)(</text>)")
_NUMBER = re.compile(
    r"(?<![\w.:=/,-])([+\u2212-]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:e[+-]?\d+)?)(%?)"
    r"(?![\w:/=]|\.\d|,\d)"
)
_HYPHEN = re.compile(r"(?<![\w.\u2013)\]=-])-(?=\d)")
_LETTERS = re.compile(r"[^\W\d_]{2}")
_SENTENCE = re.compile(r"(?<=[.!?]) (?=[A-Z0-9±])")
#: Texts of tables that would be found in any sentence.
_FRAGMENTS = frozenset(
    ("up_to", "span", "and", "or", "is", "is_not", "more", "missing", "known", "or_missing")
)
_PLACE = re.compile(r"\{(#|\w*)\}")
#: What ``{#}`` means: a number, a percentage or a date with its time.
_FIGURE = r"([+\u2212-]?\d[\d.,:e+\u2212%-]*(?<![,.:])(?: \d\d:\d\d:\d\d)?)"


_Pattern = tuple[tuple[str, ...], re.Pattern[str], str]


def in_language(page: str, language: Language, names: Collection[str] = ()) -> str:
    """Return a finished page of a report in a language; numbers have one minus sign in either.

    What no sentence of the catalogue says stays as it is; so does what stands in ``code`` and
    ``pre``, and what is one of `names`, those of columns.
    """

    def say(text: str) -> str:
        if text in names:
            return text
        return spanish(text) if language == "es" else _english(text)

    def piece(match: re.Match[str]) -> str:
        if match[3] is not None:
            return _between(match[3], say)
        if match[2] is not None or language != "es":
            return match[1]
        tag = _SPOKEN.sub(_attribute, match[1])
        return _SVG.sub(lambda picture: _picture(picture, say), tag)

    return _PIECE.sub(piece, page)


def _between(text: str, say: Callable[[str], str]) -> str:
    core = text.strip()
    if not core:
        return text
    said = escaping.escape(say(" ".join(escaping.unescape(core).split())), quote=False)
    start = text.index(core)
    return text[:start] + said + text[start + len(core) :]


def _attribute(match: re.Match[str]) -> str:
    if match[1] == "lang":
        return 'lang="es"'
    return f'{match[1]}="{escaping.escape(spanish(escaping.unescape(match[2])))}"'


def _picture(match: re.Match[str], say: Callable[[str], str]) -> str:
    svg = base64.b64decode(match[2]).decode("utf-8", "replace")
    svg = _SVG_TEXT.sub(lambda m: m[1] + _between(m[2], say) + m[3], svg)
    return f'{match[1]}{base64.b64encode(svg.encode()).decode()}"'


def _english(text: str) -> str:
    return _HYPHEN.sub(MINUS, text)


@cache
def spanish(text: str) -> str:
    """Return a text in Spanish: a sentence of the catalogue, several, or parts that are in it."""
    if not _LETTERS.search(text):
        return _numbers(text)
    found = _whole(text)
    if found is not None:
        return found
    # the widest separation first: sentences, then parts of one
    if " · " not in text and len(sentences := _SENTENCE.split(text)) > 1:
        return " ".join(_in_turn(sentences))
    for mark in (" · ", "; ", ": ", ", "):
        parts = text.split(mark)
        said = [spanish(part) for part in parts] if len(parts) > 1 else parts
        if said != parts:
            return mark.join(said)
    return _numbers(text)


def _in_turn(parts: list[str]) -> Iterator[str]:
    """Yield sentences in Spanish, as many together as the catalogue says at once."""
    at = 0
    while at < len(parts):
        for end in range(len(parts), at + 1, -1):
            found = _whole(" ".join(parts[at:end]))
            if found is not None:
                yield found
                at = end
                break
        else:
            yield spanish(parts[at])
            at += 1


def _whole(text: str) -> str | None:
    exact, patterns = _catalogue()
    if text in exact:
        return _numbers(exact[text]) if exact[text] == text else exact[text]
    for literals, pattern, said in patterns:
        # fixed words rule most sentences out, quicker than a pattern does
        if any(one not in text for one in literals):
            continue
        match = pattern.fullmatch(text)
        if match is not None:
            return said.format(*(spanish(one) for one in match.groups()))
    return None


def _numbers(text: str) -> str:
    return _NUMBER.sub(_number, _HYPHEN.sub(MINUS, text))


def _number(match: re.Match[str]) -> str:
    return digits_in(match[1], "es") + ("\u00a0%" if match[2] else "")


@cache
def _catalogue() -> tuple[dict[str, str], list[_Pattern]]:
    exact: dict[str, str] = {}
    patterns = []
    for english, said in _pairs():
        places = _PLACE.findall(english)
        if places:
            parts = _PLACE.split(english)
            pattern = "".join(
                (_FIGURE if part == "#" else "(.+?)") if at % 2 else re.escape(part)
                for at, part in enumerate(parts)
            )
            literals = tuple(part for part in parts[::2] if part)
            patterns.append((literals, re.compile(pattern, re.DOTALL), _numbered(said, places)))
        else:
            exact[english] = said
    # the longest first: they say most
    patterns.sort(key=lambda one: -len(one[1].pattern))
    return exact, patterns


def _numbered(said: str, places: list[str]) -> str:
    """Return a Spanish sentence whose named places are numbered as those of the English one."""
    for at, place in enumerate(places):
        if place not in ("", "#"):
            said = said.replace(f"{{{place}}}", f"{{{at}}}")
    return said


def _pairs() -> Iterator[tuple[str, str]]:
    """Yield English and Spanish sentences; in the file two lines each, parted by empty ones."""
    # as the web app says them, but for words that would be found in any sentence
    yield from (pair for pair in sentences("findings") if len(_PLACE.sub("", pair[0]).split()) > 2)
    yield from (pair for key, pair in TEXTS.items() if key not in _FRAGMENTS)
    text = files("tasador.reporting").joinpath("templates/spanish.txt").read_text(encoding="utf-8")
    for block in text.split("\n\n"):
        lines = [line for line in block.splitlines() if line and not line.startswith("#")]
        if lines:
            english, said = lines
            yield english, said
