"""What the model registry records about a run: plain values, without MLflow."""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tasador.core.escape import code, markdown, one_line
from tasador.metrics.regression import Estimate, label, unit_of

Scalar = str | int | float | bool | None
StepStatus = Literal["done", "cached", "failed", "interrupted"]

#: A model version's description is a VARCHAR(5000) in the registry's database.
DESCRIPTION_LIMIT = 5000
#: And so is a tag's value.
_TAG_LIMIT = 5000
_HEADLINE = ("mape", "wmape", "median_ape", "within_10", "mae", "rmse", "r2")


@dataclass(frozen=True)
class StepRun:
    """One step of a run; becomes a nested run.

    Attributes:
        name: The step's name, e.g. ``select``.
        status: How it ended.
        started: ISO 8601 in UTC; None takes the parent's.
        seconds: How long it took.
        params: Settings and choices.
        metrics: Figures; those that are not finite are left out.
        tags: Further searchable texts.
        artifacts: Files or folders to attach: cards, plots, tables.
    """

    name: str
    status: StepStatus = "done"
    started: str | None = None
    seconds: float = 0.0
    params: Mapping[str, Scalar] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    artifacts: tuple[Path, ...] = ()


@dataclass(frozen=True)
class CandidateScore:
    """A model that was tried, and how it did in cross-validation."""

    name: str
    scores: Mapping[str, float]
    chosen: bool = False


@dataclass(frozen=True)
class MlflowRun:
    """Everything that is logged about one run of the pipeline.

    Attributes:
        run_id: tasador's own run id; becomes the parent run's name.
        started: ISO 8601 in UTC.
        seconds: How long the run took.
        dataset: The contract's name.
        title: What the table holds, for people.
        origin: ``real`` or ``synthetic``.
        source: Where the table came from.
        data_hash: The table's content hash.
        content_hash: Hash that identifies the bundle's content.
        code_commit: Commit (or hash) of the code that trained the model.
        unit: The target's unit.
        test_metrics: Metric name -> value with its interval, on the held-out test set.
        other_metrics: Further figures, e.g. ``spatial_cv.rmse``.
        candidates: The models compared.
        params: Settings of the run.
        tags: Further searchable texts.
        artifacts: Files or folders attached to the parent run: report, best_params.yaml...
        steps: The steps in their order.
        notes: Markdown added to the model version's description as far as it fits.
    """

    run_id: str
    started: str
    seconds: float
    dataset: str
    title: str
    origin: Literal["real", "synthetic"]
    source: str
    data_hash: str
    content_hash: str
    code_commit: str
    unit: str | None = None
    test_metrics: Mapping[str, Estimate] = field(default_factory=dict)
    other_metrics: Mapping[str, float] = field(default_factory=dict)
    candidates: tuple[CandidateScore, ...] = ()
    params: Mapping[str, Scalar] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    artifacts: tuple[Path, ...] = ()
    steps: tuple[StepRun, ...] = ()
    notes: str = ""


@dataclass(frozen=True)
class RegisteredVersion:
    """A version in the model registry.

    Attributes:
        name: The registered model's name.
        version: The version's number, as text.
        run_id: The registry's id of the run that logged it.
        uri: ``models:/<name>/<version>``, which never moves; an alias may.
        tags: The version's tags.
    """

    name: str
    version: str
    run_id: str
    uri: str
    tags: Mapping[str, str] = field(default_factory=dict)


def milliseconds(started: str, seconds: float = 0.0) -> int:
    """Return the milliseconds since 1970 of an ISO 8601 time plus `seconds`."""
    return round((dt.datetime.fromisoformat(started).timestamp() + seconds) * 1000)


def accepted_names(values: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return the values sorted, under names that the registry accepts, none of them twice."""
    result: dict[str, Any] = {}
    for name in sorted(values):
        plain = re.sub(r"[^\w\-. ]", "_", name, flags=re.ASCII)[:240].strip(". ") or "_"
        key, number = plain, 2
        # two names that differ only in what is replaced: neither value may be lost
        while key in result:
            key, number = f"{plain}_{number}", number + 1
        result[key] = values[name]
    return list(result.items())


def version_tags(run: MlflowRun) -> dict[str, str]:
    """Return the tags by which a model version can be searched."""
    tags = {
        "origin": run.origin,
        "dataset": run.dataset,
        "data_hash": run.data_hash,
        "content_hash": run.content_hash,
        "code_commit": run.code_commit,
        "tasador_run": run.run_id,
    }
    tags |= {f"test.{name}": f"{one.value:.6g}" for name, one in sorted(run.test_metrics.items())}
    # whatever a caller adds, the tags that versions are found and compared by keep their values
    names = {key: str(value)[:_TAG_LIMIT] for key, value in accepted_names(run.tags)}
    return {**names, **tags}


def describe(run: MlflowRun, model_name: str, alias: str) -> str:
    """Return the Markdown description of a model version, at most `DESCRIPTION_LIMIT` long."""
    warning = (
        "> **SYNTHETIC DATA.** This model was trained on generated rows. Its figures say nothing "
        "about real values; do not use its estimates.\n\n"
        if run.origin == "synthetic"
        else ""
    )
    release = f"Release {run.tags['release']}. " if "release" in run.tags else ""
    sections = [
        f"# {markdown(run.title)}\n\n{warning}{release}Trained by tasador run {code(run.run_id)} "
        f"on {run.started}.",
        f"## Data\n\n| | |\n|---|---|\n| dataset | {markdown(run.dataset)} |\n"
        f"| origin | **{run.origin}** |\n| source | {markdown(run.source)} |\n"
        f"| content hash | `{run.data_hash}` |",
        _metrics_section(run),
        _loading_section(model_name, alias),
        f"## Lineage\n\n| | |\n|---|---|\n| code commit | `{run.code_commit}` |\n"
        f"| bundle content | `{run.content_hash}` |\n| run | `{run.run_id}` |",
        _candidates_section(run),
        run.notes.strip(),
    ]
    return _fitted([section for section in sections if section])


def _metrics_section(run: MlflowRun) -> str:
    known = [name for name in _HEADLINE if name in run.test_metrics]
    if not known:
        return ""
    lines = ["## Test metrics (95% bootstrap intervals)", "", "| metric | value | interval |"]
    lines.append("|---|---:|---:|")
    for name in known:
        one = run.test_metrics[name]
        unit = f" {markdown(unit_of(name, run.unit))}"
        interval = f"{_figure(one.low)} – {_figure(one.high)}"
        lines.append(f"| {label(name)} | {_figure(one.value)}{unit.rstrip()} | {interval} |")
    return "\n".join(lines)


def _candidates_section(run: MlflowRun) -> str:
    if not run.candidates:
        return ""
    metrics = sorted({metric for one in run.candidates for metric in one.scores})
    lines = [
        "## Candidates (cross-validation on train)",
        "",
        "| model | " + " | ".join(label(metric) for metric in metrics) + " |",
        "|---|" + "---:|" * len(metrics),
    ]
    for one in run.candidates:
        name = f"**{markdown(one.name)}** (chosen)" if one.chosen else markdown(one.name)
        cells = [_figure(one.scores.get(metric, math.nan)) for metric in metrics]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _loading_section(model_name: str, alias: str) -> str:
    return (
        "## How to load\n\n```python\nimport mlflow\n\n"
        f'model = mlflow.pyfunc.load_model("models:/{one_line(model_name)}@{one_line(alias)}")\n'
        "model.predict(dataframe)\n```\n\nThe bundle inside holds JSON, numpy arrays and ONNX; "
        "no pickle. Every file's SHA-256 is checked before it is read."
    )


def _figure(value: float) -> str:
    if not math.isfinite(value):
        return "–"
    return f"{value:,.0f}".replace(",", " ") if abs(value) >= 1000 else f"{value:.4g}"


def _fitted(sections: list[str]) -> str:
    """Join whole sections while they fit; say so when one does not."""
    more = "\n\n_Shortened: the model card among the run's artifacts is complete._"
    text = sections[0]
    # whole sections: half a table would not be shown as one
    for section in sections[1:]:
        if len(text) + 2 + len(section) + len(more) > DESCRIPTION_LIMIT:
            return text[: DESCRIPTION_LIMIT - len(more)] + more
        text += "\n\n" + section
    return text[:DESCRIPTION_LIMIT]
