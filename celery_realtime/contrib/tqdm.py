"""Let a tqdm bar report the progress of the job that it runs in: ``from celery_realtime.contrib.tqdm import tqdm``."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

from celery import current_app
from tqdm import std

from celery_realtime.jobs.job_stages import Part
from celery_realtime.jobs.task import host_of
from celery_realtime.jobs.trackers import ProgressTracker

__all__ = ["tqdm", "trange"]


class _Nowhere:
    """Where a bar is drawn in a job: nobody reads it there, and in a worker's log each frame would be a line."""

    encoding = "utf-8"

    def write(self, text: str) -> int:
        """Write nothing."""
        return len(text)

    def flush(self) -> None:
        """Do nothing."""

    def isatty(self) -> bool:
        """Return that ``disable=None`` is to draw the bar."""
        return True


class _Reporter(NamedTuple):
    """What a bar reports to.

    Attributes:
        tracker: Of the job.
        part: The stage that the bar was made in, if it was in one.
        check: Raises if the job has been cancelled.
    """

    tracker: ProgressTracker
    part: Part | None
    check: Callable[[], None]


#: By tracker, the bar that reports to it: the outer one of two.
_reporting: weakref.WeakKeyDictionary[ProgressTracker, weakref.ref[Any]] = weakref.WeakKeyDictionary()
_lock = threading.RLock()


class tqdm(std.tqdm):  # type: ignore[misc, type-arg, unused-ignore]  # noqa: N801 - it stands in place of tqdm's
    """A bar that reports to its job, or to the stage that it was made in; it is drawn only where it has a ``file``.

    Of several bars at a time the first reports. Outside a job it is ``tqdm.tqdm``.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        reporter = _reporter_here()
        with _lock:
            is_first = reporter is not None and _is_free(reporter.tracker)
            if reporter is not None and is_first:
                _reporting[reporter.tracker] = weakref.ref(self)
        self._reporter: _Reporter | None = reporter if is_first else None
        if reporter is not None and kwargs.get("file") is None:
            kwargs["file"] = _Nowhere()
        try:
            super().__init__(*args, **kwargs)
        except BaseException:
            self._let_go()
            raise
        if self.disable:
            self._let_go()

    def display(self, *args: Any, **kwargs: Any) -> Any:
        """Draw the bar, and report it."""
        self._report()
        return super().display(*args, **kwargs)

    def close(self) -> None:
        """End the bar, and report where it ended."""
        if not getattr(self, "disable", True):  # it may be a bar that could not be made
            self._report(is_end=True)
        self._let_go()
        super().close()

    def _report(self, *, is_end: bool = False) -> None:
        if self._reporter is None:
            return
        tracker, part, check = self._reporter
        if not is_end:
            check()
        message = str(self.desc or "").removesuffix(": ") or None
        tracker.advance(max(0, self.n), self.total or None, message, part=part)

    def _let_go(self) -> None:
        reporter: _Reporter | None = getattr(self, "_reporter", None)
        if reporter is not None:
            with _lock, contextlib.suppress(KeyError):
                del _reporting[reporter.tracker]
        self._reporter = None


def trange(*args: Any, **kwargs: Any) -> tqdm:
    """Return a bar over ``range(*args)``."""
    return tqdm(range(*args), **kwargs)


def _reporter_here() -> _Reporter | None:
    """Return what a bar that is made here reports to; None outside a job."""
    task = current_app.current_task
    realtime = None if task is None or task.request.id is None else getattr(task.app, "realtime", None)
    if realtime is None or not realtime.settings.enabled:
        return None
    host = host_of(task)
    tracker = host.tracker_of(task)
    if tracker is None:
        return None
    return _Reporter(tracker, tracker.present_part(), lambda: host.raise_if_cancelled(task))


def _is_free(tracker: ProgressTracker) -> bool:
    bar = _reporting.get(tracker)
    return bar is None or bar() is None
