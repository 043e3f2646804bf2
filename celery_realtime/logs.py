"""Rate-limit repeated failures: one log line a minute for each message, with a count of those left out."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator

LOG_INTERVAL = 60.0


class RateLimitedLogger:
    """Log each message at most once a minute, so that an outage is one fact and not ten thousand lines.

    A line says how many of its kind were left out since the one before. A second, different failure has a minute of
    its own.

    Args:
        logger: The logger to write to.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        #: By message, before its arguments are filled in: when it was logged last, and how often it was left out since.
        self._logged: dict[str, tuple[float, int]] = {}

    def error(self, message: str, *args: object) -> None:
        """Log an error with its arguments, unless the same message was logged less than a minute ago."""
        self._log(logging.ERROR, message, args)

    def warning(self, message: str, *args: object) -> None:
        """Log a warning with its arguments, unless the same message was logged less than a minute ago."""
        self._log(logging.WARNING, message, args)

    @contextlib.contextmanager
    def suppressing(self, message: str, *args: object) -> Iterator[None]:
        """Log an exception of the block, behind the message, instead of raising it.

        For users' functions, which may raise anything and must not stop what called them.
        """
        try:
            yield
        except Exception as error:  # noqa: BLE001 - a user's function may raise anything
            self.error(f"{message}: %s", *args, describe(error))

    def _log(self, level: int, message: str, args: tuple[object, ...]) -> None:
        # Without a lock, which would stay held for ever in a child that is forked meanwhile: a race costs a line.
        clock = time.monotonic()
        logged_at, left_out = self._logged.get(message, (-LOG_INTERVAL, 0))
        if clock - logged_at < LOG_INTERVAL:
            self._logged[message] = (logged_at, left_out + 1)
            return
        self._logged[message] = (clock, 0)
        if left_out:
            message, args = f"{message} (and %d more times since the last such line)", (*args, left_out)
        self._logger.log(level, message, *args)


def describe(error: BaseException) -> str:
    """Name an error and what it says, in one line; redis-py leaves the latter out of its ``repr``."""
    return " ".join(f"{type(error).__name__}: {error}".split())
