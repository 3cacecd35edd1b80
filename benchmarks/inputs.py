"""What benchmarks read: real tables and a workspace's bundle; one line when they are missing.

The tables are in the folder that ``TASADOR_REAL_DATA`` names, else in ``data``.
"""

from __future__ import annotations

import os
from pathlib import Path

from tasador.contract.model import TableContract
from tasador.core import storage
from tasador.core.errors import TasadorError
from tasador.data.sources import load_table
from tasador.data.validation import ValidatedTable, validate_table
from tasador.registry.bundle_stores import newest_bundle
from tasador.settings.compose import compose

REMEDY = "set TASADOR_REAL_DATA to its folder"


def data_folder() -> Path:
    """Return the folder that is searched."""
    return Path(os.environ.get("TASADOR_REAL_DATA", "data")).resolve()


def real_table(name: str) -> Path:
    """Return the table of that name, or end with one line about what is missing."""
    path = data_folder() / name
    if not path.is_file():
        raise SystemExit(f"expected {name} in {data_folder()}: {REMEDY}")
    return path


def table_of(contract: TableContract) -> Path:
    """Return the contract's own table, or end with one line about what is missing."""
    found = storage.find_local(contract.source.paths, [data_folder()])
    if found is None:
        raise SystemExit(f"expected the table of {contract.name} in {data_folder()}: {REMEDY}")
    return found


def housing(folder: Path) -> tuple[TableContract, ValidatedTable]:
    """Return the default table's contract and its rows, encoded."""
    contract = compose(["dataset=california_housing"], project=folder).contract
    try:
        table = load_table(contract, folder, timeout_s=1, attempts=1, offline=True,
                           allow_synthetic=False, seed=0)  # fmt: skip
    except TasadorError as error:
        raise SystemExit(f"{error}. To do: {REMEDY}") from None
    return contract, validate_table(table, contract, max_refused_share=0.1, min_rows=100)


def bundle_folder(workspace: Path) -> Path:
    """Return the newest bundle of a workspace, or end with one line about what is missing."""
    try:
        return newest_bundle(workspace.resolve() / "bundles")
    except TasadorError as error:
        raise SystemExit(str(error)) from None
