"""Where a table is looked for on this machine, without a library that reads it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from tasador.contract.model import TableContract
from tasador.core import storage

#: A folder with tables, searched after the working folder.
REAL_DATA_VARIABLE = "TASADOR_REAL_DATA"


def find_local(contract: TableContract, search: Sequence[storage.Location] = ()) -> Path | None:
    """Return the local file that `load_table` would read first, or None when there is none."""
    for place in places(contract.source.paths, search):
        if storage.is_remote(place):
            return None  # an object comes first; what it holds is only known by reading it
        for file in storage.find(place):
            if storage.exists(file) and not storage.is_folder(file):
                return Path(file)
    return None


def places(paths: Sequence[str], search: Sequence[storage.Location]) -> Iterator[str]:
    """Yield the locations to try, in order, each once."""
    folders = [*search]
    if os.environ.get(REAL_DATA_VARIABLE):
        folders.append(os.environ[REAL_DATA_VARIABLE])
    for place in folders:
        storage.check_scheme(place)
    seen = set()
    for folder in [None, *folders]:
        for path in paths:
            if storage.is_remote(path) or Path(path).is_absolute() or folder is None:
                candidates = [path]
            else:
                candidates = [storage.join(folder, name) for name in (path, Path(path).name)]
            for candidate in candidates:
                if candidate not in seen:
                    seen.add(candidate)
                    yield candidate
