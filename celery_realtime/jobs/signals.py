"""Turn the signals of one Celery app into the statuses of its jobs."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any

from celery import Celery, signals
from celery.exceptions import Reject, TaskRevokedError

from celery_realtime.encoding import describe_error
from celery_realtime.events import Ending, Job
from celery_realtime.jobs import endings
from celery_realtime.jobs.batches import BatchedJobs
from celery_realtime.jobs.departures import Departures
from celery_realtime.jobs.end_reports import EndReports
from celery_realtime.jobs.job_reader import JobReader, notes_of
from celery_realtime.jobs.keeping import Keeping
from celery_realtime.jobs.projects import Projects, take_off
from celery_realtime.jobs.publishing import Publishing
from celery_realtime.jobs.received import ReceivedJobs
from celery_realtime.jobs.running_steps import RunningSteps
from celery_realtime.jobs.seams import (
    TaskMessage,
    connect_first,
    dict_fields,
    is_prefork_child,
    note_behind,
    read_received,
)
from celery_realtime.jobs.statuses import StatusReporter
from celery_realtime.jobs.unreached import UnreachedSteps
from celery_realtime.sending.manager import SocketIOManager
from celery_realtime.settings import Settings

logger = logging.getLogger(__name__)

#: Called with a job, its task, which is None of a job that runs in a batch, and whether it is eager.
StartObserver = Callable[[Job, Any, bool], None]


class Bridge:
    """Report the jobs of an app to a manager, from Celery's signals.

    Args:
        app: The Celery app; the tasks of other apps in the same process are not reported.
        settings: Returns the settings.
        projects: Which project a job belongs to.
        reader: Reads which job something is about.
        reporter: Reports their statuses.
        departures: Is told which jobs this worker receives.
        keeping: Keeps messages of jobs.

    Attributes:
        running_steps: What is behind the jobs that run in this process.
        publishing: Follows what the app publishes.
    """

    def __init__(
        self,
        app: Celery,
        settings: Callable[[], Settings],
        *,
        projects: Projects,
        reader: JobReader,
        reporter: StatusReporter,
        departures: Departures,
        keeping: Keeping,
    ) -> None:
        self._app, self._settings = app, settings
        self._projects = projects
        self._is_connected = False
        self._start_observers: list[StartObserver] = []
        self._leave_observers: list[Callable[[Job, bool], None]] = []
        received = self._received = ReceivedJobs(reader)
        self._reporter = reporter
        self._reports = EndReports(reporter, settings)
        self._departures, self._reader = departures, reader
        self._batches = BatchedJobs(reader, reporter, begin=self._begin, report_success=self._reports.success)
        self._unreached = unreached = UnreachedSteps(projects, self._reporter, received.by_id)
        self.running_steps = RunningSteps(self._unreached.behind)
        self.publishing = Publishing(
            app, settings, keeping, projects=projects, reporter=reporter, unreached=unreached, received=received.by_id
        )

    # -- connecting ---------------------------------------------------------------------------------------------

    def connect(self, manager: SocketIOManager) -> None:
        """Report to ``manager`` from now on; a second call only changes the manager."""
        self._reporter.report_to(manager)
        if self._is_connected:
            return
        self._is_connected = True
        self.publishing.watch()
        self._unreached.follow_chords(self._app, self._reader)
        for signal, receiver in self._receivers().items():
            # The id keeps two apps apart: Celery up to 5.6 takes two instances' methods for one receiver.
            signal.connect(receiver, dispatch_uid=f"celery_realtime.{id(self)}.{signal.name}")
        connect_first(signals.task_prerun, self._reader.on_prerun, f"celery_realtime.{id(self)}.arguments")

    def _receivers(self) -> dict[Any, Callable[..., None]]:
        return {
            signals.before_task_publish: self.publishing.on_publish,
            signals.task_received: self._on_received,
            signals.task_prerun: self._on_prerun,
            signals.task_postrun: self._on_postrun,
            signals.task_success: self._on_success,
            signals.task_failure: self._on_failure,
            signals.task_revoked: self._on_revoked,
            signals.task_internal_error: self._on_internal_error,
            signals.task_unknown: self._on_unknown,
            signals.task_rejected: self._on_rejected,
            signals.task_retry: self._on_retry,
        }

    def on_start(self, observer: StartObserver) -> None:
        """Call ``observer`` with each job that starts in this process, when its start has been reported."""
        self._start_observers.append(observer)

    def on_leave(self, observer: Callable[[Job, bool], None]) -> None:
        """Call ``observer`` with each job whose task has returned, or raised, in this process, whatever comes of it.

        It also gets whether the job goes on in a message that it has published.
        """
        self._leave_observers.append(observer)

    def received(self, request: Any) -> Job:
        """Return the job of a request that this worker has received."""
        return self._received.of(request)

    def end_later_steps(self, job: Job, request: Any, ending: Ending) -> None:
        """Report that the steps behind a job will not run, which has ended with an error."""
        self._unreached.end_behind(job, request, ending.error or ending.state, state=ending.state)

    # -- receiving ----------------------------------------------------------------------------------------------

    def _on_received(self, sender: Any = None, request: Any = None, **_: Any) -> None:
        if sender is None or sender.app is self._app:
            job = self._received.add(self._batches.followed(request))
            if job.project_id is not None:
                self._departures.watch(job, request)
                note_behind(request, self._unreached.behind(job, request))

    def _on_unknown(self, sender: Any = None, message: Any = None, name: Any = None, id: Any = None, **_: Any) -> None:
        if sender is not None and sender.app is self._app and id:
            received = read_received(message)
            job = self._reader.of_message(str(name), id, received)
            self._reporter.report(job, "FAILURE", error=f"NotRegistered: {name}")
            self._unreached.end(job, received.embed, f"NotRegistered: {name}")

    def _on_rejected(self, sender: Any = None, message: Any = None, exc: Any = None, **_: Any) -> None:
        """Report a message that a worker cannot read, as far as it says which job it is of."""
        if getattr(sender, "app", None) is not self._app:
            return
        received = read_received(message)
        if received.job_id:
            job = self._reader.of_message(str(received.fields.get("task")), str(received.job_id), received)
            error = describe_error(exc) if exc else "the message is not a task's"
            self._reporter.report(job, "REJECTED", error=error)

    # -- running ------------------------------------------------------------------------------------------------

    def _on_prerun(self, task: Any = None, args: Any = None, kwargs: Any = None, **_: Any) -> None:
        if task.app is not self._app or self._batches.start(task, args):
            return
        request = task.request
        job = self._reader.begin(task, request)
        take_off(task, kwargs)  # they are those that the task is called with: Celery passes its own dict
        if job.project_id is not None or not request.is_eager:
            notes_of(request).token = self._projects.enter(job.project_id)
        if request.is_eager and job.attempt:
            self._reporter.report(job, "RETRY")  # nothing publishes the retry of a job that runs in its caller
        self.running_steps.begin(job, request)
        self._begin(job, task, is_eager=bool(request.is_eager))

    def _begin(self, job: Job, task: Any = None, *, is_eager: bool = False) -> None:
        if not is_eager and not job.attempt:
            self._reporter.report_publication(job)
        self._reporter.report(job, "STARTED")
        for observer in self._start_observers:
            observer(job, task, is_eager)

    def _on_postrun(self, task: Any = None, args: Any = None, state: Any = None, retval: Any = None, **_: Any) -> None:
        if task.app is not self._app or self._batches.end(task, args, str(state)):
            return
        request = task.request
        job = self._reader.running_in(task, request)
        if job is None:
            return
        notes = notes_of(request)
        if not notes.republished:
            self._end_quietly(job, request, state, retval)
        for observer in self._leave_observers:
            observer(job, notes.republished)
        if notes.token is not None:
            self._projects.leave(notes.token)
        self._reader.end(request)
        self._reporter.secure()

    def _end_quietly(self, job: Job, request: Any, state: Any, retval: Any) -> None:
        """Report ends of which Celery sends no signal but ``task_postrun``."""
        if state == "IGNORED":
            self._end_ignored(job, request)
        elif state == "REJECTED" and not getattr(retval, "requeue", False):
            self._reporter.report(job, "REJECTED", error=(error := endings.rejection_error(retval)))
            self._unreached.end_behind(job, request, error)
        elif state is None:
            self._end_interrupted(job, request, sys.exc_info()[1])

    def _end_ignored(self, job: Job, request: Any) -> None:
        """End a job that raised ``Ignore`` as the state that it stored itself says."""
        state, meta = notes_of(request).stored or ("IGNORED", None)
        self._unreached.end_behind(job, request, "an earlier step was ignored")
        self._reports.ignored(job, state, meta)

    def _end_interrupted(self, job: Job, request: Any, cause: BaseException | None) -> None:
        """End a job whose run was cut off.

        In prefork the main process reports it. In the other pools a ``sys.exit()`` in a task, or a greenlet that a
        shutdown kills, leaves no other trace.
        """
        if request.is_eager:
            if isinstance(cause, Exception):  # it is raised at the caller, and task_failure is not sent then
                self._reports.failure(job, cause, None)
        elif is_prefork_child() or cause is None:
            return
        elif isinstance(cause, SystemExit):
            self._reporter.report(job, "FAILURE", error=f"SystemExit: {cause.code}")
            self._unreached.end_behind(job, request, cause)
        elif not isinstance(cause, Exception):
            self._departures.cut_off(job, request)

    def _on_success(self, sender: Any = None, result: Any = None, **_: Any) -> None:
        request = sender.request
        job = self._reader.running_in(sender, request)
        if job is not None and not notes_of(request).republished:
            self._reports.end(job, endings.returned(sender, request, result, self._settings()))
            self._reporter.secure()

    def _on_failure(
        self, sender: Any = None, task_id: str = "", exception: Any = None, einfo: Any = None, **_: Any
    ) -> None:
        # Celery 5.7 sends it for a Reject too, from the main process; the child has reported that in task_postrun.
        if sender.app is self._app and not isinstance(exception, Reject):
            job = self._received.of_task(sender, task_id)
            request = sender.request if sender.request.id == task_id else self._received.request(task_id)
            if job is None or not self._departures.hasten(job, exception):
                error = endings.failed(sender, exception)
                if job is not None:
                    self._reports.failure(job, exception, einfo, error=error)
                    if request is not None:
                        self._unreached.end_behind(job, request, exception)

    def _on_revoked(
        self, sender: Any = None, request: Any = None, terminated: Any = None, expired: Any = None, **_: Any
    ) -> None:
        if sender is None or sender.app is not self._app:
            return
        reason = "terminated" if terminated else "expired" if expired else "revoked"
        job = self.received(request)
        self._reporter.report(job, "REVOKED", error=f"TaskRevokedError: {reason}")
        self._unreached.end_behind(job, request, TaskRevokedError(reason))

    def _on_internal_error(self, sender: Any = None, task_id: str = "", request: Any = None, **details: Any) -> None:
        """Report a job that failed in Celery's own hands: bad kwargs, no result backend, an eager one that raises."""
        if sender.app is not self._app:
            return
        job = self._received.of_task(sender, task_id)
        if request and sender.request.id != task_id:
            # Not what was received last under this id: that may be the next attempt.
            message = TaskMessage(task_id, dict_fields(request), details.get("args"), details.get("kwargs"), {})
            job = self._reader.of_message(sender.name, task_id, message)
        error = details.get("exception")
        if job is None:
            return
        self._reports.failure(job, error, details.get("einfo"))
        if request and isinstance(error, BaseException):
            self._unreached.end(job, request, error)

    def _on_retry(self, sender: Any = None, request: Any = None, reason: Any = None, **_: Any) -> None:
        """Report a job that a cold shutdown, or a loss of the broker, cut off; retries proper are reported otherwise.

        Celery calls it a retry, without a reason (celery/worker/request.py, ``_announce_cancelled``).
        """
        if sender is None or sender.app is not self._app or reason is not None:
            return
        job, received = self.received(request), self._received.request(request.id)
        if received is not None and not received.acknowledged:
            self._departures.give_back(job, received)
        else:
            self._reporter.report(job, "LOST", error=endings.SHUTDOWN)
