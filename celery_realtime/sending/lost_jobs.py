"""Report how the jobs of a dead worker have ended, as somebody knows, else as lost; steps behind them; and expiries.

All that waits for somebody is done here, so that whoever looks for what has lapsed renews leases in time.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import msgspec

from celery_realtime import events
from celery_realtime.bounded import BoundedDict
from celery_realtime.forks import talking
from celery_realtime.loops import BackgroundLoop, start_detached
from celery_realtime.sending.manager import SocketIOManager

if TYPE_CHECKING:
    from celery_realtime.history.leases import ExpiredJob, HeldJob, Leases

logger = logging.getLogger(__name__)

#: Dead incarnations that wait to be looked at; others are found again later.
ROOM = 100

#: How often the ends of an incarnation's jobs are looked up if they cannot be: at most once in the time of a lease.
TRIES = 10

#: How often jobs are looked up of which nobody knows an end. A worker that could not reach the history, and that was
#: taken for dead, may have stored a result since, and died.
LOOKS = 2

#: Seconds without a turn after which the loop counts as standing still.
LONGEST_TURN = 60.0

#: Seconds after which the thread tries again to send what it could not.
IDLE = 10.0

#: In place of an incarnation: the jobs that have expired.
EXPIRIES = ""

#: The ``gate`` of an expiry that only a reaper has seen.
EXPIRED_GATE = "E"

#: Returns what is known of the ends of jobs, by their names (:func:`~celery_realtime.events.name_of`): an end, or
#: None of one that has none. Of a job that is not in it nobody can be asked now.
FindEnds = Callable[["list[HeldJob]"], Mapping[str, "events.Ending | None"]]


#: Returns the names of those of some jobs that have begun, though their worker could not note it; None if nobody can be
#: asked now.
FindBegun = Callable[["list[HeldJob]"], "set[str] | None"]


def none_begun(_jobs: list[HeldJob]) -> set[str]:
    """Return that no job is known to have begun without a note of it."""
    return set()


def knows_nothing(jobs: list[HeldJob]) -> Mapping[str, events.Ending | None]:
    """Return that nothing is known of the ends of some jobs."""
    return {events.name_of(job): None for job in jobs}


class LostJobs:
    """Reports the jobs of incarnations whose lease has lapsed, and expired jobs, from a thread of its own.

    Args:
        manager: Publishes the reports.
        leases: Where an incarnation, or an expiry, is forgotten that has been reported.
        lease: Seconds that a lease lasts.
        find_ends: Looks up the ends of jobs.
        find_begun: Finds jobs that have begun without a note of it.

    Attributes:
        loop: The record of the thread's loop.
        counts: How many incarnations were ``dead``, how many of their jobs were ``lost``, or had ``ended`` as somebody
            knew, and how many other jobs had ``expired``.
    """

    def __init__(
        self,
        manager: SocketIOManager,
        leases: Leases,
        *,
        lease: float,
        find_ends: FindEnds,
        find_begun: FindBegun = none_begun,
    ) -> None:
        self._manager = manager
        self._leases = leases
        self._lease = lease
        self._find_ends = find_ends
        self._find_begun = find_begun
        self.loop = BackgroundLoop("lost jobs", logger, LONGEST_TURN)
        self.counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        #: What is to be done, with the incarnation that it is about, or :data:`EXPIRIES`.
        self._waiting: queue.Queue[tuple[str, Callable[[], None]]] = queue.Queue(ROOM)
        self._in_work: set[str] = set()
        self._tries: BoundedDict[str, int] = BoundedDict(ROOM)
        #: Incarnations of which nothing more is going to be reported when all that waits now has been sent.
        self._reported: deque[str] = deque()
        self._thread: threading.Thread | None = None

    def put(self, incarnation: str, jobs: list[HeldJob]) -> None:
        """Report the jobs of a dead incarnation soon; those that are being reported already are left alone.

        Raises:
            RuntimeError: There are too many threads; some reaper finds the jobs again.
        """

        def work() -> None:
            try:
                self.report(incarnation, jobs)
            finally:
                self._reported.append(incarnation)
                self._settle()

        if not self._do_soon(incarnation, work):
            self._reported.append(incarnation)

    def put_expired(self, jobs: Mapping[str, ExpiredJob | None]) -> None:
        """Report expired jobs soon, unless earlier ones are being reported: some reaper finds them again.

        Args:
            jobs: The jobs by what they are noted under; None for what cannot be read.
        """
        if jobs:
            self._do_soon(EXPIRIES, lambda: self.report_expired(jobs))

    def _do_soon(self, name: str, work: Callable[[], None]) -> bool:
        with self._lock:
            if name in self._in_work or self._waiting.full():
                return False
            if self._thread is None:  # it waits for the lock; where there are too many threads, nothing has been noted
                thread = threading.Thread(target=self._run, name="celery-realtime-lost-jobs", daemon=True)
                start_detached(thread)
                self._thread = thread
            self._in_work.add(name)
            self._waiting.put_nowait((name, work))
            return True

    def _run(self) -> None:
        while self._is_needed():
            try:
                name, work = self._waiting.get(timeout=IDLE)
            except queue.Empty:
                with self.loop.turn():
                    self._settle()
                continue
            with self.loop.turn():
                work()
            with self._lock:
                self._in_work.discard(name)
        self.loop.rest()

    def _is_needed(self) -> bool:
        """Tell whether there is something to do; if not, the thread ends."""
        with self._lock:
            if self._in_work or self._reported:
                return True
            self._thread = None
            return False

    def _settle(self) -> None:
        """Note of which incarnations all has been sent: one that lives says then that its jobs run on.

        Raises:
            redis.RedisError: Redis cannot be reached.
        """
        while self._reported and self._manager.flush():
            with talking:
                self._leases.reported(self._reported[0])
            self._reported.popleft()

    def report_expired(self, jobs: Mapping[str, ExpiredJob | None]) -> None:
        """Report expired jobs, and forget them once that has been sent.

        Raises:
            redis.RedisError: Redis cannot be reached.
        """
        for job in jobs.values():
            if job is not None and job.project_id is not None:
                gate = EXPIRED_GATE if job.reason == "expired" else events.UNDELIVERED_GATE
                end = events.Ending("REVOKED", f"TaskRevokedError: {job.reason}")
                self.counts["expired"] += 1
                self._manager.put(events.outgoing_end(job, end, incarnation="", gate=gate))
        if self._manager.flush():
            with talking:
                self._leases.expired([*jobs])

    def report(self, incarnation: str, jobs: list[HeldJob]) -> None:
        """Report the jobs of a dead incarnation, and forget it once that has been sent.

        Raises:
            redis.RedisError: Redis cannot be reached.
        """
        if incarnation not in self._tries:
            self.counts["dead"] += 1
        begun = self._find_begun(jobs)
        jobs = [_as_begun(job) if events.name_of(job) in (begun or ()) else job for job in jobs]
        jobs = sorted(jobs, key=lambda job: not job.running)  # if there is no time for all, those that ran come first
        ends = self._find_ends(jobs)
        reported = [
            (job, self._report(incarnation, job, ends.get(events.name_of(job))))
            for job in jobs
            if job.project_id is not None
        ]
        # If the reports cannot be sent now, or not all could be looked up, some reaper finds the jobs again after the
        # time of a lease. An end that is found then replaces the loss.
        tries = self._tries[incarnation] = (self._tries.get(incarnation) or 0) + 1
        is_sent = self._manager.flush() and self._report_steps(reported)
        if is_sent and tries >= (TRIES if begun is None else _looks(jobs, ends)):
            with talking:
                self._leases.reaped(incarnation)

    def _report_steps(self, reported: list[tuple[HeldJob, events.Ending]]) -> bool:
        """Report the steps behind the jobs that have not succeeded, on record too; returns whether all has been sent.

        A job that somebody else runs by now, and one that has not begun, is not lost, and its steps will run.
        """
        history = self._manager.history
        assert history is not None
        for job, end in reported:
            if job.behind and end.error is not None and job.project_id is not None:
                with talking:
                    state = history.job(job.project_id, job.job_id)
                if state is not None and state.get("state") == end.state:
                    for step in job.behind:
                        self._manager.put(events.outgoing_unreached(step, job, end))
        return self._manager.flush()

    def _report(self, incarnation: str, job: HeldJob, end: events.Ending | None) -> events.Ending:
        gate = ""
        if incarnation not in self._tries:  # else this has been reported before
            self.counts["lost" if end is None else "ended"] += 1
        if end is None:
            error = f"WorkerLost: {job.worker or 'its worker'} has not been heard of for {self._lease:g} s"
            end, gate = events.Ending("LOST", error), "S" if job.running else ""
        elif end.earlier:
            gate = "S"  # the start that is lost may come back, as that of a worker that was only cut off
        self._manager.put(events.outgoing_end(job, end, incarnation=incarnation, gate=gate, since=job.since))
        return end


def _as_begun(job: HeldJob) -> HeldJob:
    return msgspec.structs.replace(job, running=True)


def _looks(jobs: list[HeldJob], ends: Mapping[str, events.Ending | None]) -> int:
    """Return how often jobs have to be looked up, as far as their ends are known by now."""
    names = [events.name_of(job) for job in jobs]
    answers = [ends.get(name) for name in names]
    if any(name not in ends for name in names):
        return TRIES
    return LOOKS if any(answer is None or answer.earlier for answer in answers) else 1
