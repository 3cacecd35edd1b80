"""A row gets one answer whoever asks: Python, MLflow, the command line, files, the service."""

from __future__ import annotations

import csv
import datetime as dt
import json
import math
import re
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from fixtures.command_line import run_here
from tasador.contract.reader import from_dict
from tasador.core.errors import TasadorError, ValidationError
from tasador.data.profile import reference_profile
from tasador.data.table import Table
from tasador.data.validation import validate_table
from tasador.features.pipeline import FeaturePipeline, FeatureSettings
from tasador.inference.batch_scorer import BatchScorer
from tasador.inference.model_choice import BundleChoice
from tasador.modeling.conformal import calibrate
from tasador.modeling.parity import check_parity
from tasador.modeling.target_transform import TargetTransform
from tasador.registry.mlflow.pyfunc import BundleModel
from tasador.registry.model_bundle import ModelBundle, load_bundle
from tasador.registry.writer import BundleParts, write_bundle
from tasador.scoring.predict import predict_rows, to_csv, to_lines
from tasador.serving.errors import Problem
from tasador.serving.request_parsing import Predictor
from tasador.trees.ensemble import LinearModel
from tasador.trees.onnx_export import to_onnx
from tasador.trees.onnx_model import OnnxRegressor
from tasador.trees.tree_shap import LinearContributions

AVILA = unicodedata.normalize("NFC", "Ávila")
DECOMPOSED = unicodedata.normalize("NFD", "Ávila")
CONTRACT = from_dict(
    {
        "name": "flats",
        "columns": {
            "lon": {"kind": "number", "role": "longitude", "bounds": [-20, 10]},
            "lat": {"kind": "number", "role": "latitude", "bounds": [20, 60]},
            "área": {"kind": "number", "bounds": [1, 1000], "unit": "m2"},
            "rooms": {"kind": "integer", "bounds": [0, 20], "nullable": True},
            "sold": {"kind": "datetime", "bounds": ["2015-01-01", "2030-12-31"]},
            "lift": {"kind": "category", "categories": ["False", "True"], "case_sensitive": False},
            "town": {"kind": "category", "categories": [AVILA, "Lugo", "Vigo"]},
            "street": {"kind": "category", "categories": ["Alta", "Baja"], "open": True},
            "zone": {"kind": "category", "categories": ["01000", "1000", "2.5"]},
        },
        "target": {"name": "price", "unit": "EUR", "transform": "none"},
    }
)
GOOD: dict[str, Any] = {
    "lon": -8.5, "lat": 42.5, "área": 80.0, "rooms": 3, "sold": "2024-05-01", "lift": True,
    "town": "Vigo", "street": "Alta", "zone": "1000",
}  # fmt: skip
NUMBER = "a number in [1, 1000] (m2)"
DATE = "a date and time in ISO 8601 in [2015-01-01, 2030-12-31]"
REFUSED = {
    "below the bounds": ("área", -80, NUMBER),
    "in another unit": ("área", 32_596.0, NUMBER),
    "infinite": ("área", math.inf, NUMBER),
    "infinite as text": ("área", "-inf", NUMBER),
    "no number": ("área", "many", NUMBER),
    "true for a number": ("área", True, NUMBER),
    "null where a value is wanted": ("área", None, NUMBER),
    "nan where a value is wanted": ("área", math.nan, NUMBER),
    "a fraction of a room": ("rooms", 2.5, "a whole number in [0, 20] or null"),
    "a number for a date": ("sold", 1_714_521_600, DATE),
    "no date": ("sold", "yesterday", DATE),
    "a date outside the bounds": ("sold", "2031-01-01", DATE),
    "1 for true": ("lift", 1, "one of False, True"),
    "yes for true": ("lift", "yes", "one of False, True"),
    "an unknown level": ("town", "Madrid", f"one of {AVILA}, Lugo, Vigo"),
    "another case": ("town", "vigo", f"one of {AVILA}, Lugo, Vigo"),
    "a list": ("town", ["Vigo"], f"one of {AVILA}, Lugo, Vigo"),
    "a level that reads as the same number": ("zone", "1E3", "one of 01000, 1000, 2.5"),
    "a level without its leading zero": ("zone", "001000", "one of 01000, 1000, 2.5"),
}
ACCEPTED = {
    "a number as text": ("área", " 8e1 ", "área", 80.0),
    "a whole number": ("área", 80, "área", 80.0),
    "a whole number of rooms as a float": ("rooms", 3.0, "rooms", 3),
    "a date": ("sold", dt.date(2024, 5, 1), "sold", "2024-05-01"),
    "a time with a zone": ("sold", "2024-05-01T02:00:00+02:00", "sold", "2024-05-01"),
    "true as text": ("lift", "TRUE", "lift", True),
    "text in another form of Unicode": ("town", DECOMPOSED, "town", AVILA),
    "a number for a level": ("zone", 1000, "zone", "1000"),
    "a float for a level": ("zone", 1000.0, "zone", "1000"),
    "a float as text for a level": ("zone", "1000.0", "zone", "1000"),
    "a fraction for a level": ("zone", 2.5, "zone", "2.5"),
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    rng = np.random.default_rng(0)
    n = 400
    days = dt.date(2024, 1, 1).toordinal() + rng.integers(0, 700, n)
    frame = pl.DataFrame(
        {
            "lon": rng.uniform(-9, -8, n),
            "lat": rng.uniform(42, 43, n),
            "área": rng.uniform(30, 200, n),
            "rooms": [None if i % 9 == 0 else i % 5 + 1 for i in range(n)],
            "sold": [dt.date.fromordinal(int(day)) for day in days],
            "lift": rng.random(n) < 0.5,
            "town": np.array([AVILA, "Lugo", "Vigo"])[rng.integers(0, 3, n)],
            "street": np.array(["Alta", "Baja", "Nueva"])[rng.integers(0, 3, n)],
            "zone": np.array(["01000", "1000", "2.5"])[rng.integers(0, 3, n)],
            "price": rng.uniform(50, 500, n),
        }
    )
    valid = validate_table(Table(frame, "0" * 64, "real", "flats"), CONTRACT)
    assert len(valid.y) == n  # "Nueva" too: the column is open
    target = TargetTransform("none")
    settings = FeatureSettings(clusters=0)
    features, Z = FeaturePipeline(CONTRACT, settings).fit_transform(valid.X, valid.y)
    model = LinearModel(rng.normal(size=Z.shape[1]), 3.0)
    exported = to_onnx(model)
    onnx = OnnxRegressor(exported)
    score = onnx.predict(Z)
    interval = calibrate(valid.y - score, Z, 0.9, None)
    interval = interval.widened(3.0 * (valid.y - score), Z, None)
    parts = BundleParts(
        name="flats_model",
        origin="real",
        contract=CONTRACT,
        features=features,
        model=exported,
        model_kind="linear",
        contributions=LinearContributions.of_model(model, Z.mean(axis=0)),
        target=target,
        interval=interval,
        parity=check_parity(onnx.predict, onnx, Z, rows=200),
        golden=valid.X[:10],
        metrics={},
        lineage={},
        profile=reference_profile(valid.X, valid.y, CONTRACT),
        card="# Flats\n",
    )
    return write_bundle(tmp_path_factory.mktemp("flats") / "flats", parts)


def by_file(bundle: ModelBundle, row: dict[str, Any], folder: Path) -> Any:
    file = folder / "rows.csv"
    with file.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow(row)
        writer.writerow(row.values())
    return predict_rows(str(file), BundleChoice(folder, bundle.folder)).rows[0].valuation


def by_service(bundle: ModelBundle, row: dict[str, Any], _: Path) -> Any:
    engine = Predictor(bundle, "test")
    rows = engine.encode([row])
    X = np.array(rows.codes)
    if not engine.check.accepts(X).all():
        raise ValidationError(engine.check.reasons(row))
    found = engine.predict(X)
    return found.prediction[0], tuple(found.notes.get(0, ()))


def by_batch(bundle: ModelBundle, row: dict[str, Any], _: Path) -> Any:
    batch = pa.RecordBatch.from_arrays([pa.array([v]) for v in row.values()], names=list(row))
    found = BatchScorer(bundle).score(batch).to_pylist()[0]
    if found["error"] is not None:
        raise ValidationError(found["error"])
    return found["prediction"]


ROADS: dict[str, Callable[[ModelBundle, dict[str, Any], Path], Any]] = {
    "value": lambda bundle, row, _: bundle.value(row),
    "value_rows": lambda bundle, row, _: bundle.value_rows([GOOD, row])[1],
    "explain": lambda bundle, row, _: bundle.explain(row).valuation,
    "predict_columns": lambda bundle, row, _: bundle.predict_columns(
        {name: [GOOD[name], row[name]] for name in row}
    )[1],
    "MLflow": lambda bundle, row, _: (
        BundleModel(bundle).predict(pd.DataFrame([row], dtype=object)).iloc[0, 0]
    ),
    "a CSV": by_file,
    "JSON": lambda bundle, row, folder: (
        predict_rows(json.dumps(row, default=str), BundleChoice(folder, bundle.folder))
        .rows[0].valuation
    ),
    "score": by_batch,
    "the service": by_service,
}  # fmt: skip


def estimate(found: Any) -> float:
    found = found[0] if isinstance(found, tuple) else found
    return float(getattr(found, "prediction", found))


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("case", REFUSED)
def test_what_the_contract_refuses_is_refused_by_every_road(
    bundle: ModelBundle, tmp_path: Path, road: str, case: str
) -> None:
    field, value, expected = REFUSED[case]
    if road == "a CSV" and isinstance(value, (list, bool)):
        pytest.skip("a CSV has texts only")
    with pytest.raises((ValidationError, Problem)) as caught:
        ROADS[road](bundle, {**GOOD, field: value}, tmp_path)
    error = caught.value
    told = str(error.errors) if isinstance(error, Problem) else str(error)
    assert field in told
    assert expected in told
    assert "got" in told


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize("case", ACCEPTED)
def test_what_means_the_same_gets_the_same_answer_by_every_road(
    bundle: ModelBundle, tmp_path: Path, road: str, case: str
) -> None:
    field, value, same, plain = ACCEPTED[case]
    found = ROADS[road](bundle, {**GOOD, field: value}, tmp_path)
    assert estimate(found) == bundle.value({**GOOD, same: plain}).prediction


@pytest.mark.parametrize("road", ["value", "explain", "a CSV", "JSON", "the service"])
def test_an_unknown_level_of_an_open_category_is_valued_with_a_warning(
    bundle: ModelBundle, tmp_path: Path, road: str
) -> None:
    found = ROADS[road](bundle, {**GOOD, "street": "Nueva"}, tmp_path)
    notes = found[1] if isinstance(found, tuple) else found.warnings
    assert notes == ("street is none of the 2 known levels: it is valued as an average one",)


@pytest.mark.parametrize("road", ["value", "explain", "a CSV", "JSON", "the service"])
def test_a_row_far_from_every_comparable_says_how_far_in_kilometres(
    bundle: ModelBundle, tmp_path: Path, road: str
) -> None:
    found = ROADS[road](bundle, {**GOOD, "lon": 2.35, "lat": 48.86}, tmp_path)
    notes = "; ".join(found[1] if isinstance(found, tuple) else found.warnings)
    assert "nearest comparable is" in notes
    told = re.search(r"nearest comparable is ([\d,]+) km away", notes)
    assert told is not None
    assert 1_000 < float(told[1].replace(",", "")) < 1_100
    assert "the interval is" in notes
    assert "times as wide" in notes


def test_the_interval_of_such_a_row_is_wider_by_the_factor_measured(bundle: ModelBundle) -> None:
    near, far = bundle.value(GOOD), bundle.value({**GOOD, "lon": 2.35, "lat": 48.86})
    factor = bundle.interval.far_factor
    assert factor > 2.0
    assert far.upper - far.lower == pytest.approx((near.upper - near.lower) * factor)
    assert near.warnings == ()
    assert any("nearest comparable" in line for line in to_lines(bundle.explain(
        {**GOOD, "lon": 2.35, "lat": 48.86})))  # fmt: skip


def test_without_coordinates_the_warning_speaks_of_the_usual_distance(written_bundle: Path) -> None:
    bundle = load_bundle(written_bundle)
    plan = replace(bundle.features.plan, near=("income", "area"), scale=np.array([1.0, 0.01]))
    points = bundle.features.index.points * 0.0 + np.random.default_rng(0).random((600, 2))
    index = replace(bundle.features.index, points=points)
    bundle = replace(bundle, features=replace(bundle.features, plan=plan, index=index))
    row = {"lon": -3.5, "lat": 40.4, "rooms": 4, "area": 50.0, "kind": "flat"}
    assert "comparables" not in " ".join(bundle.value({**row, "income": 0.5}).warnings)
    (note,) = bundle.value({**row, "income": 90.0}).warnings[-1:]
    assert note.startswith("no known row is like this one: its comparables (by income, area) are ")
    assert note.endswith("the interval does not hold there")


def test_dates_are_shown_as_dates(bundle: ModelBundle) -> None:
    (note,) = bundle.value({**GOOD, "sold": "2030-05-01T10:30:00"}).warnings
    assert note.startswith("sold 2030-05-01T10:30:00Z lies outside the training range [2024-01-0")
    assert from_dict(CONTRACT.to_dict()) == CONTRACT
    assert CONTRACT.to_dict()["columns"]["sold"]["bounds"] == ["2015-01-01", "2030-12-31"]


def test_names_of_columns_may_come_in_either_form_of_unicode(
    bundle: ModelBundle, tmp_path: Path
) -> None:
    expected = bundle.value(GOOD).prediction
    row = {unicodedata.normalize("NFD", name): value for name, value in GOOD.items()}
    assert set(row) != set(GOOD)
    for road in ROADS.values():
        if road is not ROADS["predict_columns"]:
            assert estimate(road(bundle, row, tmp_path)) == expected
    assert bundle.predict_columns({name: [v] for name, v in row.items()})[0] == expected
    with pytest.raises(ValidationError, match="there twice"):
        bundle.predict_columns({name: [v] for name, v in {**row, **GOOD}.items()})


def test_a_column_there_twice_is_refused_by_mlflow_and_files(
    bundle: ModelBundle, tmp_path: Path
) -> None:
    frame = pd.DataFrame([GOOD])
    with pytest.raises(ValidationError, match="'área' is there 2 times"):
        BundleModel(bundle).predict(pd.concat([frame, frame[["área"]]], axis=1))
    file = tmp_path / "rows.csv"
    file.write_text(",".join([*GOOD, "área"]) + "\n" + ",".join(map(str, [*GOOD.values(), 1])))
    with pytest.raises(ValidationError, match="'área' is there 2 times"):
        predict_rows(str(file), BundleChoice(tmp_path, bundle.folder))
    twice = json.dumps(GOOD)[:-1] + ', "rooms": 4}'
    with pytest.raises(TasadorError, match="'rooms' is given twice"):
        predict_rows(twice, BundleChoice(tmp_path, bundle.folder))


def run(folder: Path, *words: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "tasador.cli.app", *words],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def test_one_bad_row_never_stops_a_file(bundle: ModelBundle, tmp_path: Path) -> None:
    rows = [GOOD, {**GOOD, "área": -80}, {**GOOD, "lift": 1, "town": "Madrid"}, GOOD]
    lines = [",".join([*GOOD, "note"])]
    lines += [",".join(map(str, [*row.values(), "x" * (1 << 18) if i else "x"]))
              for i, row in enumerate(rows)]  # fmt: skip
    lines.insert(3, "1,2")
    (tmp_path / "rows.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    words = ["predict", "rows.csv", "--bundle", str(bundle.folder)]
    code, out, err = run(tmp_path, *words, "--with", "town,área")
    assert code == 0, err
    found = list(csv.DictReader(out.splitlines()))
    assert list(found[0]) == [
        "town", "área", "prediction", "lower", "upper", "coverage", "unit", "warnings", "error",
        "model_version", "fsd", "confidence_class", "no_value",
    ]  # fmt: skip
    assert [bool(row["prediction"]) for row in found] == [True, False, False, False, True]
    assert float(found[0]["prediction"]) == bundle.value(GOOD).prediction
    assert [row["town"] for row in found] == ["Vigo", "Vigo", "", "Madrid", "Vigo"]
    assert {row["unit"] for row in found} == {"EUR"}
    assert found[1]["error"] == f"área: expected {NUMBER}, got '-80'"
    assert found[2]["error"] == "expected 10 values, got 2"
    assert "refused: 3 rows" in err
    assert f"row 2: área: expected {NUMBER}, got '-80'" in err
    assert "row 4: lift: expected one of False, True, got '1'; town: expected" in err


def test_a_file_of_bad_rows_only_is_an_error(bundle: ModelBundle, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(
        ",".join(GOOD) + "\n" + ",".join(map(str, {**GOOD, "área": -80}.values())) + "\n"
    )
    for words in (["predict", "rows.csv"], ["score", "rows.csv", "-o", "out.csv"]):
        code, _, err = run_here(tmp_path, *words, "--bundle", str(bundle.folder))
        assert code == 3, err
        assert "error:" in err
    assert "'-80'" in (tmp_path / "out.csv").read_text()


def test_ids_and_inputs_are_handed_on_when_asked(bundle: ModelBundle, tmp_path: Path) -> None:
    rows = json.dumps([{**GOOD, "ref": 7}, {**GOOD, "town": "Madrid", "ref": 8}])
    found = predict_rows(rows, BundleChoice(tmp_path, bundle.folder), keep=["inputs"])
    lines = list(csv.DictReader(to_csv(found).splitlines()))
    assert [line["ref"] for line in lines] == ["7", "8"]
    assert [line["sold"] for line in lines] == ["2024-05-01"] * 2
    assert [row.number for row in found.refused] == [2]
    with pytest.raises(TasadorError, match="no column 'nobody' to hand on"):
        predict_rows(rows, BundleChoice(tmp_path, bundle.folder), keep=["nobody"])
