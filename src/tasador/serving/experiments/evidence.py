"""Evidence about an experiment: rows that both models valued, with the outcomes known so far."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from tasador.metrics.sequential import Moments
from tasador.records.database.connection import Database
from tasador.serving.experiments.experiment import Evidence, Experiment, ExperimentBook

#: What the id of a shadow's record adds to the id of the answer that it shadows.
SHADOW_SUFFIX = "-s"
_MOST_ROWS = 100_000

# a shadow's record names the answer it belongs to, whichever of the two models answered
_PAIRS = """
    SELECT s.version, s.prediction, r.prediction, o.actual, s.time
    FROM records s
    JOIN records r ON r.id = substr(s.id, 1, length(s.id) - 2)
    LEFT JOIN outcomes o ON o.prediction_id = r.id
    WHERE s.time >= ? AND s.variant = 'shadow' AND s.version IN (?, ?) AND r.version IN (?, ?)
    ORDER BY s.time, s.id LIMIT ?
"""


def collect(database: Database, book: ExperimentBook, experiment: Experiment) -> Evidence:
    """Read what is known about an experiment.

    Raises:
        OutageError: The database cannot be used.
    """
    pair = (experiment.champion, experiment.challenger)
    rows = database.execute(_PAIRS, (experiment.started, *pair, *pair, _MOST_ROWS))
    attempts, failures, slower = _counted(book.tallies(experiment.id))
    if not rows:
        return Evidence(attempts=attempts, failures=failures, slower=slower)
    shadowed = np.array([row[0] == experiment.challenger for row in rows])
    values = np.array([row[1:] for row in rows], dtype=np.float64)
    challenger = np.where(shadowed, values[:, 0], values[:, 1])
    champion = np.where(shadowed, values[:, 1], values[:, 0])
    good = np.isfinite(challenger) & np.isfinite(champion)
    positive = good & (challenger > 0) & (champion > 0)
    gap = np.abs(np.log(challenger[positive] / champion[positive]))
    actual = values[:, 2]
    known = good & np.isfinite(actual) & (actual != 0)
    errors = [
        np.abs(one[known] - actual[known]) / np.abs(actual[known]) for one in (challenger, champion)
    ]
    return Evidence(
        rows=len(rows),
        stage_rows=int(np.sum(values[:, 3] >= experiment.stage_started)),
        attempts=attempts,
        failures=failures,
        error=Moments.of(errors[0] - errors[1]),
        challenger_error=Moments.of(errors[0]),
        champion_error=Moments.of(errors[1]),
        disagreement=Moments.of(gap),
        slower=slower,
    )


def _counted(tallies: Sequence[Mapping[str, Any]]) -> tuple[int, int, Moments]:
    slower = Moments()
    for tally in tallies:
        slower = slower.plus(Moments(**tally["slower"]))
    attempts = sum(int(tally["attempts"]) for tally in tallies)
    return attempts, sum(int(tally["failures"]) for tally in tallies), slower


class Counts:
    """What one worker counted; from the event loop and from the shadow's thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.attempts = self.failures = self.in_a_row = self.dropped = 0
        self.slower = Moments()

    def succeeded(self) -> None:
        with self._lock:
            self.attempts, self.in_a_row = self.attempts + 1, 0

    def failed(self) -> int:
        with self._lock:
            self.attempts, self.failures = self.attempts + 1, self.failures + 1
            self.in_a_row += 1
            return self.in_a_row

    def valued(self, slower_ms: float) -> None:
        self.succeeded()
        with self._lock:
            self.slower = self.slower.plus(Moments.of([slower_ms]))

    def plain(self) -> dict[str, Any]:
        with self._lock:
            return {
                "attempts": self.attempts, "failures": self.failures, "dropped": self.dropped,
                "slower": asdict(self.slower),
            }  # fmt: skip
