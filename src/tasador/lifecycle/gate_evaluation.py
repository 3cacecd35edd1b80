"""Evaluate the gates for a registered version: fetch, find held-out rows, measure, compare."""

from __future__ import annotations

import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from tasador.core.errors import TasadorError
from tasador.core.hashing import to_plain
from tasador.data.sources import read_stored
from tasador.data.split import split_table
from tasador.data.table import Splits, Table, ValidatedTable
from tasador.data.validation import validate_table
from tasador.lifecycle.api import Lifecycle
from tasador.lifecycle.gates import Cost, GateReport, HeldOutRows, evaluate_gates, least_rows
from tasador.lifecycle.new_rows import rows_in
from tasador.lifecycle.retraining_policy import HeldOut
from tasador.registry.model_bundle import ModelBundle
from tasador.registry.versions import ModelVersion
from tasador.settings.run import GateSettings, SegregateSettings

_CALLS = 200


@dataclass(frozen=True)
class VersionEvaluation:
    """A version's gates.

    Attributes:
        version: The version evaluated.
        champion: The champion's number it was compared with; empty for none.
        report: The gates.
    """

    version: ModelVersion
    champion: str
    report: GateReport

    def details(self) -> dict[str, Any]:
        """Return what the audit trail keeps."""
        return {"gates_summary": self.report.summary, "gates": to_plain(self.report)}


def evaluate_version(
    lifecycle: Lifecycle,
    version: ModelVersion,
    against: ModelVersion | None,
    settings: GateSettings | None = None,
) -> VersionEvaluation:
    """Evaluate `version` against another one, None for the absolute gates only.

    What is evaluated is what servers would get: both bundles are fetched from the registry again.

    Raises:
        BundleError: The version's bundle is missing, damaged or answers differently here.
        RegistryError: The registry cannot be reached.
    """
    with lifecycle.fetched(version) as challenger:
        if against is None:
            report = _report(lifecycle, challenger, None, settings)
        else:
            with lifecycle.fetched(against) as champion:
                report = _report(lifecycle, challenger, champion, settings)
    return VersionEvaluation(version, "" if against is None else against.number, report)


def _report(
    lifecycle: Lifecycle,
    challenger: ModelBundle,
    champion: ModelBundle | None,
    settings: GateSettings | None,
) -> GateReport:
    rows = held_out_rows(challenger, champion, lifecycle.place.workspace / "data")
    return evaluate_gates(challenger, champion, rows, measure(challenger, champion), settings)


def held_out_rows(
    challenger: ModelBundle, champion: ModelBundle | None, tables: Path
) -> HeldOutRows | str:
    """Return the challenger's held-out test rows that neither model was trained on, or why not.

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
    other = None
    if champion is not None:
        try:
            other = split_again(champion, tables)
        except (TasadorError, KeyError, TypeError) as error:
            return f"which rows the champion was trained on is unknown: {error}"
    same = champion is not None and champion.contract.features == challenger.contract.features
    return _unseen(own, other, challenger.version, same_columns=same)


def held_out(
    table: Table,
    champion: ModelBundle,
    reference: ValidatedTable,
    how: SegregateSettings,
    gates: GateSettings,
) -> HeldOut:
    """Count the rows on which a model of `table` would be compared with the champion.

    They are the rows that `held_out_rows` would return once it was trained.

    Args:
        table: The new training table.
        champion: The model whose place would be taken; its contract is the table's.
        reference: The champion's own table, see `reference_table`.
        how: How the table would be validated and split.
        gates: How strict the gates are.
    """
    try:
        own = _split(_validated(table, champion, how), how)
        known = _split(reference, _how(champion))
        rows = _unseen(own, known, "a new model", same_columns=True)
    except (TasadorError, KeyError, TypeError) as error:
        return HeldOut(problem=str(error))
    held = len(own.sealed.open("how many rows the gates would have"))
    return HeldOut(held, len(rows.actual), how.test_share, least_rows(gates))


def _unseen(own: Splits, other: Splits | None, name: str, *, same_columns: bool) -> HeldOutRows:
    """Return the held-out rows of `own` that are in the training part of neither split."""
    part = own.sealed.open(f"gates of {name}")
    # a table may hold a row twice, and a random split puts one on either side
    seen = np.isin(part.row_hash, own.train.row_hash)
    said = f"{len(part)} test rows of the challenger's run ({own.method} split)"
    if seen.any():
        said += f"; {int(seen.sum())} copies of its training rows left out"
    if other is not None:
        known = np.isin(part.row_hash, other.train.row_hash)
        # under another contract equal numbers do not mean equal rows
        if same_columns:
            known |= rows_in(part.X, other.train.X)  # sold again: the champion knows the house
            tested = other.sealed.open(f"which rows of {name} have another value")
            same = np.isin(part.row_hash, tested.row_hash)
            known |= rows_in(part.X, tested.X) & ~same  # brought to a new level: not observed
        said += f"; {int(known.sum())} of them among the champion's training rows"
        said += ", left out" if known.any() else ": verified by content"
        seen |= known
    return HeldOutRows(part.X[~seen], part.y[~seen], said)


def reference_table(bundle: ModelBundle, tables: Path) -> ValidatedTable:
    """Return the validated table of the run that trained `bundle`.

    Raises:
        KeyError: The bundle's lineage does not say which one.
        StorageError: The table is gone or damaged.
        ValidationError: It does not meet the bundle's contract.
    """
    lineage = bundle.manifest.lineage
    content_hash, how = lineage["data_hash"], _how(bundle)
    table = Table(read_stored(tables, content_hash), content_hash, bundle.manifest.origin, "")
    return _validated(table, bundle, how)


def split_again(bundle: ModelBundle, tables: Path) -> Splits:
    """Make the split of the run that trained `bundle` again.

    Raises:
        KeyError: The bundle's lineage does not say how.
        StorageError: The table is gone or damaged.
        ValidationError: It does not meet the bundle's contract.
    """
    return _split(reference_table(bundle, tables), _how(bundle))


def _validated(table: Table, bundle: ModelBundle, how: SegregateSettings) -> ValidatedTable:
    return validate_table(
        table, bundle.contract, max_refused_share=how.max_refused_share, min_rows=how.min_rows
    )


def _split(validated: ValidatedTable, how: SegregateSettings) -> Splits:
    return split_table(validated, how)


def _how(bundle: ModelBundle) -> SegregateSettings:
    plain = bundle.manifest.lineage["config"]["segregate"]
    names = [field.name for field in fields(SegregateSettings)]
    return SegregateSettings(**{name: plain[name] for name in names if name in plain})


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
