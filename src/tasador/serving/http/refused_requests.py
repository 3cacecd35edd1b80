"""What the service refuses: counted by field and cause, recorded, and named in the log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from tasador.records.refused import Refusal
from tasador.serving.errors import BadRow, Problem
from tasador.serving.http.request import Exchange
from tasador.serving.metrics import Metrics

#: A request whose rows could not even be read counts as one row.
REQUEST = "(request)"
#: Statuses that say that what was sent is wrong; others are about who sends, or about the service.
_WRONG = frozenset({400, 413, 415, 422})
_ROUTES = frozenset({"/api/v1/predict", "/api/v1/explain", "/api/v1/score", "/invocations"})
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
    keep: Callable[[Refusal], None] = lambda _: None

    def request(self, exchange: Exchange, problem: Problem) -> None:
        """Note a request that is refused, if rows were to be valued and they are what is wrong."""
        path = exchange.path
        infers = path.startswith("/v2/models/") and path.endswith("/infer")
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
        known = {*fields, REQUEST, "(row)"}
        causes: Counter[tuple[str, str]] = Counter()
        examples: dict[tuple[str, str], str] = {}
        kept: list[tuple[tuple[tuple[str, str, str], ...], bytes]] = []
        for row in bad:
            faults = row.faults or [("(row)", "unreadable", "")]
            found = tuple((f if f in known else "(other)", cause, got) for f, cause, got in faults)
            causes.update({(name, cause) for name, cause, _ in found})
            examples |= {(name, cause): got for name, cause, got in found}
            if len(kept) < _MOST_ROWS:
                kept.append((found, _as_json(row.values, fields)))
        self.metrics.refused("refused", len(bad))
        self.metrics.refused("withheld", withheld)
        for (name, cause), number in causes.items():
            self.metrics.refused_value(name, cause, number)
        self.keep(Refusal(version, route, client, len(bad), withheld, causes, examples, kept))


def _faults_of(problem: Problem) -> list[tuple[str, str, str]]:
    """Return what is wrong with a request as a whole: missing columns by name, else its error."""
    missing = [
        (str(one["loc"][-1]), "missing", str(one["got"]))
        for one in problem.detail
        if one.get("type") == "missing" and one["loc"][0] == "header"
    ]
    got = problem.got or (str(problem.detail[0].get("got", "")) if problem.detail else "")
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


def summary(problem: Problem) -> str:
    """Return a refusal in one line for the log: fields and causes, no values."""
    causes: Counter[tuple[str, str]] = Counter()
    for row in problem.bad_rows:
        causes.update({(name, cause) for name, cause, _ in row.faults})
    said = [f"{name} {cause.replace('_', ' ')}" for (name, cause), _ in causes.most_common(5)]
    return f"{problem.error}: {', '.join(said)}" if said else problem.error
