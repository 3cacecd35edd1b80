"""Parquet files: what they say of their size, how much of one is read at once, its footer."""
