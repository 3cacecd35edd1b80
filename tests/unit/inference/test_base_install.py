"""What works where no extra is installed."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

BUNDLE = Path(__file__).parents[2] / "net" / "references" / "bundles" / "cars"
SCRIPT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[2:]:
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, Absent())
import tasador
bundle = tasador.load_bundle(sys.argv[1])
print(len(bundle.value_arrays(bundle.golden[:3])[0]))
"""


def test_a_bundle_loads_and_values_rows_without_any_extra():
    named = [(re.split(r"[^\w.-]", one)[0].lower(), one) for one in metadata.requires("tasador")]
    base = {name for name, one in named if "extra ==" not in one}
    extra = {name for name, _ in named} - base
    absent = sorted(
        module
        for module, found in metadata.packages_distributions().items()
        if any(name.lower() in extra for name in found)
    )
    assert {"stamina", "pydantic", "mlflow"} <= set(absent)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(BUNDLE), *absent], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "3\n"), done.stderr[-2000:]
