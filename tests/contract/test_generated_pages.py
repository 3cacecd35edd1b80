"""Pages that are made from code say what the code says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import httpx

from tasador.cli import reference as commands
from tasador.config import service_reference

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"
STALE = "run `make pages` and commit what changed"


def test_the_page_of_commands_says_what_the_commands_say() -> None:
    assert (REFERENCE / "commands.md").read_text(encoding="utf-8") == commands.page(), STALE


def test_the_page_of_the_services_settings_says_what_the_settings_say() -> None:
    found = (REFERENCE / "service-settings.md").read_text(encoding="utf-8")
    assert found == service_reference.settings_page(), STALE


def test_the_page_of_metrics_says_what_is_counted() -> None:
    found = (REFERENCE / "metrics.md").read_text(encoding="utf-8")
    assert found == service_reference.metrics_page(), STALE


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
