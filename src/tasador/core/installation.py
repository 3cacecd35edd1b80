"""How this tasador was installed, and the command that adds an extra to it."""

from __future__ import annotations

import json
import re
import shlex
import sys
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote, urlsplit

#: Modules whose distribution has another name.
_DISTRIBUTIONS = {"sklearn": "scikit-learn", "hydra": "hydra-core", "xgboost": "xgboost-cpu"}


def extra_with(module: str) -> str | None:
    """Return the first extra that brings the top-level `module`; None when no extra names it."""
    package = _DISTRIBUTIONS.get(module, module.replace("_", "-"))
    for requirement in metadata.requires("tasador") or ():
        named = re.match(r"[\w.-]+", requirement)
        extra = re.search(r"extra == ['\"]([\w-]+)['\"]", requirement)
        if named and extra and named[0].lower() == package.lower():
            return extra[1]
    return None


def install_command(extra: str) -> str:
    """Return the command that adds `extra` (or several, with commas) to this installation.

    In a checkout's own environment that is ``make install``, which takes the locked versions; for
    an installation from a folder the command names the folder.
    """
    origin = json.loads(_direct_url() or "{}")
    url = urlsplit(origin.get("url", ""))
    if url.scheme != "file" or "dir_info" not in origin:
        return f'pip install "tasador[{extra}]"'
    folder = Path(unquote(url.path))
    if Path(sys.prefix) == folder / ".venv" and (folder / "Makefile").is_file():
        place = "" if folder == Path.cwd() else f" -C {shlex.quote(str(folder))}"
        return f'make{place} install EXTRAS="{extra.replace(",", " ")}"'
    editable = "-e " if origin["dir_info"].get("editable") else ""
    return f'pip install {editable}"{folder}[{extra}]"'


def _direct_url() -> str | None:
    """Return what the installer recorded about where tasador came from (PEP 610)."""
    try:
        return metadata.distribution("tasador").read_text("direct_url.json")
    except metadata.PackageNotFoundError:
        return None
