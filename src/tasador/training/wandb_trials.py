"""What a training run records in Weights & Biases, asked for by ``tracking.wandb``.

The families compared are one run with a table; each trial of the sweep is a run, and all trials of
a sweep share a group. Optuna proposes, W&B only records.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tasador.core.hashing import fingerprint
from tasador.metrics.regression import METRICS
from tasador.registry.wandb_runs import WandbRun, WandbRuns, check_installed
from tasador.selection.search.grid_search import CandidateResult, SearchResult
from tasador.settings.run import TrackingSettings


@dataclass(frozen=True)
class TrialRun:
    """Where a trial was recorded.

    Attributes:
        trial: Fingerprint of its family and parameters.
        link: The run's address; offline, its folder in the workspace.
    """

    trial: str
    link: str


@dataclass
class TrialRecorder:
    """Records trials as W&B runs; a call records one.

    Attributes:
        wandb: The project.
        group: What the runs of one sweep have in common.
        facts: What is noted in each run beside its parameters.
        notes: File in which links are kept until the sweep is done, so that a trial is recorded
            once however often the sweep is interrupted; None keeps them in memory only.
        runs: What has been recorded, in its order.
    """

    wandb: WandbRuns
    group: str
    facts: dict[str, Any]
    notes: Path | None
    runs: list[TrialRun] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.runs = _read(self.notes)
        self._metric: str = self.facts["metric"]

    def __call__(self, trial: CandidateResult) -> None:
        """Record a trial, unless it is recorded; what W&B cannot do is no reason to stop."""
        key = fingerprint([trial.family, trial.params])
        if any(run.trial == key for run in self.runs):
            return

        def write(run: WandbRun) -> bool:
            for fold, metrics in enumerate(trial.held):
                run.log({f"held/{name}": value for name, value in metrics.items()}, step=fold)
            run.summarize(self._summary(trial))
            return trial.error is not None

        link = self.wandb.record(
            write, "trial", name=f"{self.group}-{len(self.runs) + 1}", group=self.group,
            config={**self.facts, "family": trial.family, **trial.params},
        )  # fmt: skip
        if link is None:
            return
        self.runs.append(TrialRun(key, link))
        if self.notes is not None:
            with self.notes.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(self.runs[-1])) + "\n")

    def _summary(self, trial: CandidateResult) -> dict[str, Any]:
        found: dict[str, Any] = {"state": trial.state, "cpu_seconds": trial.seconds}
        if trial.error is None:
            found |= {self._metric: trial.mean(self._metric)}
            found |= {f"{self._metric}_spread": trial.spread(self._metric)}
            found |= {f"{self._metric}_fitted": trial.train_mean(self._metric)}
        return found


def runs_of(settings: TrackingSettings, folder: Path) -> WandbRuns:
    """Return the W&B project of a training run; its mode may be ``off``."""
    return WandbRuns(settings.wandb_project, folder, settings.wandb)


def record_families(result: SearchResult, runs: WandbRuns, group: str, dataset: str) -> str | None:
    """Record the comparison of families: one run with a table, a row for each family's best.

    Returns:
        The run's link; None when it was not recorded.
    """
    chances, scoring = result.tie_probabilities(), result.scoring
    columns = ("family", *METRICS, "spread", "fitted", "p_value", "cpu_seconds", "parameters")
    rows = [
        (
            one.family, *(one.mean(name) for name in METRICS), one.spread(scoring),
            one.train_mean(scoring), chances[one.family], one.seconds, json.dumps(one.params),
        )
        for one in result.best_of_families()
    ]  # fmt: skip

    def write(run: WandbRun) -> None:
        run.table("families", columns, rows)
        run.summarize({"winner": result.best.family, scoring: result.best.mean(scoring)})

    config = {"dataset": dataset, "metric": scoring, "candidates": len(result.candidates)}
    return runs.record(write, "selection", name=group, group=group, config=config)


def check_recording(settings: TrackingSettings) -> None:
    """Refuse to begin when runs are to be recorded and W&B is not installed.

    Raises:
        MissingExtraError: Naming the extra.
    """
    if settings.wandb != "off":
        check_installed()


def _read(notes: Path | None) -> list[TrialRun]:
    if notes is None or not notes.exists():
        return []
    found = []
    for line in notes.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            found.append(TrialRun(**json.loads(line)))
        except (ValueError, TypeError):  # cut off by an interruption
            continue
    return found
