"""A cached result is used only as it was written."""

import json
from dataclasses import replace

import pytest
import threadpoolctl

from tasador.contract.reader import from_dict
from tasador.settings.compose import compose
from tasador.settings.run import RunSettings
from tasador.training.context import RunContext
from tasador.training.pipeline import train
from tasador.training.step_cache import Step, StepCache, StepRunner, StoppedError


@pytest.mark.parametrize("harm", ["other", "cut", "gone", "notes"])
def test_a_result_that_was_changed_is_made_again(tmp_path, caplog, harm):
    cache = StepCache(tmp_path)
    with cache.create("impute", "k") as folder:
        (folder / "choice.json").write_text(json.dumps({"method": "median"}))
    found = cache.find("impute", "k")
    assert found is not None
    file = found / "choice.json"
    if harm == "other":  # as valid as before, and of the same length
        file.write_text(json.dumps({"method": "neares"}))
    elif harm == "cut":
        file.write_bytes(file.read_bytes()[:-1])
    elif harm == "gone":
        file.unlink()
    else:
        next(p for p in found.iterdir() if p != file).write_text("[]")
    assert cache.find("impute", "k") is None
    assert "the cached result of impute is damaged" in caplog.text


SETTINGS = RunSettings(
    from_dict({"name": "t", "columns": {"a": {"kind": "number"}}, "target": {"name": "y"}})
)


def steps_of(made):
    """Return two steps; the second adds to what the first returned, and `made` counts the work."""

    def first(run, out):
        made.append("first")
        (out.folder / "n.json").write_text(json.dumps(run.settings.seed))

    def second(run, out, n):
        made.append("second")
        out.card.fact("Sum", n + 1)
        (out.folder / "n.json").write_text(json.dumps(n + 1))

    def load(_, folder):
        return json.loads((folder / "n.json").read_text())

    return (
        Step("first", "First", ("core",), lambda run: run.settings.seed, first, load),
        Step("second", "Second", ("core",), lambda run: None, second, load),
    )


def go(workspace, made, **settings):
    """Run the two steps in a run of its own; return what the last one returned, and the cards."""
    folder = workspace / "runs" / str(len(list(workspace.glob("runs/*"))))
    folder.mkdir(parents=True)
    context = RunContext(replace(SETTINGS, **settings), "run", "now", workspace, folder)
    runner = StepRunner(context, ["first", "second"], StepCache(workspace / "cache"))
    first, second = steps_of(made)
    try:
        return runner(second, runner(first)), runner.cards
    except StoppedError:
        return None, runner.cards


def test_a_step_takes_what_the_one_before_it_returned_and_a_later_run_makes_nothing(tmp_path):
    made = []
    result, cards = go(tmp_path, made, seed=5)
    assert (result, made) == (6, ["first", "second"])
    again, cached = go(tmp_path, made, seed=5)
    assert (again, made) == (6, ["first", "second"])
    assert [card.status for card in cached] == ["cached", "cached"]
    assert cached[1].facts == cards[1].facts
    assert go(tmp_path, made, seed=7)[0] == 8
    assert made == ["first", "second"] * 2


def test_steps_after_those_asked_for_do_not_run_and_the_ones_before_come_from_the_cache(tmp_path):
    made = []
    result, cards = go(tmp_path, made, steps=("first",))
    assert (result, made, [card.step for card in cards]) == (None, ["first"], ["first"])
    go(tmp_path, made, steps=("second",), force=True)
    assert made == ["first", "second"]
    go(tmp_path, made, steps=("second",), force=True)
    assert made == ["first", "second", "second"]
    go(tmp_path, made, from_step="first", force=True)
    assert made == ["first", "second", "second", "first", "second"]


def test_a_result_that_cannot_be_read_any_more_is_made_again(tmp_path, caplog):
    made = []
    go(tmp_path, made)
    seal = next((tmp_path / "cache" / "second").glob("*/artifact.json"))
    (seal.parent / "n.json").unlink()
    seal.write_text("{}")  # as intact as its own list says
    assert go(tmp_path, made)[0] == SETTINGS.seed + 1
    assert made == ["first", "second", "second"]
    assert "the cached result of second cannot be used" in caplog.text


def test_steps_run_with_one_thread_of_linear_algebra_so_that_equal_runs_give_equal_bits(tmp_path):
    seen = []

    def on_step(name, _):
        found = threadpoolctl.threadpool_info()
        seen.append((name, {one["num_threads"] for one in found if one["user_api"] == "blas"}))

    words = ("download.offline=true", "download.synthetic_rows=200", "steps=[segregate]")
    train(compose([*words, f"storage.workspace={tmp_path}"]), on_step)
    assert seen == [("download", {1}), ("segregate", {1})]
