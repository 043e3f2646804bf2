"""Know what is behind the jobs that run in this process, for the notes of their starts."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any
from weakref import WeakValueDictionary

from celery_realtime.events import Job, Outgoing, Step, job_name, name_of
from celery_realtime.jobs.job_reader import notes_of
from celery_realtime.logs import RateLimitedLogger

logger = logging.getLogger(__name__)


class RunningSteps:
    """The jobs behind those that run here: steps of chains, bodies of chords and callbacks.

    A worker's main process notes them soon after it has received a job. The worker may be killed before that, when all
    have seen the start of the job already: so what is noted of a start has them too.

    Args:
        behind: Returns the jobs behind one, given it and its request.
    """

    def __init__(self, behind: Callable[[Job, Any], tuple[Step, ...]]) -> None:
        self._behind = behind
        self._log = RateLimitedLogger(logger)
        #: By name, attempt and run, the requests of running jobs that carry something along.
        self._requests: WeakValueDictionary[tuple[str, int, str], Any] = WeakValueDictionary()

    def begin(self, job: Job, request: Any) -> None:
        """Remember a job that starts, for as long as its request lives."""
        if request.chain or request.chord or request.callbacks:
            self._requests[name_of(job), job.attempt, job.run or ""] = request

    def of(self, event: Outgoing) -> tuple[Step, ...]:
        """Return the jobs behind the one that an event is about, if it runs here; in the thread that sends."""
        if not self._requests:
            return ()
        key = job_name(event.job_id or "", event.project_id), event.attempt, event.standing.run
        request = self._requests.get(key)
        job = None if request is None else notes_of(request).job
        if job is not None:
            with self._log.suppressing(
                "the steps behind a job cannot be read, so they are not on record until its worker has noted them; "
                "see what it carries along",
                job_id=job.job_id,
                project_id=job.project_id,
            ):
                return self._behind(job, request)
        return ()
