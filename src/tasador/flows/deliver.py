"""Publish a bundle where services look for it: an object store, or a shared folder."""

from __future__ import annotations

from collections.abc import Callable

from tasador.core.files import Location
from tasador.flows.chosen import BundleChoice, chosen_bundle
from tasador.registry.published import Pointer, publish_bundle


def deliver(
    location: Location, choice: BundleChoice, tell: Callable[[str], None] = lambda _: None
) -> Pointer:
    """Publish a bundle, by default the champion's.

    Args:
        location: Where services look for it.
        choice: Which bundle.
        tell: See `chosen_bundle`.

    Raises:
        BundleError: There is none, it is damaged, or it is of synthetic origin while a real one of
            the same name is published there.
        RegistryError: The registry cannot be reached.
        ConfigError: See `chosen_bundle`.
        StorageError: The store refuses; what was published before still is.
    """
    with chosen_bundle(choice, tell=tell) as chosen:
        return publish_bundle(chosen.folder, location, {"from": chosen.identity})
