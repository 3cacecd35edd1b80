"""The documentation builds as a site, whole and without loading anything from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_page_is_built_and_reached_from_the_navigation(site: Path) -> None:
    pages = {page.relative_to(DOCS).with_suffix(".html") for page in DOCS.rglob("*.md")}
    start = (site / "index.html").read_text(encoding="utf-8")
    for page in pages:
        assert (site / page).is_file(), page
        assert page.as_posix() in start or page.name == "index.html", page


def test_no_two_pages_share_a_title() -> None:
    titles = [page.read_text(encoding="utf-8").partition("\n")[0] for page in DOCS.rglob("*.md")]
    assert len(set(titles)) == len(titles), sorted(titles)


def test_a_prompt_is_marked_so_that_it_is_not_copied(site: Path) -> None:
    page = (site / "how-to" / "several-models.html").read_text(encoding="utf-8")
    assert '<span class="gp">$ </span>' in page
    style = (site / "images" / "site.css").read_text(encoding="utf-8")
    assert "[data-md-copying] :is(.gp, .go) { display: none; }" in style
    assert 'href="../images/site.css"' in page


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    loaded = (
        r"<(?:script|img|iframe)[^>]+src=[\"']?(?:https?:)?//|<link[^>]+rel=[\"']?stylesheet[^>]+//"
    )
    for page in site.rglob("*.html"):
        assert re.search(loaded, page.read_text(encoding="utf-8")) is None, page
    for style in site.rglob("*.css"):
        assert re.search(r"(?:@import|url\()\s*[\"']?(?:https?:)?//", style.read_text()) is None


def test_the_page_about_the_article_names_paths_that_exist() -> None:
    text = (DOCS / "explanation" / "article.md").read_text(encoding="utf-8")
    page, _, commands = text.partition("## Shown by")
    assert commands
    rooms = ROOT / "src" / "tasador"
    for named in re.findall(r"`([\w./*-]+/[\w./*-]*|compose\.yaml)`", page):
        found = any(base.glob(named.rstrip("/")) for base in (ROOT, rooms)) and (
            list(ROOT.glob(named.rstrip("/"))) or list(rooms.glob(named.rstrip("/")))
        )
        assert found or named.startswith("/"), named
