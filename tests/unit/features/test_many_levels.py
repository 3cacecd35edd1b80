"""Categories of many levels: statistics made from the target, and codes."""

from __future__ import annotations

import numpy as np
import pytest

from tasador.contract.reader import from_dict
from tasador.features.encoders import LevelStatistics
from tasador.features.fitted import FittedFeatures
from tasador.features.pipeline import FeaturePipeline, FeatureSettings

LEVELS = 40
CONTRACT = from_dict(
    {
        "name": "t",
        "columns": {
            "size": {"kind": "number"},
            "town": {
                "kind": "category",
                "categories": [f"t{i}" for i in range(LEVELS)],
                "nullable": True,
            },
            "clean": {"kind": "category", "categories": ["Yes"], "nullable": True},
        },
        "target": {"name": "y"},
    }
)
PIPELINE = FeaturePipeline(CONTRACT, FeatureSettings(comparables=False, cross_fit_folds=5))


@pytest.fixture(scope="module")
def table() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(3)
    town = random.integers(0, LEVELS - 1, 400).astype(float)  # the last level is never seen
    clean = np.where(random.random(400) < 0.5, 0.0, np.nan)
    X = np.column_stack([random.uniform(1, 9, 400), town, clean])
    X[:20, 1] = np.nan
    return X, np.nan_to_num(town) + X[:, 0] + random.normal(0, 0.1, 400)


def test_a_level_has_two_shrunken_means_its_count_its_spread_and_its_code() -> None:
    codes = np.array([0.0, 0.0, 1.0, np.nan])
    target = np.array([1.0, 3.0, 8.0, 4.0])  # mean 4, variance 6.5
    found = LevelStatistics.fit(codes, target, 3, 10.0).values
    assert found.shape == (5, 5)
    first = [(4 + 1 * 4) / 3, (4 + 10 * 4) / 12, np.log(3), np.sqrt((2 + 65) / 12), 0.0]
    assert found[0] == pytest.approx(first)
    for level in (2, 3):  # never seen, and unknown
        assert found[level, :4] == pytest.approx([4.0, 4.0, 0.0, np.sqrt(6.5)])
    assert found[:, 4].tolist() == [0, 1, 2, 3, 4]
    assert found[4, 2] == pytest.approx(np.log(2))  # a missing value is a level of its own


def test_the_features_of_a_category_have_plain_names_and_few_levels_stay_0_or_1(table) -> None:
    fitted = PIPELINE.fit(*table)
    assert [name for name in fitted.names if name.startswith("town_")] == [
        "town_missing", "town_mean", "town_mean_strong", "town_count", "town_spread", "town_code",
    ]  # fmt: skip
    assert dict(zip(fitted.names, fitted.kinds, strict=True)) == {
        "size": "number", "town_missing": "missing", "clean_missing": "missing",
        "clean=Yes": "one_hot", "town_mean": "statistic", "town_mean_strong": "statistic",
        "town_count": "statistic", "town_spread": "statistic", "town_code": "code",
    }  # fmt: skip


def test_a_category_of_one_level_that_may_be_missing_says_whether_it_is_there(table) -> None:
    fitted = PIPELINE.fit(*table)
    Z = fitted.transform(np.array([[2.0, 1.0, 0.0], [2.0, 1.0, np.nan]]))
    assert Z[:, fitted.names.index("clean=Yes")].tolist() == [1.0, 0.0]


def test_a_rows_own_target_never_reaches_its_statistics(table) -> None:
    X, y = table
    own = [PIPELINE.fit(X, y).names.index(f"town_{s}") for s in ("mean", "mean_strong", "spread")]
    _, before = PIPELINE.fit_transform(X, y)
    changed = y.copy()
    changed[77] += 1000.0
    _, after = PIPELINE.fit_transform(X, changed)
    assert np.array_equal(before[77, own], after[77, own])
    assert not np.array_equal(before[:, own], after[:, own])


def test_a_row_alone_has_the_bits_it_has_among_others_unknown_and_missing_levels_too(table) -> None:
    X, y = table
    fitted = PIPELINE.fit(X, y)
    rows = np.vstack([X[:30], [[5.0, -1.0, 0.0], [5.0, LEVELS + 0.0, -1.0], [5.0, np.nan, 0.0]]])
    together = fitted.transform(rows)
    alone = np.vstack([fitted.transform(row[None]) for row in rows])
    assert np.array_equal(together, alone)
    assert np.array_equal(together, fitted._transform(rows, fitted.imputer.fill(rows)))


def test_the_statistics_are_kept_and_those_of_another_shape_are_refused(table) -> None:
    X, y = table
    fitted = PIPELINE.fit(X, y)
    spec, arrays = fitted.state()
    again = FittedFeatures.from_state(CONTRACT, spec, arrays)
    assert again.names == fitted.names
    assert np.array_equal(again.transform(X), fitted.transform(X))
    short = {**arrays, "level_statistics.1": arrays["level_statistics.1"][:-1]}
    with pytest.raises(ValueError, match=r"level_statistics\.1"):
        FittedFeatures.from_state(CONTRACT, spec, short)


def test_in_training_a_level_is_what_the_rows_of_the_other_folds_say(table) -> None:
    X, y = table[0][:391], table[1][:391]  # folds of two sizes
    fitted, Z = PIPELINE.fit_transform(X, y)
    own = [fitted.names.index(name) for name in fitted.names if name.startswith("town_m")][1:]
    fold = PIPELINE._folds(len(X))
    weight = PIPELINE.settings.target_mean_weight
    level = np.where(np.isnan(X[:, 1]), -1, X[:, 1])
    for row in range(0, 391, 13):
        others = fold != fold[row]
        alike = y[others & (level == level[row])]
        want = [
            (alike.sum() + w * y[others].mean()) / (len(alike) + w) for w in (weight / 10, weight)
        ]
        assert Z[row, own] == pytest.approx(want)
