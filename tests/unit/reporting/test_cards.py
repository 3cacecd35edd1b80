"""Cards: what goes in comes out, whatever happens to the step."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tasador.core import clock
from tasador.core.errors import StorageError, ValidationError
from tasador.reporting.cards import (
    Card,
    CardBuilder,
    CardTable,
    Fact,
    Figure,
    read_card,
    recorded_card,
    save_figures,
    write_card,
)

HOSTILE = '<script>alert("x")</script>&"\'</td>'
SVG = b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"


@pytest.fixture
def ticking() -> Iterator[None]:
    """A clock that stands at 2026-11-23 and goes on two seconds at each look."""
    ticks = iter(range(0, 10_000, 2))
    clock.use_source(lambda: 1_795_392_000.0 + next(ticks))
    yield
    clock.use_source(None)


def full_card() -> Card:
    return Card(
        step="select",
        title="Select a model",
        status="done",
        started="2026-11-23T00:00:00Z",
        seconds=12.5,
        facts=(Fact("candidates", 594), Fact(HOSTILE, HOSTILE, HOSTILE)),
        tables=(
            CardTable(HOSTILE, ("model", HOSTILE), (("Ridge", 1234567.0), (HOSTILE, None))),
            CardTable("empty", ("a",), (), note="nothing", align=("right",)),
        ),
        figures=(Figure.from_bytes(HOSTILE, SVG, "svg", HOSTILE),),
        notes=(HOSTILE,),
        warnings=(HOSTILE,),
        error=None,
    )


def test_a_card_survives_the_round_trip_through_json(tmp_path: Path) -> None:
    card = full_card()
    as_json, as_html = write_card(tmp_path / "cards", card)
    assert (as_json.name, as_html.name) == ("select.json", "select.html")
    assert read_card(as_json) == card


def test_the_same_card_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = (write_card(tmp_path / name, full_card()) for name in "ab")
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]


def test_hostile_texts_are_shown_and_never_run(tmp_path: Path) -> None:
    _, page = write_card(tmp_path, full_card())
    html = page.read_text()
    assert "<script" not in html
    assert html.count("&lt;script&gt;") >= 8
    assert "default-src &#39;none&#39;" in html or "default-src 'none'" in html


def test_numbers_are_grouped_and_to_the_right(tmp_path: Path) -> None:
    _, page = write_card(tmp_path, full_card())
    assert '<td class="right">1,234,567</td>' in page.read_text()


def test_numbers_that_are_not_finite_become_a_dash() -> None:
    table = CardTable("t", ("a", "b"), ((np.float64("nan"), float("inf")), (np.int64(3), True)))
    assert table.rows == ((None, None), (3, "True"))
    assert Fact("share", float("nan")).value is None


def test_a_table_with_a_short_row_is_refused() -> None:
    with pytest.raises(ValueError, match="every row needs 2 cells"):
        CardTable("t", ("a", "b"), ((1,),))


@pytest.mark.parametrize("data", ["https://example.org/x.png", "data:text/html;base64,AA==", ""])
def test_a_figure_takes_nothing_but_an_embedded_picture(data: str) -> None:
    with pytest.raises(ValueError, match="expected a base64 data URI"):
        Figure("f", data)


def test_a_step_that_ends_well_leaves_a_card_with_its_time(tmp_path: Path, ticking: None) -> None:
    with recorded_card(tmp_path, "impute", "Impute") as card:
        card.fact("strategy", "median", "one column")
        card.table("t", ["a", "b"], [["x", 1.0]], note="n", align=["left", "right"])
        card.figure(Figure.from_bytes("f", b"\x89PNG", "png"))
        card.note("why")
        card.warn("look")
    read = read_card(tmp_path / "impute.json")
    assert (read.status, read.seconds, read.error) == ("done", 2.0, None)
    assert read.started == "2026-11-23T00:00:00Z"
    assert read.facts == (Fact("strategy", "median", "one column"),)
    assert (read.notes, read.warnings) == (("why",), ("look",))


def test_a_step_that_fails_leaves_what_it_had_and_the_reason(tmp_path: Path) -> None:
    def step() -> None:
        with recorded_card(tmp_path, "segregate", "Segregate") as card:
            card.fact("rows", 10)
            raise ValidationError("too many rows refused", remedy="look at them")

    with pytest.raises(ValidationError, match="too many rows refused"):
        step()
    read = read_card(tmp_path / "segregate.json")
    assert read.status == "failed"
    assert read.error == "too many rows refused. To do: look at them"
    assert read.facts == (Fact("rows", 10),)
    assert 'class="error" role="alert"' in (tmp_path / "segregate.html").read_text()


def test_an_interrupted_step_says_so(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), recorded_card(tmp_path, "sweep", "Sweep"):
        raise KeyboardInterrupt
    read = read_card(tmp_path / "sweep.json")
    assert (read.status, read.error) == ("interrupted", "stopped by Ctrl-C")


def test_a_card_that_cannot_be_written_does_not_hide_the_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ZeroDivisionError), recorded_card(tmp_path / "file", "s", "S"):
        _ = 1 / 0
    with pytest.raises(StorageError, match="cannot write"):
        write_card(tmp_path / "file", full_card())


def test_a_cached_step_shows_the_evidence_of_the_earlier_run(tmp_path: Path) -> None:
    with recorded_card(tmp_path, "select", "Select") as card:
        card.use_cached(full_card())
    read = read_card(tmp_path / "select.json")
    assert read.status == "cached"
    assert read.tables == full_card().tables


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"facts": 3}', '{"step": "s", "facts": []}'])
def test_a_damaged_card_is_refused_with_what_to_do(tmp_path: Path, text: str) -> None:
    path = tmp_path / "select.json"
    path.write_text(text)
    with pytest.raises(StorageError, match=r"cannot read the card .*force=true"):
        read_card(path)


def test_pictures_can_be_saved_as_files(tmp_path: Path) -> None:
    builder = CardBuilder("features", "Features")
    builder.figure(Figure.from_bytes("Number of <clusters>", SVG, "svg"))
    builder.figure(Figure.from_bytes("//", b"\x89PNG", "png"))
    paths = save_figures(tmp_path / "plots", builder.build())
    assert [p.name for p in paths] == [
        "features-01-number-of-clusters.svg",
        "features-02-figure.png",
    ]
    assert paths[0].read_bytes() == SVG


def test_a_card_is_strict_json(tmp_path: Path) -> None:
    as_json, _ = write_card(tmp_path, full_card())

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    assert json.loads(as_json.read_text(), parse_constant=refuse)["step"] == "select"
