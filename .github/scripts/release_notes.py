"""Print the changelog's section of a version; the argument is the tag, e.g. v1.2.0."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def notes(tag: str, changelog: str, version: str) -> str:
    """Return the section of the version that `tag` names, without its heading.

    Raises:
        SystemExit: The tag is not the package's version, or nothing is written about it.
    """
    if tag != f"v{version}":
        raise SystemExit(f"expected the tag v{version}, the version in pyproject.toml, got {tag}")
    heading = rf"^## \[{re.escape(version)}\][^\n]*\n"
    found = re.search(rf"{heading}(.*?)(?=^## |\Z)", changelog, re.MULTILINE | re.DOTALL)
    if found is None or not found[1].strip():
        raise SystemExit(
            f"CHANGELOG.md says nothing about {version}: expected a section '## [{version}] - "
            "DATE' made of what stands under '## [Unreleased]'"
        )
    return found[1].strip() + "\n"


if __name__ == "__main__":
    plain = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    written = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    sys.stdout.write(notes(sys.argv[1], written, plain["project"]["version"]))
