"""tasador's own application with one more route, an empty POST, as the limit to compare with."""

from __future__ import annotations

import os
from dataclasses import replace

from fastapi import APIRouter, Response

from tasador.serving.app import Assembly, build_app
from tasador.serving.http.request import App
from tasador.settings.serving import read_settings


def app() -> App:
    router = APIRouter()

    @router.post("/empty")
    async def empty() -> Response:
        return Response(b"")

    parts = Assembly(read_settings(os.environ)).parts()
    return build_app(replace(parts, routers=[*parts.routers, router]))
