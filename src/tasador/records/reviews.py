"""Desk reviews: the rows of workbooks that were written, and the overrides that came back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tasador.contract.target_check import TargetBounds
from tasador.core import clock
from tasador.records.audit_log import AuditTrail
from tasador.records.database import Database
from tasador.records.dialects import MOST_ROWS, column_names
from tasador.records.record import Override, Record, ReviewRow, new_ids, with_nan
from tasador.records.shared_state import keep_target, kept_targets, model_of

#: The part of a bundle whose records were written for a review; monitors leave them out.
VARIANT = "review"


class Reviewed(NamedTuple):
    """A row of a workbook as it was written, and its override.

    Attributes:
        number: The row's in the file that was valued, from 1.
        version: Name and content hash of the bundle.
        value, lower, upper: As written; NaN where there is none.
        override: The newest one recorded; NaN where there is none.
        reason: Its reason; empty where there is none.
    """

    number: int
    version: str
    value: float
    lower: float
    upper: float
    override: float
    reason: str


class Decision(NamedTuple):
    """What a reviewer decided about a prediction: its value, and why."""

    prediction_id: str
    value: float
    reason: str


@dataclass(frozen=True)
class ReviewResult:
    """What recording decisions did.

    Attributes:
        new: Rows that had no override before.
        changed: Rows whose earlier override has another value or reason; that one stays recorded.
        unchanged: Rows whose override was recorded already.
        kept: Rows with a recorded override about which nothing was decided now: it stays.
    """

    new: int
    changed: int
    unchanged: int
    kept: int


class Reviews:
    """The reviews in a database; every method raises `OutageError` when it cannot be used.

    Args:
        database: Where the tables are.
    """

    def __init__(self, database: Database) -> None:
        self.database = database

    def add(
        self,
        records: Sequence[Record],
        rows: Sequence[ReviewRow],
        bounds: TargetBounds,
        *,
        actor: str,
        file: str,
    ) -> None:
        """Record what a workbook says, all of it or nothing.

        Args:
            records: The valuations, at least one.
            rows: Their rows, of one review.
            bounds: What the model's target may be, by which overrides are checked.
            actor: Who wrote the workbook.
            file: What was valued.
        """
        version, review = records[0].version, rows[0].review
        keep_target(self.database, model_of(version), bounds)
        with self.database.transaction():
            for table, some in (("records", records), ("review_rows", rows)):
                # within a transaction only groups of this size are one statement
                for start in range(0, len(some), MOST_ROWS):
                    self.database.insert(table, some[start : start + MOST_ROWS])
            AuditTrail(self.database).add(
                actor, "write review", model_of(version), to_value=review,
                details={"version": version, "file": file, "rows": len(rows)},
            )  # fmt: skip

    def rows(self, review: str) -> dict[str, Reviewed]:
        """Return the rows of a review by prediction id; none where it is unknown here."""
        found = self.database.execute(
            "SELECT w.prediction_id, w.number, r.version, r.prediction, r.lower, r.upper, "
            "o.value, o.reason FROM review_rows w JOIN records r ON r.id = w.prediction_id "
            "LEFT JOIN overrides o ON o.id = (SELECT max(id) FROM overrides "
            "WHERE prediction_id = w.prediction_id) WHERE w.review = ?",
            (review,),
        )
        rows = {}
        for row in found:
            key, number, version, *values, reason = row
            value, lower, upper, override = with_nan(values)
            rows[key] = Reviewed(int(number), version, value, lower, upper, override, reason or "")
        return rows

    def bounds(self, version: str) -> TargetBounds:
        """Return what an override of a prediction by this bundle may be."""
        return kept_targets(self.database).get(model_of(version), TargetBounds())

    def record(
        self, review: str, decisions: Sequence[Decision], *, actor: str, file: str
    ) -> ReviewResult:
        """Record decisions about rows of a review, all of them or none.

        What is recorded already is not recorded again; the audit trail notes what was.

        Args:
            review: The workbook's id.
            decisions: About its rows, one each.
            actor: Who decided.
            file: The workbook that they come from.
        """
        with self.database.transaction():
            known = self.rows(review)
            made, unchanged = self._overrides(review, decisions, known, actor)
            for start in range(0, len(made), MOST_ROWS):
                self.database.insert("overrides", made[start : start + MOST_ROWS])
            decided = {one.prediction_id for one in decisions}
            had = {key for key, row in known.items() if row.override == row.override}
            changed = sum(one.prediction_id in had for one in made)
            result = ReviewResult(len(made) - changed, changed, unchanged, len(had - decided))
            if made:
                version = known[made[0].prediction_id].version
                AuditTrail(self.database).add(
                    actor, "review", model_of(version), to_value=review,
                    details={"file": file, "new": result.new, "changed": result.changed},
                )  # fmt: skip
        return result

    def _overrides(
        self,
        review: str,
        decisions: Sequence[Decision],
        known: Mapping[str, Reviewed],
        actor: str,
    ) -> tuple[list[Override], int]:
        now, made = clock.seconds(), list[Override]()
        for name, (key, value, reason) in zip(new_ids(len(decisions)), decisions, strict=True):
            row = known[key]
            if (row.override, row.reason) != (value, reason):
                made.append(Override(
                    name, key, review, now, actor, row.value, row.override, value, reason
                ))  # fmt: skip
        return made, len(decisions) - len(made)

    def overrides(self, since: float, until: float, limit: int = 1000) -> list[Override]:
        """Return the overrides recorded in ``since <= time < until``, newest first."""
        rows = self.database.execute(
            f"SELECT {column_names('overrides')} FROM overrides "  # noqa: S608
            "WHERE time >= ? AND time < ? ORDER BY id DESC LIMIT ?",
            (since, until, limit),
        )
        return [Override._make(with_nan(row)) for row in rows]
