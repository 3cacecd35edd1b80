"""HTML pages from the templates beside this module; everything that goes in is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from tasador.core.errors import MissingExtraError
from tasador.flows.numerals import Value, decimals_for, duration, number

if TYPE_CHECKING:
    from jinja2 import Environment

    from tasador.flows.cards import CardTable


def render(template: str, **values: Any) -> str:
    """Fill a template of ``flows/templates``.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> Environment:
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError as error:
        raise MissingExtraError.for_package("jinja2", "train") from error
    environment = Environment(
        loader=PackageLoader("tasador.flows", "templates"),
        autoescape=True,  # for every template, whatever its name
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, duration=duration, table_view=table_view)
    return environment


def table_view(table: CardTable) -> dict[str, Any]:
    """Return a table ready to be drawn: each cell as text, each column with its alignment."""
    columns = list(zip(*table.rows, strict=True)) or [()] * len(table.header)
    aligns: tuple[str, ...] = table.align or tuple(map(_natural_alignment, columns))
    decimals = [decimals_for(column) for column in columns]
    return {
        "head": list(zip(table.header, aligns, strict=True)),
        "rows": [
            [
                (number(cell, places, trim=places is None), align)
                for cell, places, align in zip(row, decimals, aligns, strict=True)
            ]
            for row in table.rows
        ],
    }


def _natural_alignment(column: Sequence[Value]) -> str:
    some = [cell for cell in column if cell is not None]
    numbers = bool(some) and all(not isinstance(cell, str) for cell in some)
    return "right" if numbers else "left"
