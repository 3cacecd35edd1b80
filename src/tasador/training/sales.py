"""Which sales may teach: suspicious ones are listed, a person decides, and the decision is obeyed.

The review file is a CSV with a line for each suspicious sale. Its column ``keep`` is filled in with
``yes`` or ``no``; a line is recognised by the hash of its row's content, or else by row number and
price, so that an edited table mixes no decisions up.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tasador.contract.model import TableContract
from tasador.core.escape import cell
from tasador.core.storage import read_bytes, write_text
from tasador.data.contract_tables import with_files_read, with_levels_learned
from tasador.data.readers import read_table
from tasador.data.sources import load_table
from tasador.data.table import Part, Splits, Table, ValidatedTable
from tasador.data.validation import validate_table
from tasador.reporting.cards import CardBuilder
from tasador.selection.errors import SalesError
from tasador.selection.suspicious_sales import Suspicion, suspect_sales
from tasador.settings.run import DownloadSettings, RunSettings, SegregateSettings
from tasador.training.errors import SalesReviewError

Flags = NDArray[np.bool_]

_ID, _ROW, _KEEP, _REASONS = "id", "row", "keep", "reasons"
_EVIDENCE = ("expected", "score", "model z", "level z", "per area z")
_WORDS = {"yes": True, "y": True, "no": False, "n": False}
_SHOWN = 10


@dataclass(frozen=True)
class Decisions:
    """What a person decided about the rows of a table.

    Attributes:
        keep: Shape (n,): rows that stay whatever speaks against them.
        drop: Shape (n,): rows that are left out.
        lost: Lines with a decision whose row is not in the table, as they were written.
    """

    keep: Flags
    drop: Flags
    lost: tuple[dict[str, Any], ...] = ()

    @classmethod
    def none(cls, rows: int) -> Decisions:
        """Return no decision about any of so many rows."""
        return cls(np.zeros(rows, np.bool_), np.zeros(rows, np.bool_))

    def word(self, at: int) -> str:
        """Return what was decided about the row at a position, as it is written."""
        return "yes" if self.keep[at] else "no" if self.drop[at] else ""


def read_decisions(path: str | Path, table: ValidatedTable) -> Decisions:
    """Read a review file, a CSV or an Excel workbook.

    Args:
        path: The file.
        table: The rows that it is about.

    Raises:
        SalesReviewError: A column is missing, a word is neither yes nor no, or no line is about a
            row of the table.
        SourceError: It is no table.
    """
    decisions = Decisions.none(len(table.y))
    if str(path).lower().endswith(".csv") and b"\n" not in read_bytes(path).strip():
        return decisions  # a header alone: nothing was suspicious
    frame = read_table(path, known=(_ID, _ROW, _KEEP, _REASONS))
    for name in (_ID, _KEEP):
        if name not in frame.columns:
            raise SalesReviewError.no_column(path, name, frame.columns)
    find = _finder(table)
    lost, found = [], False
    for number, line in enumerate(frame.iter_rows(named=True), 1):
        word = str(line[_KEEP] if line[_KEEP] is not None else "").strip()
        if word and word.lower() not in _WORDS:
            raise SalesReviewError.unknown_word(path, number, word)
        rows = find(line)
        found |= len(rows) > 0
        if word and len(rows):
            wanted, other = decisions.keep, decisions.drop
            if not _WORDS[word.lower()]:
                wanted, other = other, wanted
            wanted[rows], other[rows] = True, False
        elif word:
            lost.append(line)
    if not found:
        raise SalesReviewError.other_table(path, table.source)
    return replace(decisions, lost=tuple(lost))


def _finder(table: ValidatedTable) -> Callable[[dict[str, Any]], Sequence[int]]:
    """Return a function that gives the positions of the rows that a line is about."""
    by_id: dict[str, list[int]] = {}
    for at, one in enumerate(table.row_hash.tolist()):
        by_id.setdefault(_id(one), []).append(at)
    by_row: dict[float, int] = {number + 1: at for at, number in enumerate(table.row.tolist())}
    target = table.contract.target.name

    def find(line: dict[str, Any]) -> Sequence[int]:
        at = by_row.get(_number(line.get(_ROW), -1.0))
        rows = by_id.get(str(line[_ID]).strip(), ())
        if rows:  # of copies, the one that was meant
            return [at] if at in rows else rows
        price = _number(line.get(target), np.nan)
        same = at is not None and bool(np.isclose(table.y[at], price, rtol=1e-9))
        return [at] if at is not None and same else ()

    return find


def _id(row_hash: int) -> str:
    return f"s{row_hash:016x}"  # a letter first: no spreadsheet reads it as a number


def _number(value: Any, default: float) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return default


def policy_of(settings: SegregateSettings, contract: TableContract) -> str:
    """Return what becomes of suspicious training rows."""
    dated = contract.timestamp_position is not None
    return settings.suspicious or ("keep" if dated else "unchecked")


@dataclass(frozen=True)
class SalesOutcome:
    """Which sales were left out of training, and what is suspicious among the others.

    Attributes:
        left_out: Row numbers in the table, from 1, by reason.
        policy: What became of suspicious training rows.
        suspicion: What speaks against each training row; None where nobody looked.
        rows: Row numbers of the training rows that it is about.
        notes: What is worth knowing.
    """

    left_out: dict[str, list[int]]
    policy: str
    suspicion: Suspicion | None = None
    rows: tuple[int, ...] = ()
    notes: tuple[str, ...] = field(default=())

    @property
    def counts(self) -> dict[str, int]:
        """How many rows were left out, by reason."""
        return {reason: len(rows) for reason, rows in self.left_out.items()}


def decided_rows(
    validated: ValidatedTable, settings: SegregateSettings
) -> tuple[ValidatedTable, NDArray[np.uint64], SalesOutcome]:
    """Return the table without the rows that a person dropped, the hashes of those kept, and both.

    Raises:
        SalesReviewError: The review file cannot be obeyed.
    """
    left_out = {reason: (rows + 1).tolist() for reason, rows in validated.excluded.items()}
    policy = policy_of(settings, validated.contract)
    if settings.sales_review is None:
        return validated, np.zeros(0, np.uint64), SalesOutcome(left_out, policy)
    decisions = read_decisions(settings.sales_review, validated)
    notes = []
    if decisions.lost:
        notes.append(
            f"{len(decisions.lost)} decision(s) of {settings.sales_review} are about rows that are "
            "not in the table any more"
        )
    left_out[_REVIEWED] = (validated.row[decisions.drop] + 1).tolist()
    outcome = SalesOutcome(left_out, policy, notes=tuple(notes))
    kept = validated.row_hash[decisions.keep]
    return validated.take(np.flatnonzero(~decisions.drop)), kept, outcome


_REVIEWED, _SUSPICIOUS = "dropped in the review file", "suspicious, dropped by the configuration"


def without_suspicious(
    splits: Splits,
    validated: ValidatedTable,
    settings: SegregateSettings,
    kept: NDArray[np.uint64],
    outcome: SalesOutcome,
) -> tuple[Splits, SalesOutcome]:
    """Look for suspicious sales among the training rows, and drop them where that is the policy.

    Args:
        splits: The parts; of the test part nothing is looked at.
        validated: The rows that were split.
        settings: What becomes of them.
        kept: Hashes of the rows that a person keeps.
        outcome: What was left out before.

    Raises:
        SalesError: It was asked for, and there are too few sales.
    """
    if outcome.policy == "unchecked":
        return splits, outcome
    train = splits.train
    try:
        suspicion = suspect_sales(
            validated.contract, train,
            threshold=settings.suspicion_threshold, seed=settings.seed,
        )  # fmt: skip
    except SalesError as error:
        if settings.suspicious is not None:
            raise
        notes = (*outcome.notes, error.message)
        return splits, replace(outcome, policy="unchecked", notes=notes)
    rows = _row_numbers(train, validated)
    outcome = replace(outcome, suspicion=suspicion, rows=tuple(rows))
    dropped = suspicion.flagged & ~np.isin(train.row_hash, kept)
    if outcome.policy == "keep" or not dropped.any():
        return splits, outcome
    numbers = [rows[at] for at in np.flatnonzero(dropped)]
    left_out = {**outcome.left_out, _SUSPICIOUS: sorted(numbers)}
    splits = replace(splits, train=train.take(np.flatnonzero(~dropped)))
    return splits, replace(outcome, left_out=left_out)


def not_dropped(
    train: Part,
    held: Part,
    contract: TableContract,
    settings: SegregateSettings,
    kept: Collection[int],
) -> NDArray[np.intp]:
    """Return the positions of the sales of `held` that a model may learn from beside `train`.

    All of them, unless suspicious sales are dropped. Targets of both are as they were paid, `kept`
    are hashes of the rows that a person keeps.
    """
    if policy_of(settings, contract) != "drop":
        return np.arange(len(held))
    found = suspect_sales(
        contract,
        train.joined(held),
        threshold=settings.suspicion_threshold,
        seed=settings.seed,
    )
    known = np.isin(held.row_hash, np.array(list(kept), np.uint64))
    return np.flatnonzero(~found.flagged[len(train) :] | known)


def _row_numbers(part: Part, table: ValidatedTable) -> list[int]:
    """Return the row numbers in the table, from 1, of a part's rows; copies in their order."""
    waiting: dict[int, list[int]] = {}
    for one, number in zip(table.row_hash[::-1].tolist(), table.row[::-1].tolist(), strict=True):
        waiting.setdefault(one, []).append(number + 1)
    return [waiting[one].pop() for one in part.row_hash.tolist()]


def describe_sales(card: CardBuilder, outcome: SalesOutcome, target: str) -> None:
    """Add what was left out, what is suspicious and what difference it makes to a card."""
    for reason, rows in outcome.left_out.items():
        card.fact("Rows left out", len(rows), reason)
    for note in outcome.notes:
        card.warn(note)
    suspicion = outcome.suspicion
    if suspicion is None:
        return
    done = {"keep": "kept in training", "drop": "dropped from training"}[outcome.policy]
    card.fact("Suspicious training rows", int(suspicion.flagged.sum()), done)
    if not suspicion.reasons:
        return
    card.table(
        "Suspicious sales",
        ("row", target, "expected", "score", "why"),
        [
            (outcome.rows[at], price, *evidence[:2], "; ".join(why))
            for at, price, evidence, why in _strongest(suspicion, _SHOWN)
        ],
        note=f"The {_SHOWN} with the highest scores, in robust standard deviations; `tasador sales "
        "-o review.csv` lists all for a decision.",
    )
    if suspicion.errors_with is not None and suspicion.errors_without is not None:
        card.table(
            "A first model with and without them",
            ("fitted", "median absolute error (%)", "mean absolute error (%)"),
            [
                ("on all sales", *suspicion.errors_with),
                ("without suspicious sales", *suspicion.errors_without),
            ],
            note="Small LightGBM of absolute errors, by cross-validation on the training rows that "
            "are not suspicious.",
        )


def _strongest(
    suspicion: Suspicion, most: int
) -> Iterator[tuple[int, float, tuple[float, ...], list[str]]]:
    """Yield position, price, evidence and reasons of the flagged sales, the strongest first."""
    order = sorted(suspicion.reasons, key=lambda at: (-suspicion.score[at], at))
    for at in order[:most]:
        evidence = tuple(
            float(values[at])
            for values in (
                suspicion.expected, suspicion.score, suspicion.residual_z, suspicion.price_z,
                suspicion.area_price_z,
            )
        )  # fmt: skip
        why = [reason.text for reason in suspicion.reasons[at]]
        yield at, float(suspicion.price[at]), evidence, why


@dataclass(frozen=True)
class SalesReview:
    """What `tasador sales` found.

    Attributes:
        rows: Sales that meet the contract.
        excluded: Rows that the contract excludes, by reason.
        by_reason: Suspicious sales by their strongest reason.
        top: Row number, price and reasons of the most suspicious ones.
        suspicion: All of it.
        kept: Sales that a person keeps.
        dropped: Sales that a person drops.
        lost: Decisions about rows that are not in the table.
        written: The review file, or None.
    """

    rows: int
    excluded: dict[str, int]
    by_reason: dict[str, int]
    top: tuple[tuple[int, float, str], ...]
    suspicion: Suspicion
    kept: int
    dropped: int
    lost: int
    written: Path | None


def load_configured_table(
    contract: TableContract, settings: DownloadSettings, folder: Path, seed: int
) -> Table:
    """Read a contract's table as the settings say, and store it under `folder`.

    Raises:
        SourceError: No source has it, or the one that has it holds something else.
    """
    return load_table(
        contract,
        folder,
        search=settings.search,
        allow_synthetic=settings.allow_synthetic,
        timeout_s=settings.timeout_s,
        attempts=settings.attempts,
        offline=settings.offline,
        synthetic_rows=settings.synthetic_rows,
        seed=seed,
    )


def read_validated(
    settings: RunSettings, download: DownloadSettings
) -> tuple[Table, ValidatedTable]:
    """Return the table that `settings` name, and its rows that meet the contract.

    Raises:
        SourceError: No source has it, or the one that has it holds something else.
        ValidationError: It does not meet its contract.
    """
    contract, how = with_files_read(settings.contract, download.search), settings.segregate
    folder = Path(settings.storage.workspace) / "data"
    table = load_configured_table(contract, download, folder, settings.seed)
    contract = with_levels_learned(contract, table.frame)
    valid = validate_table(
        table, contract, max_refused_share=how.max_refused_share, min_rows=how.min_rows
    )
    return table, valid


def review_sales(settings: RunSettings, output: Path | None) -> SalesReview:
    """Look for suspicious sales in the whole table, and write those and earlier decisions down.

    Args:
        settings: Those of a run.
        output: The review file to write; earlier decisions in it, or else in
            ``segregate.sales_review``, are kept. None writes none.

    Raises:
        SalesReviewError: The earlier file cannot be obeyed, or `output` is no CSV.
        SalesError: There are too few sales.
    """
    if output is not None and output.suffix.lower() != ".csv":
        raise SalesReviewError.not_csv(output)
    how = settings.segregate
    table, valid = read_validated(settings, settings.download)
    earlier = output if output is not None and output.exists() else how.sales_review
    decided = Decisions.none(len(valid.y)) if earlier is None else read_decisions(earlier, valid)
    found = suspect_sales(
        valid.contract, valid.part, threshold=how.suspicion_threshold, seed=how.seed
    )
    if output is not None:
        write_text(output, _review_text(table.frame, valid, found, decided))
    top = tuple(
        (int(valid.row[at]) + 1, price, "; ".join(why))
        for at, price, _, why in _strongest(found, _SHOWN)
    )
    return SalesReview(
        rows=len(valid.y),
        excluded={reason: len(rows) for reason, rows in valid.excluded.items()},
        by_reason=dict(Counter(why[0].kind for why in found.reasons.values()).most_common()),
        top=top,
        suspicion=found,
        kept=int(decided.keep.sum()),
        dropped=int(decided.drop.sum()),
        lost=len(decided.lost),
        written=output,
    )


def _review_text(
    frame: pl.DataFrame, valid: ValidatedTable, found: Suspicion, decided: Decisions
) -> str:
    """Return the review file: suspicious and decided sales, then decisions whose row is gone."""
    target = valid.contract.target.name
    own = (_ID, _ROW, _KEEP, target, *_EVIDENCE, _REASONS)
    shown = [
        column.name for column in valid.contract.columns
        if (column.kind == "identifier" or column.role in ("timestamp", "property", "group"))
        and column.name in frame.columns and column.name not in own
    ]  # fmt: skip
    text = io.StringIO()
    writer = csv.DictWriter(
        text, [*own, *(str(cell(name)) for name in shown)], restval="", extrasaction="ignore"
    )
    writer.writeheader()
    strongest = list(_strongest(found, len(found.reasons)))
    listed = {at for at, *_ in strongest}
    others = [at for at in np.flatnonzero(decided.keep | decided.drop).tolist() if at not in listed]
    for at, price, evidence, why in (
        *strongest, *((at, float(valid.y[at]), (), ["no longer suspicious"]) for at in others)
    ):  # fmt: skip
        row = int(valid.row[at])
        line: dict[str, Any] = {
            _ID: _id(int(valid.row_hash[at])), _ROW: row + 1, _KEEP: decided.word(at),
            target: repr(price), _REASONS: cell("; ".join(why)),
        }  # fmt: skip
        line |= {n: f"{v:.6g}" for n, v in zip(_EVIDENCE, evidence, strict=False) if v == v}
        line |= {str(cell(name)): cell(frame[name][row]) for name in shown}
        writer.writerow(line)
    for lost in decided.lost:
        writer.writerow(lost)
    return text.getvalue()
