"""Read which job a publication, a received request or a running task is."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextvars import ContextVar, Token
from typing import Any
from weakref import ref

import msgspec
from celery import Celery

from celery_realtime.clocks import time
from celery_realtime.events import Details, Execution, Job
from celery_realtime.jobs.celery_tasks import is_celerys_own
from celery_realtime.jobs.details import DetailsReader
from celery_realtime.jobs.lineage import continued_execution_of, lineage_of, note_origin, task_of
from celery_realtime.jobs.projects import Call, Projects, call_of_request
from celery_realtime.jobs.seams import (
    TaskMessage,
    is_redelivered,
    name_task,
    note_arguments,
    outer_request,
    request_fields,
)
from celery_realtime.logs import RateLimitedLogger
from celery_realtime.random_words import RandomWords

logger = logging.getLogger(__name__)

STALL_HEADER = "stall_after"


class RunNotes:
    """What is noted of a job on its request while it runs.

    Attributes:
        job: The job.
        token: Undoes that its project is the surrounding one.
        here: Undoes that it is the job of this context.
        republished: Whether it lives on in a message that it has published: a retry or a replacement.
        stored: The state and the result that the task has stored itself.
        retry_reason: The exception that it is retried for.
        max_retries: How often it may be retried, where the call of ``self.retry`` says so.
    """

    __slots__ = ("here", "job", "max_retries", "republished", "retry_reason", "stored", "token")

    def __init__(self) -> None:
        self.job: Job | None = None
        self.token: Token[str | None] | None = None
        self.here: Token[Any] | None = None
        self.republished = False
        self.stored: tuple[Any, Any] | None = None
        self.retry_reason: Any = None
        self.max_retries: int | None = None


def notes_of(request: Any) -> RunNotes:
    """Return the notes on the request of a running job."""
    attributes = vars(request)
    notes: RunNotes | None = attributes.get("realtime_notes")
    return attributes.setdefault("realtime_notes", RunNotes()) if notes is None else notes


class TaskElsewhere:
    """A task as it is in the thread that runs a job of it, for another thread that works for the job.

    Args:
        task: The task.
        request: Of the job.
    """

    def __init__(self, task: Any, request: Any) -> None:
        self._task = task
        self.request = request

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)


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
        self._words = RandomWords()
        self._details = DetailsReader(app)
        #: The name of the task, and the request, of the job that this context belongs to.
        self._here: ContextVar[tuple[str, Any] | None] = ContextVar("celery_realtime_job", default=None)
        #: By its request, the name of the task of each job that runs in this process.
        self._running: dict[ref[Any], str] = {}

    def of_request(self, request: Any) -> Job:
        """Return the job of a request that a worker has received, runs, or is told the end of.

        Args:
            request: A worker's ``Request`` or a task's ``Context``.
        """
        call = call_of_request(request)
        return self._job_of(call, self._projects.of_request_and_call(request, call), request.hostname)

    def of_message(self, task: str, job_id: str, message: TaskMessage) -> Job:
        """Return the job of a message that a worker has received, and cannot or did not make a request of."""
        call = Call(task, job_id, message.fields, message.args, message.kwargs)
        return self._job_of(call, self._projects.of_message(call))

    def _job_of(self, call: Call, project_id: str | None, worker: str | None = None) -> Job:
        details = None if project_id is None else self._details.of(call)  # of what nobody sees, nothing is read
        return job_of_call(call, project_id, worker, details)

    def running(self, task: Any) -> Job | None:
        """Return the job that a task runs now, or None outside a job or in a task of another app."""
        return self.running_in(task, task.request)

    def running_in(self, task: Any, request: Any) -> Job | None:
        """Return what :meth:`running` does, given the request of the task, which takes a while to be found."""
        if request.id is None or task.app is not self._app:
            return None
        job = notes_of(request).job
        return job if job is not None and job.job_id == request.id else self._read_running(task, request)

    def here(self) -> Job | None:
        """Return the job that this context belongs to, in whichever thread; None outside of one."""
        here = self._here.get()
        return None if here is None else notes_of(here[1]).job

    def elsewhere(self, task: Any) -> Any:
        """Return a task as it is where its job runs, if this is another thread, to which the job's context was passed.

        Celery knows the request of a task only in the thread that runs it. In a thread without a context, a guess could
        report to another project.

        Raises:
            RuntimeError: This thread has no context, and jobs of the task run in others.
        """
        if task.app is not self._app or task.request_stack.top is not None:  # a plain call, if it is not a job
            return task
        here = self._here.get()
        if here is not None:
            return TaskElsewhere(task, here[1]) if here[0] == task.name else task
        if task.name in list(self._running.values()):
            raise RuntimeError(
                f"this thread does not know which job of {task.name} it works for: start it with asyncio.to_thread, or "
                "hand contextvars.copy_context().run to it, or take get_progress_tracker(self.request.id) along"
            )
        return task

    def end(self, request: Any) -> None:
        """Note that the job of a request has ended, which a task runs now."""
        self._running.pop(ref(request), None)
        notes = notes_of(request)
        token, notes.here = notes.here, None
        if token is not None:
            try:
                self._here.reset(token)
            except ValueError:  # it ended in another context than it began in
                self._here.set(None)

    def on_prerun(self, task: Any = None, args: Any = None, kwargs: Any = None, **_: Any) -> None:
        """Note with which arguments a job came, before its application may change them: ``task_prerun``."""
        if task.app is self._app:
            note_arguments(task.request, args, kwargs)

    def begin(self, task: Any, request: Any) -> Job:
        """Return the job that a task begins to run, with this execution of it, and note it on its request."""
        redelivered = is_redelivered(request)
        if request.is_eager:  # nothing publishes it
            self._note_origin(task, request)
        continued = None if redelivered else continued_execution_of(request.id, request_fields(request))
        clock = round(time.monotonic() * 1_000_000)
        execution = Execution(continued or self._words.new(), time.time(), redelivered, clock)
        job = self._read_running(task, request, execution)
        notes = notes_of(request)
        notes.job, notes.here = job, self._here.set((task.name, request))
        running = self._running
        running[ref(request, lambda gone: running.pop(gone, None))] = task.name
        return job

    def _note_origin(self, task: Any, request: Any) -> None:
        """Note in which job an eager one runs: Celery up to 5.5 does not say. It names no job of another project."""
        outer = outer_request(task)
        if self._projects.is_outside(self._projects.of_request(request)):
            note_origin(request, parent_id=None, root_id=request.id)
        elif request.root_id is None or (outer is not None and outer.id == request.id):
            fields = {} if outer is None else request_fields(outer)
            before = lineage_of(request.id, fields)
            parent = before.parent_id if fields.get("id") == request.id else fields.get("id")  # or it replaces that one
            note_origin(request, parent_id=parent, root_id=before.root_id or request.id)

    def _read_running(self, task: Any, request: Any, execution: Execution | None = None) -> Job:
        name_task(request, task.name)
        stall_after = self._stall_after(task, request_fields(request))
        return msgspec.structs.replace(self.of_request(request), stall_after=stall_after, execution=execution)

    def _stall_after(self, task: Any, fields: Mapping[str, Any]) -> float | None:
        """Return after how many seconds of silence a job counts as stalled: its header, or its task's attribute."""
        value = fields.get(STALL_HEADER)
        value = value if value is not None else getattr(task, STALL_HEADER, None)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
            self._log.warning(
                "stall_after of task %s must be a number of seconds above 0, not %r, so its jobs never count as "
                "stalled; set it to one, or to None",
                *(task.name, value),
            )
            return None
        return float(value)


def job_of_call(call: Call, project_id: str | None, worker: str | None = None, details: Details | None = None) -> Job:
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
        details=details,
    )
