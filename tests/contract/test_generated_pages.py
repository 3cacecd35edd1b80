"""Pages that are made from code say what the code says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import httpx
import pytest

import tasador
from tasador.cli import reference_pages

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"
STALE = "run `make pages` and commit what changed"


def test_the_page_of_commands_says_what_the_commands_say() -> None:
    assert (REFERENCE / "commands.md").read_text(
        encoding="utf-8"
    ) == reference_pages.commands_page(), STALE


def test_the_page_of_the_services_settings_says_what_the_settings_say() -> None:
    found = (REFERENCE / "service-settings.md").read_text(encoding="utf-8")
    assert found == reference_pages.settings_page(), STALE


def test_the_page_about_python_says_what_the_docstrings_say() -> None:
    found = (REFERENCE / "python.md").read_text(encoding="utf-8")
    assert found == reference_pages.python_page(), STALE
    for name in tasador.__all__:
        assert name == "__version__" or f"\n## {name}\n" in found


ROOT = REFERENCE.parents[1]
PAGES = sorted([*ROOT.glob("README*.md"), *ROOT.glob("docs/*/*.md")])
MEASURED = reference_pages.measured_figures(ROOT)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_figures_in_texts_are_those_of_their_sources(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text == reference_pages.with_figures(text, MEASURED), STALE


def test_a_measured_figure_in_a_text_follows_its_source() -> None:
    text = "errs by <!--figure run.mape-->8.2<!--/-->%"
    follows = reference_pages.with_figures(text, {"run.mape": "12.4"})
    assert follows == "errs by <!--figure run.mape-->12.4<!--/-->%"
    with pytest.raises(KeyError, match=r"run\.mape"):
        reference_pages.with_figures(text, {})


@pytest.mark.parametrize("stale", ["39,423", "60.9 ", "0.1 ms", "95 minutes on two"])
def test_no_page_states_a_figure_by_hand_that_has_a_source(stale: str) -> None:
    # The page of the benchmarks has its own; the other one says how its estimate came about.
    own = {"benchmarks.md", "article.md"}
    assert [page.name for page in PAGES if page.name not in own and stale in page.read_text()] == []


def test_a_figure_in_a_text_follows_its_setting() -> None:
    text = (
        "Every `source.poll_s` (30 s, by chance) and `limits.body_bytes` (1 MiB), `bound_s` (9 s)"
    )
    assert reference_pages.with_figures(text, {}) == (
        "Every `source.poll_s` (8 s, by chance) and `limits.body_bytes` (4 MiB), `bound_s` (250 ms)"
    )
    assert reference_pages.with_figures("`some_other` (3)", {}) == "`some_other` (3)"
    with pytest.raises(KeyError, match="several sections"):  # the sources', and the canary's
        reference_pages.with_figures("`poll_s` (8 s)", {})


def test_the_page_of_metrics_says_what_is_counted() -> None:
    found = (REFERENCE / "metrics.md").read_text(encoding="utf-8")
    assert found == reference_pages.metrics_page(), STALE


def test_the_page_of_the_watchers_settings_says_what_ships() -> None:
    found = (REFERENCE / "watch-settings.md").read_text(encoding="utf-8")
    assert found == reference_pages.watch_page(), STALE


def test_every_metric_of_a_service_that_answers_is_on_the_page(
    running: Any, house: dict[str, Any]
) -> None:
    httpx.post(f"{running.url}/api/v1/predict", json={"instances": [house]})
    scraped = httpx.get(f"{running.url}/metrics").text
    page = (REFERENCE / "metrics.md").read_text(encoding="utf-8")
    names = set(re.findall(r"^# TYPE (tasador_\w+)", scraped, re.M))
    names = {name for name in names if not name.endswith("_created")}
    assert len(names) > 4
    assert {name for name in names if f"`{name}`" not in page} == set()
