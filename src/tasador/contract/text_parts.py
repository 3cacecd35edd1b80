"""What can be taken out of texts: numbers with their units, first words, single words, prefixes.

A part is worth a column where it explains the target by itself, measured row by row without that
row (leave-one-out means of groups), so that many different values do not look useful by chance.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasador.contract.formats import PLAIN, Extract, extractor, words_of

Floats = NDArray[np.float64]

#: Share of the target's variance that a number or a first word has to explain to be kept.
_LEAST_SHARE = 0.02
#: The same for a single word, of which at most so many are kept.
_LEAST_WORD_SHARE = 0.01
_MOST_WORDS = 12
#: A code has at least so many characters, and so many of the last ones are left out at most.
_SHORTEST_CODE, _MOST_LEFT_OUT = 5, 8
_MOST_NUMBERS = 4
_LOOKED_AT = 20_000
_BINS = 40
_UNIT_AFTER = re.compile(r"\d+(?:[.,]\d+)*[ -]?([^\W\d_]+)", re.UNICODE)
_UNIT_BEFORE = re.compile(r"(?<![^\W\d_])([^\W\d_]+)[ -]?\d+(?:[.,]\d+)*", re.UNICODE)
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


@dataclass(frozen=True)
class Part:
    """A part of a column's texts that is worth a column.

    Attributes:
        extract: Which part.
        name: What it is called, after the column's own name.
        share: Share of the target's variance that it explains by itself, in [0, 1].
        numbers: Whether its values are numbers; else they are words.
        words: The different words, where they are words.
    """

    extract: Extract
    name: str
    share: float
    numbers: bool
    words: tuple[str, ...] = ()


def explained_by_groups(groups: Sequence[object] | NDArray[np.intp], y: Floats) -> float:
    """Return the share of the variance of `y` (n,) that the means of groups explain, in [0, 1].

    A row's own value has no part in the mean that it is compared with (leave one out), shrunk
    towards the mean of all by one row.
    """
    _, codes = np.unique(np.asarray(groups), return_inverse=True)
    y = y / largest if len(y) and (largest := float(np.abs(y).max())) > 0 else y
    total = float(((y - y.mean()) ** 2).sum()) if len(y) else 0.0
    if total == 0:
        return 0.0
    counts = np.bincount(codes)
    sums = np.bincount(codes, weights=y)
    others = (sums[codes] - y + y.mean()) / counts[codes]
    return max(0.0, 1.0 - float(((y - others) ** 2).sum()) / total)


def explained_by_number(values: Floats, y: Floats) -> float:
    """Return the same for numbers (n,), in bins of equal counts; NaN is a bin of its own."""
    known = np.isfinite(values)
    if known.sum() < 10:
        return 0.0
    edges = np.unique(np.quantile(values[known], np.linspace(0, 1, _BINS + 1)[1:-1]))
    bins = np.where(known, np.searchsorted(edges, values, side="right"), len(edges) + 1)
    return explained_by_groups(bins, y)


def parts_of_texts(texts: Sequence[str | None], y: Floats, *, free: bool) -> list[Part]:
    """Return the parts of texts that explain the target, those that explain most first.

    Args:
        texts: The texts of n rows, None where missing.
        y: The target (n,), on the scale on which it is modelled; finite.
        free: Whether the texts are free, so that single words are looked at too.
    """
    if len(texts) > _LOOKED_AT:
        step = len(texts) // _LOOKED_AT
        texts, y = texts[::step], y[::step]
    found = _numbers(texts, y)
    first = _first_word(texts, y)
    if first is not None:
        found.append(first)
    if free:
        found += _words(texts, y)
    return sorted(found, key=lambda part: -part.share)


def prefix_of_codes(texts: Sequence[str | None], y: Floats) -> Part | None:
    """Return the part of codes that says most of the target, such as a parcel number's plat.

    What differs within it may be of several lengths, so characters are counted from the end. Each
    code counts once: a thing that was sold again says nothing of its neighbours.

    Args:
        texts: The codes of n rows, None where missing.
        y: The target (n,), as for `parts_of_texts`.
    """
    first: dict[str, int] = {}
    for at, text in enumerate(texts):
        if text and len(text) >= _SHORTEST_CODE:
            first.setdefault(text, at)
    codes, rows = list(first), list(first.values())
    if len(codes) < 0.5 * len({text for text in texts if text}):
        return None
    best = None
    for n in range(1, _MOST_LEFT_OUT + 1):
        prefixes = [code[:-n] for code in codes]
        if not 2 <= len(set(prefixes)) <= 0.7 * len(codes):
            continue
        share = explained_by_groups(prefixes, y[rows])
        if share >= max(_LEAST_SHARE, best.share if best else 0.0):
            best = Part(Extract("without_last", n), "prefix", share, numbers=False)
    return best


def _numbers(texts: Sequence[str | None], y: Floats) -> list[Part]:
    present = [text for text in texts if text]
    with_number = sum(bool(_NUMBER.search(text)) for text in present)
    if with_number < 0.05 * len(texts):
        return []
    candidates: list[tuple[Extract, str]] = []
    for kind, pattern in (("before", _UNIT_AFTER), ("after", _UNIT_BEFORE)):
        rows = Counter(
            word for text in present for word in {w.casefold() for w in pattern.findall(text)}
        )
        spelled = Counter(word for text in present for word in pattern.findall(text))
        for word, count in rows.most_common(8):
            if count >= 0.03 * len(texts):
                spelling = max(
                    (w for w in spelled if w.casefold() == word), key=spelled.__getitem__
                )
                candidates.append((Extract(kind, spelling), slug(word)))  # type: ignore[arg-type]
    most = max(len(_NUMBER.findall(text)) for text in present)
    candidates += [(Extract("number", n), f"number_{n}") for n in range(1, min(most, 3) + 1)]
    scored = []
    for extract, name in candidates:
        values = _values(extract, texts)
        share = explained_by_number(values, y)
        if share >= _LEAST_SHARE and np.isfinite(values).sum() >= 0.03 * len(texts):
            scored.append((share, values, Part(extract, name, share, numbers=True)))
    return _different(scored)


def _different(scored: list[tuple[float, Floats, Part]]) -> list[Part]:
    """Keep the best of parts that are the same number found in two ways."""
    scored.sort(key=lambda item: (-round(item[0], 3), item[2].extract.kind == "number"))
    kept: list[tuple[Floats, Part]] = []
    for _, values, part in scored:
        same = any(np.mean(_equal(values, other)) > 0.9 for other, _ in kept)
        if not same and all(part.name != other.name for _, other in kept):
            kept.append((values, part))
    return [part for _, part in kept[:_MOST_NUMBERS]]


def _equal(a: Floats, b: Floats) -> NDArray[np.bool_]:
    either = np.isfinite(a) | np.isfinite(b)
    same: NDArray[np.bool_] = (a == b)[either]
    return same if len(same) else np.ones(1, dtype=np.bool_)


def _values(extract: Extract, texts: Iterable[str | None]) -> Floats:
    take, known = extractor(extract, PLAIN), dict[str | None, float]({None: np.nan})
    values = []
    for text in texts:
        if text not in known:
            try:
                known[text] = float(take(text or "") or "nan")
            except ValueError:
                known[text] = np.nan
        values.append(known[text])
    return np.array(values, dtype=np.float64)


def _first_word(texts: Sequence[str | None], y: Floats) -> Part | None:
    take, known = extractor(Extract("word", 1), PLAIN), dict[str | None, str]({None: ""})
    words = [known.setdefault(text, known.get(text) or take(text or "")) for text in texts]
    counts = Counter(words)
    different = len({text for text in texts if text})
    levels = tuple(sorted(word for word, count in counts.items() if word and count >= 2))
    if not 2 <= len(levels) <= 0.7 * different or len(levels) > 2000:
        return None
    whole = explained_by_groups([text or "" for text in texts], y)
    share = explained_by_groups(words, y)
    # a whole text that repeats says what its first word says, unless it is rare
    if share < _LEAST_SHARE or share < 0.3 * whole:
        return None
    return Part(Extract("word", 1), "first_word", share, numbers=False, words=levels)


def _words(texts: Sequence[str | None], y: Floats) -> list[Part]:
    sets = [set(words_of(text)) if text else set() for text in texts]
    rows = Counter(word for words in sets for word in words)
    n, found = len(texts), []
    for word, count in rows.most_common(300):
        if 0.01 * n <= count <= 0.99 * n and count >= 10 and not word.isdigit() and len(word) > 1:
            flags = np.fromiter((word in words for words in sets), np.bool_, n)
            share = explained_by_groups(flags.astype(np.intp), y)
            if share >= _LEAST_WORD_SHARE:
                part = Part(Extract("contains", word), f"has_{slug(word)}", share, numbers=True)
                found.append(part)
    counts = np.array([len(words) for words in sets], dtype=np.float64)
    share = explained_by_number(counts, y)
    if share >= _LEAST_SHARE:
        found.append(Part(Extract("words", 1), "words", share, numbers=True))
    return sorted(found, key=lambda part: -part.share)[:_MOST_WORDS]


def slug(text: str) -> str:
    """Return letters, digits and underscores only, in lower case."""
    return re.sub(r"\W+", "_", text.lower()).strip("_")
