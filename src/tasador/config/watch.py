"""Read how a service is watched: the file that ships, a file of the user's over it, variables."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from tasador.config.alert_routes import routes_from
from tasador.config.build import build
from tasador.core.errors import ConfigError
from tasador.monitoring.rules import overridden
from tasador.monitoring.watch_settings import WatchSettings

#: Names a file that is read where a command is given none.
FILE = "TASADOR_WATCH__CONFIG"
_VARIABLE = re.compile(r"\$\{([A-Z][A-Z0-9_]*)\}")


def read_watch_settings(
    file: Path | None = None, environment: Mapping[str, str] | None = None
) -> WatchSettings:
    """Return the settings that ship in ``conf/watch.yaml``, changed by `file` and by variables.

    Of `limits` the file changes those that it names, everything else it replaces.
    ``${NAME}`` in a text of the file stands for an environment variable, so that secrets stay out
    of files. A route of the file replaces the one that TASADOR_ALERTS__* make of that name.

    Args:
        file: YAML; None takes the one that TASADOR_WATCH__CONFIG names, if it names one.
        environment: The variables; this process's when None.

    Raises:
        ConfigError: The file cannot be read, a key is unknown, a value is invalid, or a variable is
            not set or sets nothing.
    """
    environment = os.environ if environment is None else environment
    plain = yaml.safe_load(shipped_file())
    routes: dict[str, Any] = dict(routes_from(environment))
    if file is None and environment.get(FILE):
        file = Path(environment[FILE])
    if file is not None:
        own = _filled(_read(file), file, environment)
        if not isinstance(own, dict):
            raise ConfigError(
                f"{file} holds no settings", expected="keys such as limits: and routes:"
            )
        limits = own.get("limits", {})
        if isinstance(limits, dict):
            own["limits"] = overridden(plain["limits"], limits)
        plain |= own
    found = build(WatchSettings, plain, "watch")
    return found.with_routes(routes)


def shipped_file() -> str:
    """Return the text of ``conf/watch.yaml``."""
    return resources.files("tasador").joinpath("conf", "watch.yaml").read_text("utf-8")


def _read(file: Path) -> Any:
    try:
        plain = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{file} is not valid YAML: {' '.join(str(error).split())}") from None
    return {} if plain is None else plain


def _filled(value: Any, file: Path, environment: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _filled(item, file, environment) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, file, environment) for item in value]
    if not isinstance(value, str):
        return value
    return _VARIABLE.sub(lambda match: _variable(match[1], file, environment), value)


def _variable(name: str, file: Path, environment: Mapping[str, str]) -> str:
    found = environment.get(name)
    if found is None:
        raise ConfigError(f"{file} asks for the environment variable {name}, which is not set")
    return found
