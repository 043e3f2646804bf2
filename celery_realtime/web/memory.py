"""Give memory back when many connections have gone.

glibc keeps it for those to come. Requests of eventlet refer to themselves, and those of other servers may: Python frees
them when it has made as much again as it has, which may be never.
"""

from __future__ import annotations

import ctypes
import gc

from celery_realtime.clocks import time

#: Connections that have to go before it is worth while, and the seconds between two times.
MANY, PAUSE = 100, 2.0

#: Connections that have to go before Python is asked to free what refers to itself, which stops it for a moment, and
#: the seconds in which none of them goes any more.
MANY_TO_COLLECT, CALM = 500, 1.0


class Memory:
    """What is free in this process, and not given back."""

    def __init__(self) -> None:
        self._gone = self._uncollected = 0
        self._last = self._last_gone = time.monotonic()

    @property
    def has_more(self) -> bool:
        """Whether memory is to be given back now or soon."""
        return self._gone >= MANY or self._uncollected >= MANY_TO_COLLECT

    def note_gone(self) -> None:
        """Note that a connection has gone."""
        self._gone += 1
        self._uncollected += 1
        self._last_gone = time.monotonic()

    def is_due(self) -> bool:
        """Tell whether memory is to be given back now."""
        return self.has_more and time.monotonic() - self._last > PAUSE

    def give_back(self) -> bool:
        """Give back what is free, and return whether that was possible: it is with glibc. It takes milliseconds."""
        self._gone, self._last = 0, time.monotonic()
        if self._uncollected >= MANY_TO_COLLECT and self._last - self._last_gone > CALM:
            self._uncollected = 0
            gc.collect()
        try:
            trim = ctypes.CDLL(None).malloc_trim
        except (OSError, AttributeError, TypeError):
            return False
        trim(0)
        return True
