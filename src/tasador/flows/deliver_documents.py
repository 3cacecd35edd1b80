"""Publish what belongs to a model's version beside its bundle: data, splits, cards, report.

::

    <location>/versions/<bundle version>/data/<content hash>.parquet
                                         splits/train.parquet, test.parquet
                                         cards/<step>.html, <step>.json, model_card.html, ...
                                         report/report.html

A version's files never change: publishing them again writes the same bytes.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from tasador.core import files
from tasador.core.errors import BundleError, ConfigError
from tasador.data.sources import read_stored
from tasador.data.table import Part
from tasador.flows.judge import split_again
from tasador.flows.model_files import MODEL_FILES
from tasador.flows.runs import run_of_version
from tasador.registry.bundle import ModelBundle, load_bundle

#: Path under the version's folder, and how its content is had.
_Found = Iterator[tuple[str, bytes]]


def deliver_documents(
    location: files.Location, bundle_folder: Path, workspace: Path, kinds: Sequence[str]
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
            where = files.join(location, "versions", bundle.version, kind, path)
            files.write_bytes(where, content)
            written.append(where)
    return written


def _data(bundle: ModelBundle, workspace: Path) -> _Found:
    name = f"{_hash(bundle)}.parquet"
    read_stored(workspace / "data", _hash(bundle))  # verified
    yield name, files.read_bytes(workspace / "data" / name)


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
        yield path.name, files.read_bytes(path)


def _report(bundle: ModelBundle, workspace: Path) -> _Found:
    run = run_of_version(workspace, bundle.version)
    yield "report.html", files.read_bytes(run / "report.html")


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
