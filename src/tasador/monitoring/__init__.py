"""Checks whether valuations still hold: drift, data quality, performance, alerts."""
