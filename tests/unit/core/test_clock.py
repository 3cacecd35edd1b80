from __future__ import annotations

import re

import pytest

from tasador.core import clock
from tasador.core.clock import parse_moment, parse_span, show_moment
from tasador.core.errors import ConfigError


def test_the_clock_can_be_held_still() -> None:
    clock.use_source(lambda: 0.0)
    try:
        assert clock.timestamp() == "1970-01-01T00:00:00Z"
    finally:
        clock.use_source(None)
    assert clock.now().year >= 2026


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


def test_a_time_beyond_the_calendar_is_shown_as_its_number() -> None:
    assert show_moment(1e15) == "1e+15 s"
