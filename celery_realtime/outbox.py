"""Take events from any thread at once and send them from one, so that no task waits for a broker."""

from __future__ import annotations

import atexit
import contextlib
import itertools
import logging
import os
import random
import sys
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator

from celery_realtime.events import Outgoing
from celery_realtime.forks import talking

logger = logging.getLogger(__name__)

Deliver = Callable[[list[Outgoing]], int]
Persist = Callable[[list[Outgoing]], "list[Outgoing] | None"]

LOG_INTERVAL = 60.0
FIRST_PAUSE = 0.2
LONGEST_PAUSE = 2.0

#: Most seconds that an event waits for company.
LONGEST_REST = 0.05

#: How much longer than sending, in time of the processor, the rest after it is.
REST_SHARE = 19.0

#: Seconds after which a delivery that has not come back holds up nothing else any more.
STUCK = 0.05

#: No lock waits much longer than this, infinity least of all.
LONGEST_WAIT = 3600.0


class Outbox:
    """A bounded queue and the one thread that empties it.

    Lifecycle and custom events keep their order and are the last to be dropped. Of a job's progress only the newest
    waiting update is kept; it may be held back until it is due, and an event of the same job takes it along.

    The thread starts with the first event of a process, and again after a fork. Nothing is inherited over a fork:
    what waits in the parent, the parent sends.

    Where events are persisted first, that goes on while they cannot be delivered: what happens is on record in the
    order in which it happened. A second thread then tries to deliver what has piled up, and ends when it has.

    Attributes:
        counts: What became of events: ``sent``, ``coalesced`` (replaced by newer progress), ``dropped_progress`` and
            ``dropped_lifecycle`` (for want of room), ``dropped_error`` (the sender failed on them),
            ``dropped_persisted`` (for want of room, after they had been persisted).

    Args:
        deliver: Sends a batch and returns how many of its first events were sent. What was not is tried again.
        persist: Stores a batch and returns what to deliver for it, or None when that has to be tried again.
        queue_size: Events that may wait.
        batch_size: Most events in a batch.
        linger: Least time between two batches, in seconds; after a longer silence an event leaves at once. All but
            progress waits ``LONGEST_REST`` at most. Under load the time grows, up to that, until sending takes a
            twentieth of the process's time.
        flush_timeout: Longest wait, in seconds, at interpreter exit.
        destination: What the log calls the place that events go to.
    """

    def __init__(
        self,
        deliver: Deliver,
        *,
        persist: Persist | None = None,
        queue_size: int = 10000,
        batch_size: int = 100,
        linger: float = 0.005,
        flush_timeout: float = 5.0,
        destination: str = "the broker",
    ) -> None:
        self._deliver = deliver
        self._persist = persist
        self._destination = destination
        self._queue_size = queue_size
        self._batch_size = batch_size
        self._linger = linger
        self._flush_timeout = flush_timeout
        self._start_over()
        _forget_at_fork(self)

    def _start_over(self) -> None:
        self.counts: Counter[str] = Counter()
        self._lock = threading.RLock()
        self._work = threading.Condition(self._lock)
        self._idle = threading.Condition(self._lock)
        self._keys = itertools.count()
        self._queue: dict[int, Outgoing] = {}
        #: By job, the key of the progress that newer progress replaces.
        self._waiting: dict[str, int] = {}
        #: The keys of progress that a status of its job follows: nothing replaces it, and hardly anybody needs it.
        self._passed: dict[int, None] = {}
        self._delayed: dict[str, tuple[float, Outgoing]] = {}
        self._urgent = 0
        self._sending = False
        #: Until when the sender gathers company for what waits, unless somebody waits for it to leave.
        self._rests_until = 0.0
        self._lingers_until = 0.0
        self._resting = False
        self._hurry = 0
        self._pause = 0.0
        self._paused_until = 0.0
        self._random = random.Random()  # a task that has seeded the common one must get the same numbers every time
        self._logged_at = -LOG_INTERVAL
        self._thread: threading.Thread | None = None
        #: What has been persisted and not been delivered, and which of it is progress.
        self._backlog: dict[int, Outgoing] = {}
        self._backlog_progress: dict[int, None] = {}
        self._delivering_since: float | None = None
        #: The thread that delivers what has piled up, while the sender does not.
        self._recoverer: threading.Thread | None = None
        self._flushes_at_exit = False

    # Modules are torn down when the interpreter ends, and then a global of this one may be None.
    _is_finalizing = staticmethod(sys.is_finalizing)

    def put(self, event: Outgoing, due: float = 0.0) -> None:
        """Accept an event; never blocks, never raises for want of a broker or of room.

        Args:
            event: The encoded event.
            due: For progress, the :func:`time.monotonic` time before which it is held back.
        """
        if self._is_finalizing():
            return  # no thread runs any more, and one that was stopped may hold the lock
        with self._lock:
            is_news = self._put_progress(event, due) if event.progress else self._put_next(event)
            self._notify(is_news)

    def put_all(self, events: list[Outgoing]) -> None:
        """Accept events that leave together, as :meth:`put` does one."""
        if self._is_finalizing():
            return
        with self._lock:
            for event in events:
                self._put_progress(event, 0.0) if event.progress else self._put_next(event)
            self._notify(bool(events))

    def _notify(self, is_news: bool) -> None:
        """Let the sender look at what has come, unless it rests: then it looks soon enough."""
        if self._thread is None or self._delivering_since is not None:
            self._ensure_thread()
        if is_news and (not self._resting or self._urgent == 1 or len(self._queue) >= self._batch_size):
            self._work.notify()

    def _put_progress(self, event: Outgoing, due: float) -> bool:
        """Queue progress, or hold it back; returns whether the thread must look again at when to go on."""
        job_id = event.job_id or ""
        waiting = self._waiting.get(job_id)
        if waiting is not None:
            self._queue[waiting] = event
            self.counts["coalesced"] += 1
            return False
        held = self._delayed.get(job_id)
        if held is not None:
            self.counts["coalesced"] += 1
        if due > time.monotonic():
            if held is None:
                self._make_room()
            self._delayed[job_id] = (due, event)
            return held is None or due < held[0]
        self._delayed.pop(job_id, None)
        self._waiting[job_id] = self._append(event)
        return True

    def _put_next(self, event: Outgoing) -> bool:
        if event.rank is not None and event.job_id is not None:
            self._release(event.job_id)
            passed = self._waiting.pop(event.job_id, None)
            if passed is not None:
                self._passed[passed] = None
        self._append(event)
        self._urgent += 1
        return True

    def _append(self, event: Outgoing) -> int:
        self._make_room()
        key = next(self._keys)
        self._queue[key] = event
        return key

    def _release(self, job_id: str) -> None:
        """Queue a job's delayed progress now."""
        held = self._delayed.pop(job_id, None)
        if held is not None:
            self._waiting[job_id] = self._append(held[1])

    def _make_room(self) -> None:
        while len(self._queue) + len(self._delayed) >= self._queue_size:
            self._drop_least()

    def _drop_least(self) -> None:
        if self._passed:
            key = next(iter(self._passed))
            del self._passed[key], self._queue[key]
            self._count_drop("progress")
        elif self._waiting:
            del self._queue[self._waiting.pop(next(iter(self._waiting)))]
            self._count_drop("progress")
        elif self._delayed:
            del self._delayed[next(iter(self._delayed))]
            self._count_drop("progress")
        else:
            del self._queue[next(iter(self._queue))]
            self._urgent -= 1
            self._count_drop("lifecycle")

    def _count_drop(self, kind: str) -> None:
        self.counts[f"dropped_{kind}"] += 1
        self._log(
            "events wait for %s beyond realtime_queue_size=%d; the oldest are dropped",
            *(self._destination, self._queue_size),
        )

    def _log(self, message: str, *args: object) -> None:
        """Log at most once a minute: an outage is one fact, not ten thousand."""
        if time.monotonic() - self._logged_at >= LOG_INTERVAL:
            self._logged_at = time.monotonic()
            logger.error(f"{message} (counts: %s)", *args, dict(self.counts))  # noqa: G004

    def _ensure_thread(self) -> None:
        if self._thread is not None and self._thread.is_alive():
            return self._relieve_sender()
        if not self._flushes_at_exit:
            self._flushes_at_exit = True
            atexit.register(_flush_if_alive, weakref.ref(self), os.getpid())
        return self._start_thread()

    def _start_thread(self) -> None:
        self._thread = threading.Thread(target=self._run, name="celery-realtime-outbox", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:  # too many threads, or the interpreter ends; the next event tries again
            self._thread = None
            self._log("no thread can be started; %d events wait: %r", self.size, error)

    def _run(self) -> None:
        me = threading.current_thread()
        try:
            while self._thread is me:
                batch = self._next_batch()
                began = time.thread_time()
                self._send(batch)
                self._rest(time.thread_time() - began)
        finally:
            if self._thread is me:  # it was killed; the next event starts another
                self._thread = None

    def _send(self, batch: list[tuple[int, Outgoing]]) -> None:
        if self._persist is None:
            done = self._try_deliver([event for _, event in batch])
            with self._lock:
                self._after_delivery(batch, done)
        else:
            self._pass_on(batch, self._try_persist([event for _, event in batch], self._persist))

    # -- what is persisted first --------------------------------------------------------------------------------

    def _try_persist(self, events: list[Outgoing], persist: Persist) -> list[Outgoing] | None:
        try:
            with talking:
                return persist(events)
        except Exception as error:
            self.counts["dropped_error"] += len(events)
            self._log("%d events could not be stored and are dropped: %r", len(events), error)
            return []

    def _pass_on(self, batch: list[tuple[int, Outgoing]], persisted: list[Outgoing] | None) -> None:
        with self._lock:
            for event in persisted or ():
                self._pile_up(event)
            self._after_delivery(batch, 0 if persisted is None else len(batch))
            self._delivering_since = time.monotonic() if self._recoverer is None else None
        while self._delivering_since is not None and self._thread is threading.current_thread():
            if not self._deliver_backlog():
                self._start_recovery()
        if self._thread is not threading.current_thread():
            self._recover(pause=0.0)

    def _relieve_sender(self) -> None:
        """Let a new thread persist what comes, when the present one does not come back from delivering."""
        since = self._delivering_since
        if since is not None and time.monotonic() - since > STUCK:
            self._delivering_since, self._recoverer = None, self._thread
            self._start_thread()

    def _pile_up(self, event: Outgoing) -> None:
        key = next(self._keys)
        self._backlog[key] = event
        if event.progress:
            self._backlog_progress[key] = None
        if len(self._backlog) > self._queue_size:
            least = next(iter(self._backlog_progress or self._backlog))
            self._backlog_progress.pop(least, None)
            del self._backlog[least]
            self._count_drop("persisted")

    def _deliver_backlog(self) -> bool:
        """Deliver the first of what has piled up; returns whether that worked."""
        with self._lock:
            batch = list(itertools.islice(self._backlog.items(), self._batch_size))
        sent = self._try_deliver([event for _, event in batch]) if batch else 0
        with self._lock:
            for key, _ in batch[:sent]:
                self._backlog.pop(key, None)
                self._backlog_progress.pop(key, None)
            if not self._backlog:
                self._delivering_since = self._recoverer = None
            self._idle.notify_all()
        return sent == len(batch)

    def _start_recovery(self) -> None:
        with self._lock:
            if self._thread is not threading.current_thread():
                return
            self._recoverer = threading.Thread(target=self._recover, name="celery-realtime-recovery", daemon=True)
            self._delivering_since = None
            self._idle.notify_all()
        try:
            self._recoverer.start()
        except RuntimeError as error:  # too many threads: the sender tries again with its next batch
            self._recoverer = None
            self._log("no thread can be started; %d events wait: %r", len(self._backlog), error)

    def _recover(self, pause: float = FIRST_PAUSE) -> None:
        """Deliver what has piled up, and leave the rest to the sender."""
        while self._recoverer is threading.current_thread():
            if pause:
                self._log("%s does not take events; %d wait", self._destination, len(self._backlog))
                time.sleep(pause * self._random.uniform(0.5, 1.0))
            pause = 0.0 if self._deliver_backlog() else min(max(pause * 2, FIRST_PAUSE), LONGEST_PAUSE)

    # -- what is only delivered ---------------------------------------------------------------------------------

    def _try_deliver(self, events: list[Outgoing]) -> int:
        """Return how many of the first events are done with: sent, or lost."""
        try:
            with talking:
                sent = self._deliver(events)
            self.counts["sent"] += sent
            return sent
        except Exception as error:
            self.counts["dropped_error"] += len(events)
            self._log("%d events could not be sent and are dropped: %r", len(events), error)
            return len(events)

    def _after_delivery(self, batch: list[tuple[int, Outgoing]], done: int) -> None:
        if done < len(batch):
            self._put_back(batch[done:])
            self._pause = min(max(self._pause * 2, FIRST_PAUSE), LONGEST_PAUSE)
            self._paused_until = time.monotonic() + self._pause * self._random.uniform(0.5, 1.0)
            place = self._destination if self._persist is None else "the history"
            self._log("%s does not take events; %d wait", place, len(self._queue))
        else:
            self._pause = self._paused_until = 0.0
        self._sending = False
        self._idle.notify_all()

    def _put_back(self, batch: list[tuple[int, Outgoing]]) -> None:
        """Queue again, in front, what was not sent, but for progress of which there is newer by now."""
        kept: list[tuple[int, Outgoing]] = []
        followed = {event.job_id for event in self._queue.values() if event.rank is not None}
        for key, event in reversed(batch):
            told: Outgoing | None = event
            if event.progress:
                told = self._newest(key, event, event.job_id in followed)
            else:
                self._urgent += 1
                followed |= {event.job_id} if event.rank is not None else set()
            if told is not None:
                kept.append((key, told))
        self._queue = {**dict(reversed(kept)), **self._queue}

    def _newest(self, key: int, event: Outgoing, is_followed: bool) -> Outgoing | None:
        """Return what takes the place of progress that was not sent: itself, newer progress, or nothing."""
        job_id = event.job_id or ""
        if is_followed:
            self._passed[key] = None
            return event
        if job_id in self._waiting:
            self.counts["coalesced"] += 1
            return None
        self._waiting[job_id] = key
        if job_id not in self._delayed:
            return event
        self.counts["coalesced"] += 1
        return self._delayed.pop(job_id)[1]

    def _next_batch(self) -> list[tuple[int, Outgoing]]:
        with self._lock:
            while True:
                wait = self._wait_time()
                self._resting = wait is None
                if wait is None:
                    wait = (self._rests_until if self._urgent else self._lingers_until) - time.monotonic()
                    if self._hurry or wait <= 0 or len(self._queue) >= self._batch_size:
                        self._resting = False
                        return self._take()
                self._work.wait(min(wait, LONGEST_WAIT))

    def _rest(self, busy: float) -> None:
        """Gather company after sending, which took so many seconds of the processor."""
        if self._linger:
            clock, rest = time.monotonic(), min(max(self._linger, REST_SHARE * busy), LONGEST_REST)
            self._rests_until, self._lingers_until = clock + rest, clock + max(self._linger, rest)

    def _wait_time(self) -> float | None:
        """Return how long nothing can be sent, in seconds; None when something can."""
        clock = time.monotonic()
        for job_id in [job_id for job_id, (due, _) in self._delayed.items() if due <= clock]:
            self._release(job_id)
        if self._paused_until > clock:
            return self._paused_until - clock
        if self._queue:
            return None
        return min((due for due, _ in self._delayed.values()), default=clock + LONGEST_WAIT) - clock

    def _take(self) -> list[tuple[int, Outgoing]]:
        batch = list(itertools.islice(self._queue.items(), self._batch_size))
        for key, event in batch:
            del self._queue[key]
            if not event.progress:
                self._urgent -= 1
            elif self._waiting.get(event.job_id or "") == key:
                del self._waiting[event.job_id or ""]
            else:
                self._passed.pop(key, None)
        self._sending = True
        return batch

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
            for job_id in list(self._delayed):
                self._release(job_id)
            if self._queue:
                self._ensure_thread()
            with self._in_a_hurry():
                while self._queue or self._sending or self._backlog:
                    left = deadline - time.monotonic()
                    if left <= 0 or self._thread is None or not self._thread.is_alive():
                        return False
                    self._relieve_sender()
                    self._idle.wait(min(left, STUCK if self._queue else LONGEST_WAIT))
        return True

    @contextlib.contextmanager
    def _in_a_hurry(self) -> Iterator[None]:
        """Let nothing rest while somebody waits."""
        self._hurry += 1
        self._work.notify()
        try:
            yield
        finally:
            self._hurry -= 1

    def let_out(self, timeout: float) -> None:
        """Wait until what is urgent has left, at most ``timeout`` seconds; during an outage, not at all."""
        deadline = time.monotonic() + timeout
        with self._lock, self._in_a_hurry():
            while (self._urgent or self._sending or self._delivering_since is not None) and not self._pause:
                left = deadline - time.monotonic()
                if left <= 0 or self._thread is None or not self._thread.is_alive():
                    return
                self._relieve_sender()
                self._idle.wait(min(left, STUCK))

    @property
    def size(self) -> int:
        """Events that wait."""
        return len(self._queue) + len(self._delayed) + len(self._backlog)


def _forget_at_fork(outbox: Outbox) -> None:
    reference = weakref.ref(outbox)

    def start_over() -> None:
        alive = reference()
        if alive is not None:
            alive._start_over()

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=start_over)


def _flush_if_alive(reference: weakref.ref[Outbox], pid: int) -> None:
    outbox = reference()
    if outbox is not None and os.getpid() == pid:
        outbox.flush()
