"""The runs that a workspace holds."""

from __future__ import annotations

import json
from pathlib import Path

from tasador.core.errors import ConfigError
from tasador.flows.cards import read_card


def find_run(workspace: Path, run_id: str | None) -> Path:
    """Return the folder of a run, by default of the newest.

    Raises:
        ConfigError: There is no such run.
    """
    folders = _folders(workspace)
    if not folders:
        raise ConfigError(f"no run under {workspace / 'runs'}", remedy="start one: tasador run")
    if run_id is None:
        return folders[0]
    for folder in folders:
        if folder.name == run_id:
            return folder
    raise ConfigError(
        f"no run {run_id!r}", expected=f"one of {', '.join(f.name for f in folders[:5])}"
    )


def list_runs(workspace: Path) -> list[tuple[str, str, str, str, str, str, str]]:
    """Return run, dataset, status, origin, MAPE, within 10% and bundle of each, newest first."""
    found = []
    for folder in _folders(workspace):
        statuses = {read_card(card).status for card in sorted((folder / "cards").glob("*.json"))}
        status = next((s for s in ("failed", "interrupted") if s in statuses), "done")
        dataset = origin = mape = within = version = ""
        if (folder / "metrics.json").exists():
            metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
            origin = metrics["origin"]
            mape, within = (f"{metrics['test'][name]:.2f}" for name in ("mape", "within_10"))
        if (folder / "run.json").exists():
            plain = json.loads((folder / "run.json").read_text(encoding="utf-8"))
            dataset, version = plain["dataset"], plain.get("version") or ""
        found.append((folder.name, dataset, status, origin, mape, within, version))
    return found


def _folders(workspace: Path) -> list[Path]:
    folder = workspace / "runs"
    return sorted((p for p in folder.glob("*") if p.is_dir()), reverse=True)
