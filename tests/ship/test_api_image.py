"""What `docker/api.Dockerfile` describes, carried out without a container engine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fixtures.object_stores import gs_emulator
from tasador.registry.bundle_stores import publish_bundle

SCRIPT = Path(__file__).parents[2] / "docker" / "prove_api_image.py"
ROW = {"lon": -3.5, "lat": 40.4, "income": 3.0, "rooms": 4, "area": 90.0, "kind": "flat"}


def proven(bundle: Path, *words: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(bundle), "--row", json.dumps(ROW), *words],
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["megabytes"] < 350
    assert found["predictions"][0]["interval"]["lower"] > 0
    return found


@pytest.mark.slow
def test_the_api_image_serves_from_its_locked_requirements_alone(written_bundle: Path) -> None:
    assert proven(written_bundle)["source"] == "local"


@pytest.mark.slow
def test_the_api_image_s_own_packages_fetch_a_bundle_from_google_cloud_storage(
    written_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with gs_emulator() as store:
        for name, value in store.environment.items():
            monkeypatch.setenv(name, value)
        publish_bundle(written_bundle, f"{store.url}/models")
        told = [f"{name}={value}" for name, value in store.environment.items()]
        found = proven(
            written_bundle, "--object-store", f"{store.url}/models", "--environment", *told
        )
    assert found["source"] == "object_store"
