"""The OpenAPI document with its examples, Swagger UI to try it, and the page of problems.

Both pages come from this service and load nothing from elsewhere.
"""

from __future__ import annotations

import csv
import html
import io
import json
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Response
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic.json_schema import models_json_schema
from starlette.responses import FileResponse

from tasador.contract.formats import PLAIN
from tasador.contract.model import TableContract
from tasador.core.errors import MissingExtraError
from tasador.serving.api.openapi import REFERENCE, ProblemDetails, example_row, request_models
from tasador.serving.errors import MEDIA_TYPE, PAGE, PROBLEMS, Problem
from tasador.serving.http.auth import PUBLIC, SwaggerFile
from tasador.serving.http.middleware import ADMIN, PROBES
from tasador.serving.request_parsing import Predictor, invalid_rows
from tasador.serving.service import Service
from tasador.settings.serving import ServeLimits

#: In the order in which the page shows them.
_TAGS = {
    "valuation": "Values of rows, why they are what they are, and what rows turned out to be worth",
    "models": "The model that answers, its versions and what served when",
    "monitoring": "What the watcher found",
    "status": "Whether the service is well",
    "open inference protocol": "For clients of Triton, KServe and MLServer",
    "mlflow scoring": "As `mlflow models serve` answers",
    "admin": "Changes of the model; for keys of role admin",
}
_ABOUT = """Every refusal is `application/problem+json` (RFC 9457); its `type` leads to
[what it means]({prefix}/problems). Where keys are configured, **Authorize** takes one. The examples
are rows of the model that is loaded."""
#: Problems of every route but the probes, of those that need a key, and of those with a body.
_ALWAYS = ("unknown_host", "too_many_requests", "internal_error", "overloaded", "timeout")
_OF_BODIES = ("slow_body", "body_too_large", "unsupported_media_type", "malformed_body")
_OF_JSON = ("malformed_json", "duplicate_field", "invalid_request")
_EXAMPLE_ID = "5f3c-1a"


class Documentation:
    """Makes the OpenAPI document, again whenever another contract answers.

    Args:
        app: Whose routes are documented.
        service: Knows the model.
        version: Of tasador.
        prefix: What a proxy puts before the service's paths.
    """

    def __init__(self, app: FastAPI, service: Service, version: str, prefix: str = "") -> None:
        self._app = app
        self._service = service
        self._version = version
        self._prefix = prefix
        self._made: tuple[str, dict[str, Any]] | None = None

    def openapi(self) -> dict[str, Any]:
        """Return the document."""
        predictor: Predictor | None = None
        # the document is there without a model too: the page asks for it at any time
        with suppress(Problem):
            predictor = self._service.predictor()
        key = "" if predictor is None else predictor.version
        if self._made is None or self._made[0] != key:
            self._made = key, self._document(predictor)
        return self._made[1]

    def _document(self, predictor: Predictor | None) -> dict[str, Any]:
        title, models = "tasador", [ProblemDetails]
        if predictor is not None:
            title = f"tasador: {predictor.contract.title}"
            models += request_models(
                predictor.contract, predictor.bundle.profile, self._service.limits.batch,
                withheld=self._service.no_value != ServeLimits(),
            )  # fmt: skip
        document: dict[str, Any] = get_openapi(
            title=title,
            version=self._version,
            description=_ABOUT.format(prefix=self._prefix),
            routes=self._app.routes,
            tags=[{"name": name, "description": text} for name, text in _TAGS.items()],
            servers=[{"url": self._prefix}] if self._prefix else None,
        )
        _, defined = models_json_schema(
            [(model, "validation") for model in models], ref_template=REFERENCE
        )
        components = document.setdefault("components", {})
        components["securitySchemes"] = _KEYS
        problems = self._problems(predictor)
        examples = {} if predictor is None else request_examples(predictor)
        for path, item in document["paths"].items():
            for operation in item.values():
                if path not in PUBLIC and path not in PROBES:
                    operation["security"] = [{name: []} for name in _KEYS]
                first, _, rest = operation.get("description", "").partition("\n")
                if first.rstrip(".") == operation["summary"]:
                    operation["description"] = rest.strip()
                _refuse(path, operation, problems)
                _fill(path, operation, examples, predictor)
        schemas = components.setdefault("schemas", {})
        schemas.update(defined["$defs"])
        for name in _UNUSED:
            schemas.pop(name, None)
        for name in _referenced(document) - set(schemas):
            schemas[name] = {"type": "object", "description": "Known once a model is loaded"}
        return document

    def _problems(self, predictor: Predictor | None) -> dict[str, dict[str, Any]]:
        """Return an example of each kind of problem, with a wrong row of the model that answers."""
        found = {word: Problem(word) for word in PROBLEMS}
        if predictor is not None:
            wrong = wrong_row(predictor.contract, _example(predictor))
            refusal = invalid_rows([wrong], predictor.check, "instances")
            if refusal.errors:  # a table may take any row
                found["invalid_rows"] = refusal
        return {
            word: {
                "summary": problem.title,
                "value": json.loads(problem.body(_EXAMPLE_ID, self._prefix)),
            }
            for word, problem in found.items()
        }


#: What FastAPI says of invalid requests, which are answered otherwise here.
_UNUSED = ("HTTPValidationError", "ValidationError")


def summarize(router: APIRouter) -> None:
    """Make the first line of each route's docstring its summary, in place of its name."""
    for route in router.routes:
        if isinstance(route, APIRoute) and route.summary is None and route.description:
            route.summary = route.description.partition("\n")[0].rstrip(".")


def _refuse(
    path: str, operation: dict[str, Any], problems: Mapping[str, Mapping[str, Any]]
) -> None:
    """Document the problems of an operation by status, each kind with an example."""
    responses = operation["responses"]
    found: dict[str, list[str]] = {}
    for status, answer in list(responses.items()):
        content = answer.get("content", {})
        if MEDIA_TYPE in content:
            found[status] = list(content[MEDIA_TYPE]["examples"])
        elif status == "422":  # FastAPI's own
            del responses[status]
    bodies = operation.get("requestBody", {}).get("content", {})
    # a wrong key is refused also where none is needed
    common = [] if path in PROBES else [*_ALWAYS, "unauthorised"]
    common += ["forbidden"] if path.startswith(ADMIN) else []
    common += list(_OF_BODIES) if bodies else []
    common += list(_OF_JSON) if "application/json" in bodies else []
    common += ["invalid_request"] if "parameters" in operation else []
    for word in common:
        own = found.setdefault(str(PROBLEMS[word].status), [])
        own += [] if word in own else [word]
    for status, words in sorted(found.items()):
        titles = "; ".join(PROBLEMS[word].title for word in words)
        responses[status] = {
            "description": titles[:1].upper() + titles[1:],
            "content": {
                MEDIA_TYPE: {
                    "schema": {"$ref": REFERENCE.format(model="ProblemDetails")},
                    "examples": {word: problems[word] for word in words},
                }
            },
        }


def _fill(
    path: str,
    operation: dict[str, Any],
    examples: Mapping[str, Mapping[str, Any]],
    predictor: Predictor | None,
) -> None:
    """Give an operation's body and the parts of its path examples that the model answers."""
    bodies = operation.get("requestBody", {}).get("content", {})
    for kind, value in examples.get(path, {}).items() if bodies else ():
        bodies[kind]["example"] = value
    if predictor is None:
        return
    known = {"name": predictor.bundle.manifest.name, "version": predictor.version}
    for parameter in operation.get("parameters", ()):
        if parameter["in"] == "path":
            parameter["example"] = known[parameter["name"]]


def _example(predictor: Predictor) -> dict[str, Any]:
    return example_row(predictor.contract, predictor.bundle.profile)


def request_examples(predictor: Predictor) -> dict[str, dict[str, Any]]:
    """Return bodies that the model answers, by path and media type."""
    row, contract = _example(predictor), predictor.contract
    lines = io.StringIO()
    writer = csv.DictWriter(lines, list(row), lineterminator="\n")
    writer.writeheader()
    writer.writerow(row)
    tensors = [
        {
            "name": column.name,
            "shape": [1],
            "datatype": "FP64" if column.kind in ("number", "integer") else "BYTES",
            "data": [row[column.name]],
        }
        for column in contract.fields
    ]
    explained = {"instances": [row], "comparables": 5}
    worth = float(f"{predictor.bundle.value(row).prediction:.4g}")
    outcome = {"prediction_id": "the prediction_id of a valuation", "actual": worth}
    found = {
        "/api/v1/predict": {"instances": [row]},
        "/api/v1/explain": explained,
        "/api/v1/appraise": explained,
        "/api/v1/outcomes": {"outcomes": [outcome]},
        "/invocations": {"dataframe_records": [row]},
        "/v2/models/{name}/infer": {"inputs": tensors},
        "/v2/models/{name}/versions/{version}/infer": {"inputs": tensors},
        f"{ADMIN}models/promote": {"version": "2", "reason": "smaller errors on the test set"},
        f"{ADMIN}models/rollback": {"reason": "too high on new houses"},
    }
    examples: dict[str, dict[str, Any]] = {
        path: {"application/json": body} for path, body in found.items()
    }
    for path in ("/api/v1/score", "/invocations"):
        examples.setdefault(path, {})["text/csv"] = lines.getvalue()
    return examples


def wrong_row(contract: TableContract, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row with one fault: a number above its bounds, or a required value left out."""
    for column in contract.fields:
        high = column.bounds[1]
        if column.kind in ("number", "integer") and column.format == PLAIN and high is not None:
            return {**row, column.name: high + 1}
    required = [column.name for column in contract.fields if not column.nullable]
    return {name: value for name, value in row.items() if name not in required[:1]}


def _referenced(node: Any) -> set[str]:
    """Return the names of all schemas that a document refers to."""
    if isinstance(node, Mapping):
        found = {str(node["$ref"]).rsplit("/", 1)[-1]} if "$ref" in node else set()
        return found.union(*(_referenced(value) for value in node.values()))
    if isinstance(node, list):
        return set().union(*(_referenced(value) for value in node))
    return set()


#: Every route but the public ones takes a key in either of these, where keys are configured.
_KEYS = {
    "X-API-Key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    "Bearer": {"type": "http", "scheme": "bearer"},
}
#: Swagger UI sets styles of single elements and draws its icons from data URIs.
_PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; connect-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'"
)
_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>tasador API</title>
<meta name="viewport" content="width=device-width,initial-scale=1">
<link rel="icon" href="docs/favicon.png"><link rel="stylesheet" href="docs/swagger-ui.css">
<div id="swagger-ui"></div><script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script></html>"""
# a file of its own: the page's policy runs no script inside of a page
_START = """SwaggerUIBundle({url: 'openapi.json', dom_id: '#swagger-ui', validatorUrl: null,
  defaultModelsExpandDepth: 0, tryItOutEnabled: true, displayRequestDuration: true,
  persistAuthorization: false})"""
_PROBLEMS = """<!doctype html><html lang="en"><meta charset="utf-8"><title>tasador: problems</title>
<meta name="viewport" content="width=device-width,initial-scale=1">
<style>:root{{color-scheme:light dark}}body{{font:1rem/1.5 system-ui,sans-serif;max-width:46rem;
margin:2rem auto;padding:0 1rem}}section:target{{outline:2px solid #2b6cb0;outline-offset:.5rem}}
</style><h1>Problems</h1><p>What the service refuses, by the last part of <code>type</code>. Each
answer says what it expected, what it got and what to do; <code>errors</code> lists every fault.
<a href="docs">Routes</a></p>{sections}</html>"""


def problems_page() -> str:
    """Return the page that says what each kind of problem means, with an anchor for each."""
    sections = []
    for word, kind in sorted(PROBLEMS.items()):
        facts = {"Expected": kind.expected, "What to do": kind.remedy}
        if kind.retry_after is not None:
            facts["Retry after"] = f"{kind.retry_after} s, unless the answer says otherwise"
        listed = "".join(
            f"<li>{name}: {html.escape(text)}</li>" for name, text in facts.items() if text
        )
        sections.append(
            f'<section id="{word}"><h2><code>{word}</code></h2>'
            f"<p>{kind.status}: {html.escape(kind.title)}</p><ul>{listed}</ul></section>"
        )
    return _PROBLEMS.format(sections="".join(sections))


def documentation_router(documentation: Documentation) -> APIRouter:
    """Return the routes of the OpenAPI document, of Swagger UI and of the page of problems."""
    router = APIRouter(include_in_schema=False)

    @router.get("/openapi.json")
    async def openapi() -> dict[str, Any]:
        return documentation.openapi()

    @router.get("/docs")
    async def page() -> Response:
        headers = {"content-security-policy": _PAGE_POLICY}
        return Response(_PAGE, media_type="text/html", headers=headers)

    @router.get(PAGE)
    async def problems() -> Response:
        headers = {"content-security-policy": "default-src 'none'; style-src 'unsafe-inline'"}
        return Response(problems_page(), media_type="text/html", headers=headers)

    @router.get("/docs/start.js")
    async def start() -> Response:
        return Response(_START, media_type="text/javascript")

    @router.get("/docs/{name}")
    async def asset(name: SwaggerFile) -> Response:
        found = find_spec("fastapi_offline")  # found, not imported: its module is not needed
        if found is None or found.origin is None:
            raise MissingExtraError.for_package("fastapi-offline", "serve")
        return FileResponse(
            Path(found.origin).parent / "static" / name, headers={"cache-control": "max-age=86400"}
        )

    return router
