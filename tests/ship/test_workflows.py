"""GitHub's workflows, as far as they can be checked without GitHub."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yaml"))
READ = {path.stem: yaml.safe_load(path.read_text()) for path in WORKFLOWS}
SMOKE = ROOT / ".github" / "scripts" / "smoke_test.py"
SUMMARY = ROOT / ".github" / "scripts" / "job_summary.py"


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(part) for part in command], capture_output=True, text=True)


def jobs() -> list[tuple[str, str, dict[str, Any]]]:
    return [(w, name, job) for w, plain in READ.items() for name, job in plain["jobs"].items()]


@pytest.mark.slow
def test_the_workflows_meet_githubs_schema() -> None:
    schema = ("--builtin-schema", "vendor.github-workflows")
    done = run(BIN / "check-jsonschema", *schema, *WORKFLOWS)
    assert done.returncode == 0, done.stdout


def test_zizmor_finds_nothing() -> None:
    done = run(BIN / "zizmor", "--offline", "--no-progress", ROOT / ".github")
    assert done.returncode == 0, done.stdout


def test_every_action_is_pinned_by_commit_with_its_version_beside_it() -> None:
    used = [line for path in WORKFLOWS for line in re.findall(r"uses: (.*)", path.read_text())]
    remote = [line for line in used if not line.startswith("./")]
    assert len(remote) > 20
    for line in remote:
        assert re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line), line


def test_no_workflow_has_a_permission_that_a_job_did_not_ask_for() -> None:
    for name, plain in READ.items():
        assert plain["permissions"] == {}, name
    for workflow, name, job in jobs():
        asked = job["permissions"]
        assert set(asked) <= {"contents", "id-token"}, name
        # making a release is the one thing that writes to the repository
        allowed = (workflow, name) == ("release", "announce")
        assert asked.get("contents", "read") == ("write" if allowed else "read"), name
        if "steps" in job:
            assert 0 < job["timeout-minutes"] <= 180, name


def test_no_cloud_key_is_stored_and_no_secret_reaches_a_pull_request() -> None:
    for path in WORKFLOWS:
        text = path.read_text()
        assert "credentials_json" not in text
        assert "pull_request_target" not in text
        named = set(re.findall(r"secrets\.(\w+)", text))
        assert named <= {"TASADOR_SMOKE_KEY"}, path.name
    assert "secrets." not in (ROOT / ".github" / "workflows" / "ci.yaml").read_text()


def test_production_comes_after_staging_and_each_has_its_environment() -> None:
    delivered = READ["deliver"]["jobs"]
    assert "staging" in delivered["production"]["needs"]
    assert delivered["production"]["with"]["environment"] == "production"
    assert delivered["staging"]["needs"] == ["publish"]
    assert delivered["publish"]["needs"] == ["checks"]
    deployed = READ["deploy"]["jobs"]["deploy"]
    assert deployed["environment"]["name"] == "${{ inputs.environment }}"
    steps = [step.get("name") for step in deployed["steps"]]
    tested = steps.index("Smoke test before it gets traffic")
    assert steps.index("New revision") < tested < steps.index("All traffic to it")


@pytest.mark.parametrize("event", ["push to main", "pull request", "tag"])
def test_an_event_runs_the_checks_once(event: str) -> None:
    def starts(plain: dict[Any, Any]) -> bool:
        on = plain[True]  # YAML 1.1 takes `on` for a flag
        if event == "pull request":
            return "pull_request" in on
        branches = "branches" if event == "push to main" else "tags"
        return branches in (on.get("push") or {})

    runs = [
        name
        for name, plain in READ.items()
        if starts(plain)
        for job in ({"uses": "ci.yaml"} if name == "ci" else {}, *plain["jobs"].values())
        if str(job.get("uses", "")).endswith("ci.yaml")
    ]
    assert len(runs) == 1, runs


def test_every_make_target_and_script_that_is_called_exists() -> None:
    offered = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    for path in WORKFLOWS:
        text = path.read_text()
        assert set(re.findall(r"run: make ([a-z-]+)", text)) <= offered
        for script in re.findall(r"python3? (\S+\.py)", text):
            assert (ROOT / script).is_file(), script


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_the_shell_of_every_step_can_be_parsed(file: Path) -> None:
    for job in READ[file.stem]["jobs"].values():
        for step in job.get("steps", []):
            if "run" in step:
                assert "${{" not in re.sub(r"\$\{\{ matrix\.\w+ \}\}", "", step["run"])
                done = subprocess.run(
                    ["bash", "-n"], input=step["run"], capture_output=True, text=True
                )
                assert done.returncode == 0, (step["run"], done.stderr)


def test_a_release_says_what_the_changelog_says_of_the_packages_own_version() -> None:
    script = ROOT / ".github" / "scripts" / "release_notes.py"
    done = run(sys.executable, script, "v9.9.9")
    assert done.returncode == 1
    assert re.search(r"expected the tag v\d+\.\d+\.\d+, .* got v9\.9\.9", done.stderr)
    code = (
        f"import sys; sys.path.insert(0, {str(script.parent)!r}); from release_notes import notes;"
        "text = '# C\\n\\n## [Unreleased]\\n\\n- no\\n\\n## [1.2.0] - 2026-12-01\\n\\n- this\\n\\n"
        "## [1.1.0] - 2026-11-01\\n\\n- older\\n'; print(notes('v1.2.0', text, '1.2.0'));"
        "notes('v1.3.0', text, '1.3.0')"
    )
    done = run(sys.executable, "-c", code)
    assert done.stdout.strip() == "- this"
    assert "says nothing about 1.3.0" in done.stderr


def test_the_package_is_published_without_a_stored_token_after_the_checks() -> None:
    release = READ["release"]["jobs"]
    assert (release["build"]["needs"], release["publish"]["needs"]) == (["checks"], ["build"])
    assert release["publish"]["environment"] == "release"
    assert release["publish"]["permissions"]["id-token"] == "write"
    assert any("--trusted-publishing always" in str(s) for s in release["publish"]["steps"])
    assert any(step.get("run") == "make sbom" for step in release["build"]["steps"])


def test_the_smoke_test_values_a_row_of_whatever_model_answers(running: Any) -> None:
    done = run(sys.executable, SMOKE, running.url)
    assert done.returncode == 0, done.stderr
    assert "houses_model-" in done.stdout


def test_the_job_summary_shows_figures_and_steps(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "20260101-000000-aaaa"
    (folder / "cards").mkdir(parents=True)
    assert "no run" in run(sys.executable, SUMMARY, tmp_path / "nothing").stdout
    metrics = {"origin": "real", "test": {"mape": 12.47, "rmse": 39423.0}, "spatial_cv": None}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    card = {"step": "download", "status": "done", "seconds": 0.2}
    (folder / "cards" / "download.json").write_text(json.dumps(card))
    said = run(sys.executable, SUMMARY, tmp_path).stdout
    assert "| mape | 12.47 |  |  |" in said
    assert "| download | done | 0.2 |" in said
