"""The model card as Markdown, as it lies in the bundle."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from tasador.core.escape import code, markdown
from tasador.reporting.cards import CardTable, number, table_view, verdict_text
from tasador.reporting.model_card import SYNTHETIC, Block, Code, ModelDocument, sections


def to_markdown(document: ModelDocument) -> str:
    """Return the card as Markdown, without the rows to review."""
    facts = document.facts
    parts = [f"# Model card: {markdown(document.contract.title)}"]
    if facts.origin == "synthetic":
        parts.append(f"> **SYNTHETIC DATA.** {SYNTHETIC}")
    parts.append(
        f"{markdown(facts.model)}, version {markdown(facts.version)}, trained {facts.trained}."
    )
    for section in sections(replace(document, review=(), figures=())):
        parts.append(f"## {section.title}")
        parts += [_block(block) for block in section.blocks]
    return "\n\n".join(parts) + "\n"


def _block(block: Block) -> str:
    content = block.content
    match block.kind:
        case "text":
            return "".join(map(_inline, content))
        case "list":
            return "\n".join(f"- {markdown(line)}" for line in content)
        case "checks":
            judged = [
                (markdown(c.name), verdict_text(c.met) or "cannot tell", markdown(c.said))
                for c in content
            ]
            return _lines(("check", "verdict", "figures"), judged)
        case "figures":
            rows = [
                (
                    markdown(one.metric),
                    f"{number(one.value)} {markdown(one.unit)}".strip(),
                    f"{number(one.low)} – {number(one.high)}",
                    one.better,
                )
                for one in content
            ]
            return _lines(("metric", "value", "95% interval", "better"), rows)
        case "table":
            return _table(content)
        case "pictures":
            return ""


def _inline(part: str) -> str:
    """Return a part of a paragraph; spaces at its ends stay."""
    if isinstance(part, Code):
        return code(part)
    text = part.strip()
    return part.replace(text, markdown(text)) if text else part


def _table(table: CardTable) -> str:
    rows = [
        [
            shown if not isinstance(value, str) else code(value) if isinstance(value, Code)
            else markdown(value)
            for value, (shown, _) in zip(row, drawn, strict=True)
        ]
        for row, drawn in zip(table.rows, table_view(table)["rows"], strict=True)
    ]  # fmt: skip
    parts = [f"### {markdown(table.title)}", _lines(map(markdown, table.header), rows)]
    if table.note:
        parts.append(markdown(table.note))
    return "\n\n".join(parts)


def _lines(header: Iterable[str], rows: Sequence[Sequence[str]]) -> str:
    names = list(header)
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])
