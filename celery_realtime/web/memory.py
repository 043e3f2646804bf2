"""Give memory back to the system when many connections have gone: glibc keeps it for those to come."""

from __future__ import annotations

import ctypes

from celery_realtime.clocks import time

#: Connections that have to go before it is worth while, and the seconds between two times.
MANY, PAUSE = 100, 2.0


class Memory:
    """What is free in this process, and not given back."""

    def __init__(self) -> None:
        self._gone = 0
        self._last = time.monotonic()

    @property
    def has_more(self) -> bool:
        """Whether memory is to be given back now or soon."""
        return self._gone >= MANY

    def note_gone(self) -> None:
        """Note that a connection has gone."""
        self._gone += 1

    def is_due(self) -> bool:
        """Tell whether memory is to be given back now."""
        return self.has_more and time.monotonic() - self._last > PAUSE

    def give_back(self) -> bool:
        """Give back what is free, and return whether that was possible: it is with glibc. It takes milliseconds."""
        self._gone, self._last = 0, time.monotonic()
        try:
            trim = ctypes.CDLL(None).malloc_trim
        except (OSError, AttributeError, TypeError):
            return False
        trim(0)
        return True
