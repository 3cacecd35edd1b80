"""The descriptors for Cloud Run say what the service and the command line understand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasador.settings.serving import LimitSettings, read_settings

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
    "UI_IMAGE": "registry.example.org/tasador-ui@sha256:0",
    "API_URL": "https://tasador-api.example.org",
    "NETWORK": "default",
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


def test_the_api_trusts_a_key_that_it_does_not_hold(tmp_path: Path) -> None:
    assert render(tmp_path).returncode == 0
    for file in sorted(tmp_path.glob("*.yaml")):
        spec = yaml.safe_load(file.read_text())["spec"]["template"]["spec"]
        spec = spec.get("template", {"spec": spec})["spec"]
        (found,) = spec["containers"]
        given = {e["name"]: e.get("value", "") for e in found["env"]}
        secrets = {v["name"]: v["secret"] for v in spec.get("volumes", ()) if "secret" in v}
        mounted = {
            f"{mount['mountPath']}/{secrets[mount['name']]['items'][0]['path']}":
                secrets[mount["name"]]["secretName"]
            for mount in found.get("volumeMounts", ()) if mount["name"] in secrets
        }  # fmt: skip
        if file.name in ("ui.yaml", "mlflow.yaml"):
            assert mounted == {}
            continue
        assert mounted[given["TASADOR_SOURCE__TRUSTED_KEYS"]].startswith("tasador-signing-pub-")
        private = [name for name in mounted.values() if "signing-key" in name]
        assert bool(private) is (file.name != "service.yaml")
        assert ("TASADOR_SIGNING_KEY" in given) is bool(private)


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
        "prices = Prices(0.00002, 0.000002, utilisation=0.5);"
        "print(prices.per_million(0.0001, gib=0.5))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=FOLDER, capture_output=True, text=True, check=True
    )
    # 100 s of CPU, 200 s of instances at 0.000021 USD
    assert float(done.stdout) == pytest.approx(0.0042)


def test_a_month_s_bill_counts_every_part() -> None:
    code = (
        "import json, cost;"
        "p = cost.Prices(1, 0, 2, 0, 10, 0, 5, 3, 4, 7, utilisation=0.5);"
        "t = cost.Traffic(2**20, 3.0, 1024.0, 2048.0, months=2, ui_hours=1, training_hours=1);"
        "print(json.dumps([cost.bill(p, t, resident=r) for r in (True, False)]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=FOLDER, capture_output=True, text=True, check=True
    )
    resident, asked = json.loads(done.stdout)
    month = 365 / 12 * 86_400
    assert resident == pytest.approx(
        {
            "API": 2**20 * 3.0 / 0.5,  # more than one instance's month
            "database": month / 3600 * 10 + (10 + 4) * 3,  # 2 KiB x 2**20 x 2 months: 4 GiB
            "MLflow": month,
            "watcher": month,
            "web app": 3600 * 2,
            "training": 3600 * 4,
            "bucket": 5 * 4,
            "egress": 1.0 * 7,
        }
    )
    assert asked["database"] == pytest.approx(month / 3600 * 5 + 14 * 3)
    assert asked["MLflow"] < resident["MLflow"]
    assert asked["watcher"] == pytest.approx(month / 3600 * 40 * 2)


def rendered(folder: Path, name: str) -> dict[str, Any]:
    assert render(folder).returncode == 0
    found: dict[str, Any] = yaml.safe_load((folder / f"{name}.yaml").read_text())
    return found


@pytest.mark.parametrize("name", ["ui", "watcher", "mlflow"])
def test_every_service_is_rendered_with_what_its_image_understands(
    tmp_path: Path, name: str
) -> None:
    found = rendered(tmp_path, name)
    assert "${" not in (tmp_path / f"{name}.yaml").read_text()
    one = container(found)
    port = one["ports"][0]["containerPort"]
    assert one["startupProbe"]["httpGet"]["port"] == port
    told = " ".join(one["args"])
    if name == "mlflow":
        assert one["command"] == ["mlflow"]
        assert f"--port={port}" in told
        assert "--allowed-hosts=mlflow.example.org" in told
        assert found["metadata"]["annotations"]["run.googleapis.com/ingress"] == "internal"
    else:
        done = subprocess.run(
            [sys.executable, "-m", "tasador.cli.app", one["args"][0], "--help"],
            capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"},
        )  # fmt: skip
        for option in one["args"][1:]:
            assert option.partition("=")[0] in done.stdout
        assert str(port) in told
    secret = [e for e in one["env"] if "valueFrom" in e]
    assert secret, "what is secret comes from the secret manager"


def test_the_watcher_never_sleeps_and_is_the_only_one(tmp_path: Path) -> None:
    notes = rendered(tmp_path, "watcher")["spec"]["template"]["metadata"]["annotations"]
    scale = {notes[f"autoscaling.knative.dev/{one}Scale"] for one in ("min", "max")}
    assert scale == {"1"}
    assert notes["run.googleapis.com/cpu-throttling"] == "false"


def test_on_demand_nothing_but_the_api_stays_awake(tmp_path: Path) -> None:
    assert render(tmp_path, "--on-demand").returncode == 0
    names = {file.stem for file in tmp_path.iterdir() if not file.stem.startswith("job")}
    assert names == {"service", "ui", "mlflow"}
    plain = {name: yaml.safe_load((tmp_path / f"{name}.yaml").read_text()) for name in names}
    awake = {
        name: one["spec"]["template"]["metadata"]["annotations"]["autoscaling.knative.dev/minScale"]
        for name, one in plain.items()
    }
    assert awake == {"service": "1", "ui": "0", "mlflow": "0"}
    variables = {e["name"]: e.get("value", "") for e in container(plain["service"])["env"]}
    settings = read_settings({n: v for n, v in variables.items() if v})
    assert settings.source.tracking_uri is None
    assert settings.source.object_store == "/mnt/bundles/staging"


def test_only_what_is_asked_for_is_rendered_and_needs_its_variables(tmp_path: Path) -> None:
    done = render(tmp_path, "--only", "mlflow", "service", without="API_URL")
    assert done.returncode == 0, done.stderr
    assert {file.name for file in tmp_path.iterdir()} == {"mlflow.yaml", "service.yaml"}
    assert render(tmp_path, "--only", "ui", without="API_URL").returncode == 1


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
    rows = [line for line in done.stdout.splitlines() if line.endswith(" |") and " us " in line]
    assert len(rows) == 4
    assert done.stdout.count("| **all** |") == 2
    assert all(float(row.split("|")[3]) > 0 for row in rows)
    assert not list(tmp_path.iterdir())
