"""Alertmanager's configuration from the environment: valid, complete, and its notices arrive."""

from __future__ import annotations

import contextlib
import json
import shutil
import stat
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import yaml

from fixtures.process import free_port
from fixtures.receiver import Receiver
from tasador.core.errors import ConfigError
from tasador.monitoring.settings import VARIABLES, routes_from

ROOT = Path(__file__).parents[2]
START = ROOT / "deploy" / "alertmanager" / "start.sh"
AMTOOL = shutil.which("amtool")
ALERTMANAGER = shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")
SLACK = {"SLACK_URL": "https://hooks.example.org/services/a'b\"c#d"}
WEBHOOK = {"WEBHOOK_URL": "http://127.0.0.1:9/x?y=1&z=2", "WEBHOOK_SECRET": "s3cret"}
EMAIL = {
    "EMAIL_URL": "smtp://mail.example.org",
    "EMAIL_FROM": "tasador@example.org",
    "EMAIL_TO": "a@example.org, b@example.org",
    "EMAIL_USER": "me@example.org",
    "EMAIL_PASSWORD": "p'w: %\"#",
}


def start(file: Path, variables: dict[str, str], *command: str) -> subprocess.CompletedProcess[str]:
    environment = {f"TASADOR_ALERTS__{name}": text for name, text in variables.items()}
    return subprocess.run(
        ["sh", START, *(command or ("true",))], capture_output=True, text=True,
        env={"PATH": "/usr/bin:/bin", "ALERTMANAGER_CONFIG": str(file), **environment},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("variables", "kinds"),
    [
        ({}, set()),
        ({"SLACK_URL": "", "EMAIL_URL": ""}, set()),
        (SLACK, {"slack_configs"}),
        (WEBHOOK, {"webhook_configs"}),
        (EMAIL, {"email_configs"}),
        ({**SLACK, **WEBHOOK, **EMAIL}, {"slack_configs", "webhook_configs", "email_configs"}),
    ],
    ids=["none", "empty", "slack", "webhook", "email", "all"],
)
def test_the_configuration_has_a_receiver_for_each_route_that_the_watcher_has(
    tmp_path, variables, kinds
) -> None:
    file = tmp_path / "alertmanager.yml"
    done = start(file, variables)
    assert done.returncode == 0, done.stderr
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    plain = yaml.safe_load(file.read_text())
    (receiver,) = plain["receivers"]
    assert plain["route"]["receiver"] == receiver["name"]
    assert set(receiver) - {"name"} == kinds
    watcher = {f"TASADOR_ALERTS__{name}": text for name, text in variables.items()}
    assert {f"{route.kind}_configs" for route in routes_from(watcher).values()} == kinds
    assert ("alerts reach nobody" in done.stderr) == (not kinds)
    if "slack_configs" in kinds:
        assert receiver["slack_configs"][0]["api_url"] == SLACK["SLACK_URL"]
    if "email_configs" in kinds:
        (mail,) = receiver["email_configs"]
        assert mail["auth_password"] == EMAIL["EMAIL_PASSWORD"]
        assert (mail["smarthost"], mail["require_tls"]) == ("mail.example.org:25", True)
    if AMTOOL is not None:
        checked = subprocess.run([AMTOOL, "check-config", file], capture_output=True, text=True)
        assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize(
    "variables",
    [
        {"SLACK_URL": "hooks.example.org/secret-part"},
        {"EMAIL_URL": "smtp://mail.example.org"},
        {**EMAIL, "EMAIL_URL": "smtp://me:secret-part@mail.example.org"},
        {**EMAIL, "EMAIL_URL": "https://secret-part"},
    ],
)
def test_what_is_invalid_is_refused_by_alertmanager_and_watcher_without_showing_it(
    tmp_path, variables
) -> None:
    done = start(tmp_path / "a.yml", variables)
    assert done.returncode == 1
    assert "TASADOR_ALERTS__" in done.stderr
    assert "secret-part" not in done.stderr + done.stdout
    with pytest.raises(ConfigError) as caught:
        routes_from({f"TASADOR_ALERTS__{name}": text for name, text in variables.items()})
    assert "secret-part" not in str(caught.value)


def test_compose_gives_watcher_and_alertmanager_the_same_variables_and_prometheus_its_address() -> (
    None
):
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    assert "docker/env/alerts.env" in services["watcher"]["env_file"]
    assert services["alertmanager"]["env_file"] == ["docker/env/alerts.env"]
    prometheus = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())
    (managers,) = prometheus["alerting"]["alertmanagers"]
    (group,) = managers["static_configs"]
    assert group["targets"] == ["alertmanager:9093"]
    script = services["alertmanager"]["entrypoint"][-1]
    mounted = [one.split(":") for one in services["alertmanager"]["volumes"]]
    assert [f"{inside}/{START.name}" for outside, inside, *_ in mounted
            if (ROOT / outside) == START.parent] == [script]  # fmt: skip


def test_the_file_of_variables_holds_each_that_is_known_and_can_be_added_later(tmp_path) -> None:
    command = ["python3", ROOT / "docker" / "create_env.py", tmp_path / "env"]
    subprocess.run(command, check=True, capture_output=True)
    alerts = tmp_path / "env" / "alerts.env"
    names = [line.partition("=")[0] for line in alerts.read_text().splitlines()]
    assert names == [f"TASADOR_ALERTS__{name}" for name in VARIABLES]
    kept = (tmp_path / "env" / "watcher.env").read_text()
    alerts.unlink()
    again = subprocess.run(
        command, capture_output=True, text=True,
        env={"PATH": "/usr/bin:/bin", "TASADOR_ALERTS__SLACK_URL": "https://example.org/hook"},
    )  # fmt: skip
    assert again.returncode == 0, again.stderr
    assert "TASADOR_ALERTS__SLACK_URL=https://example.org/hook" in alerts.read_text()
    assert "example.org" not in again.stdout
    assert (tmp_path / "env" / "watcher.env").read_text() == kept


@pytest.mark.skipif(ALERTMANAGER is None, reason="prometheus-alertmanager is not installed")
def test_an_alert_of_prometheus_reaches_the_webhook(tmp_path) -> None:
    with Receiver() as hook:
        _sends_to(hook, tmp_path)


def _sends_to(hook: Receiver, tmp_path: Path) -> None:
    file, port = tmp_path / "alertmanager.yml", free_port()
    done = start(file, {"WEBHOOK_URL": hook.url})
    assert done.returncode == 0
    file.write_text(file.read_text().replace("group_wait: 30s", "group_wait: 0s"))
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [
                str(ALERTMANAGER), f"--config.file={file}", f"--storage.path={tmp_path / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}", "--cluster.listen-address=",
            ],
            stdout=log, stderr=log,
        )  # fmt: skip
    alert = [{"labels": {"alertname": "TasadorSourceCutOff", "job": "tasador-api",
                         "severity": "ticket"}, "annotations": {"summary": "cut off"}}]  # fmt: skip
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/api/v2/alerts", json.dumps(alert).encode(),
        {"content-type": "application/json"},
    )  # fmt: skip
    try:
        end = time.monotonic() + 60
        while not hook.got and time.monotonic() < end:
            assert process.poll() is None, (tmp_path / "log").read_text()
            with contextlib.suppress(urllib.error.URLError):
                urllib.request.urlopen(request, timeout=5).close()
            time.sleep(0.2)
    finally:
        process.terminate()
        process.wait(20)
    assert hook.got, (tmp_path / "log").read_text()
    assert json.loads(hook.got[0][1])["alerts"][0]["labels"]["alertname"] == "TasadorSourceCutOff"
