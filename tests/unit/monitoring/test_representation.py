"""The same values stored in another way are the same values."""

import datetime as dt
import decimal

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from tasador.contract.model import Column
from tasador.monitoring.evaluate import evaluate
from tasador.monitoring.reference import build_reference
from tasador.monitoring.settings import Thresholds
from tasador.monitoring.table_reader import Fields
from tasador.monitoring.window import Window
from tasador.ops.monitor_files import Comparison, monitor_files

RNG = np.random.default_rng(0)
ROWS = 2000
FEW = RNG.choice([0.1, 0.2, 0.3, 0.7], ROWS)
THIRDS = RNG.choice([1, 2, 4, 5], ROWS) / 3
WHOLE = RNG.choice([1, 2, 3, 3000], ROWS)
FLAGS = RNG.random(ROWS) < 0.3
TOWNS = RNG.choice(["Ava", "Bor", "Cis"], ROWS, p=[0.5, 0.3, 0.2]).tolist()
DAYS = [dt.date(2026, 1, 1) + dt.timedelta(days=int(d)) for d in RNG.integers(0, 9, ROWS)]
MOMENTS = [dt.datetime(d.year, d.month, d.day) for d in DAYS]
BASE = RNG.normal(100, 20, ROWS)


def cast(values, kind):
    return pa.array(values).cast(kind, safe=False)


FORMS = {
    "a few numbers": [
        pa.array(FEW),
        cast(FEW, pa.float32()),
        cast(FEW, pa.float16()),
        pa.array([decimal.Decimal(f"{v:.1f}") for v in FEW], pa.decimal128(6, 2)),
        cast(cast(FEW, pa.float32()), pa.float64()),  # went through float32 on its way
        cast(FEW, pa.float32()).dictionary_encode(),
        pa.array([f"{v:.1f}" for v in FEW]),
    ],
    "thirds": [pa.array(THIRDS), cast(THIRDS, pa.float32()), cast(THIRDS, pa.float16())],
    "whole numbers": [
        pa.array(WHOLE),
        *(cast(WHOLE, kind) for kind in (pa.int16(), pa.int32(), pa.uint64(), pa.float64())),
        cast(WHOLE, pa.float32()),
        pa.array([decimal.Decimal(int(v)) for v in WHOLE], pa.decimal128(12, 0)),
        pa.array([str(v) for v in WHOLE]).dictionary_encode(),
    ],
    "flags": [
        pa.array(FLAGS),
        pa.array(FLAGS.astype(np.int8)),
        pa.array(FLAGS.astype(float)),
        pa.array([str(v) for v in FLAGS.tolist()]),
        pa.array([str(v).lower() for v in FLAGS.tolist()]).dictionary_encode(),
        pa.array([str(int(v)) for v in FLAGS]),
    ],
    "towns": [pa.array(TOWNS), pa.array(TOWNS, pa.large_string()),
              pa.array(TOWNS).dictionary_encode()],
    "dates": [
        pa.array(DAYS),
        pa.array(DAYS, pa.date64()),
        pa.array(MOMENTS, pa.timestamp("ns")),
        pa.array(MOMENTS, pa.timestamp("s")),
        pa.array(MOMENTS, pa.timestamp("us", "UTC")),
        pa.array([d.isoformat() for d in DAYS]),
        pa.array([m.isoformat(" ") for m in MOMENTS]),
    ],
}  # fmt: skip
PAIRS = [
    pytest.param(before, now, id=f"{name}: {before.type} {i} and {now.type} {j}")
    for name, forms in FORMS.items()
    for i, before in enumerate(forms)
    for j, now in enumerate(forms)
    if i == 0 or j == 0
]


def verdict_of(folder, before, now, *, csv=False):
    names = []
    for name, values, seed in (("before", before, 0), ("now", now, 1)):
        # the same rows in another order, beside a column that nobody touches
        order = np.random.default_rng(seed).permutation(len(values))
        table = pa.table({"looked": values, "area": BASE[: len(values)]}).take(order)
        if csv and name == "now":
            plain = table.set_column(0, "looked", _plain(table["looked"]))
            pacsv.write_csv(plain, folder / "now.csv")
            names.append(str(folder / "now.csv"))
        else:
            pq.write_table(table, folder / f"{name}.parquet")
            names.append(str(folder / f"{name}.parquet"))
    return monitor_files(Comparison(names[0], names[1], Fields()), Thresholds())[0]


def _plain(column):
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
    if pa.types.is_float16(column.type):
        column = column.cast(pa.float32())
    return column


@pytest.mark.parametrize(("before", "now"), PAIRS)
def test_equal_values_stored_in_another_way_are_no_drift(tmp_path, before, now):
    verdict = verdict_of(tmp_path, before, now)
    assert verdict.level == "ok", [f.reason for f in verdict.trouble]
    drift = next(c for c in verdict.drift if c.name == "looked")
    assert drift.psi == pytest.approx(0.0, abs=1e-9)
    assert drift.missing == 0


@pytest.mark.parametrize(
    ("before", "now"),
    [p for p in PAIRS if p.values[1].type not in (pa.float16(),) and "thirds" not in p.id],
)
def test_equal_values_in_a_csv_are_no_drift(tmp_path, before, now):
    verdict = verdict_of(tmp_path, before, now, csv=True)
    assert verdict.level == "ok", [f.reason for f in verdict.trouble]
    assert next(c for c in verdict.drift if c.name == "looked").psi == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("values", [FEW, WHOLE.astype(float), FEW + 1e-9])
@pytest.mark.parametrize("shift", [1e-9, -1e-9])
def test_a_tiny_shift_of_doubles_counts(tmp_path, values, shift):
    verdict = verdict_of(tmp_path, pa.array(values), pa.array(values + shift))
    assert verdict.level == "alert"
    assert any(f.check == "drift" and f.subject == "looked" for f in verdict.trouble)


def test_a_shift_that_float32_can_show_counts_in_float32(tmp_path):
    verdict = verdict_of(tmp_path, pa.array(FEW), cast(FEW * 1.001, pa.float32()))
    assert verdict.level == "alert"


def test_recorded_numbers_that_came_as_float32_are_no_drift():
    columns = (Column("rate", "number"), Column("area", "number"))
    reference = build_reference(columns, np.column_stack([FEW, BASE]))
    asked = np.column_stack([FEW.astype(np.float32).astype(float), BASE])
    verdict = evaluate(reference, Window.of(("rate", "area"), asked), domain_classifier=False)
    assert verdict.level == "ok"
    assert verdict.drift[0].psi == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("kind", [pa.int64(), pa.uint64(), pa.decimal128(38, 0)])
def test_whole_numbers_beyond_what_a_double_holds_are_compared(tmp_path, kind):
    large = [2**53 + 1 + int(v) * 2**40 for v in RNG.integers(0, 1000, ROWS)]
    assert verdict_of(tmp_path, pa.array(large, kind), pa.array(large, kind)).level == "ok"
    moved = pa.array([v + 2**50 for v in large], kind)
    assert verdict_of(tmp_path, pa.array(large, kind), moved).level == "alert"
