"""What the commands say about themselves, and about words that are mistyped."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from contextlib import redirect_stdout
from typing import Any

import pytest
import typer.main

from tasador.cli.app import COMMANDS, app, main
from tasador.monitoring.settings import read_watch_settings
from tasador.settings.serving import ServerSettings

TASADOR = (sys.executable, "-m", "tasador.cli.app")
ROOT: Any = typer.main.get_command(app)


def walk(path: tuple[str, ...], command: Any) -> list[tuple[tuple[str, ...], Any]]:
    found = [(path, command)]
    for name, child in getattr(command, "commands", {}).items():
        found += walk((*path, name), child)
    return found


TREE = walk((), ROOT)
LEAVES = [(path, command) for path, command in TREE if not hasattr(command, "commands")]
GROUPS = [path for path, command in TREE if hasattr(command, "commands")]


def shown(*words: str, columns: int = 100) -> str:
    written = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(written):
        patch.setenv("COLUMNS", str(columns))
        assert not ROOT.main([*words], prog_name="tasador", standalone_mode=False)
    return written.getvalue()


def named(paths: list[Any]) -> list[str]:
    return [" ".join(path) or "tasador" for path in paths]


@pytest.mark.parametrize("path", GROUPS, ids=named(GROUPS))
def test_a_group_without_a_command_shows_its_help_and_succeeds(path: tuple[str, ...]) -> None:
    bare = shown(*path)
    assert bare == shown(*path, "--help") == shown(*path, "-h")
    command = ROOT
    for word in path:
        command = command.commands[word]
    lines = bare.splitlines()
    for name in command.commands:
        assert sum(line.startswith(f"  {name} ") for line in lines) == 1, name


def test_the_commands_are_listed_under_their_headings_in_order() -> None:
    lines = shown().splitlines()
    headings = [line[:-1] for line in lines if line.endswith(":") and not line.startswith(" ")]
    assert headings == ["Start", "Models", "Watch", "Operate", "Options"]
    listed: dict[str, set[str]] = {}
    for line in lines:
        if line.rstrip(":") in headings:
            heading = line.rstrip(":")
        elif line.startswith("  ") and line[2] != " " and "heading" in locals():
            listed.setdefault(heading, set()).add(line.split()[0])
    assert {heading: set(names) for heading, names in COMMANDS.items()} == {
        heading: names for heading, names in listed.items() if heading != "Options"
    }


@pytest.mark.parametrize("columns", [80, 100, 120])
def test_no_help_is_wider_than_its_terminal_or_has_noise(columns: int) -> None:
    for path, command in TREE:
        # the one flag of that form that is no twin of another
        text = shown(*path, "--help", columns=columns).replace("--no-header", "--headless")
        for line in text.partition("\nExamples:\n")[0].splitlines():
            assert len(line) <= columns, (path, line)
        for noise in ("<", "╭", "--no-", "None", "  [default: ]", "([", "\x1b"):
            assert noise not in text, (path, noise)
        if columns == 100 and not hasattr(command, "commands"):
            assert text.count("\n") <= 42, (path, text.count("\n"))


@pytest.mark.parametrize(("path", "command"), LEAVES, ids=named([path for path, _ in LEAVES]))
def test_every_option_has_a_text_and_one_style(path: tuple[str, ...], command: Any) -> None:
    first = command.help.partition("\n")[0]
    assert first.endswith("."), first
    assert len(first) <= 67, first
    assert first[0].isupper()
    assert not first.split()[0].endswith("s"), first  # imperative: "List", not "Lists"
    for param in command.params:
        assert param.help, (path, param.name)
        assert not param.help.endswith("."), (path, param.name)


def test_options_of_one_name_and_kind_have_one_text() -> None:
    """Where a text differs, the option is another one: each of these is listed with its reason."""
    other = {
        "--workspace": {"demo"},  # a new folder
        "--bundle": {"score", "serve"},  # a version is taken too; a folder of bundles is taken too
        "--version": {"monitor", "records export"},  # a column; a bundle's
        "--database": set(),
        "--registry": set(),
        "--model": set(),
        "--alias": set(),
        "--by": {"backtest", "ratio"},  # a span of time; columns
        "--json": {"monitor"},  # a file
        "--reason": {"alerts silence"},  # kept in another place
        "--set": set(),
        "--engine": set(),
    }
    for name, exceptions in other.items():
        texts = {
            (param.help, param.show_default)
            for path, command in LEAVES
            for param in command.params
            if name in param.opts and " ".join(path) not in exceptions
        }
        assert len(texts) == 1, (name, texts)


@pytest.mark.parametrize(
    ("path", "words", "name", "value"),
    [
        ("score", ["rows.csv", "--out", "scored/"], "to", "scored/"),
        ("serve", ["--tracking-uri=sqlite:///m.db"], "tracking_uri", "sqlite:///m.db"),
        ("promote", ["2", "--records", "sqlite:///r.db"], "records", "sqlite:///r.db"),
        ("records stats", ["--records", "sqlite:///r.db"], "database", "sqlite:///r.db"),
        ("alerts ack", ["m/*", "--who", "ana"], "by", "ana"),
        ("alerts ack", ["--by", "ana", "--", "--who"], "pattern", "--who"),
    ],
)
def test_former_spellings_of_options_are_still_taken(
    path: str, words: list[str], name: str, value: str
) -> None:
    command = dict(LEAVES)[tuple(path.split())]
    assert command.make_context(path, words).params[name] == value


def test_former_spellings_of_options_are_in_no_help_and_no_error() -> None:
    former = re.compile(r"--(out|records|tracking-uri|who)\b")
    for path, _ in LEAVES:
        assert not former.search(shown(*path, "--help")), path
    with pytest.raises(Exception, match="Missing parameter: to") as caught:
        dict(LEAVES)[("score",)].make_context("score", ["rows.csv"])
    assert "'--output' / '-o'" in caught.value.format_message()
    with pytest.raises(Exception, match=r"[Nn]o such option: --who"):
        dict(LEAVES)[("score",)].make_context("score", ["rows.csv", "--who", "ana"])


def test_every_default_is_shown_as_it_is() -> None:
    count = 0
    for path, command in LEAVES:
        text = " ".join(shown(*path, "--help").split())
        for param in command.params:
            if isinstance(param.default, bool) or param.default in (None, ""):
                continue
            value = getattr(param.default, "value", param.default)
            expected = f"{value:g}" if isinstance(value, float) else str(value)
            name = param.metavar if param.param_type_name == "argument" else param.opts[0]
            shown_as = rf"{name}[^\[]*\[(env: \w+; )?default: {re.escape(expected)}\]"
            assert re.search(shown_as, text), (path, name)
            count += 1
    assert count > 30


def test_defaults_that_come_from_settings_are_those_of_the_settings() -> None:
    watched, server = read_watch_settings(), ServerSettings()
    expected = {
        ("watch", "interval"): f"{watched.interval_s:g}",
        ("watch", "window"): f"{watched.window_s:g}",
        ("watch", "metrics_host"): watched.metrics_host,
        ("serve", "host"): server.host,
        ("serve", "port"): str(server.port),
        ("serve", "workers"): str(server.workers),
    }
    for (name, option), value in expected.items():
        (param,) = (param for param in ROOT.commands[name].params if param.name == option)
        assert param.show_default == value, (name, option)


MISTAKES = {
    "help": "did you mean `tasador --help`?",
    "help run": "did you mean `tasador run --help`?",
    "HELP": "did you mean `tasador --help`?",
    "version": "did you mean `tasador --version`?",
    "train": "did you mean `tasador run`?",
    "modles": "did you mean `tasador models`?",
    "Promote 1": "did you mean `tasador promote`?",
    "recrods stats": "did you mean `tasador records`?",
    "status": "did you mean `tasador canary status`?",
    "canary help": "did you mean `tasador canary --help`?",
    "canary statsu": "did you mean `tasador canary status` or `tasador canary start`?",
    "keys export": "did you mean `tasador records export`?",
    "records outcomes": "did you mean `tasador outcomes`?",
    "xyzzy": "see `tasador --help`",
    "predict": "see `tasador predict --help`",
    "predict {} --modle x": "did you mean `--model`?",
    "records stats --jsno": "did you mean `--json`?",
    "score a.csv -o b.csv --engine rey": "'rey' is not one of 'local', 'ray'",
}


@pytest.mark.parametrize(("words", "hint"), MISTAKES.items(), ids=MISTAKES)
def test_a_mistake_is_refused_with_what_was_probably_meant(
    words: str, hint: str, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(sys, "argv", ["tasador", *words.split()])
    with pytest.raises(SystemExit) as ended:
        main()
    told = capsys.readouterr()
    assert ended.value.code == 2
    assert told.out == ""
    assert hint in told.err, told.err
    assert told.err.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "value"), [("on", True), ("true", True), ("off", False), ("", False)]
)
@pytest.mark.parametrize("name", ["watch", "up"])
def test_a_variable_turns_retraining_on_and_off(name: str, text: str, value: bool, monkeypatch):
    monkeypatch.setenv("TASADOR_RETRAIN", text)
    assert ROOT.commands[name].make_context(name, []).params["retrain"] is value
    assert ROOT.commands[name].make_context(name, ["--retrain"]).params["retrain"] is True


@pytest.mark.parametrize("environment", [{"TERM": "dumb"}, {"NO_COLOR": "1"}, {}], ids=str)
def test_help_of_the_program_is_plain_text(
    environment: dict[str, str],
) -> None:
    kept = {k: v for k, v in os.environ.items() if k != "COLUMNS"}
    bare = subprocess.run(TASADOR, env=kept | environment, capture_output=True, text=True)
    assert (bare.returncode, bare.stderr) == (0, "")
    assert bare.stdout.isascii()
    assert "\x1b" not in bare.stdout


def test_the_version_is_one_line() -> None:
    done = subprocess.run([*TASADOR, "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("tasador ")
    assert done.stdout.count("\n") == 1


def test_a_shell_completes_commands_and_options() -> None:
    for words, expected in (("tasador mo", {"models", "monitor"}), ("tasador keys re", {"revoke"})):
        environment = {
            "_TASADOR_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": str(words.count(" ")),
        }
        program = "import sys; from tasador.cli.app import main; sys.argv[0] = 'tasador'; main()"
        done = subprocess.run(
            [sys.executable, "-c", program], env=os.environ | environment, capture_output=True,
            text=True,
        )  # fmt: skip
        assert set(done.stdout.split()) == expected, done.stderr
    assert "--install-completion" in shown()
