"""Give every Celery task its progress methods, whatever kind of task it is."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sized
from typing import Any, Protocol, TypeVar

from celery.app.task import Task

from celery_realtime.exceptions import ImproperlyConfigured
from celery_realtime.jobs.job_reader import notes_of
from celery_realtime.jobs.progress import check_progress, read_meta
from celery_realtime.jobs.projects import HEADER, takes_project
from celery_realtime.jobs.trackers import ProgressTracker

T = TypeVar("T")


class TaskHost(Protocol):
    """What the tasks of an app need of its ``app.realtime.running_jobs``."""

    def tracker_of(self, task: Any) -> ProgressTracker | None:
        """Return the tracker of the job that ``task`` runs now, or None outside a job."""

    def emit_from(self, task: Any, event: str, data: Any) -> None:
        """Send a custom event to the project of the job that ``task`` runs now."""

    def raise_if_cancelled(self, task: Any) -> None:
        """Raise ``JobCancelled`` if the job that ``task`` runs now is to end."""


def install() -> None:
    """Add the methods to :class:`celery.app.task.Task`; doing it twice changes nothing.

    One new attribute on Celery's own class is the one way that reaches all kinds of tasks, early and late: shared
    ones, class-based ones, those with a base of their own, and those that were made before.
    """
    if getattr(Task, "update_progress", None) is update_progress:
        return
    for method in (update_progress, track, emit):
        setattr(Task, method.__name__, method)
    Task.update_state = _observed(Task.update_state)
    Task.retry = _with_reason(Task.retry)
    Task.apply_async = _with_project_header(Task.apply_async)
    Task.apply = _with_project_header(Task.apply)


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


def update_progress(
    self: Any, progress: object = None, message: str | None = None, *, current: object = None, total: object = None
) -> None:
    """Report how far the job is, to its project and, throttled, to the result backend.

    Returns at once whatever the state of the broker. Outside a job (a direct call) it only checks its arguments.

    Args:
        progress: Percent, 0..100; or leave it out and give ``current`` and ``total``.
        message: What is being done.
        current: Units done.
        total: Units in all.

    Raises:
        TypeError: An argument is missing or has the wrong type.
        ValueError: A number is out of range, infinite or NaN.
        JobCancelled: The job has been cancelled, and the task has ``cancellable=True``.
    """
    report = check_progress(progress, message, current, total)
    host = host_of(self)
    host.raise_if_cancelled(self)
    tracker = host.tracker_of(self)
    if tracker is not None:
        tracker.report(report)


def track(self: Any, items: Iterable[T], message: str | None = None, *, total: int | None = None) -> Iterator[T]:
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
    return _tracked(self, host_of(self).tracker_of(self), iter(items), message, total)


def _tracked(
    task: Any, tracker: ProgressTracker | None, items: Iterator[T], message: str | None, total: int | None
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


def emit(self: Any, event: str, data: Any = None) -> None:
    """Send a custom event to the job's project; returns at once.

    Args:
        event: The Socket.IO event name.
        data: Anything that JSON can hold; an object also gets a ``_realtime`` member.

    Raises:
        TypeError: ``data`` has no JSON form, or the name is no string.
        ValueError: ``data`` is too large or holds NaN, or the name is reserved.
    """
    host_of(self).emit_from(self, event, data)


def _observed(original: Any) -> Any:
    """Report the progress in ``update_state`` too, and note the state that a task stores before it raises Ignore."""

    @functools.wraps(original)
    def update_state(
        self: Any, task_id: Any = None, state: Any = None, meta: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        if getattr(self.app, "realtime", None) is not None and task_id in (None, self.request.id):
            _observe(self, state, meta)
        return original(self, task_id, state, meta, *args, **kwargs)

    return update_state


def _observe(task: Any, state: Any, meta: Any) -> None:
    request = task.request
    if state == "PROGRESS":
        tracker, report = host_of(task).tracker_of(task), read_meta(meta)
        if tracker is not None and report is not None:
            tracker.report(report, mirror=False)
    elif request.id is not None:
        notes_of(request).stored = (state, meta)


def _with_reason(original: Any) -> Any:
    """Note why a job is retried: its retry is published, and reported, before Celery's signal has the reason."""

    @functools.wraps(original)
    def retry(self: Any, args: Any = None, kwargs: Any = None, exc: Any = None, *more: Any, **options: Any) -> Any:
        if self.request.id is not None:
            notes_of(self.request).retry_reason = exc
        return original(self, args, kwargs, exc, *more, **options)

    return retry


def _with_project_header(original: Any) -> Any:
    """Let ``project_id=`` name the project of a task whose function takes no such argument."""

    @functools.wraps(original)
    def apply(self: Any, args: Any = None, kwargs: Any = None, *more: Any, **options: Any) -> Any:
        if kwargs and HEADER in kwargs and getattr(self.app, "realtime", None) is not None and not takes_project(self):
            kwargs = dict(kwargs)
            headers = {HEADER: kwargs.pop(HEADER)}
            options["headers"] = {**headers, **(options.get("headers") or {})}
        return original(self, args, kwargs, *more, **options)

    return apply
