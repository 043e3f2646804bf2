"""Report each status of a job once: only what is news by its attempt and rank."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from msgspec import UNSET, UnsetType

from celery_realtime import events
from celery_realtime.bounded import BoundedDict
from celery_realtime.clocks import time
from celery_realtime.events import RANK_OF_STATUS, TERMINAL_RANK, Job, Outgoing
from celery_realtime.jobs.celery_tasks import is_celerys_own
from celery_realtime.jobs.incarnation import Incarnation
from celery_realtime.jobs.lineage import published_at
from celery_realtime.settings import Settings

if TYPE_CHECKING:
    from celery_realtime.sending.manager import SocketIOManager

#: Seconds after a publication in which its publisher's report of it may still be on its way: the first of a process has
#: what sends loaded, and connects. Clocks of hosts may differ by the rest.
FRESH = 5.0

#: Jobs whose last status a process remembers.
REMEMBERED = 10000


class StatusGate:
    """Tell which statuses of a job are news to this process.

    Of two reports on a job the later is not always the newer: Celery sends some from a worker's main process and some
    from its child, and some twice. A report is news when its run, attempt and rank are above those of the last one, or
    when its task starts once more. Of jobs of several projects that have one id each goes by itself. The rules are
    those of append.lua, as far as one process can know.
    """

    def __init__(self) -> None:
        self._latest: BoundedDict[tuple[str | None, str], _Admitted] = BoundedDict(REMEMBERED)

    def admit(self, job: Job, rank: int, *, is_final: bool = True) -> bool:
        """Return whether a status is news, and remember it if it is.

        Args:
            job: The job.
            rank: Of the status.
            is_final: Whether, if it is an end, nothing of the same attempt can follow; not so of LOST.
        """
        latest = self._latest.get((job.project_id, job.job_id))
        if latest is not None and not latest.is_before(job, rank):
            return False
        self._latest[job.project_id, job.job_id] = _Admitted(job, rank, is_final, time.time())
        return True

    def hand_on(self, job: Job) -> None:
        """Take the next start of a job for news: it goes on in a message that it has published."""
        self._latest[job.project_id, job.job_id] = _Admitted(
            job, RANK_OF_STATUS["queued"], is_final=True, when=time.time()
        )

    def has_passed(self, job: Job, rank: int) -> bool:
        """Return whether this process has admitted a status of a rank, or of a later attempt."""
        latest = self._latest.get((job.project_id, job.job_id))
        return latest is not None and not latest.is_before(job, rank)

    def admit_unknown(self, job: Job) -> bool:
        """Return whether nothing is known of a job, and remember that it has ended as far as anybody knows."""
        if self._latest.get((job.project_id, job.job_id)) is not None:
            return False
        self._latest[job.project_id, job.job_id] = _Admitted(job, TERMINAL_RANK, is_final=False, when=time.time())
        return True


class _Admitted(NamedTuple):
    job: Job
    rank: int
    is_final: bool
    when: float

    def is_before(self, job: Job, rank: int) -> bool:
        """Return whether a report is news after this one."""
        run, attempt, latest_run = job.run, job.attempt, self.job.run
        if run and latest_run and run != latest_run:
            return run > latest_run
        if self._is_published_again(job):
            return True
        if attempt != self.job.attempt:
            return attempt > self.job.attempt
        if rank == self.rank == RANK_OF_STATUS["running"]:
            return _are_two_executions(job, self.job)
        return rank > (self.rank if self.is_final else RANK_OF_STATUS["queued"])

    def _is_published_again(self, job: Job) -> bool:
        """Return whether a job without a mark has ended, and is started again by another message."""
        if self.rank != TERMINAL_RANK or self.job.run:
            return False
        if job.run:
            return True
        execution = job.execution
        return execution is not None and not execution.redelivered and execution.started > self.when


def _are_two_executions(one: Job, other: Job) -> bool:
    return one.execution is not None and other.execution is not None and one.execution.id != other.execution.id


class StatusReporter:
    """Report the statuses of jobs to a manager, and their ends to whatever else waits for them.

    Args:
        incarnation: Of the worker that this process is, or becomes.
        settings: Returns the settings.
    """

    def __init__(self, incarnation: Incarnation, settings: Callable[[], Settings]) -> None:
        self._incarnation = incarnation
        self._settings = settings
        self._gate = StatusGate()
        self._manager: SocketIOManager | None = None
        self._end_observers: list[Callable[[Job, str], None]] = []

    def report_to(self, manager: SocketIOManager) -> None:
        """Report to a manager from now on; until there is one, statuses are only remembered."""
        self._manager = manager

    def on_end(self, observer: Callable[[Job, str], None]) -> None:
        """Call ``observer`` with each job that ends in this process, and its state, before its end is reported."""
        self._end_observers.append(observer)

    def report_queued(self, job: Job, expires_at: float | None) -> None:
        """Report that a job is published; :meth:`let_leave` is called when its message is out.

        Args:
            job: The job.
            expires_at: When it expires if it has not started by then, in seconds since the epoch.
        """
        if self._gate.admit(job, RANK_OF_STATUS["queued"]) and self._manager is not None:
            outgoing = self._encoded(self._manager, job, "PENDING", expires_at, {}, incarnation="")
            if outgoing is not None:
                self._manager.put(outgoing, quietly=True)

    def let_leave(self) -> None:
        """Let what :meth:`report_queued` has reported be sent."""
        if self._manager is not None:
            self._manager.wake()

    def report(self, job: Job, state: str, *, expires_at: float | None = None, gate: str = "", **details: Any) -> None:
        """Report that a job has come to a Celery state, unless that is no news.

        Args:
            job: The job.
            state: Celery's name of the state.
            expires_at: When the job expires if it has not started by then, in seconds since the epoch.
            gate: What is only inferred, see :class:`~celery_realtime.events.Standing`.
            **details: Of :func:`celery_realtime.events.status_change`.
        """
        rank = events.RANK_OF_STATUS[events.STATUS_OF_STATE[state]]
        if rank == events.TERMINAL_RANK:
            for observer in self._end_observers:
                observer(job, state)
        if self._gate.admit(job, rank, is_final=state != "LOST") and self._manager is not None:
            self._put(self._manager, job, state, expires_at, details, gate=gate)

    def report_unreached(self, job: Job, error: str) -> None:
        """Report that a step of a workflow will not run, unless it is known to be published all the same."""
        for observer in self._end_observers:
            observer(job, "FAILURE")
        if self._gate.admit_unknown(job) and self._manager is not None:
            self._put(self._manager, job, "FAILURE", None, {"error": error}, gate="U")

    def report_lost(self, job: Job, error: str) -> None:
        """Report that a job is lost, whoever has run it."""
        for observer in self._end_observers:
            observer(job, "LOST")
        if self._gate.admit(job, TERMINAL_RANK, is_final=False) and self._manager is not None:
            self._put(self._manager, job, "LOST", None, {"error": error}, incarnation="")

    def report_publication(self, job: Job) -> None:
        """Report, from a worker that starts a job, that it was published lately.

        Its publisher does not wait for its own report, and the worker may be quicker. Of the two, the history, or a web
        server without one, takes the first and drops the other. Where nobody would, the publisher waits.

        Args:
            job: The job, in its first attempt.
        """
        if job.run is None or not self.is_ordered:
            return
        published = published_at(job.run)
        if abs(time.time() * 1000 - published) < FRESH * 1000:
            publication = msgspec.structs.replace(job, worker=None, execution=None)
            if self._gate.admit(publication, RANK_OF_STATUS["queued"]) and self._manager is not None:
                # In the name of the worker: else the history takes it for a second try of the publisher's report.
                details = {"timestamp": events.at(published)}
                self._put(self._manager, publication, "PENDING", None, details, incarnation=self._incarnation.id)

    def report_handed_on(self, job: Job) -> None:
        """Note that a job that runs goes on in a message that it publishes, which any worker may get.

        Without a history, nobody knows which worker has which job.
        """
        if self._manager is not None and self.has_history and job.project_id is not None:
            self._gate.hand_on(job)
            self._manager.outbox.put(events.outgoing_handed_on(job, time.time(), incarnation=self._incarnation.id))

    @property
    def has_history(self) -> bool:
        """Whether a history decides which report is news, and in which order."""
        return self._settings().history_url is not None

    @property
    def is_ordered(self) -> bool:
        """Whether somebody drops a report that comes behind a newer one: a history, or else the web servers.

        Those that read python-socketio's own messages may have its own manager, which passes on what comes.
        """
        settings = self._settings()
        return settings.history_url is not None or settings.wire != "stock"

    def _put(
        self,
        manager: SocketIOManager,
        job: Job,
        state: str,
        expires_at: float | None,
        details: dict[str, Any],
        *,
        gate: str = "",
        incarnation: str | None = None,
    ) -> None:
        outgoing = self._encoded(manager, job, state, expires_at, details, gate=gate, incarnation=incarnation)
        if outgoing is not None:
            manager.put(outgoing)

    def _encoded(
        self,
        manager: SocketIOManager,
        job: Job,
        state: str,
        expires_at: float | None,
        details: dict[str, Any],
        *,
        gate: str = "",
        incarnation: str | None = None,
    ) -> Outgoing | None:
        """Return a status as it is sent; None of a job that nobody sees, which is counted."""
        if job.project_id is None:
            if not is_celerys_own(job.task):
                manager.count_without_project(job)
            return None
        stall_after = job.stall_after if state == "STARTED" else None
        change = events.status_change(job, state, runtime=_runtime(job, state), **details)
        if incarnation is None:
            incarnation = "" if state == "PENDING" else self._incarnation.id  # no worker has it yet
        return events.outgoing_status(change, expires_at, stall_after, gate=gate, incarnation=incarnation, job=job)

    @property
    def incarnation(self) -> str:
        """The id of the worker's incarnation; empty in a process that is no worker's."""
        return self._incarnation.id

    def projects_of(self, job_id: str) -> list[str]:
        """Return the projects that have a job of an id, as far as the history says so.

        Raises:
            redis.RedisError: The history cannot be reached.
        """
        history = None if self._manager is None else self._manager.history
        return [] if history is None else history.places.projects_of(job_id)

    def has_ended(self, job: Job) -> bool:
        """Return whether this process has reported that a job has ended, or goes on as its next attempt."""
        return self._gate.has_passed(job, events.TERMINAL_RANK)

    def secure(self) -> None:
        """Keep what was reported from being lost with this process, if it is a child of a pool."""
        if self._manager is not None:
            self._manager.secure()

    def wait_until_sent(self, job: Job, timeout: float) -> None:
        """Wait until a job's statuses have left, at most ``timeout`` seconds; during an outage, not at all."""
        if self._manager is not None and job.project_id is not None:
            self._manager.wait_until_sent(job, timeout)


def _runtime(job: Job, state: str) -> float | UnsetType:
    """Return how long a job has run that ends now, in seconds, where its start was seen by the same clock."""
    is_end = RANK_OF_STATUS[events.STATUS_OF_STATE[state]] == TERMINAL_RANK
    if not is_end or state == "LOST" or job.execution is None or job.execution.clock is None:
        return UNSET
    return round(max(0.0, time.monotonic() - job.execution.clock / 1_000_000), 3)
