"""What can go wrong with a database.

::

    StorageError
    ├── OutageError          it cannot be reached, is locked, full, does not answer: try again later
    ├── BusyError            more records wait in memory than may: try again in a moment
    └── RejectedValuesError  it was reached and does not take these values: and will not later
"""

from __future__ import annotations

from tasador.core.errors import StorageError


class OutageError(StorageError):
    """The database cannot be reached, is locked, full, or does not answer."""


class BusyError(StorageError):
    """More records wait in memory than may."""


class RejectedValuesError(StorageError):
    """The database was reached and does not take these values."""
