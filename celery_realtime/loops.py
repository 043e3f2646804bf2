"""Background loops: each outlives an exception, logs it, and is seen by health checks when it stands still."""

from __future__ import annotations

import contextlib
import contextvars
import logging
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

from celery_realtime.clocks import time
from celery_realtime.forks import after_fork
from celery_realtime.logs import RateLimitedLogger, describe


def start_detached(thread: threading.Thread) -> None:
    """Start a thread that belongs to nothing that goes on now.

    Sentry and OpenTelemetry hand what surrounds ``Thread.start`` on to the thread: what ours do for all jobs would
    become part of the one request or task that came first. Python 3.14 can do the same with the whole context.

    Raises:
        RuntimeError: There are too many threads, or the interpreter ends.
    """
    contextvars.Context().run(thread.start)


def join(thread: threading.Thread, timeout: float) -> bool:
    """Wait for a thread to end; returns whether it has.

    From Python 3.13 on, the threads of eventlet raise its ``Timeout`` where Python's return. It is no
    :class:`Exception`, and would end a worker that is about to shut down.

    Args:
        thread: The thread.
        timeout: Longest wait in seconds.
    """
    until = time.monotonic() + timeout
    try:
        thread.join(timeout)
    except BaseException as error:
        # An earlier one is another's, whose time is over.
        if type(error).__module__ != "eventlet.timeout" or time.monotonic() < until:
            raise
    return not thread.is_alive()


class BackgroundLoop:
    """The record of one background loop, and what keeps an exception from ending it.

    Used once for each turn of the loop::

        while not stopped.wait(pause):
            with loop.turn():
                renew_leases()

    Args:
        name: Of the loop, for logs and health checks, such as ``"keeper"``.
        logger: Where a failed turn is logged, once a minute, with a count of those left out.
        longest: Seconds without a turn after which the loop counts as standing still.
    """

    def __init__(self, name: str, logger: logging.Logger, longest: float) -> None:
        self.name = name
        self.longest = longest
        #: Turns that an exception ended.
        self.failures = 0
        self._log = RateLimitedLogger(logger)
        self._last_error: str | None = None
        self._turned_at: float | None = None
        after_fork(self.rest)  # the thread is not in the child

    def rest(self) -> None:
        """Note that no turn is to come until there is something to do again."""
        self._turned_at = self._last_error = None

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Guard one turn: an exception in the block is logged and counted, and the loop goes on."""
        self._turned_at = time.monotonic()
        try:
            yield
        except Exception as error:  # noqa: BLE001 - whatever it was, the next turn may work
            self.failures += 1
            self._last_error = describe(error)
            self._log.error(
                "the background loop %r failed, so what it does is late; it goes on, and realtime.health() shows "
                "whether it recovers: %s",
                self.name,
                self._last_error,
            )
        else:
            self._last_error = None
        finally:
            self._turned_at = time.monotonic()

    @property
    def is_turning(self) -> bool:
        """Whether a turn began or ended within the last ``longest`` seconds."""
        turned_at = self._turned_at
        return turned_at is not None and time.monotonic() - turned_at < self.longest

    @property
    def state(self) -> str:
        """``turning``, ``failing`` (the last turn was), ``stuck`` (no turn for long), or ``idle`` (nothing to do)."""
        turned_at = self._turned_at
        if turned_at is None:
            return "idle"
        if time.monotonic() - turned_at >= self.longest:
            return "stuck"
        return "turning" if self._last_error is None else "failing"

    def health(self) -> dict[str, Any]:
        """Return what health checks show of it, fit for JSON.

        Returns:
            Its ``name`` and ``state``; whether it is ``turning``, ``age`` seconds after the last turn (or None); how
            many turns have failed (``failures``), and the ``error`` of the last turn, or None.
        """
        turned_at = self._turned_at
        return {
            "name": self.name,
            "state": self.state,
            "turning": self.is_turning,
            "age": None if turned_at is None else round(time.monotonic() - turned_at, 3),
            "failures": self.failures,
            "error": self._last_error,
        }


class WakeUp:
    """Lets a thread that rests go on, called from anywhere, the handler of a signal included.

    A handler runs in the middle of whatever the main thread does, and Celery shuts a worker down in one. A
    :class:`threading.Event` has a lock: if the main thread holds it just then, the handler waits for it for ever.
    """

    def __init__(self) -> None:
        self._closed = threading.Lock()
        self._closed.acquire()

    def call(self) -> None:
        """Let the thread go on now, or not rest the next time."""
        if self._closed.locked():  # that of eventlet counts
            with contextlib.suppress(RuntimeError):  # somebody else has called it meanwhile
                self._closed.release()

    def wait(self, timeout: float) -> bool:
        """Rest until it is called; returns whether it was.

        Args:
            timeout: Longest rest, in seconds.
        """
        return self._closed.acquire(timeout=timeout)

    def forget(self) -> None:
        """Take it for not called: what the caller has left is looked at now."""
        self.wait(0.0)


class PeriodicLoop:
    """Does something again and again, from a thread of its own, until it is stopped.

    It may be started again. A fork does not take the thread along: in the child it has not been started. The thread
    knows the loop, and so whose method the turn is, only while it turns: it ends when nobody else has it any more.

    Args:
        record: What becomes of each turn; the thread has its name.
        turn: Called in each turn.
        pause: Seconds between two turns, or what returns them after each turn.
    """

    def __init__(self, record: BackgroundLoop, turn: Callable[[], object], pause: float | Callable[[], float]) -> None:
        self.record = record
        self._turn = turn
        self._pause = pause
        self._start_over()
        after_fork(self._start_over)

    def _start_over(self) -> None:
        self._lock = threading.RLock()
        self._run: _Run | None = None

    def start(self, patience: float = 0.0) -> None:
        """Begin, unless it has begun, and wait until it has turned once.

        Args:
            patience: Longest wait in seconds.

        Raises:
            RuntimeError: There are too many threads, or the interpreter ends; it has not begun.
        """
        with self._lock:
            run = self._run
            if run is None:
                run = self._run = _Run(self)
                name = f"celery-realtime-{self.record.name.replace(' ', '-')}"
                run.thread = threading.Thread(target=run.go_on, args=(self.record,), name=name, daemon=True)
                try:
                    start_detached(run.thread)
                except RuntimeError:
                    self._run = None
                    raise
        run.has_turned.wait(patience)

    def wake(self) -> None:
        """Let the next turn come at once."""
        run = self._run
        if run is not None:
            run.wake.call()

    def stop(self, timeout: float = 0.0) -> bool:
        """Turn no more, and return whether the present turn has ended.

        Args:
            timeout: Longest wait for that, in seconds.
        """
        with self._lock:
            run, self._run = self._run, None
        if run is None:
            return True
        run.is_over = True
        run.wake.call()
        return run.thread is not threading.current_thread() and join(run.thread, timeout)

    def turn(self) -> float:
        """Do it once, in the thread; returns the seconds until the next time."""
        with self.record.turn():
            self._turn()
        return self._pause() if callable(self._pause) else self._pause

    def note_end(self) -> None:
        """Note that a thread has ended: nothing turns, unless it has been started again meanwhile."""
        if self._run is None:
            self.record.rest()


class _Run:
    """What belongs to one start of a periodic loop: the thread before may not have ended yet."""

    thread: threading.Thread

    def __init__(self, loop: PeriodicLoop) -> None:
        self.is_over = False
        self.wake = wake = WakeUp()
        self.has_turned = threading.Event()
        # A collection can come at any moment and in any thread: no more is done in it than to wake that one.
        self._loop = weakref.ref(loop, lambda _: wake.call())

    def go_on(self, record: BackgroundLoop) -> None:
        """Turn until the loop is stopped or gone, in the thread."""
        pause: float | None = 0.0
        while pause is not None:
            self.wake.forget()
            pause = self._turn()
            self.has_turned.set()
            if pause is not None and not self.is_over:
                self.wake.wait(pause)
        loop = self._loop()
        if loop is None:
            record.rest()
        else:
            loop.note_end()

    def _turn(self) -> float | None:
        """Return the seconds until the next turn; None if none is to come."""
        loop = None if self.is_over else self._loop()
        return None if loop is None else loop.turn()


def loops_of(*parts: Any) -> list[BackgroundLoop]:
    """Return the loops of all parts that have some: by convention, one as ``loop``, several as ``loops``."""
    loops: list[BackgroundLoop] = []
    for part in parts:
        own = getattr(part, "loops", None)
        loops += [loop for loop in [getattr(part, "loop", None)] if loop is not None] if own is None else own
    return loops
