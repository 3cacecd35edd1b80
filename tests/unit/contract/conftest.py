"""Fixtures of tables, shared with other packages."""

from fixtures.tables import flats

__all__ = ["flats"]
