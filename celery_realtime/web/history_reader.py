"""Read the histories of projects in a thread of its own, so that one that does not answer holds up nothing else."""

from __future__ import annotations

import logging
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from celery_realtime.backoff import Backoff
from celery_realtime.clocks import time
from celery_realtime.loops import BackgroundLoop, start_detached

logger = logging.getLogger(__name__)

FIRST_PAUSE = 0.25
LONGEST_PAUSE = 10.0

#: Answers that may wait to be taken; each may hold a whole history.
MOST_ANSWERS = 16

#: Seconds between two turns of the loop when there is nothing to read.
IDLE_TURN = 5.0

#: Longest wait in seconds before it is looked whether anybody has the reader any more.
GLANCE = 1.0

#: Seconds after which a read that has not returned counts as one that hangs.
LONGEST_READ = 30.0

#: Seconds after which events wait no longer for a read that has not returned.
LONGEST_PROMPT = 0.5

Read = Callable[..., Any]

#: Up to where the histories of projects go: epoch and offset of each that has one.
Positions = dict[str, tuple[str, int]]


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

    The thread has the reader only while it reads, and ends when nobody else has it any more.

    After a read that fails no other is tried until a pause is over, of 0.25 s at first and of 10 s at most.

    Args:
        read: ``(project_id, epoch, offset, most_jobs) -> snapshot``.
        positions: ``(project_ids) -> Positions``, cheap; None where it cannot be had.
    """

    def __init__(self, read: Read, positions: Callable[[list[str]], Positions] | None = None) -> None:
        self.loop = BackgroundLoop("catch-up from the history", logger, LONGEST_READ)
        self._read = read
        self._read_positions = positions
        self.after_fork()

    def after_fork(self) -> None:
        """Start over in a child process, which has not the thread that read."""
        self._changed = threading.Condition()
        self._requests: dict[str, Missing] = {}
        self._answers: deque[tuple[Missing, Any]] = deque()
        self._looks: list[str] = []
        self._positions: Positions = {}
        self._reading_since: float | None = None
        self._backoff = Backoff(FIRST_PAUSE, LONGEST_PAUSE)
        #: Seconds to leave the history alone for, after a read that failed; 0 after one that did not.
        self._pause = 0.0
        self._closed = False
        self._thread: threading.Thread | None = None

    @property
    def is_prompt(self) -> bool:
        """Whether the history answers, and the read that is under way has not taken long."""
        since = self._reading_since
        return not self._pause and (since is None or time.monotonic() - since < LONGEST_PROMPT)

    def request(self, missing: Missing) -> None:
        """Have a project read, unless an answer about it waits to be taken."""
        with self._changed:
            if missing.project_id not in (answered.project_id for answered, _ in self._answers):
                self._requests[missing.project_id] = missing
                self._wake()

    def look(self, project_ids: list[str]) -> None:
        """Have it read up to where the histories of projects go."""
        with self._changed:
            if project_ids and self._read_positions is not None:
                self._looks = project_ids
                self._wake()

    def _wake(self) -> None:
        self._changed.notify_all()
        if not self._closed and (self._thread is None or not self._thread.is_alive()):
            arguments = (weakref.ref(self), self._changed, self.loop)
            self._thread = threading.Thread(target=_run, args=arguments, name="celery-realtime-catch-up", daemon=True)
            start_detached(self._thread)

    def answers(self) -> Iterator[tuple[Missing, Any]]:
        """Take, one by one, what has been read by now: what was missing, and the snapshot."""
        while self._answers:
            with self._changed:
                answer = self._answers.popleft()
                self._changed.notify_all()
            yield answer

    def positions(self) -> Positions:
        """Take up to where the histories go of which that was read since the last call."""
        with self._changed:
            positions, self._positions = self._positions, {}
            return positions

    def close(self) -> None:
        """End the thread, after the read that it may be in the middle of."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def is_closed(self) -> bool:
        """Whether nothing more is to be read."""
        return self._closed

    @property
    def has_work(self) -> bool:
        """Whether there is something to read, or to look at."""
        return self._has_request() or bool(self._looks)

    def turn(self) -> float:
        """Read what is next, in the thread; returns for how many seconds to leave the history alone then."""
        with self.loop.turn():
            self._read_next()
        return self._pause

    def _read_next(self) -> None:
        missing, project_ids = self._next()
        self._reading_since = time.monotonic()
        try:
            if missing is not None:
                self._answer(missing, self._read(missing.project_id, missing.epoch, missing.offset, 0))
            elif project_ids and self._read_positions is not None:
                self._note_positions(self._read_positions(project_ids))
        except BaseException:
            self._put_back(missing)
            raise
        finally:
            self._reading_since = None

    def _put_back(self, missing: Missing | None) -> None:
        with self._changed:
            if missing is not None:
                # Behind the others: it may be the only one that fails.
                self._requests[missing.project_id] = self._requests.pop(missing.project_id)
            self._pause = self._backoff.pause()
            self._changed.notify_all()

    def _answer(self, missing: Missing, snapshot: Any) -> None:
        with self._changed:
            del self._requests[missing.project_id]
            self._answers.append((missing, snapshot))
            self._note_success()

    def _note_positions(self, positions: Positions) -> None:
        with self._changed:
            self._positions.update(positions)
            self._note_success()

    def _note_success(self) -> None:
        self._backoff.reset()
        self._pause = 0.0

    def _next(self) -> tuple[Missing | None, list[str]]:
        """Return what to read next: a project, else projects to look at; neither if nothing came for a while."""
        with self._changed:
            if self._has_request():
                return next(iter(self._requests.values())), []
            project_ids, self._looks = self._looks, []
            return None, project_ids

    def _has_request(self) -> bool:
        return bool(self._requests) and len(self._answers) < MOST_ANSWERS


def _run(reference: weakref.ref[HistoryReader], changed: threading.Condition, loop: BackgroundLoop) -> None:
    pause: float | None = 0.0
    while pause is not None:
        if pause:
            _wait(reference, changed, lambda reader: reader.is_closed, pause)
        _wait(reference, changed, lambda reader: reader.is_closed or reader.has_work, IDLE_TURN)
        pause = _turn(reference)
    loop.rest()


def _turn(reference: weakref.ref[HistoryReader]) -> float | None:
    reader = reference()
    return None if reader is None or reader.is_closed else reader.turn()


def _wait(
    reference: weakref.ref[HistoryReader],
    changed: threading.Condition,
    is_over: Callable[[HistoryReader], bool],
    timeout: float,
) -> None:
    """Wait until something holds of a reader, or it is gone; meanwhile have no more of it than a reference."""

    def goes_on() -> bool:
        reader = reference()
        return reader is not None and not is_over(reader)

    deadline = time.monotonic() + timeout
    with changed:
        while goes_on() and (rest := deadline - time.monotonic()) > 0:
            changed.wait(min(rest, GLANCE))
