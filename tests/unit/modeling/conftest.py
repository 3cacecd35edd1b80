"""Fixtures of tables, shared with other packages."""

from fixtures.tables import real_data

__all__ = ["real_data"]
