"""Coasts and borders under maps: where they are, and that none is drawn where it would mislead."""

from __future__ import annotations

import math
from importlib import resources

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasador.reporting.appraisal.outline import KM_PER_DEGREE, LEAST_KM, outline
from tasador.reporting.appraisal.pictures import Dot, Polyline, Text, map_picture

CALIFORNIA = (-124.6, 32.4, -114.0, 42.1)


def length_of(lines) -> float:
    return sum(float(np.hypot(*np.diff(line, axis=0).T).sum()) for line in lines)


def kilometres_to(lines, lon: float, lat: float) -> float:
    """How far a place is from the nearest line."""
    scale = np.array([KM_PER_DEGREE * math.cos(math.radians(lat)), KM_PER_DEGREE])
    found = []
    for line in lines:
        points = (line - [lon, lat]) * scale
        start, way = points[:-1], np.diff(points, axis=0)
        part = np.clip(-(start * way).sum(1) / np.maximum((way**2).sum(1), 1e-12), 0, 1)
        found.append(float(np.hypot(*(start + part[:, None] * way).T).min()))
    return min(found)


@pytest.mark.parametrize(
    ("lon", "lat"),
    [
        (-122.48, 37.81),  # Golden Gate
        (-123.02, 38.0),  # Point Reyes
        (-118.41, 33.74),  # Point Vicente
        (-120.0, 41.0),  # California and Nevada
        (-117.13, 32.535),  # the border of Mexico at the coast
    ],
)
def test_known_places_of_coasts_and_borders_lie_on_a_line(lon, lat):
    assert kilometres_to(outline(*CALIFORNIA), lon, lat) < 3.0


def test_shores_of_great_lakes_are_there_on_both_sides():
    lines = outline(-90.0, 40.5, -76.0, 46.0)
    assert kilometres_to(lines, -87.61, 41.89) < 4.0  # Chicago
    assert kilometres_to(lines, -79.38, 43.63) < 4.0  # Toronto


BOXES = st.builds(
    lambda x, y, wide, tall: (x, y, min(x + wide, 180.0), min(y + tall, 90.0)),
    st.floats(-180, 170), st.floats(-85, 85), st.floats(0.01, 30), st.floats(0.01, 20),
)  # fmt: skip


@given(BOXES)
def test_lines_stay_inside_their_box_and_none_is_drawn_at_the_scale_of_streets(box):
    west, south, east, north = box
    lines = outline(*box)
    for line in lines:
        assert len(line) >= 2
        assert (line >= [west - 1e-9, south - 1e-9]).all()
        assert (line <= [east + 1e-9, north + 1e-9]).all()
    if (north - south) * KM_PER_DEGREE < LEAST_KM:
        assert lines == []


@given(st.floats(0.2, 0.8))
def test_two_halves_hold_what_the_whole_holds(part):
    west, south, east, north = CALIFORNIA
    middle = west + part * (east - west)
    halves = outline(west, south, middle, north), outline(middle, south, east, north)
    assert sum(map(length_of, halves)) == pytest.approx(length_of(outline(*CALIFORNIA)), rel=1e-9)


def lines_of(picture) -> list[Polyline]:
    return [mark for mark in picture.marks if isinstance(mark, Polyline)]


def test_a_map_of_streets_has_the_outline_of_its_region_beside_it():
    picture = map_picture((-122.42, 37.76), [(1, -122.41, 37.77)], "map", "N")
    lines = lines_of(picture)
    assert picture.outlined
    assert min(x for line in lines for x, _ in line.points) >= 231
    (here,) = (m for m in picture.marks if isinstance(m, Dot) and m.fill == "#b42318")
    assert here.x > 231
    assert [m.content for m in picture.marks if isinstance(m, Text)][-1].endswith(" m")
    for line in lines:
        for x, y in line.points:
            assert 0 <= x <= picture.width
            assert 0 <= y <= picture.height


def test_a_map_of_a_region_lies_on_the_outline():
    picture = map_picture((-122.4, 37.7), [(1, -119.8, 36.7), (2, -121.5, 38.6)], "map", "N")
    assert picture.outlined
    assert not [m for m in picture.marks if isinstance(m, Dot) and m.fill == "#b42318"]
    assert "<polyline" in picture.svg()
    assert [m.content for m in picture.marks if isinstance(m, Text)][-1] == "100 km"


@pytest.mark.parametrize(
    ("here", "there"),
    [
        ((540_000.0, 4_180_000.0), (541_900.0, 4_180_100.0)),  # metres of a projection
        ((100.0, 62.0), (100.3, 62.01)),  # far from any coast and border
    ],
)
def test_a_map_without_lines_is_whole(here, there):
    picture = map_picture(here, [(1, *there)], "map", "N")
    assert not picture.outlined
    assert max(m.x for m in picture.marks if isinstance(m, Dot)) > 231


def test_the_file_is_small_and_its_licence_lies_beside_it():
    folder = resources.files("tasador.reporting.appraisal")
    assert len(folder.joinpath("outline.npz").read_bytes()) <= 150_000
    said = folder.joinpath("outline_licence.txt").read_text(encoding="utf-8")
    for part in ("Natural Earth", "US Census Bureau", "public domain", "Michael Bostock"):
        assert part in said
