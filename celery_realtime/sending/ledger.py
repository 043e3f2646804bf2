"""Count what becomes of events, and log what is lost or delayed."""

from __future__ import annotations

import logging
import threading
from collections import Counter

from celery_realtime.forks import after_fork
from celery_realtime.logs import RateLimitedLogger


class Counts:
    """Counters that any thread counts up.

    Attributes:
        values: By name, how much has been counted.
    """

    def __init__(self) -> None:
        self.values: Counter[str] = Counter()
        self._renew_lock()
        after_fork(self._renew_lock)

    def _renew_lock(self) -> None:
        # A signal's handler may count too, hence reentrant; a thread that is not in the child may hold the old one.
        self._lock = threading.RLock()

    def add(self, name: str, number: int = 1) -> None:
        """Count something; nothing for 0."""
        if number:
            with self._lock:
                self.values[name] += number


class Ledger:
    """What became of the events of an outbox.

    Args:
        logger: Where losses and outages are logged, each kind once a minute.
        destination: What the log calls the place that events go to.
        room: How many events may wait; for the log.

    Attributes:
        counts: How many events were ``sent``, ``coalesced`` (replaced by newer progress), ``dropped_progress`` and
            ``dropped_lifecycle`` (for want of room), ``dropped_error`` (sending them raised an exception),
            ``dropped_persisted`` (for want of room, after they had been stored).
    """

    def __init__(self, logger: logging.Logger, destination: str, room: int) -> None:
        self._counts = Counts()
        self._log = RateLimitedLogger(logger)
        self._destination = destination
        self._room = room

    @property
    def counts(self) -> Counter[str]:
        """What became of events, by name."""
        return self._counts.values

    def count(self, what: str, number: int = 1) -> None:
        """Count events."""
        self._counts.add(what, number)

    def dropped(self, kind: str) -> None:
        """Note that an event was dropped for want of room: ``progress``, ``lifecycle`` or ``persisted``."""
        self.count(f"dropped_{kind}")
        self._log.error(
            "more than realtime_queue_size=%d events wait for %s, so the oldest are dropped (counts: %s); see why "
            "it does not keep up, or raise the setting",
            *(self._room, self._destination, dict(self.counts)),
        )

    def failed(self, number: int) -> None:
        """Note that sending events raised an exception, which trying again would not mend."""
        self.count("dropped_error", number)
        self._log.error(
            "%d events could not be sent, so they are dropped (counts: %s); the line of the loop that sends says why",
            number,
            dict(self.counts),
        )

    def delayed(self, number: int, place: str | None = None) -> None:
        """Note that events wait because the destination, or another place, does not accept them."""
        self._log.error(
            "%s does not accept events, so %d wait; they are sent when it does", place or self._destination, number
        )

    def stranded(self, number: int, error: Exception) -> None:
        """Note that events wait because no thread can be started."""
        self._log.error(
            "no thread can be started, so %d events wait to be sent; the next event tries again: %s", number, error
        )
