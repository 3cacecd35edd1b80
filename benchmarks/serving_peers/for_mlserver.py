"""A folder that MLServer serves with its LightGBM runtime: `FOLDER PORT`, two more ports after it.

Imported in MLServer's environment alone. The model is the ten lines that many begin with: 500 trees
on the table's columns, categories as codes. Requests are valued in the server's own process.
"""

from __future__ import annotations

import csv
import json
import os
import sys
from pathlib import Path

import lightgbm as lgb
import numpy as np


def main(folder: Path, port: int) -> None:
    """Fit, and write the model and both settings."""
    with (Path(os.environ["TASADOR_REAL_DATA"]) / "housing.csv").open() as file:
        rows = list(csv.DictReader(file))
    names = [name for name in rows[0] if name != "median_house_value"]
    levels = sorted({row["ocean_proximity"] for row in rows})
    X = np.array(
        [[levels.index(row[n]) if n == "ocean_proximity" else float(row[n] or "nan") for n in names]
         for row in rows]
    )  # fmt: skip
    y = np.log([float(row["median_house_value"]) for row in rows])
    data = lgb.Dataset(X, y, categorical_feature=[names.index("ocean_proximity")])
    settings = {"learning_rate": 0.05, "num_threads": 1, "seed": 0, "verbose": -1}
    lgb.train(settings, data, 500).save_model(folder / "model.bst")
    about = {"name": "housing", "implementation": "mlserver_lightgbm.LightGBMModel",
             "parameters": {"uri": str(folder / "model.bst"), "version": "1"}}  # fmt: skip
    ports = {"http_port": port, "grpc_port": port + 1, "metrics_port": port + 2}
    server = {"host": "127.0.0.1", "parallel_workers": 0, "debug": False, **ports}
    (folder / "model-settings.json").write_text(json.dumps(about))
    (folder / "settings.json").write_text(json.dumps(server))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
