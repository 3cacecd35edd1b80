"""Generated stand-ins for tables that cannot be had, calibrated to look and behave like them.

``california_housing`` has the schema and the quirks of the census table of 1990: districts that
crowd around the cities, a price surface that falls from the coast inland, income tied to both,
counts that rise and fall together, 1% of the bedrooms missing and prices cut off at 500 001. No
row is a real one: the constants below are public geography and rounded quantiles.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tasador.core import seeds
from tasador.core.errors import SourceError

Floats = NDArray[np.float64]

CALIFORNIA_ROWS = 20640
_CAP = 500001.0
_CAPPED_SHARE = 965 / 20640
_MISSING_SHARE = 207 / 20640
_KM_PER_DEGREE = 111.0

#: The shore from Oregon to Mexico: longitude, latitude.
_COAST = np.array([
    (-124.21, 42.0), (-124.07, 41.3), (-124.15, 40.8), (-124.38, 40.4), (-123.82, 39.5),
    (-123.72, 38.95), (-123.0, 38.3), (-122.53, 37.82), (-122.51, 37.5), (-122.4, 37.1),
    (-122.03, 36.95), (-121.8, 36.8), (-121.95, 36.58), (-121.3, 35.68), (-120.86, 35.37),
    (-120.63, 35.13), (-120.63, 34.56), (-120.45, 34.45), (-119.69, 34.41), (-119.25, 34.25),
    (-118.8, 34.01), (-118.5, 34.01), (-118.4, 33.8), (-118.28, 33.71), (-117.93, 33.6),
    (-117.6, 33.39), (-117.28, 33.0), (-117.25, 32.8), (-117.13, 32.54),
])  # fmt: skip
#: Where people live: longitude, latitude, spread in degrees, weight, income level, price level.
_CITIES = np.array([
    (-118.24, 34.05, .12, 13, -.35, .05), (-118.38, 34.05, .06, 4.5, .30, .55),
    (-118.45, 34.21, .10, 7, .10, .15), (-118.16, 33.85, .09, 9, -.05, 0),
    (-118.33, 33.87, .06, 4, .25, .35), (-118.08, 34.07, .09, 7, -.02, .02),
    (-117.88, 33.77, .10, 7.5, .25, .15), (-117.80, 33.62, .08, 2.5, .60, .40),
    (-117.72, 34.06, .09, 3.2, .10, -.10), (-117.30, 34.08, .12, 4, -.10, -.35),
    (-117.40, 33.95, .10, 2.5, .10, -.25), (-117.13, 32.77, .10, 7, .0, .05),
    (-117.04, 32.64, .07, 2.2, -.15, -.10), (-117.20, 33.15, .11, 3, .15, .05),
    (-122.43, 37.76, .03, 4.5, .05, .55), (-122.25, 37.82, .06, 4.5, -.05, .10),
    (-122.10, 37.66, .06, 2.6, .20, .15), (-122.35, 37.53, .08, 3.2, .40, .50),
    (-121.90, 37.32, .09, 6, .35, .30), (-122.05, 37.93, .09, 3, .30, .10),
    (-122.53, 38.00, .06, 1.5, .45, .50), (-122.27, 38.15, .09, 1.4, .05, -.15),
    (-122.71, 38.44, .13, 2, .05, .05), (-121.46, 38.57, .12, 5.5, -.05, -.15),
    (-121.00, 38.80, .18, 2, .20, .05), (-121.29, 37.97, .08, 2.2, -.15, -.25),
    (-121.00, 37.65, .10, 2.2, -.10, -.25), (-120.48, 37.30, .13, 1, -.25, -.40),
    (-119.79, 36.76, .10, 3.2, -.20, -.40), (-119.30, 36.25, .17, 1.8, -.35, -.50),
    (-119.02, 35.37, .12, 2.4, -.15, -.45), (-118.14, 34.68, .10, 1.2, .10, -.20),
    (-117.30, 34.50, .14, 1, -.05, -.35), (-116.42, 33.76, .16, 1.3, -.05, -.10),
    (-115.55, 32.82, .10, .6, -.30, -.55), (-119.18, 34.22, .08, 2.2, .15, .05),
    (-118.85, 34.20, .07, 1.4, .55, .25), (-119.72, 34.43, .06, 1.3, .10, .45),
    (-120.44, 34.90, .10, .9, .0, .0), (-120.63, 35.24, .11, 1.2, -.05, .20),
    (-121.70, 36.65, .10, 1.7, .0, .15), (-122.00, 36.98, .06, 1.3, .10, .40),
    (-122.38, 40.55, .16, 1, -.20, -.25), (-121.83, 39.70, .13, 1.3, -.30, -.25),
    (-121.60, 39.13, .13, .9, -.25, -.30), (-124.12, 40.80, .12, .9, -.25, -.25),
    (-123.20, 39.15, .20, .6, -.20, -.05), (-120.40, 38.00, .22, .9, -.15, -.05),
    (-119.98, 38.93, .04, .4, -.10, .10), (-120.20, 39.30, .15, .4, .05, .15),
    (-120.60, 41.20, .40, .5, -.30, -.60), (-122.60, 41.70, .25, .4, -.30, -.50),
    (-122.15, 39.70, .25, .8, -.30, -.50), (-117.00, 33.30, .30, 1, .05, -.10),
    (-119.00, 36.60, .50, .8, -.20, -.30), (-120.30, 36.90, .35, 1.4, -.35, -.45),
])  # fmt: skip
_ISLAND = (-118.33, 33.34)
_BAY = (-122.22, 37.82)
#: Shares of the categories: near the bay, then by distance from the shore.
_SHARES = {"ISLAND": 5 / 20640, "NEAR BAY": 2290 / 20640, "NEAR OCEAN": 2658 / 20640,
           "<1H OCEAN": 9136 / 20640}  # fmt: skip
_LEVELS = np.array([0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1])
#: Rounded quantiles at `_LEVELS`.
_INCOME = np.array([0.5, 1.07, 1.6, 2.56, 3.53, 4.74, 7.3, 10.6, 15.0])
_AGE = np.array([1, 4, 8, 18, 29, 37, 52, 52, 52.0])
_HOUSEHOLDS = np.array([2, 31, 125, 280, 409, 605, 1160, 1980, 6000.0])
_ROOMS_PER_HOUSEHOLD = np.array([1.2, 2.6, 3.43, 4.44, 5.23, 6.05, 7.64, 10.4, 60])
_PEOPLE_PER_HOUSEHOLD = np.array([1.0, 1.54, 1.87, 2.43, 2.82, 3.28, 4.33, 5.4, 18])
_BEDROOMS_PER_ROOM = np.array([0.08, 0.124, 0.141, 0.175, 0.203, 0.24, 0.31, 0.407, 0.9])
#: Quantiles of the value below the cap, at shares of all rows.
_VALUE_LEVELS = np.array([0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 1 - _CAPPED_SHARE])
_VALUE = np.array([15e3, 50e3, 66.2e3, 82.3e3, 119.6e3, 179.7e3, 264.7e3, 376.6e3, 500e3])


def generate(name: str, rows: int | None, seed: int) -> pl.DataFrame:
    """Return `rows` generated rows of the table called `name` (None: as many as it really has).

    The same arguments always give the same rows.

    Raises:
        SourceError: There is no such generator, or `rows` is not positive.
    """
    if name not in GENERATORS:
        raise SourceError(f"there is no generator {name!r}",
                          expected=f"one of {', '.join(sorted(GENERATORS))}")  # fmt: skip
    make, default_rows = GENERATORS[name]
    if rows is not None and rows < 1:
        raise SourceError("cannot generate a table", expected="at least 1 row", got=str(rows))
    return make(rows or default_rows, seed)


def _california(rows: int, seed: int) -> pl.DataFrame:
    random = seeds.generator(seed, "synthetic", "california_housing")
    longitude, latitude, city = _places(rows, random)
    distance = _coast_distance(longitude, latitude)
    proximity = _proximity(longitude, latitude, distance)
    relief = _relief(longitude, latitude, random)
    income_score = _standard(
        1.5 * _CITIES[city, 4] + 0.5 * relief[0] + 0.8 * random.standard_normal(rows)
    )
    income = _with_quantiles(income_score, _INCOME)
    age_score = 0.6 * relief[1] - 0.15 * income_score + 0.7 * random.standard_normal(rows)
    counts = _counts(income_score, age_score, random)
    score = (
        0.62 * np.log(income)
        + 0.55 * _CITIES[city, 5]
        + 0.42 * np.exp(-distance / 25.0)
        - 0.22 * (proximity == "INLAND")
        + 0.14 * relief[2]
        + 0.17 * random.standard_normal(rows)
    )
    score[proximity == "ISLAND"] += 0.3
    bedrooms: list[float | None] = counts["total_bedrooms"].tolist()
    for row in random.choice(rows, size=round(rows * _MISSING_SHARE), replace=False):
        bedrooms[int(row)] = None
    return pl.DataFrame(
        {
            "longitude": longitude,
            "latitude": latitude,
            "housing_median_age": np.rint(_with_quantiles(age_score, _AGE)),
            "total_rooms": counts["total_rooms"],
            "total_bedrooms": pl.Series(bedrooms, dtype=pl.Float64),
            "population": counts["population"],
            "households": counts["households"],
            "median_income": np.round(income, 4),
            "median_house_value": _values(score),
            "ocean_proximity": proximity.tolist(),
        }
    )


def _places(rows: int, random: np.random.Generator) -> tuple[Floats, Floats, NDArray[np.intp]]:
    """Draw districts around the cities, none in the sea; (longitude, latitude, city index)."""
    weights = _CITIES[:, 3] / _CITIES[:, 3].sum()
    city = random.choice(len(_CITIES), size=rows, p=weights)
    centre, spread = _CITIES[city, :2], _CITIES[city, 2:3]
    points = centre + spread * random.standard_normal((rows, 2))
    for _ in range(12):
        wet = np.flatnonzero(_is_sea(points[:, 0], points[:, 1]))
        points[wet] = centre[wet] + spread[wet] * random.standard_normal((len(wet), 2))
    wet = np.flatnonzero(_is_sea(points[:, 0], points[:, 1]))
    points[wet] = centre[wet]
    points[: round(rows * _SHARES["ISLAND"])] = _ISLAND
    order = random.permutation(rows)
    points, city = np.round(points[order], 2), city[order]
    return points[:, 0].clip(-124.35, -114.31), points[:, 1].clip(32.54, 41.95), city


def _is_sea(longitude: Floats, latitude: Floats) -> NDArray[np.bool_]:
    shore = np.interp(latitude, _COAST[::-1, 1], _COAST[::-1, 0])
    wet: NDArray[np.bool_] = (longitude < shore) | (latitude < 32.54) | (latitude > 41.95)
    return wet


def _coast_distance(longitude: Floats, latitude: Floats) -> Floats:
    """Return the distance to the shore in km, by its nearest stretch."""
    scale = np.array([math.cos(math.radians(36.0)), 1.0]) * _KM_PER_DEGREE
    points = np.column_stack([longitude, latitude]) * scale
    nearest = np.full(len(points), np.inf)
    for start, end in zip(_COAST[:-1] * scale, _COAST[1:] * scale, strict=True):
        along = np.clip((points - start) @ (end - start) / ((end - start) @ (end - start)), 0, 1)
        foot = start + along[:, None] * (end - start)
        nearest = np.minimum(nearest, np.hypot(*(points - foot).T))
    return nearest


def _proximity(longitude: Floats, latitude: Floats, distance: Floats) -> NDArray[np.str_]:
    """Name where each district lies; the shares are those of the real table."""
    rows = len(longitude)
    names = np.full(rows, "INLAND", dtype="<U10")
    free = ~((longitude == _ISLAND[0]) & (latitude == _ISLAND[1]))
    names[~free] = "ISLAND"
    to_bay = np.hypot((longitude - _BAY[0]) * 0.8, latitude - _BAY[1])
    for name, measure in (("NEAR BAY", to_bay), ("NEAR OCEAN", distance), ("<1H OCEAN", distance)):
        order = np.argsort(np.where(free, measure, np.inf), kind="stable")
        chosen = order[: min(round(rows * _SHARES[name]), int(free.sum()))]
        names[chosen], free[chosen] = name, False
    return names


def _relief(longitude: Floats, latitude: Floats, random: np.random.Generator) -> Floats:
    """Return three smooth random surfaces, shape (3, n), each of about unit variance."""
    surfaces = []
    for length in (0.25, 0.35, 0.15):  # degrees over which neighbours resemble each other
        waves = random.standard_normal((40, 2)) / length
        phases = random.uniform(0, 2 * math.pi, 40)
        angles = np.column_stack([0.8 * longitude, latitude]) @ waves.T + phases
        surfaces.append(np.cos(angles).sum(axis=1) * math.sqrt(2 / 40))
    return np.array(surfaces)


def _counts(
    income_score: Floats, age_score: Floats, random: np.random.Generator
) -> dict[str, Floats]:
    rows = len(income_score)
    noise = random.standard_normal((4, rows))
    size_score = _standard(noise[0] - 0.23 * _standard(age_score))
    households = _with_quantiles(size_score, _HOUSEHOLDS)
    space_score = 0.56 * income_score + 0.83 * noise[1] - 0.2 * size_score
    rooms = households * _with_quantiles(space_score, _ROOMS_PER_HOUSEHOLD)
    people = households * _with_quantiles(
        noise[2] - 0.05 * income_score - 0.2 * size_score, _PEOPLE_PER_HOUSEHOLD
    )
    bedroom_score = -0.45 * income_score - 0.58 * space_score + 0.45 * noise[3]
    bedrooms = rooms * _with_quantiles(bedroom_score, _BEDROOMS_PER_ROOM)
    return {
        "total_rooms": np.rint(rooms).clip(2, 39320),
        "total_bedrooms": np.rint(bedrooms).clip(1, 6445),
        "population": np.rint(people).clip(3, 35682),
        "households": np.rint(households).clip(1, 6082),
    }


def _values(score: Floats) -> Floats:
    """Spread prices over the real table's distribution; the top share is cut off at the cap."""
    share = _ranks(score)
    values = np.exp(np.interp(share, _VALUE_LEVELS, np.log(_VALUE)))
    rounded = np.round(values / 100) * 100
    return np.where(share >= 1 - _CAPPED_SHARE, _CAP, rounded)


def _ranks(score: Floats) -> Floats:
    """Return each score's rank in (0, 1); ties are broken by position."""
    ranks = np.empty(len(score))
    ranks[np.argsort(score, kind="stable")] = (np.arange(len(score)) + 0.5) / len(score)
    return ranks


def _with_quantiles(score: Floats, quantiles: Floats) -> Floats:
    """Return positive values in the order of `score`, with the given quantiles at `_LEVELS`."""
    values: Floats = np.exp(np.interp(_ranks(score), _LEVELS, np.log(quantiles)))
    return values


def _standard(score: Floats) -> Floats:
    spread = float(score.std())
    standard: Floats = (score - score.mean()) / (spread if spread > 0 else 1.0)
    return standard


#: Generators by name: (function, default number of rows).
GENERATORS: dict[str, tuple[Callable[[int, int], pl.DataFrame], int]] = {
    "california_housing": (_california, CALIFORNIA_ROWS),
}
