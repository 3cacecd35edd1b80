"""The kernels, and what checks before them, against state that nobody fitted; see hostile_state.py.

`pytest tests/fuzz --minutes 60` takes a fifth of that; without it these are a few seconds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fixtures.fuzzing import long_seconds
from fixtures.sanitizer import sanitized_kernels

SCRIPT = Path(__file__).with_name("hostile_state.py")
SECONDS, SHARE = 8.0, 0.2


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The kernels built for the sanitizers, and the sanitizer's own library."""
    return sanitized_kernels(tmp_path_factory.mktemp("kernels"))


def test_no_forged_state_leads_a_kernel_outside_of_its_arrays(
    sanitized: tuple[Path, str], request: pytest.FixtureRequest
) -> None:
    library, runtime = sanitized
    given = long_seconds(request.config, SHARE)
    seconds = SECONDS if given is None else given
    # each long run goes its own way, and says which
    start = 0 if given is None else int(time.time())
    environment = os.environ | {
        "LD_PRELOAD": runtime, "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(library), str(seconds), str(start)],
        env=environment, capture_output=True, text=True, timeout=seconds + 600,
    )  # fmt: skip
    assert done.returncode == 0, f"seed {start}: {done.stdout[-500:]}{done.stderr[-4000:]}"
    counts = json.loads(done.stdout)
    print(json.dumps(counts))
    for what in ("state", "unchecked state", "explanation", "walk", "model file", "changed plain"):
        assert counts[f"{what}: refused"] > 0, counts
    assert counts["state: answered"] > 0
    assert counts["examples"] > 50
