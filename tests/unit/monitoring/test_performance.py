import numpy as np
import pytest

from tasador.metrics.regression import cod, mape, share_interval, within_10
from tasador.monitoring.checks.performance import mape_interval
from tasador.monitoring.evaluate import evaluate
from tasador.monitoring.settings import Thresholds
from tasador.monitoring.window import join_outcomes


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
    import dataclasses

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
    import dataclasses

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
