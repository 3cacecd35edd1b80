"""Sign a registered version where it lies."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tasador.flows.lifecycle import Place
from tasador.registry.mlflow_versions import versions_of
from tasador.registry.signature import sign_bundle
from tasador.registry.trust import password
from tasador.registry.verify import BundleLimits, read_verified
from tasador.registry.versions import find_version


def sign_registered(place: Place, wanted: str, key: Path) -> tuple[str, str]:
    """Sign a version of the registry.

    Only the signature is added to the version's files. The caller vouches for what is there.

    Args:
        place: The registry and the model.
        wanted: A number, alias or bundle's version.
        key: The private key.

    Returns:
        The version's number and the bundle's content hash.

    Raises:
        BundleError: The version's bundle is damaged.
        ConfigError: There is no such version, or the key cannot be used.
        RegistryError: The registry cannot be reached or takes no file.
    """
    versions = versions_of(place.registry_uri, place.model_name)
    version = find_version(versions, wanted)
    with tempfile.TemporaryDirectory(prefix="tasador-sign-") as temporary:
        folder = Path(temporary) / "bundle"
        versions.fetch(version.number, folder, trusted=None)
        manifest, _ = read_verified(folder, BundleLimits())
        versions.add(version.number, sign_bundle(folder, key, password()))
    return version.number, manifest.content_hash
