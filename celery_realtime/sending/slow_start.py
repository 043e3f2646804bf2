"""Come back from an outage as one of many: with few events at first, later with more, and not all at one moment."""

from __future__ import annotations

import math
import random

#: Events of the first batch after a failure.
FIRST = 4

#: How much of an outage the processes that it has hit take to come back one after another, and the longest such time,
#: in seconds.
SPREAD_SHARE = 0.5
LONGEST_SPREAD = 1.0

#: Seconds beyond the shortest time of a batch from which on the server counts as busy.
BUSY = 0.01

#: How many times as long as the server was busy with a batch the rest after it is, and while it is busy with others.
REST, LONG_REST = 2.0, 6.0

#: The longest rest, in seconds: where everything is slow, this process is not what makes it so.
LONGEST_REST = 0.2

#: Seconds after which a process that still has not sent all that waited sends as it did before the outage.
LONGEST_RETURN = 60.0


class SlowStart:
    """How many events a batch may have, and the rests after an outage. Not locked.

    All processes learn at the same moment that a server answers again, and each has all that has come meanwhile to
    send. A server that works on one command after another would be busy for that long, and answer nobody else.
    They do not know of each other, but each can see how long its own batches take.

    Made anew in a child of a fork, which would otherwise rest exactly as its siblings do.

    Args:
        most: The most events in a batch.
        splits: Whether what could not be sent as one batch may be tried again as several.
    """

    def __init__(self, most: int, *, splits: bool = True) -> None:
        self._most = most
        self._first = min(FIRST, most) if splits else most
        # Not the module's own generator: a task that seeds that one counts on its numbers.
        self._random = random.Random()
        #: How long the quickest batch of all took: the way there and back.
        self._quickest = math.inf
        self._end()

    def _end(self) -> None:
        self.size = self._most
        self._failing_since: float | None = None
        self._returns_until: float | None = None

    def failed(self, began: float) -> None:
        """Note that a batch could not be sent.

        Args:
            began: When it was tried.
        """
        if self._failing_since is None:
            self._failing_since = began
        self.size = self._first

    def sent(self, clock: float, took: float, waiting: int) -> float:
        """Note that a batch was sent, and return the seconds to rest before the next one; 0 in normal times.

        Args:
            clock: Now.
            took: How long it took, in seconds.
            waiting: How many events are left.
        """
        self._quickest = min(self._quickest, took)
        if self._failing_since is None and self._returns_until is None:
            return 0.0
        if not waiting or (self._returns_until is not None and clock > self._returns_until):
            self._end()
            return 0.0
        if self._failing_since is not None:
            spread = min((clock - self._failing_since) * SPREAD_SHARE, LONGEST_SPREAD)
            self._failing_since, self._returns_until = None, clock + LONGEST_RETURN
            return self._random.uniform(0.0, spread)
        return self._adapt(took - self._quickest)

    def _adapt(self, busy: float) -> float:
        """Send more next time if the server was not busy for long, else less; returns the rest."""
        is_quick = busy <= BUSY
        self.size = min(self.size * 2, self._most) if is_quick else max(self.size // 2, self._first)
        return min(busy * (REST if is_quick else LONG_REST), LONGEST_REST) * self._random.uniform(0.5, 1.5)
