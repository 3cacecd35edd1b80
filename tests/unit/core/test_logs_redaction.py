import json
import logging
import sys
import threading
import warnings

import pytest

from tasador.core.logs import JsonFormatter, TextFormatter, configure_logs, redact


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:hunter2@db:5432/x down", "postgresql://me:***@db:5432/x down"),
        ("redis://:hunter2@cache/0", "redis://:***@cache/0"),
        ("postgresql://me:hun@ter2@db/x", "postgresql://me:***@db/x"),
        ("https://example.org/path:1@x", "https://example.org/path:1@x"),
        ("http://127.0.0.1:8000/api", "http://127.0.0.1:8000/api"),
        ("Authorization: Bearer abc.def", "Authorization: ***"),
        ("authorization: Basic dXNlcjpwYXNz", "authorization: ***"),
        ("{'x-api-key': 'hunter2', 'a': 1}", "{'x-api-key': ***', 'a': 1}"),
        ("(b'x-api-key', b'hunter2')", "(b'x-api-key', ***')"),
        ("password=hunter2&user=me", "password=***&user=me"),
        ("db_password: hunter2", "db_password: ***"),
        ("sent bearer abcdefghijk", "sent bearer ***"),
        ("the key tsd_abcdefghijklmnopqrstuvwxyz was sent", "the key tsd_*** was sent"),
        ("the API key is not known", "the API key is not known"),
        ("3 tokens of 5 were read", "3 tokens of 5 were read"),
    ],
)
def test_secrets_are_hidden_and_nothing_else(text, shown):
    assert redact(text) == shown


def record(message, *arguments, fields=None, exc_info=None):
    found = logging.LogRecord("tasador.x", logging.INFO, "f", 1, message, arguments, exc_info)
    if fields is not None:
        found.fields = fields
    return found


def test_a_line_of_json_holds_the_fields_without_secrets():
    fields = {
        "request_id": "a-1",
        "ms": 1.5,
        "api_key": "hunter2",
        "urls": ["redis://:hunter2@x/0"],
        "inner": {"password": "hunter2", "path": {1}},
        "message": "not this one",
    }
    text = JsonFormatter().format(record("hello %s", "token=hunter2", fields=fields))
    entry = json.loads(text)
    assert "hunter2" not in text
    assert entry["message"] == "hello token=***"
    assert (entry["request_id"], entry["ms"], entry["api_key"]) == ("a-1", 1.5, "***")
    assert entry["urls"] == ["redis://:***@x/0"]
    assert entry["level"] == "info"


def test_tracebacks_are_redacted_in_both_forms():
    try:
        raise ValueError("cannot reach postgresql://me:hunter2@db/x")
    except ValueError:
        found = record("failed", exc_info=sys.exc_info())
    for formatter in (JsonFormatter(), TextFormatter()):
        text = formatter.format(found)
        assert "ValueError" in text
        assert "hunter2" not in text


@pytest.mark.filterwarnings("default")
def test_a_service_s_libraries_warnings_and_threads_speak_in_the_same_form(capsys):
    configure_logs("INFO", as_json=True, everything=True)
    logging.getLogger("another").warning("password=hunter2")
    warnings.warn("token=abc is out of date", DeprecationWarning, stacklevel=1)
    thread = threading.Thread(target=lambda: 1 / 0, name="worker")
    thread.start()
    thread.join()
    library, warning, ended = map(json.loads, capsys.readouterr().err.splitlines())
    assert library["message"] == "password=***"
    assert "token=***" in warning["message"]
    assert ended["message"] == "the thread worker ended: an error was not caught"
    assert "ZeroDivisionError" in ended["exception"]
