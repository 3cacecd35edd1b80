"""The errors of tables that cannot be read; the fixed parts of their messages are here."""

from __future__ import annotations

from collections.abc import Collection

from tasador.core.errors import ConfigError, SourceError


class HalfLifeError(ConfigError):
    """Rows that are to count less with their age, of which nobody knows the age."""

    @classmethod
    def no_dates(cls) -> HalfLifeError:
        """Return the error of a table without dates."""
        return cls(
            "model.half_life needs the dates of the rows",
            expected="a column with the role timestamp in the contract, and dates in it",
            got="none",
            remedy="give one `role: timestamp`, or leave model.half_life null",
        )


class UnreadableTableError(SourceError):
    """A file that is not there, is damaged, or holds no table."""

    @classmethod
    def absent(cls, location: object) -> UnreadableTableError:
        """Return the error of a file that is not there."""
        return cls(f"there is no file {location}", remedy="check the path")

    @classmethod
    def folder(cls, location: object, pattern: str) -> UnreadableTableError:
        """Return the error of a folder in place of a file; `pattern` is one of its files."""
        remedy = f"name the file, or several as '{location}/{pattern}'"
        return cls(f"{location} is a folder", expected="files", remedy=remedy)

    @classmethod
    def empty(cls, name: object) -> UnreadableTableError:
        """Return the error of a file without anything in it."""
        return cls(f"{name} is empty", expected="a table with a header and rows")

    @classmethod
    def no_rows(cls, name: str) -> UnreadableTableError:
        """Return the error of a table that is a header only."""
        return cls(f"{name} has a header but no rows", expected="at least one row")

    @classmethod
    def damaged(cls, what: str, error: Exception | str) -> UnreadableTableError:
        """Return the error of a file of a known kind that its reader refuses."""
        return cls(f"{what} is damaged or cut short: {error}", remedy="copy or download it again")

    @classmethod
    def too_large(cls, what: str, most: int, remedy: str) -> UnreadableTableError:
        """Return the error of a packed file that would fill the memory."""
        expected = f"at most {most} bytes"
        return cls(f"{what} is too large once unpacked", expected=expected, remedy=remedy)

    @classmethod
    def binary(cls, name: str) -> UnreadableTableError:
        """Return the error of bytes that are neither a text nor a known kind of file."""
        kinds = "CSV, Excel, Parquet, Arrow, JSON, tar, tar.gz, gz or zip"
        return cls(f"{name} is not a table that can be read", expected=kinds, got="binary data")

    @classmethod
    def not_encoded(cls, name: str, encoding: str, found: str, line: int) -> UnreadableTableError:
        """Return the error of bytes that are no text of the encoding that was named."""
        return cls(
            f"{name} is not {encoding} text",
            got=f"{found} in line {line}",
            remedy="name its encoding with --encoding (`source.encoding` in the contract)",
        )

    @classmethod
    def duplicate_names(cls, name: str, twice: Collection[str]) -> UnreadableTableError:
        """Return the error of two columns of one name."""
        listed = ", ".join(repr(one) for one in sorted(twice)[:10])
        remedy = "rename or drop one of each"
        return cls(f"{name} has duplicate column names", got=listed, remedy=remedy)

    @classmethod
    def not_split(
        cls, problem: str, expected: str | None = None, got: str | None = None
    ) -> UnreadableTableError:
        """Return the error of a text whose quotes can be understood in several ways."""
        remedy = "put cells that hold quotes into quotes, and double the quotes inside"
        return cls(problem, expected=expected, got=got, remedy=remedy)

    @classmethod
    def ragged(cls, name: str, rows: int, columns: int, first: str) -> UnreadableTableError:
        """Return the error of rows with more or fewer cells than the header."""
        return cls(
            f"{name} has {rows} ragged row(s)",
            expected=f"{columns} cells in each row, as in the header",
            got=first,
            remedy="fix the rows, or put cells that contain the separator in quotes",
        )

    @classmethod
    def too_wide(cls, name: str, columns: int, most: int) -> UnreadableTableError:
        """Return the error of a table of too many columns."""
        remedy = "keep the columns that say most about the target"
        got = f"{columns}"
        return cls(
            f"{name} has too many columns", expected=f"at most {most}", got=got, remedy=remedy
        )

    @classmethod
    def unrelated(
        cls, file: str, first: str, columns: list[str], got: list[str]
    ) -> UnreadableTableError:
        """Return the error of a file that shares no column with the first one of a pattern."""
        return cls(
            f"{file} has no column of {first}",
            expected=", ".join(columns[:10]),
            got=", ".join(got[:10]),
            remedy="name files of one table only",
        )
