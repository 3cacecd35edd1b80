"""`BatchScorer`: values Arrow batches, with the answers of the service and no object a row.

It is what `tasador score` and distributed scoring have in common. A row that does not meet the
contract gets the service's reason and no value; the others are valued.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tasador.contract.arrow_encoding import encode_arrow, rows_of
from tasador.contract.encoding import as_of_field, sent_as
from tasador.contract.formats import seconds_of
from tasador.contract.model import plain_name
from tasador.core.errors import ConfigError, MissingExtraError, ValidationError
from tasador.modeling.prediction import CLASSES, Appraised, no_value
from tasador.registry.model_bundle import ModelBundle
from tasador.settings.serving import ServeLimits

if TYPE_CHECKING:
    import pyarrow as pa

Floats = NDArray[np.float64]

#: Rows valued at a time: their features stay in the processor's second cache.
_CHUNK = 2048


class BatchScorer:
    """Values Arrow batches with one bundle; may be used from several threads at once.

    Args:
        bundle: The loaded bundle.
        keep: Columns of the input to hand on; None keeps the contract's identifiers that are there.
        as_of: Day such as 2014-06-30 as of which all rows are valued; None takes each row's own.
        coverage: Share of truths that the intervals are to hold; None takes the model's.
        limits: When a row gets no value.
        explain: Whether estimates come with their parts in money.

    Raises:
        ValidationError: See `as_of_field`.
        ConfigError: A column to keep has the name of one that is added.
        MissingExtraError: pyarrow is not installed.

    Attributes:
        bundle: The loaded bundle.
        schema: What is added to the kept columns: the estimate under the contract's name for it,
            ``lower`` and ``upper`` (all null for a refused row), with `explain` ``base`` and a
            column ``part_...`` for each group of features, which add up to the estimate,
            ``warnings`` (what is unusual about a valued row, as the service says it), ``error``
            (why a row was refused), ``fsd``, ``confidence_class`` (null from older bundles) and
            ``no_value`` (why a row that meets the contract gets no value).
    """

    def __init__(
        self,
        bundle: ModelBundle,
        *,
        keep: Sequence[str] | None = None,
        as_of: str | None = None,
        coverage: float | None = None,
        limits: ServeLimits | None = None,
        explain: bool = False,
    ) -> None:
        try:
            import pyarrow as pa
        except ImportError:
            raise MissingExtraError.for_package("pyarrow", "parquet") from None
        self.bundle = bundle
        bundle.check_coverage(coverage)
        self._coverage, self._limits = coverage, limits or ServeLimits()
        self._contract = bundle.contract
        self._check = bundle.check
        self._dated = as_of_field(self._contract, as_of)
        self._explain = explain
        self._keep = None if keep is None else tuple(dict.fromkeys(keep))
        groups = bundle.explainer.money_groups if explain else ()
        parts = ("base", *(f"part_{group.name}" for group in groups)) if explain else ()
        self._numbers = (bundle.contract.target.prediction_name, "lower", "upper", *parts)
        self.schema = pa.schema(
            [
                *((name, pa.float64()) for name in self._numbers),
                ("warnings", pa.string()),
                ("error", pa.string()),
                ("fsd", pa.float64()),
                ("confidence_class", pa.string()),
                ("no_value", pa.string()),
            ]
        )
        twice = sorted(set(self._keep or ()) & set(self.schema.names))
        if twice:
            raise ConfigError(
                f"the column {twice[0]!r} cannot be kept: the answer has one of that name",
                remedy="rename it in the input, or leave it out",
            )

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the input that are used where they are there."""
        kept = self._keep
        if kept is None:
            kept = tuple(column.name for column in self._contract.identifiers)
        return tuple(dict.fromkeys((*self._contract.readable_names, *kept)))

    def kept(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return which of an input's columns are handed on, in their order in the answer.

        Raises:
            ValidationError: A column to keep is not there.
        """
        if self._keep is None:
            taken = set(self.schema.names)
            identifiers = (column.name for column in self._contract.identifiers)
            return tuple(name for name in identifiers if name in names and name not in taken)
        absent = [name for name in self._keep if name not in names]
        if absent:
            raise ValidationError(
                f"the column {absent[0]!r} is not there to be kept",
                got=f"the columns {', '.join(names[:40])}",
                remedy="name columns of the input",
            )
        return self._keep

    def check_columns(self, names: Sequence[str]) -> None:
        """Refuse an input that lacks columns or has one twice.

        Raises:
            ValidationError: It does; the message names the columns.
        """
        absent = self._contract.lacking((*names, *self._dated))
        if absent:
            raise ValidationError(
                "columns of the contract are missing",
                expected=", ".join(self._contract.field_names),
                got=f"no {', '.join(absent)} among {', '.join(names[:40]) or 'no columns'}",
                remedy="add the columns, or name them as the contract does",
            )
        self.kept(names)
        count = Counter(names)
        twice = [name for name in self.columns if count[name] > 1]
        if twice:
            raise ValidationError(
                f"the column {twice[0]!r} is there {count[twice[0]]} times",
                remedy="rename or drop the others",
            )

    def score(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Value a batch of n rows: the kept columns, then those of `schema`.

        The answer for a row does not depend on the rows beside it.

        Raises:
            ValidationError: Columns are missing; see `check_columns`.
        """
        import pyarrow as pa

        names = [plain_name(name) for name in batch.schema.names]
        batch = batch.rename_columns(names)
        self.check_columns(names)
        X, wrong = self._encoded(batch)
        # a value of a different type was encoded as NaN, which a nullable column would accept
        refused = wrong | ~self._check.accepts(X)
        rows = X[~refused] if refused.any() else X
        kept = [(name, _spelt_out(batch.column(name))) for name in self.kept(names)]
        *values, fsd, classes, silent = self._values(rows, refused)
        errors = self._errors(batch, np.flatnonzero(refused))
        made = [*values, errors, fsd, classes, silent]
        fields = [batch.schema.field(name).with_type(array.type) for name, array in kept]
        return pa.RecordBatch.from_arrays(
            [*(array for _, array in kept), *made], schema=pa.schema([*fields, *self.schema])
        )

    def encode(self, batch: pa.RecordBatch) -> tuple[Floats, dict[int, str]]:
        """Return the encoded rows (n, p) of a batch, and why some are refused, by their place.

        Raises:
            ValidationError: Columns are missing; see `check_columns`.
        """
        batch = batch.rename_columns([plain_name(name) for name in batch.schema.names])
        self.check_columns(batch.schema.names)
        X, wrong = self._encoded(batch)
        return X, self._reasons(batch, np.flatnonzero(wrong | ~self._check.accepts(X)))

    def _encoded(self, batch: pa.RecordBatch) -> tuple[Floats, NDArray[np.bool_]]:
        """Return the encoded rows (n, p), and which hold a value of a different type."""
        columns = self._contract.features
        X = np.empty((batch.num_rows, len(columns)))
        wrong = np.zeros(batch.num_rows, dtype=np.bool_)
        for position, column in enumerate(columns):
            sent = sent_as(column, batch.schema.names)
            if sent is None:
                X[:, position] = np.nan
                continue
            X[:, position], strange = encode_arrow(sent, batch.column(sent.field_name))
            wrong |= strange
        for name, day in self._dated.items():
            X[:, self._contract.position(name)] = seconds_of(day)
        return self.bundle.encoder.fill_derived(X), wrong

    def _values(self, rows: Floats, refused: NDArray[np.bool_]) -> list[pa.Array]:
        """Return what is added for the accepted rows, but ``error``; null for the refused."""
        import pyarrow as pa

        # neighbours in space share what the search for comparables has in the cache
        order = self.bundle.features.neighbour_order(rows)
        if order is None:
            order = np.arange(len(rows))
        fsd = np.empty(len(rows))
        found = np.empty((len(self._numbers), len(rows)))
        at, warnings = np.flatnonzero(~refused), dict[int, str]()
        silent: dict[int, str] = {}
        restricted = self._limits.min_support > 0
        for part in _parts(len(rows)):
            own = order[part]
            if self._explain:
                valued, parts = self.bundle.appraise_in_parts(
                    rows[own], self._coverage, support=restricted
                )
                found[3, own], found[4:, own] = self.bundle.explainer.base, parts.T
            else:
                valued = self.bundle.appraise(rows[own], self._coverage, support=restricted)
            found[:3, own] = valued.prediction, valued.lower, valued.upper
            fsd[own] = np.nan if valued.fsd is None else valued.fsd
            places = at[own]
            silent |= {int(at[row]): why for row, why in self._no_value(own, valued)}
            warnings |= {int(places[row]): "; ".join(texts) for row, texts in valued.notes.items()}
        noted, reasons = _sparse(len(refused), warnings), _sparse(len(refused), silent)
        # zeros behind the mask: bytes of the file must not depend on what was in memory
        spread, sizes = np.zeros((len(found), len(refused))), np.zeros(len(refused))
        sizes[~refused] = fsd
        spread[:, ~refused] = found
        absent = refused.copy()
        absent[list(silent)] = True
        spread[:, absent] = 0.0
        if self.bundle.confidence is None:
            graded = [pa.nulls(len(refused), kind) for kind in (pa.float64(), pa.string())]
        else:
            mask = refused if refused.any() else None
            codes = pa.array(self.bundle.confidence.classes(sizes), mask=mask)
            graded = [pa.array(sizes, mask=mask), pa.array(CLASSES, pa.string()).take(codes)]
        mask = absent if absent.any() else None
        values = [pa.array(column, mask=mask) for column in spread]
        return [*values, noted, *graded, reasons]

    def _no_value(self, places: NDArray[np.intp], found: Appraised) -> Iterator[tuple[int, str]]:
        """Give those `places` that get no value, and why."""
        if found.fsd is None or self._limits == ServeLimits():
            return
        for i, size in enumerate(found.fsd.tolist()):
            support = None if found.support is None else found.support[i]
            reason = no_value(size, support, self._limits)
            if reason is not None:
                yield int(places[i]), reason

    def _errors(self, batch: pa.RecordBatch, refused: NDArray[np.intp]) -> pa.Array:
        if not len(refused):
            return _sparse(batch.num_rows, {})
        return _sparse(batch.num_rows, self._reasons(batch, refused))

    def _reasons(self, batch: pa.RecordBatch, refused: NDArray[np.intp]) -> dict[int, str]:
        rows = rows_of(batch, self._contract.features, refused)
        return {int(at): self._check.reasons(row) for at, row in zip(refused, rows, strict=True)}


def _spelt_out(values: pa.Array) -> pa.Array:
    """Return texts that were read as a dictionary as the file's own type."""
    import pyarrow as pa

    return values.dictionary_decode() if pa.types.is_dictionary(values.type) else values


def _parts(n: int) -> Iterator[slice]:
    yield from (slice(start, start + _CHUNK) for start in range(0, n, _CHUNK))


def _sparse(n: int, texts: dict[int, str]) -> Any:
    """Return an array of n texts, null but where `texts` has one."""
    import pyarrow as pa

    if not texts:
        return pa.nulls(n, pa.string())
    at = np.zeros(n, dtype=np.int64)
    at[list(texts)] = np.arange(len(texts))
    absent = np.ones(n, dtype=np.bool_)
    absent[list(texts)] = False
    return pa.array(list(texts.values()), pa.string()).take(pa.array(at, mask=absent))
