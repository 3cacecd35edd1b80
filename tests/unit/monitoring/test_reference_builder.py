"""Plain files, through the command line: reading, judging, what is odd about them, exit codes."""

import datetime as dt
import json

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from tasador.cli.app import app
from tasador.contract.type_inference import Findings, describe_column
from tasador.core import storage
from tasador.core.errors import ConfigError, SourceError, ValidationError
from tasador.monitoring import reference_builder, table_reader
from tasador.monitoring.settings import Thresholds
from tasador.monitoring.table_reader import Fields, TableFile
from tasador.ops.monitor_files import (
    Comparison,
    describe_columns,
    exit_code,
    monitor_files,
    parse_rules,
)

FIELDS = Fields(target="price", prediction="estimate")


def frame(n, seed):
    random = np.random.default_rng(seed)
    area = random.lognormal(4.5, 0.5, n)
    price = 900 * area
    day = dt.datetime(2026, 1, 1)
    return pl.DataFrame(
        {
            "house_id": np.arange(n) + 1000 * seed,
            "area": area,
            "rooms": np.round(area / 30),
            "town": random.choice(["Lugo", "Vigo", "Ourense"], n),
            "garden": random.random(n) < 0.3,
            "sold": [day + dt.timedelta(hours=int(h)) for h in random.integers(0, 900, n)],
            "notes": [f"text {i}" for i in range(n)],
            "price": price,
            "estimate": price * np.exp(random.normal(0, 0.1, n)),
        }
    ).with_columns(
        pl.when(pl.col("area") > 200).then(None).otherwise(pl.col("rooms")).alias("rooms")
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    frame(3000, 1).write_parquet(folder / "before.parquet")
    frame(1000, 2).write_parquet(folder / "now.parquet")
    frame(1000, 2).write_csv(folder / "now.csv")
    frame(3000, 1).write_csv(folder / "before.csv")
    changed = frame(1000, 2).with_columns(pl.col("area") * 1000, pl.lit(1).alias("pool"))
    changed.drop("rooms").write_parquet(folder / "changed.parquet")
    return folder


def compared(folder, current="now.parquet", before="before.parquet", fields=FIELDS, **more):
    rules = more.pop("rules", Thresholds())
    return monitor_files(
        Comparison(str(folder / before), str(folder / current), fields, **more), rules
    )


def problems(verdict):
    return {f.subject: (f.level, f.reason) for f in verdict.of_check("input")}


def test_a_table_of_the_same_kind_is_ok_whatever_the_format(folder):
    verdicts = [compared(folder)[0], compared(folder, "now.csv", "before.csv")[0]]
    for verdict in verdicts:
        assert (verdict.level, verdict.rows, verdict.reference_rows) == ("ok", 1000, 3000)
        kinds = {c.name: c.kind for c in verdict.drift}
        assert kinds["town"] == kinds["garden"] == "category"
        assert (kinds["sold"], kinds["area"]) == ("datetime", "number")
    for a, b in zip(*(v.drift for v in verdicts), strict=True):
        assert a.psi == pytest.approx(b.psi, abs=1e-6)
        assert a.missing == b.missing
    assert exit_code(verdicts[0]) == 0


def test_what_is_not_watched_is_reported(folder):
    _, notes = compared(folder)
    assert any("'house_id' is not watched: it identifies rows" in note for note in notes)
    assert any("'notes' is not watched: more than 200 texts" in note for note in notes)


def test_a_column_is_an_identifier_by_the_name_that_init_goes_by_too(tmp_path):
    numbers = np.arange(500)
    random = np.random.default_rng(3).permutation(numbers) * 7
    names = {"order_nr": False, "House No": False, "listingId": False, "unnamed_0": False,
             "paid": True, "humid": True, "notes_count": True}  # fmt: skip
    frame = pl.DataFrame({**dict.fromkeys(names, random), "price": numbers * 1.5})
    frame.write_parquet(tmp_path / "t.parquet")
    columns, _ = describe_columns(TableFile.open(tmp_path / "t.parquet"), {"price"})
    assert {name: name in {c.name for c in columns} for name in names} == names
    described = {name: describe_column(frame[name], Findings())[0].kind for name in names}
    assert {name: kind != "identifier" for name, kind in described.items()} == names


def test_a_lost_column_a_new_one_and_another_unit_are_named_and_the_rest_is_evaluated(folder):
    verdict, _ = compared(folder, "changed.parquet")
    assert (verdict.level, exit_code(verdict)) == ("alert", 10)
    assert problems(verdict)["rooms"][0] == "alert"
    assert "is missing in" in problems(verdict)["rooms"][1]
    assert problems(verdict)["pool"][0] == "ok"
    bad = {c.name for c in verdict.drift if c.level == "alert"}
    assert bad == {"area", "rooms"}


def test_another_type_is_named_and_values_of_a_different_type_are_counted(folder):
    texts = frame(1000, 2).with_columns(
        pl.when(pl.int_range(1000) % 10 == 0).then(pl.lit("much")).otherwise(
            pl.col("area").cast(pl.String)).alias("area"),
        pl.col("sold").dt.replace_time_zone("Europe/Madrid", ambiguous="earliest"),
    )  # fmt: skip
    texts.write_parquet(folder / "texts.parquet")
    verdict, _ = compared(folder, "texts.parquet")
    found = [f.reason for f in verdict.of_check("input")]
    assert any("the type changed from double to" in reason for reason in found)
    assert any("100 values (10.00%) are no number, such as 'much'" in reason for reason in found)
    assert any("tz=Europe/Madrid" in reason for reason in found)
    assert next(c for c in verdict.drift if c.name == "area").missing == 100


def test_times_with_and_without_a_zone_in_one_column_are_named(folder):
    mixed = frame(1000, 2).with_columns(
        (pl.col("sold").dt.strftime("%Y-%m-%dT%H:%M:%S")
         + pl.when(pl.int_range(1000) % 2 == 0).then(pl.lit("+02:00")).otherwise(pl.lit("")))
        .alias("sold")
    )  # fmt: skip
    mixed.write_csv(folder / "mixed.csv")
    verdict, _ = compared(folder, "mixed.csv", "before.csv")
    assert "with and without a zone are mixed" in problems(verdict)["sold"][1]
    assert next(c for c in verdict.drift if c.name == "sold").missing == 0


def test_outcomes_that_come_later_are_joined_to_their_rows(folder):
    now = frame(1000, 2)
    late = now.select("house_id", "price")
    late = pl.concat([late, late[:5], pl.DataFrame({"house_id": [-1], "price": [1.0]})])
    late.write_csv(folder / "late.csv")
    now.drop("price").write_parquet(folder / "open.parquet")
    fields = Fields(target="price", prediction="estimate", id="house_id")
    verdict, _ = compared(folder, "open.parquet", fields=fields, outcomes=str(folder / "late.csv"))
    reasons = " ".join(f.reason for f in verdict.of_check("input"))
    assert "1 outcomes belong to no row of the window, such as '-1'" in reasons
    assert "5 outcomes repeat an id, 0 of them with another value" in reasons
    assert any(f.name == "mape" and not f.estimated for f in verdict.figures)
    with pytest.raises(ValidationError, match="outcomes cannot be joined to rows"):
        compared(folder, "open.parquet", outcomes=str(folder / "late.csv"))


def test_without_outcomes_the_error_is_estimated(folder):
    verdict, _ = compared(folder, "open.parquet")
    estimated = {f.name: f.value for f in verdict.figures}
    truth = frame(1000, 2)
    ape = ((truth["estimate"] / truth["price"] - 1).abs() * 100).mean()
    assert estimated["mape"] == pytest.approx(ape, rel=0.15)


def test_versions_latency_and_time_come_from_the_table(folder):
    served = frame(1000, 2).with_columns(
        pl.when(pl.int_range(1000) < 400).then(pl.lit("v1")).otherwise(pl.lit("v2")).alias("by"),
        pl.lit(3.5).alias("ms"),
    )
    served.write_parquet(folder / "served.parquet")
    fields = Fields("price", "estimate", time="sold", latency_ms="ms", version="by")
    verdict, _ = compared(folder, "served.parquet", fields=fields, segment="town")
    assert [(g.name, g.rows) for g in verdict.versions] == [("v1", 400), ("v2", 600)]
    assert [g.name for g in verdict.segments] == ["Lugo", "Ourense", "Vigo"]
    assert len(verdict.timeline) > 2
    assert "sold" not in {c.name for c in verdict.drift}


def test_a_long_reference_is_counted_in_full_on_the_grid_of_a_sample(folder, monkeypatch):
    exact, _ = compared(folder)
    monkeypatch.setattr(reference_builder, "EXACT_ROWS", 2000)
    monkeypatch.setattr(reference_builder, "SAMPLED_ROWS", 1500)
    monkeypatch.setattr(table_reader, "BATCH_ROWS", 700)
    sampled, _ = compared(folder)
    assert sampled.reference_rows == 3000
    for a, b in zip(exact.drift, sampled.drift, strict=True):
        assert b.psi == pytest.approx(a.psi, abs=0.02)
        assert sum(b.reference_share) == pytest.approx(1)


def test_tables_that_cannot_be_compared_are_refused_with_the_reason(folder, tmp_path):
    with pytest.raises(SourceError, match="there is no file"):
        compared(folder, "nowhere.parquet")
    with pytest.raises(SourceError, match="is a folder"):
        compared(folder, ".")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and nothing")
    with pytest.raises(SourceError, match="cannot be read"):
        compared(folder, str(tmp_path / "broken.parquet"))
    pl.DataFrame({"other": [1, 2]}).write_parquet(tmp_path / "other.parquet")
    with pytest.raises(ValidationError, match="has none of the columns"):
        compared(folder, str(tmp_path / "other.parquet"))
    pl.DataFrame({"note": [f"note {i}" for i in range(300)]}).write_parquet(tmp_path / "t.parquet")
    with pytest.raises(ValidationError, match="can be watched"):
        describe_columns(TableFile.open(tmp_path / "t.parquet"), set())
    with pytest.raises(ValidationError, match="no column 'county'"):
        compared(folder, segment="county")


def test_rules_are_read_from_texts():
    assert parse_rules(["mape_max=12", "min_rows=50", "segment_gap=none"]) == Thresholds(
        mape_max=12.0, min_rows=50
    )
    with pytest.raises(ConfigError, match="there is no rule 'mape'"):
        parse_rules(["mape=12"])
    with pytest.raises(ConfigError, match="cannot be read"):
        parse_rules(["mape_max=low"])


CONTRACT = """
name: houses
title: Houses
model_name: houses_model
columns:
  area: {kind: number, bounds: [0, 1000]}
  rooms: {kind: number, nullable: true}
  town: {kind: category, role: segment, categories: [Lugo, Vigo]}
target: {name: price, unit: EUR, transform: log, prediction_name: estimate}
"""


def test_a_contract_says_what_the_columns_are(folder, tmp_path):
    path = tmp_path / "houses.yaml"
    path.write_text(CONTRACT)
    verdict, _ = compared(folder, fields=Fields(), contract=path)
    assert [c.name for c in verdict.drift][:3] == ["area", "rooms", "town"]
    assert "unknown category" in next(
        f.reason for f in verdict.of_check("quality") if f.subject == "town"
    )
    with pytest.raises(ConfigError, match="contradict each other"):
        compared(folder, fields=Fields(), contract=path, segment="town")


def run(*arguments):
    from typer.testing import CliRunner

    from tasador.cli.app import app

    return CliRunner().invoke(app, ["monitor", *map(str, arguments)])


def test_the_command_prints_a_dashboard_writes_json_and_html_and_ends_with_a_code(folder, tmp_path):
    names = ("--target", "price", "--prediction", "estimate", "--segment", "town")
    both = ("--reference", folder / "before.parquet", "--current")
    fine = run(*both, folder / "now.parquet", *names, "--json", tmp_path / "v.json",
               "--html", tmp_path / "v.html")  # fmt: skip
    assert fine.exit_code == 0, fine.output
    assert "Health: ok" in fine.output
    assert "within 10%" in fine.output
    assert json.loads((tmp_path / "v.json").read_text())["by_check"]["drift"] == "ok"
    page = (tmp_path / "v.html").read_text()
    assert "Column by column" in page
    assert "Error by segment" in page
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")
    assert page.count("<img") >= 3
    assert page.count('<div class="bins">') >= 5  # the columns' bars
    changed = run(*both, folder / "changed.parquet", "-q")
    assert (changed.exit_code, changed.stdout) == (10, "")
    frame(12, 3).write_parquet(folder / "few.parquet")
    assert run(*both, folder / "few.parquet").exit_code == 11
    warned = run(*both, folder / "now.parquet", *names, "--rule", "mape_max=8.3", "--fail-on-warn",
                 "--rule", "worse=9")  # fmt: skip
    assert warned.exit_code in (10, 12)


def test_the_command_needs_two_tables(folder):
    result = run("--reference", folder / "before.parquet")
    assert isinstance(result.exception, ConfigError)
    assert "nothing to compare" in str(result.exception)


def later(n, seed, days):
    return frame(n, seed).with_columns(pl.col("sold") + pl.duration(days=days))


@pytest.mark.parametrize("days", [40, 4000, -400])
def test_a_time_that_moves_on_is_no_drift_but_the_axis(folder, tmp_path, days):
    later(1000, 2, days).write_parquet(tmp_path / "later.parquet")
    verdict, notes = monitor_files(
        Comparison(str(folder / "before.parquet"), str(tmp_path / "later.parquet"), FIELDS),
        Thresholds(),
    )
    assert verdict.level == "ok", [f.reason for f in verdict.trouble]
    first = (dt.datetime(2026, 1, 1) + dt.timedelta(days=days)).strftime("%Y-%m-%d")
    assert verdict.begins.startswith(first)
    assert any("'sold' is a time, which moves on" in note for note in notes)


TIMED = """
title: Houses
model_name: houses
columns:
  area: {kind: number}
  town: {kind: category, categories: [Lugo, Vigo, Ourense]}
  sold: {kind: datetime, nullable: true%s}
target: {name: price}
source: {paths: [none.csv]}
"""


@pytest.mark.parametrize(("role", "level"), [(", role: timestamp", "ok"), ("", "alert")])
def test_a_contract_says_whether_a_date_is_the_axis_or_a_feature(folder, tmp_path, role, level):
    later(1000, 2, 400).write_parquet(tmp_path / "later.parquet")
    (tmp_path / "houses.yaml").write_text(TIMED % role)
    verdict, _ = monitor_files(
        Comparison(str(folder / "before.parquet"), str(tmp_path / "later.parquet"),
                   Fields(prediction="estimate"), contract=tmp_path / "houses.yaml"),
        Thresholds(),
    )  # fmt: skip
    assert verdict.level == level
    assert (verdict.begins is not None) == (level == "ok")


def test_gaps_in_the_axis_are_still_found(folder, tmp_path):
    gaps = later(1000, 2, 400).with_columns(
        pl.when(pl.int_range(1000) % 2 == 0).then(pl.col("sold")).alias("sold")
    )
    gaps.write_parquet(tmp_path / "gaps.parquet")
    verdict, _ = monitor_files(
        Comparison(str(folder / "before.parquet"), str(tmp_path / "gaps.parquet"), FIELDS),
        Thresholds(),
    )
    assert {f.check for f in verdict.trouble if f.subject == "sold"} == {"drift", "quality"}


def test_a_remote_parquet_file_is_read_column_by_column(s3, tmp_path):
    bucket, proxy = s3
    noise = np.random.default_rng(0).random((1 << 20, 4))
    columns = {f"noise{i}": noise[:, i] for i in range(4)}
    pl.DataFrame({"area": np.arange(1 << 20) % 7, **columns}).write_parquet(tmp_path / "a.parquet")
    storage.copy_from_local(tmp_path / "a.parquet", f"{bucket}/a.parquet")
    before = proxy.sent_back
    table = TableFile.open(f"{bucket}/a.parquet")
    assert table.rows == sum(len(batch["area"]) for batch in table.batches(["area"]))
    assert proxy.sent_back - before < (tmp_path / "a.parquet").stat().st_size / 2


@pytest.fixture(scope="module")
def sold(folder):
    """Write a month of sales, changed as a test says, and return the command's verdict on it."""
    random = np.random.default_rng(9)

    def write(name, noise=0.08, **columns):
        made = (
            frame(2000, 5)
            .drop("rooms")
            .with_columns(
                pl.lit(5.0).alias("ms"), pl.Series("town", random.choice(["Lugo", "Vigo"], 2000))
            )
        )
        made = made.with_columns(
            (pl.col("price") * np.exp(random.normal(0, noise, 2000))).alias("estimate")
        ).with_columns(**columns)
        made.write_parquet(folder / f"{name}.parquet")

    def judged(name, *more, before="sales"):
        result = CliRunner().invoke(
            app,
            ["monitor", "--reference", str(folder / f"{before}.parquet"), "--current",
             str(folder / f"{name}.parquet"), "--target", "price", "--prediction", "estimate",
             "--latency", "ms", "--segment", "town", "--json", str(folder / "verdict.json"),
             "--quiet", *more],
        )  # fmt: skip
        assert result.exit_code in (0, 10), result.output
        found = json.loads((folder / "verdict.json").read_text())["findings"]
        return result.exit_code, {(f["check"], f["subject"]): f for f in found}

    write("sales")
    return write, judged


def rows_of(count):
    return pl.int_range(pl.len()) < count


@pytest.mark.parametrize(
    ("change", "check", "level"),
    [
        ({}, None, "ok"),
        ({"noise": 0.16}, ("performance", "mape"), "alert"),
        ({"noise": 0.16}, ("performance", "within_10"), "alert"),
        ({"ms": pl.when(rows_of(100)).then(355.0).otherwise(5.0)},
         ("latency", "all requests"), "alert"),
        ({"area": pl.when(rows_of(1)).then(pl.lit(9e4)).otherwise(pl.col("area"))},
         ("quality", "area"), "warn"),
        ({"area": pl.when(rows_of(25)).then(pl.lit(9e4)).otherwise(pl.col("area"))},
         ("quality", "area"), "alert"),
        ({"estimate": 90_000 + pl.col("estimate") / 50}, ("prediction", "std"), "alert"),
        ({"estimate": pl.when(pl.col("town") == "Vigo").then(pl.col("estimate") * 1.45)
          .otherwise(pl.col("estimate"))}, ("performance", "segment Vigo"), "alert"),
    ],
    ids=["nothing", "mape", "within 10", "p99", "one far", "far", "stuck", "segment"],
)  # fmt: skip
def test_the_limits_that_ship_hold_without_a_word(sold, change, check, level):
    write, judged = sold
    write("now", **change)
    code, found = judged("now")
    assert code == (10 if level == "alert" else 0)
    if check is not None:
        assert found[check]["level"] == level


def test_a_model_that_does_not_meet_a_limit_is_evaluated_by_its_own_figures_unless_one_is_set(sold):
    write, judged = sold
    write("poor", noise=0.16)
    write("now", noise=0.16)
    code, found = judged("now", before="poor")
    assert code == 0
    assert "does not meet 12%" in found["performance", "mape"]["reason"]
    assert "does not meet 65%" in found["performance", "within_10"]["reason"]
    code, found = judged("now", "--rule", "mape_max=12", before="poor")
    assert code == 10
    assert found["performance", "mape"]["level"] == "alert"
    assert found["performance", "within_10"]["level"] == "ok"
