"""A model with hostile names and titles, in a real browser: shown literally, nothing loaded."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest

from fixtures.process import Server, free_port
from tasador.registry.writer import write_bundle
from tasador.reporting.card_markdown import to_markdown
from tasador.reporting.model_card import ModelDocument, ModelFacts

from .conftest import App, start_app

IMAGE = "![x](http://evil.example/a.png)"
TITLE = f"{IMAGE} <img src=http://evil.example/b.png> :red[x] $y$"
WHAT = f"[click](http://evil.example/c) {IMAGE} <script src=//evil.example></script>"


@pytest.fixture(scope="module")
def hostile(bundle_parts, tmp_path_factory) -> Iterator[App]:
    contract = bundle_parts.contract
    columns = tuple(
        dataclasses.replace(column, description=WHAT, unit=IMAGE if column.name == "area" else None)
        for column in contract.columns
    )
    target = dataclasses.replace(contract.target, description=WHAT, unit="*$*")
    hostile = dataclasses.replace(contract, title=TITLE, columns=columns, target=target)
    facts = ModelFacts(
        model="houses_model", version=IMAGE, trained="today", origin="synthetic", source=WHAT,
        data_hash="0", code_commit="1", bundle_hash="2", train_rows=1, test_rows=1, refused_rows=0,
        train_range=(1.0, 2.0), test_openings=(WHAT,),
    )  # fmt: skip
    card = to_markdown(ModelDocument(hostile, facts))
    folder = tmp_path_factory.mktemp("hostile")
    write_bundle(folder / "b", dataclasses.replace(bundle_parts, contract=hostile, card=card))
    server = Server(folder, folder / "b", free_port())
    server.start()
    server.wait()
    app = start_app(server.url)
    yield app
    app.end()
    server.end()


@pytest.mark.slow
def test_hostile_texts_are_shown_literally_and_load_nothing(visit, hostile: App) -> None:
    page = visit(base=hostile.url)
    page.get_by_text(TITLE, exact=True).wait_for()
    page.locator("[data-testid=stMetricValue]").wait_for()
    page.wait_for_timeout(3000)
    page = visit("report", base=hostile.url)
    page.get_by_text("Intended use").wait_for()
    body = page.inner_text("body")
    assert f"Model card: {TITLE}" in body, [x for x in body.splitlines() if "Model card" in x]
    assert WHAT in body
    assert f"version {IMAGE}" in body
    for path in ("batch", "models", "health"):
        visit(path, base=hostile.url).wait_for_timeout(1500)
    for path in ("", "report", "batch"):  # `visit` fails on a request to another host
        page = visit(path, base=hostile.url)
        assert page.locator("img[src*='evil'], script[src*='evil']").count() == 0
