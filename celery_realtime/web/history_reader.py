"""Read the histories of projects in a thread of its own, so that one that does not answer holds up nothing else."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from celery_realtime.backoff import Backoff
from celery_realtime.loops import BackgroundLoop

logger = logging.getLogger(__name__)

FIRST_PAUSE = 0.25
LONGEST_PAUSE = 10.0

#: Answers that may wait to be taken; each may hold a whole history.
MOST_ANSWERS = 16

#: Seconds between two turns of the loop when there is nothing to read.
IDLE_TURN = 5.0

#: Seconds after which a read that has not returned counts as one that hangs.
LONGEST_READ = 30.0

Read = Callable[..., Any]


class Missing(NamedTuple):
    """What is missing of a project.

    Attributes:
        project_id: The project.
        epoch: Of ``offset``.
        offset: Up to where nothing is missing.
        serial: Which time it was that the project fell behind; an answer to an earlier time is no end of that.
    """

    project_id: str
    epoch: str
    offset: int
    serial: int


class HistoryReader:
    """Reads what is missing, one project at a time, in a daemon thread that starts with the first request.

    After a read that fails no other is tried until a pause is over, of 0.25 s at first and of 10 s at most.

    Args:
        read: ``(project_id, epoch, offset, most_jobs) -> snapshot``.
    """

    def __init__(self, read: Read) -> None:
        self.loop = BackgroundLoop("catch-up from the history", logger, LONGEST_READ)
        self._read = read
        self.after_fork()

    def after_fork(self) -> None:
        """Start over in a child process, which has not the thread that read."""
        self._changed = threading.Condition()
        self._requests: dict[str, Missing] = {}
        self._answers: deque[tuple[Missing, Any]] = deque()
        self._is_late = False
        self._backoff = Backoff(FIRST_PAUSE, LONGEST_PAUSE)
        #: Seconds to leave the history alone for, after a read that failed; 0 after one that did not.
        self._pause = 0.0
        self._closed = False
        self._thread: threading.Thread | None = None

    def request(self, missing: Missing) -> None:
        """Have a project read, unless an answer about it waits to be taken."""
        with self._changed:
            if self._closed or missing.project_id in (answered.project_id for answered, _ in self._answers):
                return
            self._requests[missing.project_id] = missing
            self._changed.notify_all()
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="celery-realtime-catch-up", daemon=True)
                self._thread.start()

    def answers(self, timeout: float) -> Iterator[tuple[Missing, Any]]:
        """Take, one by one, what has been read: what was missing, and the snapshot.

        Waits for what is still to be read, at most ``timeout`` seconds in all; not for a history that has just failed,
        nor for one that did not answer in time when it was waited for last.
        """
        deadline = time.monotonic() + timeout
        while (answer := self._take(deadline - time.monotonic())) is not None:
            yield answer

    def _take(self, timeout: float) -> tuple[Missing, Any] | None:
        with self._changed:
            if not self._is_late:
                self._is_late = not self._changed.wait_for(self._is_settled, timeout)
            answer = self._answers.popleft() if self._answers else None
            self._changed.notify_all()
            return answer

    def _is_settled(self) -> bool:
        return bool(self._answers) or not self._requests or self._pause > 0

    def close(self) -> None:
        """End the thread, after the read that it may be in the middle of."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _run(self) -> None:
        while not self._closed:
            with self.loop.turn():
                self._read_next()
            self._rest()

    def _read_next(self) -> None:
        missing = self._next()
        if missing is None:
            return
        try:
            snapshot = self._read(missing.project_id, missing.epoch, missing.offset, 0)
        except BaseException:
            self._put_back(missing)
            raise
        self._answer(missing, snapshot)

    def _put_back(self, missing: Missing) -> None:
        with self._changed:
            # Behind the others: it may be the only one that fails.
            self._requests[missing.project_id] = self._requests.pop(missing.project_id)
            self._pause = self._backoff.pause()
            self._changed.notify_all()

    def _answer(self, missing: Missing, snapshot: Any) -> None:
        with self._changed:
            del self._requests[missing.project_id]
            self._answers.append((missing, snapshot))
            self._backoff.reset()
            self._pause, self._is_late = 0.0, False
            self._changed.notify_all()

    def _next(self) -> Missing | None:
        """Return what to read next; None if there was nothing to read for a while."""
        with self._changed:
            self._changed.wait_for(self._has_work, IDLE_TURN)
            return None if self._closed or not self._has_work() else next(iter(self._requests.values()))

    def _has_work(self) -> bool:
        return self._closed or (bool(self._requests) and len(self._answers) < MOST_ANSWERS)

    def _rest(self) -> None:
        """After a failure, leave the history alone for a while."""
        with self._changed:
            if self._pause:
                self._changed.wait_for(lambda: self._closed, self._pause)
