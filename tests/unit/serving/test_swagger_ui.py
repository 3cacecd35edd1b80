"""Swagger UI comes from the service alone, knows the keys and has a row that works."""

from __future__ import annotations

import re

from tasador.serving.http.auth import new_key
from tasador.settings.serving import SecuritySettings


def test_every_file_of_the_page_comes_from_the_service_and_needs_no_key(serve) -> None:
    _, line = new_key("app", "client")
    with serve(security=SecuritySettings(keys=(line.line(),))).client() as client:
        page = client.get("/docs")
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'; script-src 'self'; connect-src 'self'" in policy
        files = re.findall(r'(?:src|href)="([^"]+)"', page.text)
        assert {file.rsplit("/", 1)[-1] for file in files} == {
            "favicon.png", "swagger-ui.css", "swagger-ui-bundle.js", "start.js",
        }  # fmt: skip
        for file in files:
            assert "//" not in file
            assert client.get(f"/{file}").status_code == 200
        assert "SwaggerUIBundle" in client.get("/docs/swagger-ui-bundle.js").text
        assert client.get("/docs/redoc.standalone.js").status_code == 401


def test_only_the_files_of_the_page_are_given(client) -> None:
    for name in ("redoc.standalone.js", "..%2fcore.py", "core.py"):
        assert client.get(f"/docs/{name}").status_code in (404, 422)


def test_the_document_names_the_headers_of_keys_where_a_key_is_needed(client) -> None:
    document = client.get("/openapi.json").json()
    schemes = document["components"]["securitySchemes"]
    assert schemes["X-API-Key"] == {"type": "apiKey", "in": "header", "name": "X-API-Key"}
    assert document["paths"]["/api/v1/predict"]["post"]["security"] == [
        {"X-API-Key": []},
        {"Bearer": []},
    ]
    assert "security" not in document["paths"]["/health/ready"]["get"]
