"""The files that a run leaves about its model: figures, parameters, metadata and card."""

from __future__ import annotations

import json

from tasador.core.storage import write_bytes, write_text
from tasador.registry.manifest import MANIFEST_NAME, Manifest
from tasador.registry.metadata import as_texts, model_metadata
from tasador.reporting.cards import CardTable, render
from tasador.reporting.model_card import FILES
from tasador.settings.compose import to_yaml
from tasador.training.context import RunState, load_json, needed, save_json

#: What is attached to the run in the model registry.
MODEL_FILES = ("metrics.json", "best_params.yaml", "model_config.yaml", *FILES)


def write_model_files(state: RunState) -> None:
    """Write `MODEL_FILES` into the run's folder, from the bundle's manifest as it is now.

    Raises:
        StorageError: The disk refuses.
    """
    outcome, sweep = needed(state.outcome, "register"), needed(state.sweep, "sweep")
    path = state.bundles / outcome["folder"] / MANIFEST_NAME
    metadata = model_metadata(Manifest.from_json(path.read_bytes()))
    folder, documents = state.run_folder, needed(state.documents, "register")
    save_json(folder / "metrics.json", outcome["metrics"])
    best = {
        "family": outcome["family"],
        "metric": sweep.metric,
        "score": sweep.best.mean(sweep.metric),
        "trials": len(sweep.trials),
        "params": outcome["params"],
    }
    write_text(folder / "best_params.yaml", to_yaml(best))
    write_text(folder / "model_config.yaml", to_yaml({**metadata, "bundle": outcome["folder"]}))
    page, plain, review = FILES
    table = CardTable("Metadata", ("fact", "value"), tuple(as_texts(metadata).items()))
    shown = render("model_metadata.html.j2", metadata=table)
    text = (documents / page).read_text(encoding="utf-8")
    write_text(folder / page, text.replace("</main>", f"{shown}</main>", 1))
    card = {**load_json(documents / plain), "metadata": metadata}
    write_text(folder / plain, json.dumps(card, ensure_ascii=False, indent=1))
    write_bytes(folder / review, (documents / review).read_bytes())
