"""Reports in Spanish: no English sentence is left, and names stay as they are."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixtures.model_facts import FACTS
from tasador.contract.model import Column
from tasador.contract.reader import from_dict
from tasador.core.languages import Language
from tasador.metrics.ratio_study import ratio_study
from tasador.monitoring.evaluate import evaluate
from tasador.monitoring.reference import build_reference
from tasador.monitoring.window import Window
from tasador.reporting import evaluation_plots, result_plots
from tasador.reporting.model_card import Decision, ModelDocument, ReviewRow, write_model_card
from tasador.reporting.monitor_report import write_monitor_report
from tasador.reporting.reports import Check, Comparison, Headline
from tasador.reporting.spanish import in_language
from tasador.selection.test_metrics import Group

#: Words that no Spanish sentence has.
ENGLISH = re.compile(
    r"\b(the|of|and|with|rows?|is|are|was|not|by|from|than|which|values?|has|have|each|where)\b"
)
#: Fitted text may name files, parameters and the table's own columns.
NAMES = re.compile(r"`[^`]*`|\([^)]*=[^)]*\)")


def texts(page: str) -> Iterator[str]:
    """Yield what a reader sees or hears, in pictures too."""
    body = re.sub(r"<(style|script|pre|code)\b.*?</\1>", "", page, flags=re.S)
    for text in re.findall(r">([^<]+)<", body):
        yield html.unescape(text).strip()
    for text in re.findall(r'\b(?:alt|title|aria-label)="([^"]*)"', body):
        yield html.unescape(text)
    for picture in re.findall(r"data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)", body):
        svg = base64.b64decode(picture).decode()
        yield from (html.unescape(t).strip() for t in re.findall(r"<text[^>]*>([^<]+)<", svg))


def english_in(page: str) -> list[str]:
    return [text for text in texts(page) if ENGLISH.search(NAMES.sub("", text))]


def document() -> ModelDocument:
    random = np.random.default_rng(1)
    actual = random.lognormal(12, 0.4, 300)
    predicted = actual * np.exp(random.normal(0, 0.15, 300))
    percent = (predicted / actual - 1.0) * 100.0
    contract = from_dict(
        {
            "name": "houses",
            "title": "Casas",
            "model_name": "house_price",
            "columns": {"income": {"kind": "number", "bounds": [0, None]}},
            "target": {"name": "price", "unit": "USD", "cap": 500_001},
        }
    )
    return ModelDocument(
        contract=contract,
        facts=replace(FACTS, origin="synthetic", refitted=True,
                      test_openings=("final figures of the registered model",)),
        headline=(Headline("RMSE", 39541.0, 37900.0, 41200.0, "USD", "lower"),),
        comparison=(Comparison("RMSE", 1.0, 2.0, 3.0, "USD", 0.1, 2.2, 1.9),),
        groups={
            "segment": (Group("a", 4, 12.5, 60.0, 0.99, 0.75), Group("b", 90, 9.0, 60.0, 1.2, 0.9)),
            "cap": (Group("below the cap of 500,001", 90, 9.0, 60.0, 1.0, 0.9),),
        },
        ratio_study=ratio_study(predicted, actual).figures,
        decisions=(
            Decision("gaps in income", "median", "restores masked known values",
                     "train, 2 x 5 folds"),
            Decision("family", "LightGBM", "MAE 24,000, the smallest of 11 candidates: LightGBM "
                     "(n_estimators=300)", "train, 5 folds"),
        ),
        review=(ReviewRow("ab12", {"income": 3.5}, 100.0, 110.0, 90.0, 130.0),),
        sentence="Half of the estimates are within 7.4% of the actual value; 59% of them are "
        "within 10%.",
        checks=(
            Check("Ratio study", False, "PRD 1.036 is outside 0.98 to 1.03"),
            Check("Coverage", True, "90% intervals hold 89.7% of the test rows"),
            Check("Against the champion", None, "MAE is 3.2% lower than that of version 3 on the "
                  "test part; that one was measured on another table: `tasador compare` values the "
                  "same rows"),
        ),
        figures=(
            evaluation_plots.predicted_actual(actual, predicted, unit="USD", cap=5e5),
            result_plots.residuals(predicted, percent, unit="USD"),
            result_plots.ratio_by_price(actual, predicted),
            result_plots.calibration_curve([0.5, 0.9], [0.5, 0.9], 300),
            result_plots.effects(["Location"], percent[:, None], percent[:, None], unit="USD",
                                 rows=300),
            result_plots.error_map(actual / 1e6, actual / 1e6, percent),
        ),
    )  # fmt: skip


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("card")
    write_model_card(folder, document())
    return (folder / "model_card.html").read_text(encoding="utf-8")


def test_no_english_sentence_is_left_on_the_spanish_model_card(card: str) -> None:
    assert len(english_in(card)) > 40
    spanish = in_language(card, "es")
    assert english_in(spanish) == []
    assert '<html lang="es">' in spanish
    seen = " ".join(texts(spanish))
    for part in ("La mitad de las estimaciones queda a menos del 7,4\u00a0% del valor real",
                 "Estudio de razones: no cumple", "39.541", "Filas de prueba"):  # fmt: skip
        assert part in seen
    # what is said changes, what is drawn does not
    assert spanish.count("<") == card.count("<")


def report(folder: Path, language: Language, *, factor: float) -> str:
    columns = (Column("area", "number"), Column("kind", "category", categories=("a", "b")))
    random = np.random.default_rng(0)

    def rows(n: int, times: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        X = np.column_stack([random.lognormal(4, 0.5, n), random.integers(0, 2, n)])
        price = 1000.0 * X[:, 0]
        return X * [times, 1.0], price, price * np.exp(random.normal(0, 0.1 * times, n))

    X, price, predicted = rows(2000, 1.0)
    reference = build_reference(columns, X, prediction=predicted, actual=price, version="houses-1")
    X, price, predicted = rows(600, factor)
    window = Window.of(
        reference.names, X, prediction=predicted, actual=price, lower=predicted * 0.8,
        upper=predicted * 1.2, latency_ms=np.full(600, 4.0), time=1.7e9 + 3600.0 * np.arange(600),
    )  # fmt: skip
    verdict = evaluate(reference, window)
    return write_monitor_report(folder / "v.html", verdict, language).read_text(encoding="utf-8")


@pytest.mark.parametrize("factor", [1.0, 4.0])
def test_no_english_sentence_is_left_on_the_spanish_monitoring_report(
    tmp_path: Path, factor: float
) -> None:
    assert len(english_in(report(tmp_path, "en", factor=factor))) > 20
    assert english_in(report(tmp_path, "es", factor=factor)) == []


def test_markup_from_the_table_stays_text_in_either_language() -> None:
    page = (
        '<td>&lt;script&gt;rows&lt;/script&gt;</td><td>rows</td><pre>rows</pre><b title="met">x</b>'
    )
    assert in_language(page, "es") == (
        "<td>&lt;script&gt;rows&lt;/script&gt;</td><td>filas</td><pre>rows</pre>"
        '<b title="cumple">x</b>'
    )
    assert in_language(page, "en") == page


def test_names_of_columns_stay_even_where_they_are_words_of_the_catalogue() -> None:
    page = "<td>rows</td><td>level</td>"
    assert in_language(page, "es", {"rows"}) == "<td>rows</td><td>nivel</td>"


@given(st.floats(-1e9, 1e9).map(lambda value: f"{value:,.2f}"))
def test_numbers_have_the_marks_of_the_language_and_one_minus_sign(text: str) -> None:
    spanish = in_language(f"<td>{text}</td>", "es")[4:-5]
    english = in_language(f"<td>{text}</td>", "en")[4:-5]
    assert english == text.replace("-", "\u2212")
    assert spanish.translate(str.maketrans(",.", ".,")) == english


@pytest.mark.parametrize(
    "text", ["2026-11-29", "1.2.0", "20261129-131906-2b2a", "seed=-1", "a-1.5", "v3"]
)
def test_names_dates_and_versions_stay_as_they_are(text: str) -> None:
    for language in ("en", "es"):
        assert in_language(f"<b>{text}</b>", language) == f"<b>{text}</b>"  # type: ignore[arg-type]
