"""openavmkit 0.7 as its notebooks use it, without what needs the network or parcels' geometry.

The steps of `01-assemble`, `02-clean` and `03-model` in their order: load, model groups, clusters,
time adjustment, sales scrutiny that drops, split, spatial lag, models, ensemble, ratio study. Left
out are OpenStreetMap, Census, Overture and elevation (network), the experiments `try_variables` and
`try_models`, and what is drawn. Every row of the table is a parcel of its own with the attributes
at its sale; only training sales are known as sales, and the day after the last of them is the
valuation date. The trees get all columns, as its tutorial advises, the linear models what it picks.
A table without coordinates gets its parcels on a grid that no model sees.
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tables_data import Table

SLUG, GROUP = "us-wa-table", "residential"
TREES = ("xgboost", "lightgbm", "catboost")
#: Tuning has no limit of time: it tries so many parameters, 50 where nobody says otherwise.
MOST_TRIALS, SECONDS_PER_TRIAL = 50, 20.0
EPOCH, DAY = pd.Timestamp("1970-01-01"), pd.Timedelta(days=1)


@dataclass(frozen=True)
class Layout:
    """How a table is told to openavmkit.

    Attributes:
        units: imperial or metric.
        names: Its canonical names by the table's.
        location: The table's column that names the neighbourhood.
        place: The table's longitude and latitude.
        numbers, categories: Columns that openavmkit has no name for.
    """

    units: str
    names: dict[str, str]
    location: str
    place: tuple[str, str] | None = None
    numbers: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()


LAYOUTS = {
    "DocumentDate": Layout(
        "imperial",
        {"SqFtTotLiving": "bldg_area_finished_sqft", "SqFtLot": "land_area_sqft",
         "BldgGrade": "bldg_quality_num", "YrBuilt": "bldg_year_built",
         "Bathrooms": "bldg_rooms_bath", "Bedrooms": "bldg_rooms_bed"},
        "ZipCode",
        numbers=("SqFtFinBasement", "NbrLivingUnits", "YrRenovated", "TrafficNoise"),
        categories=("PropertyType", "NewConstruction"),
    ),
    "Date": Layout(
        "metric",
        {"BuildingArea": "bldg_area_finished_sqm", "Landsize": "land_area_sqm",
         "YearBuilt": "bldg_year_built", "Bathroom": "bldg_rooms_bath",
         "Bedroom2": "bldg_rooms_bed", "Rooms": "bldg_rooms", "Distance": "dist_to_cbd"},
        "Suburb",
        place=("Longtitude", "Lattitude"),
        numbers=("Car", "Propertycount"),
        categories=("Type", "Method", "SellerG", "Postcode", "CouncilArea", "Regionname"),
    ),
}  # fmt: skip


def parcels_of(rows: pd.DataFrame, layout: Layout, medians: pd.Series) -> pd.DataFrame:
    """Return the rows (n, columns) under canonical names, gaps filled: it models no gaps."""
    found = pd.DataFrame({"key": [str(i) for i in range(len(rows))]})
    for theirs, name in layout.names.items():
        found[name] = rows[theirs].fillna(medians[theirs]).to_numpy(float)
    for theirs in layout.numbers:
        found[theirs.lower()] = rows[theirs].fillna(medians[theirs]).to_numpy(float)
    for theirs in layout.categories:
        found[theirs.lower()] = rows[theirs].astype("string").fillna("missing").to_numpy(str)
    found["neighborhood"] = rows[layout.location].astype("string").fillna("missing").to_numpy(str)
    return found


def write_parcels(parcels: pd.DataFrame, rows: pd.DataFrame, layout: Layout, folder: Path) -> None:
    """Write the parcels with a square of about 20 m as their geometry."""
    import geopandas
    import shapely

    if layout.place is None:
        place, side = np.arange(len(rows)), int(np.ceil(np.sqrt(len(rows))))
        x, y = -122.3 + place % side * 1e-3, 47.5 + place // side * 1e-3
    else:
        x, y = (rows[name].to_numpy(float) for name in layout.place)
    squares = shapely.box(x, y, x + 2e-4, y + 2e-4)
    table = geopandas.GeoDataFrame(parcels, geometry=squares, crs="EPSG:4326")
    table.to_parquet(folder / "parcels.parquet")


def settings_of(
    parcels: pd.DataFrame, layout: Layout, sold: pd.Series, trials: int
) -> dict[str, Any]:
    """Return its settings.json for the parcels and the dates (n,) of the training sales."""
    numbers = [name for name in parcels if pd.api.types.is_numeric_dtype(parcels[name])]
    categories = [name for name in parcels if name not in (*numbers, "key")]
    # its tutorial: model on the age, which it derives, never on the year
    columns = [name for name in numbers if name != "bldg_year_built"] + ["bldg_age_years"]
    enrich: dict[str, Any] = {}
    if layout.place is not None:
        unit = "sqft" if layout.units == "imperial" else "sqm"
        enrich = {"spatial_lag": {"model_groups": {GROUP: {"sample_from": [GROUP]}}}}
        lag = "spatial_lag_sale_price_time_adj"
        columns += ["latitude_norm", "longitude_norm", lag, f"{lag}_impr_{unit}"]
    tree = {"n_trials": trials, "ind_vars": columns + categories, "use_gpu": False}
    types = {"key": "string", "key_sale": "string", "sale_price": "float",
             "valid_sale": "boolean", "vacant_sale": "boolean"}  # fmt: skip
    sales = {name: [name, kind] for name, kind in types.items()}
    sales["sale_date"] = ["sale_date", "datetime", "%Y-%m-%d"]
    names = {name: name for name in [*parcels, "geometry"]} | {"key": ["key", "string"]}
    return {
        "locality": {"name": "Table", "county": "Table", "state": "WA", "slug": SLUG,
                     "units": layout.units},
        "data": {
            "load": {"geo_parcels": {"filename": "parcels.parquet", "load": names},
                     "sales": {"filename": "sales.csv", "load": sales}},
            "process": {"merge": {"universe": ["geo_parcels"], "sales": ["sales"]},
                        "enrich": enrich},
        },
        "modeling": {
            "metadata": {"modeler": "benchmark", "use_sales_from": int(sold.dt.year.min()),
                         "valuation_date": str((sold.max() + DAY).date())},
            "instructions": {"main": {"run": ["mra", "multi_mra", *TREES]}, "vacant": {"run": []}},
            "models": {"main": {
                "default": {"ind_vars": columns + categories}, "mra": {},
                "multi_mra": {"locations": ["neighborhood"]}, **dict.fromkeys(TREES, tree),
            }},
            "model_groups": {GROUP: {"name": "Houses", "filter": [">", "bldg_rooms_bath", -1]}},
        },
        "analysis": {"sales_scrutiny": {"location": "neighborhood"},
                     "horizontal_equity": {"location": "neighborhood"}},
        "field_classification": {
            "important": {"locations": ["neighborhood"],
                          "fields": {"loc_neighborhood": "neighborhood"}},
            "impr": {"numeric": [name.lower() for name in layout.numbers] + ["bldg_rooms"],
                     "categorical": [name.lower() for name in layout.categories]},
        },
    }  # fmt: skip


def value(
    X: pd.DataFrame, prices: Any, test: pd.DataFrame, table: Table, seconds: float
) -> tuple[Any, dict[str, Any]]:
    """Return estimates of the test rows (m,) as of the valuation date, and what to tell.

    Args:
        X: Training sales (n, columns) with the date in days since 1970.
        prices: Shape (n,).
        test: Sales to value, with the same columns; their dates are not used.
        table: Whose date and layout they have.
        seconds: Decides how many parameters are tried, once for each 20 s and at most 50 times.
    """
    layout = LAYOUTS[table.date]
    sold = EPOCH + pd.to_timedelta(X[table.date], unit="D")
    known = X.select_dtypes("number").median()
    rows = pd.concat([X, test], ignore_index=True)
    parcels = parcels_of(rows, layout, known)
    keys = parcels["key"][: len(X)]
    sales = pd.DataFrame({"key": keys, "key_sale": keys, "sale_price": prices, "sale_date": sold,
                          "valid_sale": True, "vacant_sale": False})  # fmt: skip
    trials = int(np.clip(seconds / SECONDS_PER_TRIAL, 1, MOST_TRIALS))
    # the libraries' processes and threads may still write when all is done
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        given = Path(name) / "data" / SLUG / "in"
        given.mkdir(parents=True)
        write_parcels(parcels, rows, layout, given)
        sales.to_csv(given / "sales.csv", index=False, date_format="%Y-%m-%d")
        settings = settings_of(parcels, layout, sold, trials)
        (given / "settings.json").write_text(json.dumps(settings))
        os.chdir(name)
        dropped, models = run_notebooks(layout)
        found = pd.read_parquet(f"out/models/{GROUP}/main/ensemble/pred_universe.parquet")
        schedule = pd.read_csv(f"out/time_adjustment/{GROUP}/time_adjustment_schedule.csv")
        os.chdir("/")
    found = found.set_index(found["key"].astype(str))["prediction"]
    estimates = found.reindex(parcels["key"][len(X) :]).to_numpy(float)
    months = schedule.groupby(schedule["period"].str[:7])["end_indexed"].mean()
    told = {"ensemble of": models, "sales dropped": dropped, "trials": trials}
    return estimates, told | {"levels": months.to_dict()}


def run_notebooks(layout: Layout) -> tuple[int, str]:
    """Do what the notebooks do; return how many sales were dropped, and the ensemble's models."""
    from openavmkit import pipeline

    pipeline.init_notebook(SLUG)
    settings = pipeline.load_settings()
    frames = pipeline.load_dataframes(settings)
    pair = pipeline.process_dataframes(frames, settings)
    pair = pipeline.tag_model_groups_sup(pair, settings)

    pair = pipeline.fill_unknown_values_sup(pair, settings)
    pair = pipeline.mark_horizontal_equity_clusters_per_model_group_sup(pair, settings)
    pair = pipeline.process_sales(pair, settings)
    before = len(pair.sales)
    pair = pipeline.run_sales_scrutiny(pair, settings, drop_cluster_outliers=True)
    dropped = before - len(pair.sales)
    pair = pipeline.collapse_sparse_categories_sup(pair, settings)
    pipeline.write_notebook_output_sup(pair, "2-clean")

    pair = pipeline.load_cleaned_data_for_modeling(settings)
    pipeline.write_canonical_splits(pair, settings)
    if layout.place is not None:
        pair = pipeline.enrich_sup_spatial_lag(pair, settings)
    pipeline.finalize_models(pair, settings, run_vacant=False)
    pipeline.run_and_write_ratio_study_breakdowns(settings)
    meta = json.loads(Path(f"out/models/{GROUP}/main/ensemble/ensemble_meta.json").read_text())
    return dropped, "+".join(meta["members"])
