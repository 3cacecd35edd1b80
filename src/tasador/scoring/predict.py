"""Value or explain rows of a file, or rows given as JSON, with a bundle on disk."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from tasador.contract.encoding import as_of_field
from tasador.contract.model import Source, TableContract
from tasador.core import storage
from tasador.core.errors import ConfigError, SourceError, ValidationError
from tasador.core.hashing import to_plain
from tasador.core.input_checks import read_json
from tasador.data.parquet.table import Allowance
from tasador.data.table_stream import Piece, TableStream, open_table
from tasador.data.text.decimal_commas import plain_numbers, with_comma
from tasador.inference.model_choice import BundleChoice, chosen_bundle, fits_rows, read_text
from tasador.modeling.monotone import promise
from tasador.modeling.prediction import Comparable, Explanation, Valuation, no_value
from tasador.registry.explainer import Wanted
from tasador.registry.model_bundle import ModelBundle
from tasador.settings.serving import ServeLimits

if TYPE_CHECKING:
    from tasador.inference.batch_scorer import BatchScorer

Done = TypeVar("Done")

#: Words of ``--with`` that are no names of columns.
IDS, INPUTS = "ids", "inputs"
_PIECE_ROWS = 8192
_SHOWN_ERRORS = 5


@dataclass(frozen=True, slots=True)
class PredictedRow:
    """A row and its value.

    Attributes:
        number: The row's number, from 1.
        valuation: Its value; None when it was refused.
        error: Why it was refused; empty when it was valued.
        kept: Columns of the input that were asked for, by name.
        no_value: Why it gets no value all the same; None where it does.
    """

    number: int
    valuation: Valuation | None
    error: str
    kept: Mapping[str, Any]
    no_value: str | None = None


@dataclass(frozen=True)
class Predicted:
    """All rows in their order, what they were valued with, and which inputs are numbers."""

    rows: tuple[PredictedRow, ...]
    prediction_name: str
    version: str
    origin: str
    unit: str | None
    from_json: bool
    numbers: frozenset[str] = frozenset()

    @property
    def refused(self) -> list[PredictedRow]:
        """The rows that have no value."""
        return [row for row in self.rows if row.valuation is None]


def predict_rows(
    rows: str,
    choice: BundleChoice,
    tell: Callable[[str], None] = lambda _: None,
    *,
    keep: Sequence[str] = (),
    asked: Source | None = None,
    as_of: str | None = None,
    coverage: float | None = None,
    limits: ServeLimits | None = None,
) -> Predicted:
    """Value `rows`: the path of a CSV, Parquet or JSON file, or JSON text itself.

    A row that does not meet the contract has an error instead of a value; the others are valued.

    Args:
        rows: The rows.
        choice: Which model is used.
        tell: Called with a line about the choice of the model, see `chosen_bundle`, and with what
            was decided while the file was read.
        keep: Columns of the input to hand on: names, ``ids`` (the contract's identifiers) or
            ``inputs`` (all of them).
        asked: How the file is read, where the contract does not say so; see `open_table`.
        as_of: Day such as 2014-06-30 as of which all rows are valued; None takes each row's own.
        coverage: Share of truths that the intervals are to hold; None takes the model's.
        limits: When a row gets no value; None gives all one.

    Raises:
        DataError: The rows cannot be read, or not one of them meets the contract.
        ConfigError: A column to keep is not there, or has the name of one that is added; or see
            `chosen_bundle`.
        BundleError: There is no bundle, or it is damaged.
    """
    with chosen_bundle(choice, fits=fits_rows(rows, asked), tell=tell) as chosen:
        loaded = chosen.load()
    loaded.check_coverage(coverage)
    how = _Asked(as_of, coverage, limits or ServeLimits())
    text = json_text(rows)
    if text is not None:
        found = _value_json(loaded, text, keep, how)
    else:
        found = _value_table(loaded, rows, keep, tell, asked, how)
    predicted = Predicted(
        tuple(found),
        loaded.contract.target.prediction_name,
        loaded.version,
        loaded.origin,
        loaded.contract.target.unit,
        text is not None,
        plain_numbers(loaded.contract),
    )
    check_any_valued([(row.number, row.error) for row in predicted.refused], len(predicted.rows))
    dated = loaded.contract.with_role("timestamp")
    if dated is not None and loaded.target.trend is not None:
        own = f"each row is valued as of its {dated.name}; --as-of DAY takes one day for all"
        tell(own if as_of is None else f"all rows are valued as of {as_of}")
    return predicted


@dataclass(frozen=True, slots=True)
class _Asked:
    """How rows are valued; see `predict_rows`."""

    as_of: str | None
    coverage: float | None
    limits: ServeLimits


class RowsError(ValidationError):
    """Rows of which none can be valued."""

    @classmethod
    def lack_columns(
        cls, path: str, fields: Sequence[str], absent: list[str], names: list[str]
    ) -> RowsError:
        """Return the error of a table without columns that must have a value."""
        return cls(
            f"{path} lacks columns of the contract",
            expected=", ".join(fields),
            got=f"no {', '.join(absent)} among {', '.join(names[:40])}",
            remedy="add the columns, or name them as the contract does",
        )


class KeptColumnError(ConfigError):
    """A column that cannot be handed on beside the answers."""

    @classmethod
    def absent(cls, word: str, names: Sequence[str]) -> KeptColumnError:
        """Return the error of a name that the input does not have."""
        return cls(
            f"there is no column {word!r} to hand on",
            expected=f"{IDS}, {INPUTS} or one of {', '.join(names[:40])}",
        )

    @classmethod
    def taken(cls, name: str) -> KeptColumnError:
        """Return the error of a name that a column of the answer has."""
        return cls(
            f"the column {name!r} cannot be handed on: the answer has one of that name",
            remedy="rename it in the input, or name the other columns",
        )


def check_any_valued(refused: Sequence[tuple[int, str]], count: int) -> None:
    """Refuse `count` rows of which all are `refused`, each by its number for a reason.

    Raises:
        ValidationError: They are; the message names the first.
    """
    if len(refused) < count:
        return
    listed = "; ".join(f"row {number}: {error}" for number, error in refused[:_SHOWN_ERRORS])
    more = len(refused) - _SHOWN_ERRORS
    none = f"none of the {len(refused)} rows meets the contract: " if len(refused) > 1 else ""
    raise RowsError(
        none + listed + (f"; and {more} more" if more > 0 else ""), remedy="correct the rows"
    )


def json_items(text: str) -> list[Any]:
    """Return the rows of a JSON text: one row, a list, or ``{"instances": [...]}``.

    Raises:
        DataError: It is no JSON, or holds no row.
    """
    try:
        plain = read_json(text)
    except ValueError as error:
        raise SourceError(f"not valid JSON: {error}") from None
    if isinstance(plain, Mapping) and isinstance(plain.get("instances"), list):
        plain = plain["instances"]
    items = plain if isinstance(plain, list) else [plain]
    if not items:
        raise ValidationError("no row to value", expected="at least one object")
    return items


def json_text(rows: str) -> str | None:
    """Return the JSON that `rows` is or names as a ``.json`` file; None for a table's path."""
    if rows.lstrip().startswith(("{", "[")):
        return rows
    return read_text(rows) if rows.endswith(".json") else None


def _value_json(
    bundle: ModelBundle, text: str, keep: Sequence[str], how: _Asked
) -> Iterator[PredictedRow]:
    dated = as_of_field(bundle.contract, how.as_of)
    items = json_items(text)
    names = dict.fromkeys(name for item in items if isinstance(item, Mapping) for name in item)
    kept = _kept(bundle, keep, list(names))
    for number, item in enumerate(items, 1):
        handed_on = {name: item.get(name) for name in kept} if isinstance(item, Mapping) else {}
        value = partial(bundle.value, coverage=how.coverage)
        found, fault = checked_item(bundle, item, dated, value)
        reason = None if found is None else no_value(found.fsd, found.support, how.limits)
        yield PredictedRow(number, found, fault, handed_on, reason)


def checked_item(
    bundle: ModelBundle, item: Any, dated: Mapping[str, Any], work: Callable[[Any], Done]
) -> tuple[Done | None, str]:
    """Return what `work` makes of a row of JSON, or None and why the row is refused.

    Args:
        bundle: Says why.
        item: The row.
        dated: The day as of which it is valued, by its column; see `as_of_field`.
        work: Called with the row and that day.
    """
    is_row = isinstance(item, Mapping)
    try:
        return work({**item, **dated} if is_row else item), ""
    except ValidationError as error:
        return None, bundle.check.reasons(item) if is_row else str(error)


def check_fields(
    contract: TableContract, path: str, names: Sequence[str], as_of: str | None
) -> None:
    """Refuse a table with columns `names` that lacks one which must have a value.

    Raises:
        ValidationError: It does.
    """
    absent = contract.lacking((*names, *as_of_field(contract, as_of)))
    if absent:
        raise RowsError.lack_columns(path, contract.field_names, absent, list(names))


def pieces_of(table: TableStream, path: str, scorer: BatchScorer) -> Iterator[Piece]:
    """Yield a table's rows in pieces, the columns that `scorer` needs.

    Raises:
        ValidationError: A column is missing; see `BatchScorer.check_columns`.
        SourceError: The table has no rows, or is more than its file's size lets expect.
    """
    scorer.check_columns(table.names)
    columns = [name for name in scorer.columns if name in table.names]
    allowance, count = Allowance(path, storage.stamp(path).size), 0
    for piece in table.pieces(columns, _PIECE_ROWS):
        allowance.rows(piece.batch)
        count += len(piece) - len(piece.left_out)
        yield piece
    if count == 0:
        raise SourceError(f"{path} has a header but no rows", expected="at least one row")


def _value_table(
    bundle: ModelBundle,
    path: str,
    keep: Sequence[str],
    tell: Callable[[str], None],
    asked: Source | None,
    how: _Asked,
) -> Iterator[PredictedRow]:
    with open_table(path, bundle.contract, asked) as table:
        yield from _value_pieces(bundle, path, table, keep, how)
        for note in table.notes:
            tell(note)


def _value_pieces(
    bundle: ModelBundle, path: str, table: TableStream, keep: Sequence[str], how: _Asked
) -> Iterator[PredictedRow]:
    from tasador.inference.batch_scorer import BatchScorer
    from tasador.scoring.files import ROW, value_piece

    check_fields(bundle.contract, path, table.names, how.as_of)
    kept = _kept(bundle, keep, table.names)
    scorer = BatchScorer(
        bundle, keep=kept, as_of=how.as_of, coverage=how.coverage, limits=how.limits
    )
    made = [ROW, *scorer.schema.names]
    version, unit = bundle.version, bundle.contract.target.unit
    coverage = bundle.check_coverage(how.coverage)
    for piece in pieces_of(table, path, scorer):
        batch = value_piece(scorer, piece)
        cells = [batch.column(name).to_pylist() for name in made]
        inputs = [batch.column(name).to_pylist() for name in kept]
        for place, row in enumerate(zip(*cells, strict=True)):
            number, estimate, lower, upper, warnings, error, fsd, _, reason = row
            valuation = None
            if error is None:
                notes = (warnings,) if warnings else ()
                graded = bundle.confidence.graded([fsd])[0] if bundle.confidence else (None, None)
                valuation = Valuation(
                    estimate, lower, upper, coverage, version, unit, notes, fsd, *graded
                )
            handed_on = {name: column[place] for name, column in zip(kept, inputs, strict=True)}
            yield PredictedRow(number, valuation, error or "", handed_on, reason)


def _kept(bundle: ModelBundle, keep: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the columns to hand on."""
    identifiers = [column.name for column in bundle.contract.identifiers]
    kept: list[str] = []
    for word in keep:
        if word in names:
            kept.append(word)
        elif word == INPUTS:
            kept += names
        elif word == IDS:
            kept += [name for name in identifiers if name in names]
        else:
            raise KeptColumnError.absent(word, names)
    target = bundle.contract.target
    added = (target.prediction_name, *_ADDED, *(("unit",) if target.unit else ()))
    taken = [name for name in kept if name in added]
    if taken:
        raise KeptColumnError.taken(taken[0])
    return tuple(dict.fromkeys(kept))


_ADDED = ("row", "lower", "upper", "coverage", "warnings", "error", "model_version", "fsd",
          "confidence_class", "no_value")  # fmt: skip


def to_json(predicted: Predicted) -> str:
    """Return the rows as JSON; a refused one has no estimate and an ``error``."""
    plain = {
        "predictions": [_plain(predicted, row) for row in predicted.rows],
        "model_version": predicted.version,
    }
    return json.dumps(to_plain(plain), indent=2, ensure_ascii=False) + "\n"


def _plain(predicted: Predicted, row: PredictedRow) -> dict[str, Any]:
    found = row.valuation
    answered = None if row.no_value else found
    plain: dict[str, Any] = {
        predicted.prediction_name: None if answered is None else answered.prediction,
        "lower": None if answered is None else answered.lower,
        "upper": None if answered is None else answered.upper,
        "coverage": None if answered is None else answered.coverage,
    }
    if predicted.unit:
        plain["unit"] = predicted.unit
    plain["warnings"] = [] if found is None else list(found.warnings)
    graded = dict.fromkeys(("fsd", "confidence", "confidence_class", "support"))
    plain |= (graded if found is None else found.graded()) | {"no_value": row.no_value}
    if row.error:
        plain |= {"row": row.number, "error": row.error}
    return {**plain, "inputs": dict(row.kept)} if row.kept else plain


def to_csv(predicted: Predicted, decimal_comma: bool = False) -> str:
    """Return the rows as CSV, one line a row; a refused one has no estimate and an ``error``.

    With decimal commas, cells are separated by semicolons.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n", delimiter=";" if decimal_comma else ",")
    kept = list(dict.fromkeys(name for row in predicted.rows for name in row.kept))
    unit = ["unit"] if predicted.unit else []
    writer.writerow(
        [*kept, predicted.prediction_name, "lower", "upper", "coverage", *unit, "warnings",
         "error", "model_version", "fsd", "confidence_class", "no_value"]
    )  # fmt: skip
    for row in predicted.rows:
        found = row.valuation
        values: list[Any] = [None] * 4
        if found is not None and not row.no_value:
            values = [found.prediction, found.lower, found.upper, found.coverage]
        notes = "; ".join(found.warnings) if found is not None else ""
        cells = [to_plain(row.kept.get(name)) for name in kept]
        if decimal_comma:
            values = [with_comma(value) for value in values]
            numbers = predicted.numbers
            cells = [
                with_comma(cell) if name in numbers or isinstance(cell, float) else cell
                for name, cell in zip(kept, cells, strict=True)
            ]
        if unit:
            values.append(predicted.unit)
        fsd, grade = (None, None) if found is None else (found.fsd, found.confidence_class)
        size = with_comma(fsd) if decimal_comma else fsd
        ends = (row.error, predicted.version, size, grade, row.no_value)
        writer.writerow([*cells, *values, notes, *ends])
    return text.getvalue()


_MOST_FEATURES = 12
_WANTED = Wanted()


def explain_row(
    text: str,
    choice: BundleChoice,
    *,
    wanted: Wanted = _WANTED,
    tell: Callable[[str], None] = lambda _: None,
    as_of: str | None = None,
) -> Explanation:
    """Explain the value of one row given as a JSON object.

    Args:
        text: The row.
        choice: Which model is used.
        wanted: Which comparables are named.
        tell: See `chosen_bundle`.
        as_of: Day as of which the row is valued; None takes its own.

    Raises:
        DataError: The text is no row, it does not meet the contract, or the model does not know
            what comparables are to be chosen by.
        BundleError: There is no bundle, or it is damaged.
        ConfigError: See `chosen_bundle`.
    """
    try:
        row: Any = read_json(text)
    except ValueError as error:
        raise SourceError(f"not valid JSON: {error}") from None
    if not isinstance(row, dict):
        raise ValidationError("one row is explained at a time", expected="{column: value}")
    with chosen_bundle(choice, fits=fits_rows(text), tell=tell) as chosen:
        loaded = chosen.load()
    for column, direction in loaded.features.monotone.items():
        tell(f"{promise(column, direction)}: this model keeps to that")
    return loaded.explain(
        row | as_of_field(loaded.contract, as_of),
        comparables=wanted.n,
        radius_km=wanted.radius_km,
        since=wanted.since,
        same=wanted.same,
    )


def explanation_json(explanation: Explanation) -> str:
    """Return everything as JSON text."""
    return json.dumps(to_plain(explanation), ensure_ascii=False, indent=2) + "\n"


def to_lines(explanation: Explanation) -> Iterator[str]:
    """Yield lines for people: the estimate, the largest contributions, the comparables."""
    valuation = explanation.valuation
    unit = f" {valuation.unit}" if valuation.unit else ""
    yield (
        f"estimate {valuation.prediction:,.6g}{unit}, {valuation.coverage:.0%} interval "
        f"{valuation.lower:,.6g} to {valuation.upper:,.6g} ({valuation.version})"
    )
    for warning in valuation.warnings:
        yield f"warning: {warning}"
    yield ""
    yield f"from the typical {explanation.base:,.6g}{unit}, plus"
    for group in explanation.groups[:_MOST_FEATURES]:
        yield f"  {group.amount:>+14,.6g}  {group.label}"
    rest = explanation.groups[_MOST_FEATURES:]
    if rest:
        yield f"  {sum(group.amount for group in rest):>+14,.6g}  {len(rest)} others"
    if explanation.comparables:
        yield ""
        yield "comparables"
        for found in explanation.comparables:
            yield from _comparable_lines(found, unit)
    if explanation.reconciled is not None:
        found_value = explanation.reconciled
        yield (
            f"reconciled {found_value.value:,.6g}{unit}; spread of the prices "
            f"{found_value.spread_raw:.1%}, adjusted {found_value.spread_adjusted:.1%}"
        )


def _comparable_lines(found: Comparable, unit: str) -> Iterator[str]:
    named = ", ".join(filter(None, (found.id, found.label)))
    alike = "" if found.similarity is None else f"similarity {found.similarity:.0f}, "
    yield f"  {found.n}  {found.price:,.6g}{unit}" + (f"  {named}" if named else "")
    if found.date is not None:
        alike += f"sold {found.date}, "
    yield f"     {alike}{found.why}"
    kept = (
        f"{name} {value:.6g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in found.attributes.items()
        if value is not None
    )
    yield f"     {', '.join(kept)}"
    if found.adjusted_price is not None and found.weight is not None:
        steps = ", ".join(f"{one.name} {one.amount:+,.6g}" for one in found.adjustments)
        yield f"     adjusted {found.adjusted_price:,.6g} (weight {found.weight:.0%}): {steps}"
