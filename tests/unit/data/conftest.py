"""Fixtures of tables, shared with other packages."""

from fixtures.tables import (
    _no_real_data_variable,
    as_table,
    flats,
    flats_frame,
    real_data,
    shipped,
    site,
)

__all__ = [
    "_no_real_data_variable",
    "as_table",
    "flats",
    "flats_frame",
    "real_data",
    "shipped",
    "site",
]
