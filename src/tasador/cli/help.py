"""Help of the commands: plain text under headings, and "did you mean" for mistyped words."""

from __future__ import annotations

import textwrap
from difflib import get_close_matches
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

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
