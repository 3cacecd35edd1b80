"""Whether clients of one contract can go on when another one takes its place.

The rule: whatever a client may send under the old contract must be accepted under the new one and
mean the same, and the estimate must still be the same quantity under the same name. So:

- a column may be added only if it may be left out (nullable);
- no column may disappear, and none may change its kind; only a whole number may become a number;
- no unit may change; one may be named that was not;
- no column may become required, no bound narrower, no category disappear, no case begin to matter;
- the target keeps its column, its unit and the name of its field.

What is internal may change: the columns' order, categories' order (codes never leave a bundle),
roles, ratios, the scale of the model, descriptions.
"""

from __future__ import annotations

from collections.abc import Iterator

from tasador.contract.model import Column, TableContract


def incompatibilities(old: TableContract, new: TableContract) -> tuple[str, ...]:
    """Return why clients of `old` could not go on with `new`; empty when they can."""
    before = {column.name: column for column in old.features}
    after = {column.name: column for column in new.features}
    found: list[str] = []
    for name, column in before.items():
        if name in after:
            found += (f"{name}: {change}" for change in _changes(column, after[name]))
        else:
            found.append(f"{name}: the column is gone")
    found += (
        f"{name}: a new column that must be sent"
        for name, column in after.items()
        if name not in before and not column.nullable
    )
    for what in ("name", "prediction_name"):
        was, now = getattr(old.target, what), getattr(new.target, what)
        if was != now:
            found.append(f"target: its {what} was {was!r} and would be {now!r}")
    if _unit_changed(old.target.unit, new.target.unit):
        found.append(f"target: its unit was {old.target.unit} and would be {new.target.unit}")
    return tuple(found)


def _changes(old: Column, new: Column) -> Iterator[str]:
    if old.kind != new.kind and (old.kind, new.kind) != ("integer", "number"):
        yield f"its kind was {old.kind} and would be {new.kind}"
        return
    if _unit_changed(old.unit, new.unit):
        yield f"its unit was {old.unit} and would be {new.unit}"
    if old.nullable and not new.nullable:
        yield "it could be left out and would be required"
    if _narrower(old, new):
        yield f"its bounds were {_range(old)} and would be {_range(new)}"
    if old.kind == "category":
        yield from _category_changes(old, new)


def _category_changes(old: Column, new: Column) -> Iterator[str]:
    if new.case_sensitive and not old.case_sensitive:
        yield "upper and lower case did not matter and would"
    if old.open and not new.open:
        yield "other levels than the known ones were accepted and would be refused"
    if new.open:
        return
    known = {new.category_key(category) for category in new.categories}
    gone = [name for name in old.categories if new.category_key(name) not in known]
    if gone:
        yield f"categories would be gone: {', '.join(gone[:10])}"


def _unit_changed(old: str | None, new: str | None) -> bool:
    return old is not None and old != new


def _narrower(old: Column, new: Column) -> bool:
    low, high = new.bounds
    was_low, was_high = old.bounds
    return (low is not None and (was_low is None or low > was_low)) or (
        high is not None and (was_high is None or high < was_high)
    )


def _range(column: Column) -> str:
    low, high = ("open" if bound is None else column.text_of(bound) for bound in column.bounds)
    return f"[{low}, {high}]"
