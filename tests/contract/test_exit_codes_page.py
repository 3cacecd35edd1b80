"""The page about exit codes says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from tasador.core import errors

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "exit-codes.md"


def test_the_page_lists_every_error_class_with_its_code() -> None:
    listed = {
        name: int(code)
        for code, names in re.findall(r"^\| (\d+) \| ([^|]*) \|", PAGE.read_text(), re.M)
        for name in re.findall(r"`(\w+)`", names)
    }
    defined = {
        name: value.exit_code
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.TasadorError)
    }
    assert listed == defined


def test_the_page_lists_the_code_of_an_interruption() -> None:
    assert f"| {errors.INTERRUPTED_EXIT_CODE} |" in PAGE.read_text()
