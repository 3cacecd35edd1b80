"""The models of requests and answers, made from the bundle that answers.

The models of rows and answers are made from a bundle's contract, the rest is written out. They
document (units, bounds, examples) and are what generated clients are made from. Rows are read by
`request_parsing`, which a property test keeps equal to these models.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, create_model

from tasador.contract.formats import PLAIN
from tasador.contract.model import Column, TableContract
from tasador.contract.row_check import expectation
from tasador.serving.errors import MEDIA_TYPE, PAGE, PROBLEMS

REFERENCE = "#/components/schemas/{model}"
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


class ProblemDetails(BaseModel):
    """The body of every answer that refuses a request, as RFC 9457 has it."""

    type: str = Field(
        description="Address of what is said about this kind of problem",
        examples=[f"{PAGE}#invalid_rows"],
    )
    title: str = Field(description="What all problems of this type have in common")
    status: int
    detail: str = Field(description="What happened, for people")
    instance: str = Field(description="Names this one problem: holds the request id")
    error: str = Field(description="The last part of `type`", examples=["invalid_rows"])
    request_id: str
    expected: str | None = Field(None, description="What would have been right")
    got: str | None = Field(None, description="What came instead")
    remedy: str | None = Field(None, description="What to do about it")
    errors: list[Fault] = Field(description="What is wrong at which place of the request")


class ExplainRequest(BaseModel):
    """Rows to explain; their columns are the contract's."""

    instances: list[Any] = Field(min_length=1, description="Few: an explanation takes milliseconds")
    comparables: int = Field(5, ge=0, le=64, strict=True, description="How many to name")
    radius_km: float | None = Field(None, ge=0, description="Only comparables within this distance")
    since: dt.date | None = Field(None, description="Only comparables sold since this day")
    same: list[str] = Field(
        [], max_length=64, description="Only comparables with the row's values in these columns"
    )


class AppraiseRequest(ExplainRequest):
    """The row to write a report of; its columns are the contract's."""

    instances: list[Any] = Field(min_length=1, max_length=1)
    comparables: int = Field(5, ge=0, le=5, strict=True, description="How many to name")


class Interval(BaseModel):
    """The interval around an estimate, in the target's unit."""

    lower: float
    upper: float
    coverage: float = Field(gt=0, lt=1, description="Share of truths that such intervals hold")


class Support(BaseModel):
    """The comparables of an estimate, and what is outside the training range."""

    nearest_km: float | None = Field(None, description="Kilometres to the nearest comparable")
    nearest: float | None = Field(
        None, description="The same in the comparables' scaled space, where that is no place"
    )
    within_reach: int = Field(ge=0, le=64, description="64 means 64 or more")
    outside: list[str] = Field(
        description="Columns outside the training range, alone or beside the row's other values"
    )


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


class Adjustment(BaseModel):
    """What one difference between a comparable and the row comes to, in the target's unit."""

    name: str
    amount: float


class NearRow(BaseModel):
    """A training row near the one that was valued."""

    distance: float
    value: float = Field(description="Its recorded target, brought to the date of the valuation")
    attributes: dict[str, float | str | None]
    n: int = Field(description="Its number, from 1")
    id: str | None = Field(description="Its identifier, where the contract names one")
    label: str | None = Field(description="What people call it, where the contract names columns")
    date: str | None = Field(description="Day of its sale")
    price: float = Field(description="Its recorded target as it was")
    distance_km: float | None = Field(description="Great-circle distance")
    age_months: float | None
    similarity: float | None = Field(description="From 0 to 100, Gower's coefficient")
    why: str = Field(description="Why it was chosen")
    adjustments: list[Adjustment] = Field(description="They add up to adjusted_price less price")
    adjusted_price: float | None
    weight: float | None = Field(description="Its part of the reconciled value")
    own_earlier_sale: bool


class Reconciled(BaseModel):
    """What the comparables come to together."""

    value: float = Field(description="Mean of the adjusted prices by their weights")
    spread_raw: float = Field(description="Standard deviation of the prices over their mean")
    spread_adjusted: float = Field(description="The same of the adjusted prices")


class Group(BaseModel):
    """Features that mean the same thing, and their part in money."""

    name: str
    label: str
    columns: list[str]
    amount: float


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


def valuation_model(contract: TableContract, *, withheld: bool = False) -> type[BaseModel]:
    """Return the model of one estimate; `withheld` tells whether rows may get none."""
    target = contract.target
    grade: Any = Literal["H", "M", "L"]
    value: Any = float | None if withheld else float
    interval: Any = Interval | None if withheld else Interval
    estimate = Field(
        description=target.description or f"Estimate of {target.name}",
        json_schema_extra={"unit": target.unit} if target.unit else None,
    )
    made: type[BaseModel] = create_model(
        "Valuation",
        __doc__="One estimate.",
        **{target.prediction_name: (value, estimate)},  # type: ignore[call-overload]
        interval=(interval, ...),
        warnings=(
            list[str],
            Field(
                description="Imputed fields, values outside the training range, unknown levels of "
                "open categories, comparables that are far away"
            ),
        ),
        prediction_id=(str, Field(description="Names this valuation in /api/v1/outcomes")),
        fsd=(
            float | None,
            Field(
                description="Forecast standard deviation of the relative error, which 68% of "
                "errors do not exceed; null from models that were registered without"
            ),
        ),
        confidence=(float | None, Field(ge=0, le=100, description="100 (1 - fsd)")),
        confidence_class=(grade | None, Field(description="By the confidence, H is the best")),
        support=(Support | None, Field(description="What the estimate rests on")),
        no_value=(
            str | None,
            Field(description="Why there is no value: serve.max_fsd or serve.min_support"),
        ),
    )
    return made


def request_models(
    contract: TableContract, profile: Mapping[str, Any], batch: int, *, withheld: bool = False
) -> list[Any]:
    """Return the models of requests and answers about rows of `contract`.

    Args:
        contract: The table's contract.
        profile: Of its training rows.
        batch: Most rows of a request.
        withheld: Whether rows may get no value: without limits no client meets null in its place.
    """
    # made at run time from the contract: names that a type checker cannot follow
    row: Any = row_model(contract, profile)
    valuation: Any = valuation_model(contract, withheld=withheld)
    rows = Annotated[list[row], Field(min_length=1, max_length=batch)]
    one = Annotated[list[row], Field(min_length=1, max_length=1)]
    scale: Any = Literal["log", "none"]
    explanation: Any = create_model(
        "Explanation",
        __doc__="Why a row is worth what it is.",
        valuation=(valuation, ...),
        scale=(scale, Field(description="log: exp of a part is a factor; none: parts add up")),
        expected=(float, Field(description="The model's mean score, on that scale")),
        contributions=(list[Contribution], Field(description="Largest first")),
        comparables=(list[NearRow], Field(description="Most similar first")),
        base=(float, Field(description="The typical value; with the groups' amounts the estimate")),
        groups=(list[Group], Field(description="Largest first, in the target's unit")),
        reconciled=(Reconciled | None, Field(description="null without adjusted prices")),
    )
    return [
        create_model("PredictRequest", instances=(rows, ...)),
        create_model("PredictAnswer", predictions=(list[valuation], ...), model_version=(str, ...)),
        create_model("ExplainRequest", __base__=ExplainRequest, instances=(rows, ...)),
        create_model("AppraiseRequest", __base__=AppraiseRequest, instances=(one, ...)),
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


def body_of(model: str) -> dict[str, Any]:
    """Return what FastAPI adds to a route whose body it does not read."""
    return {
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": REFERENCE.format(model=model)}}},
        }
    }


def answers(model: str | None, *words: str) -> dict[int | str, dict[str, Any]]:
    """Return the documented answers of a route: a model for 200, and the problems of its own.

    `documentation` adds the problems that many routes have, and examples.

    Args:
        model: Name of the answer's model; None where the route says what 200 is.
        words: Kinds of problems, see `errors.PROBLEMS`.
    """
    found: dict[int | str, dict[str, Any]] = {}
    if model is not None:
        reference = {"$ref": REFERENCE.format(model=model)}
        found[200] = {
            "description": "Done",
            "content": {"application/json": {"schema": reference}},
        }
    for word in words:
        content: dict[str, Any] = {MEDIA_TYPE: {"examples": {}}}
        answer = found.setdefault(PROBLEMS[word].status, {"description": "", "content": content})
        answer["content"][MEDIA_TYPE]["examples"][word] = {}
    return found
