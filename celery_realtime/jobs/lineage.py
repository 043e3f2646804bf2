"""Carry what a job hands down in headers to the jobs behind it: its attempt, root and parent, and its project.

A publication marks its message, so that a second publication under the same id is seen as another run of the job. What
continues the job keeps the mark: retries, replacements and redeliveries.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, MutableMapping
from typing import Any, NamedTuple

from celery_realtime.clocks import time
from celery_realtime.jobs.canvas import leads_to, write_headers
from celery_realtime.jobs.celery_tasks import carried_by, group_of, is_celerys_own, shown_name
from celery_realtime.jobs.seams import TaskMessage, published_group, request_fields
from celery_realtime.random_words import RandomWords

PARENT_HEADER = "realtime_parent_id"
ATTEMPT_HEADER = "realtime_attempt"
ROOT_HEADER = "realtime_root_id"
TASK_HEADER = "realtime_task"

#: The mark of a publication: when it was, in milliseconds since the epoch, and a random word.
RUN_HEADER = "realtime_run"

#: In the message of a step, by the id of a job that a later step continues: the mark of that job's publication.
CONTINUED_RUN_HEADER = "realtime_continued_run"

#: By the id of a job that has replaced itself: the execution that goes on in the replacement, or in a later step of it.
CONTINUED_EXECUTION_HEADER = "realtime_continued_execution"

_words = RandomWords()

_RUN = re.compile(r"\d{13}-[0-9a-f]{8}")
_EXECUTION = re.compile(r"[0-9a-f]{8}")


class Lineage(NamedTuple):
    """Where a job comes from.

    Attributes:
        attempt: How often it was tried before, under its present task and under those that this one replaces.
        root_id: What started its workflow: the first job, or the group that it started with.
        parent_id: The parent that it had before it was retried, else the one that Celery names.
        group_id: The group that it is a member of.
        run: The mark of its publication; None of a message whose publisher has written none.
    """

    attempt: int
    root_id: str | None
    parent_id: str | None
    group_id: str | None
    run: str | None = None


def lineage_of(job_id: str, fields: Mapping[str, Any]) -> Lineage:
    """Read a job's lineage out of what its message carries."""
    return Lineage(
        attempt=attempt_of(job_id, fields),
        root_id=fields.get(ROOT_HEADER) or fields.get("root_id"),
        parent_id=fields.get(PARENT_HEADER, fields.get("parent_id")),
        group_id=fields.get("group"),
        run=run_of(fields),
    )


def note_origin(request: Any, *, parent_id: str | None, root_id: str) -> None:
    """Note the parent and the root of a job that was not published on its request, over those that Celery names."""
    vars(request).update({PARENT_HEADER: parent_id, ROOT_HEADER: root_id})


def run_of_request(request: Any) -> str | None:
    """Return the run that the request of a worker, or of a task, is of; None of a message without a mark."""
    return run_of(request_fields(request))


def new_run() -> str:
    """Return the mark of a publication that is made now. Later ones are greater, as texts too."""
    return f"{time.time_ns() // 1_000_000:013d}-{_words.new()}"


def published_at(run: str) -> int:
    """Return when a publication was made, of its mark, in milliseconds since the epoch."""
    return int(run.partition("-")[0])


def run_of(fields: Mapping[str, Any]) -> str | None:
    """Return the run that a message is of, of what it carries; None if it has no mark."""
    return _checked_run(fields.get(RUN_HEADER))


def _checked_run(value: object) -> str | None:
    return value if isinstance(value, str) and _RUN.fullmatch(value) else None


def continues(job_id: str, fields: Mapping[str, Any]) -> bool:
    """Tell whether a step is the rest of a job that has replaced itself."""
    before = fields.get(TASK_HEADER)
    return isinstance(before, dict) and job_id in before


def continued_run_of(job_id: str | None, fields: Mapping[str, Any]) -> str | None:
    """Return the run that a later step continues, as what comes before it carries it; None of a step of its own."""
    continued = fields.get(CONTINUED_RUN_HEADER)
    return _checked_run(continued.get(job_id)) if isinstance(continued, dict) else None


def continued_execution_of(job_id: str | None, fields: Mapping[str, Any]) -> str | None:
    """Return the execution that a job goes on with, if it is one that has replaced itself."""
    continued = fields.get(CONTINUED_EXECUTION_HEADER)
    execution = continued.get(job_id) if isinstance(continued, dict) else None
    return execution if isinstance(execution, str) and _EXECUTION.fullmatch(execution) else None


def attempt_of(job_id: str, fields: Mapping[str, Any]) -> int:
    """Return how often a job was tried before, under its present task and under those that this one replaces."""
    before = fields.get(ATTEMPT_HEADER)
    return (fields.get("retries") or 0) + (before.get(job_id, 0) if isinstance(before, dict) else 0)


def task_of(job_id: str, task: str, fields: Mapping[str, Any], kwargs: Any) -> str:
    """Return the name of the user's task that a job is shown under."""
    before = fields.get(TASK_HEADER)
    return shown_name(task, kwargs, before.get(job_id) if isinstance(before, dict) else None)


class Publication:
    """A message on its way out, and what of the job that publishes it lives on in it.

    Args:
        task: The name of its task.
        message: The message.
        headers: Its headers, to write into.
        running: The request of the job that publishes it, or None outside a job.

    Attributes:
        message: The message.
        running: That request.
        behind: What the message carries along: ``chain``, ``chord`` and ``callbacks``.
        continues_running: Whether the running job lives on in it, as a retry or replacement, or in a later step of it.
    """

    def __init__(self, task: str, message: TaskMessage, headers: MutableMapping[str, Any], running: Any) -> None:
        self.message = message
        self.behind = carried_by(task, message.args, message.embed)
        self._group = group_of(task, message.args, message.fields)
        self._headers = headers
        self.running = running
        #: What the message of the running job carried; nothing outside a job.
        self._fields: Mapping[str, Any] = {} if running is None else request_fields(running)
        self.continues_running = running is not None and (self.is_running or leads_to(self.behind, running.id))
        self._carried: dict[str, Any] = {}

    @property
    def is_running(self) -> bool:
        """Whether it is of the running job: a retry or a replacement."""
        return self.running is not None and self.running.id == self.message.job_id

    @property
    def continues_attempt(self) -> bool:
        """Whether it is a replacement within the attempt that runs already, and so no news."""
        job_id = self.message.job_id
        if self.running is None or job_id is None or self.running.id != job_id:
            return False
        return attempt_of(job_id, self.message.fields) <= attempt_of(job_id, self._fields)

    @property
    def retries_running(self) -> bool:
        """Whether it is the next attempt of the running job."""
        is_the_job = self.running is not None and self.running.id == self.message.job_id
        return is_the_job and not self.continues_attempt

    def carry(self, name: str, value: Any) -> None:
        """Write a header into the message, and into what its job publishes when it ends."""
        self._headers[name] = self._carried[name] = value

    def note(self, name: str, value: Any) -> None:
        """Write a header into the message alone."""
        self._headers[name] = value

    def write_lineage(self, *, crosses_border: bool = False) -> None:
        """Write what Celery would forget: the parent and attempt of a job that goes on, its run, and its root.

        A job of another project than the one that publishes it has no parent, and is a root: no project learns the ids
        of another's jobs.

        Celery makes a failed attempt the parent of the next. A replacement, or the step of it that gets the id, goes on
        at the attempt that was replaced: Celery counts from 0 again. Of a group that starts a workflow, Celery makes
        each member a root.
        """
        fields = self._fields
        if self.continues_running:
            self._continue(fields)
        elif is_celerys_own(fields.get("task")):
            self._headers[PARENT_HEADER] = lineage_of(self.running.id, fields).parent_id
        if crosses_border:
            self._headers[PARENT_HEADER] = None
        if is_celerys_own(fields.get("task")):
            self._pass_on(fields)
        self._write_run()
        root = self._own_root() if crosses_border else self._root()
        if root is not None:
            self._carried[ROOT_HEADER] = root
            if root != self.message.fields.get("root_id"):
                self._headers[ROOT_HEADER] = root

    def _continue(self, fields: Mapping[str, Any]) -> None:
        running = self.running
        before = lineage_of(running.id, fields)
        if running.id == self.message.job_id:
            self._headers[PARENT_HEADER] = before.parent_id
        else:
            self.carry(TASK_HEADER, {running.id: task_of(running.id, str(fields.get("task")), fields, running.kwargs)})
            if before.run:
                self.carry(CONTINUED_RUN_HEADER, {running.id: before.run})
        if before.attempt and not self.message.fields.get("retries"):
            self.carry(ATTEMPT_HEADER, {running.id: before.attempt})

    def continue_execution(self, execution: str) -> None:
        """Let a replacement, or the step of it that gets the id, go on with the execution that it replaces."""
        if not self.message.fields.get("retries"):
            self.carry(CONTINUED_EXECUTION_HEADER, {self.running.id: execution})

    def _pass_on(self, fields: Mapping[str, Any]) -> None:
        """Write what ``celery.chord_unlock`` was given for the chord's body that it publishes, into its retries too."""
        for name in (TASK_HEADER, CONTINUED_RUN_HEADER, CONTINUED_EXECUTION_HEADER, ATTEMPT_HEADER):
            if fields.get(name):
                self.carry(name, fields[name])

    def _write_run(self) -> None:
        run = self._run()
        if run is not None:
            self._headers[RUN_HEADER] = run

    def _run(self) -> str | None:
        """Return the run that the message is of; None of a retry of a job that has no mark itself."""
        job_id = self.message.job_id
        if self.running is not None and self.running.id == job_id:
            return lineage_of(self.running.id, self._fields).run
        return continued_run_of(job_id, self.message.fields) or new_run()

    def _root(self) -> str | None:
        fields = self.message.fields
        if self.running is not None:
            return lineage_of(self.running.id, self._fields).root_id
        root = fields.get(ROOT_HEADER) or fields.get("root_id")
        is_its_own = root in (None, self.message.job_id)
        return (published_group() or self._group or root) if is_its_own else root

    def _own_root(self) -> str | None:
        return published_group() or self._group or self.message.job_id

    def hand_down(self) -> None:
        """Write what is carried into the callbacks, errbacks, chain and chord of the message.

        A worker's main process publishes some of them without ever running the job, so there is nothing else to inherit
        from. The signatures are copied: the caller may use the same ones for another project.
        """
        if self._carried:
            write_headers(self.message.embed, self._carried)
