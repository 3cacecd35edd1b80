"""Read the rows that a query of a database gives, through SQLAlchemy.

The password of the database is never part of a contract: it is in the environment variable
``TASADOR_SQL_PASSWORD``, or where the driver looks for it (``PGPASSWORD``, ``~/.pgpass``).
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl

from tasador.contract.model import SqlQuery
from tasador.core.errors import ConfigError, MissingExtraError, SourceError
from tasador.data.text.text_format import unique_names

PASSWORD_VARIABLE = "TASADOR_SQL_PASSWORD"  # noqa: S105 - a variable's name
_READS = re.compile(r"(?:\s|--[^\n]*\n|/\*.*?\*/|\()*(?:select|with|values|table)\b", re.I | re.S)
_SECRET_KEYS = frozenset({"password", "passwd", "pwd"})
#: By dialect: the extra that brings its driver.
_EXTRAS = {"postgresql": "postgres"}


def without_password(url: str) -> tuple[str, str | None]:
    """Return a database's address without its password, and the password.

    Raises:
        ConfigError: It is no address of a database.
    """
    parsed = _parsed(url)
    password = None if parsed.password is None else str(parsed.password)
    for key in _SECRET_KEYS.intersection(parsed.query):
        value = parsed.query[key]
        password = password or (value if isinstance(value, str) else value[0])
    parsed = parsed._replace(password=None).difference_update_query(_SECRET_KEYS)
    return parsed.render_as_string(hide_password=True), password


def read_query(sql: SqlQuery) -> pl.DataFrame:
    """Return the rows of a query; nothing is written to the database.

    Raises:
        ConfigError: The address or the query cannot be used.
        MissingExtraError: SQLAlchemy or the database's driver is not installed.
        SourceError: The database cannot be reached, or refuses the query.
    """
    plain, password = without_password(sql.url)
    if not _READS.match(sql.query):
        raise ConfigError(
            "the SQL query does not read rows", expected="SELECT ... or WITH ... SELECT ...",
            got=repr(sql.query.strip()[:60]),
        )  # fmt: skip
    url = _parsed(plain)
    dialect = url.get_backend_name()
    if password or (url.username and os.environ.get(PASSWORD_VARIABLE)):
        url = url.set(password=password or os.environ[PASSWORD_VARIABLE])
    if url.drivername in ("postgresql", "postgres"):
        url = url.set(drivername="postgresql+psycopg")
    if dialect == "sqlite":
        _check_file(url.database, plain)
    return _rows(url, plain, dialect, sql.query)


def _parsed(url: str) -> Any:
    try:
        from sqlalchemy import exc, make_url
    except ImportError:
        raise MissingExtraError.for_package("sqlalchemy", "train") from None
    try:
        return make_url(re.sub(r"^postgres://", "postgresql://", url.strip()))
    except (exc.ArgumentError, ValueError):
        shown = url.partition("://")[0] if "://" in url else ""
        raise ConfigError(
            "the database's address cannot be read",
            expected="for example sqlite:///sales.db or postgresql://user@host/database",
            got=f"{shown}://..." if shown else None,
        ) from None


def _check_file(database: str | None, shown: str) -> None:
    """Refuse a database that is not there: SQLite would make an empty one."""
    if not database or database == ":memory:" or not Path(database).is_file():
        raise SourceError(f"there is no database {shown}", remedy="check the path")


def _rows(url: Any, shown: str, dialect: str, query: str) -> pl.DataFrame:
    import sqlalchemy as sa

    try:
        engine = sa.create_engine(url, poolclass=sa.pool.NullPool)
    except sa.exc.NoSuchModuleError:
        raise ConfigError(
            f"SQLAlchemy knows no database {url.drivername!r}",
            expected="sqlite, postgresql, or one whose SQLAlchemy dialect is installed",
        ) from None
    except ModuleNotFoundError as error:
        package = error.name or "its driver"
        if dialect in _EXTRAS:
            raise MissingExtraError.for_package(package, _EXTRAS[dialect]) from None
        raise MissingExtraError(
            f"{dialect} needs the package {package!r}", remedy=f"pip install {package}"
        ) from None
    try:
        with engine.connect() as connection:
            if dialect == "sqlite":
                connection.exec_driver_sql("PRAGMA query_only = ON")
            elif dialect == "postgresql":
                connection.execution_options(postgresql_readonly=True)
            # a colon is part of the query, not a parameter
            result = connection.execute(sa.text(query.strip().rstrip(";").replace(":", r"\:")))
            names = unique_names([str(name) for name in result.keys()])  # noqa: SIM118
            return _frame(names, [tuple(row) for row in result])
    except sa.exc.SQLAlchemyError as error:
        cause = getattr(error, "orig", None) or error
        reason = re.sub(r"\s+", " ", str(cause)).strip()[:300]
        if url.password:
            reason = reason.replace(str(url.password), "***")
        raise SourceError(
            f"the query of {shown} failed", got=reason,
            remedy=f"check address, query and rights; the password is read from "
            f"{PASSWORD_VARIABLE}",
        ) from None  # fmt: skip
    finally:
        engine.dispose()


def _frame(names: Sequence[str], rows: list[tuple[Any, ...]]) -> pl.DataFrame:
    """Return rows as typed columns; a column of mixed types becomes text."""
    columns = []
    for position, name in enumerate(names):
        values = [row[position] for row in rows]
        values = [float(v) if isinstance(v, Decimal) else v for v in values]
        try:
            column = pl.Series(name, values, strict=True)
        except (TypeError, pl.exceptions.PolarsError, OverflowError):
            kinds = {type(v) for v in values if v is not None}
            if kinds <= {int, float, bool}:
                column = pl.Series(name, [None if v is None else float(v) for v in values])
            else:
                column = pl.Series(name, [None if v is None else str(v) for v in values])
        if column.dtype in (pl.Object, pl.Binary, pl.Null) or column.dtype.is_nested():
            texts = [None if v is None else str(v) for v in values]
            column = pl.Series(name, texts, dtype=pl.String)
        columns.append(column)
    return pl.DataFrame(columns)
