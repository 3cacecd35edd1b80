"""What the model registry records of a run and its model: plain values, without MLflow.

A model's metadata is written once: the run's files, the registry's tags and the card show it.
Everything is read from the bundle's manifest, so that the three cannot differ.

Releases: the version of a model that people say, ``1.2.0``, beside its number and its hash.

A release is given once, when a model is registered, by what changed since the version before it:

- *major*: what a caller must send or gets back (`TableContract.schema_fingerprint`);
- *minor*: the rows, or the features made of them;
- *patch*: neither; the model was trained again with other settings, code or libraries.

The first version of a model is 1.0.0. The same content keeps its release wherever it is registered
again, unless another content has it there.
"""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import orjson

from tasador.contract.reader import from_dict
from tasador.core.escape import code, json_text, markdown, one_line, visible
from tasador.core.hashing import fingerprint
from tasador.core.storage import write_bytes
from tasador.metrics.regression import Estimate, label, unit_of
from tasador.registry.manifest import MANIFEST_NAME, Manifest
from tasador.registry.versions import RELEASE_TAG, ModelVersion

Scalar = str | int | float | bool | None
StepStatus = Literal["done", "cached", "failed", "interrupted"]

#: A model version's description is a VARCHAR(5000) in the registry's database.
DESCRIPTION_LIMIT = 5000
#: And so is a tag's value.
TAG_LIMIT = 5000
_HEADLINE = ("mape", "wmape", "median_ape", "within_10", "mae", "rmse", "r2")
#: Without it MLflow shows its pages about language models around a run.
WORKFLOW = "workflowType=machine_learning"
FIRST = "1.0.0"
CONTRACT_TAG, FEATURES_TAG, DATA_TAG = "contract_hash", "features_hash", "data_hash"


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
        children: What was tried in the step, nested in it, the best first: candidates, trials.
    """

    name: str
    status: StepStatus = "done"
    started: str | None = None
    seconds: float = 0.0
    params: Mapping[str, Scalar] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    artifacts: tuple[Path, ...] = ()
    children: tuple[StepRun, ...] = ()


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
        run_id: tasador's own run id.
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
        chosen: The family of the model, for people.
        rows: How many rows were trained and tested on, by context: ``training``, ``test``.
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
    chosen: str = ""
    rows: Mapping[str, int] = field(default_factory=dict)
    notes: str = ""

    def name(self, model_name: str) -> str:
        """Return the parent run's name: the model, when it was trained, what was chosen."""
        day = dt.datetime.fromisoformat(self.started).strftime("%Y-%m-%d %H:%M")
        return f"{model_name} {day} {self.chosen}".rstrip()


@dataclass(frozen=True)
class RegisteredVersion:
    """A version in the model registry.

    Attributes:
        name: The registered model's name.
        version: The version's number, as text.
        run_id: The registry's id of the run that logged it.
        uri: ``models:/<name>/<version>``, which never moves; an alias may.
        tags: The version's tags.
        experiment_id: The registry's id of that run's experiment, where it was registered here.
    """

    name: str
    version: str
    run_id: str
    uri: str
    tags: Mapping[str, str] = field(default_factory=dict)
    experiment_id: str = field(default="", compare=False)


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


def run_tags(run: MlflowRun) -> dict[str, str]:
    """Return the tags by which a run can be searched: those that are no figures."""
    return {
        "origin": run.origin,
        "dataset": run.dataset,
        "data_hash": run.data_hash,
        "content_hash": run.content_hash,
        "code_commit": run.code_commit,
        "tasador_run": run.run_id,
    }


def version_tags(run: MlflowRun) -> dict[str, str]:
    """Return the tags by which a model version, which has no metrics, can be searched."""
    tags = run_tags(run)
    tags |= {f"test.{name}": f"{one.value:.6g}" for name, one in sorted(run.test_metrics.items())}
    # whatever a caller adds, the tags that versions are found and compared by keep their values
    names = {key: str(value)[:TAG_LIMIT] for key, value in accepted_names(run.tags)}
    return {**names, **tags}


def describe(run: MlflowRun, model_name: str, alias: str) -> str:
    """Return the Markdown description of a model version, at most `DESCRIPTION_LIMIT` long."""
    sections = [
        f"# {markdown(run.title)}\n\n{_warning(run)}{_origin(run)}",
        _result(run),
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


def describe_run(run: MlflowRun, links: Sequence[tuple[str, str]]) -> str:
    """Return the Markdown description of a run, its result first, at most `DESCRIPTION_LIMIT` long.

    Args:
        run: What was logged.
        links: Text and address of pages of the registry's web app.
    """
    found = " · ".join(f"[{markdown(text)}]({address})" for text, address in links)
    sections = [
        _warning(run) + _result(run),
        found,
        f"{markdown(run.title)}. {_origin(run)}",
        _metrics_section(run),
        _candidates_section(run),
    ]
    return _fitted([section for section in sections if section])


def _warning(run: MlflowRun) -> str:
    if run.origin != "synthetic":
        return ""
    return (
        "> **SYNTHETIC DATA.** This model was trained on generated rows. Its figures say nothing "
        "about real values; do not use its estimates.\n\n"
    )


def _origin(run: MlflowRun) -> str:
    release = f"Release {run.tags['release']}. " if "release" in run.tags else ""
    return f"{release}Trained by tasador run {code(run.run_id)} on {run.started}."


def _result(run: MlflowRun) -> str:
    """Return how good the model is, in a sentence; nothing where it was not measured."""
    half, near = (run.test_metrics.get(name) for name in ("median_ape", "within_10"))
    if half is None:
        return ""
    tested = run.rows.get("test")
    rows = f"{tested:,} held-out rows" if tested else "the held-out test set"
    model = f"{run.chosen}: half" if run.chosen else "Half"
    share = f"; {near.value:.0f}% are within 10%" if near else ""
    known = math.isfinite(half.low) and math.isfinite(half.high)
    interval = f" (95% interval {half.low:.1f} to {half.high:.1f}%)" if known else ""
    return (
        f"**{model} of the estimates are within {half.value:.1f}% of the recorded value**"
        f"{interval}{share}, on {rows}."
    )


def page_links(
    tracking_uri: str, name: str, number: str, run: tuple[str, str] | None = None
) -> tuple[str, ...]:
    """Return the pages of a version and of its run in MLflow's web app.

    None where the registry is no server: an embedded one has no address.

    Args:
        tracking_uri: The registry.
        name: The registered model.
        number: The version's.
        run: MLflow's ids of the experiment and of the run; None where they are not known.
    """
    if not tracking_uri.startswith(("http://", "https://")):
        return ()
    server = re.sub(r"://[^/@]+@", "://", tracking_uri).rstrip("/")
    pages = [f"experiments/{run[0]}/runs/{run[1]}"] if run else []
    pages.append(f"models/{quote(name, safe='')}/versions/{number}")
    return tuple(f"{server}/#/{page}?{WORKFLOW}" for page in pages)


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


def identity_tags(manifest: Manifest) -> dict[str, str]:
    """Return the hashes by which a later version is compared with this one."""
    settings = manifest.lineage.get("config") or {}
    made = [manifest.features.get("names"), settings.get("features"), settings.get("impute")]
    return {
        CONTRACT_TAG: from_dict(dict(manifest.contract)).schema_fingerprint,
        FEATURES_TAG: fingerprint(made),
        DATA_TAG: str(manifest.lineage.get("data_hash") or ""),
    }


def next_release(manifest: Manifest, earlier: Sequence[ModelVersion]) -> str:
    """Return the release under which a bundle is registered.

    Args:
        manifest: The bundle's.
        earlier: The versions of this model that are registered, the newest first.
    """
    for version in earlier:
        if version.release and version.tags.get("content_hash") == manifest.content_hash:
            return version.release
    taken = {version.release for version in earlier}
    # registered elsewhere before: it keeps the name that people know, unless that is taken here
    if manifest.release and manifest.release not in taken:
        return manifest.release
    if not earlier:
        return FIRST
    major, minor, patch = max(_numbers(version) for version in earlier)
    before, now = earlier[0].tags, identity_tags(manifest)
    # versions registered before there were releases have no such tags and count as equal
    changed = {tag for tag, value in now.items() if before.get(tag, value) != value}
    if CONTRACT_TAG in changed:
        return f"{major + 1}.0.0"
    if changed:
        return f"{major}.{minor + 1}.0"
    return f"{major}.{minor}.{patch + 1}"


def stamp_release(folder: Path, release: str) -> Manifest:
    """Write the release into a bundle's manifest; its content, and so its hash, stays the same.

    Raises:
        BundleError: The manifest is damaged.
        StorageError: The disk refuses.
    """
    path = folder / MANIFEST_NAME
    manifest = Manifest.from_json(path.read_bytes())
    if manifest.release == release:
        return manifest
    stamped = replace(manifest, release=release)
    # beside the folder: whoever reads the bundle now must not find a file that is not listed
    draft = folder.with_name(f".{folder.name}.{MANIFEST_NAME}")
    write_bytes(draft, stamped.to_json())
    draft.replace(path)
    return stamped


def _numbers(version: ModelVersion) -> tuple[int, int, int]:
    """Return a version's release as numbers; an older one without counts by its number."""
    if not version.release:
        return 1, int(version.number) - 1, 0
    major, minor, patch = (int(part) for part in version.release.split("."))
    return major, minor, patch


def model_metadata(manifest: Manifest) -> dict[str, Any]:
    """Return metrics, parameters, data, split, features, code and environment as plain values.

    What an older bundle did not record is None.
    """
    lineage, metrics = manifest.lineage, manifest.metrics
    config = lineage.get("config") or {}
    split, identity = config.get("segregate") or {}, identity_tags(manifest)
    return {
        "model_name": manifest.name,
        "version": manifest.version,
        RELEASE_TAG: manifest.release or None,
        "trained": manifest.created,
        "origin": manifest.origin,
        "family": lineage.get("family"),
        "params": lineage.get("params"),
        "members": len(lineage.get("members") or [None]),
        "seed": lineage.get("seed"),
        "target": manifest.contract["target"]["name"],
        "target_unit": manifest.contract["target"].get("unit"),
        "target_transform": manifest.contract["target"].get("transform", "none"),
        "dataset": manifest.contract["name"],
        "source": lineage.get("source"),
        "data_hash": lineage.get("data_hash"),
        "rows": lineage.get("rows"),
        "split": {name: split.get(name) for name in ("method", "test_share", "seed")},
        "folds": (config.get("selection") or {}).get("folds"),
        "columns": list(manifest.contract["columns"]),
        "features": list(manifest.features.get("names") or []),
        CONTRACT_TAG: identity[CONTRACT_TAG],
        FEATURES_TAG: identity[FEATURES_TAG],
        "content_hash": manifest.content_hash,
        "code_commit": lineage.get("code_commit"),
        "code_version": lineage.get("code_version"),
        "environment": lineage.get("libraries"),
        "metrics": {
            "cross_validation": metrics.get("random_cv"),
            "cross_validation_forward_in_time": metrics.get("time_cv"),
            "spatial_cross_validation": metrics.get("spatial_cv"),
            "test": metrics.get("test"),
            "test_intervals": metrics.get("test_intervals"),
            "interval": metrics.get("interval"),
            "by_segment": {
                str(one["name"]): {key: value for key, value in one.items() if key != "name"}
                for one in metrics.get("segments") or ()
            },
        },
    }


def as_texts(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Return the metadata as texts by dotted name, e.g. ``test.mape``.

    Lists are JSON, figures have six digits, what is None is left out.
    """
    plain = {key: value for key, value in metadata.items() if key != "metrics"}
    return dict(_flat({**plain, **(metadata.get("metrics") or {})}, ""))


def _flat(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}.")
        elif isinstance(value, list):
            yield name, json_text(orjson.dumps(value).decode())
        elif isinstance(value, float) and math.isfinite(value):
            yield name, f"{value:.6g}"
        elif value is not None:
            yield name, visible(str(value))
