"""Swagger UI in a browser, behind a proxy: filled in with a row that works, nothing foreign."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fixtures.proxy import path_proxy
from fixtures.service import running_service
from tasador.registry.model_bundle import load_bundle

PREFIX = "/valuations"
#: Routes, and what is in their answers.
TRIED = {
    "/api/v1/predict": '"predictions"',
    "/api/v1/score": "row,prediction",
    "/v2/models/{name}/infer": '"outputs"',
}


@pytest.fixture
def address(written_bundle, tmp_path) -> Iterator[str]:
    """Of a service behind a proxy that takes its path away."""
    with (
        running_service(tmp_path, load_bundle(written_bundle), prefix=PREFIX) as service,
        path_proxy(service.url, PREFIX, strips=True) as url,
    ):
        yield url


def test_routes_are_tried_with_the_row_that_stands_there(browser, address) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    requests: list[str] = []
    errors: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: errors.append(message.text))
    page.goto(f"{address}{PREFIX}/docs")
    for path, answer in TRIED.items():
        block = page.locator(".opblock", has=page.locator(f'[data-path="{path}"]')).first
        block.locator(".opblock-summary").first.click()
        block.locator("button.execute").click()
        row = block.locator(".live-responses-table tr.response").first
        row.wait_for()
        assert row.locator(".response-col_status").inner_text().startswith("200")
        assert answer in row.inner_text()
        block.locator(".opblock-summary").first.click()
    assert page.get_by_text("Value rows", exact=True).first.is_visible()
    sent = [one for one in requests if not one.startswith(("data:", "blob:"))]
    assert all(one.startswith(f"{address}{PREFIX}/") for one in sent)
    assert not errors
    page.goto(f"{address}{PREFIX}/problems#invalid_rows")
    assert page.locator("#invalid_rows").is_visible()
    page.close()
