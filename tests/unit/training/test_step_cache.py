"""A cached result is used only as it was written."""

import json

import pytest

from tasador.training.pipeline import StepCache


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
