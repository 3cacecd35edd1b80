"""Database URLs: read strictly, shown without secrets."""

from __future__ import annotations

import pytest

from tasador.core.errors import ConfigError
from tasador.settings.serving import parse_url


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///workspace/tasador.db", "workspace/tasador.db"),
        ("sqlite:////var/lib/t.db", "/var/lib/t.db"),
        ("sqlite:///with%20space.db", "with space.db"),
    ],
)
def test_an_sqlite_url_names_a_relative_or_absolute_file(url, path) -> None:
    found = parse_url(url)
    assert (found.dialect, str(found.path), found.shown) == ("sqlite", path, url)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:p%40ss@db:5433/houses", "postgresql://u@db:5433/houses"),
        ("postgres://db/houses", "postgresql://db/houses"),
        ("postgresql://u:pass@[::1]/h", "postgresql://u@[::1]/h"),
        (
            "postgresql:///h?host=/run/pg&password=pass&sslmode=require",
            "postgresql:///h?host=/run/pg&sslmode=require",
        ),
    ],
)
def test_a_postgresql_url_is_shown_without_its_password(url, shown) -> None:
    found = parse_url(url)
    assert (found.dialect, found.shown, found.text, found.path) == ("postgresql", shown, url, None)
    assert "ss" not in repr(found).replace("sslmode", "")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("mysql://u:secret@h/d", "unknown kind: expected sqlite:///.*, got 'mysql'"),
        ("tasador.db", "a text without ://"),
        ("sqlite:///", "names no file"),
        ("sqlite://host/file", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("postgresql://u:secret@h", "names no database"),
        ("postgresql://u:secret@h:port/d", "cannot be read"),
    ],
)
def test_an_invalid_url_is_refused_without_showing_its_password(url, message) -> None:
    with pytest.raises(ConfigError, match=message) as refused:
        parse_url(url)
    assert "secret" not in str(refused.value)
