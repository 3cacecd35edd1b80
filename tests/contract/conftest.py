"""What the tests of the benchmarks share."""

from __future__ import annotations

from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmark_scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a test import what `benchmarks` holds."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
