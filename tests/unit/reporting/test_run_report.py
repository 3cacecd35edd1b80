"""The run report: complete in itself, unmistakable about origin and failures."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tasador.core.errors import StorageError
from tasador.reporting.cards import Card, CardTable, Fact, Figure
from tasador.reporting.reports import (
    BundleReference,
    Check,
    Comparison,
    Headline,
    RunSummary,
    write_report,
)

HOSTILE = '"><img src=https://evil.example onerror=alert(1)>{{ 7*7 }}'


class Elements(HTMLParser):
    """Collects what a browser would see."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def card(step: str, status: str = "done", error: str | None = None) -> Card:
    return Card(
        step=step,
        title=f"Step {step}",
        status=status,  # type: ignore[arg-type]
        started="2026-11-23T20:01:07Z",
        seconds=1.0,
        facts=(Fact("rows", 20640),),
        tables=(CardTable("Columns", ("name", "max"), ((HOSTILE, 39320.0),)),),
        figures=(Figure.from_bytes("Picture", b"<svg/>", "svg", "caption"),),
        error=error,
    )


def summary() -> RunSummary:
    return RunSummary(
        run_id="20261123-200107-3f9a",
        dataset="california_housing",
        title=f"Houses {HOSTILE}",
        started="2026-11-23T20:01:07Z",
        seconds=163.2,
        origin="real",
        source="/data/housing.csv",
        content_hash="8a37",
        unit="USD",
        headline=(
            Headline("RMSE", 39541.2, 37900.0, 41200.0, "USD", "lower"),
            Headline("within 10%", 58.93, 57.1, 60.2, "%", "higher"),
        ),
        comparison=(
            Comparison("RMSE", 39541.2, 43600.0, 61100.0, "USD"),
            Comparison("R²", 0.881, None, None),
        ),
        bundle=BundleReference("housing_price_model", "3f9a1c", "workspace/bundles/x"),
        sample=("estimate 438 200 USD", HOSTILE),
        cards=(card("register"), card("odd"), card("download", "cached"), card("select")),
    )


@pytest.fixture
def page(tmp_path: Path) -> str:
    return write_report(tmp_path / "runs" / "report.html", summary()).read_text()


def test_the_page_loads_nothing_and_runs_nothing(page: str) -> None:
    seen = Elements(page)
    assert not seen.all("script")
    assert [link["href"] for link in seen.all("link")] == ["data:,"]
    assert all(str(image["src"]).startswith("data:image/") for image in seen.all("img"))
    assert all(str(link["href"]).startswith("#") for link in seen.all("a"))
    policies = [meta.get("content") for meta in seen.all("meta")]
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in policies
    style = page[page.index("<style>") : page.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style


def test_hostile_names_are_shown_as_they_are(page: str) -> None:
    seen = Elements(page)
    assert seen.text.count(HOSTILE) >= 4
    assert not [one for one in seen.found if "onerror" in one[1]]


def test_the_figures_stand_with_their_intervals(page: str) -> None:
    text = " ".join(Elements(page).text.split())
    for part in ("39,541", "37,900 – 41,200", "57.10 – 60.20", "2 min 43 s", "+40%", "61,100"):
        assert part in text.replace("\u202f", " ")


def test_steps_come_in_the_order_of_the_pipeline(page: str) -> None:
    sections = [section.get("id", "") for section in Elements(page).all("section")]
    assert sections[-4:] == ["step-download", "step-select", "step-register", "step-odd"]
    links = [link["href"] for link in Elements(page).all("a")]
    assert links == ["#result", *(f"#{section}" for section in sections[-4:])]


def test_the_result_stands_first_in_words_with_a_coloured_word_for_each_check(
    tmp_path: Path,
) -> None:
    checks = (
        Check("Coverage", True, "90% intervals hold 91% of the test rows"),
        Check("Ratio study", False, "PRD 1.036 is outside 0.98 to 1.03"),
        Check("Against the champion", None, "another table"),
    )
    run = replace(summary(), sentence="Half are within 7.4%.", checks=checks)
    page = write_report(tmp_path / "r.html", run).read_text()
    text = Elements(page).text
    order = ["Half are within 7.4%.", "Coverage: met", "Ratio study: not met", "PRD 1.036",
             "Against the champion: cannot tell", "39,541", "Step download"]  # fmt: skip
    assert sorted(order, key=text.index) == order
    for kind in ("good", "bad", "calm"):
        assert f'class="chip {kind}"' in page
    # the register step's pictures are the result's, and stand once
    assert page.count("<figure>") == len(run.cards)
    assert page.index("<figure>") < page.index('id="step-download"')


def test_without_places_no_column_is_about_them(tmp_path: Path, page: str) -> None:
    assert "spatial CV" in page
    flat = replace(summary(), comparison=(Comparison("RMSE", 1.0, 2.0, None, "USD"),))
    shown = write_report(tmp_path / "flat.html", flat).read_text()
    assert "spatial" not in shown.lower()
    assert "places never seen" not in shown


def test_a_real_run_has_no_banner_and_a_synthetic_one_a_big_one(tmp_path: Path, page: str) -> None:
    assert 'class="banner"' not in page
    synthetic = write_report(tmp_path / "s.html", replace(summary(), origin="synthetic"))
    banner = re.search(r'<p class="banner" role="alert">(.*?)</p>', synthetic.read_text(), re.S)
    assert banner is not None
    assert "SYNTHETIC DATA" in banner.group(1)


def test_a_failed_run_says_where_and_why_on_top(tmp_path: Path) -> None:
    failed = replace(
        summary(),
        headline=(),
        comparison=(),
        bundle=None,
        sample=(),
        origin=None,
        source=None,
        content_hash=None,
        unit=None,
        cards=(
            card("sweep", "interrupted", "stopped by Ctrl-C"),
            card("impute", "failed", f"no memory {HOSTILE}"),
        ),
    )
    html = write_report(tmp_path / "f.html", failed).read_text()
    text = Elements(html).text
    assert f"The step impute failed: no memory {HOSTILE}" in text
    assert "The step sweep was interrupted: stopped by Ctrl-C" in text
    assert text.index("The step impute") < text.index("Result")
    assert "did not get as far as the held-out test set" in text
    assert '<section id="step-impute" class="failed"' in html


def test_a_report_on_a_full_disk_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"):
        write_report(tmp_path / "file" / "report.html", summary())


def test_the_same_run_gives_the_same_page(tmp_path: Path, page: str) -> None:
    assert write_report(tmp_path / "again.html", summary()).read_text() == page
