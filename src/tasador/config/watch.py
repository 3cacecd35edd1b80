"""Read how a service is watched from a YAML file."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import yaml

from tasador.config.build import build
from tasador.core.errors import ConfigError
from tasador.monitoring.watch_settings import WatchSettings

_VARIABLE = re.compile(r"\$\{([A-Z][A-Z0-9_]*)\}")


def read_watch_settings(file: Path | None) -> WatchSettings:
    """Return the settings in `file`; the defaults without one.

    ``${NAME}`` in a text stands for an environment variable, so that secrets stay out of files.

    Raises:
        ConfigError: The file cannot be read, a key is unknown, a value cannot be meant, or a
            variable is not set.
    """
    if file is None:
        return WatchSettings()
    try:
        plain = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{file} is not valid YAML: {' '.join(str(error).split())}") from None
    return build(WatchSettings, _filled({} if plain is None else plain, file), "watch")


def _filled(value: Any, file: Path) -> Any:
    if isinstance(value, dict):
        return {key: _filled(item, file) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, file) for item in value]
    return (
        _VARIABLE.sub(lambda m: _variable(m[1], file), value) if isinstance(value, str) else value
    )


def _variable(name: str, file: Path) -> str:
    found = os.environ.get(name)
    if found is None:
        raise ConfigError(f"{file} asks for the environment variable {name}, which is not set")
    return found
