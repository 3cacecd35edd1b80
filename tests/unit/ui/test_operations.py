"""What Health and Models say in words, without a browser."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasador.core.languages import translated
from tasador.lifecycle.gates import not_worse
from tasador.settings.run import GateSettings
from tasador.ui import health, models, widgets


@pytest.fixture
def english(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(widgets, "language", lambda: "en")
    for page in (health, models):
        monkeypatch.setattr(page, "language", lambda: "en")


def verdict(level: str, *found: tuple[str, str]) -> dict[str, object]:
    return {"level": level, "findings": [{"check": check, "level": one} for check, one in found]}


@pytest.mark.parametrize(
    ("found", "says", "says_not"),
    [
        ([("drift", "alert")], "The inputs changed", "less accurate in"),
        ([("quality", "warn"), ("performance", "ok")], "errors are as usual", "less accurate"),
        ([("drift", "alert"), ("estimate", "warn")], "no outcome confirms it", "less accurate"),
        ([("drift", "alert"), ("performance", "alert")], "is less accurate", "as usual"),
        ([("performance", "warn")], "may be less accurate", "inputs changed"),
        ([("latency", "alert")], "answers stand out", "accurate"),
    ],
)
def test_only_outcomes_make_a_model_less_accurate(english, found, says, says_not) -> None:
    level = "alert" if "alert" in {one for _, one in found} else "warn"
    said = health.headline(verdict(level, *found), "in the last 7 days", 400)
    assert says in said
    assert says_not not in said
    assert "in the last 7 days" in said


def test_a_window_that_has_just_ended_is_named_by_its_length(english) -> None:
    week = ("1970-01-01T00:00:00+00:00", "1970-01-08T00:00:00+00:00")
    assert health.period(*week, now=7 * 86400 + 60.0) == "in the last 7 days"
    assert health.period("1970-01-01T00:00:00Z", "1970-01-01T00:10:00Z", 660.0) == (
        "in the last 10 minutes"
    )
    assert health.period(*week, now=30 * 86400.0) == (
        "from 1 Jan 1970, 00:00 to 8 Jan 1970, 00:00 UTC"
    )


def test_errors_are_shown_in_percent_and_other_bins_as_numbers(english) -> None:
    bins = ["up to -0.10536", "-0.10536 to 0.18232", "above 0.18232", "(missing)"]
    column = {"name": "(error)", "kind": "number", "bins": bins}
    assert health.bin_names(column, relative=True) == [
        "up to -10 %", "-10 % to +20 %", "above +20 %", "(missing)",
    ]  # fmt: skip
    assert health.bin_names({**column, "name": "income"}, relative=True)[1] == "-0.1054 to 0.1823"
    kinds = {"name": "kind", "kind": "category", "bins": ["1 to 2 rooms", "(missing)"]}
    assert health.bin_names(kinds, relative=True) == ["1 to 2 rooms", "(missing)"]


def test_findings_name_their_subject_once(english) -> None:
    assert health.about("quality", "total_bedrooms") == "Quality: Total bedrooms"
    assert health.about("performance", "mape") == "Accuracy: MAPE"
    assert health.reason_of("performance", "mape", "MAPE 8.10% (7 to 9)") == "8.10% (7 to 9)"
    assert health.reason_of("performance", "segment flat", "flat: MAPE 9%") == "MAPE 9%"


def versions(**holders: str) -> dict[str, object]:
    listed = [
        {"number": number, "aliases": [alias for alias, one in holders.items() if one == number]}
        for number in ("3", "2", "1")
    ]
    return {"follows": "champion", "versions": listed}


def test_a_promotion_says_what_will_happen_and_how_to_go_back(english) -> None:
    asked = {"version": "3", "alias": "champion", "force": False}
    said = " ".join(models.consequences(versions(champion="1"), "promote", asked))
    for part in ("Version 3 is held against the gates", "Version 3 answers from then on",
                 "Version 1, the champion until now, is kept", "to version 1"):  # fmt: skip
        assert part in said
    first = " ".join(models.consequences(versions(), "promote", asked))
    assert "until now" not in first
    assert "promote another version" in first
    place = {**asked, "alias": "challenger"}
    assert "goes on answering" in " ".join(
        models.consequences(versions(champion="1"), "promote", place)
    )
    same = models.consequences(versions(champion="3"), "promote", asked)
    assert same == ["Version 3 has this place already: nothing changes."]


def test_a_rollback_says_which_version_is_marked(english) -> None:
    said = " ".join(
        models.consequences(versions(champion="3"), "rollback", {"to": None, "reason": ""})
    )
    assert "The previous champion answers" in said
    assert "Version 3, the champion until now, is marked as rolled back" in said


def test_gates_are_drawn_with_estimate_bound_and_margin(english) -> None:
    random = np.random.default_rng(0)
    actual = random.lognormal(12, 0.4, 200)
    gates = [
        {"name": one.name, "state": one.state, "text": one.text, "figures": dict(one.figures)}
        for one in not_worse(
            actual, actual * 1.1, actual * np.exp(random.normal(0, 0.2, 200)),
            GateSettings(draws=50),
        )
    ]  # fmt: skip
    figure = models.gates_chart(gates)
    assert figure is not None
    (drawn,) = figure.data
    for place, gate in enumerate(gates):
        numbers = gate["figures"]
        end = drawn.x[place] + drawn.error_x.array[place]
        assert end == pytest.approx(numbers["high"] / numbers["margin"])
        assert (end <= 1.0) == (gate["state"] == "pass")
    old = [{**gate, "figures": {"worse": 1.0}} for gate in gates]  # as older histories have them
    assert models.gates_chart(old) is None


@given(st.floats(0, 1e6), st.floats(0, 100), st.integers(1, 10**6))
def test_numbers_of_a_sentence_are_kept_in_spanish(value: float, share: float, n: int) -> None:
    said = translated(f"{n} rows ({share:.2f}%) infinite; constant at {value:.5g}", "es")
    assert said.startswith(f"{n} filas ({share:.2f} %) infinitas".replace(".", ","))
    assert f"{value:.5g}".replace(".", ",").split("e")[0] in said


def test_what_has_no_form_stays_as_it_is() -> None:
    assert translated("soon it rains; no answer yet", "es") == "soon it rains; aún sin respuesta"
    assert translated("no answer yet", "en") == "no answer yet"
    assert translated("", "es") == ""
