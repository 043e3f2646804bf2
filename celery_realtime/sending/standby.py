"""Have a thread that begins to send wait until the publication is through that has started it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

from celery_realtime.clocks import time
from celery_realtime.loops import WakeUp

#: Most seconds that a thread waits: a broker may be away for long.
LONGEST_STANDBY = 1.0

#: Seconds between two looks.
LOOK = 0.01


class Publication:
    """One publication of a job.

    Attributes:
        is_over: Whether it is through.
    """

    __slots__ = ("is_over",)

    def __init__(self) -> None:
        self.is_over = False


_current: ContextVar[Publication | None] = ContextVar("celery_realtime_publication", default=None)


@contextlib.contextmanager
def publication() -> Iterator[None]:
    """Publish a job in the block.

    A thread that begins to send loads what it needs, and connects. A publisher that started it would wait for the
    interpreter at each of its own requests to the broker, in the first call of a process for a tenth of a second or so.
    """
    this = Publication()
    token = _current.set(this)
    try:
        yield
    finally:
        _current.reset(token)
        this.is_over = True


class Standby:
    """What a thread waits for that is started here and now: the publication that this is in the middle of, if any.

    It looks by itself whether that is through. Were it woken, the system might let it run in place of the publisher.
    """

    def __init__(self) -> None:
        self._publication = _current.get()
        self._cut_short = WakeUp()

    def wait(self) -> None:
        """Wait, in the thread, :data:`LONGEST_STANDBY` seconds at most."""
        deadline = time.monotonic() + LONGEST_STANDBY
        while self._is_needed and time.monotonic() < deadline:
            if self._cut_short.wait(LOOK):
                return

    @property
    def _is_needed(self) -> bool:
        return self._publication is not None and not self._publication.is_over

    def cut_short(self) -> None:
        """Wait no longer: somebody waits for what is to be sent, the publication itself perhaps."""
        self._cut_short.call()
