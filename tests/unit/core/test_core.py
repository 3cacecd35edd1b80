from __future__ import annotations

import io
import json
import logging
import pickle
from pathlib import Path

import pytest

from tasador.core import errors, hashing, progress, seeds
from tasador.core import logging as logs
from tasador.core.errors import MissingExtraError, TasadorError


def test_an_error_says_what_was_expected_what_came_and_what_to_do() -> None:
    error = TasadorError("broken", expected="a", got="b", remedy="mend it")
    assert str(error) == "broken: expected a, got b. To do: mend it"
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (TasadorError, str(error))
    assert "'s3fs' is not installed. To do: " in str(MissingExtraError.for_package("s3fs", "s3"))


def test_all_errors_have_one_root() -> None:
    kinds = [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, Exception)]
    assert all(issubclass(kind, TasadorError) for kind in kinds)


def test_seeds_differ_by_name_and_repeat() -> None:
    assert seeds.derive_seed(1, "a") == seeds.derive_seed(1, "a") != seeds.derive_seed(1, "b")
    assert seeds.generator(1, "x").random() == seeds.generator(1, "x").random()


def test_fingerprints_do_not_depend_on_the_order_of_keys() -> None:
    one = hashing.fingerprint({"a": 1, "b": (1, {2, 3}), "p": Path("x")})
    assert one == hashing.fingerprint({"p": "x", "b": [1, [2, 3]], "a": 1})


def test_the_code_version_covers_packages_and_modules() -> None:
    assert hashing.code_version(["core"]) != hashing.code_version(["metrics"])
    assert len(hashing.code_version(["training.data_steps"])) == 64
    with pytest.raises(ValueError, match="no source found"):
        hashing.code_version(["kitchen"])


def test_logs_can_be_json(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("tasador")
    before = logger.handlers[:], logger.level, logger.propagate
    try:
        logs.configure_logs("INFO", as_json=True)
        try:
            raise ValueError("why")
        except ValueError:
            logging.getLogger("tasador.x").exception("it broke")
        entry = json.loads(capsys.readouterr().err)
    finally:
        logger.handlers[:], logger.level, logger.propagate = before
    assert (entry["level"], entry["message"]) == ("error", "it broke")
    assert "ValueError: why" in entry["exception"]


def test_log_lines_go_to_what_is_standard_error_when_they_are_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, second = io.StringIO(), io.StringIO()
    monkeypatch.setattr("sys.stderr", first)
    logs.configure_logs("INFO")
    monkeypatch.setattr("sys.stderr", second)
    first.close()
    logging.getLogger("tasador.x").info("still here")
    assert second.getvalue() == "INFO tasador.x: still here\n"


def test_progress_is_drawn_on_a_terminal_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress.progress("quiet", 2) as advance:
        advance(note="half")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with progress.progress("loud", 2) as advance:
        advance(note="half")
        advance()
    assert "loud" in capsys.readouterr().err
