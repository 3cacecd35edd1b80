import dataclasses

import numpy as np
import pytest
from scipy import stats

from tasador.metrics.regression import METRICS, cod, mape, share_interval, within_10
from tasador.monitoring.checks.performance import latencies, mape_interval, versions
from tasador.monitoring.evaluate import evaluate
from tasador.monitoring.settings import Thresholds
from tasador.monitoring.window import join_outcomes
from tasador.monitoring.window_summary import WindowSummary


def figure(verdict, name, *, estimated=False):
    return next(f for f in verdict.figures if (f.name, f.estimated) == (name, estimated))


def levels(verdict, check):
    return {f.subject: f.level for f in verdict.of_check(check)}


def test_metrics_are_those_of_the_metrics_package_with_an_interval_around_them(reference, window):
    made = window(1500)
    verdict = evaluate(reference, made, domain_classifier=False)
    for name, metric in (("mape", mape), ("within_10", within_10), ("cod", cod)):
        got = figure(verdict, name)
        assert got.value == metric(made.actual, made.prediction)
        assert got.low < got.value < got.high
        assert abs(got.reference - got.value) < got.value / 4
    inside = (made.lower <= made.actual) & (made.actual <= made.upper)
    assert figure(verdict, "coverage").value == pytest.approx(100 * inside.mean())


def test_intervals_of_many_rows_are_as_narrow_as_their_number_says(reference, window):
    few, many = (
        figure(evaluate(reference, window(n), domain_classifier=False), "mape")
        for n in (500, 20_000)
    )
    ratio = (few.high - few.low) / (many.high - many.low)
    assert ratio == pytest.approx(np.sqrt(40), rel=0.35)


def test_a_model_that_has_become_wrong_breaks_rules_and_the_concept(reference, window):
    verdict = evaluate(reference, window(1000, noise=0.25), domain_classifier=False)
    assert verdict.level == "alert"
    assert levels(verdict, "performance")["mape"] == "alert"
    assert levels(verdict, "performance")["coverage"] == "alert"
    assert levels(verdict, "performance")["segment flat"] == "alert"
    assert levels(verdict, "concept")["error given the row"] == "alert"
    assert levels(verdict, "concept")["(error)"] == "alert"
    assert set(levels(verdict, "drift").values()) == {"ok"}


def test_prices_that_have_risen_are_a_change_of_labels_and_of_concept(reference, window):
    made = window(1000)
    risen = window(1000, actual=made.actual * 1.4)
    verdict = evaluate(reference, risen, domain_classifier=False)
    assert levels(verdict, "label")["(target)"] == "alert"
    assert levels(verdict, "concept")["(error)"] == "alert"


def test_a_promise_is_broken_by_its_value_and_surely_by_its_interval(reference, window):
    made = window(400)
    value = mape(made.actual, made.prediction)
    for limit, level in ((value * 1.01, "ok"), (value * 0.99, "warn"), (value * 0.7, "alert")):
        verdict = evaluate(reference, made, Thresholds(mape_max=limit), domain_classifier=False)
        assert levels(verdict, "performance")["mape"] == level
    verdict = evaluate(reference, made, Thresholds(within_10_min=99.0), domain_classifier=False)
    assert levels(verdict, "performance")["within_10"] == "alert"


@pytest.mark.parametrize(("inside", "level"), [(0.86, "ok"), (0.84, "alert")])
def test_coverage_may_fall_by_its_slack_and_no_further(reference, window, inside, level):
    made = window(20_000)
    upper = np.where(np.arange(20_000) < inside * 20_000, made.actual + 1, made.actual - 1)
    changed = window(20_000, lower=np.minimum(made.actual, upper) - 1, upper=upper)
    verdict = evaluate(reference, changed, Thresholds(coverage_slack=0.05), domain_classifier=False)
    assert figure(verdict, "coverage").value == pytest.approx(100 * inside, abs=0.01)
    assert levels(verdict, "performance")["coverage"] == level


def test_a_segment_alerts_by_its_interval_and_not_by_its_value(reference, window):
    unsure = 0
    for seed in range(5):
        verdict = evaluate(reference, window(300, seed, noise=0.13), domain_classifier=False)
        for found in verdict.of_check("performance"):
            if found.subject.startswith("segment "):
                sure = found.numbers["low"] > found.numbers["limit"]
                assert found.level == ("alert" if sure else "ok")
                unsure += not sure and found.numbers["value"] > found.numbers["limit"]
    assert unsure > 0


@pytest.mark.parametrize(
    ("noise", "least", "most", "level"),
    [(0.11, 1.0, 1.25, "ok"), (0.14, 1.25, 1.25**2, "warn"), (0.2, 1.25**2, 3.0, "alert")],
)
def test_errors_larger_than_expected_warn_before_they_alert(
    reference, window, noise, least, most, level
):
    verdict = evaluate(reference, window(4000, noise=noise), domain_classifier=False)
    (found,) = [f for f in verdict.of_check("concept") if f.subject == "error given the row"]
    assert least < found.numbers["ratio"] < most
    assert found.level == level


def test_an_absolute_limit_that_the_model_itself_does_not_meet_gives_way_to_its_own_figure(
    reference, window
):
    made = window(1500)
    own = figure(evaluate(reference, made, domain_classifier=False), "mape").reference
    for limit, effective in ((own * 1.01, own * 1.01), (own * 0.99, own * 1.25)):
        rules = Thresholds(mape_max=limit, relative_when_worse=("mape_max",))
        verdict = evaluate(reference, made, rules, domain_classifier=False)
        assert figure(verdict, "mape").limit == pytest.approx(effective)
        assert levels(verdict, "performance")["mape"] != "alert"
        said = next(f.reason for f in verdict.of_check("performance") if f.subject == "mape")
        assert ("does not meet" in said) == (effective != limit)
        worse = evaluate(reference, window(1500, noise=0.3), rules, domain_classifier=False)
        assert levels(worse, "performance")["mape"] == "alert"
    own = figure(evaluate(reference, made, domain_classifier=False), "within_10").reference
    rules = Thresholds(within_10_min=own + 1, relative_when_worse=("within_10_min",))
    assert figure(evaluate(reference, made, rules, domain_classifier=False), "within_10").limit == (
        pytest.approx(own / 1.25)
    )
    strict = evaluate(reference, made, Thresholds(within_10_min=own + 20), domain_classifier=False)
    assert levels(strict, "performance")["within_10"] == "alert"


def test_without_figures_of_the_model_a_limit_that_may_give_way_is_not_applied(reference, window):
    unknown = dataclasses.replace(reference, actual=None, predicted=None)
    made = window(500, noise=0.5)
    rules = Thresholds(mape_max=12, relative_when_worse=("mape_max",))
    verdict = evaluate(unknown, made, rules, domain_classifier=False)
    assert figure(verdict, "mape").limit is None
    assert (
        levels(
            evaluate(unknown, made, Thresholds(mape_max=12), domain_classifier=False), "performance"
        )["mape"]
        == "alert"
    )


def test_a_segment_far_from_the_rest_is_named(reference, window):
    verdict = evaluate(
        reference, window(3000), Thresholds(segment_gap=1.3), domain_classifier=False
    )
    found = verdict.of_check("performance")
    assert any("house" in f.reason and "of the whole window's" in f.reason for f in found
               if f.level == "alert")  # fmt: skip
    assert [group.name for group in verdict.segments] == ["flat", "house", "villa"]
    assert verdict.segments[1].mape > 1.3 * verdict.segments[0].mape


def test_errors_are_estimated_without_outcomes(reference, window):
    made = window(4000)
    houses_only = made.X[:, 3] == 1
    cut = {name: getattr(made, name)[houses_only] for name in ("prediction", "lower", "upper")}
    from tasador.monitoring.window import Window

    blind = Window.of(reference.names, made.X[houses_only], **cut)
    verdict = evaluate(reference, blind, domain_classifier=False)
    usual = figure(verdict, "mape", estimated=True).reference
    truth = mape(made.actual[houses_only], made.prediction[houses_only])
    guess = figure(verdict, "mape", estimated=True).value
    assert abs(guess - truth) < 0.25 * abs(usual - truth)
    assert verdict.by_check["performance"] == "cannot_tell"
    assert verdict.by_check["estimate"] == "warn"


def test_without_a_model_of_the_error_nothing_is_estimated(reference, window):
    bare = dataclasses.replace(reference, error_model=None)
    verdict = evaluate(bare, window(200, outcomes=False), domain_classifier=False)
    assert verdict.by_check["estimate"] == "cannot_tell"
    assert not verdict.figures


def test_intervals_are_wilsons_and_normal():
    assert share_interval(0.0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert np.isnan(share_interval(0.5, 0)).all()
    value, low, high = mape_interval(np.array([1.0, 1, 2, 0]), np.array([1.1, 0.9, 2.4, 5]))
    assert value == pytest.approx(40 / 3)
    assert low < value < high
    assert np.isnan(mape_interval(np.empty(0), np.empty(0))).all()


def test_outcomes_find_their_rows_and_what_is_odd_about_them_is_named():
    joined = join_outcomes(
        ["a", "b", "c", "c"],
        ["a", "c", "x", "a", "b"],
        np.array([1.0, 3.0, 9.0, 2.0, np.inf]),
    )
    assert joined.actual == pytest.approx([2.0, np.nan, 3.0, 3.0], nan_ok=True)
    reasons = " ".join(problem.reason for problem in joined.problems)
    assert "1 outcomes belong to no row of the window, such as 'x'" in reasons
    assert "1 outcomes repeat an id, 1 of them with another value" in reasons
    assert "1 outcomes are no finite number" in reasons
    assert "1 rows repeat an id" in reasons
    (only,) = join_outcomes(["a"], ["a"], np.array([1.0])).problems
    assert (only.level, only.reason) == ("ok", "1 outcomes joined to 1 of 1 rows")


class Foreseen:
    """A model of the error that foresees the same of every row."""

    def __init__(self, **terms: float) -> None:
        self.terms = terms

    def expected(self, rows):
        return {name: np.full(len(rows), value) for name, value in self.terms.items()}


FORESEEN = Foreseen(
    size=0.1, size2=0.02, ape=0.12, ape2=0.03, absolute=0.11, absolute2=0.02, within_5=0.4,
    within_10=0.6, within_15=0.8, within_20=0.9,
)  # fmt: skip


def test_an_estimate_lies_where_the_measured_figure_would(reference, window):
    known = dataclasses.replace(reference, error_model=FORESEEN)
    n = 500
    made = window(n, prediction=np.full(n, 1000.0), outcomes=False)
    verdict = evaluate(known, made, Thresholds(min_rows=n), domain_classifier=False)
    found = {f.name: f for f in verdict.figures if f.estimated}
    for name, value, spread in (
        ("mape", 12.0, np.sqrt(0.03 - 0.12**2) * 100),
        ("mae", 110.0, np.sqrt(0.02 - 0.11**2) * 1000),
        ("wmape", 11.0, np.sqrt(0.02 - 0.11**2) * 100),
        ("within_5", 40.0, np.sqrt(0.4 * 0.6) * 100),
        ("within_10", 60.0, np.sqrt(0.6 * 0.4) * 100),
        ("within_20", 90.0, 30.0),
    ):
        half = stats.norm.ppf(0.975) * spread / np.sqrt(n)
        got = found[name]
        assert got.value == pytest.approx(value)
        assert (got.low, got.high) == pytest.approx((value - half, value + half), rel=1e-6)
        assert got.reference == pytest.approx(figure_of(reference, name))
    few = evaluate(known, made, Thresholds(min_rows=n + 1), domain_classifier=False)
    (finding,) = few.of_check("estimate")
    assert (finding.level, few.by_check["estimate"]) == ("cannot_tell", "cannot_tell")
    assert finding.reason == "500 rows have an estimate, at least 501 are needed"


def figure_of(reference, name):
    return METRICS[name](reference.actual, reference.predicted)


def test_the_chance_of_larger_errors_is_the_normal_one_of_their_mean(reference, window):
    known = dataclasses.replace(reference, error_model=FORESEEN)
    made = window(400)
    off = dataclasses.replace(made, actual=made.prediction * np.exp(0.125))
    for limits, level in (
        ({"concept": 1.25 * (1 - 1e-9)}, "warn"), ({"concept": 1.2501}, "ok"),
        ({"concept": 1.118}, "alert"), ({"min_outcomes": 400}, "warn"),
    ):  # fmt: skip
        verdict = evaluate(known, off, Thresholds(**limits), domain_classifier=False)
        (found,) = [f for f in verdict.of_check("concept") if f.subject == "error given the row"]
        assert found.level == level, limits
        assert found.numbers["ratio"] == pytest.approx(1.25)
        # of 400 errors that are 0.1 on average, with a standard deviation of 0.1
        assert found.numbers["p_value"] == pytest.approx(stats.norm.sf(0.25 * 20), rel=1e-6)
        assert found.numbers["rows"] == 400
    smaller = dataclasses.replace(made, actual=made.prediction * np.exp(0.095))
    verdict = evaluate(known, smaller, domain_classifier=False)
    (found,) = [f for f in verdict.of_check("concept") if f.subject == "error given the row"]
    assert found.numbers["p_value"] == pytest.approx(stats.norm.cdf(0.05 * 20), rel=1e-6)


def test_a_finding_holds_the_numbers_that_it_is_about(reference, window):
    verdict = evaluate(reference, window(1500), domain_classifier=False)
    found = {f.subject: f for f in verdict.of_check("performance")}
    for name in ("mape", "coverage"):
        one = figure(verdict, name)
        assert found[name].numbers == {
            "value": one.value, "low": one.low, "high": one.high, "limit": one.limit,
        }  # fmt: skip
    assert found["coverage"].numbers["limit"] == pytest.approx(100 * (0.9 - 0.05))
    assert found["mape"].numbers["limit"] == pytest.approx(figure_of(reference, "mape") * 1.25)
    segment = found["segment house"].numbers
    assert segment["low"] < segment["value"] < segment["high"]
    own = reference.rows[:, 3] == 1
    assert segment["limit"] == pytest.approx(
        mape(reference.actual[own], reference.predicted[own]) * 1.25
    )


def test_a_segment_with_thirty_rows_in_the_reference_has_a_limit(reference, window):
    villas = np.flatnonzero(reference.rows[:, 3] == 2)
    for rows, limited in ((30, True), (29, False)):
        actual = reference.actual.copy()
        actual[villas[rows:]] = np.nan
        less = dataclasses.replace(reference, actual=actual)
        found = levels(evaluate(less, window(1500), domain_classifier=False), "performance")
        assert ("segment villa" in found) == limited
        assert "segment flat" in found


def test_two_errors_have_an_interval_and_one_has_none():
    value, low, high = mape_interval(np.full(2, 10.0), np.array([11.0, 12.0]))
    half = stats.norm.ppf(0.975) * 10 / 2
    assert (value, low, high) == pytest.approx((15.0, 15.0 - half, 15.0 + half), rel=1e-6)
    value, low, high = mape_interval(np.full(1, 10.0), np.array([11.0]))
    assert value == pytest.approx(10.0)
    assert np.isnan([low, high]).all()


def test_without_a_column_of_segments_there_are_no_groups(reference, window):
    columns = tuple(dataclasses.replace(c, role="feature") for c in reference.columns)
    plain = dataclasses.replace(reference, columns=columns)
    verdict = evaluate(plain, window(200), domain_classifier=False)
    assert verdict.segments == ()
    assert "segment flat" not in levels(verdict, "performance")


def test_the_spans_of_a_window_hold_every_row(reference, window):
    n = 289
    # two days, ten minutes apart, which begin in the midst of an hour
    made = window(n, time=1.7e9 + 600.0 * np.arange(n))
    spans = evaluate(reference, made, domain_classifier=False).timeline
    assert sum(span.rows for span in spans) == n
    assert 2 <= len(spans) <= 48


def test_each_of_two_versions_has_its_own_figures(reference, window):
    n = 300
    version = np.arange(n) % 3 // 2
    made = window(n, version=version, versions=("a", "b"), latency_ms=np.where(version, 5.0, 1.0))
    tally = WindowSummary(reference)
    tally.add(made)
    series = {name: set(values.tolist()) for name, values in latencies(tally)}
    assert series == {"": {1.0, 5.0}, "a": {1.0}, "b": {5.0}}
    groups = versions(tally)
    assert [(one.name, one.rows, one.outcomes) for one in groups] == [
        ("a", 200, 200),
        ("b", 100, 100),
    ]
    one = WindowSummary(reference)
    one.add(window(n, version=np.zeros(n, dtype=int), versions=("a",), latency_ms=np.ones(n)))
    assert [name for name, _ in latencies(one)] == [""]


def test_groups_of_a_thinned_window_count_all_of_its_rows(reference, window, monkeypatch):
    monkeypatch.setattr("tasador.monitoring.window_summary.MOST_FIGURES", 500)
    n = 2000
    actual = np.where(np.arange(n) % 2, np.nan, 1000.0)
    verdict = evaluate(reference, window(n, actual=actual), domain_classifier=False)
    assert sum(group.rows for group in verdict.segments) == pytest.approx(n, abs=3)
    assert sum(group.outcomes for group in verdict.segments) == pytest.approx(n / 2, rel=0.1)
