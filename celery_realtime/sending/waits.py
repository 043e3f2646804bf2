"""Wait for the thread that sends."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from celery_realtime.clocks import time
from celery_realtime.sending.backlog import STUCK
from celery_realtime.sending.changes import Changes
from celery_realtime.sending.sender import Sender


class Waits:
    """Waits until something is so of what is sent.

    Args:
        sender: Sends.
        lock: Held while anything changes.
        changes: Say when something has changed.
    """

    def __init__(self, sender: Sender[Any], lock: threading.RLock, changes: Changes) -> None:
        self._sender = sender
        self._lock = lock
        self._changes = changes

    def until(self, is_over: Callable[[], bool], deadline: float) -> bool:
        """Wait until something is so, and have all that waits sent at once meanwhile.

        Args:
            is_over: Tells whether it is so; called with the lock held.
            deadline: When to give up, of :func:`time.monotonic`.

        Returns:
            Whether it is so.
        """
        with self._lock:
            if is_over():
                return True
        with self._sender.expediting():
            return self.at_its_pace(is_over, deadline, self._sender.ensure)

    def at_its_pace(
        self, is_over: Callable[[], bool], deadline: float, before_each_wait: Callable[[], Any] = lambda: None
    ) -> bool:
        """Wait as :meth:`until`, and let the sender go on as it does; not if it has ended."""
        while True:
            with self._lock:
                if is_over():
                    return True
                left = deadline - time.monotonic()
                if left <= 0 or not self._sender.is_alive:
                    return False
                before_each_wait()
                change = self._changes.next()
            change.wait(min(left, STUCK))
