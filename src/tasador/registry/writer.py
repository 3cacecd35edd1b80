"""Write a bundle: what goes in, put together and proven by loading it back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import orjson
from numpy.typing import NDArray

from tasador.contract.model import TableContract
from tasador.core import clock
from tasador.core.errors import BundleError
from tasador.core.hashing import sha256_bytes, to_plain
from tasador.core.input_checks import write_arrays
from tasador.core.storage import atomic_folder
from tasador.features.pipeline import FittedFeatures
from tasador.modeling.confidence import ConfidenceModel
from tasador.modeling.conformal import ConformalInterval
from tasador.modeling.parity import TOLERANCE, Parity
from tasador.modeling.target_transform import TargetTransform
from tasador.modeling.training_rows import TrainingRows
from tasador.registry.errors import GOLDEN_ROWS
from tasador.registry.known_sales import KnownSales
from tasador.registry.manifest import (
    CARD,
    CONFIDENCE,
    CONFIDENCE_TREES,
    ERROR_MODEL,
    EXPLAIN,
    FEATURES,
    FORMAT_VERSION,
    GOLDEN,
    KNOWN_SALES,
    MANIFEST_NAME,
    MODEL,
    OUT_OF_FOLD,
    PROFILE,
    REFERENCE,
    FileEntry,
    Manifest,
    ModelEntry,
    refuse_foreign,
)
from tasador.registry.model_bundle import ModelBundle, load_bundle
from tasador.trees.onnx_model import OnnxRegressor
from tasador.trees.tree_shap import Contributions

Floats = NDArray[np.float64]


class UnprovenModelError(BundleError):
    """An exported model that was not shown to answer as the training library does."""

    @classmethod
    def of(cls, parity: Parity | None) -> UnprovenModelError:
        """Return the error of a check that failed, or of none."""
        return cls(
            "the bundle is not written: the exported model is not proven equal",
            expected=f"parity with the training library up to {TOLERANCE:g}",
            got="no parity check" if parity is None else f"{parity.max_relative:.3g}",
            remedy="run modeling.parity.check_parity on the exported model",
        )


@dataclass(frozen=True)
class BundleParts:
    """What `write_bundle` puts together.

    Attributes:
        name: The model's name: letters, digits, ``.``, ``_``, ``-``.
        origin: Whether the model was trained on real or on generated rows.
        contract: The table's contract.
        features: The fitted features.
        model: The exported model, from `onnx_export.to_onnx`.
        model_kind: What it is, e.g. ``"lightgbm"``.
        contributions: What tells each feature's part in the model's scores.
        target: The target's transform.
        interval: The calibrated interval.
        parity: Proof that the exported model answers as the library did; None is refused.
        golden: Encoded rows, shape (k, p); the first 20 are kept with their answers.
        metrics: What was measured.
        lineage: Data hash, code commit, configuration, seeds, library versions.
        profile: The reference profile, JSON values.
        card: The model card, Markdown.
        reference: What later rows are compared with,
            `monitoring.reference.Reference.state`.
        error_model: How large an error to expect where, the graph of `monitoring.error_estimation`.
        training_rows: What training rows are worth to models that did not learn from them.
        confidence: How large an error to expect of each estimate, and the graph of its trees.
        known_sales: What is kept of the comparables beside their places.
    """

    name: str
    origin: Literal["real", "synthetic"]
    contract: TableContract
    features: FittedFeatures
    model: bytes
    model_kind: str
    contributions: Contributions
    target: TargetTransform
    interval: ConformalInterval
    parity: Parity | None
    golden: Floats
    metrics: Mapping[str, Any]
    lineage: Mapping[str, Any]
    profile: Mapping[str, Any]
    card: str
    reference: Mapping[str, NDArray[Any]] | None = None
    error_model: bytes | None = None
    training_rows: TrainingRows | None = None
    confidence: tuple[ConfidenceModel, bytes] | None = None
    known_sales: KnownSales | None = None


def write_bundle(folder: Path, parts: BundleParts) -> ModelBundle:
    """Write `parts` as a bundle and load it back; `folder` appears whole or not at all.

    Args:
        folder: Where to write; an older bundle there is replaced, anything else is refused.
        parts: What goes in.

    Returns:
        The bundle, loaded from the folder.

    Raises:
        BundleError: Parity with the training library is missing or was not reached, or the parts
            do not fit together.
        StorageError: The disk refuses, or `folder` holds something that is no bundle.
    """
    # `not ... <=` refuses NaN too
    if parts.parity is None or not parts.parity.max_relative <= TOLERANCE:
        raise UnprovenModelError.of(parts.parity)
    spec, arrays = parts.features.state()
    contents = {
        FEATURES: write_arrays(arrays),
        MODEL: parts.model,
        PROFILE: orjson.dumps(to_plain(parts.profile), option=orjson.OPT_SORT_KEYS),
        CARD: parts.card.encode(),
        GOLDEN: write_arrays(_golden(parts)),
        EXPLAIN: write_arrays(parts.contributions.state()),
    }
    if parts.reference is not None:
        contents[REFERENCE] = write_arrays(parts.reference)
    if parts.error_model is not None:
        contents[ERROR_MODEL] = parts.error_model
    if parts.training_rows is not None:
        contents[OUT_OF_FOLD] = write_arrays(parts.training_rows.state())
    if parts.confidence is not None:
        model, contents[CONFIDENCE_TREES] = parts.confidence
        contents[CONFIDENCE] = write_arrays(model.state())
    if parts.known_sales is not None:
        contents[KNOWN_SALES] = write_arrays(parts.known_sales.state())
    manifest = _manifest(parts, spec, contents)
    refuse_foreign(folder)
    with atomic_folder(folder) as temporary:
        for name, content in contents.items():
            (temporary / name).write_bytes(content)
        (temporary / MANIFEST_NAME).write_bytes(manifest.to_json())
        contents.clear()  # of a million rows, hundreds of megabytes
        # before it takes its name: a bundle that cannot be loaded must not replace one that can
        bundle = load_bundle(temporary, trusted=None)
    return replace(bundle, folder=folder)


def _golden(parts: BundleParts) -> dict[str, Floats]:
    X = np.ascontiguousarray(parts.golden[:GOLDEN_ROWS], dtype=np.float64)
    if 0 < len(X) < GOLDEN_ROWS:  # a very small table: its rows again
        X = np.resize(X, (GOLDEN_ROWS, X.shape[1]))
    # by onnxruntime alone: it is the reference that every machine's kernel is compared with
    score = OnnxRegressor(parts.model).predict(parts.features.transform(X))
    at = parts.contract.timestamp_position
    return {"X": X, "prediction": parts.target.inverse(score, None if at is None else X[:, at])}


def _manifest(
    parts: BundleParts, spec: Mapping[str, Any], contents: Mapping[str, bytes]
) -> Manifest:
    entries = {
        name: FileEntry(sha256=sha256_bytes(content), bytes=len(content))
        for name, content in contents.items()
    }
    assert parts.parity is not None  # noqa: S101 - refused above
    return Manifest(
        format_version=FORMAT_VERSION,
        name=parts.name,
        created=clock.timestamp(),
        origin=parts.origin,
        contract=parts.contract.to_dict(),
        features=spec,
        target=parts.target.to_dict(),
        interval=parts.interval.to_dict(),
        model=ModelEntry(MODEL, parts.model_kind, len(parts.features.names)),
        metrics=parts.metrics,
        lineage=parts.lineage,
        parity=asdict(parts.parity),
        files=entries,
    ).with_content_hash()
