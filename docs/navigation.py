"""Order of the site's pages, from what is read first to how the product is built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

#: A section's pages, or its parts with theirs. A page that stands nowhere is added to its folder's
#: last section, so that a new one appears by itself.
SECTIONS: dict[str, tuple[str, ...] | dict[str, tuple[str, ...]]] = {
    "Start": (
        "tutorial/is-this-for-me.md",
        "tutorial/first-valuation.md",
        "tutorial/your-own-table.md",
        "explanation/life-of-a-model.md",
    ),
    "How to": {
        "Read tables and train": (
            "how-to/read-any-file.md",
            "how-to/which-sales.md",
            "how-to/time.md",
            "how-to/shape-estimates.md",
            "how-to/sweep.md",
            "how-to/large-tables.md",
        ),
        "Value": (
            "how-to/web-app.md",
            "how-to/score-files.md",
            "how-to/explain.md",
            "how-to/confidence.md",
            "how-to/write-valuation-reports.md",
            "how-to/ratio-study.md",
            "how-to/desk-review.md",
        ),
        "Keep a model right": (
            "how-to/outcomes.md",
            "how-to/watch-a-service.md",
            "how-to/respond-to-an-alert.md",
            "how-to/monitor-plain-files.md",
            "how-to/retrain.md",
            "how-to/canary.md",
            "how-to/promote-and-roll-back.md",
            "how-to/roll-back.md",
        ),
        "Run it": (
            "how-to/troubleshooting.md",
            "how-to/several-models.md",
            "how-to/deploy.md",
            "how-to/path-prefix.md",
            "how-to/protect-the-api.md",
            "how-to/scale-out.md",
        ),
    },
    "Background": (
        "explanation/why-comparables.md",
        "explanation/gates.md",
        "explanation/drift-at-any-n.md",
        "explanation/records.md",
        "explanation/security.md",
        "explanation/wandb-and-mlflow.md",
        "explanation/why-no-pickle.md",
        "explanation/why-no-feature-store.md",
        "explanation/why-not-synthetic-kmeans.md",
    ),
    "Reference": (
        "reference/commands.md",
        "reference/configuration.md",
        "reference/contract.md",
        "reference/api.md",
        "reference/python.md",
        "reference/service-settings.md",
        "reference/watch-settings.md",
        "reference/metrics.md",
        "reference/exit-codes.md",
        "reference/glossary.md",
    ),
    "Internals": (
        "explanation/architecture.md",
        "explanation/article.md",
        "explanation/benchmarks.md",
        "explanation/capacity.md",
        "explanation/cascade.md",
        "explanation/drift.md",
        "explanation/libraries.md",
        "explanation/valuation-path.md",
        "explanation/where-the-time-goes.md",
    ),
}


def on_config(config: Any) -> Any:
    """Build the navigation; MkDocs calls this."""
    docs = Path(config["docs_dir"])
    left = {page.relative_to(docs).as_posix() for page in docs.glob("*/*.md")}
    for section in SECTIONS.values():
        for part in section.values() if isinstance(section, dict) else (section,):
            left -= set(part)
    entries: list[Any] = [{"Home": "index.md"}]
    for title, section in SECTIONS.items():
        if isinstance(section, dict):
            *parts, last = section.items()
            pages: list[Any] = [{name: list(part)} for name, part in parts]
            pages.append({last[0]: [*last[1], *_of("how-to/", left)]})
        else:
            pages = [*section, *_of(_FOLDERS.get(title, "-"), left)]
        entries.append({title: pages})
    config["nav"] = entries
    return config


_FOLDERS = {"Start": "tutorial/", "Background": "explanation/", "Reference": "reference/"}


def _of(folder: str, left: set[str]) -> list[str]:
    return sorted(page for page in left if page.startswith(folder))
