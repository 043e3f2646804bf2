"""Wait until something has changed, in threads and greenlets that may be killed meanwhile."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from types import TracebackType


class Changes:
    """Changes of what a lock guards, for which threads wait without a claim to the lock.

    A :class:`threading.Condition` takes its lock again before a wait ends, whatever ends it. A greenlet that is killed
    while it waits for that, as in a soft shutdown, leaves without the lock, and the block that is to release it raises
    ``RuntimeError`` in place of what was thrown. Celery's signals log that, and the job that was to end runs on.

    Used as a context manager, it is the lock.

    Args:
        lock: Guards what changes.
    """

    def __init__(self, lock: threading.RLock) -> None:
        self._lock = lock
        self._tickets: deque[threading.Lock] = deque()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _where: TracebackType | None
    ) -> None:
        self._lock.release()

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._tickets)

    def next(self) -> Ticket:
        """Return what ends with the next change; taken while the lock is held, and waited for when it is not."""
        closed = threading.Lock()
        closed.acquire()
        self._tickets.append(closed)
        return Ticket(closed, self._tickets)

    def notify_all(self) -> None:
        """Let all go on that wait; the lock is held."""
        while self._tickets:
            self._tickets.popleft().release()


class Ticket:
    """The next change.

    Args:
        closed: A lock that is released then.
        tickets: All that wait to be released.
    """

    def __init__(self, closed: threading.Lock, tickets: deque[threading.Lock]) -> None:
        self._closed = closed
        self._tickets = tickets

    def wait(self, timeout: float) -> None:
        """Wait for the change, at most ``timeout`` seconds."""
        is_over = False
        try:
            is_over = self._closed.acquire(timeout=timeout)
        finally:
            if not is_over:
                with contextlib.suppress(ValueError):  # the change has come meanwhile
                    self._tickets.remove(self._closed)
