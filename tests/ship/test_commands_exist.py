"""What containers, jobs and pages say to run can be run."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from tasador.cli.app import app
from tasador.settings.compose import compose

ROOT = Path(__file__).parents[2]
ROOT_COMMAND: Any = typer.main.get_command(app)
PAGES = sorted([*ROOT.glob("README*.md"), *ROOT.glob("docs/**/*.md")])


def check(words: list[str], where: str) -> None:
    """Follow the words down the tree of commands, then look for each option."""
    command = ROOT_COMMAND
    for word in words:
        children = getattr(command, "commands", None)
        if children is None:
            break
        if word.startswith("-"):
            return  # an option of tasador itself
        assert word in children, f"{where}: tasador {' '.join(words)}"
        command = children[word]
    known = {name for param in command.params for name in (*param.opts, *param.secondary_opts)}
    for word in words:
        if re.match(r"--?[a-z]", word):
            assert word.partition("=")[0] in known | {"--help"}, f"{where}: {word} of {words[0]}"


def test_the_commands_of_compose_exist() -> None:
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    ours = {
        name: service["command"]
        for name, service in services.items()
        if service.get("image", "").startswith("tasador-")
        and "command" in service
        and service.get("entrypoint") != ["mlflow"]
    }
    assert {"watcher", "pipeline"} <= set(ours)
    for name, words in ours.items():
        check(words, f"compose {name}")


def test_the_commands_of_images_and_jobs_exist() -> None:
    for file in ROOT.glob("docker/*.Dockerfile"):
        (words,) = re.findall(r"^CMD (\[.*\])$", file.read_text(), re.M)
        check(yaml.safe_load(words), file.name)
    location = ROOT / "deploy" / "cloudrun" / "render.py"
    spec = importlib.util.spec_from_file_location("render", location)
    assert spec is not None
    assert spec.loader is not None
    render = importlib.util.module_from_spec(spec)
    sys.modules["render"] = render
    spec.loader.exec_module(render)
    for name, (words, *_) in render.JOBS.items():
        check(words, f"job {name}")


def test_the_rollback_workflow_gives_options_that_exist() -> None:
    text = (ROOT / ".github" / "workflows" / "rollback.yaml").read_text()
    (arguments,) = re.findall(r'--args="\^\|\^([^"]*)"', text)
    check(arguments.split("|"), "rollback.yaml")


def test_the_watch_workflow_gives_options_and_settings_that_exist() -> None:
    text = (ROOT / ".github" / "workflows" / "watch.yaml").read_text()
    (limits,) = re.findall(r'limits="([^"]*)"', text)
    (words,) = re.findall(r'--args "([^"]*)\$limits"', text)
    arguments = [*words.strip(",").split(","), *limits.split(",")]
    check(arguments, "watch.yaml")
    names = {name for word in arguments[1:] for name in re.findall(r"\$(\w+)", word)}
    settings = [re.sub(r"\$\w+", "3", word).removeprefix("--set=") for word in arguments[1:]]
    policy = compose(settings).retraining
    assert (policy.budget, policy.budget_minutes) == (3, 3.0)
    for name in names:
        assert re.search(rf"^ +{name}: ", text, re.M), name


def test_retraining_is_one_variable_of_compose_and_of_the_workflow() -> None:
    watcher = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["watcher"]
    assert watcher["environment"]["TASADOR_RETRAIN"] == "${TASADOR_RETRAIN:-}"
    settings = [
        re.sub(r"\$\{\w+:-(\d+)\}", r"\1", word).removeprefix("--set=")
        for word in watcher["command"]
        if word.startswith("--set=")
    ]
    policy = compose(settings).retraining
    assert policy.budget == 4
    assert policy.budget_minutes == 240
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "watch.yaml").read_text())
    assert "vars.RETRAIN == 'on'" in workflow["jobs"]["retrain"]["if"]
    assert "vars.RETRAIN == 'on'" in workflow["jobs"]["monitor"]["if"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_that_a_page_says_to_type_exists(page: Path) -> None:
    for block in re.findall(r"```(?:sh|console)\n(.*?)```", page.read_text(), re.S):
        for line in block.replace("\\\n", " ").splitlines():
            found = re.match(r"(?:\$ )?(?:[A-Z_]+=\S+ )*tasador (.*)", line)
            if found:
                words = re.sub(r"'[^']*'|\"[^\"]*\"", "TEXT", found[1].partition(" #")[0])
                check(re.split(r" [|>&]", words)[0].split(), page.name)
