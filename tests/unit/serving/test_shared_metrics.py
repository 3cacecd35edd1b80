"""Workers that share a folder of counters: each scrape tells of all, and of what is now."""

from __future__ import annotations

import os
import subprocess
import sys

CODE = """
import time
from tasador.serving.metrics import Metrics
metrics = Metrics()
def info(version):
    metrics.forget("tasador_model_info")
    metrics.gauge("tasador_model_info", "The model.", 1.0, {"version": version})
version = "old"
metrics.on_scrape(lambda: info(version))
metrics.on_scrape(lambda: metrics.total("tasador_polls", "Looks.", 7.0))
metrics.worker(True)
def shown():
    return [line for line in metrics.scrape().decode().splitlines() if "{version" in line]
print(shown())
version = "new"
print(shown())
print(metrics.workers())
"""

FRESH = """
import time
from tasador.serving.metrics import Metrics
metrics = Metrics()
metrics.on_scrape(lambda: metrics.total("tasador_polls", "Looks.", 7.0))
metrics.start()
time.sleep(0.5)
"""


def run(code: str, folder: object) -> str:
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)}
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True
    ).stdout


def test_a_version_that_no_longer_answers_is_not_shown(tmp_path) -> None:
    lines = run(CODE, tmp_path).splitlines()
    assert lines[0] == "['tasador_model_info{version=\"old\"} 1.0']"
    assert lines[1] == "['tasador_model_info{version=\"new\"} 1.0']"
    assert lines[2] == "[True]"


def test_a_workers_counters_are_there_for_others_before_it_is_scraped_itself(tmp_path) -> None:
    run(FRESH, tmp_path)
    other = "from tasador.serving.metrics import Metrics; print(Metrics().scrape().decode())"
    assert "tasador_polls_total 7.0" in run(other, tmp_path)
