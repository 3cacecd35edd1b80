from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from fixtures.wandb_files import records_of, runs_of
from tasador.core.errors import MissingExtraError
from tasador.metrics.regression import METRICS
from tasador.selection.search.grid_search import CandidateResult, SearchResult
from tasador.settings.compose import compose
from tasador.settings.run import TrackingSettings
from tasador.training.wandb_trials import TrialRecorder, check_recording, record_families
from tasador.training.wandb_trials import runs_of as wandb_of

FACTS = {"dataset": "houses", "metric": "wmape"}


def trial(leaves: int, **other: Any) -> CandidateResult:
    held = tuple({"wmape": 10.0 + leaves + fold, "mae": 5.0} for fold in range(3))
    return CandidateResult("lightgbm", {"num_leaves": leaves}, held, held[:2], 1.5, **other)


def recorder(folder: Path, mode: Any, notes: Path | None = None) -> TrialRecorder:
    settings = TrackingSettings(wandb=mode, wandb_project="houses")
    return TrialRecorder(wandb_of(settings, folder), "sweep-1", FACTS, notes)


def test_offline_every_trial_is_a_run_that_holds_what_was_tried_and_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    notes = tmp_path / "notes"
    record = recorder(tmp_path, "offline", notes)
    for found in (trial(15), trial(31, dropped="given up"), trial(15)):
        record(found)
    assert record.wandb.trouble is None
    first, second = (tmp_path / run.link for run in record.runs)  # the third is the first again
    whole, early = records_of(first), records_of(second)
    assert whole["group"] == "sweep-1"
    assert whole["config"] | {"num_leaves": "15", "dataset": '"houses"'} == whole["config"]
    assert whole["summary"]["wmape"] == "26.0"
    assert (whole["summary"]["state"], early["summary"]["state"]) == ('"whole"', '"given up early"')
    assert [line["held/wmape"] for line in whole["history"]] == [25.0, 26.0, 27.0]
    notes.write_text(notes.read_text() + '{"trial": "cut o')
    again = recorder(tmp_path, "offline", notes)
    again(trial(31))
    assert again.runs == record.runs


def test_the_families_are_a_table_of_one_run_with_every_metric_and_the_winner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    folds = [dict.fromkeys(METRICS, 10.0 + fold) for fold in range(3)]
    worse = [dict.fromkeys(METRICS, 20.0 + 2 * fold) for fold in range(3)]
    failed = CandidateResult("lasso", {}, (), (), 0.1, error="no convergence")
    result = SearchResult(
        "mae",
        (
            CandidateResult("lightgbm", {"num_leaves": 31}, tuple(folds), tuple(folds), 2.0),
            CandidateResult("ridge", {"alpha": 1.0}, tuple(worse), tuple(worse), 0.5),
            failed,
        ),
    )
    settings = TrackingSettings(wandb="offline", wandb_project="houses")
    link = record_families(result, wandb_of(settings, tmp_path), "houses-select-1", "houses")
    assert link is not None
    (run,) = runs_of(tmp_path)
    assert run == records_of(tmp_path / link)
    assert (run["job_type"], run["project"]) == ("selection", "houses")
    table = run["tables"]["families"]
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    assert [row["family"] for row in rows] == ["lightgbm", "ridge"]
    assert set(METRICS) <= set(table["columns"])
    assert (rows[0]["mae"], rows[1]["wmape"]) == (11.0, 22.0)
    assert 0 <= rows[1]["p_value"] <= 1
    assert rows[0]["parameters"] == '{"num_leaves": 31}'
    assert run["summary"]["winner"] == '"lightgbm"'
    assert run["config"]["candidates"] == "3"


def test_without_an_account_online_recording_goes_on_offline_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    record = recorder(tmp_path, "online")
    record(trial(7))
    assert "recorded offline" in str(record.wandb.trouble)
    assert records_of(tmp_path / record.runs[0].link)["config"]["num_leaves"] == "7"


def test_what_cannot_be_recorded_does_not_stop_the_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    def full(**_: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(wandb, "init", full)
    record = recorder(tmp_path, "offline")
    record(trial(7))
    record(trial(8))
    assert record.runs == []
    assert record.wandb.trouble == "W&B does not record: W&B does not begin a run: no space left"


def test_nothing_is_recorded_unless_asked_for(tmp_path: Path) -> None:
    record = recorder(tmp_path, "off")
    record(trial(7))
    assert not record.runs
    assert not list(tmp_path.iterdir())


def test_an_absent_library_is_said_with_its_extra_before_the_run_begins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr("tasador.registry.wandb_runs.find_spec", lambda _: None)
    check_recording(TrackingSettings())
    with pytest.raises(MissingExtraError, match=r"'wandb' is not installed.*wandb"):
        check_recording(TrackingSettings(wandb="offline"))


def test_a_bare_off_in_yaml_is_off() -> None:
    assert compose(["tracking.wandb=false"]).tracking.wandb == "off"
    assert compose(["tracking.wandb=offline"]).tracking.wandb == "offline"
