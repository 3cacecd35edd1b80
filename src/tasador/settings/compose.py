"""Compose the settings of a run with Hydra: defaults, groups, the user's ``conf/``, overrides."""

from __future__ import annotations

import importlib.resources
import re
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tasador.contract.reader import from_dict
from tasador.core.errors import ConfigError, did_you_mean
from tasador.core.hashing import to_plain
from tasador.settings.run import RunSettings
from tasador.settings.validation import InvalidSettingError, build_each, fields_of


def conf_folder() -> Path:
    """Return the folder of the configuration that ships with the package."""
    return Path(str(importlib.resources.files("tasador"))) / "conf"


def datasets(project: Path | None = None) -> list[str]:
    """Return the names that ``dataset=`` takes: the shipped ones and the project's."""
    folders = [conf_folder(), *([] if project is None else [project / "conf"])]
    return sorted({path.stem for f in folders for path in (f / "dataset").glob("*.yaml")})


def compose(overrides: Sequence[str], project: Path | None = None) -> RunSettings:
    """Return the settings for a run.

    Args:
        overrides: Hydra overrides, e.g. ``["dataset=diamonds", "sweep.trials=5"]``.
        project: Folder whose ``conf/`` adds to the shipped groups; a file there wins.

    Raises:
        ConfigError: A key, value or group that nobody knows.

    Example:
        >>> import tasador
        >>> settings = tasador.compose(["dataset=diamonds", "sweep.trials=5"])
        >>> settings.contract.name, settings.sweep.trials
        ('diamonds', 5)
    """
    for override in overrides:
        if "=" not in override and not override.startswith("~"):
            raise ConfigError(
                f"{override!r} is not a setting",
                expected="key=value",
                remedy="for example dataset=diamonds or sweep.trials=5",
            )
    plain = _composed(overrides, project)
    contract = from_dict(plain.pop("dataset"))
    kinds = fields_of(RunSettings)
    del kinds["contract"]
    return RunSettings(contract=contract, **build_each(kinds, plain))


def _composed(overrides: Sequence[str], project: Path | None) -> dict[str, Any]:
    # Hydra refuses a second initialisation in a process: what a caller left is cleared first
    search = [] if project is None else [_search_path(project)]
    GlobalHydra.instance().clear()
    try:
        with warnings.catch_warnings(), _shipped(project) as folder:
            warnings.simplefilter("ignore")
            with initialize_config_dir(str(folder), version_base="1.3"):
                config = hydra_compose("config", overrides=[*search, *overrides])
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError) as error:
        raise _explained(error, project) from None
    finally:
        GlobalHydra.instance().clear()
    if not isinstance(plain, dict):
        raise ConfigError("the configuration is not a mapping")
    return {str(key): value for key, value in plain.items()}


def _search_path(project: Path) -> str:
    folder = str((project / "conf").resolve()).replace("\\", "\\\\").replace("'", "\\'")
    return f"hydra.searchpath=['file://{folder}']"


@contextmanager
def _shipped(project: Path | None) -> Iterator[Path]:
    """Give the folder of the shipped configuration, without files that the project has itself.

    Hydra looks there before it looks along its search path, and takes the first file of a name.
    """
    shipped = conf_folder()
    own = None if project is None else project / "conf"
    both = [] if own is None else [
        file for file in shipped.glob("*/**/*.yaml") if (own / file.relative_to(shipped)).exists()
    ]  # fmt: skip
    if not both:
        yield shipped
        return
    with tempfile.TemporaryDirectory(prefix="tasador-conf-") as folder:
        shutil.copytree(shipped, folder, dirs_exist_ok=True)
        for file in both:
            (folder / file.relative_to(shipped)).unlink()
        yield Path(folder)


def _explained(error: Exception, project: Path | None) -> ConfigError:
    """Turn Hydra's message into ours, with the datasets there are when one was not found."""
    text = str(error).split("\nfull_key")[0].strip()
    if isinstance(error, yaml.YAMLError):
        return ConfigError(
            f"a file of the configuration is not valid YAML: {' '.join(text.split())}",
            remedy="correct it at the place named",
        )
    if "dataset/" in text:
        known = datasets(project)
        asked = text.split("dataset/", 1)[1].split("'", 1)[0].split("\n", 1)[0]
        return ConfigError(
            f"unknown dataset {asked!r}",
            expected=f"one of {', '.join(known)}",
            remedy=did_you_mean(asked, known)
            or "write its contract with `tasador init FILE --target COLUMN`",
        )
    group = re.search(r"Could not find '(\w+)/([^']*)'", text)
    if group is not None:
        known = sorted(file.stem for file in (conf_folder() / group[1]).glob("*.yaml"))
        return InvalidSettingError.of_value(
            group[1], "", f"one of {', '.join(known)}", group[2], known
        )
    missing = re.search(r"Could not override '([\w.]+)'", text)
    if missing is not None:
        return _no_such_key(missing[1].split("."))
    lines = [line for line in text.splitlines() if line.strip()]
    return ConfigError(
        f"the configuration cannot be composed: {' '.join(lines[:3])}",
        remedy="see docs/reference/configuration.md for the keys there are",
    )


def _no_such_key(path: list[str]) -> ConfigError:
    """Return the error for a key that the composed defaults do not have."""
    node: Any = _composed([], None)
    for depth, name in enumerate(path):
        if not isinstance(node, dict) or name not in node:
            known = set(node) if isinstance(node, dict) else set()
            if depth == 0:  # groups of which nothing but their own settings is left
                known |= {folder.name for folder in conf_folder().iterdir() if folder.is_dir()}
            return InvalidSettingError.unknown(".".join(path[: depth + 1]), name, sorted(known))
        node = node[name]
    where = ".".join(path)
    return ConfigError(
        f"{where}: a value between braces is merged into what is there and may not add keys",
        remedy=f"add a key with +{where}.NAME=..., take one away with ~{where}.NAME",
    )


def to_yaml(value: Any) -> str:
    """Return plain values or dataclasses as YAML text, keys in their order."""
    return yaml.safe_dump(to_plain(value), sort_keys=False, allow_unicode=True)
