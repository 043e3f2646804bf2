"""Turn a job's many progress calls into few, monotone, timely updates."""

from __future__ import annotations

import math
import numbers
import os
import threading
import time
from collections.abc import Callable

import msgspec

from celery_realtime.encoding import MAX_TEXT
from celery_realtime.events import Job, ProgressUpdate, now

Number = int | float


class Progress(msgspec.Struct, frozen=True):
    """A checked progress report."""

    progress: Number
    message: str | None = None
    current: Number | None = None
    total: Number | None = None


def check_progress(
    progress: object = None, message: object = None, current: object = None, total: object = None
) -> Progress:
    """Return a checked report.

    Args:
        progress: Percent, 0..100; or leave it out and give ``current`` and ``total``.
        message: What is being done, or None.
        current: Units done, 0..``total``.
        total: Units in all; 0 counts as all done.

    Raises:
        TypeError: An argument is missing or has the wrong type.
        ValueError: A number is out of range, infinite or NaN.
    """
    if message is not None and not isinstance(message, str):
        raise TypeError(f"message must be a str or None, not {type(message).__name__}")
    text = None if message is None else str.__str__(message)[:MAX_TEXT]
    if progress is not None:
        if current is not None or total is not None:
            raise TypeError("give either progress, or current and total, not both")
        return Progress(_number("progress", progress, 100), text)
    if current is None or total is None:
        raise TypeError("give progress (0..100), or both current and total")
    units = _number("total", total, None)
    done = _number("current", current, units)
    return Progress(_percent(done, units), text, done, units)


_PLAIN = (int, float)

#: Where the slow way begins: what is larger may not fit into a float.
_FAR = 1e15


def _number(name: str, value: object, most: Number | None) -> Number:
    if type(value) in _PLAIN and 0 <= value <= (_FAR if most is None else most):  # type: ignore[operator]
        return value  # type: ignore[return-value]
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, not {type(value).__name__}")
    try:
        number: Number = int(value) if isinstance(value, numbers.Integral) else float(value)
        finite = math.isfinite(number)
    except OverflowError:
        raise ValueError(f"{name} must be a number that a float can hold") from None
    if not finite:
        raise ValueError(f"{name} must be finite, not {number}")
    if number < 0 or (most is not None and number > most):
        raise ValueError(f"{name} must be {'0 or more' if most is None else f'between 0 and {most}'}, not {number}")
    return number


def _percent(current: Number, total: Number) -> Number:
    percent = round(100 * (current / total), 2) if total else 100
    return int(percent) if percent == int(percent) else percent


def read_meta(meta: object) -> Progress | None:
    """Read the ``meta`` of a plain ``update_state(state="PROGRESS", meta=...)``.

    Understands ``current`` and ``total``, ``progress``, and ``percent``, with ``message`` or ``status`` as its text.
    Values out of range are clamped, since the caller never promised one.

    Returns:
        The report, or None when it tells no progress.
    """
    if not isinstance(meta, dict):
        return None
    message = meta.get("message", meta.get("status"))
    text = message if isinstance(message, str) else None
    try:
        percent = meta.get("progress", meta.get("percent"))
        if percent is not None:
            return check_progress(_clamp(percent, 100), text)
        total = _clamp(meta.get("total"), None)
        return check_progress(None, text, _clamp(meta.get("current"), total), total)
    except (TypeError, ValueError):
        return None


def _clamp(value: object, most: Number | None) -> Number:
    if isinstance(value, (int, float)) and value < 0:
        return 0
    number = _number("value", value, None)
    return number if most is None else min(number, most)


class Throttle:
    """Decide when an update may leave: at once, or at the end of the interval.

    The first leaves at once. The next ones wait until the interval is over, when the newest of them leaves.

    Args:
        interval: Shortest time between two updates, in seconds.
    """

    def __init__(self, interval: float) -> None:
        self.interval = interval
        self._last = -math.inf
        self._held: float | None = None

    def due(self, clock: float) -> float:
        """Return the :func:`time.monotonic` time at which an update made at ``clock`` may leave."""
        if self._held is not None and clock >= self._held:
            self._last, self._held = self._held, None
        if clock >= self._last + self.interval:
            self._last, self._held = clock, None
            return clock
        self._held = self._last + self.interval
        return self._held

    def sent(self, clock: float) -> None:
        """Note that an update has left at ``clock``, outside the rule."""
        self._last, self._held = clock, None


MIRROR_INTERVAL = 1.0

Publish = Callable[[Job, Progress, float], None]


class ProgressTracker:
    """Report one job's progress.

    Updates leave at most once in ``min_update_interval`` seconds: the first at once, the newest at the end of the
    interval, and the last together with the job's end. Progress never goes backwards.

    Args:
        job: The job.
        publish: Sends an update; gets the job, the report and the time before which it is held back.
        mirror: Stores it in the result backend; the same arguments.
        interval: Seconds between two updates.
    """

    def __init__(self, job: Job, publish: Publish, mirror: Publish, interval: float) -> None:
        self.job = job
        self._publish = publish
        self._mirror = mirror
        self._events = Throttle(interval)
        self._stores = Throttle(max(interval, MIRROR_INTERVAL))
        self._reached: Number = 0
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
        """Shortest time between two updates, in seconds."""
        return self._events.interval

    @min_update_interval.setter
    def min_update_interval(self, seconds: float) -> None:
        checked = _number("min_update_interval", seconds, None)
        self._events.interval = checked
        self._stores.interval = max(checked, MIRROR_INTERVAL)

    @property
    def progress(self) -> Number:
        """How far the job is, in percent."""
        return self._reached

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
        """Report that the job has come ``amount`` percent further, to 100 at most."""
        step = check_progress(amount, message)
        with self._locked():
            self.report(Progress(min(100, self._reached + step.progress), step.message))

    def mark_complete(self, message: str | None = None) -> None:
        """Report 100 percent, at once. The job's end itself is told by Celery."""
        self.report(check_progress(100, message), at_once=True)

    def advance(self, current: int, total: int | None, message: str | None) -> None:
        """Report units done of a total that may be unknown, in which case the percentage stands still."""
        if total is None:
            self.report(msgspec.structs.replace(check_progress(self._reached, message), current=current))
        else:
            self.report(check_progress(None, message, current, max(current, total)))

    @property
    def ended(self) -> bool:
        """Whether the job has ended, after which nothing is said."""
        return self._ended

    def end(self) -> None:
        """Say nothing more: the job has ended."""
        with self._locked():
            self._ended = True

    def report(self, progress: Progress, at_once: bool = False, mirror: bool = True) -> None:
        """Send a checked report, never below what was reached before, and not after the job's end."""
        with self._locked():
            if self._ended:
                return
            if progress.progress < self._reached:
                progress = msgspec.structs.replace(progress, progress=self._reached)
            self._reached = progress.progress
            clock = time.monotonic()
            if at_once:
                self._events.sent(clock)
            self._publish(self.job, progress, 0.0 if at_once else self._events.due(clock))
            if mirror:
                self._mirror(self.job, progress, self._stores.due(clock))


def progress_update(job: Job, progress: Progress) -> ProgressUpdate:
    """Build the event that tells a job's progress; the job must have a project."""
    assert job.project_id is not None
    return ProgressUpdate(
        job_id=job.job_id,
        project_id=job.project_id,
        progress=progress.progress,
        message=progress.message,
        timestamp=now(),
        current=progress.current,
        total=progress.total,
        task=job.task,
        attempt=job.attempt,
    )
