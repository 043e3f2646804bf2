"""Check what is reported of a job's progress, and decide when an update may leave."""

from __future__ import annotations

import contextlib
import math

import msgspec
from msgspec import UNSET, UnsetType

from celery_realtime.encoding import MAX_TEXT, text_of
from celery_realtime.events import Job, ProgressUpdate, StageState, now
from celery_realtime.values import is_text, plain_number

Number = int | float


class Progress(msgspec.Struct, frozen=True):
    """A checked progress report; its stages are those of :class:`~celery_realtime.events.ProgressUpdate`."""

    progress: Number
    message: str | None = None
    current: Number | None = None
    total: Number | None = None
    stage: str | UnsetType | None = UNSET
    stages: tuple[StageState, ...] | UnsetType = UNSET


def check_progress(
    progress: object = None, message: object = None, current: object = None, total: object = None
) -> Progress:
    """Return a checked report.

    Args:
        progress: Percent, 0..100; or leave it out and give ``current`` and ``total``.
        message: What is being done, or None. What is no text becomes one.
        current: Units done, 0..``total``.
        total: Units in all; 0 counts as all done.

    Raises:
        TypeError: An argument is missing or has the wrong type.
        ValueError: A number is out of range, infinite or NaN.
    """
    text = None if message is None else (message if type(message) is str else text_of(message))[:MAX_TEXT]
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

#: What sums of parts, such as ten times 0.1, may be beyond their bounds, as a share of the upper one.
_ROUNDING = 1e-6

#: Up to here every plain number is fine as it is; a larger one may not fit into a float.
_FAR = 1e15


def check_number(name: str, value: object, most: Number | None) -> Number:
    """Return a number that is finite, 0 or more, and at most ``most``; what rounding has put beyond that is put back.

    Raises:
        TypeError: It is not a number.
        ValueError: It is out of range, infinite or NaN.
    """
    if type(value) in _PLAIN and 0 <= value <= (_FAR if most is None else most):  # type: ignore[operator]
        return value  # type: ignore[return-value]
    try:
        number = _converted(value)
        finite = isinstance(number, (int, float)) and math.isfinite(number)
    except (OverflowError, ValueError):
        raise ValueError(f"{name} must be a number that a float can hold") from None
    except TypeError as error:
        raise _no_number(name, value) from error
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        raise _no_number(name, value)
    if not finite:
        raise ValueError(f"{name} must be finite, not {number}")
    if isinstance(number, float) and most is not None:
        number = _unrounded(number, most)
    if number < 0 or (most is not None and number > most):
        raise ValueError(f"{name} must be {'0 or more' if most is None else f'between 0 and {most}'}, not {number}")
    return number


def _converted(value: object) -> object:
    """Return a number as an ``int`` or ``float``, and anything else as it is.

    Raises:
        OverflowError, TypeError, ValueError: It is a number that neither can be, or its own methods have failed.
    """
    try:
        return plain_number(value)
    except (OverflowError, TypeError, ValueError):
        raise
    except Exception as error:  # the methods of a user's class may raise anything
        raise TypeError(f"no number can be made of an object of type {type(value).__name__}") from error


def _no_number(name: str, value: object) -> TypeError:
    return TypeError(f"{name} must be a number, not {type(value).__name__}")


def _unrounded(number: float, most: Number) -> Number:
    """Return the bound that a number is beyond by no more than rounding, or else the number."""
    bound = max(0, min(number, most))
    return bound if abs(number - bound) <= most * _ROUNDING else number


def _percent(current: Number, total: Number) -> Number:
    percent = round(100 * (current / total), 2) if total else 100
    return int(percent) if percent == int(percent) else percent


#: Under which names plain Celery code stores a percentage, and units done beside their ``total``; and what it does.
PERCENTS = ("progress", "percent", "process_percent", "progress_percent", "percent_complete", "percentage", "pct")
UNITS = ("current", "done", "completed", "processed")
MESSAGES = ("message", "status", "description")


def read_meta(meta: object) -> Progress | None:
    """Read the ``meta`` of a plain ``update_state(state="PROGRESS", meta=...)``.

    Understands the names above, with numbers or their texts: ``40``, ``"40"``, ``"40%"``. Values out of range are
    clamped, since plain Celery has no range.

    Returns:
        The report, or None when it holds no progress.
    """
    if not isinstance(meta, dict):
        return None
    text = next((meta[name] for name in MESSAGES if is_text(meta.get(name))), None)
    for name in PERCENTS:
        percent = _read_number(meta.get(name), 100)
        if percent is not None:
            return check_progress(percent, text)
    total = _read_number(meta.get("total"), None)
    for name in UNITS:
        current = None if total is None else _read_number(meta.get(name), total)
        if current is not None:
            return check_progress(None, text, current, total)
    return None


def _read_number(value: object, most: Number | None) -> Number | None:
    """Return a number from 0 to ``most``, of a number or its text, or None of anything else."""
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        number = _converted(_of_text(value) if isinstance(value, str) else value)
        if isinstance(number, (int, float)) and number < 0:
            return 0
        number = check_number("value", number, None)
        return number if most is None else min(number, most)
    return None


def _of_text(text: str) -> Number:
    number = float(text.removesuffix("%"))
    return int(number) if number.is_integer() else number


class Throttle:
    """Decide when an update may leave: at once, or at the end of the interval.

    The first leaves at once. The next ones wait until the interval is over, when the newest of them leaves.

    Args:
        interval: Shortest time between two updates, in seconds; may be changed.
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
        due = self._last + self.interval
        # What waits never moves later: it was put with the interval of then.
        self._held = due if self._held is None else min(due, self._held)
        return self._held

    def hasten(self, clock: float) -> float | None:
        """Return when what waits may leave by the present interval, which may be shorter; None if nothing waits."""
        if self._held is None or clock >= self._held:
            return None
        self._held = min(self._held, max(clock, self._last + self.interval))
        return self._held

    def holds(self, clock: float) -> bool:
        """Return whether an update waits at ``clock``."""
        return self._held is not None and clock < self._held

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
        stage=progress.stage,
        stages=progress.stages,
    )
