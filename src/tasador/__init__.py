"""tasador turns a table with a number to estimate into a valuation service that stays right."""

from __future__ import annotations

from importlib.metadata import version

__version__ = version("tasador")
