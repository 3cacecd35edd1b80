"""What features mean to people: each belongs to one group, such as location, size or time.

A model's features are many (means over the nearest 4, 8, 16 comparables, a column for each level of
a category, ...); what they are made from is known, and what a column is about is said by its role,
by how it is derived, or by the words of its name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasador.contract.model import Column, TableContract, people_label
from tasador.features.encoders import CODE, DATE_PARTS, STATISTICS
from tasador.features.fitted import FittedFeatures

Floats = NDArray[np.float64]

LOCATION, SIZE, TIME = "location", "size", "time"
CONDITION, SIMILAR = "age_and_condition", "similar_sales"
LABELS = {
    LOCATION: "Location",
    SIZE: "Size",
    TIME: "Time of sale",
    CONDITION: "Age and condition",
    SIMILAR: "Prices of similar sales",
}
_WORDS = {
    LOCATION: "zip zipcode zipcodes postcode postal plz neighborhood neighbourhood district suburb "
    "city town county region province municipality proximity location address street area_name "
    "barrio distrito ciudad zona ubicacion provincia municipio codigo_postal",
    SIZE: "sqft sq ft m2 area lot living rooms room bedroom bedrooms bath baths bathroom bathrooms "
    "size floors stories storeys units basement garage surface superficie habitaciones banos",
    CONDITION: "age grade quality qual cond condition built build renovated remod year yr "
    "construction antiguedad calidad estado",
}
_MEANING = {word: name for name, words in _WORDS.items() for word in words.split()}


@dataclass(frozen=True)
class Meaning:
    """Features that mean the same thing.

    Attributes:
        name: One of this module's names, or that of a column.
        label: For people, in English.
        columns: The table's columns in it.
        features: Positions among the model's features.
    """

    name: str
    label: str
    columns: tuple[str, ...]
    features: tuple[int, ...]


def meaning_of(column: Column) -> str:
    """Return what a column is about: a name of this module, or the column's own."""
    if column.role in ("longitude", "latitude"):
        return LOCATION
    if column.derive is not None and column.derive.operation == "distance_to":
        return LOCATION
    if column.role == "timestamp":
        return TIME
    words = [word.lower() for word in re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])", column.name)]
    found = [_MEANING[word] for word in words if word in _MEANING]
    # the words that say where come first: "lot area of the district" is about the district
    return min(found, key=list(_WORDS).index) if found else column.name


def meanings(features: FittedFeatures) -> tuple[Meaning, ...]:
    """Return the groups of a model's features; each feature is in exactly one."""
    contract, plan = features.contract, features.plan
    about = {column.name: meaning_of(column) for column in contract.features}
    about |= {ratio.name: about[ratio.numerator] for ratio in contract.ratios}
    coordinates = contract.coordinates
    by_place = coordinates is not None and plan is not None and (
        plan.near == tuple(column.name for column in coordinates)
    )  # fmt: skip
    members: dict[str, list[int]] = {}
    columns: dict[str, dict[str, None]] = {}
    for position, source in enumerate(_sources(features)):
        if source is None:
            kind = features.kinds[position]
            name = LOCATION if by_place or kind == "cluster" else SIMILAR
            near = () if plan is None else plan.near
        else:
            name, near = about.get(source, source), (source,)
        members.setdefault(name, []).append(position)
        columns.setdefault(name, {}).update(dict.fromkeys(near))
    return tuple(
        Meaning(name, LABELS.get(name, people_label(name)), tuple(columns[name]), tuple(at))
        for name, at in members.items()
    )


def _sources(features: FittedFeatures) -> Iterator[str | None]:
    """Yield the column or ratio that each feature is made from; None for several at once."""
    contract = features.contract
    made = {f"{n}_{part}": n for n in contract.feature_names for part in DATE_PARTS}
    for name in features.one_hot_columns:
        made |= {f"{name}={level}": name for level in contract.column(name).categories}
    made |= {f"{name}_target_mean": name for name in features.target_means}
    for name in features.level_statistics:
        made |= {f"{name}_{suffix}": name for suffix in (*STATISTICS, CODE)}
    numbers = {*contract.feature_names, *(ratio.name for ratio in contract.ratios)}
    for name, kind in zip(features.names, features.kinds, strict=True):
        if kind in ("number", "ratio", "rising", "falling"):
            yield name
        elif kind == "unused":  # models see none of these, which follow from a monotone column
            yield made.get(name, name if name in numbers else name.removesuffix("_missing"))
        elif kind == "missing":
            yield name.removesuffix("_missing")
        else:
            yield None if kind in ("cluster", "comparable") else made[name]


def sums(parts: Floats, groups: tuple[Meaning, ...]) -> Floats:
    """Return the parts (n, q) of features summed by group: (n, number of groups)."""
    return np.column_stack([parts[:, list(group.features)].sum(axis=1) for group in groups])


def column_weights(contract: TableContract, groups: tuple[Meaning, ...], parts: Floats) -> Floats:
    """Return how much each encoded column (p,) counts where rows are compared; they add up to 1.

    A group counts as much as its parts (n, groups) of some rows are on average away from their
    mean, and its columns share that alike. The date of the sale counts nothing.

    Args:
        contract: Names the columns.
        groups: The groups.
        parts: Shape (n, number of groups): of some typical rows.
    """
    moved = np.abs(parts - parts.mean(axis=0)).mean(axis=0)
    names = contract.feature_names
    weights = np.zeros(len(names))
    for group, size in zip(groups, moved.tolist(), strict=True):
        places = [names.index(name) for name in group.columns if name in names]
        for place in places:
            weights[place] += size / len(places)
    at = contract.timestamp_position
    if at is not None:
        weights[at] = 0.0
    total = weights.sum()
    return weights / total if total > 0 else np.full(len(names), 1.0 / len(names))
