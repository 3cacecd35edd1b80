"""Text tables: their format, their rows, and rows that are no data."""
