"""Report the progress of jobs that call a task for each of many items: ``task.map``, ``task.starmap``, ``task.chunks``.

Celery calls the task there as a plain function, which is no job of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from celery_realtime.jobs.celery_tasks import is_of_items, shown_name
from celery_realtime.jobs.progress import Number, Progress, check_progress
from celery_realtime.jobs.trackers import ProgressTracker


class Items(list[Any]):
    """The items of such a job: a list that knows, while Celery iterates over it, which of them is at work.

    Args:
        items: The items.
        tracker: Returns the tracker of the job.

    Attributes:
        done: How many of them are done with.
        message: What the item that reported last was doing.
    """

    def __init__(self, items: list[Any], tracker: Callable[[], ProgressTracker | None]) -> None:
        super().__init__(items)
        self._tracker = tracker
        self.done = 0
        self.message: str | None = None

    def __iter__(self) -> Iterator[Any]:
        for done, item in enumerate(super().__iter__()):
            self.report(done)
            yield item
        self.report(len(self))

    def report(self, done: int, part: Number = 0, *, mirror: bool = True) -> None:
        """Report that items are done with, and a part of the next one, in percent."""
        self.done, tracker = done, self._tracker()
        if tracker is not None and self:
            percent = min(100, round((100 * done + part) / len(self), 2))
            tracker.report(Progress(percent, self.message, done, len(self)), mirror=mirror)


class ItemTracker:
    """Report the progress of one item as a part of its job's.

    Args:
        items: The items of the job.
    """

    def __init__(self, items: Items) -> None:
        self._items = items

    def report(self, report: Progress, *, mirror: bool = True) -> None:
        """Report how far the item is that is at work."""
        if report.message is not None:
            self._items.message = report.message
        self._items.report(self._items.done, report.progress, mirror=mirror)

    def advance(self, current: int, total: int | None, message: str | None) -> None:
        """Report units done of the item that is at work; of an unknown total only what is being done."""
        self.report(
            check_progress(0, message) if total is None else check_progress(None, message, current, max(current, total))
        )


def watch_items(task: Any, tracker: Callable[[Any], ProgressTracker | None]) -> None:
    """Follow the items of the job that a task begins to run, if it is one of items.

    Celery calls the function with the arguments that the request has, and so iterates over what stands there now.
    """
    if task is None or not is_of_items(task.name):
        return
    kwargs = task.request.kwargs
    if isinstance(kwargs, dict) and type(kwargs.get("it")) in (list, tuple):
        kwargs["it"] = Items(kwargs["it"], lambda: tracker(task))


def job_of_item(task: Any) -> Any:
    """Return the task that runs the job in which ``task`` is called for an item now, or None."""
    outer = task.app.current_worker_task if task.request.id is None else None
    if outer is None or not is_of_items(outer.name):
        return None
    return outer if shown_name(outer.name, outer.request.kwargs) == task.name else None


def item_tracker(task: Any) -> ItemTracker | None:
    """Return what reports the progress of the item that ``task`` is called for now, or None."""
    outer = job_of_item(task)
    items = None if outer is None else outer.request.kwargs.get("it")
    return ItemTracker(items) if isinstance(items, Items) else None
