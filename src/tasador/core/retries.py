"""stamina's `retry_context`, with its retries logged as our own lines are.

Without this, stamina prints through structlog on standard output wherever that is installed, which
is neither JSON where logs are JSON nor hidden where a command's output is read by a program.
"""

from __future__ import annotations

import logging

from stamina import instrumentation, retry_context

__all__ = ["retry_context"]

_log = logging.getLogger(__name__)


def _log_retry(details: instrumentation.RetryDetails) -> None:
    _log.info("%s: tried again in %.1f s", details.caused_by, details.wait_for)


instrumentation.set_on_retry_hooks([_log_retry])
