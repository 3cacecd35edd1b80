"""Order of the site's pages: a page that is added to a folder appears by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

SECTIONS = {
    "tutorial": "Tutorial",
    "how-to": "How to",
    "explanation": "Explanation",
    "reference": "Reference",
}
#: Pages that come first in their folder; the others follow by name.
FIRST = (
    "first-valuation.md",
    "your-own-table.md",
    "deploy.md",
    "respond-to-an-alert.md",
    "roll-back.md",
    "architecture.md",
    "article.md",
    "commands.md",
    "configuration.md",
    "service-settings.md",
)


def on_config(config: Any) -> Any:
    """Build the navigation from the folders; MkDocs calls this."""
    docs = Path(config["docs_dir"])
    entries: list[Any] = ["index.md"]
    for folder, title in SECTIONS.items():
        pages = sorted((docs / folder).glob("*.md"), key=_place)
        if pages:
            entries.append({title: [f"{folder}/{page.name}" for page in pages]})
    config["nav"] = entries
    return config


def _place(page: Path) -> tuple[int, str]:
    return (FIRST.index(page.name) if page.name in FIRST else len(FIRST), page.name)
