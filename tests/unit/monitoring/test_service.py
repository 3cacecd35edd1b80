import numpy as np
import pytest

from tasador.monitoring.judge import judge
from tasador.monitoring.rules import Rules
from tasador.monitoring.sample import Sample


def finding(verdict, check, subject):
    return next(f for f in verdict.findings if (f.check, f.subject) == (check, subject))


def test_a_stuck_model_is_an_alert(reference, window):
    verdict = judge(reference, window(300, prediction=np.full(300, 1e5)), together=False)
    found = finding(verdict, "prediction", "spread")
    assert (found.level, found.reason) == ("alert", "every estimate is 100000: the model is stuck")
    made = window(300)
    narrow = np.median(made.prediction) * (made.prediction / np.median(made.prediction)) ** 0.3
    verdict = judge(reference, window(300, prediction=narrow), together=False)
    assert finding(verdict, "prediction", "spread").level == "alert"


def test_estimates_out_of_range_and_no_numbers_are_alerts(reference, window):
    made = window(400)
    verdict = judge(reference, window(400, prediction=made.prediction * 1000), together=False)
    assert finding(verdict, "prediction", "range").level == "alert"
    broken = np.where(np.arange(400) % 10, made.prediction, np.nan)
    verdict = judge(reference, window(400, prediction=broken), together=False)
    found = finding(verdict, "prediction", "not a number")
    assert (found.level, found.numbers["share"]) == ("alert", pytest.approx(0.1))


def test_latency_is_judged_by_rules_for_each_version(reference, window):
    slow = np.where(np.arange(400) < 200, 5.0, 50.0)
    parts = {"latency_ms": slow, "version": (slow > 9).astype(int), "versions": ("v1", "v2")}
    verdict = judge(reference, window(400, **parts), Rules(latency_p95_ms=20), together=False)
    assert finding(verdict, "latency", "v1").level == "ok"
    assert finding(verdict, "latency", "v2").level == "alert"
    assert "p95 50 ms is above 20 ms" in finding(verdict, "latency", "v2").reason
    assert [(g.name, g.rows, g.latency_p95) for g in verdict.versions] == [
        ("v1", 200, 5.0), ("v2", 200, 50.0)
    ]  # fmt: skip


def test_negative_latencies_are_named_and_left_out(reference, window):
    latency = np.append(np.full(299, 4.0), -1.0)
    verdict = judge(reference, window(300, latency_ms=latency), together=False)
    assert "1 latencies are negative" in finding(verdict, "input", "latency").reason
    assert finding(verdict, "latency", "all requests").numbers["p50_ms"] == 4.0


def test_failures_are_judged_and_their_rows_are_no_drift(reference, window):
    made = window(500)
    failed = np.arange(500) % 10 == 0
    X = np.where(failed[:, None], 1e9, made.X)
    parts = {"failed": failed, "version": np.arange(500) % 2, "versions": ("even", "odd")}
    verdict = judge(reference, window(500, X=X, **parts), together=False)
    assert finding(verdict, "failures", "all requests").level == "alert"
    assert finding(verdict, "failures", "even").numbers["share"] == pytest.approx(0.2)
    assert verdict.by_check["drift"] == "ok"


def test_a_timeline_has_spans_that_suit_its_length(reference, window):
    for step, first in ((60.0, 300), (3600.0, 86400), (86400.0, 30 * 86400)):
        times = 1.7e9 + step * np.arange(240)
        verdict = judge(reference, window(240, time=times), together=False)
        assert 2 <= len(verdict.timeline) <= 48
        assert sum(group.rows for group in verdict.timeline) == 240
        begin = np.datetime64(verdict.timeline[1].name[:-1]).astype(int)
        assert begin % min(first, 300) == 0
    assert judge(reference, window(240), together=False).timeline == ()


def test_a_sample_keeps_all_of_few_rows_and_an_even_share_of_many():
    few = Sample(2, 50, "x")
    few.add(0, np.arange(40.0).reshape(20, 2))
    few.add(20, np.arange(40.0, 80.0).reshape(20, 2))
    assert (few.rows() == np.arange(80.0).reshape(40, 2)).all()
    many = Sample(1, 500, "x")
    for i in range(20):
        many.add(1000 * i, np.full((1000, 1), float(i)))
    rows = many.rows()[:, 0]
    assert (len(rows), many.seen) == (500, 20_000)
    counts = np.bincount(rows.astype(int), minlength=20)
    assert counts.min() > 5
    assert (np.diff(rows) >= 0).all()
