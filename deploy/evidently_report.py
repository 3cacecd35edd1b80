"""Evidently's drift report of two tables, for those who know it: run through `make evidently`.

Runs in an environment of its own: Evidently does not work with the pandas that tasador trains with.
What tasador itself says of the same tables is `tasador monitor --reference ... --current ...`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd
from evidently import DataDefinition, Dataset, Report
from evidently.presets import DataDriftPreset, DataSummaryPreset


def read(path: str) -> pd.DataFrame:
    """Read a CSV or Parquet file."""
    file = Path(path)
    if not file.exists():
        sys.exit(f"error: {path}: expected a CSV or Parquet file, got nothing there")
    return pd.read_parquet(file) if file.suffix == ".parquet" else pd.read_csv(file)


def main(reference: str, current: str, out: str) -> None:
    """Write the report."""
    before, now = read(reference), read(current)
    shared = [name for name in before.columns if name in now.columns]
    if not shared:
        sys.exit("error: the tables share no column")
    definition = DataDefinition()
    report = Report([DataDriftPreset(), DataSummaryPreset()])
    made = report.run(
        Dataset.from_pandas(now[shared], data_definition=definition),
        Dataset.from_pandas(before[shared], data_definition=definition),
    )
    made.save_html(out)
    print(f"wrote {out}: {len(shared)} columns, {len(before)} and {len(now)} rows")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: evidently_report.py REFERENCE CURRENT OUT.html")
    main(*sys.argv[1:])
