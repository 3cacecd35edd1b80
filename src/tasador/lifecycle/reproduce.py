"""Build a registered version again from its lineage, and compare every answer."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tasador.core.errors import ConfigError, StorageError, TasadorError, ValidationError
from tasador.core.hashing import code_version
from tasador.data.sources import load_table, read_stored
from tasador.lifecycle.api import Lifecycle
from tasador.lifecycle.errors import LineageError
from tasador.registry.model_bundle import ModelBundle, load_bundle
from tasador.registry.versions import find_version
from tasador.settings.run import (
    FeatureSettings,
    ImputationSettings,
    ModelSettings,
    RegisterSettings,
    RunSettings,
    SegregateSettings,
    SelectionSettings,
    StorageSettings,
    SweepSettings,
    TrackingSettings,
)
from tasador.settings.validation import build
from tasador.training.context import StoredTable, code_commit, library_versions
from tasador.training.pipeline import train
from tasador.training.step_cache import OnStep

_PARTS: Mapping[str, type[Any]] = {
    "segregate": SegregateSettings,
    "impute": ImputationSettings,
    "features": FeatureSettings,
    "selection": SelectionSettings,
    "sweep": SweepSettings,
    "register": RegisterSettings,
    "model": ModelSettings,
}
#: Said only where they are not the defaults.
_UNSAID = frozenset({"model"})
#: What a run found, kept beside its configuration.
_FOUND = {"impute": ("chosen",)}
#: What was done before there was a setting for it, where that is not the default now.
_BEFORE = {"register": {"refit": "never"}}


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
            if name not in _UNSAID:
                missing.append(f"the settings of {name}")
            continue
        found = {k: v for k, v in given[name].items() if k not in _FOUND.get(name, ())}
        plain = _BEFORE.get(name, {}) | found
        try:
            parts[name] = build(kind, plain, name)
        except ConfigError as error:
            commit = lineage.get("code_commit", "unknown")
            raise LineageError.of_settings(bundle.version, commit, error) from None
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


_PACKAGES = ["core", "contract", "settings", "data", "trees", "features", "modeling", "selection"]


@dataclass(frozen=True)
class Reproduced:
    """What building a version again showed.

    Attributes:
        version: The bundle's version.
        rebuilt: The version of what was built; None when it could not be.
        identical: Whether every prediction and interval is equal bit by bit.
        rows: How many rows were valued with both.
        largest: Largest relative difference of a prediction.
        differences: What is different here from where it was trained: code, libraries.
        missing: What is needed and not there.
    """

    version: str
    rebuilt: str | None
    identical: bool
    rows: int
    largest: float
    differences: tuple[str, ...]
    missing: tuple[str, ...]


def reproduce(
    lifecycle: Lifecycle,
    wanted: str,
    *,
    on_step: OnStep | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Reproduced:
    """Train the version `wanted` again in a temporary workspace and compare the answers.

    Args:
        lifecycle: The model's.
        wanted: A number, alias or bundle's version.
        on_step: Called with each step.
        tell: Called with what differs before training begins.

    Raises:
        BundleError: The version's bundle is missing or damaged.
        TasadorError: Training failed.
    """
    version = find_version(lifecycle.versions, wanted)
    with (
        lifecycle.fetched(version) as bundle,
        tempfile.TemporaryDirectory(prefix="tasador-reproduce-") as name,
    ):
        folder = Path(name)
        settings, missing = settings_of(bundle)
        differences = _differences(bundle)
        table = _table(bundle, lifecycle.place.workspace / "data", folder / "data")
        # before the training, which may take hours: one may want to stop it for these
        for difference in differences:
            tell(difference)
        if isinstance(table, str):
            return Reproduced(
                bundle.version, None, False, 0, float("nan"), differences, (*missing, table)
            )
        outcome = train(in_workspace(settings, name), on_step, table)
        assert outcome.outcome is not None  # noqa: S101 - all steps were asked for
        built = load_bundle(folder / "bundles" / outcome.outcome["folder"], trusted=None)
        X = _rows(bundle, folder / "data", table.content_hash)
        own, other = bundle.value_arrays(X), built.value_arrays(X)
        # a difference from an estimate of zero would be divided by zero
        gaps = np.abs(other[0] - own[0]) / np.maximum(np.abs(own[0]), 1e-300)
        return Reproduced(
            bundle.version,
            built.version,
            all(np.array_equal(a, b) for a, b in zip(own, other, strict=True)),
            len(X),
            float(np.max(gaps)),
            differences,
            missing,
        )


def _differences(bundle: ModelBundle) -> tuple[str, ...]:
    """Return what decides a model's numbers and is different here."""
    lineage, found = bundle.manifest.lineage, []
    if lineage.get("code_version") != code_version(_PACKAGES):
        commit = lineage.get("code_commit", "not recorded")
        found.append(f"code: trained by {commit}, here is {code_commit()}")
    here = library_versions()
    for library, then in sorted((lineage.get("libraries") or {}).items()):
        now = here.get(library, "not installed")
        if now != then:
            found.append(f"{library}: trained with {then}, here is {now}")
    return tuple(found)


def _table(bundle: ModelBundle, stored: Path, folder: Path) -> StoredTable | str:
    """Bring the training table into `folder`: from the store, or read again from its source."""
    lineage = bundle.manifest.lineage
    content_hash = lineage.get("data_hash")
    if not isinstance(content_hash, str):
        return "the table: the lineage does not name it"
    given = StoredTable(content_hash, bundle.manifest.origin, str(lineage.get("source", "")))
    try:
        read_stored(stored, content_hash)
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(stored / f"{content_hash}.parquet", folder / f"{content_hash}.parquet")
    except StorageError:
        pass
    else:
        return given
    synthetic = bundle.manifest.origin == "synthetic"
    try:
        found = load_table(
            bundle.contract, folder, allow_synthetic=synthetic, timeout_s=10.0, attempts=1,
            seed=int(lineage.get("seed", 42)),
        )  # fmt: skip
    except TasadorError as error:
        return f"the table {content_hash[:12]}: not in {stored}, and {error.message}"
    if found.content_hash != content_hash:
        return (
            f"the table {content_hash[:12]}: not in {stored}, and {found.source} holds another one "
            f"({found.content_hash[:12]})"
        )
    return given


def _rows(
    bundle: ModelBundle, folder: Path, content_hash: str
) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Return every row of the table, encoded, and the bundle's golden rows."""
    frame = read_stored(folder, content_hash)
    columns = {
        name: frame[name].to_list()
        for name in bundle.contract.readable_names
        if name in frame.columns
    }
    try:
        X = bundle.encoder.columns(columns)
    except ValidationError:  # text that only validation reads, e.g. dates as a file has them
        X = bundle.golden
    good = ~np.isnan(X).all(axis=1)
    return np.vstack([bundle.golden, X[good]])
