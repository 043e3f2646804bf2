"""Read which job a publication, a received request or a running task is."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Mapping
from contextvars import Token
from typing import Any

import msgspec
from celery import Celery

from celery_realtime.events import Execution, Job
from celery_realtime.jobs.celery_tasks import is_celerys_own
from celery_realtime.jobs.lineage import continued_execution_of, lineage_of, task_of
from celery_realtime.jobs.projects import Call, Projects, call_of_request
from celery_realtime.jobs.seams import TaskMessage, is_redelivered, request_fields
from celery_realtime.logs import RateLimitedLogger

logger = logging.getLogger(__name__)

STALL_HEADER = "stall_after"


class RunNotes:
    """What is noted of a job on its request while it runs.

    Attributes:
        job: The job.
        token: Undoes that its project is the surrounding one.
        republished: Whether it lives on in a message that it has published: a retry or a replacement.
        stored: The state and the result that the task has stored itself.
        retry_reason: The exception that it is retried for.
    """

    __slots__ = ("job", "republished", "retry_reason", "stored", "token")

    def __init__(self) -> None:
        self.job: Job | None = None
        self.token: Token[str | None] | None = None
        self.republished = False
        self.stored: tuple[Any, Any] | None = None
        self.retry_reason: Any = None


def notes_of(request: Any) -> RunNotes:
    """Return the notes on the request of a running job."""
    attributes = vars(request)
    notes: RunNotes | None = attributes.get("realtime_notes")
    return attributes.setdefault("realtime_notes", RunNotes()) if notes is None else notes


class JobReader:
    """Read which job something is about.

    Args:
        app: The Celery app; tasks of other apps are not its jobs.
        projects: Which project a job belongs to.
    """

    def __init__(self, app: Celery, projects: Projects) -> None:
        self._app = app
        self._projects = projects
        self._log = RateLimitedLogger(logger)

    def of_request(self, request: Any) -> Job:
        """Return the job of a request that a worker has received, runs, or is told the end of.

        Args:
            request: A worker's ``Request`` or a task's ``Context``.
        """
        return job_of_call(call_of_request(request), self._projects.of_request(request), request.hostname)

    def of_message(self, task: str, job_id: str, message: TaskMessage) -> Job:
        """Return the job of a message that a worker has received, and cannot or did not make a request of."""
        call = Call(task, job_id, message.fields, message.args, message.kwargs)
        return job_of_call(call, self._projects.of_message(call))

    def running(self, task: Any) -> Job | None:
        """Return the job that a task runs now, or None outside a job or in a task of another app."""
        request = task.request
        if request.id is None or task.app is not self._app:
            return None
        job = notes_of(request).job
        return job if job is not None and job.job_id == request.id else self._read_running(task)

    def begin(self, task: Any) -> Job:
        """Return the job that a task begins to run, with this execution of it, and note it on its request."""
        request, redelivered = task.request, is_redelivered(task.request)
        continued = None if redelivered else continued_execution_of(request.id, request_fields(request))
        execution = Execution(continued or secrets.token_hex(4), time.time(), redelivered)
        job = msgspec.structs.replace(self._read_running(task), execution=execution)
        if request.is_eager and self._projects.is_outside(job.project_id):  # nothing publishes it
            job = msgspec.structs.replace(job, parent_id=None, root_id=job.job_id)
        notes_of(task.request).job = job
        return job

    def _read_running(self, task: Any) -> Job:
        job = self.of_request(task.request)
        return msgspec.structs.replace(job, stall_after=self._stall_after(task, request_fields(task.request)))

    def _stall_after(self, task: Any, fields: Mapping[str, Any]) -> float | None:
        """Return after how many seconds of silence a job counts as stalled: its header, or its task's attribute."""
        value = fields.get(STALL_HEADER)
        value = value if value is not None else getattr(task, STALL_HEADER, None)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
            self._log.warning(
                "stall_after of task %s must be a number of seconds above 0, not %r; its jobs never count as stalled",
                *(task.name, value),
            )
            return None
        return float(value)


def job_of_call(call: Call, project_id: str | None, worker: str | None = None) -> Job:
    """Return the job of a call whose project is known; Celery's own work is no job of the project."""
    lineage = lineage_of(call.job_id, call.fields)
    return Job(
        job_id=call.job_id,
        project_id=None if is_celerys_own(call.task) else project_id,
        task=task_of(call.job_id, call.task, call.fields, call.kwargs),
        attempt=lineage.attempt,
        root_id=lineage.root_id,
        parent_id=lineage.parent_id,
        group_id=lineage.group_id,
        worker=worker,
        run=lineage.run,
    )
