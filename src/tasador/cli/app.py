"""`tasador`: the commands, and how errors become messages and exit codes."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

import tasador
from tasador.cli import canary, models, operate, records, sales, scoring, start, watch
from tasador.cli.options import FORMER_SPELLINGS
from tasador.cli.output import (
    accept_any_encoding,
    drop_what_is_not_taken,
    err,
    escape,
    language,
    out,
)
from tasador.core.errors import INTERRUPTED_EXIT_CODE, ConfigError, MissingExtraError, TasadorError
from tasador.core.languages import translated
from tasador.core.logging import configure_logs
from tasador.core.storage import storage_error

DID_YOU_MEAN = "did you mean"
#: Words for a value whose option names no better one.
_VALUES = {"str": "TEXT", "int": "N", "float": "NUMBER", "path": "PATH"}
#: What people type for a command that has another name.
_ALIKE = {"train": "run", "fit": "run", "value": "predict"}


class Command(TyperCommand):
    """A command whose docstring may end in ``Examples:``, one command a line."""

    def __init__(self, name: str | None, *, help: str | None = None, **options: Any) -> None:
        text, _, examples = (help or "").partition("\n\nExamples:\n")
        epilog = textwrap.dedent(examples).strip() or None
        super().__init__(name, **(options | {"help": text, "epilog": epilog}))
        for param in self.params:
            if param.param_type_name == "argument" and param.metavar is None:
                param.metavar = param.name.upper()

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take former spellings of this command's options as the present ones."""
        mine = {name for param in self.params for name in param.opts}
        end = args.index("--") if "--" in args else len(args)
        for place, word in enumerate(args[:end]):
            name, equals, value = word.partition("=")
            present = FORMER_SPELLINGS.get(name)
            if present in mine and name not in mine:
                args[place] = f"{present}{equals}{value}"
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:  # noqa: ARG002
        """Return what follows the command: ``[OPTIONS] ROWS``."""
        arguments = [param for param in self.params if param.param_type_name == "argument"]
        return ["[OPTIONS]", *map(argument_name, arguments)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments and options under their headings."""
        _write_params(self, ctx, formatter)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        """Write the examples as they are: a wrapped command could not be copied."""
        if self.epilog:
            with formatter.section("Examples"):
                for line in self.epilog.splitlines():
                    formatter.write(f"  {line}\n")


class Group(TyperGroup):
    """Commands under headings; without a command, its help."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Show the help, and succeed, where nothing was asked for."""
        if not args and not ctx.resilient_parsing:
            typer.echo(ctx.get_help(), color=ctx.color)
            ctx.exit()
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that is named.

        Raises:
            UsageError: There is none; the message names those that are alike.
        """
        name = args[0]
        if name not in self.commands and not name.startswith("-") and not ctx.resilient_parsing:
            found = " or ".join(f"`{other}`" for other in self._alike(ctx, args))
            ctx.fail(f"no such command: {name}" + (f"; {DID_YOU_MEAN} {found}?" if found else ""))
        return super().resolve_command(ctx, args)

    def _alike(self, ctx: Any, args: list[str]) -> list[str]:
        """Return whole commands that may have been meant, those of this group first."""
        here, word = ctx.command_path, args[0].lower().replace("_", "-")
        if word == "help":
            return [" ".join([here, *args[1:], "--help"])]
        root: Any = ctx.find_root()
        if word == "version":
            return [f"{root.command_path} --version"]
        word = _ALIKE.get(word, word)
        found = [word] if word in self.commands else get_close_matches(word, self.commands, 2, 0.65)
        if found:
            return [f"{here} {name}" for name in found]
        places = {root.command_path: root.command.commands}
        for name, command in root.command.commands.items():
            places[f"{root.command_path} {name}"] = getattr(command, "commands", {})
        return [f"{place} {word}" for place, names in places.items() if word in names]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the commands under their headings, then the options."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for name, command in self.commands.items():
            heading = getattr(command, "rich_help_panel", None) or "Commands"
            first = (command.help or "").partition("\n\n")[0].rstrip(".")
            sections.setdefault(heading, []).append((name, first))
        width = max(len(name) for name in self.commands)
        for heading, rows in sections.items():
            with formatter.section(heading):
                formatter.write_dl([(f"{name:<{width}}", text) for name, text in rows])
        _write_params(self, ctx, formatter)


def argument_name(param: Any) -> str:
    """Return an argument as a usage line has it: ``ROWS``, ``[NAME]``, ``FILES...``."""
    name: str = param.metavar if param.required else f"[{param.metavar}]"
    return name + ("..." if param.nargs == -1 else "")


def option_name(param: Any, context: Any) -> str:
    """Return an option as help shows it: ``-o, --output FILE``."""
    names = ", ".join(sorted(param.opts, key=len))
    if param.is_flag:
        return names
    kind: str = param.metavar or param.display_type(context).strip("<>")
    kind = kind.removeprefix("list[").removesuffix("]").removesuffix(" range")
    return f"{names} {_VALUES.get(kind, kind)}"


def default_text(param: Any) -> str:
    """Return a parameter's default as a user would write it; empty where there is none."""
    if param.default is None and isinstance(param.show_default, str):
        return param.show_default
    value = getattr(param.default, "value", param.default)
    if isinstance(value, bool) or value in (None, [], ()):
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _write_params(command: Any, context: Any, formatter: Any) -> None:
    sections: dict[str, list[tuple[str, str]]] = {}
    for param in command.get_params(context):
        if param.hidden or param.name == "show_completion":  # --install-completion suffices
            continue
        if param.param_type_name == "argument":
            heading, name = "Arguments", param.metavar
        else:
            heading, name = "Options", option_name(param, context)
        notes = []
        if getattr(param, "show_envvar", False) and param.envvar:
            notes.append(f"env: {param.envvar}")
        if param.required and heading == "Options":
            notes.append("required")
        if default := default_text(param):
            notes.append(f"default: {default}")
        text = (param.help or "").rstrip(".") + (f"  [{'; '.join(notes)}]" if notes else "")
        sections.setdefault(param.rich_help_panel or heading, []).append((name, text))
    for heading, rows in sections.items():
        with formatter.section(heading):
            formatter.write_dl(rows)


Commands = Mapping[str, Callable[..., None]]


def _group(help: str, commands: Commands) -> typer.Typer:
    found = typer.Typer(cls=Group, help=help)
    for name, function in commands.items():
        found.command(name, cls=Command)(function)
    return found


#: What `tasador --help` lists, in its order.
COMMANDS: dict[str, dict[str, Callable[..., None] | typer.Typer]] = {
    "Start": {
        "demo": start.demo,
        "init": start.init,
        "sales": sales.sales,
        "run": start.run,
        "predict": scoring.predict,
        "explain": scoring.explain,
        "appraise": scoring.appraise,
        "score": scoring.score,
        "review": records.review,
        "trend": sales.trend,
        "runs": start.runs,
        "report": start.report,
        "doctor": start.doctor,
    },
    "Models": {
        "backtest": sales.backtest,
        "ratio": sales.ratio,
        "models": models.models,
        "use": models.use,
        "compare": models.compare,
        "promote": models.promote,
        "reject": models.reject,
        "rollback": models.rollback,
        "history": models.history,
        "retrain": models.retrain,
        "canary": _group(
            "Send a growing share of the traffic to a challenger.",
            {
                "start": canary.start,
                "status": canary.status,
                "stop": canary.stop,
                "settle": canary.settle,
            },
        ),
        "reproduce": models.reproduce,
    },
    "Watch": {
        "monitor": watch.monitor,
        "watch": watch.watch,
        "alerts": _group(
            "List, acknowledge and silence alerts.",
            {
                "list": watch.list_,
                "ack": watch.ack,
                "silence": watch.silence,
                "unsilence": watch.unsilence,
            },
        ),
        "outcomes": _group(
            "Import true values of earlier predictions.", {"import": records.import_outcomes}
        ),
        "simulate": watch.simulate,
    },
    "Operate": {
        "up": start.up,
        "serve": operate.serve,
        "ui": operate.ui,
        "publish": operate.publish,
        "sign": operate.sign,
        "verify": operate.verify,
        "keys": _group(
            "Create, list and revoke API keys of the service.",
            {"new": operate.new_key, "list": operate.list_keys, "revoke": operate.revoke_keys},
        ),
        "records": _group(
            "Export, count and prune recorded predictions.",
            {
                "export": records.export,
                "stats": records.stats,
                "overrides": records.overrides,
                "refused": records.refused,
                "prune": records.prune,
                "replay": records.replay,
            },
        ),
    },
}

app = typer.Typer(
    cls=Group,
    help="Train, serve and monitor a model that estimates prices from a table.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _show_version(value: bool) -> None:
    if value:
        out.print(f"tasador {tasador.__version__}")
        raise typer.Exit


@app.callback()
def common(
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Log progress to standard error")
    ] = False,
    version: Annotated[  # noqa: ARG001 - acts through its callback
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version"),
    ] = False,
) -> None:
    """Set up what all commands share."""
    configure_logs("INFO" if verbose else "WARNING")


for _heading, _commands in COMMANDS.items():
    for _name, _command in _commands.items():
        if isinstance(_command, typer.Typer):
            app.add_typer(_command, name=_name, rich_help_panel=_heading)
        else:
            app.command(_name, cls=Command, rich_help_panel=_heading)(_command)


def _name_files_in_utf8() -> None:
    """Start again in UTF-8 mode where file names are ASCII: contracts name files by Unicode text.

    Python does so by itself (PEP 540), unless its variables say otherwise.
    """
    # only once: `-X utf8=0` and `-E` hold against the variable
    if sys.getfilesystemencoding() == "ascii" and os.environ.get("PYTHONUTF8") != "1":
        os.environ["PYTHONUTF8"] = "1"  # for processes that a command starts, too
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606


def main() -> None:
    """Run the command line; every error that is ours ends without a traceback."""
    _name_files_in_utf8()
    accept_any_encoding()
    try:
        code = app(standalone_mode=False) or 0
        if code == INTERRUPTED_EXIT_CODE:  # what typer makes of Ctrl-C
            raise KeyboardInterrupt
        sys.stdout.flush()  # a full disk behind `>` shows here, not after the last handler
        sys.exit(code)
    except TasadorError as error:
        _fail(error)
    except ModuleNotFoundError as error:
        root = (error.name or "").partition(".")[0]
        if root in ("", "tasador"):
            raise
        _fail(MissingExtraError.for_module(root))
    except typer.Exit as ended:
        sys.exit(ended.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        said = "interrupted; what was finished is kept: run the same command to go on"
        err.print(translated(said, language()))
        sys.exit(INTERRUPTED_EXIT_CODE)
    except BrokenPipeError:
        sys.exit(TasadorError.exit_code)  # the reader, such as `head`, has gone: nothing to say
    except OSError as error:
        refused = storage_error(error)
        if refused is None:
            raise
        drop_what_is_not_taken()
        _fail(refused)
    except Exception as error:
        # Typer's own usage errors know how to show themselves.
        if hasattr(error, "format_message") and hasattr(error, "exit_code"):
            _fail(usage_error(error))
        raise
    finally:
        drop_what_is_not_taken()


def usage_error(error: Any) -> ConfigError:
    """Return typer's complaint about a command line as an error of ours."""
    if alike := getattr(error, "possibilities", None):
        return ConfigError(f"{error.message}; {DID_YOU_MEAN} `{alike[0]}`?")
    message, context = error.format_message().rstrip("."), getattr(error, "ctx", None)
    if context is None or DID_YOU_MEAN in message:
        return ConfigError(message)
    return ConfigError(message, remedy=f"see `{context.command_path} --help`")


def _fail(error: TasadorError) -> None:
    from tasador.core.logging import redact

    err.print(f"[bold red]error:[/] {escape(redact(error.told(language())))}")
    sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
