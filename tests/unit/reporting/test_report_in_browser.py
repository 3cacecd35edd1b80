"""The report in a real browser: nothing requested, nothing wider than a phone."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tasador.reporting import evaluation_plots
from tasador.reporting.cards import Card, CardTable, Fact
from tasador.reporting.reports import Comparison, Headline, RunSummary, write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
PROBE = """<!doctype html><title>probe</title><iframe id="page" src="report.html"
 style="width:390px;height:900px;border:0"></iframe><script>
document.getElementById("page").onload = (event) => {
  const page = event.target.contentDocument, root = page.documentElement;
  document.title = JSON.stringify({
    wide: root.scrollWidth, nav: getComputedStyle(page.querySelector("nav")).position,
    broken: [...page.images].filter((image) => !image.naturalWidth).length,
    pictures: page.images.length,
  });
};
</script>"""


def test_the_report_fits_a_phone_and_its_pictures_are_drawn(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    actual = random.lognormal(12, 0.4, 500)
    wide = CardTable("Wide", tuple(f"column_{i}" for i in range(40)), (tuple(range(40)),))
    card = Card(
        step="select",
        title="Select",
        status="done",
        started="2026-11-23T20:01:07Z",
        seconds=1.0,
        facts=(Fact("hash", "a" * 300),),
        tables=(wide,),
        figures=(evaluation_plots.decile_errors(actual, actual * 1.1),),
        notes=("x" * 400,),
    )
    run = RunSummary(
        run_id="r" * 80,
        dataset="d",
        title="T" * 120,
        started="2026-11-23T20:01:07Z",
        seconds=1.0,
        origin="synthetic",
        source="s" * 200,
        content_hash="c" * 64,
        unit="USD",
        headline=(Headline("RMSE", 123456789.0, 1.0, 2.0, "USD", "lower"),) * 7,
        comparison=(Comparison("RMSE", 1e6, 2e6, 3e6, "USD"),),
        cards=(card,),
    )
    write_report(tmp_path / "report.html", run)
    probe = tmp_path / "probe.html"
    probe.write_text(PROBE)
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += ["--disable-background-networking", "--allow-file-access-from-files"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000"]
    done = subprocess.run([*command, probe.as_uri()], capture_output=True, text=True, timeout=60)
    title = done.stdout.partition("<title>")[2].partition("</title>")[0]
    seen = json.loads(title)
    assert seen.pop("wide") <= 390
    assert seen == {"nav": "sticky", "broken": 0, "pictures": 1}
