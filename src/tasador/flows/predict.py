"""Value the rows of a file, or rows given as JSON, with a bundle on disk."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tasador.core.errors import DataError, SourceError, ValidationError
from tasador.data.encode import columns_with_missing_words
from tasador.flows.chosen import BundleChoice, chosen_bundle, fits_rows, read_text
from tasador.modeling.valuation import Valuation
from tasador.registry.bundle import ModelBundle, load_bundle


@dataclass(frozen=True)
class Predicted:
    """Valuations in the order of the rows, and the model's name for its estimate."""

    valuations: tuple[Valuation, ...]
    prediction_name: str
    version: str
    origin: str
    from_json: bool


def predict_rows(
    rows: str, choice: BundleChoice, tell: Callable[[str], None] = lambda _: None
) -> Predicted:
    """Value `rows`: the path of a CSV, Parquet or JSON file, or JSON text itself.

    Args:
        rows: The rows.
        choice: Which model is used.
        tell: See `chosen_bundle`.

    Raises:
        DataError: The rows cannot be read, or one does not meet the contract; the message names
            it.
        BundleError: There is no bundle, or it is damaged.
        ConfigError: See `chosen_bundle`.
    """
    with chosen_bundle(choice, fits=fits_rows(rows), tell=tell) as chosen:
        loaded = load_bundle(chosen.folder)
    text = rows.lstrip()
    is_json = text.startswith(("{", "["))
    if is_json or rows.endswith(".json"):
        valuations = _value_json(loaded, rows if is_json else read_text(rows))
    else:
        valuations = _value_table(loaded, rows)
        is_json = False
    return Predicted(
        tuple(valuations),
        loaded.contract.target.prediction_name,
        loaded.version,
        loaded.origin,
        is_json or rows.endswith(".json"),
    )


def _value_json(bundle: ModelBundle, text: str) -> list[Valuation]:
    try:
        plain = json.loads(text)
    except ValueError as error:
        raise SourceError(f"not valid JSON: {error}") from None
    if isinstance(plain, Mapping) and isinstance(plain.get("instances"), list):
        plain = plain["instances"]
    items = plain if isinstance(plain, list) else [plain]
    if not items:
        raise ValidationError("no row to value", expected="at least one object")
    valuations = []
    for position, item in enumerate(items):
        if not isinstance(item, Mapping):
            raise ValidationError(
                f"row {position} is not an object", expected="{column: value}", got=repr(item)[:40]
            )
        try:
            valuations.append(bundle.value(item))
        except DataError as error:
            raise ValidationError(f"row {position}: {error}") from None
    return valuations


def _value_table(bundle: ModelBundle, path: str) -> list[Valuation]:
    from tasador.data.readers import read_table

    contract = bundle.contract
    frame = read_table(
        path,
        delimiter=contract.source.delimiter,
        keep_text=columns_with_missing_words(contract),
        sniff=True,  # the contract says how its own file is separated, not how this one is
    )
    absent = [c.name for c in contract.features if c.name not in frame.columns and not c.nullable]
    if absent:
        raise ValidationError(
            f"{path} lacks columns of the contract",
            expected=", ".join(contract.feature_names),
            got=f"no {', '.join(absent)}",
            remedy="add the columns, or name them as the contract does",
        )
    columns: dict[str, Any] = {
        name: frame[name] if name in frame.columns else [None] * frame.height
        for name in contract.feature_names
    }
    X = bundle.encoder.columns(columns)
    for position, column in enumerate(contract.features):
        bad = np.flatnonzero(np.isnan(X[:, position]))
        if len(bad) and not column.nullable:
            raise ValidationError(
                f"{path}: {column.name} is missing in {len(bad)} rows, first in row {bad[0]}",
                remedy="fill it in, or drop those rows",
            )
    return bundle.value_encoded(X)


def _plain(predicted: Predicted, valuation: Valuation) -> dict[str, float | str | None]:
    return {
        predicted.prediction_name: valuation.prediction,
        "lower": valuation.lower,
        "upper": valuation.upper,
        "coverage": valuation.coverage,
    }


def to_json(predicted: Predicted) -> str:
    """Return the valuations as the API would."""
    plain = {
        "predictions": [_plain(predicted, v) for v in predicted.valuations],
        "model_version": predicted.version,
    }
    return json.dumps(plain, indent=2) + "\n"


def to_csv(predicted: Predicted) -> str:
    """Return the valuations as CSV, one line a row."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([predicted.prediction_name, "lower", "upper", "coverage", "model_version"])
    for valuation in predicted.valuations:
        writer.writerow([*_plain(predicted, valuation).values(), predicted.version])
    return text.getvalue()
