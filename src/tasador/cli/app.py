"""`tasador`: the commands, and how errors become messages and exit codes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer

import tasador
from tasador.cli import canary, models, operate, records, scoring, stack, start, watch
from tasador.cli.help import DID_YOU_MEAN, Command, Group
from tasador.cli.output import accept_any_encoding, drop_what_is_not_taken, err, escape, out
from tasador.core.errors import INTERRUPTED_EXIT_CODE, ConfigError, MissingExtraError, TasadorError
from tasador.core.logging import configure_logs
from tasador.core.storage import storage_error

Commands = Mapping[str, Callable[..., None]]


def _group(help: str, commands: Commands) -> typer.Typer:
    found = typer.Typer(cls=Group, help=help)
    for name, function in commands.items():
        found.command(name, cls=Command)(function)
    return found


#: What `tasador --help` lists, in its order.
COMMANDS: dict[str, dict[str, Callable[..., None] | typer.Typer]] = {
    "Start": {
        "demo": stack.demo,
        "init": start.init,
        "run": start.run,
        "predict": scoring.predict,
        "explain": scoring.explain,
        "score": scoring.score,
        "runs": start.runs,
        "report": start.report,
        "doctor": start.doctor,
    },
    "Models": {
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
        "up": stack.up,
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


def main() -> None:
    """Run the command line; every error that is ours ends without a traceback."""
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
        err.print("interrupted; what was finished is kept: run the same command to go on")
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

    err.print(f"[bold red]error:[/] {escape(redact(str(error)))}")
    sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
