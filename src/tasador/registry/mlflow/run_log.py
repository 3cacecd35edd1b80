"""What is logged about a run: parameters, figures, tags, files, and its steps as nested runs.

MLflow is imported here only when a function is called.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tasador.registry.mlflow.registration import (
    MlflowRun,
    Scalar,
    StepRun,
    accepted_names,
    milliseconds,
    version_tags,
)

_BATCH = 100
_STATUS = {"failed": "FAILED", "interrupted": "KILLED"}


def start_run(
    client: Any, experiment_id: str, name: str, started: str, tags: dict[str, str]
) -> str:
    """Start a run and return MLflow's id of it."""
    run = client.create_run(
        experiment_id,
        start_time=milliseconds(started),
        run_name=name,
        tags={"mlflow.source.name": "tasador", "mlflow.source.type": "JOB", **tags},
    )
    return str(run.info.run_id)


def log_parent(client: Any, parent: str, run: MlflowRun) -> None:
    """Log what belongs to the run as a whole."""
    metrics = dict(run.other_metrics)
    for name, one in run.test_metrics.items():
        metrics |= {f"test.{name}": one.value}
        metrics |= {f"test.{name}.low": one.low, f"test.{name}.high": one.high}
    _log(client, parent, run.started, params=run.params, metrics=metrics, tags=version_tags(run))
    _attach(client, parent, run.artifacts)


def log_step(client: Any, experiment_id: str, parent: str, step: StepRun, run: MlflowRun) -> None:
    """Log one step as a nested run that ends as the step did."""
    started = step.started or run.started
    tags = {"mlflow.parentRunId": parent, "step": step.name, "status": step.status}
    child = start_run(client, experiment_id, step.name, started, tags)
    status = "FAILED"
    try:
        _log(client, child, started, params=step.params, metrics=step.metrics, tags=step.tags)
        _attach(client, child, step.artifacts)
        status = _STATUS.get(step.status, "FINISHED")
    finally:
        with suppress(Exception):
            client.set_terminated(child, status, milliseconds(started, step.seconds))


def _log(
    client: Any,
    run_id: str,
    started: str,
    *,
    params: Mapping[str, Scalar],
    metrics: Mapping[str, float],
    tags: Mapping[str, str],
) -> None:
    from mlflow.entities import Metric, Param, RunTag

    when = milliseconds(started)
    entries: list[tuple[str, Any]] = [
        *(("params", Param(key, str(value)[:6000])) for key, value in accepted_names(params)),
        *(
            ("metrics", Metric(key, float(value), when, 0))
            for key, value in accepted_names(metrics)
            if math.isfinite(value)
        ),
        *(("tags", RunTag(key, str(value)[:5000])) for key, value in accepted_names(tags)),
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
