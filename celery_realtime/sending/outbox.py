"""Take events from any thread at once and send them from one, so that no task waits for a broker."""

from __future__ import annotations

import functools
import logging
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Generic

from celery_realtime.backoff import Backoff
from celery_realtime.clocks import time
from celery_realtime.forks import after_fork, at_exit
from celery_realtime.loops import BackgroundLoop
from celery_realtime.sending.backlog import Backlog
from celery_realtime.sending.changes import Changes
from celery_realtime.sending.event_queue import Batch, EventQueue, Owner, T
from celery_realtime.sending.ledger import Ledger
from celery_realtime.sending.pace import Pace
from celery_realtime.sending.sender import Sender
from celery_realtime.sending.slow_start import SlowStart
from celery_realtime.sending.waits import Waits
from celery_realtime.sending.ways import Ways

logger = logging.getLogger(__name__)

#: The first and the longest pause after a failure, in seconds.
PAUSES = (0.2, 2.0)


class Outbox(Generic[T]):
    """A bounded queue and the one thread that empties it.

    Lifecycle and custom events keep their order and are the last to be dropped. Of a job's progress only the newest
    waiting update is sent; it may be held back until it is due, and a status of the same job takes it along.

    The thread starts with the first event of a process, and again after a fork, over which nothing is inherited.

    Where there is a history, events are appended to it first, and that goes on while they cannot be published
    (:class:`~celery_realtime.sending.backlog.Backlog`).

    Args:
        publish: Sends a batch and returns how many of its first items were sent. What was not is tried again.
        queue_size: How many events may wait.
        batch_size: The most events in a batch; fewer after an outage (:mod:`celery_realtime.sending.slow_start`).
        linger: Least time between two batches, in seconds; after a longer silence an event leaves at once. Under load
            it grows up to :data:`~celery_realtime.sending.pace.LONGEST_REST`, the most that all but progress waits, and
            what only says that a job is queued: that waits longer, see there.
        flush_timeout: Longest wait, in seconds, at interpreter exit.
        append: Stores a batch and returns what to publish for it, or None when that has to be tried again.
        pauses: The first and the longest pause after a failure, in seconds.
        destination: What the log calls the place that events go to.
    """

    def __init__(
        self,
        publish: Callable[[list[T]], int],
        *,
        queue_size: int,
        batch_size: int,
        linger: float,
        flush_timeout: float,
        append: Callable[[list[T]], list[T] | None] | None = None,
        pauses: tuple[float, float] = PAUSES,
        destination: str = "the broker",
    ) -> None:
        self._idle_observers: list[Callable[[], None]] = []
        self._looks: list[Callable[[bool], float]] = []
        self._settlement_observers: list[Callable[[Batch[T]], None]] = []
        self._publish = publish
        self._append = append
        self._queue_size, self._batch_size = queue_size, batch_size
        self._linger, self._flush_timeout = linger, flush_timeout
        self._pauses, self._destination = pauses, destination
        self.start_over()
        after_fork(self.start_over)

    def start_over(self) -> None:
        """Forget everything that waits, and the threads that send; done in each child of a fork."""
        self._ledger = Ledger(logger, self._destination, self._queue_size)
        self._lock = threading.RLock()
        self._idle = Changes(self._lock)
        self._queue: EventQueue[T] = EventQueue(self._queue_size, self._ledger, settled=self._settle)
        ways = Ways(self._publish, self._append, self._ledger)
        self._backlog: Backlog[T] = Backlog(
            ways.publish,
            changed=self._idle,
            size=self._queue_size,
            # What is stored as one batch is published as one, the updates of workflows that come with it included.
            batch_size=2 * self._batch_size,
            backoff=Backoff(*self._pauses),
            ledger=self._ledger,
        )
        # What a broker that blocks has been given and not confirmed, a publisher knows only of the same batch.
        slow_start = SlowStart(self._batch_size, splits=self._append is not None)
        self._sender: Sender[T] = Sender(
            self._queue,
            functools.partial(ways.send, self._queue, self._backlog),
            backlog=self._backlog,
            pace=Pace(self._linger, Backoff(*self._pauses), slow_start, self._looks),
            lock=self._lock,
            idle=self._idle,
            batch_size=self._batch_size,
            ledger=self._ledger,
        )
        self._sender.on_idle(self._idle_observers)
        #: Waits until something has left; another one when it starts over.
        self.waits = Waits(self._sender, self._queue, self._backlog, lock=self._lock, changes=self._idle)
        self._is_sent_at_exit = False

    # Modules are torn down when the interpreter ends, and then a global of this one may be None.
    _is_finalizing = staticmethod(sys.is_finalizing)

    @property
    def counts(self) -> Counter[str]:
        """What became of events: see :class:`~celery_realtime.sending.ledger.Ledger`."""
        return self._ledger.counts

    @property
    def ledger(self) -> Ledger:
        """What counts what became of events; another one when it starts over."""
        return self._ledger

    @property
    def accepted(self) -> int:
        """How many events have been put since it started over."""
        return self._queue.accepted

    @property
    def is_stored(self) -> bool:
        """Whether the history, if there is one, has accepted what was last to be stored."""
        return self._append is None or not self._sender.is_failing

    @property
    def is_published(self) -> bool:
        """Whether the broker has accepted what was last to be published."""
        return not (self._backlog.is_recovering or (self._append is None and self._sender.is_failing))

    @property
    def loops(self) -> list[BackgroundLoop]:
        """The records of the loops that have something to do in this process."""
        with self._lock:
            loops = [self._sender.loop] if self._sender.is_alive else []
            return [*loops, self._backlog.loop] if self._backlog else loops

    @property
    def size(self) -> int:
        """How many events wait."""
        return len(self._queue) + self._queue.held + len(self._backlog)

    @property
    def age(self) -> float:
        """For how many seconds something may have waited to be sent; 0 if nothing does but progress held back."""
        with self._lock:
            if self.waits.is_all_sent():
                return 0.0
            return max(0.0, time.monotonic() - max(self._sender.done_until, self._sender.idle_until))

    # -- putting ------------------------------------------------------------------------------------------------

    def put(self, event: T, due: float = 0.0, *, quietly: bool = False) -> None:
        """Accept an event; never blocks, never raises for want of a broker or of room.

        Args:
            event: The event.
            due: For progress, the :func:`time.monotonic` time before which it is held back, or what it replaces was.
            quietly: Whether the thread that sends is left alone until :meth:`wake`, so that what the caller does
                meanwhile does not wait for the interpreter. It may send the event before. If there is none, it is
                started now: whoever starts one waits for it.
        """
        if self._is_finalizing():
            return  # no thread runs any more, and one that was stopped may hold the lock
        with self._lock:
            is_news = self._queue.put(event, due)
            if quietly:
                self._prepare()
            else:
                self._wake(is_news)

    def wake(self) -> None:
        """Let the thread that sends look at what was put quietly."""
        if self._is_finalizing():
            return
        with self._lock:
            if self._queue:
                self._wake(is_news=True)

    def hasten(self, job: Owner, due: float) -> None:
        """Let held-back progress of a job leave at ``due``, of :func:`time.monotonic`, if that is earlier."""
        with self._lock:
            if self._queue.hasten(job, due):
                self._wake(is_news=True)

    def put_all(self, events: Iterable[T]) -> None:
        """Accept events that leave together, as :meth:`put` does one."""
        if self._is_finalizing():
            return
        with self._lock:
            is_news = False
            for event in events:
                is_news |= self._queue.put(event)
            self._wake(is_news)

    def _wake(self, is_news: bool) -> None:
        self._prepare()
        self._sender.wake(is_news)

    def _prepare(self) -> None:
        if not self._is_sent_at_exit:
            self._is_sent_at_exit = True
            at_exit(self._end)
        self._sender.prepare()

    def on_idle(self, observer: Callable[[], None]) -> None:
        """Call ``observer`` when all has been sent for long, or for good: nobody has the outbox any more, or an exit.

        In the thread that sends, but at an exit. It must not know of whoever has the outbox, which would live for it.
        """
        self._idle_observers.append(observer)

    def on_held(self, look: Callable[[bool], float]) -> None:
        """Call ``look`` in the thread that sends, with whether progress is held; it says in how many seconds again."""
        self._looks.append(look)

    def on_settled(self, observer: Callable[[Batch[T]], None]) -> None:
        """Call ``observer`` with events that are sent, given up or dropped, while nothing else happens here."""
        self._settlement_observers.append(observer)

    def _settle(self, batch: Batch[T]) -> None:
        for observer in self._settlement_observers:
            observer(batch)

    @property
    def last_key(self) -> int:
        """The key of what came last; -1 if nothing has come."""
        return self._queue.last_key

    def look(self, key: int, observer: Callable[[Batch[T]], None]) -> None:
        """Call ``observer`` with what waits or is being sent and came after a key, while nothing else happens."""
        if self._is_finalizing():
            return
        with self._lock:
            observer([*self._sender.in_flight.since(key), *self._queue.since(key)])

    # -- sending ------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Let the thread that sends end, after its present batch if it has one; the next event starts another."""
        with self._lock:
            self._sender.stop()

    def flush(self, timeout: float | None = None) -> bool:
        """Send all that waits, delayed progress too, and wait until it has left.

        Args:
            timeout: Longest wait in seconds; default: the ``flush_timeout`` setting.

        Returns:
            Whether everything has left.
        """
        if self._is_finalizing():
            return not self.size
        deadline = time.monotonic() + (self._flush_timeout if timeout is None else timeout)
        with self._lock:
            self._queue.release_all()
            if self._queue:
                self._sender.ensure()
        return self.waits.until(self.waits.is_all_sent, deadline)

    def _end(self) -> None:
        if not self.flush():
            logger.error(
                "this process ends before its last batch and %d events after it were sent, so they may be lost; see"
                " whether the broker and the history answer, or raise realtime_flush_timeout",
                self.size,
            )
        # RabbitMQ may discard the last messages of a client that merely hangs up.
        for observer in self._idle_observers:
            observer()
