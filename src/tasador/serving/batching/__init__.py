"""Requests to rows, rows to batches, batches to predictions."""
