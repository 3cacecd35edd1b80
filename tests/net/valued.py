"""Print what bundles say about rows of stored tables: `python valued.py FOLDER TABLE...`.

A process of its own, so that the same rows are valued with the compiled kernels and without them.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from fixtures.net import rows_of
from tasador import TasadorError, load_bundle


def said(folder: str, table: str) -> dict[str, Any]:
    """Return what a bundle says about each row of a table."""
    bundle = load_bundle(folder)
    rows: list[Any] = []
    for row in rows_of(table):
        try:
            explanation = bundle.explain(row, comparables=3)
        except TasadorError as error:
            rows.append({"error": str(error)})
        else:
            rows.append(dataclasses.asdict(explanation))
            assert bundle.value(row) == explanation.valuation
    return {"engine": bundle.model.engine, "version": bundle.version, "rows": rows}


if __name__ == "__main__":
    words = sys.argv[1:]
    print(json.dumps([said(*pair) for pair in zip(words[::2], words[1::2], strict=True)]))
