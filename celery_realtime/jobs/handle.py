"""Know a job before it is published: its id, its project, and the position to subscribe from."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import celery
from celery.canvas import Signature

from celery_realtime.jobs.canvas import HEADER
from celery_realtime.jobs.projects import Call, Projects
from celery_realtime.logs import RateLimitedLogger
from celery_realtime.rooms import normalise_project_id

if TYPE_CHECKING:
    from celery.result import AsyncResult

log = RateLimitedLogger(logging.getLogger(__name__))


class JobHandle:
    """A job that is about to be published.

    A page that is rendered with it subscribes with ``since``, and receives everything that happened after the handle
    was made, also when the job started, or ended, before the page was loaded.

    Attributes:
        job_id: The Celery task id that it will have; once it is published, that of the job that it became.
        project_id: Its project; None if nothing gives it one.
        since: ``{"epoch": str, "offset": int}``, where the project stands now; None without a history, or while that
            cannot be reached. The page receives the latest state of all jobs then.
        became: The id of another job, if the task publishes in a way of its own and has returned that one, as those do
            that let no job be published twice; "" if it has published none; else None.
    """

    def __init__(self, signature: Signature, project_id: str | None, since: dict[str, Any] | None) -> None:
        self.job_id: str = signature.options["task_id"]
        self.project_id = project_id
        self.since = since
        self.became: str | None = None
        self._signature: Signature | None = signature

    def as_dict(self) -> dict[str, Any]:
        """Return ``job_id``, ``project_id`` and ``since``, fit for JSON."""
        return {"job_id": self.job_id, "project_id": self.project_id, "since": self.since}

    def publish(self) -> AsyncResult[Any]:
        """Publish the job, as ``apply_async`` does.

        If the task returns another job instead, or none, :attr:`became` says so, and a line in the log: a page that
        was made with this handle before waits for a job that there is not.

        Raises:
            RuntimeError: It has been published already.
        """
        signature, self._signature = self._signature, None
        if signature is None:
            raise RuntimeError(f"job {self.job_id} has been published already; make a new handle for another job")
        with contextlib.ExitStack() as undo:
            undo.callback(setattr, self, "_signature", signature)  # it may be tried again if it fails
            result = signature.apply_async()
            undo.pop_all()
        if result.id != self.job_id:
            self._note_other(result.id)
        return result

    def _note_other(self, job_id: str | None) -> None:
        self.became = job_id or ""
        log.warning(
            "job %s was not published: its task returned %s instead, so pages that wait for it see nothing of it; "
            "let them wait for what became of it",
            *(self.job_id, f"job {job_id}" if job_id else "no job"),
            job_id=self.job_id,
            project_id=self.project_id,
        )
        self.job_id = job_id or self.job_id

    def __repr__(self) -> str:
        return f"<JobHandle {self.job_id} of project {self.project_id!r}>"


def new_handle(signature: Signature, projects: Projects, position: Callable[[str], dict[str, Any] | None]) -> JobHandle:
    """Return the handle of a job that a signature is about to publish.

    Args:
        signature: A signature of one's own, whose options may have a ``project_id``, for a header of that name.
        projects: Which project a job belongs to.
        position: Returns where a project stands now.

    Raises:
        TypeError, ValueError: The project id is not one.
    """
    project_id = signature.options.pop(HEADER, None)
    headers = dict(signature.options.get("headers") or {})
    if project_id is not None:
        headers[HEADER] = normalise_project_id(project_id)
    signature.set(headers=headers, task_id=signature.options.get("task_id") or celery.uuid())
    call = Call(signature.task, signature.options["task_id"], headers, signature.args, signature.kwargs)
    project = projects.of_call(call)
    if project is not None:
        headers[HEADER] = project  # it stays so wherever the job is published
    return JobHandle(signature, project, None if project is None else position(project))


def signature_of(
    task: Any, args: Iterable[Any], kwargs: Mapping[str, Any] | None, options: dict[str, Any]
) -> Signature:
    """Return a new signature of a task, or of a signature with more arguments.

    Raises:
        TypeError: It is neither, or a signature of several tasks.
    """
    if isinstance(task, Signature) and task.subtask_type is None:
        return task.clone(tuple(args), dict(kwargs or {}), **options)
    if isinstance(task, celery.Task):
        return task.signature(tuple(args), dict(kwargs or {}), **options)
    raise TypeError(f"handle takes a task or the signature of one, not {task!r:.100}; for others there is position()")
