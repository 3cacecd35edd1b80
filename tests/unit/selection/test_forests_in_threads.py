"""Forests grown side by side, where every warning is an error and threads often change."""

from __future__ import annotations

import subprocess
import sys

from fixtures.process import unmeasured

FITS = """
import sys, warnings
import numpy as np
from tasador.core.parallel import in_parallel
from tasador.selection.families.catalog import family

sys.setswitchinterval(1e-6)
warnings.simplefilter("error")
before = list(warnings.filters)
Z = np.random.default_rng(0).normal(size=(60, 3))

def fit(seed):
    return family("random_forest").fit({"n_estimators": 4}, Z, Z[:, 0], seed, 1)

for _ in range(3):
    assert len(dict(in_parallel(fit, range(150), workers=8))) == 150
lost = [one for one in before if one not in warnings.filters]
assert not lost, lost
"""


def test_forests_in_threads_raise_no_warning_and_lose_no_filter() -> None:
    command = [sys.executable, "-c", FITS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=unmeasured())
    assert done.returncode == 0, done.stderr
