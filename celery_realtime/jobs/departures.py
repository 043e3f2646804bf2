"""Know which jobs have left this worker, and what its pool said of how they ended."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection
from typing import Any
from weakref import WeakKeyDictionary

from celery_realtime.bounded import BoundedDict
from celery_realtime.clocks import time
from celery_realtime.events import Execution, Job
from celery_realtime.forks import after_fork
from celery_realtime.jobs.seams import (
    PoolReport,
    RequestWatch,
    is_acknowledged,
    looks_for_stored_success,
    was_killed,
)

#: Seconds after the pool's word within which a job's end is normally on record: its child sends it by itself.
GRACE = 3.0

#: Seconds after a job of this process was cut off within which Celery may still say why.
CUT_OFF_GRACE = 2.0

#: Jobs that have left and were not looked at yet; beyond it, the oldest are not looked at.
REMEMBERED = 10000


_Key = tuple[str | None, str, int]


class Departure:
    """A job that has left this worker.

    Args:
        job: The job.
        report: What the pool said.
        request: The worker's request, or the context of a job that ran in this process.
        due: When its end has to be on record, of :func:`time.monotonic`.

    Attributes:
        due_first: As ``due`` was at first.
        left_at: When it left, in seconds since the epoch.
        left_clock: The same, of :func:`time.monotonic`.
        started_at: When the pool accepted it, in seconds since the epoch; None for a job that never started.
        pid: The process that ran it, or None; under eventlet and gevent, the id of the greenlet.
        description: What a lease says of it, once that has been made.
    """

    __slots__ = (
        *("description", "due", "due_first", "job", "left_at"),
        *("left_clock", "pid", "report", "request", "started_at"),
    )

    def __init__(self, job: Job, report: PoolReport, request: Any, due: float) -> None:
        self.job = job
        self.report = report
        self.due = self.due_first = due
        self.left_at, self.left_clock = time.time(), time.monotonic()
        self.started_at: float | None = getattr(request, "time_start", None)
        self.pid: int | None = getattr(request, "worker_pid", None)
        self.description: Any = None
        # The steps behind a job that has not succeeded are in its request; that of any other is not needed any more.
        self.request = None if report.kind == "returned" else request

    @property
    def when(self) -> Execution:
        """When it left, as the history compares it with the starts of jobs; which start it was of is not known."""
        return Execution("", self.left_at, clock=round(self.left_clock * 1_000_000))

    @property
    def was_killed(self) -> bool:
        """Whether the process that ran it was killed, which the main process alone can report."""
        kind, cause = self.report
        return kind == "lost" or (kind == "failed" and was_killed(cause))

    @property
    def awaits_acknowledgement(self) -> bool:
        """Whether its process was killed, and its message may yet go back: that is not acknowledged."""
        return self.was_killed and not is_acknowledged(self.request)


class Departures:
    """The jobs that have left this worker, until it was seen whether their ends are on record."""

    def __init__(self) -> None:
        self._observers: list[Callable[[], None]] = []
        self._change_observers: list[Callable[[], None]] = []
        self._is_cancelled: Callable[[Any], bool] = lambda _: False
        self._start_over()
        after_fork(self._start_over)

    def _start_over(self) -> None:
        self._departures: BoundedDict[_Key, Departure] = BoundedDict(REMEMBERED)
        #: By request, the jobs that have not left.
        self._present: WeakKeyDictionary[Any, Job] = WeakKeyDictionary()

    def on_death(self, observer: Callable[[], None]) -> None:
        """Call ``observer`` whenever the child that ran a job has died, or a job has to be run by somebody else."""
        self._observers.append(observer)

    def on_change(self, observer: Callable[[], None]) -> None:
        """Call ``observer`` whenever this worker has received a job, or one has left, after which another begins."""
        self._change_observers.append(observer)

    def drop_if(self, is_cancelled: Callable[[Any], bool]) -> None:
        """Drop each job of which ``is_cancelled``, given its request, says so when its turn comes; else none is."""
        self._is_cancelled = is_cancelled

    def watch(self, job: Job, request: Any) -> None:
        """Note how a job leaves that this worker has just received."""
        RequestWatch(request, lambda request, report: self._left(job, request, report), self._is_cancelled)
        self._present[request] = job
        self._changed()

    def _changed(self) -> None:
        for observer in self._change_observers:
            observer()

    def _left(self, job: Job, request: Any, report: PoolReport) -> None:
        self._present.pop(request, None)
        self._changed()
        if report.kind == "dropped":  # before it began, which Celery reports
            return
        key = _key_of(job)
        before = self._departures.get(key)
        if report.kind == "replaced":
            self._departures.pop(key)  # it goes on as another job
        elif report.kind == "requeued":
            self._departures[key] = Departure(job, report, request, time.monotonic())
        elif before is None or before.report.kind == "requeued":  # that was of a delivery before
            self._departures[key] = Departure(job, report, request, time.monotonic() + GRACE)
        if report.kind in ("lost", "requeued"):
            for observer in self._observers:
                observer()

    def give_back(self, job: Job, request: Any) -> None:
        """Note that the message of a job that ran goes back to the broker."""
        self._left(job, request, PoolReport("requeued"))

    def hasten(self, job: Job, error: Any) -> bool:
        """Have a job looked at now that Celery takes for failed since its child has died.

        It may have stored a success. And as long as its message is not acknowledged, the job may be delivered again.

        Args:
            job: The job.
            error: The error that Celery has for it.

        Returns:
            Whether it is looked at: the pool says the same, and Celery has not looked itself, or has not acknowledged
            the message.
        """
        departure = self._departures.get(_key_of(job))
        if departure is None or departure.report.kind not in ("lost", "failed") or not was_killed(error):
            return False
        has_looked = departure.report.kind == "failed" or looks_for_stored_success()
        if has_looked and not departure.awaits_acknowledgement:
            return False
        departure.report = departure.report._replace(cause=error)
        departure.due = departure.due_first = time.monotonic()
        for observer in self._observers:
            observer()
        return True

    def close(self) -> None:
        """Note of all jobs that have not left how they leave now: the worker ends.

        The broker gets back what is not acknowledged, and delivers it again. Of a job whose message is acknowledged
        nobody knows any more, if it has begun.
        """
        for request, job in list(self._present.items()):
            if request.time_start and not request.acknowledged:
                self.give_back(job, request)
            elif request.time_start:
                self._left(job, request, PoolReport("abandoned"))
        self._present.clear()

    def cut_off(self, job: Job, request: Any) -> None:
        """Note that a job of this process was cut off, of which Celery may or may not say why."""
        report = PoolReport("cut off")
        self._departures[_key_of(job)] = Departure(job, report, request, time.monotonic() + CUT_OFF_GRACE)

    def __len__(self) -> int:
        return len(self._departures)

    def all(self) -> list[Departure]:
        """Return all of them, the oldest first."""
        departures = [self._departures.get(key) for key in self._departures.names()]
        return [departure for departure in departures if departure is not None]

    def since(self, clock: float) -> list[Departure]:
        """Return those that have left at ``clock`` of :func:`time.monotonic` or later, the oldest first."""
        departures = (self._departures.get(key) for key in reversed(self._departures.names()))
        there = (departure for departure in departures if departure is not None)
        return list(itertools.takewhile(lambda departure: departure.left_clock >= clock, there))[::-1]

    def due(self, most: int, *, clock: float) -> list[Departure]:
        """Return jobs that are due at ``clock``, the oldest first, at most so many."""
        return list(itertools.islice((one for one in self.all() if one.due <= clock), most))

    def postpone(self, departures: Collection[Departure], until: float) -> None:
        """Look at jobs later, at ``until`` of :func:`time.monotonic`."""
        for departure in departures:
            departure.due = max(departure.due, until)

    def settle(self, departures: list[Departure]) -> None:
        """Forget jobs whose ends are on record."""
        for departure in departures:
            self._departures.pop(_key_of(departure.job))


def _key_of(job: Job) -> _Key:
    return job.project_id, job.job_id, job.attempt
