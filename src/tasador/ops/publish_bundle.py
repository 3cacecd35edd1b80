"""Publish a bundle to where services look for it, with its documents; sign registered versions.

Publish what belongs to a model's version beside its bundle: data, splits, cards, report.

::

    <location>/versions/<bundle version>/data/<content hash>.parquet
                                         splits/train.parquet, test.parquet
                                         cards/<step>.html, <step>.json, model_card.html, ...
                                         report/report.html

A version's files never change: publishing them again writes the same bytes.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from tasador.core import storage
from tasador.core.errors import BundleError, ConfigError
from tasador.core.storage import Location, check_scheme
from tasador.data.sources import read_stored
from tasador.data.table import Part
from tasador.inference.model_choice import BundleChoice, chosen_bundle
from tasador.lifecycle.api import Place
from tasador.lifecycle.gate_evaluation import split_again
from tasador.registry.bundle_stores import Pointer, publish_bundle
from tasador.registry.manifest import BundleLimits, read_verified
from tasador.registry.mlflow.registry import versions_of
from tasador.registry.model_bundle import ModelBundle, load_bundle
from tasador.registry.signature import password, sign_bundle
from tasador.registry.versions import find_version
from tasador.training.register.tracking import MODEL_FILES
from tasador.training.runs import run_of_version

#: Path under the version's folder, and how its content is had.
_Found = Iterator[tuple[str, bytes]]


def publish_documents(
    location: storage.Location, bundle_folder: Path, workspace: Path, kinds: Sequence[str]
) -> list[str]:
    """Publish the named `DOCUMENTS` of a bundle's version and return where each file is.

    Args:
        location: ``gs://bucket/prefix``, ``s3://bucket/prefix`` or a folder.
        bundle_folder: The bundle.
        workspace: Where its table and its run are kept.
        kinds: Some of `DOCUMENTS`.

    Raises:
        ConfigError: There is no such kind, or the workspace does not keep the version's run.
        BundleError: The bundle is damaged, or its lineage does not name table or split.
        StorageError: The table is gone or damaged, or the store refuses.
    """
    unknown = sorted(set(kinds) - set(DOCUMENTS))
    if unknown:
        raise ConfigError(
            f"{', '.join(unknown)} cannot be published", expected=f"some of {', '.join(DOCUMENTS)}"
        )
    bundle, written = load_bundle(bundle_folder, check_golden=False), []
    for kind in sorted(set(kinds)):
        for path, content in DOCUMENTS[kind](bundle, workspace):
            where = storage.join(location, "versions", bundle.version, kind, path)
            storage.write_bytes(where, content)
            written.append(where)
    return written


def _data(bundle: ModelBundle, workspace: Path) -> _Found:
    name = f"{_hash(bundle)}.parquet"
    read_stored(workspace / "data", _hash(bundle))  # verified
    yield name, storage.read_bytes(workspace / "data" / name)


def _splits(bundle: ModelBundle, workspace: Path) -> _Found:
    _hash(bundle)
    try:
        splits = split_again(bundle, workspace / "data")
    except KeyError as error:
        raise BundleError(f"the lineage of {bundle.version} does not say {error}") from None
    yield "train.parquet", _rows(bundle, splits.train)
    yield "test.parquet", _rows(bundle, splits.sealed.open(f"published with {bundle.version}"))


def _rows(bundle: ModelBundle, part: Part) -> bytes:
    columns = bundle.encoder.decode(np.ascontiguousarray(part.X))
    frame = pl.DataFrame(
        {**columns, bundle.contract.target.name: part.y, "row_hash": part.row_hash}, strict=False
    )
    buffer = io.BytesIO()
    frame.write_parquet(buffer, compression="zstd", statistics=False)
    return buffer.getvalue()


def _cards(bundle: ModelBundle, workspace: Path) -> _Found:
    run = run_of_version(workspace, bundle.version)
    for path in [*sorted((run / "cards").iterdir()), *(run / name for name in MODEL_FILES)]:
        yield path.name, storage.read_bytes(path)


def _report(bundle: ModelBundle, workspace: Path) -> _Found:
    run = run_of_version(workspace, bundle.version)
    yield "report.html", storage.read_bytes(run / "report.html")


def _hash(bundle: ModelBundle) -> str:
    found = bundle.manifest.lineage.get("data_hash")
    if not isinstance(found, str):
        raise BundleError(f"the lineage of {bundle.version} does not name its table")
    return found


#: What can be published of a version, by kind.
DOCUMENTS: dict[str, Callable[[ModelBundle, Path], _Found]] = {
    "data": _data,
    "splits": _splits,
    "cards": _cards,
    "report": _report,
}


def publish_registered(
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
        documents: See `publish_documents`.

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
        written = publish_documents(location, chosen.folder, choice.workspace, documents)
        pointer = publish_bundle(chosen.folder, location, {"from": chosen.identity})
        return pointer, written


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
