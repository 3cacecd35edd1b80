"""Backtest of a version: its table again, its settings again, and the picture as a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tasador.core.storage import write_text
from tasador.lifecycle.gate_evaluation import reference_table
from tasador.lifecycle.reproduce import settings_of
from tasador.registry.model_bundle import ModelBundle
from tasador.reporting.cards import CardBuilder, render
from tasador.training.backtest import Backtest, Origin, Span, show_backtest, value_spans
from tasador.training.errors import BacktestError


def backtest(
    bundle: ModelBundle,
    tables: Path,
    by: Span = "year",
    since: str | None = None,
    *,
    tell: Callable[[Origin], None] = lambda _: None,
) -> Backtest:
    """Fit at each origin what `bundle` is made of, and measure it on the sales that follow.

    Args:
        bundle: The model.
        tables: Where the workspace keeps training tables.
        by: Length of the spans.
        since: First day of the first span's month, e.g. ``2008-01-01``; None takes the first with
            enough sales before it.
        tell: Called with each origin.

    Raises:
        BacktestError: The table has no dates, or too few sales.
        StorageError, KeyError: The training table is gone, or the bundle does not say which it was.
    """
    if bundle.contract.timestamp_position is None:
        raise BacktestError.no_dates(bundle.version)
    settings, _ = settings_of(bundle)
    return value_spans(
        bundle, settings, reference_table(bundle, tables), tables, by, since, tell=tell
    )


def check_picture(path: Path) -> None:
    """Refuse a file before anything is computed for it.

    Raises:
        BacktestError: It is no HTML file.
    """
    if path.suffix.lower() != ".html":
        raise BacktestError.unknown_file(path)


def write_picture(path: Path, found: Backtest, title: str) -> None:
    """Write the figures of all spans, and their picture, as one HTML file.

    Raises:
        StorageError: The file cannot be written.
        MissingExtraError: jinja2 or matplotlib is not installed.
    """
    card = CardBuilder("backtest", f"Backtest: {title}")
    card.fact("Model", found.version)
    show_backtest(card, found)
    write_text(path, render("card.html.j2", card=card.build()))
