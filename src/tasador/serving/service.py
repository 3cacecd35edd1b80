"""`Service`: what all routes share; a database asked late; refused rows, counted and recorded."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import orjson

from tasador.records.database import Database
from tasador.records.errors import OutageError
from tasador.records.refused import RefusedRequest
from tasador.registry.model_bundle import ModelBundle
from tasador.serving.batcher import Answer, Batcher
from tasador.serving.errors import BadRow, Problem
from tasador.serving.http.request import Exchange
from tasador.serving.metrics import Metrics
from tasador.serving.request_parsing import Predictor, Rows
from tasador.settings.serving import LimitSettings, RecordSettings, ServeLimits

T = TypeVar("T")


class LoadedBundle(Protocol):
    """A bundle in use; `serving.model_slot.LoadedModel` is one."""

    @property
    def bundle(self) -> ModelBundle:
        """The bundle."""

    @property
    def source(self) -> str:
        """Where it came from."""

    @property
    def loaded_at(self) -> float:
        """When, in seconds since 1970 UTC."""


class Slot(Protocol):
    """Holds what answers now; `serving.model_slot.ModelSlot` is one."""

    @property
    def current(self) -> LoadedBundle | None:
        """What answers now."""

    @property
    def previous(self) -> LoadedBundle | None:
        """What a rollback returns to."""


class TrafficRouter(Protocol):
    """Values rows by one of several models; `serving.canary.Canary` is one."""

    async def value(
        self, exchange: Exchange, predictor: Predictor, rows: Rows, place: str
    ) -> Answer:
        """Value encoded rows of one request."""


@dataclass
class Service:
    """What all routes share.

    Attributes:
        slot: Holds the model.
        batcher: Values rows.
        metrics: Counts.
        limits: What a request may ask for.
        draining: Whether the service is about to stop and wants no new requests.
        canary: Decides who values, while there is an experiment.
        keeps_records: Whether a valuation could be recorded now, if it has to be.
        keep_refused: Records what was refused; never blocks.
        refused: Notes what was refused.
        no_value: When a row gets no value.
    """

    slot: Slot
    batcher: Batcher
    metrics: Metrics
    limits: LimitSettings
    draining: bool = False
    canary: TrafficRouter | None = None
    keeps_records: Callable[[], bool] = lambda: True
    keep_refused: Callable[[RefusedRequest], None] = lambda _: None
    refused: RefusedRows = field(init=False)
    no_value: ServeLimits = field(default_factory=ServeLimits)
    _predictor: Predictor | None = None
    _loaded: LoadedBundle | None = None

    def __post_init__(self) -> None:
        self.refused = RefusedRows(self.metrics, self._model, self.keep_refused)

    @property
    def ready(self) -> bool:
        """Whether requests should be sent here; what every probe says."""
        return self.slot.current is not None and not self.draining and self.keeps_records()

    def model_facts(self) -> dict[str, Any]:
        """Return which model answers, as every route about health says it."""
        loaded = self.slot.current
        return {
            "model_loaded": loaded is not None,
            "model_version": None if loaded is None else loaded.bundle.version,
            "release": None if loaded is None else loaded.bundle.manifest.release or None,
            "source": None if loaded is None else loaded.source,
        }

    def _model(self) -> tuple[str, Collection[str]] | None:
        loaded = self.slot.current
        if loaded is None:
            return None
        return loaded.bundle.version, loaded.bundle.contract.feature_names

    def predictor(self, version: str | None = None) -> Predictor:
        """Return what values rows now.

        Args:
            version: The version that is wanted; None takes the one that answers.

        Raises:
            Problem: 503 while no model is loaded, 404 for another version.
        """
        loaded = self.slot.current
        # made once a model: requests share it, and batches are told apart by its identity
        if loaded is not self._loaded or self._predictor is None:
            if loaded is None:
                raise Problem("model_not_ready")
            self._predictor, self._loaded = (
                Predictor(loaded.bundle, loaded.source, self.no_value),
                loaded,
            )
        predictor = self._predictor
        if version is not None and version not in (predictor.version, "latest"):
            raise Problem("unknown_version", expected=predictor.version, got=version[:100])
        return predictor

    async def value(
        self, exchange: Exchange, predictor: Predictor, rows: Rows, place: str = "instances"
    ) -> Answer:
        """Value encoded rows of one request; the answer names the predictor that did."""
        if self.canary is not None:
            return await self.canary.value(exchange, predictor, rows, place)
        return await self.batcher.value(
            predictor, rows, client=exchange.client, started=exchange.started, place=place
        )


class LazyDatabase:
    """A connection to the records' database, made when first used.

    Args:
        settings: Where the records are.
        off: Error message when records are switched off.
        remedy: What a client should do when the database is unreachable.
    """

    def __init__(self, settings: RecordSettings, off: str, remedy: str | None = None) -> None:
        self._settings, self._off, self._remedy = settings, off, remedy
        self._lock = threading.Lock()
        self._database: Database | None = None

    def ask(self, work: Callable[[Database], T]) -> T:
        """Return what `work` returns.

        Raises:
            Problem: 503, records are switched off or the database is unreachable.
        """
        if self._settings.mode == "off":
            raise Problem("records_off", self._off)
        try:
            return work(self.opened())
        except OutageError as error:
            raise Problem("database_away", error.message, remedy=self._remedy) from None

    def opened(self) -> Database:
        """Return the connection."""
        with self._lock:
            if self._database is None:
                self._database = Database(
                    self._settings.url, synchronous=self._settings.synchronous
                )
            return self._database

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            if self._database is not None:
                self._database.close()


#: A request whose rows could not even be read counts as one row.
REQUEST = "(request)"
#: Statuses that say that what was sent is wrong; others are about who sends, or about the service.
_WRONG = frozenset({400, 413, 415, 422})
_ROUTES = frozenset(
    {"/invocations", *(f"/api/v1/{name}" for name in ("predict", "explain", "appraise", "score"))}
)
#: Rows of one request whose values are looked at for keeping.
_MOST_ROWS = 20
_LONGEST = 16 * 1024


@dataclass
class RefusedRows:
    """Notes refused rows.

    Args:
        metrics: Counts them.
        model: Gives the version that answers now and the fields of its contract; None without one.
        keep: Records them; never blocks.
    """

    metrics: Metrics
    model: Callable[[], tuple[str, Collection[str]] | None]
    keep: Callable[[RefusedRequest], None] = lambda _: None

    def request(self, exchange: Exchange, problem: Problem) -> None:
        """Note a request that is refused, if rows were to be valued and they are what is wrong."""
        path = exchange.path
        infers = path.startswith("/v2/models/") and path.endswith("/infer")
        # a wrong key or a full queue says nothing about the data that is sent
        if problem.status not in _WRONG or not (infers or path in _ROUTES):
            return
        bad = problem.bad_rows or [BadRow(None, _faults_of(problem))]
        route = "/v2/models/{name}/infer" if infers else path
        self._note(route, exchange.client, bad, max(0, problem.asked - len(bad)))

    def rows(self, exchange: Exchange, bad: Sequence[BadRow]) -> None:
        """Note rows of a file whose other rows are valued."""
        if bad:
            self._note(exchange.path, exchange.client, bad, 0)

    def _note(self, route: str, client: str, bad: Sequence[BadRow], withheld: int) -> None:
        version, fields = self.model() or ("", ())
        # counters get no names that clients invent: their number would grow without end
        known = {*fields, REQUEST, "(row)"}
        causes: Counter[tuple[str, str]] = Counter()
        examples: dict[tuple[str, str], str] = {}
        kept: list[tuple[tuple[tuple[str, str, str], ...], bytes]] = []
        for row in bad:
            faults = row.faults or [("(row)", "unreadable", "")]
            found = tuple((f if f in known else "(other)", cause, got) for f, cause, got in faults)
            causes.update({(name, cause) for name, cause, _ in found})
            examples |= {(name, cause): got for name, cause, got in found}
            # a few show what is wrong; a batch of thousands must not be written row by row
            if len(kept) < _MOST_ROWS:
                kept.append((found, _as_json(row.values, fields)))
        self.metrics.refused("refused", len(bad))
        self.metrics.refused("withheld", withheld)
        for (name, cause), number in causes.items():
            self.metrics.refused_value(name, cause, number)
        self.keep(
            RefusedRequest(version, route, client, len(bad), withheld, causes, examples, kept)
        )


def _faults_of(problem: Problem) -> list[tuple[str, str, str]]:
    """Return what is wrong with a request as a whole: missing columns by name, else its error."""
    missing = [
        (str(one["loc"][-1]), "missing", str(one["got"]))
        for one in problem.errors
        if one.get("type") == "missing" and one["loc"][0] == "header"
    ]
    got = problem.got or (str(problem.errors[0].get("got", "")) if problem.errors else "")
    return missing or [(REQUEST, problem.error, got[:80])]


def _as_json(values: Any, fields: Collection[str]) -> bytes:
    """Return a row as it is recorded; of a long one the contract's fields, cut."""
    try:
        text = orjson.dumps(values)
        if len(text) <= _LONGEST:
            return text
    except TypeError:  # nested too deeply, half a character
        pass
    if not isinstance(values, dict):
        return b"null"
    return orjson.dumps({name: repr(values[name])[:80] for name in fields if name in values})
