"""Draws docs/explanation/benchmarks.md and its pictures from benchmarks/results/*.json."""

from __future__ import annotations

import base64
import itertools
import json
import re
import urllib.parse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from suite_plan import BENCHMARKS, SECTIONS

PAGE = Path("docs/explanation/benchmarks.md")
PICTURES = Path("docs/images/benchmarks")

_HEAD = """# Benchmarks

What tasador costs and what it is worth, beside what you would pick instead. `make bench` measures
everything (about two hours; `python benchmarks/suite.py --list` names the parts, `--only
NAME` runs some) and draws this page from `benchmarks/results/`. Every table stands above the
command that made it. Times belong to the machine; ratios within one run travel better.
Competitors' answers are checked too: their error or how far they are from ours stands beside
their time. Environments of other tools are made on demand; one that is missing is named in its
table.
"""


def read_results(root: Path) -> dict[str, dict[str, Any]]:
    """Return the results by name, those of benchmarks that the suite knows."""
    folder = root / "benchmarks" / "results"
    found = {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}
    return {one.name: found[one.name] for one in BENCHMARKS if one.name in found}


def show(cell: Any) -> str:
    """Return a cell for people: four digits that count, thousands apart, a dash for nothing."""
    if cell is None:
        return "–"
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, str):
        return cell.replace("|", "\\|")
    size = abs(cell)
    if isinstance(cell, int) or size >= 1000:
        return f"{round(cell):,}".replace(",", "\N{NO-BREAK SPACE}")
    if 0 < size < 0.001:
        return f"{cell:.1e}"
    return f"{cell:.4g}"


def draw_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a Markdown table; columns of numbers are set to the right."""
    rows = [list(row) for row in rows]
    sides = [
        "---:" if any(isinstance(row[i], int | float) for row in rows) else "---"
        for i in range(len(columns))
    ]
    lines = [columns, sides, *([show(cell) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def merge_tables(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Join tables of the same title and columns, in the order in which they come."""
    merged: dict[tuple[str, tuple[str, ...]], dict[str, Any]] = {}
    for result in results:
        for table in (result["figures"] or {}).get("tables", ()):
            key = table["title"], tuple(table["columns"])
            if key not in merged:
                merged[key] = {**table, "rows": [], "notes": []}
            merged[key]["rows"] += table["rows"]
            if table["note"] and table["note"] not in merged[key]["notes"]:
                merged[key]["notes"].append(table["note"])
    return list(merged.values())


def draw_goals(results: Sequence[dict[str, Any]]) -> str:
    """Return the table of goals, empty when there are none."""
    rows = []
    for result in results:
        for goal in (result["figures"] or {}).get("goals", ()):
            below, value = goal["sign"] == "<=", goal["value"]
            reached = value is not None and (
                value <= goal["goal"] if below else value >= goal["goal"]
            )
            sign = "at most" if below else "at least"
            rows.append(
                [goal["name"], value, f"{sign} {goal['goal']:g}", "yes" if reached else "**no**"]
            )
    return draw_table(("Figure", "Measured", "Goal", "Reached"), rows) if rows else ""


def picture_name(title: str) -> str:
    """Return the file name of a picture."""
    return re.sub(r"[^a-z0-9]+", "-", title.casefold()).strip("-") + ".svg"


def draw_section(section: str, results: Sequence[dict[str, Any]], missing: Sequence[str]) -> str:
    """Return one section of the page."""
    parts = [f"## {section}", SECTIONS[section]]
    for table in merge_tables(results):
        parts.append(f"**{table['title']}**")
        parts.append(draw_table(table["columns"], table["rows"]))
        parts += table["notes"]
    goals = draw_goals(results)
    parts += [goals] if goals else []
    for plot in itertools.chain.from_iterable(
        (r["figures"] or {}).get("plots", ()) for r in results
    ):
        parts.append(f"![{plot['title']}](../images/benchmarks/{picture_name(plot['title'])})")
        parts.append(f"*{plot['title']}.* {plot['caption']}")
    for result in results:
        if result["printed"]:
            parts.append(f"```text\n{result['printed'].strip()}\n```")
        parts.append(
            f"`{result['command']}`: {result['date']}, commit {result['commit']}, "
            f"{show(round(result['seconds']))} s, load {result['load_before']:g} before"
        )
    for name in missing:
        parts.append(f"Not measured yet: `python benchmarks/suite.py --only {name}`")
    return "\n\n".join(parts)


def draw_machines(results: Iterable[dict[str, Any]]) -> str:
    """Return the machines and versions that the figures belong to."""
    lines: dict[str, list[str]] = {}
    for result in results:
        m = result["machine"]
        tools = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
        text = f"{m['cpu']}, {m['cores']} cores, {m['ram_gib']:g} GiB, {m['system']}; {tools}"
        lines.setdefault(text, []).append(result["name"])
    rows = [f"- {', '.join(names)}: {text}" for text, names in lines.items()]
    if len(lines) == 1:
        rows = [f"- {text}" for text in lines]
    return "\n\n".join(["## Machine and versions", "\n".join(rows)])


def draw_page(results: dict[str, dict[str, Any]]) -> str:
    """Return the page."""
    sections = []
    for section in SECTIONS:
        names = [one.name for one in BENCHMARKS if one.section == section]
        if names:
            some = [results[name] for name in names if name in results]
            sections.append(draw_section(section, some, [n for n in names if n not in results]))
    machines = [draw_machines(results.values())] if results else []
    return "\n\n".join([_HEAD.strip(), *sections, *machines]) + "\n"


def _is_two_or_five(value: float) -> bool:
    """Tell whether a value is two or five times a power of ten."""
    return f"{value:e}"[0] in "25"


def draw_picture(plot: dict[str, Any]) -> bytes:
    """Return a picture as SVG."""
    import numpy as np

    from tasador.reporting import plots

    def lines(axes: Any) -> None:
        colours = (plots.ACCENT, plots.SECOND, plots.MUTED, plots.TROUBLE)
        kinds = list(itertools.product(("-", "--"), colours))
        for (name, points), (dash, colour) in zip(plot["series"].items(), kinds, strict=False):
            x, y = np.array(points, dtype=float).T
            axes.plot(x, y, dash, marker="o", markersize=3, color=colour, label=name)
        axes.set_xscale("log")
        axes.set_yscale("log")
        for axis in (axes.xaxis, axes.yaxis):  # powers would be TeX, which an SVG's text is not
            axis.set_major_formatter(lambda value, _: show(value))
        axes.xaxis.set_minor_formatter(lambda *_: "")
        axes.yaxis.set_minor_formatter(
            lambda value, _: show(value) if _is_two_or_five(value) else ""
        )
        axes.set_xlabel(plot["axes"][0])
        axes.set_ylabel(plot["axes"][1])
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)

    def bars(axes: Any) -> None:
        values = np.array([np.nan if v is None else v for v in plot["values"]], dtype=float)
        texts = [show(value).replace("–", "missing") for value in plot["values"]]
        colours = [plots.SECOND if label.startswith("tasador") else plots.ACCENT
                   for label in plot["labels"]]  # fmt: skip
        plots.bars(axes, plot["labels"], np.nan_to_num(values), texts=texts, colours=colours)

    height = 3.2 if plot["kind"] == "lines" else 0.5 + 0.3 * len(plot["labels"])
    draw = lines if plot["kind"] == "lines" else bars
    figure = plots.drawn(plot["title"], plot["caption"], draw, height=height)
    head, content = figure.data.split(",", 1)
    if head.endswith(";base64"):
        return base64.b64decode(content)
    return urllib.parse.unquote_to_bytes(content)


def write_page(root: Path) -> None:
    """Write the page and its pictures."""
    results = read_results(root)
    (root / PAGE).write_text(draw_page(results), encoding="utf-8")
    folder = root / PICTURES
    folder.mkdir(parents=True, exist_ok=True)
    wanted = set()
    for result in results.values():
        for plot in (result["figures"] or {}).get("plots", ()):
            wanted.add(picture_name(plot["title"]))
            (folder / picture_name(plot["title"])).write_bytes(draw_picture(plot))
    for path in folder.glob("*.svg"):
        if path.name not in wanted:
            path.unlink()
