"""The checks of a window: drift, performance, data quality, service levels."""
