"""What can go wrong around a training run; each class holds the fixed parts of its messages.

::

    ConfigError
    ├── RunSettingsError        settings with which no run can begin
    ├── NoRunError              a run that the workspace does not keep
    ├── SalesReviewError        a review file of sales that cannot be obeyed
    └── BacktestError           a backtest that cannot be made, or not be written
    StorageError
    ├── WorkspaceError          a workspace that cannot be written
    └── CacheError              a step's result that cannot be read back
    RegistryError
    └── RegistrationError       a bundle that is on disk and not in the registry
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from tasador.core.errors import ConfigError, RegistryError, StorageError, did_you_mean


class RunSettingsError(ConfigError):
    """Settings with which no run can begin."""

    @classmethod
    def remote_workspace(cls, workspace: str) -> RunSettingsError:
        """Return the error of a workspace that is no folder of this machine."""
        return cls(
            f"storage.workspace={workspace} is not a local folder",
            remedy="work in a local folder, and publish from it: tasador publish LOCATION --with "
            "data,splits,cards,report",
        )

    @classmethod
    def family_not_compared(cls, family: str, compared: Iterable[str]) -> RunSettingsError:
        """Return the error of a family to tune that is not among those that are compared."""
        return cls(
            f"sweep.family: {family!r} is not compared",
            expected=f"one of {', '.join(compared)}, or null for that of the best candidate",
            remedy="add it to selection.families, or name another",
        )

    @classmethod
    def no_monotone_column(cls, name: str, numbers: Collection[str]) -> RunSettingsError:
        """Return the error of a column that no model sees; `numbers` are those that may be."""
        return cls(
            f"model.monotone: the contract has no feature {name!r}",
            expected=f"one of {', '.join(numbers)}",
            remedy=did_you_mean(name, numbers) or "name a numeric column of the contract",
        )

    @classmethod
    def not_a_number(cls, name: str, kind: str, numbers: Collection[str]) -> RunSettingsError:
        """Return the error of a column of which there is no more and less."""
        return cls(
            f"model.monotone: {name!r} cannot be kept monotone",
            expected=f"a number, one of {', '.join(numbers)}",
            got=f"a column of the kind {kind}",
            remedy="take it out of model.monotone",
        )

    @classmethod
    def monotone_coordinate(cls, name: str) -> RunSettingsError:
        """Return the error of a coordinate, by which comparables are found."""
        return cls(
            f"model.monotone: {name!r} is a coordinate, by which comparables are found",
            expected="a column that says what a thing is, not where",
            remedy="take it out of model.monotone",
        )

    @classmethod
    def refit_forgets(cls) -> RunSettingsError:
        """Return the error of a refit whose model could not be measured fairly ever after."""
        return cls(
            "register.refit=always: the rows of the test part would not be known again, and later "
            "comparisons would be on rows that the model learned from",
            expected="a contract with coordinates or the date of the sale, and "
            "register.out_of_fold=true",
            remedy="set register.refit=never, or give a column the role of a place or date",
        )


class NoRunError(ConfigError):
    """A run that the workspace does not keep."""

    @classmethod
    def at_all(cls, folder: Path) -> NoRunError:
        """Return the error of a workspace without runs."""
        return cls(f"no run under {folder}", remedy="start one: tasador run")

    @classmethod
    def called(cls, run_id: str, known: Iterable[str]) -> NoRunError:
        """Return the error of an id; `known` are some that exist."""
        return cls(f"no run {run_id!r}", expected=f"one of {', '.join(known)}")

    @classmethod
    def of_version(cls, version: str, folder: Path) -> NoRunError:
        """Return the error of a bundle that was trained elsewhere."""
        return cls(
            f"the run that made {version} is not kept in {folder}",
            remedy="publish from the workspace in which it was trained",
        )


class SalesReviewError(ConfigError):
    """A review file of sales that cannot be obeyed."""

    @classmethod
    def no_column(cls, path: object, name: str, columns: Iterable[str]) -> SalesReviewError:
        """Return the error of a file that is no review file, or lost a column."""
        return cls(
            f"{path} is no review file: it has no column {name!r}",
            expected="a file that `tasador sales -o FILE` wrote",
            got=f"the columns {', '.join(columns)}",
        )

    @classmethod
    def unknown_word(cls, path: object, row: int, word: str) -> SalesReviewError:
        """Return the error of a decision that is neither yes nor no."""
        return cls(
            f"{path}: row {row} of the file has an unknown word in the column keep",
            expected="yes, no or nothing",
            got=repr(word),
        )

    @classmethod
    def other_table(cls, path: object, table: str) -> SalesReviewError:
        """Return the error of a file of which no row is in the table."""
        return cls(
            f"{path}: none of its rows is in the table {table}",
            expected="a review file of this table",
            remedy="write one: tasador sales -o FILE",
        )

    @classmethod
    def not_csv(cls, path: object) -> SalesReviewError:
        """Return the error of a review file that cannot be written as asked for."""
        return cls(
            f"{path} cannot be written",
            expected="a file that ends in .csv",
            remedy="open it in a spreadsheet; an .xlsx saved there is read back",
        )


class WorkspaceError(StorageError):
    """A workspace that cannot be written."""

    @classmethod
    def of(cls, workspace: Path, error: OSError) -> WorkspaceError:
        """Return the error of a workspace, and the system's reason."""
        return cls(
            f"the workspace {workspace} cannot be written: {error.strerror}",
            remedy="choose another with storage.workspace=FOLDER",
        )


class CacheError(StorageError):
    """A step's result that cannot be read back."""

    @classmethod
    def of(cls, step: str) -> CacheError:
        """Return the error of a result that was just written."""
        return cls(
            f"the result of step {step!r} could not be read back",
            remedy="check the disk under the workspace",
        )


class RegistrationError(RegistryError):
    """A bundle that is on disk and not in the registry."""

    @classmethod
    def of(cls, version: str, error: RegistryError) -> RegistrationError:
        """Return the error of a version, with the registry's own words."""
        return cls(
            f"the bundle {version} is on disk but was not registered: {error.message}",
            expected=error.expected,
            got=error.got,
            remedy=error.remedy,
        )


class BacktestError(ConfigError):
    """A backtest that cannot be made, or not be written."""

    @classmethod
    def unknown_file(cls, path: Path) -> BacktestError:
        """Return the error of a file's ending."""
        return cls("the backtest cannot be written in that format", expected="a .html file",
                   got=path.name)  # fmt: skip

    @classmethod
    def no_dates(cls, version: str) -> BacktestError:
        """Return the error of a model that knows no dates."""
        return cls(
            f"{version} cannot be backtested: its table has no dates",
            expected="a column with the role timestamp in its contract",
            got="none",
            remedy="give one `role: timestamp` and train again",
        )

    @classmethod
    def no_origin(cls, by: str, before: int, after: int, known: int) -> BacktestError:
        """Return the error of a table without an origin to begin at."""
        return cls(
            f"no {by} has enough sales before and in it",
            expected=f"{before} sales before it and {after} in it",
            got=f"{known} sales with a date",
            remedy="take shorter spans with --by, or an earlier --from",
        )
