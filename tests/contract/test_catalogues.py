"""Texts in two languages fill in the same values."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator, Mapping

import pytest

import tasador.reporting
from tasador.core.languages import sentences
from tasador.reporting.spanish import _pairs

#: A name; none in catalogues of reports, where {#} only says what the English form takes.
FIELD = re.compile(r"\{#?(\w*)[^{}]*\}")
MODULES = [
    "tasador.ui.texts",
    *(one.name for one in pkgutil.walk_packages(tasador.reporting.__path__, "tasador.reporting.")),
]


def catalogues() -> Iterator[tuple[str, list[tuple[str, str]]]]:
    yield "errors, findings and gates", sentences()
    yield "reports", list(_pairs())
    for name in MODULES:
        for variable, found in vars(importlib.import_module(name)).items():
            if isinstance(found, Mapping) and found and all(map(pair, found.values())):
                yield f"{name}.{variable}", list(found.values())


def pair(value: object) -> bool:
    return isinstance(value, tuple) and [type(one) for one in value] == [str, str]


CATALOGUES = dict(catalogues())


@pytest.mark.parametrize("name", CATALOGUES)
def test_both_languages_have_the_same_placeholders(name: str) -> None:
    for english, spanish in CATALOGUES[name]:
        assert sorted(FIELD.findall(english)) == sorted(FIELD.findall(spanish)), english


def test_all_catalogues_are_looked_at() -> None:
    texts = {name.rpartition(".")[0] for name in CATALOGUES}
    packages = ("ui", "reporting.appraisal", "reporting.review")
    assert texts >= {f"tasador.{name}.texts" for name in packages}
    assert "tasador.reporting.ratio_report" in texts
