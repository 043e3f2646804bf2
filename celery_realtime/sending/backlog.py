"""Publish what is stored in the history, in its order; what the broker does not accept waits, and is tried again."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable
from typing import Generic

from celery_realtime.backoff import Backoff
from celery_realtime.clocks import time
from celery_realtime.forks import talking
from celery_realtime.loops import BackgroundLoop
from celery_realtime.sending.changes import Changes
from celery_realtime.sending.event_queue import Batch, Owner, T, items_of, owner_of
from celery_realtime.sending.ledger import Ledger

logger = logging.getLogger(__name__)

#: Seconds after which a call of the sender that has not come back delays nothing else any more.
STUCK = 0.05

#: Seconds without a turn after which a loop counts as standing still; a call to a broker ends long before.
LONGEST_TURN = 60.0


class Backlog(Generic[T]):
    """What is stored and not published yet.

    The sender publishes it itself while that works. When it fails, a recovery thread goes on with it until nothing is
    left, and the sender goes on storing: what happens is on record in the order in which it happened.

    Args:
        publish: Publishes a batch and returns how many of its first items were accepted.
        changed: Guards the backlog, and is notified when something has left it.
        size: How many items may wait; progress is dropped first, and then the oldest.
        batch_size: The most items in a batch.
        backoff: The pauses of the recovery thread.
        ledger: Counts what was dropped.

    Attributes:
        loop: The record of its turns.
    """

    def __init__(
        self,
        publish: Callable[[list[T]], int],
        *,
        changed: Changes,
        size: int,
        batch_size: int,
        backoff: Backoff,
        ledger: Ledger,
    ) -> None:
        self._publish = publish
        self._changed = changed
        self._size = size
        self._batch_size = batch_size
        self._backoff = backoff
        self._ledger = ledger
        self.loop = BackgroundLoop("backlog", logger, LONGEST_TURN)
        self._keys = itertools.count()
        self._entries: dict[int, T] = {}
        self._progress: dict[int, None] = {}
        #: By job, the key of its newest status.
        self._statuses: dict[Owner, int] = {}
        #: The thread that publishes; None while nothing waits.
        self._publisher: threading.Thread | None = None
        #: Since when the sender has been publishing, of :func:`time.monotonic`; None while it is not.
        self._sender_since: float | None = None

    def __len__(self) -> int:
        return len(self._entries)

    def has_status(self, job: Owner) -> bool:
        """Return whether a status of a job waits."""
        return job in self._statuses

    @property
    def is_recovering(self) -> bool:
        """Whether what waits is left to another thread than the sender."""
        return self._publisher is not None and self._sender_since is None

    @property
    def is_sending(self) -> bool:
        """Whether the sender is publishing."""
        return self._sender_since is not None

    # -- what waits ---------------------------------------------------------------------------------------------

    def add(self, items: list[T]) -> None:
        """Add items that have been stored."""
        with self._changed:
            for item in items:
                self._append(item)

    def _append(self, item: T) -> None:
        key = next(self._keys)
        self._entries[key] = item
        if item.progress:
            self._progress[key] = None
        elif item.rank is not None and item.job_id is not None:
            self._statuses[owner_of(item)] = key
        if len(self._entries) > self._size:
            self._remove(next(iter(self._progress or self._entries)))
            self._ledger.dropped("persisted")

    def _remove(self, key: int) -> None:
        item = self._entries.pop(key, None)  # one that is being published may have been dropped meanwhile
        if item is None:
            return
        self._progress.pop(key, None)
        job = owner_of(item)
        if self._statuses.get(job) == key:
            del self._statuses[job]

    # -- publishing ---------------------------------------------------------------------------------------------

    def publish(self) -> None:
        """Publish what waits, unless another thread is about it; if that fails, leave it to a recovery thread."""
        me = threading.current_thread()
        with self._changed:
            if self._publisher is not None or not self._entries:
                return
            self._publisher, self._sender_since = me, time.monotonic()
        try:
            while self._publisher is me:
                if not self._publish_first():
                    self._start_recovery()
        finally:
            self._release(me)

    def detach_stuck(self) -> bool:
        """Leave what waits to the thread of a sender that hangs in publishing; the lock is held.

        Returns:
            Whether it hangs, so that there has to be another sender.
        """
        is_stuck = self._sender_since is not None and time.monotonic() - self._sender_since > STUCK
        if is_stuck:
            self._sender_since = None
        return is_stuck

    def _publish_first(self) -> bool:
        """Publish the first batch; returns whether all of it is done with."""
        with self._changed:
            batch = list(itertools.islice(self._entries.items(), self._batch_size))
        accepted: int | None = None
        with self.loop.turn(), talking:
            accepted = self._publish(items_of(batch))
        if accepted is None:  # an exception, which trying again would not mend
            self._ledger.failed(len(batch))
            accepted = len(batch)
        self._settle(batch, accepted)
        return accepted == len(batch)

    def _settle(self, batch: Batch[T], done: int) -> None:
        with self._changed:
            for key, _ in batch[:done]:
                self._remove(key)
            if not self._entries:  # in one step, so that nothing is added of which nobody takes care
                self._publisher = self._sender_since = None
                self.loop.rest()
            self._changed.notify_all()

    def _release(self, publisher: threading.Thread) -> None:
        with self._changed:
            if self._publisher is publisher:  # it was killed: the sender tries again with its next batch
                self._publisher = self._sender_since = None
            self._changed.notify_all()

    # -- recovery -----------------------------------------------------------------------------------------------

    def _start_recovery(self) -> None:
        thread = threading.Thread(target=self._recover, name="celery-realtime-recovery", daemon=True)
        with self._changed:
            self._publisher, self._sender_since = thread, None
            self._changed.notify_all()
        try:
            thread.start()
        except RuntimeError as error:  # too many threads, or the interpreter ends
            self._ledger.stranded(len(self), error)
            self._release(thread)

    def _recover(self) -> None:
        me = threading.current_thread()
        try:
            while self._publisher is me:
                self._ledger.delayed(len(self))
                time.sleep(self._backoff.pause())
                while self._publisher is me and self._publish_first():
                    self._backoff.reset()
        finally:
            self._release(me)
