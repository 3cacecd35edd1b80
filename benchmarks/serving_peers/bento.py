"""The same forest behind BentoML, which is imported in an environment of its own."""

from __future__ import annotations

from typing import Any

import bentoml
import pandas as pd
from reference import fit


@bentoml.service(workers=1)
class Valuation:
    """Values rows."""

    def __init__(self) -> None:
        self.model = fit()

    @bentoml.api(route="/api/v1/predict")
    def predict(self, instances: list[dict[str, Any]]) -> dict[str, Any]:
        """Return one price a row."""
        prices = self.model.predict(pd.DataFrame(instances))
        return {"predictions": [{"predicted_price": float(price)} for price in prices]}
