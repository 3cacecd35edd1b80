"""Dashboards and Prometheus rules: written by code, about metrics that exist, and tried out."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasador.ops.monitor_daemon import VerdictMetrics
from tasador.serving.app import Assembly
from tasador.serving.circuit_breaker import Breaker, OpenCircuitError
from tasador.serving.metrics import BREAKER_STATES
from tasador.settings.serving import RecordSettings, ServeSettings, SourceSettings

DEPLOY = Path(__file__).parents[2] / "deploy"
PROMTOOL = shutil.which("promtool")


def dashboards() -> Any:
    spec = importlib.util.spec_from_file_location("dashboards", DEPLOY / "grafana/dashboards.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def metrics(tmp_path_factory, written_bundle) -> set[str]:
    """The names of all metrics that the service and the watcher show."""
    folder = tmp_path_factory.mktemp("metrics")
    assembly = Assembly(
        ServeSettings(
            source=SourceSettings(local=str(written_bundle)),
            records=RecordSettings(url=f"sqlite:///{folder}/r.db"),
        )
    )
    assembly.refresher.refresh()
    text = assembly.metrics.scrape().decode()
    assembly.refresher.stop()
    names = set(re.findall(r"^# TYPE (\w+) ", text, re.M))
    names |= {f"{name}_bucket" for name in names} | {f"{name}_sum" for name in names}
    names |= {f"{name}_count" for name in names}
    return names | {family.name for family in VerdictMetrics().registry.collect()}


def used(text: str) -> set[str]:
    return set(re.findall(r"\btasador_[a-z_]+\b", text))


@pytest.mark.parametrize("name", ["service.json", "model.json"])
def test_a_dashboard_is_what_its_code_writes_and_asks_only_for_metrics_that_exist(
    name, metrics
) -> None:
    written = (DEPLOY / "grafana/dashboards" / name).read_text()
    assert written == dashboards().rendered()[name], "run `make dashboards`"
    plain = json.loads(written)
    assert len(plain["panels"]) >= 8
    for panel in plain["panels"]:
        asked = " ".join(target["expr"] for target in panel["targets"])
        assert used(asked), panel["title"]
        assert used(asked) <= metrics, panel["title"]


def test_every_rule_is_about_metrics_that_exist(metrics) -> None:
    text = (DEPLOY / "prometheus/rules/tasador.yml").read_text()
    expressions = "\n".join(line for line in text.splitlines() if "tasador_" in line)
    assert len(used(expressions)) >= 8
    assert used(expressions) <= metrics


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed")
@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "rules", "rules/tasador.yml"),
        ("check", "config", "prometheus.yml"),
        ("test", "rules", "rules_test.yml"),
    ],
)
def test_prometheus_takes_the_rules_and_they_fire_when_they_should(arguments) -> None:
    assert PROMTOOL is not None
    done = subprocess.run(
        [PROMTOOL, *arguments], cwd=DEPLOY / "prometheus", capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed")
def test_a_source_that_stays_away_is_an_alert_as_its_real_breaker_is_sampled(tmp_path) -> None:
    """The service looks at its sources every 8 s, Prometheus at the service every 15 s."""
    now = [0.0]
    breaker = Breaker("mlflow", clock=lambda: now[0])
    samples = []
    for second in range(31 * 60):
        now[0] = float(second)
        if second % 8 == 0:
            with contextlib.suppress(OpenCircuitError, OSError), breaker.guard():
                raise OSError("away")
        if second % 15 == 0:
            samples.append(BREAKER_STATES[breaker.state.status])
    assert {0.0, 1.0, 2.0} == set(samples)
    series = 'tasador_breaker_state{job="tasador-api",source="mlflow"}'
    labels = {"severity": "ticket", "job": "tasador-api", "source": "mlflow"}
    fired = [{"exp_labels": labels, "exp_annotations": {
        "summary": "The source mlflow has been left alone for 15 minutes",
        "description": "The model goes on answering; newer ones do not arrive from there.",
    }}]  # fmt: skip
    tests = {
        "rule_files": [str(DEPLOY / "prometheus/rules/tasador.yml")],
        "evaluation_interval": "15s",
        "tests": [{
            "interval": "15s",
            "input_series": [{"series": series, "values": " ".join(f"{v:g}" for v in samples)}],
            "alert_rule_test": [
                {"eval_time": "14m", "alertname": "TasadorSourceCutOff", "exp_alerts": []},
                *({"eval_time": f"{minute}m", "alertname": "TasadorSourceCutOff",
                   "exp_alerts": fired} for minute in range(17, 31)),
            ],
        }],
    }  # fmt: skip
    file = tmp_path / "test.yml"
    file.write_text(yaml.safe_dump(tests))
    done = subprocess.run([PROMTOOL, "test", "rules", file], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_rule_is_tried_out() -> None:
    rules = yaml.safe_load((DEPLOY / "prometheus/rules/tasador.yml").read_text())
    names = {rule["alert"] for group in rules["groups"] for rule in group["rules"]}
    tried = yaml.safe_load((DEPLOY / "prometheus/rules_test.yml").read_text())["tests"]
    fired, silent = set(), set()
    for test in tried:
        for one in test["alert_rule_test"]:
            (fired if one["exp_alerts"] else silent).add(one["alertname"])
    assert fired == names
    # a loss is an alert at once
    assert names - silent <= {"TasadorRecordsLost", "TasadorSlow", "TasadorDrift"}


def test_the_model_dashboard_shows_each_figure_of_the_article_with_its_level() -> None:
    plain = json.loads((DEPLOY / "grafana/dashboards/model.json").read_text())
    asked = [[target["expr"] for target in panel["targets"]] for panel in plain["panels"]]
    for name in ("within_10", "within_20", "mape", "latency_p50", "latency_p95", "latency_p99",
                 "psi", "prediction_std"):  # fmt: skip
        value, level = (f'max(tasador_indicator{part}{{name="{name}"}})' for part in ("", "_level"))
        (panel,) = (p for p, e in zip(plain["panels"], asked, strict=True) if e == [value, level])
        (override,) = (
            one for one in panel["fieldConfig"]["overrides"] if one["matcher"]["options"] == "level"
        )
        words = next(p["value"] for p in override["properties"] if p["id"] == "mappings")
        assert [one["text"] for one in words[0]["options"].values()] == [
            "OK", "cannot tell", "WARN", "ALERT"
        ]  # fmt: skip
    every = " ".join(expression for some in asked for expression in some)
    assert "tasador_drift_psi" in every
    for name in ("std", "min", "max", "median"):
        assert f"tasador_prediction_{name}" in every
    for name in ("mean", "p05", "p95"):
        assert f"tasador_input_{name}" in every
    for panel in plain["panels"]:
        letters = [target["refId"] for target in panel["targets"]]
        assert len(set(letters)) == len(letters)
