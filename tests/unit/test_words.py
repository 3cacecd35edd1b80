"""Texts and names use the field's words: `tests/words.toml` has the list."""

from __future__ import annotations

import ast
import io
import re
import tokenize
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIST = tomllib.loads((ROOT / "tests" / "words.toml").read_text(encoding="utf-8"))
GLOSSARY = ROOT / "docs" / "reference" / "glossary.md"


def compiled(kind: str) -> list[tuple[re.Pattern[str], str]]:
    return [(re.compile(one["pattern"], re.IGNORECASE), one["say"]) for one in LIST[kind]]


WORDS, NAMES = compiled("words"), compiled("names")


def allowed(path: Path) -> bool:
    relative = path.relative_to(ROOT)
    parts = relative.parts
    package = (
        parts[2] if len(parts) > 3 and parts[:2] in (("src", "tasador"), ("tests", "unit")) else ""
    )
    return package in LIST["allowed"]["packages"] or relative.as_posix() in LIST["allowed"]["files"]


def suspicious(source: str) -> bool:
    """Look before parsing: whether any word of the list could be in a text of it."""
    joined = " ".join(re.sub(r'"\s*[bfr]*"|\s#', " ", source).split())
    return any(pattern.search(joined) for pattern, _ in WORDS)


def texts(source: str) -> Iterator[tuple[int, str]]:
    """Yield the docstrings, messages and comments of a module; parts of one text are joined."""
    if not suspicious(source):
        return
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def defined(source: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(source.splitlines(), 1):
        if match := re.match(r"\s*(?:async )?(?:def|class) (\w+)", line):
            yield number, match[1]


def found(lines: Iterator[tuple[int, str]], words: list[tuple[re.Pattern[str], str]]) -> list[str]:
    return [
        f"{line}: {match[0]!r}, say: {say}"
        for line, text in lines
        for pattern, say in words
        if (match := pattern.search(" ".join(text.split())))
    ]


SOURCES = sorted(path for path in (ROOT / "src" / "tasador").rglob("*.py") if not allowed(path))
TESTS = sorted(path for path in (ROOT / "tests").rglob("test_*.py") if not allowed(path))
PAGES = sorted(
    path
    for path in [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "src" / "tasador").rglob("*.j2"),
        *(ROOT / "src" / "tasador").rglob("*.yaml"),
    ]
    if path.name != "CHANGELOG.md" and not allowed(path)
)


def test_docstrings_messages_and_names_use_the_words_of_the_field() -> None:
    wrong = []
    for path in SOURCES:
        source = path.read_text(encoding="utf-8")
        wrong += [f"{path}:{one}" for one in found(texts(source), WORDS)]
        wrong += [f"{path}:{one}" for one in found(defined(source), NAMES)]
    assert not wrong, "\n".join(wrong)


def test_names_of_tests_use_the_words_of_the_field() -> None:
    wrong = []
    for path in TESTS:
        names = ((line, name.replace("_", " ")) for line, name in defined(path.read_text("utf-8"))
                 if name.startswith("test_"))  # fmt: skip
        wrong += [f"{path}:{one}" for one in found(names, WORDS)]
    assert not wrong, "\n".join(wrong)


def test_pages_use_the_words_of_the_field() -> None:
    wrong = []
    for path in PAGES:
        # names of tests belong to the package that they test; paragraphs break anywhere
        text = re.sub(r"`[^`]*`", "``", path.read_text(encoding="utf-8"))
        paragraphs = ((number, part) for number, part in enumerate(text.split("\n\n"), 1))
        wrong += [f"{path}, paragraph {one}" for one in found(paragraphs, WORDS)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("text", "say"),
    [
        ("the alias stands\nfor a version", "points to"),
        ("What the service is told.", "configured"),
        ("a row is judged by it", "evaluate"),
    ],
)
def test_a_private_word_is_named_with_the_plain_one(text: str, say: str) -> None:
    assert say in found(iter([(1, text)]), WORDS)[0]


def test_ordinary_words_are_not_on_the_list() -> None:
    fine = "two files told apart; three rooms; it tends to; a legend; the seal of a bundle; for one"
    assert found(iter([(1, fine)]), WORDS) == []


def test_the_glossary_explains_each_term_once_in_a_sentence_or_three() -> None:
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", GLOSSARY.read_text(encoding="utf-8"), re.M)
    terms = [(term, text) for term, text in rows if term not in ("Term", "---")]
    names = [term for term, _ in terms]
    assert len(set(names)) == len(names) > 50
    for term, text in terms:
        assert text.endswith((".", ").")), term
        assert 10 < len(text) < 300, term
    needed = "Champion Challenger Canary Alias Bundle Contract Comparables PSI Gate Outcome Spool"
    assert {*needed.split(), "Held-out test set", "Circuit breaker", "Dead letter"} <= set(names)
