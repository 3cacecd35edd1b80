"""The examples in the docstrings of the public names run, and print what they say."""

from __future__ import annotations

import doctest
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import tasador
from tasador.registry.mlflow.registration import MlflowRun
from tasador.registry.mlflow.registry import register_bundle

BUNDLE = Path(__file__).parents[1] / "net" / "references" / "bundles" / "cars"
CONTRACT = """\
title: Cars
columns:
  mass: {kind: number, unit: kg, bounds: [100, 5000]}
  fuel: {kind: category, categories: [petrol, diesel]}
target: {name: cost, unit: EUR}
source: {paths: [cars.csv]}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the examples name: a bundle, a contract, a table."""
    place = tmp_path_factory.mktemp("examples")
    shutil.copytree(BUNDLE, place / "cars")
    (place / "conf" / "dataset").mkdir(parents=True)
    for file in (place / "cars.yaml", place / "conf" / "dataset" / "cars.yaml"):
        file.write_text(CONTRACT)
    lines = [f"{900 + 10 * i},{('petrol', 'diesel')[i % 2]},{2000 + 37 * i}" for i in range(200)]
    (place / "cars.csv").write_text("\n".join(["mass,fuel,cost", *lines]) + "\n")
    return place


@pytest.fixture
def globs(request: pytest.FixtureRequest, name: str, folder: Path) -> Iterator[dict[str, object]]:
    found: dict[str, object] = {}
    if name == "download_bundle":
        shutil.copy(request.getfixturevalue("template_database"), folder / "mlflow.db")
        found["tracking_uri"] = uri = f"sqlite:///{folder / 'mlflow.db'}"
        run = MlflowRun("1", "2026-11-01T10:00:00Z", 1.0, "cars", "Cars", "real", "cars.csv",
                        "0", "0", "0")  # fmt: skip
        register_bundle(folder / "cars", tracking_uri=uri, experiment="cars", run=run,
                        model_name="cars_model", alias="champion")  # fmt: skip
    yield found
    shutil.rmtree(folder / "champion", ignore_errors=True)


@pytest.mark.parametrize("name", [name for name in tasador.__all__ if name != "__version__"])
def test_the_example_of_a_public_name_prints_what_it_says(
    name: str, folder: Path, globs: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    found = doctest.DocTestFinder(recurse=False).find(getattr(tasador, name), name, globs=globs)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    written: list[str] = []
    for example in found:
        runner.run(example, out=written.append)
    assert runner.summarize(verbose=False).attempted > 0
    assert runner.failures == 0, "".join(written)
