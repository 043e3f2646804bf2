"""The ways on which events leave: into the history and then to the broker, or to the broker alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic

from celery_realtime.sending.backlog import Backlog
from celery_realtime.sending.event_queue import EventQueue, T
from celery_realtime.sending.ledger import Ledger


class Ways(Generic[T]):
    """Sends batches, and counts what becomes of them.

    Args:
        publish: Sends a batch and returns how many of its first items were sent.
        append: Stores a batch and returns what to publish for it, or None when that has to be tried again; None where
            there is no history.
        ledger: Counts.
    """

    def __init__(
        self,
        publish: Callable[[list[T]], int],
        append: Callable[[list[T]], list[T] | None] | None,
        ledger: Ledger,
    ) -> None:
        self._publish = publish
        self._append = append
        self._ledger = ledger

    def publish(self, events: list[T]) -> int:
        """Publish events; returns how many of the first were."""
        sent = self._publish(events)
        self._ledger.count("sent", sent)
        return sent

    def send(self, queue: EventQueue[T], backlog: Backlog[T], events: list[T]) -> int:
        """Send events; returns how many are done with.

        Args:
            queue: What waits behind them.
            backlog: Has, from then on, those that have been stored.
            events: The events.
        """
        waiting = len(queue) + queue.held + len(backlog) + len(events)
        if self._append is None:
            sent = self.publish(events)
            if sent < len(events):
                self._ledger.delayed(waiting - sent)
            return sent
        stored = self._append(events)
        if stored is None:
            self._ledger.delayed(waiting, "the history")
            return 0
        backlog.add(stored)
        return len(events)
