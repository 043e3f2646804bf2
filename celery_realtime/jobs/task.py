"""Give every Celery task its progress methods, whatever kind of task it is."""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Iterable, Iterator, Mapping, Sized
from typing import Any, Protocol, TypeVar

from celery.app.task import Task

from celery_realtime.encoding import one_line, text_of
from celery_realtime.events import Job, outgoing_custom
from celery_realtime.exceptions import ImproperlyConfigured
from celery_realtime.jobs import calls, keeping
from celery_realtime.jobs.job_reader import notes_of
from celery_realtime.jobs.job_stages import Stage, check_plan, check_stage, plain_name
from celery_realtime.jobs.mapped import ItemTracker, item_tracker, job_of_item
from celery_realtime.jobs.metadata import Metadata, PlainKeeper
from celery_realtime.jobs.progress import MESSAGES, PERCENTS, UNITS, Progress, check_progress, read_meta
from celery_realtime.jobs.streams import Stream, silent_stream
from celery_realtime.jobs.trackers import ProgressTracker, silent_tracker
from celery_realtime.jobs.unshown import UnshownReports
from celery_realtime.logs import RateLimitedLogger
from celery_realtime.settings import Settings
from celery_realtime.stream_parts import TEXT

logger = logging.getLogger(__name__)

#: Celery's states, and those of its contrib modules, that are no step on the way.
NO_STEPS = ("SUCCESS", "FAILURE", "REVOKED", "RETRY", "REJECTED", "IGNORED", "ABORTED")

_log = RateLimitedLogger(logger)

T = TypeVar("T")


class TaskHost(Protocol):
    """What the tasks of an app need of its ``app.realtime.running_jobs``.

    Attributes:
        unshown: Says what is reported of jobs that this process does not run.
    """

    unshown: UnshownReports

    def tracker_of(self, task: Any) -> ProgressTracker | None:
        """Return the tracker of the job that ``task`` runs now, or None outside a job."""

    def runs(self, job_id: object) -> bool:
        """Tell whether this process runs a job of an id."""

    def report_other(self, task: Any, job_id: str, report: Progress) -> None:
        """Report progress of another job than the one that ``task`` runs now, by its id."""

    def metadata_of(self, task: Any) -> Metadata | None:
        """Return the metadata of the job that ``task`` runs now, or None outside a job."""

    def emit_from(self, task: Any, event: str, data: Any) -> None:
        """Send a custom event to the project of the job that ``task`` runs now."""

    def open_stream(self, task: Any, name: object, kind: object) -> Stream:
        """Return a stream of the job that ``task`` runs now."""

    def raise_if_cancelled(self, task: Any) -> None:
        """Raise ``JobCancelled`` if the job that ``task`` runs now is to end."""


def add_methods() -> None:
    """Add the methods to :class:`celery.app.task.Task`.

    One new attribute on Celery's own class is the one way that reaches all kinds of tasks, early and late: shared
    ones, class-based ones, those with a base of their own, and those that were made before.
    """
    for method in (update_progress, track, emit, stage, plan_stages, stream):
        setattr(Task, method.__name__, method)
    Task.metadata = _MetadataOfJob()


@functools.cache
def install() -> None:
    """Follow what all tasks do, beside what Celery signals; once in a process."""
    Task.update_state = _observed(Task.update_state)
    Task.retry = _with_reason(Task.retry)
    calls.install()
    keeping.install()


def host_of(task: Any) -> TaskHost:
    """Return the running jobs of a task's app.

    Raises:
        ImproperlyConfigured: The app has no Realtime.
    """
    realtime = getattr(task.app, "realtime", None)
    if realtime is None:
        raise ImproperlyConfigured(f"the Celery app {task.app.main!r} has no Realtime: write Realtime(app) beside it")
    host: TaskHost = realtime.running_jobs
    return host


def _job_host_of(task: Any) -> TaskHost | None:
    """Return the running jobs of a task's app; None if nothing is reported: in a plain call without a Realtime, too.

    Raises:
        ImproperlyConfigured: The task runs a job, and its app has no Realtime.
    """
    realtime = getattr(task.app, "realtime", None)
    if realtime is None:
        return None if task.request.id is None else host_of(task)
    host: TaskHost = realtime.running_jobs
    return host if realtime.settings.enabled else None


def update_progress(
    self: Any, progress: object = None, message: object = None, *, current: object = None, total: object = None
) -> None:
    """Report how far the job is, to its project and, throttled, to the result backend.

    Returns at once whatever the state of the broker. Outside a job (a direct call) it only checks its arguments.

    Args:
        progress: Percent, 0..100; or leave it out and give ``current`` and ``total``.
        message: What is being done; a text, or what becomes one.
        current: Units done.
        total: Units in all.

    Raises:
        TypeError: An argument is missing or has the wrong type.
        ValueError: A number is out of range, infinite or NaN.
        JobCancelled: The job has been cancelled, and the task has ``cancellable=True``.
    """
    report = check_progress(progress, message, current, total)
    host = _job_host_of(self)
    if host is None:
        return
    host.raise_if_cancelled(self)
    tracker = host.tracker_of(self) or item_tracker(self)
    if tracker is not None:
        tracker.report(report)
    else:
        host.unshown.note_without_job(self)


def track(self: Any, items: Iterable[T], message: object = None, *, total: int | None = None) -> Iterator[T]:
    """Iterate, and report ``current`` of ``total`` on the way.

    Args:
        items: What to iterate over.
        message: What is being done.
        total: How many items there are; default: ``len(items)`` where it has one. Unknown, the bar stands still.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: ``total`` is negative or infinite.
        JobCancelled: The job has been cancelled, and the task has ``cancellable=True``; raised while it iterates.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    check_progress(0, message)
    if total is not None:
        check_progress(current=0, total=total)
    host = _job_host_of(self)
    if host is None:
        return iter(items)
    text, tracker = None if message is None else text_of(message), host.tracker_of(self) or item_tracker(self)
    if tracker is None:
        host.unshown.note_without_job(self)
    return _tracked(self, tracker, iter(items), text, total)


def _tracked(
    task: Any,
    tracker: ProgressTracker | ItemTracker | None,
    items: Iterator[T],
    message: str | None,
    total: int | None,
) -> Iterator[T]:
    done = 0
    for item in items:
        host_of(task).raise_if_cancelled(task)
        if tracker is not None:
            tracker.advance(done, total, message)
        yield item
        done += 1
    if tracker is not None:
        tracker.advance(done, done, message)


def stage(self: Any, name: str, weight: float | None = None) -> Stage:
    """Return a stage of the job, to be entered by ``with``: progress inside is that of the stage.

    The job's progress is the weighted mean of its stages, as far as they are known by then. A stage that an exception
    leaves has failed. Inside of it, ``self.update_progress`` and ``self.track`` report of it; from any thread its own
    methods do.

    Args:
        name: What it is called: 1 to 100 characters, or a text that is translated later.
        weight: Its weight among the stages of the job; default: what :func:`plan_stages` says, or 1.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: The name is empty or too long, or the weight not above 0, or above 1e15. Entered, the stage runs
            already, or the job has 50 others.
        JobCancelled: The job has been cancelled, and the task has ``cancellable=True``; raised where it is entered.
    """
    name = plain_name(name)
    number = check_stage(name, 1 if weight is None else weight)
    host = _job_host_of(self)
    if host is None:
        return Stage(silent_tracker(), name, number)
    tracker = host.tracker_of(self)
    if tracker is None and item_tracker(self) is None:
        host.unshown.note_without_job(self)
    check = functools.partial(host.raise_if_cancelled, self)
    return Stage(tracker or silent_tracker(), name, None if weight is None else number, check)


def plan_stages(self: Any, stages: Mapping[str, float] | Iterable[str]) -> None:
    """Say which stages the job is going to have, so that its progress never goes back.

    Args:
        stages: Their weights by their names, in their order; or names alone, which weigh 1 each.

    Raises:
        TypeError: It is neither of these.
        ValueError: There are none, or more than 50, or one has no name or weight.
    """
    weights, host = check_plan(stages), _job_host_of(self)
    tracker = None if host is None else host.tracker_of(self)
    if tracker is not None:
        tracker.plan_stages(weights)
    elif host is not None and item_tracker(self) is None:
        host.unshown.note_without_job(self)


def metadata(self: Any) -> Metadata:
    """Return the metadata of the job that a task runs now; in a plain call, what that has written itself."""
    host = _job_host_of(self)
    task = job_of_item(self) or self
    found = None if host is None else host.metadata_of(task)
    if found is not None:
        return found
    request = vars(task.request)
    if "realtime_metadata" not in request:
        request["realtime_metadata"] = PlainKeeper(Settings().metadata_size)
    job_id = task.request.id or ""
    return Metadata(request["realtime_metadata"], Job(job_id=job_id, root_id=job_id))


class _MetadataOfJob:
    """What ``self.metadata`` is; a property would keep a user's tasks from having an attribute of that name."""

    def __get__(self, task: Any, _owner: type) -> Any:
        return self if task is None else metadata(task)


def emit(self: Any, event: str, data: Any = None) -> None:
    """Send a custom event to the job's project; returns at once.

    Args:
        event: The Socket.IO event name.
        data: Anything that JSON can hold; an object also gets a ``_realtime`` member.

    Raises:
        TypeError: ``data`` has no JSON form, or the name is no string.
        ValueError: ``data`` is too large or holds NaN, or the name is reserved.
    """
    host = _job_host_of(self)
    if host is None:
        outgoing_custom(event, data, "", None, sys.maxsize)
    else:
        host.emit_from(job_of_item(self) or self, event, data)


def stream(self: Any, name: str, kind: str = TEXT) -> Stream:
    """Return a stream of the job: what it says bit by bit, such as the tokens of an answer.

    ::

        with self.stream("answer") as out:
            for token in model:
                out.write(token)

    A stream that was closed goes on where it was. Outside a job (a direct call) only arguments are checked.

    Args:
        name: Of the stream: 1 to 128 printable characters.
        kind: ``text``, of which texts are written, or ``json``, for anything that JSON can hold.

    Raises:
        TypeError: The name is no string.
        ValueError: It is no name, there is no such kind, the stream is of the other, or the job has too many streams.
    """
    host = _job_host_of(self)
    if host is None:
        return silent_stream(name, kind)
    return host.open_stream(job_of_item(self) or self, name, kind)


def _observed(original: Any) -> Any:
    """Report the progress in ``update_state`` too, and note the state that a task stores before it raises Ignore."""

    @functools.wraps(original)
    def update_state(
        self: Any, task_id: Any = None, state: Any = None, meta: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        realtime = getattr(self.app, "realtime", None)
        if realtime is not None and realtime.settings.enabled:
            if self.request.id is not None:
                _observe(self, task_id, state, meta)
            elif task_id is not None:
                _observe_elsewhere(self, task_id, state, meta)
        return original(self, task_id, state, meta, *args, **kwargs)

    return update_state


def _observe(task: Any, task_id: Any, state: Any, meta: Any) -> None:
    request = task.request
    is_own = task_id in (None, request.id)
    if is_own and state != "PROGRESS":
        notes_of(request).stored = (state, meta)
    if state in NO_STEPS:
        return
    report, host = read_meta(meta), host_of(task)
    if report is None:
        _warn_of(task, request.id if is_own else task_id, state, meta)
    elif is_own:
        tracker = host.tracker_of(task)
        if tracker is not None:
            tracker.report(report, mirror=False)
    else:
        host.report_other(task, task_id, report)


def _observe_elsewhere(task: Any, task_id: Any, state: Any, meta: Any) -> None:
    """Observe what a thread without a job says of one that runs in this process, by its id."""
    host, report = host_of(task), read_meta(meta)
    if state in NO_STEPS:
        return
    if not host.runs(task_id):
        if report is not None:
            host.unshown.note_unknown(task_id)
    elif report is None:
        _warn_of(task, task_id, state, meta)
    else:
        host.report_other(task, task_id, report)


def _warn_of(task: Any, job_id: Any, state: Any, meta: Any) -> None:
    """Say why a state that looks like progress is not shown; others need not be progress."""
    if "PROGRESS" in str(state).upper():
        message = "task " + str(task.name).replace("%", "%%") + _NOT_UNDERSTOOD  # a line for each task
        keys = ", ".join(map(repr, meta)) if isinstance(meta, dict) and meta else "no keys"
        _log.warning(message, state, one_line(keys), *map(", ".join, (PERCENTS, UNITS, MESSAGES)), job_id=job_id)


_NOT_UNDERSTOOD = (
    " stores the state %s, whose meta has no progress that is understood, so none is shown: it has %s; understood are "
    "a percentage as one of %s, or a total with one of %s, and a text as one of %s"
)


#: Where ``Task.retry`` takes ``max_retries`` by position, behind its exception.
_MAX_RETRIES_PLACE = 3


def _with_reason(original: Any) -> Any:
    """Note why a job is retried: its retry is published, and reported, before Celery's signal has the reason."""

    @functools.wraps(original)
    def retry(self: Any, args: Any = None, kwargs: Any = None, exc: Any = None, *more: Any, **options: Any) -> Any:
        if self.request.id is not None:
            notes, number = notes_of(self.request), more[_MAX_RETRIES_PLACE:] or [options.get("max_retries")]
            notes.retry_reason, notes.max_retries = exc, number[0] if type(number[0]) is int else None
        return original(self, args, kwargs, exc, *more, **options)

    return retry


# A plain call of a shared task is no job, also where no Realtime is ever made: the methods must be there then.
add_methods()
