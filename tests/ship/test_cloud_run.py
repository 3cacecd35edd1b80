"""The descriptors for Cloud Run say what the service and the command line understand."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasador.serving.settings import LimitSettings, read_settings

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "cloudrun"
VARIABLES = {
    "ENVIRONMENT": "staging",
    "PROJECT": "example",
    "REGION": "europe-west1",
    "BUNDLE_BUCKET": "bundles",
    "SQL_INSTANCE": "example:europe-west1:tasador",
    "MLFLOW_URI": "https://mlflow.example.org",
    "MODEL_NAME": "houses_model",
    "API_IMAGE": "registry.example.org/tasador-api@sha256:0",
    "PIPELINE_IMAGE": "registry.example.org/tasador-pipeline@sha256:0",
}


def render(folder: Path, *options: str, without: str = "") -> subprocess.CompletedProcess[str]:
    given = {name: value for name, value in VARIABLES.items() if name != without}
    return subprocess.run(
        [sys.executable, str(FOLDER / "render.py"), str(folder), *options],
        env={"PATH": os.environ["PATH"], **given},
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("rendered")
    assert render(folder).returncode == 0
    found: dict[str, Any] = yaml.safe_load((folder / "service.yaml").read_text())
    return found


def container(service: dict[str, Any]) -> dict[str, Any]:
    (found,) = service["spec"]["template"]["spec"]["containers"]
    return dict(found)


def test_probes_ask_routes_that_the_service_has(service: dict[str, Any], running: Any) -> None:
    import httpx

    for probe in ("startupProbe", "livenessProbe"):
        path = container(service)[probe]["httpGet"]["path"]
        assert httpx.get(running.url + path).status_code == 200
    assert container(service)["startupProbe"]["httpGet"]["path"] == "/health/ready"


def test_the_environment_is_one_that_the_service_reads(service: dict[str, Any]) -> None:
    plain = {e["name"]: e["value"] for e in container(service)["env"] if "value" in e}
    settings = read_settings(plain)
    assert settings.server.host == "0.0.0.0"
    assert settings.source.object_store == "/mnt/bundles/staging"
    port = container(service)["ports"][0]["containerPort"]
    assert port == settings.server.port


def test_secrets_are_references(service: dict[str, Any]) -> None:
    by_name = {e["name"]: e for e in container(service)["env"]}
    for name in ("TASADOR_RECORDS__URL", "TASADOR_SECURITY__KEYS"):
        assert "secretKeyRef" in by_name[name]["valueFrom"]
        assert "value" not in by_name[name]


def test_concurrency_stays_below_what_the_service_admits_and_one_instance_is_warm(
    service: dict[str, Any],
) -> None:
    template = service["spec"]["template"]
    assert template["spec"]["containerConcurrency"] <= LimitSettings().in_flight
    assert int(template["metadata"]["annotations"]["autoscaling.knative.dev/minScale"]) >= 1
    assert template["spec"]["timeoutSeconds"] > LimitSettings().request_s


def test_a_new_revision_gets_no_traffic_while_another_one_keeps_it(tmp_path: Path) -> None:
    assert render(tmp_path, "--keep-traffic", "tasador-api-00007").returncode == 0
    traffic = yaml.safe_load((tmp_path / "service.yaml").read_text())["spec"]["traffic"]
    assert traffic == [
        {"revisionName": "tasador-api-00007", "percent": 100},
        {"latestRevision": True, "percent": 0, "tag": "candidate"},
    ]


def test_every_job_is_rendered_with_its_own_arguments(tmp_path: Path) -> None:
    assert render(tmp_path).returncode == 0
    found = {}
    for file in tmp_path.glob("job-*.yaml"):
        spec = yaml.safe_load(file.read_text())["spec"]["template"]["spec"]["template"]["spec"]
        found[file.stem] = spec["containers"][0]["args"]
    assert found["job-train"] == [
        "run",
        "profile=full",
        "tracking.uri=https://mlflow.example.org",
    ]
    assert found["job-monitor"] == ["monitor"]
    assert {"job-retrain", "job-rollback"} <= set(found)


def test_a_variable_that_is_missing_is_named(tmp_path: Path) -> None:
    done = render(tmp_path, without="BUNDLE_BUCKET")
    assert done.returncode == 1
    assert "BUNDLE_BUCKET" in done.stderr


def test_the_cost_is_cpu_time_times_price_over_utilisation() -> None:
    code = (
        "from cost import Prices;"
        "print(Prices(0.00002, 0.000002, gib=0.5, utilisation=0.5).per_million(0.0001))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=FOLDER, capture_output=True, text=True, check=True
    )
    # 100 s of CPU, 200 s of instances at 0.000021 USD
    assert float(done.stdout) == pytest.approx(0.0042)


@pytest.mark.slow
def test_the_cost_is_measured_with_a_real_server_that_leaves_live_records_alone(
    written_bundle: Path, tmp_path: Path
) -> None:
    live = {
        "TASADOR_RECORDS__URL": f"sqlite:///{tmp_path}/live.db",
        "TASADOR_WORKSPACE": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, "cost.py", str(written_bundle), "--seconds", "1"],
        env={**os.environ, **live},
        cwd=FOLDER,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith("| 1")]
    assert len(rows) == 4
    assert all(float(row.split("|")[3]) > 0 for row in rows)
    assert not list(tmp_path.iterdir())
