"""Database URLs and moments: read strictly, shown without secrets."""

from __future__ import annotations

import re

import pytest

from tasador.core import clock
from tasador.core.errors import ConfigError
from tasador.records.time_parsing import parse_moment, parse_span, show_moment
from tasador.settings.records import parse_url


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


@pytest.mark.parametrize(
    ("text", "seconds"), [("90d", 7_776_000), ("1.5h", 5400), ("30M", 1800), ("2 w", 1_209_600)]
)
def test_a_span_is_a_number_and_a_unit(text, seconds) -> None:
    assert parse_span(text) == seconds


@pytest.mark.parametrize("text", ["90", "d", "-3d", "3 months", ""])
def test_another_text_is_no_span(text) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"got {text!r}")):
        parse_span(text)


def test_a_moment_is_iso_8601_in_utc_or_a_span_before_now() -> None:
    assert show_moment(parse_moment("2026-11-24")) == "2026-11-24T00:00:00Z"
    assert show_moment(parse_moment("2026-11-24T10:00:00+02:00")) == "2026-11-24T08:00:00Z"
    clock.use_source(lambda: 1_000_000.0)
    try:
        assert parse_moment("1d") == 913_600.0
    finally:
        clock.use_source(None)
    with pytest.raises(ConfigError, match="a time cannot be read"):
        parse_moment("yesterday")
