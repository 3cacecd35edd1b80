"""Windows of what the service recorded."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import orjson

from tasador.core.errors import ValidationError
from tasador.data.encode import Encoder
from tasador.monitoring.verdict import Finding
from tasador.monitoring.windows import Window
from tasador.records.store import RecordBatch, RecordStore
from tasador.registry.bundle import ModelBundle


def recorded_windows(
    store: RecordStore,
    bundle: ModelBundle,
    since: float,
    until: float,
    *,
    variant: str | None = None,
    batch: int = 10_000,
) -> Iterator[Window]:
    """Give the valuations of ``since <= time < until`` in batches, oldest first.

    Rows that another model answered are left out. The others are encoded by the contract of
    `bundle`; those that an older contract let in and this one cannot read are counted as a problem
    and left out.

    Args:
        store: Where they were recorded.
        bundle: What they are judged against.
        since: Seconds since the epoch.
        until: Seconds since the epoch.
        variant: ``champion`` for what was answered; None for all.
        batch: Rows at a time.
    """
    versions: dict[str, int] = {}
    for found in store.read(since, until, variant=variant, batch=batch):
        own = found.of_model(bundle.manifest.name)
        if len(own):
            yield _window(own, bundle, versions)


def _window(found: RecordBatch, bundle: ModelBundle, versions: dict[str, int]) -> Window:
    codes, kept = _encoded(found.features, bundle.encoder)
    for version in found.version:
        versions.setdefault(version, len(versions))
    places = np.array([versions[version] for version in found.version], dtype=np.int64)
    problems = []
    lost = len(found) - len(kept)
    if lost:
        text = f"{lost} recorded rows do not fit the contract of {bundle.version}: left out"
        problems.append(Finding("input", "rows", "warn", text, {"rows": lost}))
    p = len(bundle.contract.feature_names)
    return Window.of(
        bundle.contract.feature_names,
        np.array(codes, dtype=np.float64).reshape(len(codes), p),
        prediction=found.prediction[kept],
        lower=found.lower[kept],
        upper=found.upper[kept],
        actual=found.actual[kept],
        latency_ms=found.latency_ms[kept],
        time=found.time[kept],
        version=places[kept],
        versions=tuple(versions),
        problems=tuple(problems),
    )


def _encoded(features: list[bytes], encoder: Encoder) -> tuple[list[list[float]], list[int]]:
    codes, kept = [], []
    for i, text in enumerate(features):
        try:
            codes.append(encoder.codes(orjson.loads(text)))
        except (ValidationError, orjson.JSONDecodeError, TypeError):
            continue
        kept.append(i)
    return codes, kept
