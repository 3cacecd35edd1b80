"""Publish a bundle where services look for it: an object store, or a shared folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tasador.core.files import Location, check_scheme
from tasador.flows.chosen import BundleChoice, chosen_bundle
from tasador.flows.deliver_documents import deliver_documents
from tasador.registry.published import Pointer, publish_bundle


def deliver(
    location: Location,
    choice: BundleChoice,
    tell: Callable[[str], None] = lambda _: None,
    documents: Sequence[str] = (),
) -> tuple[Pointer, list[str]]:
    """Publish a bundle, by default the champion's, and return where the documents are.

    The documents are written first: a bundle that is offered has them.

    Args:
        location: Where services look for it.
        choice: Which bundle.
        tell: See `chosen_bundle`.
        documents: See `deliver_documents`.

    Raises:
        BundleError: There is none, it is damaged, or it is of synthetic origin while a real one of
            the same name is published there.
        RegistryError: The registry cannot be reached.
        ConfigError: See `chosen_bundle`.
        StorageError: The store refuses; what was published before still is.
    """
    with chosen_bundle(choice, tell=tell) as chosen:
        check_scheme(location)
        chosen.load()
        written = deliver_documents(location, chosen.folder, choice.workspace, documents)
        pointer = publish_bundle(chosen.folder, location, {"from": chosen.identity})
        return pointer, written
