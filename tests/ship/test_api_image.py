"""What `docker/api.Dockerfile` describes, carried out without a container engine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "docker" / "prove_api_image.py"
ROW = {"lon": -3.5, "lat": 40.4, "income": 3.0, "rooms": 4, "area": 90.0, "kind": "flat"}


@pytest.mark.slow
def test_the_api_image_serves_from_its_locked_requirements_alone(written_bundle: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(written_bundle), "--row", json.dumps(ROW)],
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["megabytes"] < 350
    assert found["predictions"][0]["interval"]["lower"] > 0
