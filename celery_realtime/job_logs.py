"""Let the lines that a task logs say which job and project they are about, with logging and with structlog."""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from typing import Any

from celery_realtime.events import Job
from celery_realtime.instances import instances


class JobFilter(logging.Filter):
    """Gives each record ``job_id`` and ``project_id``, for a formatter; empty outside of a job.

    Add it to a handler: loggers do not ask their filters for what comes from loggers below them.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Name the job of this thread, or context, in a record, unless it names one; it always passes."""
        job = present_job()
        if job is not None and vars(record).get("job_id", job.job_id) != job.job_id:
            job = None  # it is about another one, whose project may be another too
        for name in ("job_id", "project_id"):
            if name not in vars(record):
                vars(record)[name] = "" if job is None else getattr(job, name) or ""
        return True


def add_job(_logger: Any, _method: str, event_dict: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Add ``job_id`` and ``project_id`` inside of a job: a processor of structlog. What an event says itself stays."""
    job = present_job()
    if job is not None and event_dict.get("job_id", job.job_id) == job.job_id:
        event_dict.setdefault("job_id", job.job_id)
        if job.project_id is not None:
            event_dict.setdefault("project_id", job.project_id)
    return event_dict


def present_job() -> Job | None:
    """Return the job that this thread, or context, works for; None outside of one."""
    for realtime in instances:
        job: Job | None = realtime.present_job
        if job is not None:
            return job
    return None
