import json

import numpy as np
import pytest

from tasador.monitoring.column_summary import RowSample
from tasador.monitoring.evaluate import evaluate
from tasador.monitoring.metrics import MOST_COLUMNS, history_line, input_numbers, reported_columns
from tasador.monitoring.settings import Thresholds
from tasador.monitoring.verdict import ColumnDrift, Verdict
from tasador.records.refused import RefusedCounts


def finding(verdict, check, subject):
    return next(f for f in verdict.findings if (f.check, f.subject) == (check, subject))


def test_a_stuck_model_is_an_alert(reference, window):
    verdict = evaluate(
        reference, window(300, prediction=np.full(300, 1e5)), domain_classifier=False
    )
    found = finding(verdict, "prediction", "spread")
    assert (found.level, found.reason) == ("alert", "every estimate is 100000: the model is stuck")
    made = window(300)
    narrow = np.median(made.prediction) * (made.prediction / np.median(made.prediction)) ** 0.3
    verdict = evaluate(reference, window(300, prediction=narrow), domain_classifier=False)
    assert finding(verdict, "prediction", "spread").level == "alert"


def test_estimates_out_of_range_and_no_numbers_are_alerts(reference, window):
    made = window(400)
    verdict = evaluate(
        reference, window(400, prediction=made.prediction * 1000), domain_classifier=False
    )
    assert finding(verdict, "prediction", "range").level == "alert"
    broken = np.where(np.arange(400) % 10, made.prediction, np.nan)
    verdict = evaluate(reference, window(400, prediction=broken), domain_classifier=False)
    found = finding(verdict, "prediction", "not a number")
    assert (found.level, found.numbers["share"]) == ("alert", pytest.approx(0.1))


def test_latency_is_evaluated_by_rules_for_each_version(reference, window):
    slow = np.where(np.arange(400) < 200, 5.0, 50.0)
    parts = {"latency_ms": slow, "version": (slow > 9).astype(int), "versions": ("v1", "v2")}
    verdict = evaluate(
        reference, window(400, **parts), Thresholds(latency_p95_ms=20), domain_classifier=False
    )
    assert finding(verdict, "latency", "v1").level == "ok"
    assert finding(verdict, "latency", "v2").level == "alert"
    assert "p95 50 ms is above 20 ms" in finding(verdict, "latency", "v2").reason
    assert [(g.name, g.rows, g.latency_p95) for g in verdict.versions] == [
        ("v1", 200, 5.0), ("v2", 200, 50.0)
    ]  # fmt: skip


def test_a_percentile_is_ok_near_its_limit_or_past_it(reference, window):
    for slow, level in ((100.0, "ok"), (170.0, "warn"), (355.0, "alert")):
        latency = np.where(np.arange(400) < 380, 5.0, slow)
        verdict = evaluate(
            reference,
            window(400, latency_ms=latency),
            Thresholds(latency_p99_ms=200),
            domain_classifier=False,
        )
        found = finding(verdict, "latency", "all requests")
        assert (found.level, found.numbers["p99_level"]) == (level, level)
        assert found.numbers["p50_level"] == "ok"
    cold = np.append(np.full(9, 5.0), 900.0)  # ten rows are no evidence of slowness
    verdict = evaluate(
        reference,
        window(10, latency_ms=cold),
        Thresholds(latency_p99_ms=200),
        domain_classifier=False,
    )
    assert finding(verdict, "latency", "all requests").level == "warn"


def test_the_estimates_deviation_has_a_floor_relative_to_held_out_rows_or_absolute(
    reference, window
):
    made, usual = window(400), reference.prediction.summary.std(reference.prediction.grid)
    middle = np.median(made.prediction)
    for factor, level in ((1.0, "ok"), (0.2, "ok"), (0.02, "alert")):
        squeezed = window(400, prediction=middle + factor * (made.prediction - middle))
        found = finding(evaluate(reference, squeezed, domain_classifier=False), "prediction", "std")
        assert found.level == level
        assert found.numbers["limit"] == pytest.approx(0.1 * usual)
        assert "of held-out rows" in found.reason
    verdict = evaluate(reference, made, Thresholds(std_min=1e9), domain_classifier=False)
    found = finding(verdict, "prediction", "std")
    assert (found.level, found.numbers["limit"]) == ("alert", 1e9)


def test_health_at_a_glance_has_a_value_and_a_level_for_each_of_its_numbers(reference, window):
    names = ["within_10", "within_20", "mape", "psi", "latency_p50", "latency_p95", "latency_p99",
             "prediction_std", "refused"]  # fmt: skip
    made = window(800, latency_ms=np.full(800, 7.0))
    verdict = evaluate(reference, made, refused=RefusedCounts(0, 0, {}, {}))
    found = {one.name: one for one in verdict.indicators}
    assert list(found) == names
    assert all(one.value is not None and one.level == "ok" for one in found.values())
    assert found["mape"].value == next(f.value for f in verdict.figures if f.name == "mape")
    assert found["latency_p95"].value == 7.0
    worst = max((c for c in verdict.drift if c.name[0] != "("), key=lambda c: c.psi)
    assert (found["psi"].value, found["psi"].column) == (worst.psi, worst.name)
    assert Verdict.from_json(verdict.to_json()).indicators == verdict.indicators
    blind = {one.name: one for one in evaluate(reference, window(800, outcomes=False)).indicators}
    assert blind["mape"].estimated
    assert (blind["latency_p50"].value, blind["latency_p50"].level) == (None, "cannot_tell")
    older = {k: v for k, v in json.loads(verdict.to_json()).items() if k != "indicators"}
    assert Verdict.from_json(json.dumps(older)).indicators == ()


def test_a_line_of_history_has_predictions_errors_latency_and_the_drift_of_each_column(
    reference, window
):
    made = window(800, latency_ms=np.full(800, 7.0))
    verdict = evaluate(reference, made, domain_classifier=False)
    line = history_line(verdict)
    assert line["predictions/count"] == 800
    assert line["predictions/mean"] == pytest.approx(made.prediction.mean())
    assert line["predictions/std"] == pytest.approx(made.prediction.std())
    assert (line["predictions/min"], line["predictions/max"]) == (
        made.prediction.min(), made.prediction.max()
    )  # fmt: skip
    assert line["business/mape"] > 0
    assert {f"latency/p{p}_ms" for p in (50, 95, 99)} <= set(line)
    assert {f"drift/{name}" for name in reference.names} <= set(line)
    inputs = input_numbers(verdict)
    area = made.X[:, 0]
    assert inputs["area"]["mean"] == pytest.approx(area.mean())
    assert inputs["area"]["p95"] == pytest.approx(np.quantile(area, 0.95), rel=0.02)
    assert inputs["area"]["beyond_twice"] == 0
    assert "kind" not in inputs


def test_a_wide_table_has_a_bounded_number_of_series() -> None:
    drift = tuple(
        ColumnDrift(f"c{i}", "number", "alert" if i == 700 else "ok", "", 9, 0, psi=i / 1e4)
        for i in range(1000)
    )
    shown = reported_columns(Verdict("alert", 9, "m", 9, "", drift=drift))
    assert len(shown) == MOST_COLUMNS
    assert [one.name for one in shown[:2]] == ["c700", "c999"]


def test_negative_latencies_are_named_and_left_out(reference, window):
    latency = np.append(np.full(299, 4.0), -1.0)
    verdict = evaluate(reference, window(300, latency_ms=latency), domain_classifier=False)
    assert "1 latencies are negative" in finding(verdict, "input", "latency").reason
    assert finding(verdict, "latency", "all requests").numbers["p50_ms"] == 4.0


def test_failures_are_evaluated_and_their_rows_are_no_drift(reference, window):
    made = window(500)
    failed = np.arange(500) % 10 == 0
    X = np.where(failed[:, None], 1e9, made.X)
    parts = {"failed": failed, "version": np.arange(500) % 2, "versions": ("even", "odd")}
    verdict = evaluate(reference, window(500, X=X, **parts), domain_classifier=False)
    assert finding(verdict, "failures", "all requests").level == "alert"
    assert finding(verdict, "failures", "even").numbers["share"] == pytest.approx(0.2)
    assert verdict.by_check["drift"] == "ok"


def test_a_timeline_has_spans_that_suit_its_length(reference, window):
    for step, first in ((60.0, 300), (3600.0, 86400), (86400.0, 30 * 86400)):
        times = 1.7e9 + step * np.arange(240)
        verdict = evaluate(reference, window(240, time=times), domain_classifier=False)
        assert 2 <= len(verdict.timeline) <= 48
        assert sum(group.rows for group in verdict.timeline) == 240
        begin = np.datetime64(verdict.timeline[1].name[:-1]).astype(int)
        assert begin % min(first, 300) == 0
    assert evaluate(reference, window(240), domain_classifier=False).timeline == ()


def test_a_sample_keeps_all_of_few_rows_and_an_even_share_of_many():
    few = RowSample(2, 50, "x")
    few.add(0, np.arange(40.0).reshape(20, 2))
    few.add(20, np.arange(40.0, 80.0).reshape(20, 2))
    assert (few.rows() == np.arange(80.0).reshape(40, 2)).all()
    many = RowSample(1, 500, "x")
    for i in range(20):
        many.add(1000 * i, np.full((1000, 1), float(i)))
    rows = many.rows()[:, 0]
    assert (len(rows), many.seen) == (500, 20_000)
    counts = np.bincount(rows.astype(int), minlength=20)
    assert counts.min() > 5
    assert (np.diff(rows) >= 0).all()
