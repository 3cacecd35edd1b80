"""Hold a registered version against the gates: fetch, find sealed rows, measure, judge."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tasador.core.errors import TasadorError
from tasador.core.fingerprints import to_plain
from tasador.data.sources import read_stored
from tasador.data.split import split_table
from tasador.data.table import Splits, Table, ValidatedTable
from tasador.data.validate import validate_table
from tasador.flows.lifecycle import Lifecycle
from tasador.registry.bundle import ModelBundle, load_bundle
from tasador.registry.trust import trusted_keys
from tasador.registry.versions import ModelVersion
from tasador.retraining.gate import Cost, GateReport, GateSettings, SealedRows
from tasador.retraining.gates import judge
from tasador.retraining.new_rows import rows_in

_CALLS = 200


@dataclass(frozen=True)
class Judged:
    """A version's gates.

    Attributes:
        version: The version judged.
        champion: The champion's number it was compared with; empty for none.
        report: The gates.
    """

    version: ModelVersion
    champion: str
    report: GateReport

    def details(self) -> dict[str, Any]:
        """Return what the audit trail keeps."""
        return {"gates_summary": self.report.summary, "gates": to_plain(self.report)}


def judge_version(
    lifecycle: Lifecycle,
    version: ModelVersion,
    against: ModelVersion | None,
    settings: GateSettings | None = None,
) -> Judged:
    """Judge `version` against another one, None for the absolute gates only.

    What is judged is what servers would get: both bundles are fetched from the registry anew.

    Raises:
        BundleError: The version's bundle is missing, damaged or answers differently here.
        RegistryError: The registry cannot be reached.
    """
    with fetched(lifecycle, version) as challenger:
        if against is None:
            report = _report(lifecycle, challenger, None, settings)
        else:
            with fetched(lifecycle, against) as champion:
                report = _report(lifecycle, challenger, champion, settings)
    return Judged(version, "" if against is None else against.number, report)


@contextmanager
def fetched(lifecycle: Lifecycle, version: ModelVersion) -> Iterator[ModelBundle]:
    """Give a version's bundle, fetched into a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="tasador-judge-") as folder:
        destination = Path(folder) / "bundle"
        lifecycle.versions.fetch(version.number, destination)
        yield load_bundle(destination, trusted=trusted_keys(lifecycle.place.workspace))


def _report(
    lifecycle: Lifecycle,
    challenger: ModelBundle,
    champion: ModelBundle | None,
    settings: GateSettings | None,
) -> GateReport:
    rows = sealed_rows(challenger, champion, lifecycle.place.workspace / "data")
    return judge(challenger, champion, rows, measure(challenger, champion), settings)


def sealed_rows(
    challenger: ModelBundle, champion: ModelBundle | None, tables: Path
) -> SealedRows | str:
    """Return the challenger's sealed test rows that neither model was trained on, or why not.

    Both runs' splits are made again from the stored tables, by which it is verified, row by row
    and by content, that nobody has seen the rows: rows that the champion was trained on are left
    out and counted.

    Args:
        challenger: The new model.
        champion: The other one.
        tables: Folder of the stored tables.
    """
    try:
        own = split_again(challenger, tables)
    except (TasadorError, KeyError, TypeError) as error:
        return f"the challenger's test rows cannot be had: {error}"
    part = own.sealed.open(f"gates of {challenger.version}")
    seen = np.isin(part.row_hash, own.train.row_hash)
    said = f"{len(part)} test rows of the challenger's run ({own.method} split)"
    if seen.any():
        said += f"; {int(seen.sum())} copies of its training rows left out"
    if champion is not None:
        try:
            other = split_again(champion, tables)
        except (TasadorError, KeyError, TypeError) as error:
            return f"which rows the champion was trained on cannot be told: {error}"
        known = np.isin(part.row_hash, other.train.row_hash)
        if champion.contract.features == challenger.contract.features:
            known |= rows_in(part.X, other.train.X)  # sold again: the champion knows the house
            tested = other.sealed.open(f"which rows of {challenger.version} have another value")
            same = np.isin(part.row_hash, tested.row_hash)
            known |= rows_in(part.X, tested.X) & ~same  # brought to a new level: not observed
        said += f"; {int(known.sum())} of them among the champion's training rows"
        said += ", left out" if known.any() else ": verified by content"
        seen |= known
    part = replace(part, X=part.X[~seen], y=part.y[~seen], row_hash=part.row_hash[~seen])
    return SealedRows(part.X, part.y, said)


def reference_table(bundle: ModelBundle, tables: Path) -> ValidatedTable:
    """Return the validated table of the run that trained `bundle`.

    Raises:
        KeyError: The bundle's lineage does not say which one.
        StorageError: The table is gone or damaged.
        ValidationError: It does not meet the bundle's contract.
    """
    lineage = bundle.manifest.lineage
    settings, content_hash = lineage["config"]["segregate"], lineage["data_hash"]
    table = Table(read_stored(tables, content_hash), content_hash, bundle.manifest.origin, "")
    return validate_table(
        table, bundle.contract, max_refused_share=settings["max_refused_share"],
        min_rows=settings["min_rows"],
    )  # fmt: skip


def split_again(bundle: ModelBundle, tables: Path) -> Splits:
    """Make the split of the run that trained `bundle` again.

    Raises:
        KeyError: The bundle's lineage does not say how.
        StorageError: The table is gone or damaged.
        ValidationError: It does not meet the bundle's contract.
    """
    validated = reference_table(bundle, tables)
    settings = bundle.manifest.lineage["config"]["segregate"]
    return split_table(
        validated,
 method=settings["method"], seed=settings["seed"],
        test_share=settings["test_share"],
    )  # fmt: skip


def measure(challenger: ModelBundle, champion: ModelBundle | None) -> tuple[Cost, Cost | None]:
    """Measure what two bundles take, their calls alternating so that a busy machine is fair."""
    bundles = [challenger] if champion is None else [challenger, champion]
    times: list[list[float]] = [[] for _ in bundles]
    for _ in range(_CALLS):
        for place, bundle in enumerate(bundles):
            started = time.perf_counter()
            bundle.value_arrays(bundle.golden[:1])
            times[place].append(time.perf_counter() - started)
    costs = [
        Cost(
            sum(entry.bytes for entry in bundle.manifest.files.values()),
            float(np.median(times[place])) * 1000.0,
        )
        for place, bundle in enumerate(bundles)
    ]
    return costs[0], costs[1] if len(costs) > 1 else None
