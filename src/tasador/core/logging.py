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
_NAMES = (
    r"(?:authorization|x-api-key|api[_-]?key|password|passwd|pwd|secret(?:[_-]?(?:access[_-]?)?key)?"
    r"|token|credentials?|access[_-]?key(?:[_-]?id)?|(?:account|private)[_-]key|accountkey"
    r"|passphrase)"
)
_NAME_TO_HIDE = re.compile(_NAMES, re.IGNORECASE)
#: Keys that are known by how they look: ours, AWS's, Google's, GitHub's, Slack's, Stripe's, JWT.
_SHAPES = (
    r"\b(tsd_)[A-Za-z0-9_-]{16,}",
    r"\b(AKIA|ASIA|AROA|AIDA)[A-Z0-9]{16}\b",
    r"\b(AIza|ya29\.|GOCSPX-)[A-Za-z0-9_.-]{20,}",
    r"\b(gh[pousr]_|github_pat_|glpat-|hf_|sk-|sk_live_|rk_live_|xox[abeprs]-)[A-Za-z0-9_-]{16,}",
    r"\b(eyJ)[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)*",
    r"(-----BEGIN [A-Z ]*PRIVATE KEY-----).*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
)
#: What comes after these is a secret: whoever has the URL may write to the channel.
_WEBHOOKS = (
    r"(hooks\.slack(?:-gov)?\.com/)[^\s'\"<>]+",
    r"(discord(?:app)?\.com/api/(?:v[0-9]+/)?webhooks/)[^\s'\"<>]+",
    r"((?:webhook\.office(?:365)?\.com|outlook\.office(?:365)?\.com/webhook)/)[^\s'\"<>]+",
    r"((?:\.logic\.azure\.com|\.api\.powerplatform\.com)(?::[0-9]+)?/)[^\s'\"<>]+",
    r"(chat\.googleapis\.com/)[^\s'\"<>]+",
    r"(api\.telegram\.org/(?:file/)?bot)[^\s'\"/<>]+",
)
#: Parameters of URLs, signed ones among them, and of connection strings.
_PARAMETERS = (
    r"(?:x-(?:amz|goog)-(?:signature|credential|security-token)|awsaccesskeyid|googleaccessid|sig"
    r"|signature|key|code|auth|pw|sas|sslpassword|sharedaccess(?:key|signature))"
)
_RULES: tuple[tuple[re.Pattern[str], str], ...] = (
    *((re.compile(shape, re.DOTALL), rf"\1{_HIDDEN}") for shape in _SHAPES),
    *((re.compile(webhook, re.IGNORECASE), rf"\1{_HIDDEN}") for webhook in _WEBHOOKS),
    # postgresql://user:password@host, with a password in quotes or one that holds quotes
    (re.compile(r"([a-z0-9]://[^\s/:@'\"]{0,300}):(['\"]).{0,300}?\2@", re.I), r"\1:***@"),
    (re.compile(r"([a-z0-9]://[^\s/:@'\"]{0,300}):[^\s'\"]{0,1000}@", re.I), r"\1:***@"),
    (re.compile(r"([a-z0-9]://[^\s/:@'\"]{0,300}):(?!\*\*\*@)[^\s@]{0,1000}@", re.I), r"\1:***@"),
    (re.compile(r"(://)[A-Za-z0-9_%+.=-]{20,}@"), r"\1***@"),
    # password='it''s long' / "password": "a \" b"
    (
        re.compile(
            rf"({_NAMES}\\?['\"]?\s*[:=,]\s*)b?(\\?['\"])(?:(?!\2)\\.|\2\2|(?!\2)[^\\])*\2",
            re.IGNORECASE | re.DOTALL,
        ),
        r"\1***\2",
    ),
    # Authorization: Bearer abc / 'x-api-key': b'abc' / password=abc / (b'x-api-key', b'abc')
    (
        re.compile(
            rf"({_NAMES}['\"]?\s*[:=,]\s*)(?:b?['\"])?(?:(?:bearer|basic)\s+(?=\S))?"
            r"(?!\*\*\*|(?:bearer|basic)\b)[^\s'\",;&)}\]]+",
            re.IGNORECASE,
        ),
        r"\1***",
    ),
    (
        re.compile(rf"((?:^|[?&;]|%3f|%26){_PARAMETERS}(?:=|%3d))[^&\s'\";<>]+", re.IGNORECASE),
        r"\1***",
    ),
    (re.compile(r"((?:set-)?cookie['\"]?\s*:\s*)[^\s;,]+", re.IGNORECASE), r"\1***"),
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
        str(name): _HIDDEN if _NAME_TO_HIDE.search(str(name)) else redact_all(value)
        for name, value in fields.items()
    }


def redact_all(value: Any) -> Any:
    """Return a value of JSON with every text in it redacted."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return _hidden(value)
    if isinstance(value, (list, tuple)):
        return [redact_all(item) for item in value]
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
