"""Progress bars for work that takes longer than a couple of seconds.

The library reports through `Progress`; whether a bar is drawn is the terminal's business: rich
draws it on an interactive standard error and nothing is drawn elsewhere, so that logs stay clean.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Advance(Protocol):
    """What the body of `progress` calls as work gets done."""

    def __call__(self, steps: float = 1.0, *, note: str | None = None) -> None: ...


def _silent(steps: float = 1.0, *, note: str | None = None) -> None:
    """Accept progress and draw nothing."""


@contextmanager
def progress(description: str, total: float | None) -> Iterator[Advance]:
    """Draw a bar with the remaining time while the body runs.

    Args:
        description: What is being done, e.g. ``"grid search"``.
        total: Number of steps, or None when it is not known.

    Yields:
        A function to call with the number of steps done since the last call.
    """
    if not sys.stderr.isatty():
        yield _silent
        return
    try:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
    except ImportError:
        yield _silent
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(description, total=total, note="")

        def advance(steps: float = 1.0, *, note: str | None = None) -> None:
            if note is None:
                bars.update(task, advance=steps)
            else:
                bars.update(task, advance=steps, note=note)

        yield advance
