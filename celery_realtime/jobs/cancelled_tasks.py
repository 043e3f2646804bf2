"""End tasks in the middle of what they do, once their jobs have been cancelled."""

from __future__ import annotations

from typing import Any

from celery.exceptions import TaskRevokedError

from celery_realtime import events
from celery_realtime.events import Job
from celery_realtime.exceptions import JobCancelled
from celery_realtime.jobs.cancelling import Cancellations
from celery_realtime.jobs.job_reader import notes_of
from celery_realtime.logs import RateLimitedLogger
from celery_realtime.stored import stores_results


class CancelledTasks:
    """Ends the tasks of this process whose jobs have been cancelled.

    Args:
        cancellations: Says which jobs have been.
        log: Of whoever runs the tasks.
    """

    def __init__(self, cancellations: Cancellations, log: RateLimitedLogger) -> None:
        self._cancellations = cancellations
        self._log = log

    def end(self, task: Any, job: Job) -> None:
        """End the job that a task runs if it has been cancelled; called in the middle of the task.

        Raises:
            JobCancelled: It has been.
        """
        if not self._cancellations.has(events.name_of(job), job.run):
            return
        reason = TaskRevokedError("cancelled")
        notes_of(task.request).stored = ("REVOKED", reason)
        if stores_results(task):
            self._store_revoked(task, job, reason)
        raise JobCancelled("cancelled")

    def _store_revoked(self, task: Any, job: Job, reason: Exception) -> None:
        # Backends come from anywhere, and raise what their databases raise.
        with self._log.suppressing(
            "cannot store in the result backend that a job was cancelled, so AsyncResult does not say so; pages "
            "that follow it show it all the same",
            job_id=job.job_id,
            project_id=job.project_id,
        ):
            task.backend.mark_as_revoked(job.job_id, str(reason), request=task.request)
