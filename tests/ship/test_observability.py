"""Dashboards and Prometheus rules: written by code, about metrics that exist, and tried out."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tasador.flows.watch import VerdictMetrics
from tasador.records.settings import RecordSettings
from tasador.serving.assembly import Assembly
from tasador.serving.settings import ServeSettings
from tasador.serving.source_settings import SourceSettings

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
