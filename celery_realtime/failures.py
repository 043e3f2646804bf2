"""Log what keeps failing in one line a minute: a broken rule is one fact, not one of each event."""

from __future__ import annotations

import logging
import time

LOG_INTERVAL = 60.0


class FailureLog:
    """Write errors to a logger, at most one in a minute.

    Args:
        logger: Where they go.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._logged_at = -LOG_INTERVAL

    def error(self, message: str, *args: object) -> None:
        """Log a message with its arguments, unless one was logged less than a minute ago."""
        if time.monotonic() - self._logged_at >= LOG_INTERVAL:
            self._logged_at = time.monotonic()
            self._logger.error(message, *args)


def describe(error: BaseException) -> str:
    """Name an error and what it says, in one line; redis-py leaves the latter out of its ``repr``."""
    return " ".join(f"{type(error).__name__}: {error}".split())
