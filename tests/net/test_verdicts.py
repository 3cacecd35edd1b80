"""Fixed windows get the stored verdicts: statistics, limits, levels and reasons, to the last bit.

Each window is the same stored table with one thing changed, valued by the stored bundle and judged
with outcomes by `tasador monitor`. One of them is also judged from the records of a service, by the
reference and the error model inside the bundle; what takes time and when it was is left out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from fixtures.net import REFERENCES, References, rows_of, tasador
from fixtures.net_bundles import HOMES, write_table
from fixtures.process import Server, free_port

pytestmark = pytest.mark.slow

Row = dict[str, Any]
BUNDLE = REFERENCES / "bundles" / "homes"
NUMBERS = "verdicts/{}"
#: When a verdict was made; and of a service's records when they were, and how long it took.
LEFT_OUT = frozenset({"made"})
RECORDED = LEFT_OUT | {"begins", "ends", "latency", "timeline"}
SHORT = 6


def changed(change: Callable[[int, Row], Row]) -> list[Row]:
    return [{**row, **change(i, row)} for i, row in enumerate(rows_of("monitored.csv"))]


#: Windows by what was changed in them.
WINDOWS: dict[str, Callable[[int, Row], Row]] = {
    "unchanged": lambda i, row: {},
    "shifted": lambda i, row: {"area": round(row["area"] * 1.6, 1)},
    "new_categories": lambda i, row: {"street": "a new street"} if i % 4 == 0 else {},
    "more_missing": lambda i, row: {"rooms": None} if i % 3 == 0 else {},
    "loss": lambda i, row: {"price": round(row["price"] * 1.5, 2)},
}


def valued(folder: Path, name: str, rows: list[Row]) -> Path:
    """Return a table of rows with the bundle's values, which the command predict adds."""
    write_table(folder / f"{name}.csv", rows)
    table = folder / f"{name}_valued.csv"
    done = tasador(folder, "predict", f"{name}.csv", "--bundle", BUNDLE, "--with", "inputs",
                   "-o", table)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return table


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, dict[str, Any]]]:
    """The exit code and the verdict of each window."""
    folder = tmp_path_factory.mktemp("windows")
    (folder / "homes.yaml").write_text(HOMES, encoding="utf-8")
    everything = rows_of("homes.csv")[:155]
    tables = {"reference": everything} | {name: changed(how) for name, how in WINDOWS.items()}
    with ThreadPoolExecutor(2) as pool:
        paths = dict(zip(tables, pool.map(lambda one: valued(folder, *one), tables.items()),
                         strict=True))  # fmt: skip

        def judge(name: str) -> tuple[int, dict[str, Any]]:
            done = tasador(
                folder, "monitor", "--quiet", "--reference", paths["reference"].name,
                "--current", paths[name].name, "--contract", "homes.yaml", "--lower", "lower",
                "--upper", "upper", "--json", f"{name}.json",
            )  # fmt: skip
            assert done.returncode in (0, 10, 11), done.stderr
            return done.returncode, json.loads((folder / f"{name}.json").read_text())

        return dict(zip(WINDOWS, pool.map(judge, WINDOWS), strict=True))


def parts(verdict: Any, left_out: frozenset[str] = LEFT_OUT) -> tuple[Any, list[str]]:
    """Return a verdict without its sentences and what is left out, and the sentences.

    Of long lists, the shares of all bins, a digest is kept.
    """
    texts: list[str] = []

    def strip(plain: Any) -> Any:
        if isinstance(plain, list):
            kept = [strip(one) for one in plain if not _named(one, left_out)]
            if kept[SHORT:] and not isinstance(kept[0], dict):
                return hashlib.sha256(json.dumps(kept).encode()).hexdigest()[:10]
            return kept
        if not isinstance(plain, dict):
            return plain
        if plain.get("reason"):
            texts.append(plain["reason"])
        return {k: strip(v) for k, v in plain.items() if k != "reason" and not _out(k, left_out)}

    return strip(verdict), texts


def _out(name: str, left_out: frozenset[str]) -> bool:
    return name in left_out or name.partition("_")[0] in left_out


def _named(plain: Any, left_out: frozenset[str]) -> bool:
    """Return whether an item of a list is about something that is left out."""
    names = [plain.get("name"), plain.get("check")] if isinstance(plain, dict) else []
    return any(isinstance(name, str) and _out(name, left_out) for name in names)


@pytest.mark.parametrize("name", WINDOWS)
def test_a_window_gets_the_stored_statistics_limits_and_levels(
    name: str, judged: Any, references: References
) -> None:
    code, verdict = judged[name]
    references.check(NUMBERS.format(name), {"exit_code": code, **parts(verdict)[0]})


def test_windows_get_the_stored_reasons(judged: Any, references: References) -> None:
    texts = {name: parts(verdict)[1] for name, (_, verdict) in judged.items()}
    references.check("verdicts/reasons", texts)


def test_what_a_service_recorded_gets_the_stored_verdict(
    tmp_path: Path, references: References
) -> None:
    server = Server(tmp_path, BUNDLE, free_port())
    rows = changed(WINDOWS["shifted"])
    outcomes = [row.pop("price") for row in rows]
    try:
        server.start()
        server.wait()
        with httpx.Client(base_url=server.url, timeout=60) as client:
            answer = client.post("/api/v1/predict", json={"instances": rows})
            assert answer.status_code == 200, answer.text
            ids = [one["prediction_id"] for one in answer.json()["predictions"]]
            known = [{"prediction_id": i, "actual": y} for i, y in zip(ids, outcomes, strict=True)]
            answer = client.post("/api/v1/outcomes", json={"outcomes": known})
            assert answer.json()["accepted"] == len(rows)
        assert server.stop()[0] == 0
    finally:
        server.end()
    done = tasador(tmp_path, "monitor", "--workspace", tmp_path, "--json", "verdict.json", "-q",
                   TASADOR_SOURCE__LOCAL=str(BUNDLE))  # fmt: skip
    assert done.returncode == 10, done.stderr
    verdict = json.loads((tmp_path / "verdict.json").read_text())
    references.check("verdicts/recorded", parts(verdict, RECORDED)[0])
