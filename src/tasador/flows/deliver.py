"""Publish a bundle where services look for it: an object store, or a shared folder."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tasador.core.deadlines import Deadline
from tasador.core.files import Location
from tasador.registry.folders import newest_bundle
from tasador.registry.offers import fetch_offered, registry_reader
from tasador.registry.published import Pointer, publish_bundle

_FETCH_S = 600.0


def deliver_bundle(location: Location, *, bundle: Path | None, workspace: Path) -> Pointer:
    """Publish a bundle on disk, by default the workspace's newest real one.

    Raises:
        BundleError: There is none, it is damaged, or it is of synthetic origin while a real one of
            the same name is published there.
        StorageError: The store refuses; what was published before still is.
    """
    folder = bundle or newest_bundle(workspace / "bundles")
    return publish_bundle(folder, location, {"from": str(folder)})


def deliver_registered(
    location: Location, *, tracking_uri: str, model_name: str, alias: str
) -> Pointer:
    """Publish the bundle that an alias of the model registry stands for.

    Raises:
        NothingOfferedError: There is no such model or alias.
        RegistryError: The registry cannot be reached.
        BundleError: As `deliver_bundle`.
        StorageError: As `deliver_bundle`.
    """
    reader, deadline = registry_reader(tracking_uri, read_s=30.0), Deadline.after(_FETCH_S)
    offered = reader.resolve(model_name, alias, deadline)
    with tempfile.TemporaryDirectory(prefix="tasador-publish-") as name:
        folder = fetch_offered(reader, offered, Path(name) / "bundle", deadline=deadline)
        return publish_bundle(folder, location, {"from": offered.identity})
