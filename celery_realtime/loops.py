"""Background loops: each outlives an exception, logs it, and is seen by health checks when it stands still."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from typing import Any

from celery_realtime.logs import RateLimitedLogger, describe


class BackgroundLoop:
    """The record of one background loop, and what keeps an exception from ending it.

    Used once for each turn of the loop::

        while not stopped.wait(pause):
            with loop.turn():
                renew_leases()

    Args:
        name: Of the loop, for logs and health checks, such as ``"keeper"``.
        logger: Where a failed turn is logged, once a minute, with a count of those left out.
        longest: Seconds without a turn after which the loop counts as standing still.
    """

    def __init__(self, name: str, logger: logging.Logger, longest: float) -> None:
        self.name = name
        self.longest = longest
        #: Turns that an exception ended.
        self.failures = 0
        self._log = RateLimitedLogger(logger)
        self._last_error: str | None = None
        self._turned_at: float | None = None

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Guard one turn: an exception in the block is logged and counted, and the loop goes on."""
        self._turned_at = time.monotonic()
        try:
            yield
        except Exception as error:  # noqa: BLE001 - whatever it was, the next turn may work
            self.failures += 1
            self._last_error = describe(error)
            self._log.error("the background loop %r failed and goes on: %s", self.name, self._last_error)
        else:
            self._last_error = None
        finally:
            self._turned_at = time.monotonic()

    @property
    def is_turning(self) -> bool:
        """Whether a turn began or ended within the last ``longest`` seconds."""
        return self._turned_at is not None and time.monotonic() - self._turned_at < self.longest

    def health(self) -> dict[str, Any]:
        """Return ``name``, ``turning``, ``failures`` and ``error`` (of the last turn, or None), fit for JSON."""
        return {"name": self.name, "turning": self.is_turning, "failures": self.failures, "error": self._last_error}


def loops_of(*parts: Any) -> list[BackgroundLoop]:
    """Return the loops of all parts that have some: by convention, one as ``loop``, several as ``loops``."""
    loops: list[BackgroundLoop] = []
    for part in parts:
        own = getattr(part, "loops", None)
        loops += [loop for loop in [getattr(part, "loop", None)] if loop is not None] if own is None else own
    return loops
