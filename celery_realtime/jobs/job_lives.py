"""Remember which jobs have begun and ended in this process, and which of several starts of one is the later."""

from __future__ import annotations

from celery_realtime.bounded import BoundedDict
from celery_realtime.clocks import time
from celery_realtime.events import Job


class JobLives:
    """The jobs that run in this process, and those that have ended here. Jobs of several projects may have one id.

    Args:
        size: Most jobs of each kind that are remembered.
    """

    def __init__(self, size: int) -> None:
        self._running: BoundedDict[str, tuple[Job, ...]] = BoundedDict(size)
        #: The jobs that have ended, and when; and of each id the one that has ended last.
        self._ended: BoundedDict[tuple[str | None, str], tuple[Job, float]] = BoundedDict(size)
        self._ended_last: BoundedDict[str, tuple[Job, float]] = BoundedDict(size)

    def running(self, job_id: str) -> Job | None:
        """Return the only job of an id that has begun and has not ended."""
        jobs = self._running.get(job_id) or ()
        return jobs[0] if len(jobs) == 1 else None

    def begin(self, job: Job) -> None:
        """Note that a job has begun."""
        self._running[job.job_id] = (*self._others(job), job)

    def end(self, job: Job) -> None:
        """Note that a job has ended."""
        others = self._others(job)
        if others:
            self._running[job.job_id] = others
        else:
            self._running.pop(job.job_id)
        ended = self._ended[job.project_id, job.job_id] = job, time.time()
        self._ended_last[job.job_id] = ended

    def has_ended(self, job: Job) -> bool:
        """Tell whether a job has ended here, or a later start of it."""
        is_known_by_id = job.project_id is None and job.task is None
        ended = self._ended_last.get(job.job_id) if is_known_by_id else self._ended.get((job.project_id, job.job_id))
        if ended is None or is_earlier(ended[0], job):
            return False
        return job.execution is None or job.execution.started <= ended[1]

    def _others(self, job: Job) -> tuple[Job, ...]:
        return tuple(other for other in self._running.get(job.job_id) or () if other.project_id != job.project_id)


def is_earlier(job: Job, other: Job) -> bool:
    """Return whether a job is of an earlier run or attempt than another of the same id."""
    if job.run and other.run and job.run != other.run:
        return job.run < other.run
    return job.attempt < other.attempt
