"""Every picture is a small, valid, reproducible SVG, whatever the columns are called."""

from __future__ import annotations

import base64
from collections.abc import Callable
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from tasador.contract.reader import from_dict
from tasador.reporting import evaluation_plots, plots, result_plots
from tasador.reporting.cards import Figure
from tasador.reporting.plots import compact, short

HOSTILE = '<script>$\\frac{1}{0}$ & "quoted" \x07 東京 ' + "long " * 20
N = 4000
RANDOM = np.random.default_rng(3)
LONGITUDE = RANDOM.uniform(-124, -114, N)
LATITUDE = RANDOM.uniform(32, 42, N)
ACTUAL = RANDOM.lognormal(12, 0.5, N)
PREDICTED = ACTUAL * RANDOM.lognormal(0, 0.2, N)
CONTRACT = from_dict(
    {
        "name": "t",
        "title": "t",
        "model_name": "t",
        "columns": {
            HOSTILE: {"kind": "number"},
            "empty": {"kind": "number", "nullable": True},
            "place": {"kind": "category", "categories": [HOSTILE, "south"]},
            **{f"c{i}": {"kind": "number"} for i in range(12)},
        },
        "target": {"name": "price"},
    }
)
X = np.column_stack(
    [ACTUAL, np.full(N, np.nan), RANDOM.integers(0, 3, N).astype(float)]
    + [RANDOM.normal(size=N) for _ in range(12)]
)

PICTURES: dict[str, Callable[[], Figure]] = {
    "columns": lambda: plots.column_histograms(CONTRACT, X),
    "target": lambda: plots.target_histogram(ACTUAL, name=HOSTILE, unit=HOSTILE, cap=5e5),
    "target without cap": lambda: plots.target_histogram(ACTUAL, name="p", unit=None),
    "refused": lambda: plots.refused_bars({HOSTILE: 3, "too low": 9}),
    "nothing refused": lambda: plots.refused_bars({}),
    "missing": lambda: plots.missing_bars(CONTRACT, X),
    "none missing": lambda: plots.missing_bars(CONTRACT, np.zeros((3, X.shape[1]))),
    "split bars": lambda: plots.split_bars(800, 200),
    "clusters": lambda: evaluation_plots.cluster_evidence(
        [0, 2, 3],
        [9.0, 8.5, 8.4],
        [0.3, 0.2, 0.0],
        {HOSTILE: [np.nan, 0.5, 0.3], "b": [np.nan] * 3, "inertia": [np.nan, 1e300, 2.0]},
        metric=HOSTILE,
        chosen=2,
    ),
    "correlation": lambda: plots.correlation_bars([HOSTILE, "b"], np.array([0.0, 0.3])),
    "correlation of nothing": lambda: plots.correlation_bars(["a"], np.zeros(1)),
    "leaderboard": lambda: evaluation_plots.leaderboard_bars(
        [HOSTILE, "Ridge"], [RANDOM.random(5), np.ones(5)], metric=HOSTILE, chosen=0
    ),
    "hit rate curve": lambda: evaluation_plots.hit_rate_curve(
        (1.0, 0.9, 0.8, 0.7), (7.8, 7.2, 6.7, 6.2), (59.3, 62.8, 66.2, 69.1)
    ),
    "learning curve": lambda: evaluation_plots.learning_curve(
        [50, 100], [9.0, 8.0], [1.0, np.nan], metric=HOSTILE
    ),
    "importance": lambda: evaluation_plots.importance_bars(
        [HOSTILE, "b"], np.array([-0.1, 3.0]), metric="wMAPE"
    ),
    "parameter importance": lambda: evaluation_plots.parameter_importance({HOSTILE: 0.7, "b": 0.3}),
    "parallel coordinates": lambda: evaluation_plots.parallel_coordinates(
        {HOSTILE: [1, 2, 2000], "b": ["log2", "sqrt", None], "c": [0.1, 0.1, 0.1]},
        np.array([3.0, 1.0, 2.0]),
        metric=HOSTILE,
    ),
    "sweep": lambda: evaluation_plots.sweep_history(
        np.array([3.0, np.nan, 2.0, 2.5]), metric="wMAPE"
    ),
    "sweep all pruned": lambda: evaluation_plots.sweep_history(np.full(3, np.nan), metric="r"),
    "sweep upwards": lambda: evaluation_plots.sweep_history(
        np.array([1.0, 1.0]), metric="R²", higher_is_better=True
    ),
    "predicted": lambda: evaluation_plots.predicted_actual(
        ACTUAL, PREDICTED, unit=HOSTILE, cap=5e5
    ),
    "residual map": lambda: result_plots.error_map(
        LONGITUDE, LATITUDE, (PREDICTED / ACTUAL - 1) * 100
    ),
    "error map of one place": lambda: result_plots.error_map(
        LONGITUDE[:1], LATITUDE[:1], np.array([400.0])
    ),
    "residuals": lambda: result_plots.residuals(
        PREDICTED, (PREDICTED / ACTUAL - 1) * 100, unit=HOSTILE
    ),
    "ratio by price": lambda: result_plots.ratio_by_price(ACTUAL, PREDICTED),
    "ratio of three prices": lambda: result_plots.ratio_by_price(ACTUAL[:3], PREDICTED[:3]),
    "calibration": lambda: result_plots.calibration_curve([0.5, 0.9], [0.52, 0.88], 200),
    "effects": lambda: result_plots.effects(
        [HOSTILE, "b"],
        np.column_stack([PREDICTED - ACTUAL, np.zeros(len(ACTUAL))]),
        np.column_stack([ACTUAL / ACTUAL.max(), np.full(len(ACTUAL), np.nan)]),
        unit=HOSTILE,
        rows=5000,
    ),
    "partial dependence": lambda: result_plots.partial_dependence(
        [
            result_plots.Curve(HOSTILE, np.arange(4.0), np.ones((3, 4)) * np.arange(4.0)),
            result_plots.Curve("b", np.arange(2.0), np.ones((3, 2)), (HOSTILE, "x")),
            result_plots.Curve("c", np.arange(2.0), np.zeros((3, 2))),
        ],
        unit=HOSTILE,
    ),
    "segments": lambda: evaluation_plots.segment_bars(
        [HOSTILE, "b"], np.array([12.0, 40.0]), [900, 5], metric="MAPE (%)"
    ),
    "deciles": lambda: evaluation_plots.decile_errors(ACTUAL, PREDICTED),
    "deciles of three rows": lambda: evaluation_plots.decile_errors(ACTUAL[:3], PREDICTED[:3]),
}


def svg_of(figure: Figure) -> str:
    return base64.b64decode(figure.data.partition(",")[2]).decode()


def test_a_picture_is_drawn_where_the_machines_font_is_wide(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wide = {"font.size": 40, "axes.titlesize": 60, "axes.labelsize": 60, "xtick.labelsize": 60}
    monkeypatch.setattr("tasador.reporting.plots._RC", {**plots._RC, **wide})
    assert all("</svg>" in svg_of(draw()) for draw in PICTURES.values())


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_small_valid_and_loads_nothing(name: str) -> None:
    figure = PICTURES[name]()
    svg = svg_of(figure)
    root = ET.fromstring(svg)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert len(figure.data) < 120_000
    assert "<script" not in svg
    assert "prefers-color-scheme:dark" in svg
    links = [
        value
        for element in root.iter()
        for key, value in element.attrib.items()
        if key.endswith("href")
    ]
    assert all(link.startswith(("#", "data:image/png")) for link in links)
    assert figure.caption


@pytest.mark.parametrize("name", ["columns", "residual map", "predicted"])
def test_the_same_data_gives_the_same_picture(name: str) -> None:
    assert PICTURES[name]() == PICTURES[name]()


def test_captions_tell_what_matters() -> None:
    ten = np.array([1.0] * 9 + [5.0])
    assert (
        "10.0% of the rows stand at the cap"
        in plots.target_histogram(ten, name="p", unit=None, cap=5.0).caption
    )
    assert "1 of 15 columns" in plots.missing_bars(CONTRACT, X).caption
    assert "3 more columns" in plots.column_histograms(CONTRACT, X).caption


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.5, "0.5"), (9999, "9999"), (250_000, "250k"), (1.5e6, "1.5M"), (-2e9, "\u22122B")],
)
def test_axis_numbers_are_short(value: float, text: str) -> None:
    assert compact(value) == text


def test_labels_stay_on_one_short_line() -> None:
    assert short("a\nb\x00c") == "a b c"
    assert len(short("x" * 99)) == 26
