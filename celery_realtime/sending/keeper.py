"""Keep jobs from staying "running" for ever: renew the leases of workers, and report jobs whose worker has died.

A worker's main process renews its lease every few seconds; a job that starts is noted at once, with the event of its
start. When a lease has lapsed, the next process that looks, a web server or another worker, reports its jobs as lost.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable

import msgspec

from celery_realtime import events
from celery_realtime.clocks import time
from celery_realtime.forks import after_fork, talking
from celery_realtime.history.connection import ERRORS
from celery_realtime.history.leases import HeldJob, Leases
from celery_realtime.logs import RateLimitedLogger, describe
from celery_realtime.loops import BackgroundLoop, PeriodicLoop
from celery_realtime.processor_share import ProcessorShare
from celery_realtime.sending.lost_jobs import FindBegun, FindEnds, LostJobs, knows_nothing, none_begun
from celery_realtime.sending.manager import SocketIOManager

logger = logging.getLogger(__name__)

#: Seconds for which jobs that a worker receives are gathered before they are noted together, and the shortest and the
#: longest time between two notes. Noting takes no more than NOTE_SHARE of the processor's time, beyond the shortest: of
#: many short jobs, most have ended before it would be their turn.
NOTE_DELAY, NOTE_PAUSE, LONGEST_NOTE_PAUSE = 0.003, 0.02, 0.2
NOTE_SHARE = 0.01

#: Seconds after its expiry in which a worker may still report a job's expiry itself, and say why.
EXPIRY_GRACE = 3.0

#: Longest wait, in seconds, for the end of a look when it is to be the last.
STOP_TIMEOUT = 2.0

HeldJobs = Callable[[], list[HeldJob]]


class Keeper:
    """Renew leases of this process, and report what has lapsed, from a thread of its own.

    Args:
        manager: Has the history with the leases, and publishes the reports.
        lost_after: Seconds within which a lost job is reported.
        find_ends: Looks up how jobs have ended whose worker is dead.
        find_begun: Finds those that have begun without a note of it.

    Attributes:
        loop: The record of the thread's loop.
    """

    def __init__(
        self,
        manager: SocketIOManager,
        lost_after: float,
        *,
        find_ends: FindEnds = knows_nothing,
        find_begun: FindBegun = none_begun,
    ) -> None:
        self._manager = manager
        self._find_ends = find_ends
        self._find_begun = find_begun
        self._lease = lost_after * 2 / 3
        self._pause = lost_after / 6
        self.loop = BackgroundLoop("keeper", logger, longest=self._pause * 2 + 30.0)
        self._periodic = PeriodicLoop(self.loop, self._turn, lambda: max(0.0, self._due - time.monotonic()))
        self._start_over()
        after_fork(self._start_over)

    def _start_over(self) -> None:
        self._renewals: dict[str, LeaseRenewal] = {}
        self._reaper: Reaper | None = None
        self._is_wanted_without_leases = False
        self._note_share = ProcessorShare(NOTE_SHARE, LONGEST_NOTE_PAUSE)
        #: When leases have to be renewed, of :func:`time.monotonic`.
        self._due = -math.inf

    @property
    def loops(self) -> list[BackgroundLoop]:
        """Its loop, and that of what reports the jobs of dead workers, for health checks."""
        reaper = self._reaper
        return [self.loop] if reaper is None else [self.loop, reaper.loop]

    @property
    def lease_ages(self) -> list[float]:
        """How many seconds ago each lease that is held here was renewed, or was to be for the first time."""
        return [renewal.age for renewal in list(self._renewals.values())]

    @property
    def lease(self) -> float:
        """How many seconds a lease lasts."""
        return self._lease

    def start(self) -> None:
        """Look for what has lapsed until :meth:`stop`; without a history, this changes nothing."""
        self._is_wanted_without_leases = True
        self._start()

    def _start(self) -> None:
        history = self._manager.history
        if history is None:
            return
        if self._reaper is None:
            lost = LostJobs(
                self._manager,
                history.leases,
                lease=self._lease,
                find_ends=self._find_ends,
                find_begun=self._find_begun,
            )
            self._reaper = Reaper(self._manager, history.leases, lost, lease=self._lease, pause=self._pause)
        self._periodic.start()

    @property
    def renewals(self) -> list[LeaseRenewal]:
        """The leases that this process holds."""
        return list(self._renewals.values())

    @property
    def reaper(self) -> Reaper | None:
        """What looks for jobs of dead workers; None unless it has begun."""
        return self._reaper

    def note_soon(self) -> None:
        """Note soon what has been received, since its worker may be killed before it renews its lease."""
        self._periodic.wake()

    def stop(self) -> None:
        """Stop to look; leases that are held lapse."""
        self._periodic.stop(STOP_TIMEOUT)
        self._reaper, self._due = None, -math.inf

    def hold(self, incarnation: str, held: HeldJobs) -> None:
        """Hold a lease for an incarnation of a worker in this process, until :meth:`release`.

        Args:
            incarnation: The incarnation.
            held: Returns the jobs that it has taken from its queue and not finished.
        """
        history = self._manager.history
        if history is not None:
            self._renewals[incarnation] = LeaseRenewal(
                self._manager, history.leases, incarnation, held=held, lease=self._lease
            )
            self._start()

    def release(self, incarnation: str, *, is_settled: bool = False) -> None:
        """Give up the lease of an incarnation that ends; if it still holds jobs, the lease lapses instead.

        Args:
            incarnation: The incarnation.
            is_settled: Whether it has been reported what becomes of the jobs that it still holds.
        """
        renewal = self._renewals.pop(incarnation, None)
        if renewal is not None:
            renewal.release(is_settled=is_settled)
        self._stop_if_idle()

    def abandon(self, incarnation: str) -> None:
        """Let the lease of an incarnation lapse that ends and cannot say what becomes of its jobs."""
        renewal = self._renewals.pop(incarnation, None)
        if renewal is not None:
            renewal.stop()
        self._stop_if_idle()

    def _stop_if_idle(self) -> None:
        if not self._renewals and not self._is_wanted_without_leases:
            self.stop()

    def _turn(self) -> None:
        if time.monotonic() < self._due:
            self._note()
            return
        try:
            self._look()
        finally:
            self._due = time.monotonic() + self._pause

    def _look(self) -> None:
        """Renew all leases, and report what has lapsed of others."""
        for renewal in list(self._renewals.values()):
            renewal.renew()
        reaper = self._reaper
        if reaper is not None:
            reaper.reap()

    def _note(self) -> None:
        """Note what has been received since."""
        time.sleep(NOTE_DELAY)
        began = time.thread_time()
        for renewal in list(self._renewals.values()):
            renewal.note()
        rest = self._note_share.rest(time.monotonic(), time.thread_time() - began)
        time.sleep(max(NOTE_PAUSE, rest))


class LeaseRenewal:
    """The lease of one incarnation of a worker.

    Args:
        manager: Publishes that jobs run on after all.
        leases: Where the lease is.
        incarnation: The incarnation.
        held: Returns the jobs that it has taken from its queue and not finished.
        lease: Seconds that the lease lasts.
    """

    def __init__(
        self, manager: SocketIOManager, leases: Leases, incarnation: str, *, held: HeldJobs, lease: float
    ) -> None:
        self._manager = manager
        self._leases = leases
        self._incarnation = incarnation
        self._held = held
        self._lease = lease
        self._lock = threading.Lock()
        self._is_new = True
        #: Whether the latest renewal may have taken place without this process having heard what it found.
        self._is_in_doubt = False
        self._since = time.monotonic()
        #: Before when the lease was renewed last, of :func:`time.monotonic`.
        self._renewed_at = math.inf
        self._is_stopped = False
        #: The jobs of which Redis knows that the incarnation has them, each with whether it runs.
        self._noted: set[tuple[str | None, str, str | None, int, bool]] = set()
        self._log = RateLimitedLogger(logger)

    @property
    def age(self) -> float:
        """How many seconds ago the lease was renewed last, or was to be for the first time."""
        return time.monotonic() - (self._since if self._renewed_at == math.inf else self._renewed_at)

    def renew(self) -> None:
        """Renew the lease. If it has lapsed meanwhile, its jobs were reported as lost: report those that run on.

        Raises:
            redis.RedisError: Redis cannot be reached.
        """
        with self._lock:
            if self._is_stopped:
                return
            held, now = self._held(), time.monotonic()
            was_in_doubt, self._is_in_doubt = self._is_in_doubt, True
            with talking:
                was_there = self._leases.hold(self._incarnation, held, self._lease)
            self._is_in_doubt = False
            is_late, self._renewed_at = time.monotonic() - self._renewed_at > self._lease, now
            self._noted = {_key(job) for job in held}
        # If the first renewal comes late, jobs that were noted may have been reported as lost before it. One whose
        # answer was lost may have found that the lease had lapsed. And one that lapsed may have been found by nobody
        # yet. What was not lost is no news to the history.
        is_first = self._is_new and time.monotonic() - self._since < self._lease
        if (not was_there and not is_first) or was_in_doubt or is_late:
            for job in held:
                if job.running and not job.left and job.project_id is not None:
                    change = events.status_change(job, "STARTED")
                    self._manager.put(events.outgoing_status(change, incarnation=self._incarnation, job=job))
        self._is_new = False

    @property
    def jobs(self) -> int:
        """How many jobs it has, as far as Redis knows."""
        return len(self._noted)

    def note(self) -> None:
        """Note the jobs that the incarnation has received, or begun, since the last time.

        Raises:
            redis.RedisError: Redis cannot be reached.
        """
        with self._lock:
            if self._is_stopped:
                return
            held = self._held()
            received = [job for job in held if _key(job) not in self._noted]
            if received:
                with talking:
                    self._leases.note(self._incarnation, received)
            self._noted = {_key(job) for job in held}

    def stop(self) -> None:
        """Renew the lease no more, and let it lapse."""
        with self._lock:
            self._is_stopped = True

    def release(self, *, is_settled: bool = False) -> None:
        """Give up the lease, unless the incarnation still holds jobs, or one of them is noted as running."""
        self.stop()
        if not is_settled and self._held():
            return
        try:
            with talking:
                self._leases.release(self._incarnation)
        except ERRORS as error:
            self._log.warning(
                "cannot give up this worker's lease, so others notice later that the worker has ended; it will "
                "lapse by itself: %s",
                describe(error),
            )


def _key(job: HeldJob) -> tuple[str | None, str, str | None, int, bool]:
    return job.project_id, job.job_id, job.run, job.attempt, job.running


class Reaper:
    """Finds jobs of dead workers, expired jobs and stalled jobs, and reports them.

    Args:
        manager: Publishes the reports.
        leases: Where to look.
        lost: Reports the jobs of dead workers, and expired ones.
        lease: Seconds that a lease lasts.
        pause: Seconds between two looks.
    """

    def __init__(self, manager: SocketIOManager, leases: Leases, lost: LostJobs, *, lease: float, pause: float) -> None:
        self._manager = manager
        self._leases = leases
        self._lost = lost
        self._lease = lease
        self._pause = pause
        #: The record of what reports the jobs of dead workers.
        self.loop = lost.loop
        self._stalled = 0

    @property
    def counts(self) -> dict[str, int]:
        """What has been found: as :attr:`LostJobs.counts`, and how many jobs had ``stalled``."""
        return {**self._lost.counts, "stalled": self._stalled}

    def reap(self) -> None:
        """Look once, and report what is found.

        Raises:
            redis.RedisError: Redis cannot be reached.
        """
        with talking:
            lapsed = self._leases.reap(self._lease, self._pause, EXPIRY_GRACE)
        for incarnation, jobs in lapsed.lost.items():
            self._lost.put(incarnation, jobs)
        self._lost.put_expired(lapsed.expired)
        for stalled in lapsed.stalled:
            self._stalled += 1
            progress = msgspec.structs.replace(stalled.progress, stalled=True, timestamp=events.now())
            self._manager.put(events.outgoing_progress(progress, job=stalled.job))
