"""Weights & Biases: the one module that talks to it. An optional extra, off unless it is asked for.

W&B only records: the families compared, the trials of a sweep, what a watcher finds round by round,
its alerts. Nothing depends on it. Offline, a run is a folder under ``wandb`` that ``wandb sync``
uploads to an account later.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from tasador.core.errors import MissingExtraError, StorageError

Mode = Literal["off", "offline", "online"]

_log = logging.getLogger(__name__)
_TITLE = 64  # W&B cuts longer ones
_INIT_S = 20


def check_installed() -> None:
    """Refuse to begin when something is to be recorded and W&B is not installed.

    Raises:
        MissingExtraError: Naming the extra.
    """
    if find_spec("wandb") is None:
        raise MissingExtraError.for_package("wandb", "wandb")


def online(asked: str) -> bool:
    """Tell whether runs of a service go to W&B's server: WANDB_MODE decides where it is set."""
    return (os.environ.get("WANDB_MODE") or asked) == "online"


class WandbRun:
    """One run that is being written.

    Args:
        run: What ``wandb.init`` returned.
        folder: The folder under whose ``wandb`` offline runs lie.
    """

    def __init__(self, run: Any, folder: Path) -> None:
        self._run, self._folder = run, folder

    @property
    def link(self) -> str:
        """The run's address; offline, its folder relative to the workspace."""
        here = Path(str(self._run.settings.sync_dir)).relative_to(self._folder.resolve())
        return str(self._run.url or here.as_posix())

    def log(self, values: Mapping[str, Any], step: int | None = None) -> None:
        """Add a line to the history; what is no finite number is left out."""
        self._run.log(_finite(values), step=step)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Add a table."""
        import wandb

        plain = [[_finite({"": cell}).get("") for cell in row] for row in rows]
        self._run.log({name: wandb.Table(columns=list(columns), data=plain)})

    def summarize(self, values: Mapping[str, Any]) -> None:
        """Set what the list of runs shows of this one."""
        self._run.summary.update(_finite(values))

    def alert(self, title: str, text: str, *, urgent: bool) -> None:
        """Send an alert to those who follow the project."""
        self._run.alert(title=title[:_TITLE], text=text, level="ERROR" if urgent else "WARN")

    def finish(self, *, failed: bool = False) -> None:
        """End the run and write what waits."""
        self._run.finish(exit_code=int(failed))


class WandbRuns:
    """The runs of one project.

    Args:
        project: Its name.
        folder: Offline runs lie under its ``wandb``.
        mode: ``off``, ``offline`` or ``online``.

    Attributes:
        trouble: Why something could not be recorded as asked, once.
    """

    def __init__(self, project: str, folder: Path, mode: Mode = "offline") -> None:
        self.project, self.folder, self.mode = project, folder, mode
        self.trouble: str | None = None

    def open(
        self,
        job_type: str,
        *,
        name: str = "",
        group: str = "",
        config: Mapping[str, Any] | None = None,
    ) -> WandbRun:
        """Begin a run.

        Raises:
            MissingExtraError: W&B is not installed.
            StorageError: W&B refuses.
        """
        check_installed()
        import wandb

        try:
            run = wandb.init(
                project=self.project,
                group=group or None,
                name=name or None,
                job_type=job_type,
                config=dict(config or {}),
                mode="online" if self.mode == "online" else "offline",
                dir=str(self.folder.resolve()),
                reinit="create_new",
                settings=wandb.Settings(
                    silent=True,
                    console="off",
                    init_timeout=_INIT_S,
                    x_disable_stats=True,
                    x_disable_meta=True,  # no names of machines and users
                    disable_git=True,
                    save_code=False,
                ),
            )
        except Exception as error:  # W&B's errors share no public root
            raise StorageError(f"W&B does not begin a run: {error}") from None
        return WandbRun(run, self.folder)

    def record(
        self, write: Callable[[WandbRun], bool | None], job_type: str, **named: Any
    ) -> str | None:
        """Write one run from begin to end; what W&B cannot do is a warning and stops nothing.

        A server that cannot be reached is given up for the rest, and recording goes on offline.

        Args:
            write: Fills the run; returns True for a run that failed.
            job_type: What kind of run it is.
            **named: Further arguments of `open`.

        Returns:
            Its link; None when nothing was recorded.
        """
        if self.mode == "off":
            return None
        try:
            run = self.open(job_type, **named)
            failed = True
            try:
                failed = bool(write(run))
                return run.link
            finally:
                run.finish(failed=failed)
        except Exception as error:  # W&B's errors share no public root
            if self.mode == "offline":
                self.mode = "off"
                self._fail(f"W&B does not record: {error}")
                return None
            self.mode = "offline"
            self._fail(f"W&B cannot be reached, runs are recorded offline: {error}")
            return self.record(write, job_type, **named)

    def _fail(self, why: str) -> None:
        self.trouble = " ".join(why.split())
        _log.warning("%s", self.trouble)


class MonitorRun:
    """The one long run of a watcher: a line of numbers for each round, and its alerts.

    It begins with the first of either.
    """

    def __init__(self, runs: WandbRuns) -> None:
        self._runs = runs
        self._run: WandbRun | None = None

    def log(self, values: Mapping[str, Any]) -> None:
        """Add what a round found.

        Raises:
            MissingExtraError: W&B is not installed.
            StorageError: W&B refuses.
        """
        self._do(lambda run: run.log(values))

    def alert(self, title: str, text: str, *, urgent: bool) -> None:
        """Send an alert; raises as `log` does."""
        self._do(lambda run: run.alert(title, text, urgent=urgent))

    def close(self) -> None:
        """End the run, if it has begun."""
        run, self._run = self._run, None
        if run is not None:
            run.finish()

    def _do(self, write: Callable[[WandbRun], None]) -> None:
        if self._run is None:
            self._run = self._runs.open("monitor")
        try:
            write(self._run)
        except Exception as error:  # W&B's errors share no public root
            raise StorageError("W&B did not take what was found", got=str(error)) from None


def _finite(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: value
        for key, value in values.items()
        if value is not None and not (isinstance(value, float) and not math.isfinite(value))
    }
