"""`Service`: what all routes share."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, Protocol

from tasador.records.refused import Refusal
from tasador.registry.bundle.model_bundle import ModelBundle
from tasador.serving.batching.batcher import Answer, Appraiser
from tasador.serving.batching.predictor import Engine
from tasador.serving.batching.request_parsing import Rows
from tasador.serving.errors import Problem, not_ready
from tasador.serving.http.refused_requests import RefusedRows
from tasador.serving.http.request import Exchange
from tasador.serving.metrics import Metrics
from tasador.settings.serving import LimitSettings


class Loaded(Protocol):
    """A bundle in use; `serving.model_loading.cascade.LoadedModel` is one."""

    @property
    def bundle(self) -> ModelBundle:
        """The bundle."""

    @property
    def source(self) -> str:
        """Where it came from."""

    @property
    def loaded_at(self) -> float:
        """When, in seconds since 1970 UTC."""


class Holder(Protocol):
    """Holds what answers now; `serving.model_loading.model_slot.ModelHolder` is one."""

    @property
    def current(self) -> Loaded | None:
        """What answers now."""

    @property
    def previous(self) -> Loaded | None:
        """What a rollback returns to."""


class Values(Protocol):
    """Values rows by one of several models; `serving.experiments.canary.Canary` is one."""

    async def value(self, exchange: Exchange, engine: Engine, rows: Rows, place: str) -> Answer:
        """Value encoded rows of one request."""


@dataclass
class Service:
    """What all routes share.

    Attributes:
        holder: Holds the model.
        appraiser: Values rows.
        metrics: Counts.
        limits: What a request may ask for.
        draining: Whether the service is about to stop and wants no new requests.
        canary: Decides who values, while there is an experiment.
        keeps_records: Whether a valuation could be recorded now, if it has to be.
        keep_refused: Records what was refused; never blocks.
        refused: Notes what was refused.
    """

    holder: Holder
    appraiser: Appraiser
    metrics: Metrics
    limits: LimitSettings
    draining: bool = False
    canary: Values | None = None
    keeps_records: Callable[[], bool] = lambda: True
    keep_refused: Callable[[Refusal], None] = lambda _: None
    refused: RefusedRows = field(init=False)
    _engine: Engine | None = None
    _loaded: Loaded | None = None

    def __post_init__(self) -> None:
        self.refused = RefusedRows(self.metrics, self._model, self.keep_refused)

    @property
    def ready(self) -> bool:
        """Whether requests should be sent here; what every probe says."""
        return self.holder.current is not None and not self.draining and self.keeps_records()

    def model_facts(self) -> dict[str, Any]:
        """Return which model answers, as every route about health says it."""
        loaded = self.holder.current
        return {
            "model_loaded": loaded is not None,
            "model_version": None if loaded is None else loaded.bundle.version,
            "release": None if loaded is None else loaded.bundle.manifest.release or None,
            "source": None if loaded is None else loaded.source,
        }

    def _model(self) -> tuple[str, Collection[str]] | None:
        loaded = self.holder.current
        if loaded is None:
            return None
        return loaded.bundle.version, loaded.bundle.contract.feature_names

    def engine(self, version: str | None = None) -> Engine:
        """Return what values rows now.

        Args:
            version: The version that is wanted; None takes the one that answers.

        Raises:
            Problem: 503 while no model is loaded, 404 for another version.
        """
        loaded = self.holder.current
        if loaded is not self._loaded or self._engine is None:
            if loaded is None:
                raise not_ready()
            self._engine, self._loaded = Engine(loaded.bundle, loaded.source), loaded
        engine = self._engine
        if version is not None and version not in (engine.version, "latest"):
            raise unknown_version(version, engine.version)
        return engine

    async def value(
        self, exchange: Exchange, engine: Engine, rows: Rows, place: str = "instances"
    ) -> Answer:
        """Value encoded rows of one request; the answer names the engine that did."""
        if self.canary is not None:
            return await self.canary.value(exchange, engine, rows, place)
        return await self.appraiser.value(
            engine, rows, client=exchange.client, started=exchange.started, place=place
        )


def unknown_version(version: str, current: str) -> Problem:
    """Return the answer when another version is asked for than the one that answers."""
    return Problem(
        404,
        "unknown_version",
        "this version does not answer here",
        expected=current,
        got=version[:100],
        remedy="leave the version out, or ask /api/v1/model/info",
    )
