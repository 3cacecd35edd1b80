"""Say why a row is worth what it is, as text or as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from typing import Any

from tasador.core.errors import SourceError, ValidationError
from tasador.core.fingerprints import to_plain
from tasador.core.strict_json import read_json
from tasador.flows.chosen import BundleChoice, chosen_bundle, fits_rows
from tasador.modeling.valuation import Explanation

_MOST_FEATURES = 12


def explain_row(
    text: str,
    choice: BundleChoice,
    *,
    comparables: int = 5,
    tell: Callable[[str], None] = lambda _: None,
) -> Explanation:
    """Explain the value of one row given as a JSON object.

    Args:
        text: The row.
        choice: Which model is used.
        comparables: How many are named.
        tell: See `chosen_bundle`.

    Raises:
        DataError: The text is no row, or it does not meet the contract.
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
    return loaded.explain(row, comparables=comparables)


def to_json(explanation: Explanation) -> str:
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
    log = explanation.transform == "log"
    start = math.exp(explanation.expected) if log else explanation.expected
    yield ""
    yield f"from the typical {start:,.6g}{unit}" + (", multiplied by" if log else ", plus")
    parts = sorted(explanation.contributions.items(), key=lambda item: -abs(item[1]))
    for name, part in parts[:_MOST_FEATURES]:
        yield f"  {_part(part, log):>12}  {name}"
    rest = parts[_MOST_FEATURES:]
    if rest:
        yield f"  {_part(sum(part for _, part in rest), log):>12}  {len(rest)} other features"
    if explanation.comparables:
        yield ""
        yield "comparables (nearest training rows)"
        for found in explanation.comparables:
            kept = ", ".join(f"{name} {value:.6g}" for name, value in found.attributes.items())
            yield f"  {found.value:>12,.6g}{unit}  {kept}"


def _part(value: float, log: bool) -> str:
    return f"{math.exp(value):.3f}" if log else f"{value:+,.6g}"
