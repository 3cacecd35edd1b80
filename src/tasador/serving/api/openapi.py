"""The OpenAPI document, made from the bundle that answers, and a page that shows it offline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from tasador.serving.api.schemas import OutcomesAnswer, OutcomesRequest, Refusal, request_models
from tasador.serving.errors import Problem
from tasador.serving.service import Service

_REFERENCE = "#/components/schemas/{model}"
_WITHOUT_MODEL: tuple[type[BaseModel], ...] = (Refusal, OutcomesRequest, OutcomesAnswer)

REFUSALS = {
    400: "The host is not one that the service answers to",
    401: "No key, or an unknown one",
    403: "The key may not do this",
    404: "Unknown path or version",
    408: "The body did not arrive in time",
    409: "There is nothing to return to, or another outcome is known",
    413: "The body is too large",
    415: "The body is of a different type",
    422: "The request does not meet its contract; every fault is listed",
    429: "Too many requests; see Retry-After",
    500: "A fault of the service",
    503: "No model yet, too many requests under way, or out of time; see Retry-After",
}


def body_of(model: str) -> dict[str, Any]:
    """Return what FastAPI adds to a route that reads its body itself."""
    return {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": _REFERENCE.format(model=model)}}},
        }
    }


def answers(model: str | None, *statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the documented answers of a route: a model for 200, errors for `statuses`."""
    found: dict[int | str, dict[str, Any]] = {}
    if model is not None:
        reference = {"$ref": _REFERENCE.format(model=model)}
        found[200] = {
            "description": "Done",
            "content": {"application/json": {"schema": reference}},
        }
    refusal = {"$ref": _REFERENCE.format(model="Refusal")}
    for status in statuses:
        found[status] = {
            "description": REFUSALS[status],
            "content": {"application/json": {"schema": refusal}},
        }
    return found


class Documentation:
    """Makes the OpenAPI document, again whenever another contract answers.

    Args:
        app: Whose routes are documented.
        service: Knows the model.
        version: Of tasador.
    """

    def __init__(self, app: FastAPI, service: Service, version: str) -> None:
        self._app = app
        self._service = service
        self._version = version
        self._made: tuple[str, dict[str, Any]] | None = None

    def openapi(self) -> dict[str, Any]:
        """Return the document."""
        try:
            predictor = self._service.predictor()
        # the document is there without a model too: the page asks for it at any time
        except Problem:
            key, models = "", list(_WITHOUT_MODEL)
            title = "tasador"
        else:
            key, title = predictor.version, f"tasador: {predictor.contract.title}"
            made = request_models(
                predictor.contract, predictor.bundle.profile, self._service.limits.batch
            )
            models = [*_WITHOUT_MODEL, *made]
        if self._made is None or self._made[0] != key:
            self._made = key, self._document(title, models)
        return self._made[1]

    def _document(self, title: str, models: Sequence[type[BaseModel]]) -> dict[str, Any]:
        document: dict[str, Any] = get_openapi(
            title=title, version=self._version, routes=self._app.routes
        )
        _, defined = models_json_schema(
            [(model, "validation") for model in models], ref_template=_REFERENCE
        )
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        schemas.update(defined["$defs"])
        for name in _referenced(document) - set(schemas):
            schemas[name] = {"type": "object", "description": "Known once a model is loaded"}
        return document


def _referenced(node: Any) -> set[str]:
    """Return the names of all schemas that a document refers to."""
    if isinstance(node, Mapping):
        found = {str(node["$ref"]).rsplit("/", 1)[-1]} if "$ref" in node else set()
        return found.union(*(_referenced(value) for value in node.values()))
    if isinstance(node, list):
        return set().union(*(_referenced(value) for value in node))
    return set()


#: Swagger's own page loads its scripts from another host; this one loads nothing.
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>tasador API</title>
<meta name="viewport" content="width=device-width,initial-scale=1"><style>
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
code,pre{font:13px/1.45 ui-monospace,monospace}pre{background:#8882;padding:.7rem;overflow:auto}
summary{cursor:pointer;padding:.35rem 0}.m{display:inline-block;width:4rem;font-weight:700}
:root{color-scheme:light dark}</style><h1 id="t">tasador API</h1>
<p>The same as a document for generators: <a href="openapi.json">openapi.json</a></p>
<div id="o">Loading…</div><script src="docs.js"></script></html>"""

SCRIPT = """'use strict';
const el=(tag,text,cls)=>{const e=document.createElement(tag);if(text)e.textContent=text;
if(cls)e.className=cls;return e};
fetch('openapi.json').then(r=>r.json()).then(doc=>{
const out=document.getElementById('o');out.textContent='';
document.getElementById('t').textContent=doc.info.title+' '+doc.info.version;
for(const [path,item] of Object.entries(doc.paths))for(const [method,op] of Object.entries(item)){
const d=el('details'),s=el('summary');s.append(el('span',method.toUpperCase(),'m'),
el('code',path),' '+(op.summary||''));d.append(s);
if(op.description)d.append(el('p',op.description));
const body=op.requestBody&&Object.values(op.requestBody.content)[0].schema;
if(body)d.append(el('h4','Body'),el('pre',JSON.stringify(body,null,1)));
for(const [code,a] of Object.entries(op.responses)){d.append(el('p',code+' '+a.description));}
out.append(d)}
const h=el('h2','Schemas');out.append(h);
for(const [name,schema] of Object.entries(doc.components.schemas)){
const d=el('details'),s=el('summary');s.append(el('code',name));
d.append(s,el('pre',JSON.stringify(schema,null,1)));out.append(d)}
}).catch(e=>{document.getElementById('o').textContent='openapi.json cannot be read: '+e});
"""
