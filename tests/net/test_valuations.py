"""Stored bundles of manifest format 1 give the stored answers, through every door, to the last bit.

Three bundles: boosted trees with comparables, clusters, ratios, dates, two sorts of categories and
imputers by chained linear models, trees and the median; boosted trees that are left the gaps; and a
linear model whose gaps are filled by neighbours. `fixtures/net_bundles.py` says how they were made.

A new version of numpy, scipy or onnxruntime, another C library or another processor may change the
last bit of `exp` and `log`, and nothing else: the failing lines then differ in the 16th digit only.
The compiled kernels and numpy give the same bits but for contributions, whose sums run in another
order and agree to 1e-12.
"""

from __future__ import annotations

import csv
import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from fixtures.net import BUNDLES, REFERENCES, References, environment, rows_of, tasador
from fixtures.process import Server, free_port

#: Every so many rows are stored whole; of the others a digest of contributions and comparables is.
WHOLE = 50
MOST_EXPLAINED = 20


def folder_of(name: str) -> Path:
    return REFERENCES / "bundles" / name


def valued(native: str) -> dict[str, Any]:
    script = Path(__file__).with_name("valued.py")
    words = [word for name, table in BUNDLES.items() for word in (folder_of(name), table)]
    done = subprocess.run(
        [sys.executable, script, *words],
        env=environment(TASADOR_NATIVE=native), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return dict(zip(BUNDLES, json.loads(done.stdout), strict=True))


@pytest.fixture(scope="module")
def in_python() -> dict[tuple[str, str], dict[str, Any]]:
    """What `load_bundle` gives, by bundle and by whether the kernels may be used."""
    with ThreadPoolExecutor(2) as pool:
        both = pool.map(valued, ("1", "0"))
    return {(name, native): found[name] for native, found in zip("10", both, strict=True)
            for name in BUNDLES}  # fmt: skip


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Server]]:
    """The bundles, each served by a process of its own."""
    found = {
        name: Server(tmp_path_factory.mktemp(name), folder_of(name), free_port())
        for name in BUNDLES
    }
    try:
        for server in found.values():
            server.start()
        for server in found.values():
            server.wait()
        yield found
    finally:
        for server in found.values():
            server.end()


def digest(plain: Any) -> str:
    return hashlib.sha256(json.dumps(plain).encode()).hexdigest()[:10]


def numbers(explanation: dict[str, Any], place: int) -> list[Any]:
    """Return what a reference holds of one row: its interval and why, or None for a refused one."""
    if "error" in explanation:
        return []
    value = explanation["valuation"]
    kept = ("distance", "value", "attributes")
    near = [{name: one[name] for name in kept} for one in explanation["comparables"]]
    why = [explanation["contributions"], near]
    return [
        value["prediction"], value["lower"], value["upper"], explanation["expected"],
        *(why if place % WHOLE == 0 else map(digest, why)),
    ]  # fmt: skip


def valid_rows(name: str, stored: list[list[Any]]) -> list[tuple[int, dict[str, Any]]]:
    return [(i, row) for i, row in enumerate(rows_of(BUNDLES[name])) if stored[i]]


@pytest.mark.parametrize("name", BUNDLES)
def test_stored_bundles_give_the_stored_numbers(
    name: str, in_python: Any, references: References
) -> None:
    found = in_python[name, "1"]
    if found["engine"] == "onnxruntime" and name != "cars":
        pytest.skip("the kernels are not compiled here")
    rows = [numbers(row, place) for place, row in enumerate(found["rows"])]
    references.check(f"valuations/{name}", {"version": found["version"], "rows": rows})


@pytest.mark.parametrize("name", BUNDLES)
def test_stored_bundles_give_the_stored_warnings_and_refusals(
    name: str, in_python: Any, references: References
) -> None:
    texts = {}
    for place, row in enumerate(in_python[name, "1"]["rows"]):
        found = row.get("error") or row["valuation"]["warnings"]
        if found:
            texts[place] = found
    references.check(f"valuations/{name}_texts", texts)


@pytest.mark.parametrize("name", BUNDLES)
def test_bundles_answer_the_same_without_the_compiled_kernels(name: str, in_python: Any) -> None:
    kernel, plain = in_python[name, "1"], in_python[name, "0"]
    assert plain["engine"] == "onnxruntime"
    assert len(kernel["rows"]) == len(plain["rows"]) > 0
    for one, other in zip(kernel["rows"], plain["rows"], strict=True):
        parts, others = one.pop("contributions", {}), other.pop("contributions", {})
        money, same = one.pop("groups", []), other.pop("groups", [])
        assert json.dumps(one) == json.dumps(other)
        assert [group["name"] for group in money] == [group["name"] for group in same]
        amounts, equal = ([group["amount"] for group in groups] for groups in (money, same))
        assert amounts == pytest.approx(equal, rel=1e-12, abs=1e-9)
        assert list(parts) == list(others)
        assert list(parts.values()) == pytest.approx(list(others.values()), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("name", BUNDLES)
def test_the_command_predict_gives_the_stored_numbers(
    name: str, tmp_path: Path, references: References
) -> None:
    table = REFERENCES / "tables" / BUNDLES[name]
    stored = references.stored(f"valuations/{name}")
    words = ("--bundle", folder_of(name), "-o", "values.csv")
    done = tasador(tmp_path, "predict", table, *words)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "values.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    first = next(iter(found[0]))
    assert {row["model_version"] for row in found} == {stored["version"]}
    ends = [[json.loads(row[k]) for k in (first, "lower", "upper")] if row[first] else []
            for row in found]  # fmt: skip
    assert ends == [row[:3] for row in stored["rows"]]
    assert [bool(row["error"]) for row in found] == [not row for row in stored["rows"]]


@pytest.mark.parametrize("name", ["homes", "cars"])
def test_the_command_explain_gives_the_stored_numbers(
    name: str, tmp_path: Path, references: References
) -> None:
    stored = references.stored(f"valuations/{name}")["rows"]
    row = rows_of(BUNDLES[name])[WHOLE]
    words = ("--bundle", folder_of(name), "--comparables", "3", "--json")
    done = tasador(tmp_path, "explain", json.dumps(row), *words)
    assert done.returncode == 0, done.stderr
    assert numbers(json.loads(done.stdout), WHOLE) == stored[WHOLE]


@pytest.mark.parametrize("name", BUNDLES)
def test_the_service_gives_the_stored_numbers(
    name: str, servers: dict[str, Server], references: References
) -> None:
    stored = references.stored(f"valuations/{name}")
    texts = references.stored(f"valuations/{name}_texts")
    rows = valid_rows(name, stored["rows"])
    with httpx.Client(base_url=servers[name].url, timeout=60) as client:
        answer = client.post("/api/v1/predict", json={"instances": [row for _, row in rows]})
        assert answer.status_code == 200, answer.text
        assert answer.json()["model_version"] == stored["version"]
        for (place, _), item in zip(rows, answer.json()["predictions"], strict=True):
            assert item["warnings"] == texts.get(str(place), [])
            ends = [next(iter(item.values())), item["interval"]["lower"], item["interval"]["upper"]]
            assert ends == stored["rows"][place][:3]
        for start in range(0, len(rows), MOST_EXPLAINED):
            part = rows[start : start + MOST_EXPLAINED]
            body = {"instances": [row for _, row in part], "comparables": 3}
            answer = client.post("/api/v1/explain", json=body)
            assert answer.status_code == 200, answer.text
            for (place, _), item in zip(part, answer.json()["explanations"], strict=True):
                assert numbers(_as_explained(item, name), place) == stored["rows"][place]


def _as_explained(item: dict[str, Any], name: str) -> dict[str, Any]:
    """Return what the service says in the form of `Explanation`, contributions as in the bundle."""
    value, parts = item["valuation"], item["contributions"]
    found = {part["feature"]: part["value"] for part in parts}
    sizes = [abs(size) for size in found.values()]
    assert sizes == sorted(sizes, reverse=True)
    order = _feature_names(name)
    assert sorted(found) == sorted(order)
    return {
        "valuation": {"prediction": next(iter(value.values())), **value["interval"]},
        "expected": item["expected"],
        "contributions": {name: found[name] for name in order},
        "comparables": item["comparables"],
    }


def _feature_names(name: str) -> list[str]:
    manifest = json.loads((folder_of(name) / "manifest.json").read_text(encoding="utf-8"))
    return list(manifest["features"]["names"])


@pytest.mark.parametrize("name", BUNDLES)
def test_the_service_refuses_the_rows_that_the_bundle_refuses(
    name: str, servers: dict[str, Server], references: References
) -> None:
    stored = references.stored(f"valuations/{name}")["rows"]
    refused = [row for row, found in zip(rows_of(BUNDLES[name]), stored, strict=True) if not found]
    assert refused
    answer = httpx.post(f"{servers[name].url}/api/v1/predict", json={"instances": refused})
    assert answer.status_code == 422
    body = {k: v for k, v in answer.json().items() if k not in ("request_id", "instance")}
    assert {fault["loc"][1] for fault in body["errors"]} == set(range(len(refused)))
    references.check(f"refusals/{name}", body)


OPENAPI = "openapi"
TEXTS = ("description", "title", "summary", "example", "examples")


def without_texts(plain: Any) -> Any:
    """Return the document without texts for people; a property may be called as one of those."""
    if isinstance(plain, list):
        return [without_texts(one) for one in plain]
    if not isinstance(plain, dict):
        return plain
    return {
        key: without_texts(value)
        for key, value in plain.items()
        if key not in TEXTS or (isinstance(value, dict) and not is_problems(value))
    }


def is_problems(examples: dict[str, Any]) -> bool:
    """Return whether these are examples of problems, which are texts for people."""
    return all(isinstance(one, dict) and "value" in one for one in examples.values())


def described(server: Server) -> dict[str, Any]:
    document: dict[str, Any] = httpx.get(f"{server.url}/openapi.json").json()
    assert document["info"].pop("version")  # of tasador: a release changes no route
    return document


def test_the_openapi_document_has_the_stored_routes_and_types(
    servers: dict[str, Server], references: References
) -> None:
    if references.rewrite:
        pytest.skip("the next test stores the document")
    found, stored = described(servers["homes"]), references.stored(OPENAPI)
    assert without_texts(found) == without_texts(stored)


def test_the_openapi_document_is_the_stored_one(
    servers: dict[str, Server], references: References
) -> None:
    references.check(OPENAPI, described(servers["homes"]))
