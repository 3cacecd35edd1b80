"""The reference's architecture: pydantic request and response models, a DataFrame, a RandomForest.

Re-created from its description, none of its code: 128 trees of depth 23 behind a scikit-learn
pipeline, fitted on the real table.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import joblib
import pandas as pd
from fastapi import FastAPI
from pydantic import BaseModel, Field
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestRegressor
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder

NUMBERS = [
    "longitude",
    "latitude",
    "housing_median_age",
    "total_rooms",
    "total_bedrooms",
    "population",
    "households",
    "median_income",
]


class Row(BaseModel):
    longitude: float = Field(ge=-125, le=-113)
    latitude: float = Field(ge=32, le=43)
    housing_median_age: float = Field(ge=0, le=100)
    total_rooms: float = Field(ge=1)
    total_bedrooms: float | None = None
    population: float = Field(ge=1)
    households: float = Field(ge=1)
    median_income: float = Field(ge=0)
    ocean_proximity: str


class Request(BaseModel):
    instances: list[Row]


class Prediction(BaseModel):
    predicted_price: float


class Answer(BaseModel):
    predictions: list[Prediction]
    model_version: str


def fit() -> Pipeline:
    """Load the forest that an earlier call stored, as its service does; fit and store it first."""
    stored = Path(os.environ["TASADOR_BENCH_FOREST"])
    if stored.exists():
        return joblib.load(stored)
    table = pd.read_csv(Path(os.environ["TASADOR_REAL_DATA"]) / "housing.csv")
    encode = ColumnTransformer(
        [
            ("numbers", SimpleImputer(strategy="median"), NUMBERS),
            ("categories", OneHotEncoder(handle_unknown="ignore"), ["ocean_proximity"]),
        ]
    )
    forest = RandomForestRegressor(128, max_depth=23, random_state=0, n_jobs=1)
    pipeline: Any = make_pipeline(encode, forest)
    pipeline.fit(table.drop(columns="median_house_value"), table["median_house_value"])
    joblib.dump(pipeline, stored)
    return pipeline


def app() -> FastAPI:
    model = fit()
    api = FastAPI()

    @api.post("/api/v1/predict", response_model=Answer)
    def predict(request: Request) -> Answer:
        frame = pd.DataFrame([row.model_dump() for row in request.instances])
        prices = model.predict(frame)
        return Answer(
            predictions=[Prediction(predicted_price=price) for price in prices],
            model_version="reference",
        )

    @api.get("/health/ready")
    def ready() -> dict[str, str]:
        return {"status": "ready"}

    return api
