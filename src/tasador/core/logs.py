"""Log set-up for the commands; the library itself only ever calls `logging.getLogger`.

Whatever is logged passes `redact` first: keys, passwords and tokens stay out of logs even when a
library puts them into the text of an error.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
from collections.abc import Mapping
from typing import Any, TextIO

from tasador.core import clock
from tasador.core.escape import visible

_HIDDEN = "***"
_NAMES = r"(?:authorization|x-api-key|api[_-]?key|password|passwd|pwd|secret|token|credentials?)"
_NAME_TO_HIDE = re.compile(_NAMES, re.IGNORECASE)
_RULES: tuple[tuple[re.Pattern[str], str], ...] = (
    # our own keys, wherever they stand
    (re.compile(r"\btsd_[A-Za-z0-9_-]{16,}"), f"tsd_{_HIDDEN}"),
    # postgresql://user:password@host
    (re.compile(r"(\b[a-z][a-z0-9+.-]*://[^\s/:@'\"]*):[^\s'\"]*@(?=[^\s@]*)", re.I), r"\1:***@"),
    # Authorization: Bearer abc / 'x-api-key': b'abc' / password=abc / (b'x-api-key', b'abc')
    (
        re.compile(
            rf"(\b[\w-]*{_NAMES}['\"]?\s*[:=,]\s*)(?:b?['\"])?(?:(?:bearer|basic)\s+)?"
            r"[^\s'\",;&)}\]]+",
            re.IGNORECASE,
        ),
        r"\1***",
    ),
    (re.compile(r"\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE), r"\1 ***"),
)


def redact(text: str) -> str:
    """Return `text` with the values of keys, passwords and tokens hidden."""
    for pattern, hidden in _RULES:
        text = pattern.sub(hidden, text)
    return text


class TextFormatter(logging.Formatter):
    """One line for people, without secrets."""

    def __init__(self) -> None:
        super().__init__("%(levelname)s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, with the fields that a JSON line would have."""
        fields = getattr(record, "fields", None)
        plain = _hidden(fields) if isinstance(fields, Mapping) else {}
        said = ", ".join(f"{name} {value}" for name, value in plain.items())
        record = logging.makeLogRecord(record.__dict__)
        record.msg, record.args = visible(record.getMessage()), ()
        return redact(super().format(record)) + (f" ({said})" if said else "")


class JsonFormatter(logging.Formatter):
    """One JSON object a line, for machines that collect logs; without secrets.

    What is logged with ``extra={"fields": {...}}`` becomes further members of the object.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        fields = getattr(record, "fields", None)
        entry: dict[str, Any] = _hidden(fields) if isinstance(fields, Mapping) else {}
        entry |= {
            "time": clock.timestamp(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redact(record.getMessage()),
        }
        if record.exc_info:
            entry["exception"] = redact(self.formatException(record.exc_info))
        return json.dumps(entry, ensure_ascii=False, default=lambda value: redact(str(value)))


def _hidden(fields: Mapping[Any, Any]) -> dict[str, Any]:
    return {
        str(name): _HIDDEN if _NAME_TO_HIDE.search(str(name)) else _plain(value)
        for name, value in fields.items()
    }


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return _hidden(value)
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


class _StandardError(logging.StreamHandler[TextIO]):
    """Writes to what is standard error at the time, since a program may replace and close it."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        """The stream to write to."""
        return sys.stderr


def formatter(*, as_json: bool) -> logging.Formatter:
    """Return what makes lines of records: JSON for machines, text for people."""
    return JsonFormatter() if as_json else TextFormatter()


def configure_logs(
    level: str = "WARNING", *, as_json: bool = False, everything: bool = False
) -> None:
    """Send tasador's log records to standard error at `level`.

    Other libraries' loggers are left at WARNING, so that `--verbose` shows ours and not theirs.

    Args:
        level: The least level that is shown.
        as_json: Whether machines read it.
        everything: Whether the process is ours alone: what other libraries log, Python's warnings,
            and errors that nobody caught, in threads too, then come out in the same form.
    """
    handler = _StandardError()
    handler.setFormatter(formatter(as_json=as_json))
    logger = logging.getLogger("tasador")
    logger.handlers[:] = [handler]
    logger.setLevel(level)
    logger.propagate = False
    if everything:
        logging.getLogger().handlers[:] = [handler]
        logging.captureWarnings(True)
        sys.excepthook = lambda *error: _uncaught("the process ends", error)
        threading.excepthook = lambda args: _uncaught(
            f"the thread {args.thread.name if args.thread else '?'} ended",
            (args.exc_type, args.exc_value, args.exc_traceback),
        )


def _uncaught(what: str, error: Any) -> None:
    if not issubclass(error[0], (KeyboardInterrupt, SystemExit)):
        logging.getLogger("tasador").critical("%s: an error was not caught", what, exc_info=error)
