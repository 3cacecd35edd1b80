"""Workbooks of a desk review: a file's rows valued for people to look at, and what they changed."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from decimal import Decimal
from itertools import chain
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from tasador.contract.encoding import as_of_field, encode_values
from tasador.contract.model import Column, Source, TableContract, plain_name
from tasador.contract.target_check import TargetBounds
from tasador.core import clock, storage
from tasador.core.errors import ConfigError, did_you_mean
from tasador.core.languages import Language
from tasador.core.parallel import usable_cores
from tasador.core.progress import progress
from tasador.data.table_stream import Piece, open_table
from tasador.inference.batch_scorer import BatchScorer
from tasador.modeling.prediction import Comparable, Reconciled
from tasador.modeling.training_rows import NOTE
from tasador.records.database import Database
from tasador.records.record import Record, ReviewRow, new_id, with_nan
from tasador.records.reviews import VARIANT, ReviewResult, Reviews
from tasador.registry.model_bundle import ModelBundle
from tasador.reporting.review.reading import ReviewFileError, decisions_of, read_review
from tasador.reporting.review.writing import Cell, Review, ReviewLine, write_review
from tasador.scoring.appraise import summary_of
from tasador.scoring.files import ALL, ROW, value_piece
from tasador.scoring.predict import check_any_valued, check_fields, pieces_of
from tasador.settings.serving import ServeLimits

Floats = NDArray[np.float64]

LARGE_CHANGE = 0.2
#: A sheet has a little more than a million rows, and nobody looks through these.
MOST_ROWS = 100_000
#: Rows that one thread looks for the comparables of.
_TOGETHER = 512


class ReviewRequestError(ConfigError):
    """A workbook that cannot be as it was asked for."""

    @classmethod
    def no_column(cls, name: str, known: Sequence[str]) -> ReviewRequestError:
        """Return the error of a column that the file does not have."""
        return cls(
            f"there is no column {name!r}", expected=f"one of {', '.join(known[:40])}",
            remedy=did_you_mean(name, known) or "name one of them",
        )  # fmt: skip

    @classmethod
    def too_many(cls, rows: int) -> ReviewRequestError:
        """Return the error of a file that is too long."""
        return cls(
            "the file is too long for a workbook", expected=f"at most {MOST_ROWS:,} rows",
            got=f"{rows:,} and more", remedy="split it, or write .csv or .parquet",
        )  # fmt: skip

    @classmethod
    def only_for_workbooks(cls, option: str) -> ReviewRequestError:
        """Return the error of an option that other outputs do not have."""
        return cls(
            f"{option} is for workbooks only", expected="an --output that ends in .xlsx",
            remedy=f"leave {option} out, or write a workbook",
        )  # fmt: skip

    @classmethod
    def not_for_workbooks(cls, option: str) -> ReviewRequestError:
        """Return the error of an option that workbooks do not have."""
        return cls(
            f"{option} and a workbook contradict each other",
            remedy=f"leave {option} out, or write .csv or .parquet",
        )

    @classmethod
    def one_file(cls, count: int) -> ReviewRequestError:
        """Return the error of several files."""
        return cls(
            "a workbook is made of one file", expected="one", got=f"{count}",
            remedy="write a workbook for each",
        )  # fmt: skip


@dataclass(frozen=True)
class ReviewRequest:
    """What a workbook is to show, and where it is written.

    Attributes:
        rows: Path or address of the file whose rows are valued.
        out: The ``.xlsx`` file.
        by: Who writes it.
        columns: Columns to show beside those that name a row, ``*`` for all; None takes those that
            the model reads.
        previous: Column of the values before; None takes the one with the role rival, if the file
            has just one.
        comparables: How many comparables of each row are shown.
        language: Of the texts.
        asked: How the file is read, where the contract does not say so; see `open_table`.
        as_of: Day such as 2014-06-30 as of which all rows are valued; None takes each row's own.
        coverage, limits: Of the ranges, None takes the model's; when a row gets no value.
    """

    rows: str
    out: str
    by: str
    columns: tuple[str, ...] | None = None
    previous: str | None = None
    comparables: int = 3
    language: Language = "en"
    asked: Source = field(default_factory=Source)
    as_of: str | None = None
    coverage: float | None = None
    limits: ServeLimits = field(default_factory=ServeLimits)


@dataclass(frozen=True)
class WrittenReview:
    """A workbook that was written: what valued its rows, and counts of them."""

    version: str
    rows: int
    flagged: int
    refused: list[tuple[int, str]]


@dataclass(frozen=True)
class _Columns:
    """Which columns of the file are shown as what; see `Review`."""

    names: tuple[str, ...]
    inputs: tuple[str, ...]
    previous: str | None
    price: str | None

    @property
    def kept(self) -> tuple[str, ...]:
        """All of them."""
        found = (*self.names, *self.inputs, self.previous, self.price)
        return tuple(dict.fromkeys(name for name in found if name is not None))


def write_review_file(
    bundle: ModelBundle,
    request: ReviewRequest,
    database: Database,
    tell: Callable[[str], None] = lambda _: None,
) -> WrittenReview:
    """Value a file's rows, record the values and write them as a workbook.

    A row that does not meet the contract has its reason in place of a value.

    Args:
        bundle: What values them.
        request: The rows, and where to.
        database: Where values are recorded, by which the workbook is checked when it comes back.
        tell: Called with a line about what was decided while the file was read.

    Raises:
        DataError: The rows cannot be read, or not one of them meets the contract.
        ConfigError: A column that is named is not there, or the file is too long.
        MissingExtraError: XlsxWriter is not installed.
        StorageError: The database cannot be used, or the file cannot be written.
    """
    lines: list[ReviewLine] = []
    features: list[bytes] = []
    refused: list[tuple[int, str]] = []
    with open_table(request.rows, bundle.contract, request.asked) as table:
        check_fields(bundle.contract, request.rows, table.names, request.as_of)
        columns = _columns(bundle.contract, request, table.names, tell)
        scorer = BatchScorer(
            bundle, keep=columns.kept, as_of=request.as_of, coverage=request.coverage,
            limits=request.limits,
        )  # fmt: skip
        maker = _Maker(bundle, scorer, request, columns)
        with progress("valuing, rows", None) as advance:
            for piece in pieces_of(table, request.rows, scorer):
                for line, sent, error in maker.lines(piece):
                    lines.append(line)
                    features.append(sent)
                    refused += [(line.number, error)] if error else []
                if len(lines) > MOST_ROWS:
                    raise ReviewRequestError.too_many(len(lines))
                advance(len(piece))
        for note in table.notes:
            tell(note)
    check_any_valued(refused, len(lines))
    if maker.unread:
        tell(f"{maker.unread:,} values of {columns.previous!r} are no numbers: left empty")
    review = Review(
        id=new_id(), model=summary_of(bundle), lines=lines, names=columns.names,
        inputs=columns.inputs,
        file=request.rows.rsplit("/", 1)[-1], previous=columns.previous, as_of=request.as_of,
        coverage=bundle.check_coverage(request.coverage), large_change=LARGE_CHANGE,
        made=clock.now().isoformat(timespec="seconds"), by=request.by, language=request.language,
    )  # fmt: skip
    content = write_review(review)
    _record(bundle, review, features, database)
    storage.write_bytes(request.out, content)
    flagged = sum(bool(line.flags) for line in lines)
    return WrittenReview(bundle.version, len(lines), flagged, refused)


def _columns(
    contract: TableContract, request: ReviewRequest, there: Sequence[str],
    tell: Callable[[str], None],
) -> _Columns:  # fmt: skip
    """Decide which columns of the file are shown."""
    for name in (request.previous, *(request.columns or ())):
        if name is not None and name != ALL and name not in there:
            raise ReviewRequestError.no_column(name, there)
    own, near = contract.with_role("property"), contract.comparables
    identifiers = [column.name for column in contract.identifiers]
    naming = (own.name if own else None, near.identifier, *near.label, *identifiers)
    names = tuple(name for name in dict.fromkeys(naming) if name is not None and name in there)
    previous, rivals = request.previous, [c.name for c in contract.rivals if c.name in there]
    if previous is None and len(rivals) == 1:
        previous = rivals[0]
        tell(f"the previous value is that of {previous!r}; choose another with --previous")
    price = contract.target.name if contract.target.name in there else None
    asked = contract.field_names if request.columns is None else request.columns
    inputs = there if ALL in asked else [name for name in asked if name in there]
    shown = (*names, previous, price)
    return _Columns(names, tuple(n for n in dict.fromkeys(inputs) if n not in shown),
                    previous, price)  # fmt: skip


class _Maker:
    """Makes the lines of a workbook from the pieces of a file.

    Attributes:
        unread: Previous values that are no numbers.
    """

    def __init__(
        self, bundle: ModelBundle, scorer: BatchScorer, request: ReviewRequest, columns: _Columns
    ) -> None:
        self._bundle, self._scorer = bundle, scorer
        self._request, self._columns = request, columns
        self._contract = bundle.contract
        self._dated = as_of_field(bundle.contract, request.as_of)
        self.unread = 0

    def lines(self, piece: Piece) -> Iterator[tuple[ReviewLine, bytes, str]]:
        """Yield a piece's lines in the file's order, each row as it was sent, and its error."""
        scored = value_piece(self._scorer, piece)
        made = (ROW, *self._scorer.schema.names)
        cells = {name: scored.column(name).to_pylist() for name in made}
        batch = piece.batch.rename_columns([plain_name(n) for n in piece.batch.schema.names])
        rows = batch.to_pylist()
        X, _ = self._scorer.encode(piece.batch)
        skipped = {*piece.torn, *piece.left_out}
        places = range(piece.start, piece.start + len(piece))
        whole = {place: at for at, place in enumerate(p for p in places if p not in skipped)}
        money = {name: self._money(name, rows)
                 for name in (self._columns.previous, self._columns.price) if name}  # fmt: skip
        errors = cells["error"]
        right = [whole[number - 1] for number, error in zip(cells[ROW], errors, strict=True)
                 if error is None]  # fmt: skip
        near = dict(zip(right, self._near(X[right], [rows[at] for at in right]), strict=True))
        for i, number in enumerate(cells[ROW]):
            at = whole.get(number - 1)
            one = {name: values[i] for name, values in cells.items()}
            if at is None:
                blank = (None,) * len(self._columns.names), (None,) * len(self._columns.inputs)
                line = ReviewLine(new_id(), number, *blank, flags=("refused",),
                                  notes=(one["error"],))  # fmt: skip
                yield line, b"{}", one["error"]
                continue
            x = None if one["error"] else X[at]
            known = {name: values[at] for name, values in money.items()}
            line = self._line(one, rows[at], x, known, near.get(at, ((), None)))
            yield line, self._sent(rows[at]), one["error"] or ""

    def _near(
        self, X: Floats, rows: Sequence[Mapping[str, Any]]
    ) -> Iterator[tuple[tuple[Comparable, ...], Reconciled | None]]:
        if not self._request.comparables:
            yield from [((), None)] * len(rows)
            return
        names = [self._bundle.identifier_of(row) for row in rows]

        def found(start: int) -> list[tuple[tuple[Comparable, ...], Reconciled | None]]:
            some = slice(start, start + _TOGETHER)
            count = self._request.comparables
            return list(self._bundle.comparables_of_rows(X[some], count, names[some]))

        with ThreadPoolExecutor(usable_cores()) as pool:
            yield from chain.from_iterable(pool.map(found, range(0, len(rows), _TOGETHER)))

    def _money(self, name: str, rows: Sequence[Mapping[str, Any]]) -> list[float | None]:
        """Return a column's numbers, read as the contract or else its target is."""
        column = self._contract.target.column
        if name != self._contract.target.name:
            known = {one.name: one for one in self._contract.columns}.get(name)
            numeric = known is not None and known.kind in ("number", "integer")
            form = self._contract.target.format
            column = known if known and numeric else Column(name, "number", format=form)
        values, wrong = encode_values(column, [row.get(name) for row in rows])
        self.unread += int(wrong.sum()) if name == self._columns.previous else 0
        return [None if math.isnan(value) else value for value in values.tolist()]

    def _line(
        self,
        one: Mapping[str, Any],
        row: Mapping[str, Any],
        x: Floats | None,
        known: Mapping[str, float | None],
        near: tuple[tuple[Comparable, ...], Reconciled | None],
    ) -> ReviewLine:
        columns, error = self._columns, one["error"]
        value = one[self._contract.target.prediction_name]
        silent = one["no_value"]
        notes = [error] if error else [silent] if silent else []
        unusual = (one["warnings"] or "").split("; ") if one["warnings"] else []
        line = ReviewLine(
            id=new_id(),
            number=one[ROW],
            names=tuple(_text(row.get(name)) for name in columns.names),
            inputs=tuple(self._input(name, row, x) for name in columns.inputs),
            value=value, lower=one["lower"], upper=one["upper"], fsd=one["fsd"],
            grade=one["confidence_class"],
            previous=known.get(columns.previous or ""), price=known.get(columns.price or ""),
            notes=(*notes, *unusual),
            comparables=near[0], evidence=None if near[1] is None else near[1].value,
        )  # fmt: skip
        odd = any(note != NOTE for note in unusual)  # a known sale has no unusual input
        return _flagged(line, bool(error), bool(silent), odd)

    def _input(self, name: str, row: Mapping[str, Any], x: Floats | None) -> Cell:
        """Return an input as the model read it; of a refused row, or of others, as it is."""
        if x is None or name not in self._contract.feature_names:
            return _cell(row.get(name))
        at = self._contract.position(name)
        found = self._contract.features[at].plain_of(float(x[at]))
        if found is None and not math.isnan(x[at]):
            return _text(row.get(name))  # a level that the contract does not know
        if isinstance(found, str) and self._contract.features[at].kind == "datetime":
            return _date(found)
        return found

    def _sent(self, row: Mapping[str, Any]) -> bytes:
        names = (*self._contract.readable_names, *self._columns.names)
        sent = {name: row[name] for name in names if row.get(name) is not None}
        return orjson.dumps({**sent, **self._dated}, default=str)


def _flagged(line: ReviewLine, refused: bool, silent: bool, unusual: bool) -> ReviewLine:
    """Return a line with its flags."""
    change = line.change
    found = {
        "refused": refused,
        "no_value": silent,
        "unusual": unusual,
        "change": change is not None and abs(change) >= LARGE_CHANGE,
        "outside": _outside(line.previous, line),
        "price": _outside(line.price, line),
    }
    return replace(line, flags=tuple(key for key, on in found.items() if on))


def _outside(value: float | None, line: ReviewLine) -> bool:
    if value is None or line.lower is None or line.upper is None:
        return False
    return not line.lower <= value <= line.upper


def _text(value: Any) -> str | None:
    """Return what names a row as text: a number among them is no amount."""
    if value is None or value == "":
        return None
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _cell(value: Any) -> Cell:
    if value is None or value == "" or isinstance(value, (str, dt.date)):
        naive = isinstance(value, dt.datetime) and value.tzinfo is not None
        return value.replace(tzinfo=None) if naive else value or None
    if isinstance(value, (int, float, Decimal)) and not isinstance(value, bool):
        return float(value)
    return str(value)


def _date(written: str) -> Cell:
    """Return a date's text as a date; as it is where a sheet has no such day."""
    try:
        moment = dt.datetime.fromisoformat(written).replace(tzinfo=None)
    except ValueError:
        return written
    if moment.year < 1900:
        return written
    return moment if moment.time() != dt.time.min else moment.date()


def _record(
    bundle: ModelBundle, review: Review, features: Sequence[bytes], database: Database
) -> None:
    """Record the values of a workbook beside those of the service."""
    now = clock.seconds()
    records = [
        Record(
            id=line.id, time=now, version=bundle.version, variant=VARIANT, source="file",
            features=sent,
            prediction=value, lower=lower, upper=upper, fsd=fsd,
            coverage=review.coverage, latency_ms=math.nan, client=review.by,
            no_value=line.notes[0] if "no_value" in line.flags else "",
        )
        for line, sent in zip(review.lines, features, strict=True)
        for value, lower, upper, fsd in [with_nan((line.value, line.lower, line.upper, line.fsd))]
    ]  # fmt: skip
    rows = [ReviewRow(line.id, review.id, float(line.number), now) for line in review.lines]
    bounds = TargetBounds.of(bundle.contract.target)
    Reviews(database).add(records, rows, bounds, actor=review.by, file=review.file)


@dataclass(frozen=True)
class ReadReview:
    """A workbook that came back: how many rows and overrides it has, and what was recorded."""

    version: str
    rows: int
    missing: int
    overrides: int
    result: ReviewResult | None


def record_review(
    file: str, database: Database, by: str, *, check_only: bool = False
) -> ReadReview:
    """Check a workbook that came back, and record its overrides: all of them or none.

    Args:
        file: Path or address.
        database: The one that it was written with.
        by: Who decided.
        check_only: Whether nothing is recorded.

    Raises:
        DataError: It is not the workbook that was written, or a cell is wrong; names all of them.
        StorageError: The database or the file cannot be read.
    """
    sheet = read_review(storage.read_bytes(file), file)
    reviews = Reviews(database)
    known = reviews.rows(sheet.review)
    if not known:
        raise ReviewFileError.unknown(file, sheet.review, database.url.shown)
    decisions = decisions_of(sheet, known, reviews.bounds(sheet.version))
    missing = len(known.keys() - set(sheet.texts("id")))
    result = None
    if not check_only:
        result = reviews.record(sheet.review, decisions, actor=by, file=file.rsplit("/", 1)[-1])
    return ReadReview(sheet.version, sheet.frame.height, missing, len(decisions), result)
