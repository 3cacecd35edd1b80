from __future__ import annotations

import importlib.util
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasador.config.compose import compose
from tasador.config.settings import TrackingSettings
from tasador.core.errors import MissingExtraError
from tasador.flows.trial_records import TrialRecorder, check_recording
from tasador.selection.search import CandidateResult

FACTS = {"dataset": "houses", "metric": "wmape"}


def trial(leaves: int, **other: Any) -> CandidateResult:
    held = tuple({"wmape": 10.0 + leaves + fold, "mae": 5.0} for fold in range(3))
    return CandidateResult("lightgbm", {"num_leaves": leaves}, held, held[:2], 1.5, **other)


def recorder(folder: Path, mode: Any, notes: Path | None = None) -> TrialRecorder:
    settings = TrackingSettings(wandb=mode, wandb_project="houses")
    return TrialRecorder(settings, folder, "sweep-1", FACTS, notes)


def entries_of(path: Path) -> Iterator[Any]:
    """Yield the records of a run's file: a LevelDB log of protobuf messages behind seven bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, parts = path.read_bytes(), 7, b""
    assert data[:4] in (b":W&B", b"")
    assert len(data) < 32_768  # one block, so no padding to skip
    while place + 7 <= len(data):
        size, kind = struct.unpack_from("<HB", data, place + 4)
        if place + 7 + size > len(data):
            return  # still being written
        parts += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(parts)
            parts = b""


def records_of(folder: Path) -> dict[str, Any]:
    """Read what an offline run holds: its configuration, its history and its summary."""
    found: dict[str, Any] = {"config": {}, "summary": {}, "history": 0, "group": ""}
    records: list[Any] = []
    for _ in range(200):  # W&B's own process ends writing a little after `finish` has returned
        records = list(entries_of(next(folder.glob("*.wandb"))))
        if any(record.HasField("exit") for record in records):
            break
        time.sleep(0.05)
    for record in records:
        if record.run.config.update:
            found["config"] |= {i.key: i.value_json for i in record.run.config.update}
            found["group"] = record.run.run_group
        for entry in record.summary.update:
            found["summary"][entry.key or entry.nested_key[0]] = entry.value_json
        found["history"] += record.HasField("history")
    return found


def test_offline_every_trial_is_a_run_that_holds_what_was_tried_and_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    notes = tmp_path / "notes"
    record = recorder(tmp_path, "offline", notes)
    for found in (trial(15), trial(31, dropped="given up"), trial(15)):
        record(found)
    assert record.trouble is None
    first, second = (tmp_path / run.link for run in record.runs)  # the third is the first again
    whole, early = records_of(first), records_of(second)
    assert whole["group"] == "sweep-1"
    assert whole["config"] | {"num_leaves": "15", "dataset": '"houses"'} == whole["config"]
    assert whole["summary"]["wmape"] == "26.0"
    assert (whole["summary"]["state"], early["summary"]["state"]) == ('"whole"', '"given up early"')
    assert whole["history"] == 3
    notes.write_text(notes.read_text() + '{"trial": "cut o')
    again = recorder(tmp_path, "offline", notes)
    again(trial(31))
    assert again.runs == record.runs


def test_without_an_account_online_recording_goes_on_offline_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    record = recorder(tmp_path, "online")
    record(trial(7))
    assert "recorded offline" in str(record.trouble)
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
    assert (record.runs, record.trouble) == ([], "W&B does not record: no space left")


def test_nothing_is_recorded_unless_asked_for(tmp_path: Path) -> None:
    record = recorder(tmp_path, "off")
    record(trial(7))
    assert not record.runs
    assert not list(tmp_path.iterdir())


def test_an_absent_library_is_said_with_its_extra_before_the_run_begins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr("tasador.flows.trial_records.find_spec", lambda _: None)
    check_recording(TrackingSettings())
    with pytest.raises(MissingExtraError, match=r"'wandb' is not installed.*wandb"):
        check_recording(TrackingSettings(wandb="offline"))


def test_a_bare_off_in_yaml_is_off() -> None:
    assert compose(["tracking.wandb=false"]).tracking.wandb == "off"
    assert compose(["tracking.wandb=offline"]).tracking.wandb == "offline"
