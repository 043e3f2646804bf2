"""Follow the jobs that run in this process: their progress, their custom events, and whether they were cancelled."""

from __future__ import annotations

import logging
import math
import os
import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import msgspec
from celery import Celery

from celery_realtime import events
from celery_realtime.bounded import BoundedDict
from celery_realtime.clocks import time
from celery_realtime.events import Job
from celery_realtime.forks import after_fork, before_fork
from celery_realtime.jobs.cancelled_tasks import CancelledTasks
from celery_realtime.jobs.cancelling import Cancellations
from celery_realtime.jobs.job_lives import JobLives, is_earlier
from celery_realtime.jobs.job_reader import JobReader, TaskElsewhere
from celery_realtime.jobs.job_stages import JobStages, Part
from celery_realtime.jobs.log_capture import STREAM as LOG
from celery_realtime.jobs.log_capture import LogCapture
from celery_realtime.jobs.metadata import Keeper, Metadata
from celery_realtime.jobs.paces import Paces
from celery_realtime.jobs.progress import Number, Progress, Throttle, check_number, check_progress, progress_update
from celery_realtime.jobs.progress_mirror import ProgressMirror
from celery_realtime.jobs.reached import Reached
from celery_realtime.jobs.streams import Stream, StreamDesk, silent_stream
from celery_realtime.jobs.unshown import UnshownReports
from celery_realtime.jobs.yielding import Yielding
from celery_realtime.lazy import Lazy
from celery_realtime.logs import RateLimitedLogger
from celery_realtime.loops import BackgroundLoop
from celery_realtime.sending.manager import SocketIOManager
from celery_realtime.settings import Settings
from celery_realtime.stored import stores_results
from celery_realtime.stream_parts import JSON, TEXT

logger = logging.getLogger(__name__)

#: Shortest time, in seconds, between two updates of a job in the result backend.
MIRROR_INTERVAL = 1.0

#: Seconds after which a tracker that reports asks again how often it may.
PACE_LIFE = 0.1

#: Jobs whose trackers a process remembers.
REMEMBERED = 10000

#: Jobs that count together with processes that they have forked, each by an open file.
MOST_SHARED = 100

Publish = Callable[[Job, Progress, float], None]

#: The projects of the jobs of an id, None of one that was asked for by its id alone.
_Projects = frozenset[str | None]


class ProgressTracker:
    """Report one job's progress.

    Updates leave at most once in ``min_update_interval`` seconds: the first at once, the newest at the end of the
    interval, and the last together with the job's end. Progress never goes backwards.

    Args:
        job: The job.
        publish: Sends an update; gets the job, the report and the time before which it is held back.
        mirror: Stores it in the result backend; the same arguments.
        interval: Seconds between two updates.
        pace: ``(job) -> seconds``: those between two updates as of now, where that may change; the result backend has
            nothing to do with it.
        open_stream: ``(job, name, kind) -> Stream``; None where nothing is reported.
    """

    def __init__(
        self,
        job: Job,
        publish: Publish,
        mirror: Publish,
        interval: float,
        pace: Callable[[Job], float] | None = None,
        *,
        open_stream: Callable[[Job, object, object], Stream] | None = None,
    ) -> None:
        self.job = job
        self._open_stream = open_stream
        self._publish = publish
        self._mirror = mirror
        self._interval = interval
        self._pace = pace
        #: When the pace is asked for again, of :func:`time.monotonic`: at each report it would cost too much.
        self._paced_until = math.inf if pace is None else -math.inf
        self._events = Throttle(interval)
        self._stores = Throttle(max(interval, MIRROR_INTERVAL))
        self._reached = Reached()
        #: Its stages, once it has some.
        self._stages: JobStages | None = None
        self._ended = False
        self._lock = threading.RLock()
        self._pid = os.getpid()

    def _locked(self) -> threading.RLock:
        """Return the lock; after a fork a new one, since a thread that is not in the child may hold the old one."""
        if self._pid != os.getpid():
            self._lock, self._pid = threading.RLock(), os.getpid()
        return self._lock

    @property
    def min_update_interval(self) -> float:
        """Shortest time between two updates, in seconds; what it is set to counts, whoever watches."""
        return self._interval

    @min_update_interval.setter
    def min_update_interval(self, seconds: float) -> None:
        checked = check_number("min_update_interval", seconds, None)
        with self._locked():
            self._pace, self._paced_until = None, math.inf
            self._interval = self._events.interval = checked
            self._stores.interval = max(checked, MIRROR_INTERVAL)

    def _keep_pace(self, clock: float) -> None:
        if self._pace is not None:
            self._events.interval = self._pace(self.job)
            self._paced_until = clock + PACE_LIFE

    @property
    def holds_by_pace(self) -> bool:
        """Whether an update is held back for as long as the pace says."""
        return self._pace is not None and not self._ended and self._events.holds(time.monotonic())

    def hasten(self) -> float | None:
        """Let an update that is held back leave as the present pace says; return when that is, None if none is held."""
        with self._locked():
            clock = time.monotonic()
            if not self.holds_by_pace:
                return None
            self._keep_pace(clock)
            return self._events.hasten(clock)

    @property
    def progress(self) -> Number:
        """How far the job is, in percent."""
        return self._reached.value if self._stages is None else self._stages.progress

    def share(self) -> None:
        """Count together with the processes that are forked from now on.

        Raises:
            OSError: The system has no file for it.
        """
        with self._locked():
            if not self._ended:
                (self._stages or self._reached).share()

    def catch_up(self) -> None:
        """Report what other processes have reported of the job: they may have been killed before it had left."""
        with self._locked():
            further = self._reached.unreported if self._stages is None else None
            if further is not None:
                self.report(Progress(further))

    # -- stages -------------------------------------------------------------------------------------------------

    def plan_stages(self, weights: Mapping[str, Number]) -> None:
        """Note which stages the job is going to have, and report that.

        Args:
            weights: Of :func:`~celery_realtime.jobs.job_stages.check_plan`.

        Raises:
            ValueError: There would be too many.
        """
        with self._locked():
            self._known_stages().plan(weights)
            self.report(Progress(0))

    def begin_stage(self, name: str, weight: Number | None) -> Part:
        """Begin a stage, and report that.

        Raises:
            ValueError: It runs already, or there would be too many.
        """
        with self._locked():
            part = self._known_stages().begin(name, weight)
            self.report(Progress(0), part=part)
            return part

    def end_stage(self, part: Part, *, failed: bool) -> None:
        """End a stage, and report that."""
        with self._locked():
            self._known_stages().end(part, failed=failed)
            self.report(Progress(0), part=part)

    def present_part(self) -> Part | None:
        """Return the stage that this context works for, or that began last of those that run; None for none."""
        with self._locked():
            return None if self._stages is None else self._stages.present()

    def _known_stages(self) -> JobStages:
        if self._stages is None:
            self._stages = JobStages()
        return self._stages

    def _counter(self, part: Part | None = None) -> Reached:
        """Return what counts a report: a stage of the job, by default the present one, or the job."""
        if part is None and self._stages is not None:
            part = self._stages.present()
        return self._reached if part is None else part.reached

    # -- reports ------------------------------------------------------------------------------------------------

    def update(
        self,
        progress: object = None,
        message: str | None = None,
        *,
        current: object = None,
        total: object = None,
    ) -> None:
        """Report progress; the arguments and errors are those of :func:`check_progress`."""
        self.report(check_progress(progress, message, current, total))

    def set_progress(self, progress: float, message: str | None = None) -> None:
        """Report that the job has come to ``progress`` percent."""
        self.update(progress, message)

    def increment_progress(self, amount: float, message: str | None = None) -> None:
        """Report that the job, or its present stage, has come ``amount`` percent further, to 100 at most."""
        step = check_progress(amount, message)
        with self._locked():
            self.report(Progress(self._counter().add(step.progress), step.message))

    def mark_complete(self, message: str | None = None) -> None:
        """Report 100 percent, at once. The job's end itself is reported by Celery."""
        self.report(check_progress(100, message), at_once=True)

    def stream(self, name: str, kind: str = TEXT) -> Stream:
        """Return a stream of the job; the arguments and errors are those of a task's ``self.stream``."""
        return silent_stream(name, kind) if self._open_stream is None else self._open_stream(self.job, name, kind)

    def advance(self, current: int, total: int | None, message: object, *, part: Part | None = None) -> None:
        """Report units done of a total that may be unknown, in which case the percentage stands still.

        Args:
            current: Units done.
            total: Units in all, or None.
            message: What is being done.
            part: The stage that it is about; by default the present one, if the job has stages.
        """
        if total is None:
            reached = self._counter(part).value
            self.report(msgspec.structs.replace(check_progress(reached, message), current=current), part=part)
        else:
            self.report(check_progress(None, message, current, max(current, total)), part=part)

    @property
    def ended(self) -> bool:
        """Whether the job has ended, after which nothing is reported."""
        return self._ended

    def end(self) -> None:
        """Report nothing more: the job has ended."""
        with self._locked():
            self._ended = True

    def report(
        self, progress: Progress, at_once: bool = False, mirror: bool = True, *, part: Part | None = None
    ) -> None:
        """Send a checked report, and not after the job's end.

        Progress is never below what was reached before; of a job with stages, it goes back where one begins that was
        not known.

        Args:
            progress: The report.
            at_once: Whether it leaves now, whatever the pace.
            mirror: Whether it is stored in the result backend.
            part: The stage that it is about; by default the present one, if the job has stages.
        """
        with self._locked():
            if self._ended:
                return
            if self._stages is not None:
                progress = self._stages.count(progress, part)
            elif (reached := self._reached.raise_to(progress.progress)) != progress.progress:
                progress = msgspec.structs.replace(progress, progress=reached)
            clock = time.monotonic()
            if clock >= self._paced_until:
                self._keep_pace(clock)
            if at_once:
                self._events.sent(clock)
            self._publish(self.job, progress, 0.0 if at_once else self._events.due(clock))
            if mirror:
                self._mirror(self.job, progress, self._stores.due(clock))


def silent_tracker() -> ProgressTracker:
    """Return a tracker of no job, for a plain call of a task: it only checks its arguments."""
    return ProgressTracker(Job(job_id=""), _ignore, _ignore, 0.0)


def _ignore(_job: Job, _report: Progress, _due: float) -> None:
    """Report nothing."""


class Trackers:
    """The trackers of a process, each of a job of one project.

    Whoever knows no more of a job than its id is given the tracker of the only job of that id.
    """

    def __init__(self) -> None:
        self._trackers: BoundedDict[tuple[str | None, str], ProgressTracker] = BoundedDict(REMEMBERED)
        self._projects: BoundedDict[str, _Projects] = BoundedDict(REMEMBERED)
        self._renew_lock()
        after_fork(self._renew_lock)

    def _renew_lock(self) -> None:
        self._lock = threading.RLock()  # a signal's handler may end jobs

    def of(self, job: Job) -> ProgressTracker | None:
        """Return the tracker of a job: its own, else the one that was asked for by the id alone, if no other is."""
        tracker = self._trackers.get((job.project_id, job.job_id))
        if tracker is None and self._projects.get(job.job_id) == {None}:
            tracker = self.pop(Job(job_id=job.job_id))
            if tracker is not None:
                self.add(job, tracker)
        return tracker

    def by_id(self, job_id: str) -> ProgressTracker | None:
        """Return the tracker of the only job of an id; of several, the one that was asked for by the id alone."""
        projects = self._projects.get(job_id) or ()
        [project_id] = projects if len(projects) == 1 else [None]
        return self._trackers.get((project_id, job_id))

    def add(self, job: Job, tracker: ProgressTracker) -> None:
        """Remember the tracker of a job, in place of another one."""
        with self._lock:
            self._trackers[job.project_id, job.job_id] = tracker
            self._projects[job.job_id] = (self._projects.get(job.job_id) or frozenset()) | {job.project_id}

    def all(self) -> list[ProgressTracker]:
        """Return all of them."""
        trackers = (self._trackers.get(name) for name in self._trackers.names())
        return [tracker for tracker in trackers if tracker is not None]

    def share(self) -> None:
        """Have those of jobs that run in this process count together with the processes that it forks from now on."""
        here = [tracker for tracker in self.all() if tracker.job.execution is not None]
        for tracker in here[-MOST_SHARED:]:
            tracker.share()

    def pop(self, job: Job) -> ProgressTracker | None:
        """Forget the tracker of a job, and return it if there was one."""
        with self._lock:
            projects = (self._projects.pop(job.job_id) or frozenset()) - {job.project_id}
            if projects:
                self._projects[job.job_id] = projects
            return self._trackers.pop((job.project_id, job.job_id))


class RunningJobs:
    """The jobs that run in this process.

    Args:
        app: The Celery app.
        reader: Reads which job a task runs.
        manager: Where events go.
        settings: Returns the settings.
    """

    def __init__(
        self, app: Celery, *, reader: JobReader, manager: SocketIOManager, settings: Callable[[], Settings]
    ) -> None:
        self._app = app
        self._reader = reader
        self._manager = manager
        self._settings = settings
        self._log = RateLimitedLogger(logger)
        #: Says what of them is reported elsewhere.
        self.unshown = UnshownReports()
        self._trackers = Trackers()
        self._paces = Paces(manager, settings, self._trackers.all)
        manager.watched.serve(self._paces)
        #: Which of them have been cancelled.
        self.cancellations = Cancellations(lambda: manager.history)
        self._cancelled = CancelledTasks(self.cancellations, self._log)
        self._mirror = Lazy(lambda: ProgressMirror(queue_size=settings().queue_size, client_at=self._client_at))
        self._yielding = Yielding(manager)
        self._metadata = Keeper(manager, settings, self._yielding.after_report)
        self._lives = JobLives(REMEMBERED)
        #: What they say bit by bit.
        self.streams = StreamDesk(manager, settings, self._yielding.after_report)
        #: What they log and print.
        self.logs = LogCapture(app, settings, self._open_log)
        before_fork(self._share)

    def _client_at(self, options: Mapping[str, Any]) -> Any:
        """Return the client of the history, if these options of redis-py's connections lead to the same data."""
        history = self._manager.history
        return None if history is None else history.client_at(options)

    @property
    def mirror(self) -> ProgressMirror:
        """What stores their progress in the result backend."""
        return self._mirror.get()

    @property
    def loops(self) -> list[BackgroundLoop]:
        """Their background loops, for health checks."""
        mirror = self._mirror.peek()
        return [*self.cancellations.loops, *self.streams.loops, *([] if mirror is None else mirror.loops)]

    @property
    def present(self) -> Job | None:
        """The job that this thread, or context, works for; None outside of one."""
        return self._reader.here()

    # -- trackers -----------------------------------------------------------------------------------------------

    def tracker_of(self, task: Any) -> ProgressTracker | None:
        """Return the tracker of the job that a task runs now, or None outside a job."""
        job = self._reader.running(task)
        if job is None:
            task, job = self._running(task)
            if job is None:
                return None
        tracker = self._trackers.of(job)
        if tracker is not None and tracker.job is job:
            return tracker
        if tracker is None or _are_two_starts(tracker.job, job):
            tracker = self._new_tracker(job)
        tracker.job = job  # one that was asked for by the id alone knows no more than that
        if not tracker.ended and stores_results(task):
            self.mirror.expect(job.project_id, task, task.request)
        return tracker

    def _running(self, task: Any) -> tuple[Any, Job | None]:
        """Return the job that a task runs now, and the task as it is in the thread that runs it."""
        job = self._reader.running(task)
        if job is None:
            task = self._reader.elsewhere(task)
            job = self._reader.running(task)
        return task, job

    def _share(self) -> None:
        """Have the jobs of this process, first of all that which forks, count together with what is forked."""
        task = self._app.current_task
        if task is not None and task.app is self._app:
            self.tracker_of(task)
        with self._log.suppressing(
            "cannot share a job's progress with a process that is forked, so that counts by itself; report in the "
            "task alone"
        ):
            self._trackers.share()

    def tracker_by_id(self, job_id: str | None) -> ProgressTracker:
        """Return the tracker of a job, for code that has its id and not its task; None is the id of a plain call.

        Where several projects have a job of this id, it may be of any of them, and what is reported of it reaches
        nobody, unless :meth:`SocketIOManager.track_job_for_project` has named one.

        Raises:
            TypeError: It is not a job id.
        """
        if job_id is None:
            return silent_tracker()
        if not isinstance(job_id, str) or not job_id:
            raise TypeError(f"job_id must be a non-empty str, not {job_id!r}")
        if not self._settings().enabled:
            return silent_tracker()
        running = self._app.current_task
        if running is not None and running.request.id == job_id and running.app is self._app:
            tracker = self.tracker_of(running)
        else:
            tracker = self._trackers.by_id(job_id)
        return tracker if tracker is not None else self._new_tracker(self._lives.running(job_id) or Job(job_id=job_id))

    def runs(self, job_id: object) -> bool:
        """Tell whether this process runs a job of an id, and one only."""
        return isinstance(job_id, str) and self._lives.running(job_id) is not None

    def _new_tracker(self, job: Job) -> ProgressTracker:
        interval = self._settings().progress_interval
        tracker = ProgressTracker(
            job, self._put, self._store, interval, self._paces.interval, open_stream=self._open_stream
        )
        earlier = self._trackers.of(job)
        if earlier is not None:
            earlier.end()
        self._trackers.add(job, tracker)
        if self._lives.has_ended(job):
            tracker.end()
        return tracker

    def begin(self, job: Job) -> None:
        """Note that a job has started in this process."""
        self._lives.begin(job)
        if job.project_id is not None:
            self._yielding.after_start(job)

    def end(self, job: Job, state: str = "SUCCESS") -> None:
        """Report no more of a job: it has ended, or this attempt of it has, in a state of Celery's."""
        self.logs.end(job)
        self.streams.end(job, state)
        tracker = self._trackers.of(job)
        if tracker is not None and is_earlier(job, tracker.job):
            return
        self._lives.end(job)
        self._yielding.forget(job)
        mirror = self._mirror.peek()
        if mirror is not None:
            mirror.end(job)
        self.cancellations.forget(events.name_of(job))
        self._metadata.forget(job)
        if tracker is not None:
            tracker.catch_up()
            tracker.end()
            self._trackers.pop(job)

    # -- what they report -----------------------------------------------------------------------------------------

    def _put(self, job: Job, report: Progress, due: float) -> None:
        job = self._with_project(job)
        if job.project_id is None:
            self._manager.count_without_project(job)
            if job.task is None:
                self.unshown.note_unknown(job.job_id)
        else:
            self._manager.put(events.outgoing_progress(progress_update(job, report), job.stall_after, job=job), due)
            self._yielding.after_report(job)

    def _store(self, job: Job, report: Progress, due: float) -> None:
        if self._settings().enabled:
            self.mirror.put(job, report, due)

    def open_stream(self, task: Any, name: object, kind: object) -> Stream:
        """Return a stream of the job that a task runs now, or one that only checks; see ``StreamDesk.open``."""
        task, job = self._running(task)
        if job is None:
            self.unshown.note_without_job(task)
            return silent_stream(name, kind)
        check = None
        if getattr(task, "cancellable", False):
            here = TaskElsewhere(task, task.request)  # as it is in this thread: others may write, too
            check = partial(self._cancelled.end, here, job)
        return self._open_stream(job, name, kind, check)

    def _open_stream(self, job: Job, name: object, kind: object, check: Callable[[], object] | None = None) -> Stream:
        job = self._with_project(job)
        if job.project_id is None or not self._settings().enabled:
            if job.project_id is None:
                self._manager.count_without_project(job)
            return silent_stream(name, kind)
        return self.streams.open(job, name, kind, check)

    def _open_log(self, job: Job) -> Stream | None:
        job = self._with_project(job)
        return None if job.project_id is None else self.streams.open(job, LOG, JSON)

    def _with_project(self, job: Job) -> Job:
        if job.project_id is not None:
            return job
        return msgspec.structs.replace(job, project_id=self._manager.project_of(job.job_id))

    def report_other(self, task: Any, job_id: str, report: Progress) -> None:
        """Report progress of another job than the one that a task runs now, by its id.

        Of the jobs above that, the project is known. Of others it is not, nor whether they are jobs at all.
        """
        job, tracker = self._reader.running(task), self.tracker_by_id(job_id)
        if job is not None and tracker.job.project_id is None and job_id in (job.parent_id, job.root_id):
            tracker.job = msgspec.structs.replace(tracker.job, project_id=job.project_id)
        tracker.report(report, mirror=False)

    def emit_from(self, task: Any, event: str, data: Any) -> None:
        """Send a custom event to the project of the job that a task runs now; outside a job only check it.

        Raises:
            TypeError: ``data`` has no JSON form, or the name is not a string.
            ValueError: ``data`` is too large or holds NaN, or the name is reserved.
        """
        task, job = self._running(task)
        if job is not None and job.project_id is not None:
            self._manager.emit_to_project(job.project_id, event, data, job_id=job.job_id)
            self._yielding.after_report(job)
            return
        events.outgoing_custom(event, data, "", None, self._settings().max_payload)
        if job is not None:
            self._manager.count_without_project(job)
        else:
            self.unshown.note_without_job(task)

    def metadata_of(self, task: Any) -> Metadata | None:
        """Return the metadata of the job that a task runs now; None outside a job."""
        _, job = self._running(task)
        return None if job is None else Metadata(self._metadata, job)

    # -- cancelling -----------------------------------------------------------------------------------------------

    def raise_if_cancelled(self, task: Any) -> None:
        """End the job that a task runs now if it has been cancelled and the task is ``cancellable``.

        Raises:
            JobCancelled: It has been.
        """
        if not getattr(task, "cancellable", False):
            return
        task, job = self._running(task)
        if job is not None:
            self._cancelled.end(task, job)


def _are_two_starts(job: Job, other: Job) -> bool:
    """Return whether two jobs of the same id are of two starts of its task, as far as both are known."""
    if job.attempt != other.attempt:
        return True
    return job.execution is not None and other.execution is not None and job.execution.id != other.execution.id
