"""Wait for the thread that sends."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from celery_realtime.clocks import time
from celery_realtime.sending.backlog import STUCK, Backlog
from celery_realtime.sending.changes import Changes
from celery_realtime.sending.event_queue import EventQueue, Owner
from celery_realtime.sending.sender import Sender


class Waits:
    """Waits until something is so of what is sent.

    Args:
        sender: Sends.
        queue: What it empties.
        backlog: What it publishes after each batch.
        lock: Held while anything changes.
        changes: Say when something has changed.
    """

    def __init__(
        self,
        sender: Sender[Any],
        queue: EventQueue[Any],
        backlog: Backlog[Any],
        *,
        lock: threading.RLock,
        changes: Changes,
    ) -> None:
        self._sender = sender
        self._queue = queue
        self._backlog = backlog
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

    # -- for what -----------------------------------------------------------------------------------------------

    def is_all_sent(self) -> bool:
        """Return whether nothing waits but progress that is held back; with the lock held."""
        return not (self._queue or self._sender.is_sending or self._backlog)

    @property
    def unsent_since(self) -> float | None:
        """Before when all that was put has been sent, of :func:`time.monotonic`; None if nothing but progress waits."""
        with self._lock:
            return None if self.is_all_sent() else self._sender.done_until

    def until_sent(self, job: Owner, timeout: float) -> bool:
        """Wait until no status of a job waits, whatever else does; during an outage, not at all.

        Args:
            job: The job's project and its id.
            timeout: Longest wait in seconds.

        Returns:
            Whether its statuses have left, or there is an outage.
        """
        return self.until(lambda: not self._is_leaving(job), time.monotonic() + timeout)

    def until_stored(self, key: int, timeout: float) -> bool:
        """Wait until what came up to a key is in the history; during an outage, not at all.

        Args:
            key: The key, of ``last_key`` of the outbox.
            timeout: Longest wait in seconds.

        Returns:
            Whether it has been stored, or there is an outage.
        """
        return self.until(lambda: not self._has_up_to(key), time.monotonic() + timeout)

    def until_drained(self, timeout: float) -> bool:
        """Wait ``timeout`` seconds at most until nothing is ready to leave, at its pace; returns whether nothing is."""
        return self.at_its_pace(lambda: not self.has_ready, time.monotonic() + timeout)

    @property
    def has_ready(self) -> bool:
        """Whether something waits that is going to leave soon: not progress that is not due, nor during an outage."""
        waits = bool(self._queue) or self._queue.next_due <= time.monotonic()
        is_leaving = bool(self._backlog) and not self._backlog.is_recovering
        return is_leaving or ((waits or self._sender.is_sending) and not self._sender.is_failing)

    def _has_up_to(self, key: int) -> bool:
        if self._sender.is_failing:
            return False
        first = [self._queue.oldest, *(flying for flying, _ in self._sender.in_flight.since(-1)[:1])]
        return any(one is not None and one <= key for one in first)

    def _is_leaving(self, job: Owner) -> bool:
        """Return whether a status of a job waits that is going to leave soon."""
        if self._backlog.has_status(job) and not self._backlog.is_recovering:
            return True
        waits = self._queue.has_status(job) or self._sender.in_flight.has_status(job)
        return waits and not self._sender.is_failing
