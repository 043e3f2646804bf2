"""End jobs that were cut off if nothing else reports why: those of ``sys.exit()``, or of a greenlet that is killed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from celery_realtime.bounded import BoundedDict
from celery_realtime.events import Job
from celery_realtime.logs import RateLimitedLogger

logger = logging.getLogger(__name__)

#: Seconds in which Celery may still report why a job was cut off.
GRACE = 2.0
REMEMBERED = 10000


class InterruptedJobs:
    """Jobs whose run was cut off, and which count as lost unless their end is reported soon.

    Args:
        lost: Called with each that is lost.
        grace: Seconds to wait for a report.
    """

    def __init__(self, lost: Callable[[Job], None], *, grace: float = GRACE) -> None:
        self._lost = lost
        self._grace = grace
        self._jobs: BoundedDict[str, Job] = BoundedDict(REMEMBERED)
        self._log = RateLimitedLogger(logger)

    def add(self, job: Job) -> None:
        """Wait for a report of a job's end, and give it up after that."""
        self._jobs[job.job_id] = job
        timer = threading.Timer(self._grace, self._give_up, (job.job_id,))
        timer.daemon = True
        try:
            timer.start()
        except RuntimeError as error:  # too many threads, or the interpreter ends
            self._log.warning("no thread can be started, so a job that was cut off counts as lost at once: %s", error)
            self._give_up(job.job_id)

    def discard(self, job_id: str) -> None:
        """Wait no more: the job's end was reported."""
        self._jobs.pop(job_id)

    def give_up_all(self) -> None:
        """Wait no more: the worker ends."""
        for job_id in self._jobs.names():
            self._give_up(job_id)

    def _give_up(self, job_id: str) -> None:
        job = self._jobs.pop(job_id)
        if job is not None:
            self._lost(job)
