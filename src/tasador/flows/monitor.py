"""Judge plain files: `tasador monitor --reference A --current B`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from tasador.core import files
from tasador.core.engine import Engine, LocalEngine
from tasador.core.errors import ConfigError, SourceError
from tasador.data.contract import Column, TableContract
from tasador.data.contract_reader import read_contract
from tasador.data.target_check import TargetBounds
from tasador.monitoring.describe import describe_columns
from tasador.monitoring.judge import judge_tally
from tasador.monitoring.parts import count_files, look_at_all
from tasador.monitoring.plain import Fields, PlainTable, common_precision
from tasador.monitoring.rules import Rules
from tasador.monitoring.tables import read_reference
from tasador.monitoring.verdict import Verdict

#: Exit codes of a verdict, beside those of errors.
EXIT_CODES = {"ok": 0, "warn": 0, "alert": 10, "cannot_tell": 11}
WARN_EXIT_CODE = 12


@dataclass(frozen=True)
class Comparison:
    """What is compared with what.

    Attributes:
        reference: Table of known good rows.
        current: Tables of the rows to judge, in order, or patterns such as ``day-*.parquet``.
        fields: Which columns are no features.
        contract: YAML that says what the columns are; by default they are looked at.
        segment: Column by which figures are reported apart, where no contract says so.
        outcomes: Table of outcomes that came later.
    """

    reference: str
    current: str | tuple[str, ...]
    fields: Fields
    contract: Path | None = None
    segment: str | None = None
    outcomes: str | None = None


def monitor_files(
    comparison: Comparison, rules: Rules, engine: Engine | None = None
) -> tuple[Verdict, tuple[str, ...]]:
    """Judge tables as one window; return the verdict, and notes on what was assumed.

    Args:
        comparison: What is compared with what.
        rules: The limits.
        engine: Where files are counted, this machine's cores by default; the verdict is the same.

    Raises:
        DataError: A file cannot be read, or lacks a column that is named.
        ConfigError: The contract cannot be read.
        EngineError: The cluster was lost.
    """
    engine = engine or LocalEngine()
    before = PlainTable.open(comparison.reference)
    now = look_at_all(_found(comparison.current), engine)
    contract = None if comparison.contract is None else read_contract(comparison.contract)
    columns, fields, notes = _columns(comparison, contract, before)
    outcomes = None if comparison.outcomes is None else PlainTable.open(comparison.outcomes)
    names = {name for table in now for name in table.types}
    blind = outcomes is None and (fields.target is None or fields.target not in names)
    learn = fields.prediction is not None and fields.prediction in names and blind
    compared = read_reference(
        before, columns, _available(fields, before), learn_errors=learn,
        precision=common_precision([before, *now]),
    )  # fmt: skip
    if contract is not None:
        bounds = TargetBounds.of(contract.target)
        compared = replace(compared, reference=replace(compared.reference, target_bounds=bounds))
    tally = count_files(replace(compared, fields=fields), now, engine, outcomes)
    return judge_tally(tally, rules), notes


def _found(patterns: str | tuple[str, ...]) -> list[str]:
    """Return the files that are meant, each once.

    Raises:
        SourceError: A pattern names none.
    """
    found: dict[str, None] = {}
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        names = files.find(pattern)
        if not names:
            raise SourceError(f"no file is called {pattern}", remedy="check the pattern")
        found |= dict.fromkeys(names)
    return list(found)


def _available(fields: Fields, table: PlainTable) -> Fields:
    """Leave out what the reference need not have: without outcomes it still shows drift."""
    absent = {
        role: None
        for role, name in fields.named().items()
        if role != "id" and name not in table.types
    }
    return replace(fields, **absent)


def _columns(
    comparison: Comparison, contract: TableContract | None, table: PlainTable
) -> tuple[tuple[Column, ...], Fields, tuple[str, ...]]:
    fields = comparison.fields
    if contract is None:
        ignored = set(fields.named().values())
        columns, notes = describe_columns(table, ignored, comparison.segment)
        times = [column.name for column in columns if column.role == "timestamp"]
        axis = fields.time or (times[0] if len(times) == 1 else None)
        return columns, replace(fields, time=axis), notes
    if comparison.segment is not None:
        raise ConfigError("--segment and --contract contradict each other",
                          remedy="give the column the role `segment` in the contract")  # fmt: skip
    target = fields.target or contract.target.name
    prediction = fields.prediction or contract.target.prediction_name
    stamp = contract.with_role("timestamp")
    time = fields.time or (None if stamp is None else stamp.name)
    return contract.features, replace(fields, target=target, prediction=prediction, time=time), ()


def exit_code(verdict: Verdict, *, fail_on_warn: bool = False) -> int:
    """Return the code with which the command ends: 0 ok, 10 alert, 11 cannot tell, 12 warn."""
    if verdict.level == "warn" and fail_on_warn:
        return WARN_EXIT_CODE
    return EXIT_CODES[verdict.level]


def parse_rules(texts: list[str], base: Rules | None = None) -> Rules:
    """Read rules such as ``mape_max=12`` over those of `base`, the defaults when None.

    Raises:
        ConfigError: A name that is no rule, or a value that is no number.
    """
    names = [name for name in Rules.__dataclass_fields__ if name != "relative_when_worse"]
    values: dict[str, float | int | None] = {}
    for text in texts:
        name, _, value = text.partition("=")
        if name not in names:
            raise ConfigError(f"there is no rule {name!r}", expected=", ".join(names))
        try:
            whole = name.startswith("min_")
            values[name] = None if value in ("none", "null") else (int if whole else float)(value)
        except ValueError:
            raise ConfigError(f"the rule {name} cannot be read", expected=f"{name}=number",
                              got=text) from None  # fmt: skip
    return (base or Rules()).changed(values)
