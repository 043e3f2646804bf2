"""The one thread that takes events out of a queue and sends them, in batches and at its own pace."""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic

from celery_realtime.clocks import time
from celery_realtime.forks import talking
from celery_realtime.loops import BackgroundLoop, WakeUp, start_detached
from celery_realtime.sending.backlog import LONGEST_TURN, Backlog
from celery_realtime.sending.changes import Changes
from celery_realtime.sending.event_queue import Batch, EventQueue, Owner, T, items_of, owner_of
from celery_realtime.sending.hold import Hold
from celery_realtime.sending.ledger import Ledger
from celery_realtime.sending.pace import Pace
from celery_realtime.sending.seams import threads_stand_still
from celery_realtime.sending.standby import Standby

logger = logging.getLogger(__name__)

#: Seconds after which a sender without work takes a turn all the same, to be seen by health checks. If nothing waits to
#: be sent later either, its thread ends, and closes the connections; the next event starts another.
IDLE_TURN = 20.0

THREAD = "celery-realtime-outbox"


class InFlight(Generic[T]):
    """A batch that is being sent.

    Args:
        batch: What it has.
    """

    def __init__(self, batch: Batch[T]) -> None:
        self._batch = batch

    def __bool__(self) -> bool:
        return bool(self._batch)

    def since(self, key: int) -> Batch[T]:
        """Return what is newer than a key."""
        newer = itertools.takewhile(lambda entry: entry[0] > key, reversed(self._batch))
        return list(newer)[::-1]

    def has_status(self, job: Owner) -> bool:
        """Return whether a status of a job is on its way."""
        return any(item.rank is not None and owner_of(item) == job for _, item in self._batch)


class Sender(Generic[T]):
    """A thread that empties a queue. It starts when it is first needed, and again if it was killed.

    It ends when all has been sent and nobody has the sender any more (:class:`~celery_realtime.sending.hold.Hold`).

    All methods but :meth:`expediting` are called with ``lock`` held.

    Args:
        queue: What it empties.
        send: Sends a batch and returns how many of its first items are done with. The others are tried again; after an
            exception none are.
        backlog: What it publishes after each batch.
        pace: When it may send, and how much after an outage.
        lock: Guards the queue.
        idle: Notified when a batch is done with.
        batch_size: How many items are sent without a rest.
        ledger: Counts what was dropped.

    Attributes:
        loop: The record of its turns.
        in_flight: What has been taken out of the queue and is not done with.
        done_until: All that was put before that time, of :func:`time.monotonic`, is done with.
    """

    def __init__(
        self,
        queue: EventQueue[T],
        send: Callable[[list[T]], int],
        *,
        backlog: Backlog[T],
        pace: Pace,
        lock: threading.RLock,
        idle: Changes,
        batch_size: int,
        ledger: Ledger,
    ) -> None:
        self.loop = BackgroundLoop("outbox", logger, LONGEST_TURN)
        self._queue = queue
        self._send = send
        self._backlog = backlog
        self._pace = pace
        self._lock = lock
        self._idle = idle
        self._work = WakeUp()
        self._standby = Standby()
        self._hold: Hold[Sender[T]] = Hold(self, self._work)
        self._batch_size = batch_size
        self._ledger = ledger
        self._thread: threading.Thread | None = None
        self.in_flight: InFlight[T] = InFlight([])
        self.done_until = -math.inf
        #: When nothing waited to be sent, of :func:`time.monotonic`.
        self.idle_until = -math.inf
        #: When the batch that is being sent was taken, if it was all that waited; None if something will be left.
        self._took_all_at: float | None = None
        #: When it will have had nothing to do for long, of :func:`time.monotonic`; None while it has.
        self._idle_at: float | None = None
        #: Whether it will look at what comes soon enough by itself, and the urgency of what it rests for.
        self._is_resting, self._urgency = False, 0
        #: One for each thread that waits for something to be sent.
        self._waiting: set[object] = set()
        self._idle_observers: Sequence[Callable[[], None]] = ()

    def on_idle(self, observers: Sequence[Callable[[], None]]) -> None:
        """Call ``observers`` in the thread when it ends, since there has been, or will be, nothing to do."""
        self._idle_observers = observers

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def is_sending(self) -> bool:
        """Whether a batch has been taken out of the queue and is not done with."""
        return bool(self.in_flight)

    @property
    def is_failing(self) -> bool:
        """Whether the last batch could not be sent."""
        return self._pace.is_failing

    # -- from other threads -------------------------------------------------------------------------------------

    def ensure(self) -> None:
        """Start the thread unless it runs, and another one if it hangs in publishing the backlog."""
        if not self.is_alive or self._backlog.detach_stuck():
            self._start()

    def prepare(self) -> None:
        """Have a thread for what has come; one that is started now waits for a publication that goes on here."""
        self._hold.kept = self
        if self._thread is None or self._backlog.is_sending:
            self.ensure()

    def wake(self, is_news: bool) -> None:
        """Let the thread look at what has come, unless it rests: then it looks soon enough."""
        # It rests for too long if something more urgent has come, or as much as fits in a batch.
        has_to_end = self._queue.urgency > self._urgency or len(self._queue) >= self._batch_size
        if is_news and (has_to_end or not self._is_resting):
            self._work.call()

    @contextlib.contextmanager
    def expediting(self) -> Iterator[None]:
        """Let the thread not rest while somebody waits for it, who does not hold the lock meanwhile."""
        waiting = object()
        try:
            with self._lock:
                self._waiting.add(waiting)
                self._standby.cut_short()
                self._work.call()
            yield
        finally:
            self._waiting.discard(waiting)  # in one step: whoever is killed may not get the lock any more

    def _start(self) -> None:
        if threads_stand_still():
            logger.warning(
                "this uWSGI runs no threads outside requests, so events are late or lost; start it with enable-threads"
            )
        self._standby = Standby()
        if not self.in_flight:
            self.idle_until = time.monotonic()  # what has come since has started this
        arguments = (self._hold, self.loop, self._idle_observers, self._standby)
        self._thread = threading.Thread(target=_send_on, args=arguments, name=THREAD, daemon=True)
        try:
            start_detached(self._thread)
        except RuntimeError as error:  # too many threads, or the interpreter ends
            self._thread = None
            self._ledger.stranded(len(self._queue), error)

    def stop(self) -> None:
        """Let the thread end: at once if it waits, or else after its present batch."""
        self._thread = None
        self._work.call()

    # -- in the thread ------------------------------------------------------------------------------------------

    def turn(self, me: threading.Thread) -> float | None:
        """Send what may be sent now; without the lock.

        Args:
            me: The thread that calls.

        Returns:
            The seconds to wait before the next turn, unless woken; None if ``me`` is to end.
        """
        with self.loop.turn():
            look_in = self._pace.look(self._queue.held > 0)
            batch, pause = self._next_batch(me)
            if not batch:
                return pause if pause is None else min(pause, look_in)
            began = time.thread_time()
            self._send_batch(batch)
            self._backlog.publish()
            with self._lock:
                if self._thread is me:
                    self._pace.rest(time.monotonic(), time.thread_time() - began)
                    if self._took_all_at is not None and not self._backlog:
                        self.done_until = self._took_all_at
        return 0.0

    @property
    def is_stopped(self) -> bool:
        """Whether there is to be no thread."""
        return self._thread is None

    def note_end(self, thread: threading.Thread) -> None:
        """Note that a thread has ended; if it was killed, the next event starts another."""
        if self._thread is thread:
            self._thread = None

    def _next_batch(self, me: threading.Thread) -> tuple[Batch[T], float | None]:
        """Take what may be sent now; returns it, and if that is nothing, what :meth:`turn` does."""
        with self._lock:
            if self._thread is not me:  # what has come is for the thread that has taken its place
                self._work.call()
                return [], None
            wait, clock = self._wait_time(), time.monotonic()
            if wait <= 0:
                self._is_resting, self._idle_at = False, None
                batch = self._queue.take(self._pace.batch_size)
                self.in_flight = InFlight(batch)
                self._took_all_at = None if self._queue else clock
                return batch, None
            self._hold.kept = self if self._has_events else None
            if not (self._queue or self._backlog):
                self.idle_until = clock
            if self._idle_at is None:
                self._idle_at = clock + IDLE_TURN
            if clock < self._idle_at:
                return [], min(wait, self._idle_at - clock)
            self._idle_at = None
            if self._has_work:
                return [], 0.0
            self._thread = None
            return [], None

    @property
    def _has_work(self) -> bool:
        return bool(self._has_events or self._backlog or self._waiting)

    @property
    def _has_events(self) -> bool:
        """Whether something is left to this thread; what another one sends, that one keeps."""
        return bool(self._queue or self._queue.held or (self._backlog and not self._backlog.is_recovering))

    def _wait_time(self) -> float:
        """Return how long nothing may be sent, in seconds; 0 or less when something may."""
        clock = time.monotonic()
        self._queue.release_due(clock)
        pause = self._pace.pause_left(clock)
        self._urgency = self._queue.urgency
        self._is_resting = pause > 0 or len(self._queue) > 0
        if pause > 0:
            return pause
        if not self._queue:
            return self._queue.next_due - clock
        if self._waiting or len(self._queue) >= self._batch_size:
            return 0.0
        urgent, queued = self._queue.urgent, self._queue.queued
        progress = len(self._queue) > urgent + queued
        return self._pace.rest_left(clock, urgent=urgent > 0, queued=queued > 0, progress=progress)

    def _send_batch(self, batch: Batch[T]) -> None:
        done: int | None = None
        began = time.monotonic()
        try:
            with talking:
                done = self._send(items_of(batch))
        finally:
            self._settle(batch, done, began)

    def _settle(self, batch: Batch[T], done: int | None, began: float) -> None:
        """Put back what was not sent; or note that an exception, for which ``done`` is None, has ended the batch."""
        with self._lock:
            self.in_flight = InFlight([])
            self._queue.settle(batch[:done])
            if done is None:
                self._ledger.failed(len(batch))
            if done is None or done == len(batch):
                self._pace.succeeded(began, time.monotonic(), len(self._queue))
            else:
                self._queue.put_back(batch[done:])
                self._took_all_at = None
                self._pace.failed(began, time.monotonic())
            self._idle.notify_all()


def _send_on(
    hold: Hold[Sender[Any]], loop: BackgroundLoop, idle_observers: Sequence[Callable[[], None]], standby: Standby
) -> None:
    """Send whatever comes to a sender, for as long as there is one: while there is nothing, nothing here keeps it."""
    me = threading.current_thread()
    try:
        standby.wait()
        while (sender := hold.get()) is not None:
            pause = sender.turn(me)
            del sender
            if pause is None:
                break
            if pause > 0:
                hold.work.wait(pause)
    finally:
        sender = hold.get()
        if sender is not None:
            sender.note_end(me)
        loop.rest()
    if sender is None or sender.is_stopped:
        del sender
        for observer in idle_observers:
            with loop.turn(), talking:
                observer()
        loop.rest()
