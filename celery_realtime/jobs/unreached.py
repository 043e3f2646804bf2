"""End the steps of a workflow that will never run, because a job before them did not succeed."""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import msgspec
from celery import Celery
from celery.utils.saferepr import saferepr

from celery_realtime.encoding import describe_error, one_line
from celery_realtime.events import NOT_RUN, Job, Step
from celery_realtime.jobs.canvas import Behind, carries_any, options_of, tasks_behind
from celery_realtime.jobs.celery_tasks import carried_by, is_celerys_own
from celery_realtime.jobs.job_reader import JobReader, job_of_call
from celery_realtime.jobs.lineage import RUN_HEADER, continued_run_of, continues
from celery_realtime.jobs.projects import Call, Projects
from celery_realtime.jobs.seams import arguments_of, embed_of_request, follow_chord_errors, task_of_request, unproxied
from celery_realtime.jobs.statuses import StatusReporter
from celery_realtime.logs import RateLimitedLogger

logger = logging.getLogger(__name__)

#: What a step ends with if that would be the error of another project's job.
OTHER_PROJECT = "an earlier step did not succeed"

#: How Celery names the member of a chord that has failed (celery/backends/base.py and redis.py).
_MEMBER = re.compile(r"Dependency (.+?) raised ", re.DOTALL)

#: Steps behind a job that are on record while a worker has it; those beyond do not end if the worker dies.
MOST_RECORDED = 100


class _MemberError(NamedTuple):
    """The error of a member of a chord, and the projects that have a job of the member's id."""

    text: str
    projects: set[str]


class UnreachedSteps:
    """Report the end of all jobs that the success of a job would have led to.

    Celery marks some of them as failed in the result backend, and sends no signal for any (celery/backends/base.py).

    Args:
        projects: Which project a job belongs to.
        reporter: Reports their ends.
        received: Returns the job that this process has received under an id, if it is known to be that alone.
    """

    def __init__(
        self, projects: Projects, reporter: StatusReporter, received: Callable[[str], Job | None] | None = None
    ) -> None:
        self._projects = projects
        self._reporter = reporter
        self._received = received
        self._log = RateLimitedLogger(logger)

    def end(
        self,
        job: Job,
        embed: Mapping[str, Any],
        reason: str | BaseException | _MemberError,
        *,
        state: str = "FAILURE",
    ) -> None:
        """End the jobs behind one that did not succeed.

        Args:
            job: The job.
            embed: What its message carries along: ``chain``, ``chord`` and ``callbacks``.
            reason: The error that it ended with, or one line that says why.
            state: In which state; if that is ``LOST``, so is what has replaced itself, and that is taken back.
        """
        walked = list(self._walk(job, embed))
        steps = _within_borders(job, [step for step, _ in walked])
        for step, (_, behind) in zip(steps, walked, strict=True):
            self._end(step, one_line(NOT_RUN + _words(job, step, behind, reason)), state)

    def end_behind(self, job: Job, request: Any, reason: str | BaseException, *, state: str = "FAILURE") -> None:
        """End the jobs behind one of which there is the request; see :meth:`end`."""
        self.end(job, _embed_of(request), reason, state=state)

    def behind(self, job: Job, request: Any) -> tuple[Step, ...]:
        """Return the jobs behind one that a worker has received, as many as are recorded, that have a project."""
        embed = _embed_of(request)
        if not carries_any(embed):  # most jobs are alone, and a worker's main process has many to receive
            return ()
        steps = (step for step, _ in self._walk(job, embed) if step.project_id is not None)
        return tuple(_within_borders(job, list(itertools.islice(steps, MOST_RECORDED))))

    def follow_chords(self, app: Celery, reader: JobReader) -> None:
        """End the body of each chord of an app that Celery fails in this process, and what is behind it.

        Args:
            app: The app.
            reader: Reads which job it happens in.
        """

        def on_error(body: Any, error: BaseException) -> None:
            running = app.current_task
            before = Job(job_id="")
            if running is not None and running.app is app and running.request.id is not None:
                project = self._projects.of_request(running.request)  # that of Celery's own task too
                before = msgspec.structs.replace(reader.of_request(running.request), project_id=project)
            with self._log.suppressing(
                "a job that will not run is not reported, so it stays as it is; cancel it, or wait until it is "
                "forgotten",
                project_id=before.project_id,
            ):
                self.end(before, {"chord": body}, self._reason(error, before))

        follow_chord_errors(unproxied(app), on_error)

    def _reason(self, error: BaseException, before: Job) -> str | _MemberError:
        """Return why the body of a chord will not run, and of which project the member is that has failed."""
        text = describe_error(error)
        member = _MEMBER.match(str(error))
        if member is None or member[1] == before.job_id:
            return text
        projects: set[str] = set()
        with self._log.suppressing(
            "cannot look up which project a job is of, so its error is not repeated at the jobs behind it; it is "
            "shown at the job itself",
            job_id=member[1],
        ):
            projects = self._projects_of(member[1])
        return _MemberError(text, projects)

    def _projects_of(self, job_id: str) -> set[str]:
        """Return the projects that have a job of an id: one that has come here may not be on record yet."""
        projects = {*self._reporter.projects_of(job_id)}
        received = None if self._received is None else self._received(job_id)
        if received is not None and received.project_id is not None and self._reporter.has_history:
            projects.add(received.project_id)
        return projects

    def _end(self, step: Step, error: str, state: str) -> None:
        if step.continues and state == "LOST":
            self._reporter.report_lost(step, error)
        elif step.continues:
            self._reporter.report(step, "FAILURE", error=error)
        else:
            self._reporter.report_unreached(step, error)

    def _walk(self, job: Job, embed: Mapping[str, Any]) -> Iterator[tuple[Step, Behind]]:
        for behind in tasks_behind(job.job_id, embed):
            step = self._step(job, behind)
            if step is not None:
                yield step, behind

    def _step(self, before: Job, behind: Behind) -> Step | None:
        signature, options = behind.signature, options_of(behind.signature)
        job_id, headers = options.get("task_id"), options.get("headers") or {}
        if not job_id:
            return None
        fields = {
            "root_id": before.root_id,
            "parent_id": before.parent_id if is_celerys_own(before.task) else before.job_id or None,
            "group": options.get("group_id"),
            **headers,
            RUN_HEADER: continued_run_of(job_id, headers),
        }
        call = Call(str(signature.get("task")), job_id, fields, signature.get("args"), signature.get("kwargs"))
        job = job_of_call(call, self._projects.of_step(call, before.project_id))
        return Step(**msgspec.structs.asdict(job), continues=continues(job_id, headers))


def _embed_of(request: Any) -> Mapping[str, Any]:
    return carried_by(task_of_request(request), arguments_of(request)[0], embed_of_request(request))


def _within_borders(job: Job, steps: list[Step]) -> list[Step]:
    """Return the jobs behind one, those of another project without its lineage, as they would have been published."""
    # A chain is walked from its end: what would have run first starts the workflow in its project.
    roots = {step.project_id: step.job_id for step in steps}
    return [
        step
        if job.project_id in (None, step.project_id)
        else msgspec.structs.replace(step, parent_id=None, root_id=roots[step.project_id])
        for step in steps
    ]


def _words(job: Job, step: Job, behind: Behind, reason: str | BaseException | _MemberError) -> str:
    """Return why a step will not run: of what waits for a chord, the error that Celery stores for its body."""
    if isinstance(reason, _MemberError):
        return reason.text if reason.projects == {step.project_id} else OTHER_PROJECT
    if job.job_id and job.project_id != step.project_id:
        return OTHER_PROJECT  # its error is for the eyes of its own project
    if not isinstance(reason, BaseException):
        return reason
    if behind.member is None:
        return describe_error(reason)
    return f"ChordError: Dependency {behind.member} raised {saferepr(reason)}"
