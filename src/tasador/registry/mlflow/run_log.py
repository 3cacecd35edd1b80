"""What is logged about a run: its result, parameters, data and files, and nested runs.

A step is a nested run, and what was tried in it are runs nested in that one, so that MLflow
compares them. MLflow is imported here only when a function is called.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from tasador.contract.model import TableContract
from tasador.registry.mlflow.registration import (
    TAG_LIMIT,
    WORKFLOW,
    MlflowRun,
    Scalar,
    StepRun,
    accepted_names,
    describe_run,
    milliseconds,
)

_BATCH = 100
_STATUS = {"failed": "FAILED", "interrupted": "KILLED"}
#: A nested run costs up to 40 ms over REST: a grid of thousands would take longer than its fits.
_MOST_CHILDREN = 200
#: Their ids are in an address, which is in a description of limited length.
_MOST_COMPARED = 45
#: A run's name is a VARCHAR(250) in the registry's database.
_MOST_LETTERS = 250
_REPORT = "report.html"
_TYPES = {"number": "double", "integer": "long", "datetime": "datetime"}


def start_run(
    client: Any, experiment_id: str, name: str, started: str, tags: dict[str, str]
) -> str:
    """Start a run and return MLflow's id of it."""
    run = client.create_run(
        experiment_id,
        start_time=milliseconds(started),
        run_name=name[:_MOST_LETTERS],
        tags={"mlflow.source.name": "tasador", "mlflow.source.type": "JOB", **tags},
    )
    return str(run.info.run_id)


def log_run(
    client: Any, experiment_id: str, parent: str, run: MlflowRun, contract: TableContract
) -> None:
    """Log what belongs to the run as a whole, its steps and what they tried, and its description.

    Intervals of metrics are in the description and in ``metrics.json``: as metrics of their own
    they would hide the figures.
    """
    metrics = {f"test.{name}": one.value for name, one in run.test_metrics.items()}
    _log(client, parent, run.started, run.params, {**run.other_metrics, **metrics})
    _attach(client, parent, run.artifacts)
    _log_datasets(client, parent, run, contract)
    page = f"#/experiments/{experiment_id}/runs/{parent}/artifacts/{_REPORT}?{WORKFLOW}"
    links = [("Run report", page) for path in run.artifacts if path.name == _REPORT]
    for step in run.steps:
        compared = _log_step(client, experiment_id, parent, step, run.started)
        if len(compared) > 1:
            kind = step.children[0].tags.get("kind", "run")
            text = f"Compare {len(compared)} {kind}s in parallel coordinates"
            whole = [one.status for one in compared.values()].count("done")
            if whole < len(compared):
                text += f" ({whole} on all folds, the others on fewer)"
            links.append((text, _comparison(experiment_id, list(compared))))
    client.set_tag(parent, "mlflow.note.content", describe_run(run, links))


def _comparison(experiment_id: str, runs: list[str]) -> str:
    asked = {"runs": json.dumps(runs, separators=(",", ":")), "experiments": f'["{experiment_id}"]'}
    return f"#/compare-runs?{urlencode(asked)}&{WORKFLOW}"


def _log_step(
    client: Any, experiment_id: str, parent: str, step: StepRun, before: str
) -> dict[str, StepRun]:
    """Log one step as a nested run that ends as the step did.

    Returns:
        The first runs nested in it that have metrics, by MLflow's id: to be compared.
    """
    started = step.started or before
    compared: dict[str, StepRun] = {}
    tags = {"mlflow.parentRunId": parent, "kind": "step", "status": step.status, **step.tags}
    with _nested(client, experiment_id, step, started, tags) as child:
        _log(client, child, started, step.params, step.metrics)
        _attach(client, child, step.artifacts)
        for one in step.children[:_MOST_CHILDREN]:
            tags = {"mlflow.parentRunId": child, "status": one.status, **one.tags}
            with _nested(client, experiment_id, one, started, tags) as tried:
                _log(client, tried, started, one.params, one.metrics)
            if one.metrics and len(compared) < _MOST_COMPARED:
                compared[tried] = one
    return compared


@contextmanager
def _nested(
    client: Any, experiment_id: str, step: StepRun, started: str, tags: dict[str, str]
) -> Iterator[str]:
    """Start a run that ends, however the body does."""
    short = {name: str(value)[:TAG_LIMIT] for name, value in accepted_names(tags)}
    child = start_run(client, experiment_id, step.name, started, short)
    status = "FAILED"
    try:
        yield child
        status = _STATUS.get(step.status, "FINISHED")
    finally:
        with suppress(Exception):
            client.set_terminated(child, status, milliseconds(started, step.seconds))


def _log_datasets(client: Any, parent: str, run: MlflowRun, contract: TableContract) -> None:
    """Name the rows that the model was trained and tested on, with the columns they have."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    columns = [
        {
            "type": _TYPES.get(column.kind, "string"),
            "name": column.name,
            "required": not column.nullable,
        }
        for column in contract.fields
    ]
    columns.append({"type": "double", "name": contract.target.name, "required": True})
    kind = "http" if run.source.startswith(("http://", "https://")) else "local"
    inputs = [
        DatasetInput(
            Dataset(
                # MLflow knows a dataset by name and digest: two parts of a table need two names
                name=f"{run.dataset}_{context}",
                digest=run.data_hash[:12],
                source_type=kind,
                source=json.dumps({"url" if kind == "http" else "uri": run.source}),
                schema=json.dumps({"mlflow_colspec": columns}),
                profile=json.dumps({"num_rows": rows, "num_elements": rows * len(columns)}),
            ),
            [InputTag("mlflow.data.context", context)],
        )
        for context, rows in run.rows.items()
    ]
    if inputs:
        client.log_inputs(parent, inputs)


def _log(
    client: Any,
    run_id: str,
    started: str,
    params: Mapping[str, Scalar],
    metrics: Mapping[str, float],
) -> None:
    from mlflow.entities import Metric, Param

    when = milliseconds(started)
    entries: list[tuple[str, Any]] = [
        *(("params", Param(key, str(value)[:6000])) for key, value in accepted_names(params)),
        *(
            ("metrics", Metric(key, float(value), when, 0))
            for key, value in accepted_names(metrics)
            if math.isfinite(value)
        ),
    ]
    for first in range(0, len(entries), _BATCH):
        batch: dict[str, list[Any]] = {}
        for kind, entry in entries[first : first + _BATCH]:
            batch.setdefault(kind, []).append(entry)
        client.log_batch(run_id, **batch)


def _attach(client: Any, run_id: str, artifacts: tuple[Path, ...]) -> None:
    for path in artifacts:
        if path.is_dir():
            client.log_artifacts(run_id, str(path), path.name)
        else:
            client.log_artifact(run_id, str(path))
