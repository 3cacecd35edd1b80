"""The HTML report and the dashboard of a verdict that has everything in it."""

import dataclasses
import io
import re

import numpy as np
import pytest
from rich.console import Console

from tasador.cli.watch import dashboard
from tasador.contract.model import Column
from tasador.monitoring.evaluate import evaluate
from tasador.monitoring.reference import build_reference
from tasador.monitoring.verdict import Verdict
from tasador.monitoring.window import Window
from tasador.reporting.monitor_report import headline, readable, write_monitor_report


def page_of(verdict, folder):
    return write_monitor_report(folder / "v.html", verdict).read_text(encoding="utf-8")


@pytest.fixture
def eventful(reference, window):
    made = window(600, time=1.7e9 + 3600.0 * np.arange(600), latency_ms=np.full(600, 4.0))
    X = made.X.copy()
    X[:, 0] *= 1000
    return evaluate(reference, dataclasses.replace(made, X=X))


def test_the_report_shows_trouble_first_then_time_segments_and_every_column(eventful, tmp_path):
    page = page_of(eventful, tmp_path)
    for text in ("What to look at", "Over time", "Error by segment", "Drift by column", "Timeline",
                 "all values lie outside what the reference spans", "within 10%"):  # fmt: skip
        assert text in page
    assert page.index("What to look at") < page.index("Drift by column")
    assert page.count("<figure>") == 3 + len(eventful.drift)
    assert page.index("<b>area</b>") < page.index("<b>rooms</b>")


def test_the_headline_says_what_is_wrong_and_errors_come_before_changed_inputs(
    eventful, reference, window, tmp_path
):
    title, detail = headline(eventful)
    assert title == "The inputs have faults: area"
    assert "outside the bounds" in detail
    title, detail = headline(evaluate(reference, window(900, noise=0.4)))
    assert title == "The model errs more than it may"
    assert re.match(r"MAPE \d+\.\d\d% ", detail)
    assert headline(evaluate(reference, window(900)))[0] == "The rows look like the reference"
    page = page_of(eventful, tmp_path)
    assert '<div class="tile state state-alert">' in page
    assert '<div class="tile state state-ok">' in page


def test_bins_are_written_out_and_say_both_shares(eventful, tmp_path):
    page = page_of(eventful, tmp_path)
    assert not re.search(r"\de[+-]\d", re.sub(r'src="[^"]*"', "", page).replace("3e", ""))
    assert re.search(r'title="flat · reference 60\.\d% · window \d\d\.\d%"', page)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("1.0731e+05 to 1.33e+05", "107,300 to 133,000"),
        ("constant at -2.5e+06", "constant at -2,500,000"),
        ("up to 1990", "up to 1990"),
        ("1974-10-22 09:11:33", "1974-10-22 09:11:33"),
        ("PSI 0.0151 of v1.20000.3", "PSI 0.0151 of v1.20000.3"),
    ],
)
def test_large_numbers_are_written_out_and_other_texts_left(text, shown):
    assert readable(text) == shown


def test_figures_of_the_ratio_study_say_whether_the_iaaos_range_is_met(eventful, tmp_path):
    figures = [figure for figure in eventful.figures if figure.met is not None]
    assert {figure.name for figure in figures} == {"median_ratio", "cod", "prd", "prb"}
    page = page_of(eventful, tmp_path)
    for met, kind, words in ((True, "met", "met"), (False, "unmet", "not met")):
        shown = page.count(f'<td class="left {kind}">{words}</td>')
        assert shown == sum(figure.met is met for figure in figures)
    assert "PRD 0.98 to 1.03" in page


def test_names_from_the_table_cannot_become_markup(tmp_path):
    columns = (Column("<script>alert(1)</script>", "number"),)
    X = np.random.default_rng(0).normal(size=(300, 1))
    verdict = evaluate(build_reference(columns, X), Window.of([columns[0].name], X))
    page = page_of(verdict, tmp_path)
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_a_column_of_many_categories_shows_the_bins_that_changed_most(tmp_path):
    names = tuple(f"town {i:02d}" for i in range(60))
    columns = (Column("town", "category", categories=names),)
    random = np.random.default_rng(0)
    reference = build_reference(columns, random.integers(0, 60, (3000, 1)).astype(float))
    changed = np.where(np.arange(900)[:, None] % 2, 7.0, random.integers(0, 60, (900, 1)))
    verdict = evaluate(reference, Window.of(["town"], changed))
    assert verdict.drift[0].level == "alert"
    assert "town 07" in verdict.drift[0].reason
    assert len(page_of(verdict, tmp_path)) < 400_000


def test_an_empty_window_still_has_a_report_and_a_dashboard(reference, tmp_path):
    verdict = evaluate(reference, [])
    assert "Cannot tell" in page_of(verdict, tmp_path)
    assert "cannot tell" in printed(verdict)


def printed(verdict, width=100):
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(dashboard(verdict))
    return console.export_text()


def test_the_dashboard_names_the_worst_and_fits_eighty_columns(eventful):
    text = printed(eventful, 80)
    assert re.search(r"Health: ALERT +600 rows", text)
    assert re.search(r"1[45] Nov 2023 to ", text)
    assert "What to look at" in text
    assert "area: all values lie outside" in text.replace("\n", " ")
    assert max(map(len, text.splitlines())) <= 80


def test_a_verdict_read_back_from_json_shows_the_same(eventful):
    assert printed(Verdict.from_json(eventful.to_json())) == printed(eventful)
