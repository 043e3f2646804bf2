"""Report jobs when they are published, and write into their messages what the jobs behind them inherit."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any

from celery import Celery

from celery_realtime.encoding import describe_error
from celery_realtime.events import Job
from celery_realtime.jobs.canvas import HEADER
from celery_realtime.jobs.details import MAX_RETRIES_HEADER, DetailsReader, Route, epoch_seconds
from celery_realtime.jobs.job_reader import job_of_call, notes_of
from celery_realtime.jobs.keeping import Keeping, task_options
from celery_realtime.jobs.lineage import Publication, continues
from celery_realtime.jobs.projects import CONTINUED_HEADER, Call, Projects, check_header
from celery_realtime.jobs.seams import follow_groups, look_last, queue_of_publication, read_message
from celery_realtime.jobs.statuses import StatusReporter
from celery_realtime.jobs.unreached import UnreachedSteps
from celery_realtime.sending.standby import publication
from celery_realtime.settings import Settings

#: Longest time, in seconds, that the message of a retry waits for its ``queued`` event to leave: an idle worker's
#: ``running`` would otherwise come first, and the reason of the retry would be no news. It is mostly a fifth of a
#: millisecond, and nothing while the broker is away. Of other messages only those wait whose reports nobody puts in
#: order: the worker that starts a job reports its publication too.
OVERTAKING = 0.25


class _Sending:
    """One call of ``app.send_task``."""

    def __init__(self) -> None:
        self.queued: tuple[Job, Publication] | None = None
        self.is_kept = False
        #: Reports what has been published, when the message is complete; given that, or nothing.
        self.finish: Callable[..., None] | None = None

    def look(self, body: Any, way: Mapping[str, Any]) -> None:
        """Take the message as it is handed to the broker."""
        finish, self.finish = self.finish, None
        if finish is not None:
            finish(body, way)

    def end(self) -> None:
        """Report what has been published, if nobody has seen its message."""
        finish, self.finish = self.finish, None
        if finish is not None:
            finish()


class Publishing:
    """Follow what one app publishes.

    All publishing goes through ``app.send_task``, which is wrapped on the instance: Celery's signals do not say which
    app publishes.

    Args:
        app: The Celery app.
        settings: Returns the settings.
        keeping: Keeps messages.
        projects: Which project a job belongs to.
        reporter: Reports the statuses of jobs.
        unreached: Reports jobs that will not run.
        received: Returns a job that this worker has received, by its id, or None.
    """

    def __init__(
        self,
        app: Celery,
        settings: Callable[[], Settings],
        keeping: Keeping,
        *,
        projects: Projects,
        reporter: StatusReporter,
        unreached: UnreachedSteps,
        received: Callable[[str], Job | None],
    ) -> None:
        self._app = app
        self._settings = settings
        self._projects = projects
        self._reporter = reporter
        self._unreached = unreached
        self._received = received
        self._keeping = keeping
        self._observers: list[Callable[[], None]] = []
        self._details = DetailsReader(app)
        self._sending: ContextVar[_Sending | None] = ContextVar("celery_realtime_sending", default=None)

    def watch(self) -> None:
        """Wrap ``app.send_task``."""
        follow_groups()
        own = vars(self._app).get("send_task")

        @functools.wraps(self._app.send_task)
        def watched(name: str, args: Any = None, kwargs: Any = None, *more: Any, **options: Any) -> Any:
            check_header(options.get("headers"))
            # That of its class as it is by then: Sentry wraps it there, be it before or after this.
            send_task = functools.partial(type(self._app).send_task, self._app) if own is None else own
            settings = self._settings()
            if not settings.enabled:  # a bad setting is an error of the call
                return send_task(name, args, kwargs, *more, **options)
            sending = _Sending()
            if settings.keep_messages or task_options.is_used:
                self._prepare_to_keep(name, sending)
            token = self._sending.set(sending)
            try:
                with publication():
                    sent = send_task(name, args, kwargs, *more, **options)
                sending.end()
            except Exception as error:
                sending.end()
                self._retract(sending, error)
                raise
            finally:
                self._sending.reset(token)
                if sending.queued is not None:
                    self._reporter.let_leave()
            for observer in self._observers:
                observer()
            return sent

        self._app.send_task = watched

    def on_publication(self, observer: Callable[[], None]) -> None:
        """Call ``observer`` whenever this process has published a job."""
        self._observers.append(observer)

    def _prepare_to_keep(self, task_name: str, sending: _Sending) -> None:
        sending.is_kept = self._keeping.concerns(task_name)
        if sending.is_kept:
            look_last(self._app, self._look)

    def _look(self) -> Callable[[Any, Mapping[str, Any]], None] | None:
        sending = self._sending.get()
        return None if sending is None or not sending.is_kept else sending.look

    def _retract(self, sending: _Sending, error: Exception) -> None:
        if sending.queued is None:
            return
        job, publication = sending.queued
        self._reporter.report(job, "REJECTED", error=describe_error(error))
        if publication.running is not None:  # a workflow goes no further; outside a job, the caller may try again
            self._unreached.end(job, publication.behind, error)

    def on_publish(self, sender: str = "", body: Any = None, headers: Any = None, **way: Any) -> None:
        """Take a message on its way out: Celery's ``before_task_publish``."""
        sending = self._sending.get()
        if sending is None:
            return
        self._sending.set(None)  # what a receiver or serializer publishes on the way is a publication of its own
        publication = Publication(sender, read_message(headers, body), headers, self._running_request())
        job = self._write(sender, publication, way)
        if sending.is_kept and _is_first_of(job, publication):
            sending.finish = functools.partial(self._finish, sending, job, publication)
        else:
            self._finish(sending, job, publication)

    def _finish(
        self,
        sending: _Sending,
        job: Job,
        publication: Publication,
        body: Any = None,
        way: Mapping[str, Any] | None = None,
    ) -> None:
        """Report a job whose message is complete, and keep that, if it is given."""
        if way is not None:
            self._keeping.keep(job, body, way)
        if self._report(job, publication):
            sending.queued = job, publication
        if job.attempt or publication.continues_running or not self._reporter.is_ordered:
            self._reporter.let_leave()
            self._reporter.wait_until_sent(job, OVERTAKING)

    def _running_request(self) -> Any:
        running = self._app.current_task
        return None if running is None or running.request.id is None else running.request

    def _write(self, task: str, publication: Publication, way: Mapping[str, Any]) -> Job:
        """Write a job's project and lineage into its message, and return the job.

        Args:
            task: The name of its task.
            publication: Its message.
            way: What ``before_task_publish`` says of where that goes.
        """
        message = publication.message
        assert message.job_id is not None
        call = Call(task, message.job_id, message.fields, message.args, message.kwargs)
        before = self._project_before(publication)
        project = before if publication.is_running and before is not None else self._projects.of_publication(call)
        if project is not None:
            publication.carry(HEADER, project)
        publication.write_lineage(crosses_border=before not in (None, project))
        if publication.continues_running:
            self._continue(publication, before)
        publication.hand_down()
        if project is None:
            return job_of_call(call, None)
        queue = queue_of_publication(way.get("exchange"), way.get("routing_key"), way.get("declare"))
        priority = (way.get("properties") or {}).get("priority")
        return job_of_call(call, project, details=self._details.of(call, Route(queue, priority)))

    def _project_before(self, publication: Publication) -> str | None:
        """Return the project of the job that publishes, or that has ended in this worker and leads to the job."""
        running = publication.running
        if running is None:
            parent_id = publication.message.fields.get("parent_id")
            parent = None if parent_id is None else self._received(str(parent_id))
            return None if parent is None else parent.project_id
        job = notes_of(running).job
        is_noted = job is not None and job.job_id == running.id and job.project_id is not None
        return job.project_id if job is not None and is_noted else self._projects.of_request(running)

    def _continue(self, publication: Publication, project: str | None) -> None:
        if project is not None and not publication.is_running:
            publication.carry(CONTINUED_HEADER, {publication.running.id: project})
        notes = notes_of(publication.running)
        if notes.job is not None and not notes.republished and not publication.retries_running:
            self._reporter.report_handed_on(notes.job)
        if publication.retries_running and notes.max_retries is not None:
            publication.note(MAX_RETRIES_HEADER, notes.max_retries)
        notes.republished = True
        if notes.job is not None and notes.job.execution is not None:
            publication.continue_execution(notes.job.execution.id)

    def _report(self, job: Job, publication: Publication) -> bool:
        """Report a published job; returns whether it is a new one."""
        if publication.continues_attempt:
            return False
        if job.attempt == 0:
            self._reporter.report_queued(job, epoch_seconds(publication.message.fields.get("expires")))
            return True
        self._reporter.report(job, "RETRY", error=_retry_error(publication.running))
        return False


def _is_first_of(job: Job, publication: Publication) -> bool:
    """Tell whether a job, which somebody may see, begins with this publication, and is no retry or replacement."""
    is_shown = job.project_id is not None and job.run is not None
    goes_on = publication.continues_attempt or continues(job.job_id, publication.message.fields)
    return is_shown and not job.attempt and not goes_on


def _retry_error(request: Any) -> str | None:
    """Return the error that a retry is published for: the one it was given, else the one that is being handled."""
    error = (None if request is None else notes_of(request).retry_reason) or sys.exc_info()[1]
    return None if error is None else describe_error(error)
