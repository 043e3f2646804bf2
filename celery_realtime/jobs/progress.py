"""Check what is reported of a job's progress, and decide when an update may leave."""

from __future__ import annotations

import math
import numbers

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
        return Progress(check_number("progress", progress, 100), text)
    if current is None or total is None:
        raise TypeError("give progress (0..100), or both current and total")
    units = check_number("total", total, None)
    done = check_number("current", current, units)
    return Progress(_percent(done, units), text, done, units)


_PLAIN = (int, float)

#: Up to here every plain number is fine as it is; a larger one may not fit into a float.
_FAR = 1e15


def check_number(name: str, value: object, most: Number | None) -> Number:
    """Return a number that is finite, 0 or more, and at most ``most``.

    Raises:
        TypeError: It is not a number.
        ValueError: It is out of range, infinite or NaN.
    """
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
    Values out of range are clamped, since plain Celery has no range.

    Returns:
        The report, or None when it holds no progress.
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
    number = check_number("value", value, None)
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


def progress_update(job: Job, progress: Progress) -> ProgressUpdate:
    """Build the event of a job's progress; the job must have a project."""
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
