"""What can go wrong while models are chosen; each class holds the fixed parts of its messages.

::

    ConfigError
    └── GridError               a grid that names what does not exist, or cannot be raced
    TrainingError
    ├── FoldsError              rows that cannot be cut into folds
    ├── SalesError              sales that cannot be compared with each other
    ├── MonotoneError           a model that may fall where estimates may only rise
    └── NoCandidateError        nothing that can be chosen: all failed, or none is of that family
    StorageError
    └── SweepStorageError       the database in which a sweep is shared
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from tasador.core.errors import ConfigError, StorageError, TrainingError


class GridError(ConfigError):
    """A grid that names what does not exist, or cannot be raced."""

    @classmethod
    def unknown_family(cls, name: str, known: Iterable[str]) -> GridError:
        """Return the error of a family that does not exist."""
        return cls(f"unknown model family {name!r}", expected=f"one of {', '.join(known)}")

    @classmethod
    def unknown_parameter(cls, where: str, family: str, known: Collection[str]) -> GridError:
        """Return the error of a parameter that a family does not have."""
        return cls(
            f"{where}: {family} has no such parameter",
            expected=f"one of {', '.join(sorted(known))}",
        )

    @classmethod
    def wrong_value(cls, where: str, value: object, error: Exception) -> GridError:
        """Return the error of a value that a family's parameter cannot have."""
        return cls(
            f"{where}: {str(error).rstrip('.')}",
            remedy=f"correct {value!r} in the grid, or take it out",
        )

    @classmethod
    def no_race(cls, scoring: str, known: Iterable[str]) -> GridError:
        """Return the error of a metric that is no mean over the rows."""
        return cls(
            f"selection.racing cannot compare candidates row by row by {scoring}",
            expected=f"selection.scoring to be one of {', '.join(known)}",
            remedy="choose one of them, or set selection.racing=false",
        )


class SalesError(TrainingError):
    """Sales that cannot be compared with each other."""

    @classmethod
    def too_few(cls, rows: int, fewest: int) -> SalesError:
        """Return the error of a table with few prices."""
        return cls(
            "too few sales have a price above 0 to tell which are suspicious",
            expected=f"at least {fewest}",
            got=str(rows),
        )


class FoldsError(TrainingError):
    """Rows that cannot be cut into folds."""

    @classmethod
    def too_few_rows(cls, rows: int, folds: int) -> FoldsError:
        """Return the error of a table that is too small."""
        return cls(
            "too few training rows for cross-validation",
            expected=f"at least {2 * folds} rows for {folds} folds",
            got=f"{rows} rows",
        )

    @classmethod
    def one_date(cls) -> FoldsError:
        """Return the error of training rows that nothing puts in order."""
        return cls(
            "the training rows cannot be cut into folds by time",
            expected="sales of several days",
            got="one day",
            remedy="set segregate.method=row_hash",
        )

    @classmethod
    def too_few_places(cls, places: int, folds: int) -> FoldsError:
        """Return the error of coordinates that are the same in too many rows."""
        return cls(
            "the coordinates cannot be cut into blocks",
            expected=f"at least {folds} distinct places",
            got=f"{places}",
        )


class MonotoneError(TrainingError):
    """A model that may fall where estimates may only rise."""

    @classmethod
    def not_kept(cls, family: str) -> MonotoneError:
        """Return the error of a family, or a loss of it, that takes no such constraint."""
        return cls(
            f"{family} with these parameters cannot keep estimates monotone, as model.monotone asks"
        )


class NoCandidateError(TrainingError):
    """Nothing that can be chosen."""

    @classmethod
    def all_failed(cls, number: int, first: str | None) -> NoCandidateError:
        """Return the error of a grid without a result."""
        return cls(f"all {number} candidates failed, the first with: {first}")

    @classmethod
    def none_monotone(cls, families: Iterable[str]) -> NoCandidateError:
        """Return the error of a search in which no family can keep to a direction."""
        return cls(
            f"none of {', '.join(families)} can keep estimates monotone, as model.monotone asks",
            remedy="compare another, such as lightgbm, or leave model.monotone null",
        )

    @classmethod
    def none_weighted(cls, families: Iterable[str]) -> NoCandidateError:
        """Return the error of a search in which no family takes weights."""
        return cls(
            f"{', '.join(families)}: no family to compare takes weights of rows",
            remedy="compare another, such as lightgbm, or leave the role weight and "
            "model.half_life out",
        )

    @classmethod
    def of_family(cls, family: str | None, known: Collection[str]) -> NoCandidateError:
        """Return the error of a family to tune that was not compared, or failed."""
        return cls(
            f"there is no candidate of the family {family} to tune",
            expected="one of " + (", ".join(known) or "none: all failed"),
            remedy="name another with sweep.family, or null for that of the best candidate",
        )


class SweepStorageError(StorageError):
    """The database in which a sweep is shared."""

    @classmethod
    def failed(cls, error: Exception, url: str) -> SweepStorageError:
        """Return the error of a database; `url` is without its password."""
        return cls(
            f"the sweep's storage failed: {error}".splitlines()[0],
            expected="a database that can be reached and written, as an SQLAlchemy URL",
            got=url,
            remedy="check sweep.storage, or leave it null",
        )
