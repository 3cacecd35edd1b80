"""Judge plain files: `tasador monitor --reference A --current B`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from tasador.core.errors import ConfigError
from tasador.data.contract import Column
from tasador.data.contract_reader import read_contract
from tasador.monitoring.describe import describe_columns
from tasador.monitoring.judge import judge
from tasador.monitoring.plain import Fields, PlainTable
from tasador.monitoring.rules import Rules
from tasador.monitoring.tables import read_reference, read_windows
from tasador.monitoring.verdict import Verdict

#: Exit codes of a verdict, beside those of errors.
EXIT_CODES = {"ok": 0, "warn": 0, "alert": 10, "cannot_tell": 11}
WARN_EXIT_CODE = 12


@dataclass(frozen=True)
class Comparison:
    """What is compared with what.

    Attributes:
        reference: Table of known good rows.
        current: Table of the rows to judge.
        fields: Which columns are no features.
        contract: YAML that says what the columns are; by default they are looked at.
        segment: Column by which figures are reported apart, where no contract says so.
        outcomes: Table of outcomes that came later.
    """

    reference: str
    current: str
    fields: Fields
    contract: Path | None = None
    segment: str | None = None
    outcomes: str | None = None


def monitor_files(comparison: Comparison, rules: Rules) -> tuple[Verdict, tuple[str, ...]]:
    """Judge a table; return the verdict, and notes on what was assumed.

    Raises:
        DataError: A file cannot be read, or lacks a column that is named.
        ConfigError: The contract cannot be read.
    """
    before, now = PlainTable.open(comparison.reference), PlainTable.open(comparison.current)
    columns, fields, notes = _columns(comparison, before)
    outcomes = None if comparison.outcomes is None else PlainTable.open(comparison.outcomes)
    blind = outcomes is None and (fields.target is None or fields.target not in now.types)
    learn = fields.prediction is not None and fields.prediction in now.types and blind
    compared = read_reference(before, columns, _available(fields, before), learn_errors=learn)
    verdict = judge(
        compared.reference, read_windows(replace(compared, fields=fields), now, outcomes), rules
    )
    return verdict, notes


def _available(fields: Fields, table: PlainTable) -> Fields:
    """Leave out what the reference need not have: without outcomes it still shows drift."""
    absent = {
        role: None
        for role, name in fields.named().items()
        if role != "id" and name not in table.types
    }
    return replace(fields, **absent)


def _columns(
    comparison: Comparison, table: PlainTable
) -> tuple[tuple[Column, ...], Fields, tuple[str, ...]]:
    fields = comparison.fields
    if comparison.contract is None:
        ignored = set(fields.named().values())
        columns, notes = describe_columns(table, ignored, comparison.segment)
        return columns, fields, notes
    contract = read_contract(comparison.contract)
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


def parse_rules(texts: list[str]) -> Rules:
    """Read rules such as ``mape_max=12``.

    Raises:
        ConfigError: A name that is no rule, or a value that is no number.
    """
    names = Rules.__dataclass_fields__
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
    return Rules(**values)  # type: ignore[arg-type]
