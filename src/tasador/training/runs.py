"""The runs that a workspace holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tasador.core.errors import StorageError
from tasador.core.languages import Language
from tasador.core.storage import read_bytes, write_text
from tasador.reporting.cards import read_card
from tasador.reporting.model_card import FILES
from tasador.reporting.spanish import in_language
from tasador.training.errors import NoRunError


def find_run(workspace: Path, run_id: str | None) -> Path:
    """Return the folder of a run, by default of the newest.

    Raises:
        ConfigError: There is no such run.
    """
    folders = _folders(workspace)
    if not folders:
        raise NoRunError.at_all(workspace / "runs")
    if run_id is None:
        return folders[0]
    for folder in folders:
        if folder.name == run_id:
            return folder
    raise NoRunError.called(run_id, [folder.name for folder in folders[:5]])


def report_in(run: Path, language: Language) -> Path:
    """Return a run's report in a language; other ones than English are written beside it.

    So is the model card, where the run has one.

    Raises:
        StorageError: The disk refuses, or there is no report.
    """
    report = run / "report.html"
    if language == "en":
        return report
    for page in (run / FILES[0], report):
        if page == report or page.exists():
            text = in_language(read_bytes(page).decode("utf-8"), language)
            write_text(page.with_suffix(f".{language}.html"), text)
    return report.with_suffix(f".{language}.html")


def run_of_version(workspace: Path, version: str) -> Path:
    """Return the folder of the newest run that made a bundle's version.

    Raises:
        ConfigError: The workspace keeps no such run.
    """
    for folder in _folders(workspace):
        if _read(folder / "run.json").get("version") == version:
            return folder
    raise NoRunError.of_version(version, workspace / "runs")


def list_runs(workspace: Path) -> list[tuple[str, str, str, str, str, str, str]]:
    """Return run, dataset, status, origin, MAPE, within 10% and bundle of each, newest first."""
    found = []
    for folder in _folders(workspace):
        status = _status(folder / "cards")
        dataset = origin = mape = within = version = ""
        metrics = _read(folder / "metrics.json")
        if metrics:
            origin = metrics["origin"]
            mape, within = (f"{metrics['test'][name]:.2f}" for name in ("mape", "within_10"))
        plain = _read(folder / "run.json")
        if plain:
            dataset, version = plain["dataset"], plain.get("version") or ""
        found.append((folder.name, dataset, status, origin, mape, within, version))
    return found


def _status(cards: Path) -> str:
    """Return how a run ended, by its cards."""
    try:
        statuses = {read_card(card).status for card in sorted(cards.glob("*.json"))}
    except StorageError:
        return "damaged"
    return next((s for s in ("failed", "interrupted") if s in statuses), "done")


def _read(path: Path) -> dict[str, Any]:
    """Return what a run noted; nothing when it did not get that far or the file is damaged."""
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return plain if isinstance(plain, dict) else {}


def _folders(workspace: Path) -> list[Path]:
    folder = workspace / "runs"
    return sorted((p for p in folder.glob("*") if p.is_dir()), reverse=True)
