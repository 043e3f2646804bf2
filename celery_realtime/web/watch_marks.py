"""Mark in the history which projects clients of this process watch, so that progress of their jobs leaves earlier."""

from __future__ import annotations

import logging
import math
from collections.abc import Set as AbstractSet
from typing import Protocol

from celery_realtime.clocks import time
from celery_realtime.forks import after_fork
from celery_realtime.living import Living
from celery_realtime.loops import BackgroundLoop, PeriodicLoop
from celery_realtime.sending.manager import SocketIOManager

logger = logging.getLogger(__name__)

#: Seconds between two looks for projects that clients have begun to watch.
PAUSE = 0.5

#: Seconds between two renewals of all marks. Each lasts three times as long.
RENEWAL = 5.0

#: Longest wait, in seconds, for the end of a look when it is to be the last.
STOP_TIMEOUT = 2.0

#: Seconds without a look after which the loop counts as standing still; Redis may take a few to time out.
LONGEST_TURN = 30.0


class Watched(Protocol):
    """Knows which projects the clients of a server watch."""

    def projects(self, but: AbstractSet[str] = frozenset()) -> set[str]:
        """Return those that they watch now, but for some."""


class WatchMarks:
    """Marks the projects in whose rooms a client is: of those that it may see, and of no others.

    Args:
        manager: Has the history.

    Attributes:
        loop: The record of the thread's loop.
    """

    def __init__(self, manager: SocketIOManager) -> None:
        self._manager = manager
        self._servers = Living[Watched]()
        self.loop = BackgroundLoop("watch marks", logger, LONGEST_TURN)
        self._periodic = PeriodicLoop(self.loop, self._mark, PAUSE)
        self._start_over()
        after_fork(self._start_over)

    def _start_over(self) -> None:
        self._marked: set[str] = set()
        self._renews_at = -math.inf

    def add(self, server: Watched) -> None:
        """Mark what the clients of a server watch, while anybody has it."""
        self._servers.add(server)

    def start(self) -> None:
        """Mark from now on, for as long as the process lives; without a history, or with one pace only, do nothing."""
        if self._manager.history is not None and self._manager.has_watched_pace:
            self._periodic.start()

    def stop(self) -> None:
        """Mark no more; the marks lapse."""
        self._periodic.stop(STOP_TIMEOUT)
        self._start_over()

    def _mark(self) -> None:
        history, clock = self._manager.history, time.monotonic()
        if history is None:
            return
        is_due = clock >= self._renews_at
        known = set[str]() if is_due else self._marked
        new = {name for server in self._servers for name in server.projects(known)}
        history.watches.mark(new)
        self._marked = known | new
        if is_due:
            self._renews_at = clock + RENEWAL
