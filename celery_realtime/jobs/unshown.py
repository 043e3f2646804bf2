"""Say, once a minute, that what is reported in a process that does not run the job is not shown."""

from __future__ import annotations

import logging
from typing import Any

from celery_realtime.jobs.seams import is_spawned_by_worker, runs_batches
from celery_realtime.logs import RateLimitedLogger

logger = logging.getLogger(__name__)


class UnshownReports:
    """Reports of jobs that do not run in this process, so far as it knows."""

    def __init__(self) -> None:
        self._log = RateLimitedLogger(logger)

    def note_unknown(self, job_id: str) -> None:
        """Note that progress was reported of a job of which no more than the id is known here."""
        self._log.warning(
            "this process knows no project of job %s, so its progress is not shown: it does not run the job, or runs "
            "several of that id; return to the task what is done and report there, or fork",
            job_id,
            job_id=job_id,
        )

    def note_without_job(self, task: Any) -> None:
        """Note that a task reports that runs no job here: a plain call, or a process that a job has started."""
        if is_spawned_by_worker():
            self._log.warning(
                "this process was not forked and knows no job of task %s, so what is reported in it is not shown; "
                "return to the task what is done and report there, or fork",
                task.name,
            )
        elif runs_batches(task):
            self._log.warning(
                "a batch of task %s is no job, so what is reported by the task itself is not shown; report of each job "
                "by its id: get_progress_tracker(request.id)",
                task.name,
            )
