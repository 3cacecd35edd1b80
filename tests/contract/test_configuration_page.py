from __future__ import annotations

from pathlib import Path

from tasador.cli.reference_pages import configuration_page

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "configuration.md"


def test_the_page_says_what_the_settings_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == configuration_page()
