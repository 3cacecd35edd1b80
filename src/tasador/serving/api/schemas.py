"""The API's models: those of rows and answers made from a bundle's contract, the rest written out.

They document (OpenAPI with units, bounds and examples) and are what generated clients are made
from. Requests are read by `request_parsing`, which a property test keeps equal to these models.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, create_model

from tasador.contract.formats import PLAIN
from tasador.contract.model import Column, TableContract
from tasador.contract.row_check import expectation

_SHOWN_CATEGORIES = 1000
_RELEASE = "The model's version for people, e.g. 1.2.0; null when it was never registered"


class Fault(BaseModel):
    """What is wrong at one place of a request."""

    loc: list[str | int] = Field(examples=[["instances", 0, "median_income"]])
    msg: str
    type: str
    expected: str
    got: str
    remedy: str


class Refusal(BaseModel):
    """The body of every answer that refuses a request."""

    error: str = Field(description="A stable word for programs", examples=["invalid_rows"])
    message: str = Field(description="What happened, for people")
    request_id: str
    detail: list[Fault]


class Interval(BaseModel):
    """The interval around an estimate, in the target's unit."""

    lower: float
    upper: float
    coverage: float = Field(gt=0, lt=1, description="Share of truths that such intervals hold")


class Outcome(BaseModel):
    """What a valued row turned out to be worth."""

    prediction_id: str = Field(min_length=1, max_length=64)
    actual: float = Field(description="The real value, in the target's unit")
    time: float | None = Field(
        None,
        description="When it became known, seconds since 1970 UTC, after the prediction; "
        "by default now",
    )
    replace: bool = Field(
        False, description="Correct the known outcome if it has another value; it is audited"
    )


class OutcomesRequest(BaseModel):
    """Outcomes to record."""

    outcomes: list[Outcome] = Field(min_length=1)


class OutcomeResult(BaseModel):
    """The result of one outcome."""

    prediction_id: str
    status: Literal["accepted", "repeated", "replaced", "conflict", "unknown", "invalid"] = Field(
        description="repeated: the same value is known already; replaced: another one was, and "
        "is corrected; conflict: another one is, and stays; unknown: no prediction of this client "
        "has this id; invalid: no possible value of the target, or otherwise wrong"
    )
    message: str | None = Field(None, description="What is wrong, and what to do")


class OutcomesAnswer(BaseModel):
    """The results of all outcomes, in their order."""

    accepted: int
    refused: int = Field(description="How many are invalid; the others are recorded all the same")
    results: list[OutcomeResult]


class Health(BaseModel):
    """Whether the service can answer."""

    status: Literal["healthy", "degraded", "unhealthy"]
    model_loaded: bool
    version: str = Field(description="Version of the service")
    model_version: str | None = None
    release: str | None = Field(None, description=_RELEASE)
    source: str | None = Field(None, description="Where the model came from")
    models_refused: int = Field(0, description="Offered models that were refused since the start")
    update_problem: str | None = Field(
        None, description="Why the last search for a newer model failed; null when it did not"
    )


class Live(BaseModel):
    """The process runs and its event loop turns."""

    status: Literal["alive"]


class Ready(BaseModel):
    """Whether requests should be sent here."""

    status: Literal["ready", "not_ready"]


class DependencyCheck(BaseModel):
    """One dependency's health: the model, a source of models, records, Redis, the disk..."""

    name: str
    status: Literal["healthy", "degraded", "unhealthy"]
    latency_ms: float
    detail: str
    checked_at: str


class DeepHealth(BaseModel):
    """Every configured dependency's health; the same members whatever the status is."""

    status: Literal["healthy", "degraded", "unhealthy"]
    version: str
    model_loaded: bool
    model_version: str | None
    release: str | None
    source: str | None
    checks: list[DependencyCheck]


class About(BaseModel):
    """What this is."""

    name: str
    version: str
    docs_url: str


class ModelInfo(BaseModel):
    """The model that answers."""

    model_config = ConfigDict(protected_namespaces=())

    status: str
    model_loaded: bool
    model_version: str | None
    release: str | None = Field(None, description=_RELEASE)
    source: str | None = None
    loaded_at: str | None = None
    origin: str | None = Field(None, description="real or synthetic: what it was trained on")
    kind: str | None = None
    target: str | None = None
    unit: str | None = None
    previous_version: str | None = Field(None, description="What a rollback returns to")
    contract: dict[str, Any] | None = None
    metrics: dict[str, Any] | None = None


class Contribution(BaseModel):
    """A feature's part in an estimate; see `scale`."""

    feature: str
    value: float


class NearRow(BaseModel):
    """A training row near the one that was valued."""

    distance: float
    value: float = Field(description="Its recorded target, in the target's unit")
    attributes: dict[str, float]


def row_model(contract: TableContract, profile: Mapping[str, Any] | None = None) -> type[BaseModel]:
    """Return the model of one row of `contract`.

    Args:
        contract: Names the columns, their bounds and units.
        profile: The bundle's reference profile; its medians become the example.
    """
    fields: dict[str, Any] = {}
    for column in contract.fields:
        kind = _type_of(column)
        default: Any = None if column.nullable else ...
        fields[column.name] = (kind | None if column.nullable else kind, _field(column, default))
    example = example_row(contract, profile or {})
    return create_model(
        "Row",
        __config__=ConfigDict(extra="ignore", json_schema_extra={"examples": [example]}),
        __doc__=contract.title,
        **fields,
    )


def valuation_model(contract: TableContract) -> type[BaseModel]:
    """Return the model of one estimate."""
    target = contract.target
    estimate = Field(
        description=target.description or f"Estimate of {target.name}",
        json_schema_extra={"unit": target.unit} if target.unit else None,
    )
    made: type[BaseModel] = create_model(
        "Valuation",
        __doc__="One estimate.",
        **{target.prediction_name: (float, estimate)},  # type: ignore[call-overload]
        interval=(Interval, ...),
        warnings=(
            list[str],
            Field(
                description="Imputed fields, values outside the training range, unknown levels of "
                "open categories, comparables that are far away"
            ),
        ),
        prediction_id=(str, Field(description="Names this valuation in /api/v1/outcomes")),
    )
    return made


def request_models(contract: TableContract, profile: Mapping[str, Any], batch: int) -> list[Any]:
    """Return the models of requests and answers about rows of `contract`."""
    # made at run time from the contract: names that a type checker cannot follow
    row: Any = row_model(contract, profile)
    valuation: Any = valuation_model(contract)
    rows = Annotated[list[row], Field(min_length=1, max_length=batch)]
    scale: Any = Literal["log", "none"]
    explanation: Any = create_model(
        "Explanation",
        __doc__="Why a row is worth what it is.",
        valuation=(valuation, ...),
        scale=(scale, Field(description="log: exp of a part is a factor; none: parts add up")),
        expected=(float, Field(description="The model's mean score, on that scale")),
        contributions=(list[Contribution], Field(description="Largest first")),
        comparables=(list[NearRow], Field(description="Nearest first")),
    )
    return [
        create_model("PredictRequest", instances=(rows, ...)),
        create_model("PredictAnswer", predictions=(list[valuation], ...), model_version=(str, ...)),
        create_model(
            "ExplainRequest",
            instances=(rows, Field(description="Few: an explanation takes milliseconds")),
            comparables=(int, Field(5, ge=0, le=64, description="How many to name")),
        ),
        create_model(
            "ExplainAnswer", explanations=(list[explanation], ...), model_version=(str, ...)
        ),
    ]


def example_row(contract: TableContract, profile: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row in the middle of the training rows, or of the bounds."""
    columns = profile.get("columns", {})
    example: dict[str, Any] = {}
    for column in contract.fields:
        found = columns.get(column.name, {})
        if column.kind == "text":
            example[column.name] = found.get("example", "")
            continue
        if column.kind == "category":
            counts = found.get("counts") or [1]
            # the most frequent: a generated client sends the example first
            best = max(range(len(counts)), key=counts.__getitem__)
            example[column.name] = column.categories[min(best, len(column.categories) - 1)]
            continue
        middle = found.get("median")
        if middle is None:
            middle = _middle(column)
        if column.kind == "datetime":
            example[column.name] = dt.datetime.fromtimestamp(middle, tz=dt.UTC).isoformat()
        else:
            example[column.name] = round(middle) if column.kind == "integer" else float(middle)
    return example


def _middle(column: Column) -> float:
    low, high = column.bounds
    if low is not None and high is not None:
        return (low + high) / 2
    return low if low is not None else high if high is not None else 0.0


def _type_of(column: Column) -> Any:
    if column.kind == "category":
        return str if column.open else Annotated[str, AfterValidator(_known_category(column))]
    if column.kind == "text":
        return str
    if column.kind == "datetime":  # written in another way than ISO 8601, it is text to pydantic
        return dt.datetime | str if column.format.dates else dt.datetime
    if column.format != PLAIN:
        return float | str
    return int if column.kind == "integer" else float


def _known_category(column: Column) -> Callable[[str], str]:
    known = {column.category_key(text) for text in column.categories}

    def check(value: str) -> str:
        if column.category_key(value) not in known:
            raise ValueError(f"expected {expectation(column)}")
        return value

    return check


def _field(column: Column, default: Any) -> Any:
    extra: dict[str, Any] = {}
    if column.unit:
        extra["unit"] = column.unit
    if column.role:
        extra["role"] = column.role
    description = column.description or column.name
    if column.unit:
        description += f" ({column.unit})"
    if column.kind == "category":
        # a column of many categories would make the document megabytes long
        levels = list(column.categories[:_SHOWN_CATEGORIES])
        extra["examples" if column.open else "enum"] = levels
        if column.open:
            description += "; other levels are valued with a warning"
        if not column.case_sensitive:
            description += "; upper and lower case are the same"
        return Field(default, description=description, json_schema_extra=extra)
    plain = column.kind in ("number", "integer") and column.format == PLAIN
    low, high = column.bounds if plain else (None, None)
    return Field(default, ge=low, le=high, description=description, json_schema_extra=extra or None)
