"""When the next batch may be sent: at once after a silence, later under load, and later still after a failure.

And how large it may be, which only an outage changes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from celery_realtime.backoff import Backoff
from celery_realtime.processor_share import ProcessorShare
from celery_realtime.sending.slow_start import SlowStart

#: The longest that an event other than progress waits for others to share its batch, in seconds.
LONGEST_REST = 0.05

#: The part of the processor's time that sending takes under load.
SHARE = 0.05

#: The same while nothing waits but reports that jobs were published: whoever publishes many jobs in a row waits for the
#: interpreter while another thread sends. A worker that starts such a job earlier reports its publication itself.
LONGEST_REST_OF_QUEUED = 0.1
REST_SHARE_OF_QUEUED = 99.0


class Pace:
    """The rests between batches, and the pauses after failures. Not locked.

    Args:
        linger: Least time between two batches, in seconds. Under load the time grows, up to :data:`LONGEST_REST`,
            until sending takes no more than :data:`SHARE` of the time. 0 for none at all.
        backoff: The pauses after failures.
        slow_start: The way back from an outage.
        looks: See :meth:`~celery_realtime.sending.outbox.Outbox.on_held`.
    """

    def __init__(
        self, linger: float, backoff: Backoff, slow_start: SlowStart, looks: Sequence[Callable[[bool], float]] = ()
    ) -> None:
        self._linger = linger
        self._backoff = backoff
        self._slow_start = slow_start
        self._looks = looks
        self._rests_until = self._lingers_until = self._queued_until = 0.0
        self._paused_until = 0.0
        self._share = ProcessorShare(SHARE, LONGEST_REST)
        self._is_failing = False

    def rest(self, clock: float, busy: float) -> None:
        """Rest from ``clock`` on, after sending that took ``busy`` seconds of the processor."""
        if self._linger:
            rest = min(max(self._linger, self._share.rest(clock, busy)), LONGEST_REST)
            self._rests_until, self._lingers_until = clock + rest, clock + max(self._linger, rest)
            self._queued_until = clock + max(rest, min(REST_SHARE_OF_QUEUED * busy, LONGEST_REST_OF_QUEUED))

    def rest_left(self, clock: float, *, urgent: bool, queued: bool = False, progress: bool = True) -> float:
        """Return the seconds that are left to rest, which depend on what waits.

        Args:
            clock: Now.
            urgent: Whether something waits that is neither progress nor says that a job is queued.
            queued: Whether something waits that says that a job is queued.
            progress: Whether progress waits.
        """
        if urgent:
            return self._rests_until - clock
        if not queued:
            return self._lingers_until - clock
        return (min(self._lingers_until, self._queued_until) if progress else self._queued_until) - clock

    def look(self, holds: bool) -> float:
        """Look at progress that is held back, if there is any; returns the seconds until the next look."""
        return min((look(holds and not self._is_failing) for look in self._looks), default=math.inf)

    @property
    def batch_size(self) -> int:
        """The most events that the next batch may have."""
        return self._slow_start.size

    def failed(self, began: float, clock: float) -> None:
        """Pause from ``clock`` on, after a batch that was tried from ``began`` on could not be sent."""
        self._is_failing = True
        self._slow_start.failed(began)
        self._paused_until = clock + self._backoff.pause()

    def succeeded(self, began: float, clock: float, waiting: int) -> None:
        """End the pauses, after a batch that took from ``began`` to ``clock`` and has left some events ``waiting``."""
        self._is_failing = False
        self._backoff.reset()
        self._paused_until = clock + self._slow_start.sent(clock, clock - began, waiting)

    @property
    def is_failing(self) -> bool:
        """Whether the last attempt failed."""
        return self._is_failing

    def pause_left(self, clock: float) -> float:
        """Return the seconds that are left to pause; 0 or less for none."""
        return self._paused_until - clock
