"""Dockerfiles and compose.yaml, as far as they can be checked without a container engine."""

from __future__ import annotations

import json
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasador.serving.http.auth import KeyAuthorizer, SecuritySettings
from tasador.settings.serving import LimitSettings, read_settings

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
DOCKERFILES = sorted(ROOT.glob("docker/*.Dockerfile"))
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(part) for part in command], capture_output=True, text=True)


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.name)
def test_a_dockerfile_is_clean_for_hadolint(file: Path) -> None:
    done = run(BIN / "hadolint", "--failure-threshold", "style", file)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.name)
def test_an_image_runs_as_a_numeric_user_and_holds_no_compiler(file: Path) -> None:
    text = file.read_text()
    final = text.rpartition("\nFROM ")[2]
    assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", final, re.M)
    assert not re.search(r"\b(gcc|build-essential|libc6-dev|pip) ", final)
    assert "HEALTHCHECK" in final
    for image in re.findall(r"^FROM (\S+)", text, re.M):
        assert re.search(r":\d+\.\d+\.\d+-", image), f"{image} is not pinned"
    # every package by the lock's hashes, also what builds the wheel
    assert text.count("--require-hashes") == 2
    assert "--build-constraints requirements/lock.txt" in text


def test_the_build_context_holds_sources_only() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert lines[1] == "*"
    allowed = {line.strip("!/") for line in lines if line.startswith("!")}
    assert allowed == {"pyproject.toml", "README.md", "LICENSE", "hatch_build.py"} | {
        "requirements",
        "src",
    }


@pytest.mark.slow
def test_compose_meets_its_schema() -> None:
    schema = ("--builtin-schema", "vendor.compose-spec")
    done = run(BIN / "check-jsonschema", *schema, ROOT / "compose.yaml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_port_is_bound_to_this_machine_only() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(published) >= 5
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_our_containers_have_read_only_roots_no_capabilities_and_a_limit_of_memory() -> None:
    for name in ("api", "ui", "watcher", "pipeline", "mlflow"):
        service = SERVICES[name]
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "mem_limit" in service, name


def test_what_is_waited_for_has_a_health_check() -> None:
    built_in = {"api", "ui"}  # their images have one
    for service in SERVICES.values():
        for needed, condition in service.get("depends_on", {}).items():
            assert condition == {"condition": "service_healthy"}
            assert needed in built_in or "healthcheck" in SERVICES[needed], needed


def test_no_secret_stands_in_compose_and_every_env_file_is_made_by_the_script(
    tmp_path: Path,
) -> None:
    named = {file for service in SERVICES.values() for file in service.get("env_file", [])}
    assert run(sys.executable, ROOT / "docker" / "create_env.py", tmp_path / "env").returncode == 0
    assert {Path(file).name for file in named} == {path.name for path in tmp_path.rglob("*.env")}
    for service in SERVICES.values():
        for key in service.get("environment", {}):
            assert not re.search("PASSWORD|SECRET|KEY|TOKEN", key), key


@pytest.mark.parametrize("service", ["api", "watcher"])
def test_the_environment_of_compose_is_one_that_is_read(tmp_path: Path, service: str) -> None:
    settings = read_settings(_environment(tmp_path, service))
    assert settings.source.tracking_uri == "http://mlflow:5000"
    assert settings.records.url.startswith(f"postgresql://tasador_{service}:")


def test_a_network_joins_only_those_who_talk_to_each_other() -> None:
    joined = {name: set(service["networks"]) for name, service in SERVICES.items()}

    def reach(name: str) -> set[str]:
        return {other for other in joined if other != name and joined[other] & joined[name]}

    assert reach("ui") == {"api"}
    assert reach("mlflow") == {"api", "watcher", "pipeline", "postgres"}
    assert reach("postgres") == {"api", "watcher", "mlflow"}
    assert reach("redis") == {"api"}
    assert {"mlflow", "postgres", "redis"} & (reach("ui") | reach("grafana")) == set()
    assert {name for name, it in COMPOSE["networks"].items() if it} == {"records", "runs", "cache"}


@pytest.mark.slow
def test_the_key_that_training_makes_is_the_one_that_the_api_trusts(tmp_path: Path) -> None:
    api = _environment(tmp_path, "api")
    volumes = dict(v.split(":")[:2] for v in SERVICES["api"]["volumes"])
    assert api["TASADOR_SOURCE__TRUSTED_KEYS"].startswith(volumes["trust"] + "/")
    for name in ("pipeline", "watcher"):
        shell = SERVICES[name]["entrypoint"][2].replace("$$", "$")
        shell = shell.replace("tasador sign", f"{BIN}/tasador sign").replace(
            "/srv/tasador", str(tmp_path)
        )
        command = ["sh", "-c", shell.replace("exec tasador", "exec echo"), "tasador", "run", "a b"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
        assert done.stdout.endswith("run a b\n")
    private = tmp_path / "workspace" / "keys" / "signing.pem"
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    public = tmp_path / api["TASADOR_SOURCE__TRUSTED_KEYS"].removeprefix("/srv/tasador/")
    assert public.read_bytes() == private.with_suffix(".pub").read_bytes()
    assert b"PRIVATE" not in public.read_bytes()


def test_prometheus_scrapes_the_ports_on_which_services_answer() -> None:
    plain = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())
    targets = {t for job in plain["scrape_configs"] for t in job["static_configs"][0]["targets"]}
    assert "api:8000" in targets
    port = next(word for word in SERVICES["watcher"]["command"] if "--metrics-port" in word)
    assert f"watcher:{port.partition('=')[2]}" in targets


def test_the_keys_that_are_made_open_the_service(tmp_path: Path) -> None:
    said = run(sys.executable, ROOT / "docker" / "create_env.py", tmp_path / "env").stdout
    api = _variables(tmp_path / "env" / "api.env")
    keys = tuple(api["TASADOR_SECURITY__KEYS"].split(","))
    access = KeyAuthorizer(SecuritySettings(keys=keys), LimitSettings())
    client = _variables(tmp_path / "env" / "ui.env")["TASADOR_API_KEY"]
    admin = said.rpartition(": ")[2].strip()
    for key, name, role in ((client, "web", "client"), (admin, "operator", "admin")):
        sent = {b"authorization": f"Bearer {key}".encode()}
        assert access.admit(sent, "/api/v1/predict", "peer") == (name, role)
    assert admin not in "".join(path.read_text() for path in tmp_path.rglob("*.env"))


def test_secrets_are_readable_by_their_owner_only_and_are_not_replaced(tmp_path: Path) -> None:
    script = ROOT / "docker" / "create_env.py"
    run(sys.executable, script, tmp_path)
    before = {path: path.read_text() for path in tmp_path.glob("*.env")}
    for path in before:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    again = run(sys.executable, script, tmp_path)
    assert again.returncode == 1
    assert "already" in again.stdout
    assert before == {path: path.read_text() for path in tmp_path.glob("*.env")}
    ignored = run("git", "-C", ROOT, "check-ignore", "docker/env/api.env")
    assert ignored.returncode == 0


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_prometheus_accepts_its_configuration() -> None:
    done = run("promtool", "check", "config", ROOT / "deploy" / "prometheus" / "prometheus.yml")
    assert done.returncode == 0, done.stderr


def test_grafana_finds_its_source_and_its_dashboards_where_compose_puts_them() -> None:
    folder = ROOT / "deploy" / "grafana" / "provisioning"
    source = yaml.safe_load((folder / "datasources" / "prometheus.yaml").read_text())
    assert source["datasources"][0]["url"] == "http://prometheus:9090"
    provider = yaml.safe_load((folder / "dashboards" / "tasador.yaml").read_text())
    path = provider["providers"][0]["options"]["path"]
    mounted = [volume.split(":")[1] for volume in SERVICES["grafana"]["volumes"]]
    assert path in mounted
    for dashboard in (ROOT / "deploy" / "grafana" / "dashboards").glob("*.json"):
        assert json.loads(dashboard.read_text())["title"]


def _environment(tmp_path: Path, service: str) -> dict[str, str]:
    """Return what a container of that service would see."""
    run(sys.executable, ROOT / "docker" / "create_env.py", tmp_path / "env")
    found: dict[str, str] = {}
    for file in SERVICES[service].get("env_file", []):
        found |= _variables(tmp_path / "env" / Path(file).name)
    for key, value in SERVICES[service]["environment"].items():
        found[key] = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value)
    return found


def _variables(path: Path) -> dict[str, str]:
    return dict(line.split("=", 1) for line in path.read_text().splitlines())
