"""The steps' results, kept by content key and verified before they are used again."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tasador.core.files import atomic_folder
from tasador.core.fingerprints import sha256_file

_log = logging.getLogger(__name__)
_SEAL = "artifact.json"


class StepCache:
    """Results under ``<root>/<step>/<key>``, each with the hashes of its files."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def find(self, step: str, key: str) -> Path | None:
        """Return the folder of an intact result, or None when it must be made (again)."""
        folder = self._root / step / key
        if not folder.exists():
            return None
        try:
            files = json.loads((folder / _SEAL).read_text(encoding="utf-8"))
            for name, digest in files.items():
                if sha256_file(folder / name) != digest:
                    raise ValueError(f"{name} has changed")
        except (OSError, ValueError, AttributeError) as error:
            _log.warning("the cached result of %s is damaged (%s): made again", step, error)
            return None
        return folder

    @contextmanager
    def create(self, step: str, key: str) -> Iterator[Path]:
        """Give a folder to fill; it becomes the result only when the body ends well."""
        target = self._root / step / key
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_folder(target) as folder:
            yield folder
            files = {
                path.relative_to(folder).as_posix(): sha256_file(path)
                for path in sorted(folder.rglob("*"))
                if path.is_file()
            }
            (folder / _SEAL).write_text(json.dumps(files, indent=1), encoding="utf-8")

    def journal(self, step: str, key: str) -> Path:
        """Return the file in which a step notes what it has finished, to resume from."""
        return self._root / step / f"{key}.journal.jsonl"
