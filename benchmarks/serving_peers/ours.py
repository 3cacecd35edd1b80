"""tasador's own application, with routes that say what a valuation's road costs without its work.

``/empty`` is answered by the middleware that answers predict: same server, protocol, limits, keys,
counters and reading of the body, but nothing is parsed or valued. ``/recorded`` keeps one record as
well. With ``TASADOR_BENCH_STAGES`` the stages of predict are timed, and ``/stages`` says how long
each took so far, without the stages in it.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from fastapi import APIRouter

from tasador.contract.row_check import RowCheck
from tasador.core import clock
from tasador.features.fitted import FittedFeatures
from tasador.modeling.confidence import ConfidenceModel
from tasador.records.batch_writer import RecordWriter
from tasador.records.record import Record, new_ids
from tasador.registry.explainer import Explainer
from tasador.registry.model_bundle import ModelBundle
from tasador.serving.api import valuations
from tasador.serving.app import Assembly, build_app
from tasador.serving.batcher import Answer, Batcher
from tasador.serving.http.middleware import AuthMiddleware, PredictMiddleware
from tasador.serving.http.request import App, Exchange
from tasador.serving.request_parsing import Predictor
from tasador.settings.serving import read_settings
from tasador.trees.onnx_model import Regressor

STAGES: dict[str, tuple[tuple[Any, str], ...]] = {
    "parse": ((valuations, "read_json"),),
    "encode": ((Predictor, "encode"),),
    "check": ((RowCheck, "accepts"),),
    "features": ((FittedFeatures, "transform"),),
    "trees, of value and error": ((Regressor, "predict"),),
    "confidence": ((ConfidenceModel, "bounds"), (ModelBundle, "_outside")),
    "support": ((Explainer, "support"),),
    "the rest of a valuation": ((Predictor, "predict"),),
    "record": ((Batcher, "_records"), (RecordWriter, "submit")),
    "render": ((Answer, "body"),),
}


class Stopwatch:
    """Adds up how often each stage was gone through, and its own seconds of processor time."""

    def __init__(self) -> None:
        self.found: dict[str, list[float]] = {}
        self._inner: list[float] = [0.0]

    def time(self, name: str, owner: Any, attribute: str) -> None:
        """Time what `owner` calls so; all stages are of one thread."""
        work: Callable[..., Any] = getattr(owner, attribute)
        kept = self.found.setdefault(name, [0, 0.0])
        inner = self._inner

        @functools.wraps(work)
        def timed(*arguments: Any, **named: Any) -> Any:
            inner.append(0.0)
            started = time.thread_time()
            try:
                return work(*arguments, **named)
            finally:
                spent = time.thread_time() - started
                kept[0] += 1
                kept[1] += spent - inner.pop()
                inner[-1] += spent

        setattr(owner, attribute, timed)


def app() -> App:
    """Return the application; its settings are those of the environment."""
    watch = Stopwatch()
    if os.environ.get("TASADOR_BENCH_STAGES"):
        for name, places in STAGES.items():
            for owner, attribute in places:
                watch.time(name, owner, attribute)
    assembly = Assembly(read_settings(os.environ))
    parts = assembly.parts()
    router = APIRouter()

    @router.get("/stages")
    async def stages() -> dict[str, list[float]]:
        return watch.found

    built = build_app(replace(parts, routers=[*parts.routers, router]))
    within: Any = built  # from the outside in, to where predict is answered
    while not isinstance(within, AuthMiddleware):
        within = within._app
    for path, answer in _limits(assembly).items():
        within._app = PredictMiddleware(within._app, path, answer)
    return built


def _limits(assembly: Assembly) -> dict[str, Callable[[Exchange, bytes], Awaitable[bytes]]]:
    """Return the routes that value nothing, by their paths."""

    async def empty(_: Exchange, __: bytes) -> bytes:
        return b""

    async def recorded(exchange: Exchange, body: bytes) -> bytes:
        predictor = assembly.service.predictor()
        (name,), now = new_ids(1), clock.seconds()
        record = Record(
            name, now, predictor.version, "champion", predictor.source, body, 1.0, 0.5, 1.5,
            0.9, 0.0, exchange.client,
        )  # fmt: skip
        waiting = assembly.writer.submit([record])
        if waiting is not None:
            await waiting
        return b""

    return {"/empty": empty, "/recorded": recorded}
