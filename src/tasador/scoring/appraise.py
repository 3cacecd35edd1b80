"""Appraisal reports of the rows of a file, or of rows given as JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasador.contract.encoding import as_of_field
from tasador.contract.model import Source, TableContract, plain_name
from tasador.core import clock, storage
from tasador.core.errors import ConfigError
from tasador.core.hashing import to_plain
from tasador.core.languages import Language
from tasador.core.progress import progress
from tasador.data.table_stream import Piece, open_table
from tasador.inference.batch_scorer import BatchScorer
from tasador.inference.model_choice import BundleChoice, chosen_bundle, fits_rows
from tasador.modeling.prediction import Reasons, Valuation, no_value
from tasador.registry.explainer import Wanted
from tasador.registry.model_bundle import ModelBundle
from tasador.reporting.appraisal.document import (
    MOST_COMPARABLES,
    Appraisal,
    ModelSummary,
    Page,
    page,
)
from tasador.reporting.appraisal.files import FileKind, check_installed, file_of
from tasador.reporting.appraisal.portfolio import Outcome, outcome, summary
from tasador.scoring.predict import (
    check_any_valued,
    check_fields,
    checked_item,
    json_items,
    json_text,
    pieces_of,
)
from tasador.settings.serving import ServeLimits

Floats = NDArray[np.float64]


class ReportFileError(ConfigError):
    """A place that no report can be written to."""

    @classmethod
    def of_suffix(cls, out: str) -> ReportFileError:
        """Return the error of a file of a different type."""
        return cls(
            "the report has no type that is written",
            expected="a file that ends in .html or .pdf, or a folder",
            got=out,
        )

    @classmethod
    def of_format(cls, out: str, kind: str) -> ReportFileError:
        """Return the error of a file whose name says another type than the one asked for."""
        return cls(
            f"--format {kind} and the file's name contradict each other",
            expected=f"a file that ends in .{kind}, or a folder",
            got=out,
            remedy="leave --format out",
        )


@dataclass(frozen=True)
class AppraiseRequest:
    """What is to be appraised, and where to.

    Attributes:
        rows: Path of a CSV, Parquet or JSON file, or JSON text.
        out: A ``.html`` or ``.pdf`` file for all rows, or a folder for one file a row.
        language: Of the reports.
        kind: Type of the files in a folder; None takes HTML.
        asked: How a file is read, where the contract does not say so; see `open_table`.
        as_of: Day such as 2014-06-30 as of which all rows are valued; None takes each row's own.
        limits: When a report gives no value, but the reason.
    """

    rows: str
    out: str
    language: Language = "en"
    kind: FileKind | None = None
    asked: Source = field(default_factory=Source)
    as_of: str | None = None
    limits: ServeLimits = field(default_factory=ServeLimits)

    def place(self) -> tuple[FileKind, bool]:
        """Return the type of the files, and whether there is one for all rows.

        Raises:
            ConfigError: The place is neither a report nor a folder.
        """
        path = Path(self.out)
        suffix = "" if path.is_dir() else path.suffix.lower()
        if not suffix:
            return self.kind or "html", False
        if suffix not in (".html", ".pdf"):
            raise ReportFileError.of_suffix(self.out)
        if self.kind is not None and suffix != f".{self.kind}":
            raise ReportFileError.of_format(self.out, self.kind)
        return ("html" if suffix == ".html" else "pdf"), True


@dataclass
class Appraised:
    """The result: how many reports were written, and the rows without one, each with its reason."""

    version: str
    origin: str
    written: int = 0
    refused: list[tuple[int, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Row:
    number: int
    X: Floats | None
    values: Mapping[str, Any]
    error: str = ""


def appraise_rows(
    request: AppraiseRequest, choice: BundleChoice, tell: Callable[[str], None] = lambda _: None
) -> Appraised:
    """Write the reports of `request`; several rows get a summary too.

    A row that does not meet the contract is listed in the summary; the others have a page.

    Args:
        request: The rows, and where to.
        choice: Which model is used.
        tell: Called with a line about the choice of the model and the reading of the file.

    Raises:
        DataError: The rows cannot be read, or not one of them meets the contract.
        ConfigError: The place is neither a report nor a folder; or see `chosen_bundle`.
        BundleError: There is no bundle, or it is damaged.
        MissingExtraError: The library that writes such files is not installed.
        StorageError: The place cannot be written to.
    """
    kind, together = request.place()
    check_installed(kind)
    with chosen_bundle(choice, fits=fits_rows(request.rows, request.asked), tell=tell) as chosen:
        bundle = chosen.load()
    text = json_text(request.rows)
    if text is not None:
        rows = list(_json_rows(bundle, text, request.as_of))
    else:
        rows = list(_table_rows(bundle, request, tell))
    done = Appraised(bundle.version, bundle.origin)
    done.refused = [(row.number, row.error) for row in rows if row.X is None]
    check_any_valued(done.refused, len(rows))
    model = summary_of(bundle)
    pages: list[Page] = []
    outcomes: list[Outcome] = []
    with progress("appraising, rows", len(rows)) as advance:
        for row in rows:
            advance(1)
            if row.X is None:
                continue
            one = appraisal_of(bundle, model, row.X, row.values, row.number, request.limits)
            made = page_of(one, request.language)
            link = f"#{made.anchor}" if together else f"{made.anchor}.{kind}"
            outcomes.append(outcome(one, request.language, link))
            if together:
                pages.append(made)
            else:
                storage.write_bytes(Path(request.out) / link, file_of(kind, [made]))
    done.written = len(outcomes)
    first = None
    if len(rows) > 1:
        first = summary(model, outcomes, done.refused, request.language, _today())
    if together:
        storage.write_bytes(Path(request.out), file_of(kind, pages, first))
    elif first is not None:
        storage.write_bytes(Path(request.out) / f"summary.{kind}", file_of(kind, [], first))
    return done


def summary_of(bundle: ModelBundle) -> ModelSummary:
    """Return what a report says about the model."""
    manifest = bundle.manifest
    return ModelSummary(
        bundle.contract, bundle.version, manifest.content_hash, manifest.release,
        manifest.created, manifest.origin, manifest.metrics, manifest.lineage,
    )  # fmt: skip


def appraisal_of(
    bundle: ModelBundle,
    model: ModelSummary,
    X: Floats,
    values: Mapping[str, Any],
    number: int,
    limits: ServeLimits | None = None,
) -> Appraisal:
    """Value and explain one encoded row (1, p) that the contract accepts.

    Args:
        bundle: What values it.
        model: What the report says about it.
        X: The row.
        values: The row as it was sent, for its identifiers.
        number: The row's number, from 1.
        limits: When it gets no value; None gives it one.
    """
    wanted = Wanted(MOST_COMPARABLES)
    valuation, reasons = bundle.value_with_reasons(X, wanted, bundle.identifier_of(values))
    item = item_of(valuation, reasons, bundle.contract, limits or ServeLimits())
    return appraisal_from(model, X, values, item, number)


def appraisal_from(
    model: ModelSummary, X: Floats, values: Mapping[str, Any], item: Mapping[str, Any], number: int
) -> Appraisal:
    """Return what a report says of a row that is explained already.

    Args:
        model: What the report says about the model.
        X: The row, encoded, of shape (1, p).
        values: The row as it was sent, for its identifiers.
        item: Its explanation, as ``/api/v1/explain`` answers it.
        number: The row's number, from 1.
    """
    contract = model.contract
    names = [values.get(column) for column in _naming(contract)]
    name = " · ".join(str(to_plain(one)) for one in names if one not in (None, ""))
    facts = read_facts(contract, X[0], values)
    dated = contract.with_role("timestamp")
    as_of = None if dated is None else facts.get(dated.name)
    day = None if as_of is None else str(as_of)[:10]
    return Appraisal(model, name or None, number, facts, day, item)


def page_of(one: Appraisal, language: Language) -> Page:
    """Return the page of a property, issued today."""
    return page(one, language, _today())


def _today() -> str:
    return f"{clock.now():%Y-%m-%d}"


def _naming(contract: TableContract) -> list[str]:
    """Return the columns by which people know a row."""
    own, near = contract.with_role("property"), contract.comparables
    if near.label:
        return list(near.label)
    identifiers = [column.name for column in contract.identifiers]
    named = (own and own.name, near.identifier, *identifiers)
    return list(dict.fromkeys(name for name in named if name))


def read_facts(
    contract: TableContract, x: Floats, values: Mapping[str, Any]
) -> dict[str, str | float | None]:
    """Return the columns of an encoded row (p,) as the model read them; None for missing ones.

    Columns that follow from others are left out. A level that the contract does not know is shown
    as it was sent.
    """
    facts: dict[str, str | float | None] = {}
    for column, value in zip(contract.features, x.tolist(), strict=True):
        if column.derive is not None:
            continue
        found = column.plain_of(value)
        if found is None and not np.isnan(value):
            found = str(values.get(column.field_name))
        facts[column.name] = found
    return facts


def item_of(
    valuation: Valuation, reasons: Reasons, contract: TableContract, limits: ServeLimits
) -> dict[str, Any]:
    """Return a valuation and its reasons as ``/api/v1/explain`` answers them."""
    silent = no_value(valuation.fsd, valuation.support, limits)
    interval = {
        "lower": valuation.lower,
        "upper": valuation.upper,
        "coverage": valuation.coverage,
    }
    value = {
        contract.target.prediction_name: None if silent else valuation.prediction,
        "interval": None if silent else interval,
        "warnings": list(valuation.warnings),
        **valuation.graded(),
        "no_value": silent,
    }
    return {"valuation": value, **reasons.plain()}


def _json_rows(bundle: ModelBundle, text: str, as_of: str | None) -> Iterator[_Row]:
    dated = as_of_field(bundle.contract, as_of)
    for number, item in enumerate(json_items(text), 1):
        values = {**item, **dated} if isinstance(item, Mapping) else {}
        X, reason = checked_item(bundle, item, dated, bundle.check.row)
        yield _Row(number, X, values, reason)


def _table_rows(
    bundle: ModelBundle, request: AppraiseRequest, tell: Callable[[str], None]
) -> Iterator[_Row]:
    path, contract = request.rows, bundle.contract
    with open_table(path, contract, request.asked) as table:
        names = table.names
        check_fields(contract, path, names, request.as_of)
        own = (*_naming(contract), contract.comparables.identifier)
        keep = [name for name in dict.fromkeys(own) if name in names]
        scorer = BatchScorer(bundle, keep=keep, as_of=request.as_of)
        for piece in pieces_of(table, path, scorer):
            yield from _piece_rows(scorer, piece)
        for note in table.notes:
            tell(note)


def _piece_rows(scorer: BatchScorer, piece: Piece) -> list[_Row]:
    """Return a piece's rows in the file's order, those that could not be read among them."""
    X, errors = scorer.encode(piece.batch)
    names = [plain_name(name) for name in piece.batch.schema.names]
    values = piece.batch.rename_columns(names).to_pylist()
    places = range(piece.start, piece.start + len(piece))
    whole = [n for n in places if n not in piece.torn and n not in piece.left_out]
    rows = [_Row(place + 1, None, {}, reason) for place, reason in piece.torn.items()]
    for at, place in enumerate(whole):
        error = errors.get(at, "")
        rows.append(_Row(place + 1, None if error else X[at : at + 1], values[at], error))
    return sorted(rows, key=lambda row: row.number)
