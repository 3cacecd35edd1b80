"""Log set-up for the commands; the library itself only ever calls `logging.getLogger`."""

from __future__ import annotations

import json
import logging
import sys

from tasador.core import clock


class JsonFormatter(logging.Formatter):
    """One JSON object a line, for machines that collect logs."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": clock.timestamp(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


def configure_logs(level: str = "WARNING", *, as_json: bool = False) -> None:
    """Send tasador's log records to standard error at `level`.

    Other libraries' loggers are left at WARNING, so that `--verbose` shows ours and not theirs.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonFormatter() if as_json else logging.Formatter("%(levelname)s %(name)s: %(message)s")
    )
    logger = logging.getLogger("tasador")
    logger.handlers[:] = [handler]
    logger.setLevel(level)
    logger.propagate = False
