"""Print the newest run's figures as Markdown; the argument is the workspace."""

from __future__ import annotations

import json
import sys
from pathlib import Path

SHOWN = ("mape", "wmape", "rmse", "mae", "r2", "within_10")


def summary(workspace: Path) -> str:
    """Return the figures of the newest run below `workspace`, and how its steps ended."""
    runs = sorted((workspace / "runs").glob("*/"), key=lambda path: path.stat().st_mtime)
    if not runs:
        return "## Pipeline\n\nno run left anything\n"
    run = runs[-1]
    lines = [f"## Pipeline: {run.name}", ""]
    if (run / "metrics.json").is_file():
        metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
        lines += [f"Rows: **{metrics['origin']}**", "", "| | test | random CV | spatial CV |"]
        lines += ["|---|---|---|---|"]
        for name in SHOWN:
            cells = [
                _shown((metrics.get(part) or {}).get(name))
                for part in ("test", "random_cv", "spatial_cv")
            ]
            lines.append(f"| {name} | {' | '.join(cells)} |")
        lines.append("")
    lines += ["| Step | Status | Seconds |", "|---|---|---|"]
    for card in sorted(run.glob("cards/*.json")):
        plain = json.loads(card.read_text(encoding="utf-8"))
        lines.append(f"| {plain['step']} | {plain['status']} | {plain['seconds']:.1f} |")
    return "\n".join(lines) + "\n"


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:,.4g}"


if __name__ == "__main__":
    sys.stdout.write(summary(Path(sys.argv[1])))
