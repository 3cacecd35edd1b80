"""Fill in the Cloud Run descriptors from the environment.

``python render.py FOLDER`` writes ``service.yaml`` (the API), ``ui.yaml``, ``mlflow.yaml``,
``watcher.yaml`` and ``job-<name>.yaml``; ``--only`` names those that are wanted, whose variables
alone must then be set. With ``--on-demand`` nothing but the API stays awake: it follows the bucket
(`tasador publish`) and not MLflow, which sleeps until it is asked; there is no watcher, whose work
the scheduled jobs of watch.yaml do. With ``--keep-traffic REVISION`` all of the API's traffic stays
with that revision, and the new one is reached under the tag ``candidate`` only.
"""

from __future__ import annotations

import argparse
import json
import os
import string
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

HERE = Path(__file__).resolve().parent
#: Job: its arguments, seconds, cores, memory.
JOBS: dict[str, tuple[list[str], int, str, str]] = {
    "train": (["run", "profile=full", "tracking.uri=${MLFLOW_URI}"], 10800, "4", "8Gi"),
    "monitor": (["monitor"], 1800, "2", "2Gi"),
    "retrain": (["retrain"], 10800, "4", "8Gi"),
    "rollback": (["rollback"], 300, "1", "1Gi"),
}
SERVICES = ("mlflow", "service", "ui", "watcher")
ALL_TO_LATEST = "    - latestRevision: true\n      percent: 100\n"


def render(
    environment: Mapping[str, str],
    keep: str | None = None,
    only: Sequence[str] = (*SERVICES, "jobs"),
    *,
    on_demand: bool = False,
) -> dict[str, str]:
    """Return the text of each file; ends with the name of a variable that is missing."""
    host = urlsplit(environment.get("MLFLOW_URI", "")).netloc
    environment = {**environment, "MLFLOW_HOST": host}
    files = {}
    for name in SERVICES:
        if name in only and not (on_demand and name == "watcher"):
            text = (HERE / f"{name}.yaml").read_text(encoding="utf-8")
            if on_demand:
                text = _asleep(text, name)
            files[f"{name}.yaml"] = _filled(_kept(text, keep, name), environment)
    return files | (_jobs(environment) if "jobs" in only else {})


def _asleep(text: str, name: str) -> str:
    if name == "mlflow":
        text = text.replace('minScale: "1"', 'minScale: "0"')
        return text.replace('cpu-throttling: "false"', 'cpu-throttling: "true"')
    followed = ("TASADOR_SOURCE__TRACKING_URI", "TASADOR_SOURCE__ALIAS")
    lines = text.splitlines(keepends=True)
    return "".join(line for line in lines if not any(one in line for one in followed))


def _kept(service: str, keep: str | None, name: str) -> str:
    if keep is not None and name == "service":
        if ALL_TO_LATEST not in service:
            sys.exit("service.yaml does not end with its traffic as expected")
        service = service.replace(
            ALL_TO_LATEST,
            f"    - revisionName: {keep}\n      percent: 100\n"
            "    - latestRevision: true\n      percent: 0\n      tag: candidate\n",
        )
    return service


def _jobs(environment: Mapping[str, str]) -> dict[str, str]:
    files = {}
    job = (HERE / "job.yaml").read_text(encoding="utf-8")
    for name, (arguments, seconds, cores, memory) in JOBS.items():
        own = {
            "JOB": name,
            "ARGUMENTS": _substituted(json.dumps(arguments), environment),
            "TIMEOUT_S": str(seconds),
            "CPU": cores,
            "MEMORY": memory,
        }
        files[f"job-{name}.yaml"] = _filled(job, {**environment, **own})
    return files


def _filled(text: str, environment: Mapping[str, str]) -> str:
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    return _substituted("\n".join(lines) + "\n", environment)


def _substituted(text: str, environment: Mapping[str, str]) -> str:
    try:
        return string.Template(text).substitute(environment)
    except KeyError as missing:
        sys.exit(f"the variable {missing} is not set")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--keep-traffic")
    parser.add_argument(
        "--only", nargs="+", choices=[*SERVICES, "jobs"], default=[*SERVICES, "jobs"]
    )
    parser.add_argument("--on-demand", action="store_true")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    made = render(os.environ, given.keep_traffic, given.only, on_demand=given.on_demand)
    for file, text in made.items():
        (given.folder / file).write_text(text, encoding="utf-8")
