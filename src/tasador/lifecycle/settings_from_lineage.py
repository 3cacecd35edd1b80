"""From a bundle's lineage back to the settings of the run that made it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tasador.core.errors import ConfigError
from tasador.registry.bundle.model_bundle import ModelBundle
from tasador.settings.build import build
from tasador.settings.run import (
    FeatureSettings,
    ImputationSettings,
    RegisterSettings,
    RunSettings,
    SegregateSettings,
    SelectionSettings,
    StorageSettings,
    SweepSettings,
    TrackingSettings,
)

_PARTS: Mapping[str, type[Any]] = {
    "segregate": SegregateSettings,
    "impute": ImputationSettings,
    "features": FeatureSettings,
    "selection": SelectionSettings,
    "sweep": SweepSettings,
    "register": RegisterSettings,
}
#: What a run found, kept beside its configuration.
_FOUND = {"impute": ("chosen",)}


def settings_of(bundle: ModelBundle) -> tuple[RunSettings, tuple[str, ...]]:
    """Return the settings that `bundle` was trained with, and what its lineage does not say.

    What is not said takes its default. Nothing is tracked unless the caller changes that.

    Raises:
        ConfigError: The lineage holds a setting that this version of tasador does not know.
    """
    lineage, missing = bundle.manifest.lineage, []
    given = lineage.get("config") or {}
    parts: dict[str, Any] = {}
    for name, kind in _PARTS.items():
        if name not in given:
            missing.append(f"the settings of {name}")
            continue
        plain = {k: v for k, v in given[name].items() if k not in _FOUND.get(name, ())}
        try:
            parts[name] = build(kind, plain, name)
        except ConfigError as error:
            raise ConfigError(
                f"{bundle.version} was trained with settings that this tasador does not take: "
                f"{error.message}",
                expected=error.expected,
                got=error.got,
                remedy=f"use the code it was trained with: {lineage.get('code_commit', 'unknown')}",
            ) from None
    if "seed" not in lineage:
        missing.append("the seed")
    settings = RunSettings(
        contract=bundle.contract,
        seed=int(lineage.get("seed", 42)),
        tracking=TrackingSettings(enabled=False),
        **parts,
    )
    return settings, tuple(missing)


def in_workspace(settings: RunSettings, workspace: str) -> RunSettings:
    """Return the settings with another workspace."""
    return replace(settings, storage=StorageSettings(workspace))
