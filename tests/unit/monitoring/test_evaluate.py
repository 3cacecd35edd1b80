import dataclasses
import sys
from dataclasses import replace

import numpy as np
import pytest

from tasador.contract.model import Column
from tasador.contract.target_check import TargetBounds
from tasador.core.errors import ConfigError, ValidationError
from tasador.modeling.target_transform import TargetTransform
from tasador.modeling.trend import Trend
from tasador.monitoring.evaluate import evaluate
from tasador.monitoring.reference import Reference, build_reference
from tasador.monitoring.settings import Thresholds
from tasador.monitoring.verdict import Finding, Verdict, overall
from tasador.monitoring.window import Window


def of(verdict, name):
    return next(column for column in verdict.drift if column.name == name)


def finding(verdict, check, subject):
    return next(f for f in verdict.findings if (f.check, f.subject) == (check, subject))


def test_rows_of_the_same_kind_are_ok_and_every_check_says_so(reference, window):
    verdict = evaluate(reference, window(2000))
    assert verdict.level == "ok"
    assert set(verdict.by_check.values()) == {"ok"}
    assert {"quality", "drift", "together", "performance", "label", "concept"} <= set(
        verdict.by_check
    )
    assert (verdict.rows, verdict.reference, verdict.reference_rows) == (2000, "houses-1", 6000)
    assert [column.name for column in verdict.drift] == [
        "area", "rooms", "built", "kind", "(prediction)", "(target)", "(error)"
    ]  # fmt: skip
    assert all(0 < column.psi < column.psi_limit for column in verdict.drift)


@pytest.mark.parametrize("n", [60, 200, 1000, 5000])
def test_chance_is_no_drift_at_any_size(reference, window, n):
    for seed in range(3, 8):
        verdict = evaluate(reference, window(n, seed, outcomes=False), domain_classifier=False)
        assert not verdict.trouble
        assert verdict.level == ("cannot_tell" if n == 60 else "ok")


@pytest.mark.parametrize(
    ("name", "change", "story"),
    [
        ("area", lambda x: x + 0.5 * x.std(), "mean up by 0"),
        ("area", lambda x: x * 1000, "all values lie outside"),
        ("area", lambda x: x + 1e7, "all values lie outside what the reference spans"),
        ("area", lambda x: np.full(len(x), 90.0), "constant at 90"),
        ("area", lambda x: np.full(len(x), np.nan), "every value is missing"),
        ("area", lambda x: np.full(len(x), np.inf), "PSI"),
        ("area", lambda x: np.where(np.arange(len(x)) % 2, x * 9, x / 9), "PSI"),
        (
            "rooms",
            lambda x: np.where(np.arange(len(x)) % 3, x, np.nan),
            "of the values are missing",
        ),
        ("built", lambda x: x + 5e8, "mean up by"),
        ("kind", lambda x: np.full(len(x), 4.0), "that the reference does not know"),
        ("kind", lambda x: 2 - x, "is now"),
    ],
    ids=range(11),
)
def test_what_has_changed_is_named_and_nothing_else_is(reference, changed, name, change, story):
    verdict = evaluate(reference, changed(name, change))
    assert verdict.level == "alert"
    assert of(verdict, name).level == "alert"
    assert story in of(verdict, name).reason
    assert {c.name for c in verdict.drift if c.level != "ok"} == {name}


def test_a_new_category_and_one_that_the_reference_never_had_are_named(reference, changed):
    def some(x, code):
        return np.where(np.arange(len(x)) % 50 == 0, code, x)

    verdict = evaluate(reference, changed("kind", lambda x: some(x, 4.0)), domain_classifier=False)
    assert "20 rows (2.00%) of an unknown category" in finding(verdict, "quality", "kind").reason
    assert verdict.level == "alert"
    verdict = evaluate(reference, changed("kind", lambda x: some(x, 3.0)), domain_classifier=False)
    assert "that the reference never had: 'castle'" in finding(verdict, "quality", "kind").reason


def test_values_that_cannot_be_are_counted(reference, changed):
    verdict = evaluate(reference, changed("area", lambda x: np.append(x[2:], [-5.0, 9e6])))
    numbers = finding(verdict, "quality", "area").numbers
    assert (numbers["out_of_bounds"], numbers["beyond_twice"]) == (2, 1)
    assert numbers["reference_p95"] > numbers["reference_p05"] > 0
    assert finding(verdict, "quality", "area").level == "warn"


@pytest.mark.parametrize(("count", "level"), [(0, "ok"), (1, "warn"), (5, "warn"), (60, "alert")])
def test_any_value_beyond_twice_the_training_maximum_is_counted_and_named_by_its_column(
    reference, changed, count, level
):
    most = reference.profiles[0].summary.high

    def far(x):
        return np.where(np.arange(len(x)) < count, 2.5 * most, x)

    found = finding(
        evaluate(reference, changed("area", far), domain_classifier=False), "quality", "area"
    )
    assert found.numbers["beyond_twice"] == count
    assert found.level == level
    if count:
        word = "1 row (0.10%)" if count == 1 else f"{count} rows"
        assert word in found.reason
        assert "beyond twice the training maximum" in found.reason


def test_a_single_far_value_of_few_rows_is_no_more_than_a_warning(reference, changed):
    most = reference.profiles[0].summary.high
    made = changed("area", lambda x: np.where(np.arange(len(x)) == 7, 3 * most, x), 40)
    assert (
        finding(evaluate(reference, made, domain_classifier=False), "quality", "area").level
        == "warn"
    )


def test_a_few_more_missing_values_are_a_matter_of_quality(reference, changed):
    verdict = evaluate(
        reference, changed("rooms", lambda x: np.where(np.arange(len(x)) % 20, x, np.nan), 5000)
    )
    found = finding(verdict, "quality", "rooms")
    assert found.level == "warn"
    assert "% missing, was 4" in found.reason or "% missing, was 5" in found.reason


def test_no_rows_too_few_rows_and_no_values_are_never_zero_drift(reference, window):
    empty = Window.of(reference.names, np.empty((0, 4)))
    for windows in (empty, []):
        verdict = evaluate(reference, windows)
        assert verdict.level == "cannot_tell"
        assert all(c.psi is None and c.level == "cannot_tell" for c in verdict.drift)
    verdict = evaluate(reference, window(20))
    assert verdict.level == "cannot_tell"
    assert "too few rows: 20" in of(verdict, "area").reason
    nothing = Window.of(reference.names, np.full((500, 4), np.nan))
    verdict = evaluate(reference, nothing)
    assert verdict.level == "alert"
    assert all(c.level == "alert" for c in verdict.drift)


def test_a_column_that_never_had_a_value_is_undecided(reference, window):
    from tasador.monitoring.reference import build_reference

    X = window(500).X.copy()
    X[:, 1] = np.nan
    blind = build_reference(reference.columns, X)
    verdict = evaluate(blind, Window.of(blind.names, X))
    assert of(verdict, "rooms").level == "cannot_tell"
    assert verdict.level == "ok"
    verdict = evaluate(blind, Window.of(blind.names, window(500).X))
    assert of(verdict, "rooms").level == "alert"
    assert "the reference has none" in of(verdict, "rooms").reason


def test_columns_that_no_longer_go_together_are_seen_though_none_drifts_alone(reference, window):
    made = window(3000, outcomes=False)
    X = made.X.copy()
    X[:, 1] = np.random.default_rng(0).permutation(X[:, 1])
    verdict = evaluate(reference, dataclasses.replace(made, X=X))
    assert verdict.by_check["drift"] == "ok"
    found = finding(verdict, "together", "all columns together")
    assert found.level == "alert"
    assert "area" in found.reason
    assert "rooms" in found.reason


def test_without_lightgbm_columns_together_is_undecided(reference, window, monkeypatch):
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    verdict = evaluate(reference, window(500))
    found = finding(verdict, "together", "all columns together")
    assert (found.level, verdict.level) == ("cannot_tell", "ok")
    assert "it needs LightGBM" in found.reason


def test_batches_give_the_verdict_of_the_whole(reference, window):
    whole = window(3000)

    def rows(start, end):
        parts = {f.name: getattr(whole, f.name)[start:end] for f in dataclasses.fields(whole)
                 if isinstance(getattr(whole, f.name), np.ndarray)}  # fmt: skip
        return dataclasses.replace(whole, **parts)

    one = evaluate(reference, whole, domain_classifier=False)
    many = evaluate(
        reference, (rows(i, i + 700) for i in range(0, 3000, 700)), domain_classifier=False
    )
    for a, b in zip(one.drift, many.drift, strict=True):
        assert (a.psi, a.ks, a.level) == (b.psi, b.ks, b.level)
        assert a.wasserstein == (b.wasserstein and pytest.approx(b.wasserstein, rel=1e-9))
    assert [f.value for f in one.figures] == [f.value for f in many.figures]


def test_a_window_of_other_columns_is_refused(reference, window):
    with pytest.raises(ValueError, match="columns"):
        evaluate(reference, Window.of(("a",), np.zeros((3, 1))))
    with pytest.raises(ValueError, match="actual has shape"):
        Window.of(("a",), np.zeros((3, 1)), actual=np.zeros(2))
    with pytest.raises(ValueError, match="X has shape"):
        Window.of(("a",), np.zeros((3, 2)))


def test_a_verdict_survives_json(reference, window):
    verdict = evaluate(reference, window(300, time=1.7e9 + 600.0 * np.arange(300)))
    again = Verdict.from_json(verdict.to_json())
    assert again == Verdict.from_json(again.to_json())
    assert (again.level, again.drift, again.figures) == (
        verdict.level, verdict.drift, verdict.figures
    )  # fmt: skip
    assert again.timeline[0].name.startswith("2023-11-14T")
    for text in ("{}", "[1]", "nonsense", '{"format": 9}'):
        with pytest.raises(ValidationError, match="this is no verdict"):
            Verdict.from_json(text)


def test_a_window_is_as_bad_as_its_worst_finding_and_blind_only_without_essentials():
    def level(*pairs):
        return overall(Finding(check, "x", level, "") for check, level in pairs)

    assert level() == "ok"
    assert level(("drift", "ok"), ("performance", "cannot_tell")) == "ok"
    assert level(("drift", "cannot_tell"), ("quality", "ok")) == "cannot_tell"
    assert level(("drift", "cannot_tell"), ("drift", "ok"), ("drift", "ok")) == "ok"
    assert level(("drift", "cannot_tell"), ("quality", "warn")) == "warn"
    assert level(("quality", "warn"), ("latency", "alert")) == "alert"


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"psi_warn": -1}, "psi_warn is invalid"),
        ({"chance": 1.0}, "chance is invalid"),
        ({"psi_warn": 0.3}, "psi_warn and psi_alert contradict"),
    ],
)
def test_rules_that_are_invalid_are_refused(rules, message):
    with pytest.raises(ConfigError, match=message):
        Thresholds(**rules)


@pytest.mark.parametrize("bounds", [TargetBounds(1.0, 1e7), None])
def test_known_values_that_the_target_cannot_have_are_left_out_and_named(
    reference, window, bounds
) -> None:
    rows = window(1000)
    sentinel = np.arange(1000) % 20
    actual = np.where(sentinel == 0, -1.0, np.where(sentinel == 1, 0.0, rows.actual))
    judged = evaluate(
        replace(reference, target_bounds=bounds),
        replace(rows, actual=actual),
        domain_classifier=False,
    )
    found = [f for f in judged.findings if (f.check, f.subject) == ("input", "outcomes")]
    assert [f.numbers["rows"] for f in found] == [100]
    kept = replace(rows, actual=np.where(sentinel < 2, np.nan, rows.actual))
    clean = evaluate(reference, kept, domain_classifier=False)
    assert judged.figures == clean.figures


def test_a_short_verdict_keeps_what_is_asked_of_older_ones(reference, changed):
    import orjson

    from tasador.monitoring.verdict import shorten_verdict

    text = evaluate(reference, changed("area", lambda x: x * 2)).to_json()
    whole, short = orjson.loads(text), shorten_verdict(orjson.loads(text))
    assert len(orjson.dumps(short)) < len(orjson.dumps(whole)) / 3
    assert (short["level"], short["rows"], short["by_check"]) == (
        whole["level"], whole["rows"], whole["by_check"],
    )  # fmt: skip
    psi = {one["name"]: one["psi"] for one in whole["drift"] if one["psi"] is not None}
    assert {one["name"]: one["psi"] for one in short["drift"]} == pytest.approx(psi, rel=1e-4)
    alerts = [f["subject"] for f in whole["findings"] if f["level"] in ("warn", "alert")]
    assert alerts
    assert [f["subject"] for f in short["findings"]] == alerts


@pytest.mark.parametrize(
    ("moved", "psi", "level"), [(0.05, 0.02, "ok"), (0.14, 0.16, "warn"), (0.19, 0.27, "alert")]
)
def test_a_share_that_moves_is_evaluated_by_its_psi(reference, window, moved, psi, level):
    n = 20_000
    made = window(n, outcomes=False)
    own = reference.rows[:, 3]
    shares = np.array([(own == code).mean() for code in range(3)])
    shares += [-moved, 0.0, moved]
    X = made.X.copy()
    X[:, 3] = np.repeat(np.arange(3.0), np.round(shares * n).astype(int).clip(0))[:n]
    kind = of(evaluate(reference, dataclasses.replace(made, X=X), domain_classifier=False), "kind")
    assert kind.psi == pytest.approx(psi, abs=0.03)
    assert kind.level == level


def test_what_chance_gives_a_small_window_is_no_part_of_an_alert(reference, window):
    made = window(200, outcomes=False)
    for shift in np.linspace(0.0, 1.0, 101):
        X = made.X.copy()
        X[:, 0] = X[:, 0] * np.exp(0.5 * shift)
        area = of(
            evaluate(reference, dataclasses.replace(made, X=X), domain_classifier=False), "area"
        )
        if 0.2 < area.psi < 0.2 + area.psi_chance:
            assert area.level == "warn"
            return
    raise AssertionError("no shift gave a PSI between the limit and the limit plus chance")


def test_a_rise_that_the_models_trend_knows_is_no_label_shift() -> None:
    rng = np.random.default_rng(8)
    columns = (Column("area", "number"), Column("sold", "datetime", role="timestamp"))
    day, start = 86_400.0, 1.26e9
    sold = start + rng.uniform(0, 1460, 4000) * day
    area = rng.uniform(90, 110, 4000)
    z = 8 + np.log(area) + 0.3 * (sold - start) / (365 * day) + rng.normal(0, 0.1, 4000)
    transform = TargetTransform("log", trend=Trend.fit(sold, z, area[:, None]))
    X = np.column_stack([area, sold])
    newest = transform.at_newest_level(np.exp(z), sold)
    reference = build_reference(
        columns, X, prediction=newest, actual=newest, log=True, transform=transform
    )
    # a year's sales from the end of the trend on, as it foresees them
    later = X[:1500] + np.array([0.0, 1460 * day])
    price = transform.inverse(np.log(newest[:1500]), later[:, 1])

    def label(factor: float, reference: Reference) -> tuple[str, list[str]]:
        window = Window.of(reference.names, later, prediction=price * factor, actual=price * factor)
        found = evaluate(reference, window, domain_classifier=False)
        drift = {one.name: one.level for one in found.drift}
        assert drift["(prediction)"] == drift["(target)"]
        said = [one.reason for one in found.findings if one.subject == "level of prices"]
        return drift["(target)"], said

    level, said = label(1.0, reference)
    assert level == "ok"
    assert "of its newest level" in said[0]
    assert label(1.5, reference)[0] == "alert"
    assert label(1.0, replace(reference, transform=None)) == ("alert", [])
