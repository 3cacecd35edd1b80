"""What the README says to type, typed."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import yaml

from fixtures.process import free_port, wait_until_ready
from tasador.data.contract_reader import from_dict

ROOT = Path(__file__).parents[2]
SMALL = [
    "selection.folds=3",
    "selection.families={ridge:{alpha:[1.0]},lightgbm:{n_estimators:[40],num_leaves:[7]},"
    "random_forest:{n_estimators:[5]}}",
    "sweep.trials=0",
    "features.cross_fit_folds=4",
    "register.parity_rows=1000",
    "register.bootstrap_draws=20",
]


def block(page: Path, language: str, containing: str) -> str:
    found = re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.S)
    return next(text for text in found if containing in text)


def write_homes(path: Path, n: int, seed: int, *, price: bool) -> None:
    random = np.random.default_rng(seed)
    area, rooms = random.uniform(30, 200, n).round(1), random.integers(1, 6, n)
    town = random.choice(["Ferrol", "Lugo", "Vigo"], n)
    prices = (900 * area * (1 + (town == "Vigo")) * random.lognormal(0, 0.1, n)).round()
    head = ["area", "rooms", "town"] + ["price"] * price
    rows = [
        [str(area[i]), str(rooms[i]), str(town[i])] + [str(prices[i])] * price for i in range(n)
    ]
    path.write_text("\n".join(",".join(row) for row in [head, *rows]) + "\n")


def test_the_readmes_commands_and_its_python_work(tmp_path: Path) -> None:
    write_homes(tmp_path / "homes.csv", 400, 1, price=True)
    write_homes(tmp_path / "new_homes.csv", 5, 2, price=False)
    outputs = []
    for line in block(ROOT / "README.md", "sh", "tasador init").splitlines():
        words = shlex.split(line, comments=True)
        assert words[0] == "tasador"
        extra = SMALL if words[1] == "run" else []
        done = subprocess.run(
            [sys.executable, "-m", "tasador.cli.app", *words[1:], *extra],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        outputs.append(done.stdout)
    assert len(outputs[2].strip().splitlines()) == 6
    assert (tmp_path / outputs[3].strip()).is_file()

    folder = next((tmp_path / "workspace" / "bundles").glob("homes_model-*/"))
    code = block(ROOT / "README.md", "python", "load_bundle")
    code = re.sub(r"homes_model-\w+", folder.name, code)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    prediction, lower, upper = map(float, done.stdout.split())
    assert lower < prediction < upper
    serve_and_watch(tmp_path)


def serve_and_watch(folder: Path) -> None:
    """Serve, ask and watch as the README says, on a port that is free."""
    port = str(free_port())
    (serve,) = block(ROOT / "README.md", "sh", "tasador serve").splitlines()
    words = [*shlex.split(serve, comments=True)[1:], "--port", port]
    process = subprocess.Popen(
        [sys.executable, "-m", "tasador.cli.app", *words], cwd=folder, stderr=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        wait_until_ready(f"http://127.0.0.1:{port}", process)
        console = block(ROOT / "README.md", "console", "curl")
        asked = console.removeprefix("$ ").split("\n{")[0].replace(":8000", f":{port}")
        done = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, check=True)
        assert list(json.loads(done.stdout)) == ["predictions", "model_version"]
        shown = json.loads(console.split("\n", 2)[2].replace("\n", ""))
        assert list(shown["predictions"][0]) == list(json.loads(done.stdout)["predictions"][0])
        simulate, monitor, _ = block(ROOT / "README.md", "sh", "tasador simulate").splitlines()
        small = ["--url", f"http://127.0.0.1:{port}", "--count", "100"]
        for line, extra, codes in ((simulate, small, {0}), (monitor, [], {0, 10})):
            words = [*shlex.split(line, comments=True)[1:], *extra]
            done = subprocess.run(
                [sys.executable, "-m", "tasador.cli.app", *words], cwd=folder,
                capture_output=True, text=True, timeout=120,
            )  # fmt: skip
            assert done.returncode in codes, done.stderr
    finally:
        process.terminate()
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors


def test_every_target_that_the_readme_names_is_in_make_help() -> None:
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    offered = {line.split()[0] for line in done.stdout.splitlines() if line.strip()}
    named = set(re.findall(r"`make (\w+)`|^make (\w+)", (ROOT / "README.md").read_text(), re.M))
    assert {a or b for a, b in named} <= offered


def test_the_example_on_the_contracts_page_is_a_contract() -> None:
    page = ROOT / "docs" / "reference" / "contract.md"
    contract = from_dict(yaml.safe_load(block(page, "yaml", "model_name")))
    assert contract.feature_names == ("area", "rooms", "town", "sold", "lon", "lat")


def test_the_spanish_readme_shows_the_same_output_code_and_commands() -> None:
    def shown(page: str) -> list[str]:
        text = (ROOT / page).read_text(encoding="utf-8")
        blocks = re.findall(r"```(?:sh|console|python)\n(.*?)```", text, re.S)
        return [re.sub(r" +# .*", "", block) for block in blocks]

    assert shown("README.es.md") == shown("README.md")


def test_links_between_the_pages_lead_somewhere() -> None:
    for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")):
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target.replace("\n", "")).exists(), (page.name, target)
