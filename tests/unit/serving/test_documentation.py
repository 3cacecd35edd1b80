"""The OpenAPI document: its examples are answered and its problems explained, also under a path."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from fixtures.proxy import path_proxy
from fixtures.service import RunningService, running_service
from tasador.ops.api_client import ApiClient
from tasador.serving.api.models import (
    AdminActions,
    Lifecycle,
    admin_router,
    card_router,
    lifecycle_router,
)
from tasador.serving.errors import MEDIA_TYPE, PROBLEMS
from tasador.serving.http.auth import new_key
from tasador.settings.serving import SecuritySettings, read_settings

PREFIX = "/valuations"
KEY, LINE = new_key("reader", "admin")


@pytest.fixture(scope="module")
def whole(house_bundle, tmp_path_factory) -> Iterator[RunningService]:
    """A service with the administrators' routes, behind a path."""
    actions = AdminActions(lambda: "v", lambda: False, lambda: {"current": "v"})
    lifecycle = Lifecycle(
        versions=lambda: {"model": "houses_model", "versions": []},
        history=lambda limit: [{"limit": limit}],
        report=lambda version: version,
        promote=lambda wish, who: {"version": wish.version},
        rollback=lambda wish, who: {"reason": wish.reason},
        changed=lambda: None,
    )
    with running_service(
        tmp_path_factory.mktemp("whole"),
        house_bundle,
        security=SecuritySettings(keys=(LINE.line(),)),
        routers=lambda service: [
            card_router(service),
            admin_router(actions),
            lifecycle_router(service, lifecycle),
        ],
        prefix=PREFIX,
    ) as found:
        yield found


@pytest.fixture(params=[True, False], ids=["the proxy strips it", "the proxy keeps it"])
def proxied(request, whole) -> Iterator[httpx.Client]:
    """A client of the proxy in front of the service."""
    headers = {"x-api-key": KEY}
    with (
        path_proxy(whole.url, PREFIX, strips=request.param) as url,
        httpx.Client(base_url=url, headers=headers, timeout=30) as client,
    ):
        yield client


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield path, method, operation


def test_every_example_of_the_document_is_answered_through_a_proxy(proxied: httpx.Client) -> None:
    document = proxied.get(f"{PREFIX}/openapi.json").json()
    (server,) = document["servers"]
    assert server["url"] == PREFIX
    asked = 0
    for path, method, operation in operations(document):
        for parameter in operation.get("parameters", ()):
            path = path.replace("{" + parameter["name"] + "}", parameter.get("example", ""))
        for kind, content in operation.get("requestBody", {}).get("content", {}).items():
            if kind in ("multipart/form-data", "application/vnd.apache.parquet"):
                continue  # a file, which no JSON document holds
            body = content["example"]
            data = body if isinstance(body, str) else json.dumps(body)
            answer = proxied.request(
                method, server["url"] + path, content=data, headers={"content-type": kind}
            )
            assert answer.status_code == 200, f"{method} {path}: {answer.text}"
            asked += 1
        if method == "get" and path != "/metrics":
            answer = proxied.get(server["url"] + path)
            assert answer.status_code == 200, f"{path}: {answer.text}"
    assert asked >= 10


def test_pages_and_links_work_under_the_path_of_a_proxy(proxied: httpx.Client) -> None:
    about = proxied.get(f"{PREFIX}/").json()
    assert about["docs_url"] == f"{PREFIX}/docs"
    page = httpx.URL(f"{proxied.base_url}{about['docs_url']}")
    files = re.findall(r'(?:src|href)="([^"]+)"', proxied.get(page).text)
    assert len(files) == 4
    for file in [*files, "openapi.json"]:
        assert proxied.get(page.join(file)).status_code == 200
    refused = proxied.post(f"{PREFIX}/api/v1/predict", json={"instances": [{}]})
    assert refused.json()["error"] == "invalid_rows"
    where, _, anchor = refused.json()["type"].partition("#")
    assert f'<section id="{anchor}">' in proxied.get(where).text
    assert proxied.get("/valuations-of-others/docs").status_code == 404
    # as the web app asks, whose address may end in a slash
    app = ApiClient(f"{proxied.base_url}{PREFIX}/", KEY)
    assert app.health()["status"] == "healthy"
    missing = proxied.get(f"{PREFIX}/nothing")
    assert (missing.status_code, missing.json()["error"]) == (404, "unknown_path")


def test_every_refusal_is_documented_with_an_example_of_each_kind(whole: RunningService) -> None:
    with whole.client() as client:
        document = client.get("/openapi.json").json()
    bodies: dict[str, Any] = {}
    for path, method, operation in operations(document):
        assert operation["summary"][0].isupper()
        assert not operation["summary"].endswith(".")
        assert operation["tags"][0] in [tag["name"] for tag in document["tags"]]
        for status, answer in operation["responses"].items():
            if MEDIA_TYPE not in answer.get("content", {}):
                assert status in ("200", "503"), f"{method} {path}: {status}"
                continue
            found = answer["content"][MEDIA_TYPE]["examples"]
            for word, example in found.items():
                body = bodies[word] = example["value"]
                assert (body["error"], str(body["status"])) == (word, status)
                assert body["type"] == f"{PREFIX}/problems#{word}"
    assert document["tags"][0]["name"] == "valuation"
    # answered before or after any route: to what is no request, and to paths that are none
    elsewhere = {"malformed_request", "slow_headers", "head_too_large", "unknown_path",
                 "wrong_method", "refused"}  # fmt: skip
    monitoring = {"no_verdict", "no_alert"}  # whose routes are left out here
    assert set(PROBLEMS) - set(bodies) == elsewhere | monitoring
    wrong = bodies["invalid_rows"]["errors"]
    assert len(wrong) == 1
    assert wrong[0]["loc"][:2] == ["instances", 0]


def test_the_page_of_problems_explains_each_kind_and_needs_no_key(whole: RunningService) -> None:
    with whole.client() as client:
        page = client.get("/problems")
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    assert set(re.findall(r'<section id="(\w+)">', page.text)) == set(PROBLEMS)


def test_a_document_without_a_model_has_no_examples_of_rows(serve) -> None:
    with serve(None).client() as client:
        document = client.get("/openapi.json").json()
    assert "servers" not in document
    for _, _, operation in operations(document):
        for content in operation.get("requestBody", {}).get("content", {}).values():
            assert "example" not in content


@pytest.mark.parametrize("wrong", ["valuations", "/valuations/", "/a//b", "/a?b", "https://host/a"])
def test_a_path_that_is_none_is_refused(wrong: str) -> None:
    from tasador.core.errors import ConfigError

    with pytest.raises(ConfigError, match="a path such as /valuations"):
        read_settings({"TASADOR_SERVER__ROOT_PATH": wrong})
    assert read_settings({"TASADOR_SERVER__ROOT_PATH": "/a/b-c"}).server.root_path == "/a/b-c"
