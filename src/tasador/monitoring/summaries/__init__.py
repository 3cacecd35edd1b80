"""Mergeable summaries of windows and columns."""
