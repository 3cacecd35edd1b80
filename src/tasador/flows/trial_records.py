"""Sweep trials recorded in Weights & Biases: an optional extra, asked for by ``tracking.wandb``.

Optuna proposes, W&B only records: each trial is one run, all trials of a sweep share a group.
Nothing depends on it. Offline, a run is a folder that ``wandb sync`` uploads to an account later.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tasador.config.settings import TrackingSettings
from tasador.core.errors import MissingExtraError
from tasador.core.fingerprints import fingerprint
from tasador.selection.search import CandidateResult

_log = logging.getLogger(__name__)


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
        settings: Where and how.
        folder: The workspace; offline runs lie under its ``wandb``.
        group: What the runs of one sweep have in common.
        facts: What is noted in each run beside its parameters.
        notes: File in which links are kept until the sweep is done, so that a trial is recorded
            once however often the sweep is interrupted; None keeps them in memory only.
        runs: What has been recorded, in its order.
        trouble: Why a trial could not be recorded as asked, once.
    """

    settings: TrackingSettings
    folder: Path
    group: str
    facts: dict[str, Any]
    notes: Path | None
    runs: list[TrialRun] = field(default_factory=list)
    trouble: str | None = None

    def __post_init__(self) -> None:
        self.runs = _read(self.notes)
        self._mode: Literal["off", "offline", "online"] = self.settings.wandb
        self._metric: str = self.facts["metric"]

    def __call__(self, trial: CandidateResult) -> None:
        """Record a trial, unless it is recorded; what W&B cannot do is no reason to stop."""
        key = fingerprint([trial.family, trial.params])
        if self._mode == "off" or any(run.trial == key for run in self.runs):
            return
        try:
            link = self._record(trial)
        except Exception as error:
            if self._mode == "offline":
                self._fail(f"W&B does not record: {error}")
                self._mode = "off"
                return
            self._fail(f"W&B cannot be reached, trials are recorded offline: {error}")
            self._mode = "offline"
            self(trial)
            return
        self.runs.append(TrialRun(key, link))
        if self.notes is not None:
            with self.notes.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(self.runs[-1])) + "\n")

    def _fail(self, why: str) -> None:
        self.trouble = " ".join(why.split())
        _log.warning("%s", self.trouble)

    def _record(self, trial: CandidateResult) -> str:
        import wandb

        number = len(self.runs) + 1
        run = wandb.init(
            project=self.settings.wandb_project,
            group=self.group,
            name=f"{self.group}-{number}",
            job_type="trial",
            config={**self.facts, "family": trial.family, **trial.params},
            mode="online" if self._mode == "online" else "offline",
            dir=str(self.folder.resolve()),
            reinit="create_new",
            settings=wandb.Settings(
                silent=True,
                console="off",
                init_timeout=20,
                x_disable_stats=True,
                x_disable_meta=True,  # no names of machines and users
                disable_git=True,
                save_code=False,
            ),
        )
        try:
            for fold, metrics in enumerate(trial.held):
                run.log({f"held/{name}": value for name, value in metrics.items()}, step=fold)
            run.summary.update(self._summary(trial))
            here = Path(str(run.settings.sync_dir)).relative_to(self.folder.resolve())
            return str(run.url or here.as_posix())
        finally:
            run.finish(exit_code=1 if trial.error is not None else 0)

    def _summary(self, trial: CandidateResult) -> dict[str, Any]:
        state = "failed" if trial.error else "given up early" if trial.dropped else "whole"
        found: dict[str, Any] = {"state": state, "cpu_seconds": trial.seconds}
        if trial.error is None:
            found |= {self._metric: trial.mean(self._metric)}
            found |= {f"{self._metric}_spread": trial.spread(self._metric)}
            found |= {f"{self._metric}_fitted": trial.train_mean(self._metric)}
        return {k: v for k, v in found.items() if not isinstance(v, float) or np.isfinite(v)}


def check_recording(settings: TrackingSettings) -> None:
    """Refuse to begin when trials are to be recorded and W&B is not installed.

    Raises:
        MissingExtraError: Naming the extra.
    """
    if settings.wandb != "off" and find_spec("wandb") is None:
        raise MissingExtraError.for_package("wandb", "wandb")


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
