"""The whole pipeline through the command line, on a small generated table."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from fixtures.command_line import run_here as tasador
from fixtures.process import unmeasured
from fixtures.wandb_files import runs_of
from tasador.registry.mlflow.registration import accepted_names, as_texts
from tasador.registry.model_bundle import load_bundle

SMALL = [
    "download.synthetic_rows=900",
    "download.offline=true",
    "dataset.source.paths=[nowhere.csv]",
    "impute.folds=2",
    "impute.repeats=1",
    "impute.max_rows=300",
    "selection.folds=3",
    "selection.max_rows=500",  # of some 720: as a large table is compared
    "register.fold_rows=300",
    "selection.families={ridge:{alpha:[1.0]},lightgbm:{n_estimators:[60],num_leaves:[15]},"
    "random_forest:{n_estimators:[10]}}",
    *(
        f"~selection.families.{name}"
        for name in (
            "hist_gradient_boosting",
            "gradient_boosting",
            "extra_trees",
            "decision_tree",
            "lasso",
        )
    ),
    "sweep.trials=2",
    "sweep.folds=2",
    "sweep.slowdown=1.0",
    "features.cross_fit_folds=3",
    "register.parity_rows=500",
    "register.bootstrap_draws=50",
    "register.spatial_folds=2",
]


def as_process(folder: Path, *words: str) -> tuple[int, str, str]:
    """Run a command as its users do, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "tasador.cli.app", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        env=unmeasured(),
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def project(template_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    (folder / "workspace").mkdir()
    shutil.copy(template_database, folder / "workspace" / "mlflow.db")
    code, out, err = tasador(folder, "run", *SMALL)
    assert code == 0, err
    assert "registered: models:/housing_price_model/1" in out
    assert "SYNTHETIC" in err
    return folder


def newest_run(project: Path) -> Path:
    return max((project / "workspace" / "runs").iterdir())


def bundle_of(project: Path) -> Path:
    """Return the first run's: other tests leave more of them."""
    first = min((project / "workspace" / "runs").iterdir())
    version = json.loads((first / "run.json").read_text())["version"]
    return project / "workspace" / "bundles" / version


def test_a_run_leaves_its_cards_metrics_parameters_and_report(project: Path) -> None:
    run = min((project / "workspace" / "runs").iterdir())
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["origin"] == "synthetic"
    assert set(metrics) >= {"test", "random_cv", "spatial_cv"}
    assert len(list((run / "cards").glob("*.html"))) == 7
    card = json.loads((run / "cards" / "register.json").read_text())
    select = json.loads((run / "cards" / "select.json").read_text())
    assert "Rows compared on" in {fact["label"] for fact in select["facts"]}
    tables = {table["title"]: table["rows"] for table in card["tables"]}
    promised = [row[0] for row in tables["Intervals: promised and held"]]
    held = [row[1] for row in tables["Intervals: promised and held"]]
    assert (promised, held) == ([50, 80, 90, 95], sorted(held))
    assert all("train" in row[3] for row in tables["How the model was chosen"][1:])
    assert len(json.loads((run / "model_card.json").read_text())["review"]) == 30
    page = (run / "model_card.html").read_text()
    for title in ("Ratio study", "By tenth of the actual values"):  # the card's own tables
        assert title in page
        assert len(tables[title]) > 3
    for name in ("best_params.yaml", "model_config.yaml", "report.html", "model_card.html"):
        assert (run / name).stat().st_size > 0


def test_an_unchanged_run_is_all_cached_and_registers_nothing_new(project: Path) -> None:
    code, out, _ = tasador(project, "run", *SMALL)
    assert code == 0
    assert out.count("cached") == 7
    assert "models:/housing_price_model/1" in out


def test_two_runs_at_once_in_one_workspace_wait_for_each_other(project: Path) -> None:
    words = [sys.executable, "-m", "tasador.cli.app", "run", *SMALL, "sweep.trials=3"]
    pipe = subprocess.PIPE
    both = [
        subprocess.Popen(words, cwd=project, stdout=pipe, stderr=pipe, text=True, env=unmeasured())
        for _ in range(2)
    ]
    ended = [(one.communicate(timeout=300), one.returncode) for one in both]
    assert [code for _, code in ended] == [0, 0], ended
    waited = [err for (_, err), _ in ended if "waiting for another run in workspace" in err]
    assert len(waited) == 1
    assert any(f"process {one.pid} (" in waited[0] for one in both)
    cached = sorted(out.count("cached") for (out, _), _ in ended)
    assert cached[0] < cached[1] == 7  # the second one finds what the first one made


def test_a_simulation_replays_rows_that_the_model_was_not_trained_on(project: Path) -> None:
    from tasador.ops.simulate import _rows
    from tasador.training.context import load_part

    bundle = load_bundle(bundle_of(project))
    X, y, what = _rows(bundle.contract, None, project / "workspace", bundle.version)
    assert what == "held-out rows"
    parts = next((project / "workspace" / "cache").glob("segregate*/**/train.npz"))
    trained = load_part(parts)
    assert 0 < len(X) < len(trained.X)
    known = {tuple(row) for row in np.column_stack([np.nan_to_num(trained.X), trained.y]).tolist()}
    replayed = {tuple(row) for row in np.column_stack([np.nan_to_num(X), y]).tolist()}
    assert not known & replayed
    elsewhere = _rows(bundle.contract, None, project / "nowhere", "none")[2]
    assert "most of which the model was trained on" in elsewhere


def test_equal_runs_in_two_workspaces_give_equal_bytes(project: Path) -> None:
    words = ("run", *SMALL, "tracking=none", "storage.workspace=elsewhere")
    code, _, err = as_process(project, *words)
    assert code == 0, err
    one = min((project / "workspace" / "runs").iterdir()) / "metrics.json"
    two = next((project / "elsewhere" / "runs").iterdir()) / "metrics.json"
    assert one.read_bytes() == two.read_bytes()
    first = load_bundle(bundle_of(project))
    other = load_bundle(next((project / "elsewhere/bundles").glob("*/manifest.json")).parent)
    X = np.random.default_rng(0).uniform(1, 50, (20, len(first.contract.features)))
    assert np.array_equal(first.predict(X), other.predict(X))


@pytest.mark.no_cover
def test_a_step_runs_alone_and_a_later_start_uses_the_cache(project: Path) -> None:
    code, out, _ = tasador(project, "run", *SMALL, "steps=[features]", "force=true")
    assert code == 0
    steps = [line for line in out.splitlines() if re.match(r"  \w", line)]
    lines = [line.split() for line in steps]
    assert [words[0] for words in lines] == ["download", "segregate", "impute", "features"]
    assert [words[1] == "cached" for words in lines] == [True, True, True, False]


@pytest.mark.no_cover
def test_trials_recorded_in_wandb_leave_their_links(project: Path) -> None:
    code, out, err = tasador(
        project, "run", *SMALL, "steps=[sweep]", "tracking.wandb=offline", "tracking.uri=null"
    )
    assert code == 0, err
    assert out.count("cached") == 5
    card = json.loads((newest_run(project) / "cards" / "sweep.json").read_text())
    table = next(table for table in card["tables"] if table["title"] == "Trials in W&B")
    assert len(table["rows"]) == 2
    assert all((project / "workspace" / link).is_dir() for _, link in table["rows"])
    runs = {run["job_type"]: run for run in runs_of(project / "workspace")}
    assert set(runs) == {"selection", "trial"}
    families = runs["selection"]
    compared = families["tables"]["families"]
    assert "wmape" in compared["columns"]
    assert len(compared["data"]) >= 1


@pytest.mark.no_cover
def test_a_damaged_cache_entry_and_a_lost_bundle_are_made_again(project: Path) -> None:
    for file in (project / "workspace" / "cache" / "impute").glob("*/imputation.json"):
        file.write_text(json.dumps({"another": "valid text"}))
    manifest = bundle_of(project) / "manifest.json"
    manifest.unlink()
    code, out, err = tasador(project, "run", *SMALL)
    assert code == 0, err
    assert "the cached result of impute is damaged" in err
    assert load_bundle(bundle_of(project)).version in out


def test_predict_values_json_csv_and_refuses_bad_rows(project: Path) -> None:
    bundle = load_bundle(bundle_of(project))
    X = np.array([[-120.0, 36.0, 20, 2000, 400, 1000, 380, 4.0, 1.0]])
    row = {name: values[0] for name, values in bundle.encoder.decode(X).items()}
    code, out, err = as_process(project, "predict", json.dumps(row))
    assert code == 0, err
    answer = json.loads(out)["predictions"][0]
    assert answer["predicted_price"] == pytest.approx(bundle.value(row).prediction)
    assert answer["lower"] < answer["predicted_price"] < answer["upper"]

    table = project / "rows.csv"
    table.write_text(",".join(row) + "\n" + ",".join(str(v) for v in row.values()) + "\n")
    code, _, err = tasador(project, "predict", str(table), "-o", "out.csv")
    assert code == 0, err
    assert "predicted_price" in (project / "out.csv").read_text()

    for bad, text in (
        ("{", "not valid JSON"),
        ("[]", "no row to value"),
        ("[3]", "is not an object"),
        (json.dumps({"instances": [{**row, "population": "many"}]}), "population"),
        (json.dumps({k: v for k, v in row.items() if k != "latitude"}), "latitude"),
        ("missing.csv", "no file"),
        ("missing.json", "cannot be read"),
    ):
        code, _, err = tasador(project, "predict", bad)
        assert code == 3, (bad, err)
        assert text in err
    (project / "short.csv").write_text("longitude\n1\n")
    code, _, err = tasador(project, "predict", "short.csv")
    assert code == 3
    assert "lacks columns" in err


def test_explain_tells_parts_that_make_the_estimate_and_names_comparables(project: Path) -> None:
    bundle = load_bundle(bundle_of(project))
    X = np.array([[-120.0, 36.0, 20, 2000, 400, 1000, 380, 4.0, 1.0]])
    row = json.dumps({name: values[0] for name, values in bundle.encoder.decode(X).items()})
    code, out, err = as_process(project, "explain", row, "--json", "--comparables", "3")
    assert code == 0, err
    found = json.loads(out)
    score = found["expected"] + sum(found["contributions"].values())
    assert np.exp(score) == pytest.approx(found["valuation"]["prediction"])
    assert len(found["comparables"]) == 3
    code, out, err = as_process(project, "explain", row)
    assert code == 0, err
    assert "from the typical" in out
    assert "  Location\n" in out
    assert "reconciled" in out
    near = found["comparables"][0]
    moved = sum(step["amount"] for step in near["adjustments"])
    assert near["adjusted_price"] == pytest.approx(near["price"] + moved, abs=0.005)
    assert near["distance_km"] is not None
    for bad, text in (("{", "not valid JSON"), ("[]", "one row"), ("{}", "longitude")):
        code, _, err = tasador(project, "explain", bad)
        assert code == 3, err
        assert text in err


def test_a_tampered_bundle_is_refused(project: Path, tmp_path: Path) -> None:
    copy = tmp_path / "bundle"
    shutil.copytree(bundle_of(project), copy)
    model = next(copy.glob("*.onnx"))
    model.write_bytes(model.read_bytes()[:-1] + b"x")
    code, _, err = tasador(project, "predict", "{}", "--bundle", str(copy))
    assert code == 5
    assert "error:" in err


def test_runs_report_and_doctor_speak_about_the_workspace(project: Path) -> None:
    code, out, _ = as_process(project, "runs")
    assert code == 0
    assert "done" in out
    assert as_process(project, "report")[1].strip().endswith("report.html")
    code, _, err = tasador(project, "report", "nothing")
    assert code == 2
    assert "no run 'nothing'" in err
    code, out, _ = as_process(project, "doctor")
    assert code == 0
    assert "lightgbm" in out
    assert "kernels" in out


@pytest.mark.parametrize(
    ("setting", "code", "text"),
    [
        ("dataset=nope", 2, "unknown dataset"),
        ("sweep.trails=3", 2, "sweep.trails"),
        ("sweep.trials=many", 2, "a whole number"),
        ("steps=[cook]", 2, "steps[0]: expected one of download"),
        ("impute.strategy=magic", 2, "magic"),
        ("+selection.families.ridge.alfa=[1]", 2, "alfa"),
        ("+selection.families.forest={}", 2, "unknown model family"),
        ("selection.families.ridge.alpha=[-1.0]", 2, "selection.families.ridge.alpha"),
        ("download.allow_synthetic=false", 3, "was not found"),
        ("storage.workspace=/proc/nowhere", 7, "workspace"),
        ("tracking.uri=http://127.0.0.1:9", 6, "is on disk but was not registered"),
    ],
)
def test_what_cannot_be_done_is_said_with_its_exit_code(
    project: Path, setting: str, code: int, text: str
) -> None:
    got, _, err = tasador(project, "run", *SMALL, setting)
    assert got == code, err
    assert text in err


def test_a_failed_run_still_leaves_a_report_with_the_error(project: Path) -> None:
    code, _, err = tasador(
        project,
        "run",
        *SMALL,
        "~selection.families.ridge",
        "~selection.families.random_forest",
        "selection.families={lightgbm:{n_estimators:[5],num_leaves:[7],feature_fraction:[0.5]}}",
        "+selection.families.lightgbm.learning_rate=[1000000.0]",  # its estimates are infinite
    )
    assert code == 4, err
    run = newest_run(project)
    assert "all 2 candidates failed" in (run / "report.html").read_text()
    assert json.loads((run / "cards" / "select.json").read_text())["status"] == "failed"


@pytest.mark.no_cover
def test_init_writes_a_contract_that_trains_without_a_line_of_code(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    n = 400
    size, year = random.uniform(20, 200, n), random.integers(1950, 2020, n)
    town = random.choice(["Río", "Ávila", "Lugo"], n)
    price = 1000 * size * (1 + (town == "Lugo")) * random.lognormal(0, 0.1, n)
    lines = ["ref;Größe (m²);Baujahr;stadt name;kaufpreis €;note"]
    lines += [f"A{i};{size[i]:.1f};{year[i]};{town[i]};{price[i]:.0f};" for i in range(n)]
    (tmp_path / "mein haus.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    code, out, err = tasador(
        tmp_path, "init", "mein haus.csv", "--target", "kaufpreis €", "--name", "haus"
    )
    assert code == 0, err
    assert "assumed:" in out
    code, _, err = tasador(
        tmp_path, "init", "mein haus.csv", "--target", "kaufpreis €", "--name", "haus"
    )
    assert code == 2
    assert "exists already" in err
    small = [word for word in SMALL if not word.startswith(("download", "dataset"))]
    code, out, err = tasador(tmp_path, "run", "dataset=haus", *small, "tracking=none")
    assert code == 0, err
    assert "sample valuation" in out
    code, _, err = tasador(tmp_path, "init", "gone.csv", "--target", "x")
    assert code == 3
    assert "gone.csv" in err


def test_init_of_a_wide_table_says_what_matters_and_writes_the_rest(tmp_path: Path) -> None:
    random = np.random.default_rng(4)
    names = [f"x{i}" for i in range(200)]
    lines = [",".join([*names, "price"])]
    lines += [",".join(f"{v:.3f}" for v in row) for row in random.lognormal(3, 1, (80, 201))]
    (tmp_path / "wide.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    code, out, err = as_process(tmp_path, "init", "wide.csv", "--target", "price")
    assert code == 0, err
    said = [line for line in out.splitlines() if "assumed:" in line]
    assert len(said) == 40
    assert "the target 'price'" in said[0]
    assert "'x199' is" in said[-1]
    contract = (tmp_path / "conf" / "dataset" / "wide.yaml").read_text(encoding="utf-8")
    written = sum("assumed:" in line for line in contract.splitlines())
    assert f"and {written - 40} more" in out


@pytest.mark.no_cover
def test_file_tags_and_card_say_the_same_of_the_model_and_its_release_grows(project: Path) -> None:
    code, _, err = tasador(project, "run", *SMALL, "register.bootstrap_draws=60")
    assert code == 0, err
    run = newest_run(project)
    config = yaml.safe_load((run / "model_config.yaml").read_text())
    code, out, err = as_process(project, "models", "--json")
    assert code == 0, err
    releases = [version["release"] for version in reversed(json.loads(out)["versions"])]
    newest = json.loads(out)["versions"][0]
    assert len(releases) > 1
    assert releases == [f"1.0.{patch}" for patch in range(len(releases))]
    assert config["release"] == newest["release"]
    texts = as_texts({key: value for key, value in config.items() if key != "bundle"})
    tags = newest["tags"]
    assert {key: tags.get(key) for key, _ in accepted_names(texts)} == dict(accepted_names(texts))
    metrics = json.loads((run / "metrics.json").read_text())
    assert config["metrics"]["test"] == metrics["test"]
    assert config["metrics"]["cross_validation"] == metrics["random_cv"]
    assert {"mape", "rows"} <= set(config["metrics"]["by_segment"]["INLAND"])
    assert config["split"]["method"] == "row_hash"
    assert config["rows"]["train"] + config["rows"]["test"] + config["rows"]["refused"] == 900
    assert {"python", "numpy"} <= set(config["environment"])
    assert json.loads((run / "model_card.json").read_text())["metadata"] == {
        key: value for key, value in config.items() if key != "bundle"
    }
    page = (run / "model_card.html").read_text()
    assert all(text in page for text in ("Metadata", releases[-1], tags["features_hash"]))
    best = yaml.safe_load((run / "best_params.yaml").read_text())
    assert (best["family"], best["metric"]) == (config["family"], "wmape")
    assert best["params"] == config["params"]
    assert 0 < best["score"] < 100
