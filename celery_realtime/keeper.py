"""Keep jobs from staying "running" for ever: leases for those that a worker holds, and a reaper for those that lapse.

A worker says every few seconds, from its main process, which jobs it holds; one that starts is among them at once.
When it has been silent for the time of a lease, whoever looks next, a web server or another worker, declares its
running jobs lost. All times are those of the Redis server, so that the clocks of the hosts do not matter.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import msgspec

from celery_realtime import events
from celery_realtime.events import Job
from celery_realtime.forks import talking
from celery_realtime.history import ERRORS, Found, History
from celery_realtime.logs import describe
from celery_realtime.manager import SocketIOManager

logger = logging.getLogger(__name__)

#: A worker may say why a job expired itself, before the reaper does.
PATIENCE = 3.0

HeldJobs = Callable[[], list[Job]]


class Keeper:
    """Renew a worker's lease, and reap those of others, from a thread of its own.

    Args:
        manager: Whose history has the leases, and who tells.
        lost_after: Time, in seconds, within which a lost job is told.
    """

    def __init__(self, manager: SocketIOManager, lost_after: float) -> None:
        self._manager = manager
        self._lease = lost_after * 2 / 3
        self._pause = lost_after / 6
        self._worker: str | None = None
        self._held: HeldJobs = list
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._renewed = False
        self._complained = False

    def start(self, worker: str | None = None, held: HeldJobs = list) -> None:
        """Start to look after jobs; a second call changes nothing.

        Args:
            worker: The host name of the worker that this is, if it is one.
            held: Returns the jobs that it holds.
        """
        if self._thread is not None or self._manager.history is None:
            return
        self._worker, self._held = worker, held
        self._thread = threading.Thread(target=self._run, name="celery-realtime-keeper", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop, and give up the lease of a worker that holds nothing any more."""
        if self._thread is None:
            return
        self._stopping.set()
        self._thread.join(2.0)
        history = self._manager.history
        if history is not None and self._worker is not None and not self._held():
            try:
                history.reaped(self._worker)
            except ERRORS as error:
                logger.warning("the lease of %s will lapse by itself: %s", self._worker, describe(error))

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._look_once()
            self._stopping.wait(self._pause)

    def _look_once(self) -> None:
        history = self._manager.history
        if history is None:
            return
        try:
            if self._worker is not None:
                self._renew(history, self._worker)
            self._reap(history)
            self._complained = False
        except Exception as error:  # whatever it is, the lease of this worker hangs on this thread
            if not self._complained:
                logger.warning("leases wait: %s", describe(error))
            self._complained = True

    def _renew(self, history: History, worker: str) -> None:
        held = self._held()
        with talking:
            known = history.hold(worker, held, self._lease)
        if not known and self._renewed:
            for job in held:  # it was away for so long that its jobs were declared lost: they run on
                self._tell(msgspec.structs.replace(job, worker=worker), "STARTED")
        self._renewed = True

    def _reap(self, history: History) -> None:
        with talking:
            found: Found = history.reap(self._lease, self._pause, PATIENCE)
        for worker, jobs in found.lost.items():
            for job in jobs:
                lost = msgspec.structs.replace(job, worker=worker)
                self._tell(lost, "LOST", error=f"WorkerLost: {worker} has not been heard of for {self._lease:g} s")
            if self._manager.flush():
                with talking:
                    history.reaped(worker)
        for job in found.expired:
            self._tell(job, "REVOKED", gate="E", error="TaskRevokedError: expired")
        if found.expired and self._manager.flush():
            with talking:
                history.expired([job.job_id for job in found.expired])
        for told in found.stalled:
            stalled = msgspec.structs.replace(told, stalled=True, timestamp=events.now())
            self._manager.publish(events.outgoing_progress(stalled))

    def _tell(self, job: Job, state: str, error: str | None = None, gate: str = "") -> None:
        if job.project_id is None:
            return
        self._manager.publish(events.outgoing_status(events.status_change(job, state, error=error), gate=gate))
