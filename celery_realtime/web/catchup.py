"""Have a web server emit each project's events in order, and recover from the history what it has missed."""

from __future__ import annotations

import math
import random
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from celery_realtime.channel.wire import Heard
from celery_realtime.clocks import time
from celery_realtime.loops import BackgroundLoop
from celery_realtime.web.history_reader import HistoryReader, Missing, Positions, Read
from celery_realtime.web.ordering import ProjectOrder
from celery_realtime.web.standings import JobStandings
from celery_realtime.web.tracked_projects import LONGEST_WAIT, TrackedProjects

#: Seconds between two turns when nothing is missing.
IDLE_INTERVAL = 1.0

#: Seconds between two turns while the history is read, and while it does not answer.
BUSY_INTERVAL, FAILING_INTERVAL = 0.02, 0.25

#: Seconds between two looks at how far histories go, on average, and how many are looked at each time.
LOOK_INTERVAL = 2.0
MOST_LOOKED_AT = 500

#: Events of all projects that wait.
MOST_HELD = 20_000

#: Not the module's own generator: a program that seeds that one must get its own numbers.
_random = random.Random()


def _taken(events: deque[Heard]) -> list[Heard]:
    return [events.popleft() for _ in range(len(events))]


class CatchUp:
    """Sorts the events of all projects that clients of this server follow.

    An event waits for one that is missing before it. After :data:`~celery_realtime.web.ordering.PATIENCE` the history
    is read, in a thread of its own; while it does not answer, events are emitted without those that are missing. Now
    and then it is looked up how far the histories go, since the loss of the last event leaves no hole.

    Without a history, events have no order but that of attempts and ranks, see
    :class:`~celery_realtime.web.standings.JobStandings`.

    Args:
        read: ``(project_id, epoch, offset, most_jobs) -> snapshot``; None where there is no history.
        is_watched: ``(namespace, project_id) -> bool``, whether any client of this server follows a project.
        namespace: The namespace of the projects.
        positions: ``(project_ids) -> Positions``; None for never looking up how far histories go.
        clock: Returns the time in seconds.

    Attributes:
        recovered: How many events that were missed have been read from the history.
    """

    def __init__(
        self,
        read: Read | None,
        is_watched: Callable[[str, str], bool],
        namespace: str,
        *,
        positions: Callable[[list[str]], Positions] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reader = None if read is None else HistoryReader(read, positions)
        self._is_watched = is_watched
        self._namespace = namespace
        self._clock = clock
        self.recovered = 0
        self._start_over()

    def _start_over(self) -> None:
        self._lock = threading.Lock()
        self._projects = TrackedProjects(self._is_watched, self._namespace)
        self._standings = JobStandings()
        #: What other threads have found to be due.
        self._due: deque[Heard] = deque()
        self._turns_at = 0.0
        self._idles_at = 0.0
        self._lookout = Lookout()

    @property
    def is_history_prompt(self) -> bool:
        """Whether the history, if there is one, answers."""
        return self._reader is None or self._reader.is_prompt

    @property
    def loops(self) -> list[BackgroundLoop]:
        """The background loop that reads the history; none where there is no history."""
        return [] if self._reader is None else [self._reader.loop]

    def after_fork(self) -> None:
        """Start over in a child process, which has no clients and not the thread that read the history."""
        self._start_over()
        if self._reader is not None:
            self._reader.after_fork()

    def close(self) -> None:
        """Stop reading the history."""
        if self._reader is not None:
            self._reader.close()

    # -- clients ------------------------------------------------------------------------------------------------

    def expect(self, project_id: str) -> None:
        """Track a project's events from now on: a client is about to enter its room, and to read its snapshot."""
        if self._reader is not None:
            with self._lock:
                self._projects.expect(project_id, self._clock())

    def is_tracked(self, project_id: str) -> bool:
        """Tell whether it is known where a project stands, or a client is about to read that."""
        return project_id in self._projects.orders

    def seed(self, project_id: str, epoch: str, offset: int) -> str | None:
        """Note that a client has read a snapshot; return the older epoch that this server is still in, if it is."""
        if self._reader is None:
            return None
        with self._lock:
            order, clock = self._projects.arrived(project_id), self._clock()
            self._due += self._noted(order.seed(epoch, offset, clock))
            self._note_restless(order)
            if self._due:
                self._turns_at = clock
            return order.older_epoch(epoch)

    def review(self, project_id: str, snapshot: Any) -> Any:
        """Return a snapshot without what is older than the ends of jobs that this server has shown."""
        return self._standings.review(project_id, snapshot)

    def review_job(self, project_id: str, epoch: str, job: dict[str, Any] | None) -> dict[str, Any] | None:
        """Return a job as the history has it; None if this server has shown the end of it before."""
        return self._standings.review_job(project_id, epoch, job)

    # -- the channel --------------------------------------------------------------------------------------------

    def sort(self, events: Iterable[Heard]) -> list[Heard]:
        """Return, in order, what has to be emitted now that these events have come from the channel."""
        clock, unwatched = self._clock(), set[str]()
        with self._lock:
            due, orders = _taken(self._due), self._projects.orders
            for event in events:
                order = orders.get(event.project_id)
                if order is None and event.project_id not in unwatched:
                    order = self._begin(event)
                    if order is None:
                        unwatched.add(event.project_id)
                if event.project_id in unwatched:
                    due.append(event)
                else:
                    due += self._sorted(order, event, clock)
        return due

    def _begin(self, event: Heard) -> ProjectOrder | None:
        """Track a project that clients follow which the application has placed in its room by itself."""
        if event.namespace != self._namespace or not self._is_watched(self._namespace, event.project_id):
            return None
        return self._projects.track(event.project_id)

    def _sorted(self, order: ProjectOrder | None, event: Heard, clock: float) -> Iterable[Heard]:
        if order is None or event.namespace != self._namespace:
            return (event,)
        if event.offset is None or self._reader is None:
            order.take_unnumbered()
            return (event,) if self._standings.is_news(event) else ()
        if order.epoch is None and not self._projects.is_expected(event.project_id):
            order.start(event)
        due = order.take(event, clock)
        if not due:
            self._note_restless(order)
        return self._noted(due)

    def _noted(self, due: Iterable[Heard]) -> list[Heard]:
        """Return what is to be emitted of what is due; each offset stays, though what it is of may be hidden."""
        return [shown for event in due if (shown := self._standings.shown(event)) is not None]

    def fall_behind(self, project_ids: Iterable[str] | None = None, *, started_only: bool = False) -> None:
        """Note that events may have been missed; of all projects, of some, or of those of which there is a snapshot."""
        with self._lock:
            orders = self._projects.orders
            for name in orders if project_ids is None else orders.keys() & set(project_ids):
                if orders[name].epoch is not None or not started_only:
                    orders[name].fall_behind()
                    self._projects.restless[name] = orders[name]
            self._turns_at = self._clock()

    def _note_restless(self, order: ProjectOrder) -> None:
        self._projects.restless[order.project_id] = order
        self._turns_at = min(self._turns_at, order.waits_until)

    # -- what was missed ----------------------------------------------------------------------------------------

    @property
    def turns_in(self) -> float:
        """Seconds until :meth:`missed` has to be called; not above zero when it has to be now."""
        return self._turns_at - self._clock()

    def missed(self) -> Iterator[list[Heard]]:
        """Yield, project by project, what has been recovered by now of what was missed, or is to wait no longer.

        What is not taken is yielded by the next call.
        """
        if self._reader is None:
            self._turns_at = self._clock() + IDLE_INTERVAL
            return
        with self._lock:
            due = _taken(self._due)
            self._look_around(self._reader)
        yield due
        for missing, snapshot in self._reader.answers():
            yield self._answered(missing, snapshot)
        yield from self._pursued(self._reader)

    def _answered(self, missing: Missing, snapshot: Any) -> list[Heard]:
        with self._lock:
            order = self._projects.orders.get(missing.project_id)
            if order is None:  # every client has left
                return []
            waiting = order.waiting
            due = list(order.answer(missing, snapshot, self._clock()))
            self.recovered += max(0, len(due) - (waiting - order.waiting))
            return self._noted(due)

    def _look_around(self, reader: HistoryReader) -> None:
        clock = self._clock()
        if clock >= self._idles_at:
            self._idles_at = clock + IDLE_INTERVAL
            self._projects.forget_unwatched(clock)
        for project_id, (epoch, offset) in reader.positions().items():
            order = self._projects.orders.get(project_id)
            if order is not None:
                order.announce(epoch, offset, clock)
                self._note_restless(order)
        if self._lookout.is_due(clock):
            reader.look(self._lookout.next(self._projects.begun))

    def _pursued(self, reader: HistoryReader) -> Iterator[list[Heard]]:
        """Ask the history for what is overdue, and go on without where it does not answer."""
        with self._lock:
            restless, clock = list(self._projects.restless.values()), self._clock()
            if sum(order.waiting for order in restless) > MOST_HELD:
                for order in restless:
                    order.drop_waiting()
        turns_at = clock + IDLE_INTERVAL
        for order in restless:
            with self._lock:
                due = self._pursue(order, reader, clock)
                turns_at = min(turns_at, self._next_turn(order, reader, clock))
            yield due
        self._turns_at = turns_at

    def _pursue(self, order: ProjectOrder, reader: HistoryReader, clock: float) -> list[Heard]:
        if order.overdue_at > clock:
            return []
        missing = order.request()
        if missing is not None:
            reader.request(missing)
        is_patient = order.waits_until > clock or not self._gives_up(order, reader, clock)
        return [] if is_patient else self._noted(order.give_up(clock))

    def _gives_up(self, order: ProjectOrder, reader: HistoryReader, clock: float) -> bool:
        if order.epoch is None:
            return not self._projects.is_expected_soon(order.project_id, clock)
        return not reader.is_prompt or clock - order.waits_until > LONGEST_WAIT

    def _next_turn(self, order: ProjectOrder, reader: HistoryReader, clock: float) -> float:
        if order.overdue_at <= clock:
            return clock + (BUSY_INTERVAL if reader.is_prompt else FAILING_INTERVAL)
        if order.overdue_at == math.inf:
            self._projects.restless.pop(order.project_id, None)
        return order.overdue_at


class Lookout:
    """Says now and then of which projects to look up how far their histories go, some at a time."""

    def __init__(self) -> None:
        self._due_at = 0.0
        self._next = 0

    def is_due(self, clock: float) -> bool:
        """Return whether it is time for a look; the next one is some seconds later then."""
        if clock < self._due_at:
            return False
        self._due_at = clock + LOOK_INTERVAL * _random.uniform(0.75, 1.25)
        return True

    def next(self, names: list[str]) -> list[str]:
        """Return those of all projects whose turn it is."""
        start = self._next if self._next < len(names) else 0
        self._next = start + MOST_LOOKED_AT
        return names[start : self._next]
