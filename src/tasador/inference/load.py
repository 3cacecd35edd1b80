"""`load_bundle` as Python programs call it: a bundle's folder, or a workspace and its champion."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tasador.registry import model_bundle as bundles
from tasador.registry.manifest import MANIFEST_NAME

if TYPE_CHECKING:
    from tasador.registry.manifest import BundleLimits
    from tasador.registry.model_bundle import ModelBundle
    from tasador.registry.signature import Trusted


def load_bundle(
    folder: str | Path,
    *,
    model: str | None = None,
    alias: str | None = None,
    version: str | None = None,
    check_golden: bool = True,
    threads: int = 1,
    limits: BundleLimits | None = None,
    trusted: Trusted = "configured",
) -> ModelBundle:
    """Load and verify a bundle.

    Args:
        folder: The bundle's folder; or a workspace, from whose registry the champion is taken, as
            by every command. That needs the extra ``serve``.
        model: With a workspace: the model's name, where it holds several.
        alias: With a workspace: another alias than champion.
        version: With a workspace: a version's number instead of an alias.
        check_golden: Whether to value the golden rows and compare with their kept answers.
        threads: How many threads share a batch of rows.
        limits: Sizes above which the bundle is refused.
        trusted: Keys, one of which must have signed the bundle; by default those of
            TASADOR_SOURCE__TRUSTED_KEYS, or the workspace's own. None asks for no signature.

    Raises:
        BundleError: The folder is no bundle, or one that is damaged, incomplete, tampered with, too
            large, of an unknown format, not signed by a trusted key where one is asked for, or
            that answers differently on this machine.
        ConfigError: The alias or version cannot be resolved, or which of several models is meant is
            not clear.
        RegistryError: The workspace's registry cannot be read.

    Example:
        >>> import tasador
        >>> bundle = tasador.load_bundle("cars")
        >>> bundle.version, bundle.origin
        ('cars_model-8c615dec97ef', 'real')
    """

    def load(path: Path, trusted: Trusted) -> ModelBundle:
        return bundles.load_bundle(
            path, check_golden=check_golden, threads=threads, limits=limits, trusted=trusted
        )

    path = Path(folder)
    named = (model, alias, version) != (None, None, None)
    # a workspace holds bundles/; anything else is reported as the bundle that it should be
    if not named and ((path / MANIFEST_NAME).exists() or not (path / "bundles").is_dir()):
        return load(path, trusted)
    # imported where it is needed: a bundle's folder loads without the extra `serve`
    from tasador.inference.model_choice import BundleChoice, chosen_bundle
    from tasador.registry.signature import TrustedKeys

    choice = BundleChoice(path, model=model, alias=alias, version=version)
    with chosen_bundle(choice) as chosen:
        own = TrustedKeys.read(chosen.trusted) if trusted == "configured" else trusted
        return load(chosen.folder, own)
