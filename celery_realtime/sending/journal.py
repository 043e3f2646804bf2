"""Write what an outbox has not sent yet into the spool of its process."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Generic

from celery_realtime.clocks import time
from celery_realtime.forks import after_fork
from celery_realtime.logs import RateLimitedLogger
from celery_realtime.sending.event_queue import Batch, T
from celery_realtime.sending.outbox import Outbox
from celery_realtime.sending.spool import Spool, Spools

logger = logging.getLogger(__name__)


class Journal(Generic[T]):
    """What of an outbox's events is in the spool of this process.

    Args:
        outbox: The outbox.
        spools: Has the spool.
        pack: Returns an event as bytes; raises ``UnicodeEncodeError`` for one that has no such form.
    """

    def __init__(self, outbox: Outbox[T], spools: Spools, pack: Callable[[T], bytes]) -> None:
        self._outbox = outbox
        self._spools = spools
        self._pack = pack
        self._log = RateLimitedLogger(logger)
        self._start_over()
        after_fork(self._start_over)
        outbox.on_settled(self._settle)

    def _start_over(self) -> None:
        #: By key, where the events are that are in the spool and have not been sent, and when they were written.
        self._places: dict[int, tuple[int, float]] = {}
        #: The key of the newest event that is, or was, in the spool.
        self._newest = -1

    def write(self) -> None:
        """Write what waits to be sent, as far as it has not been written before; the outbox does nothing meanwhile."""
        if self._outbox.last_key > self._newest:
            self._outbox.look(self._newest, self._write)

    def _write(self, batch: Batch[T]) -> None:
        spool = self._spools.mine
        if spool is None or not batch:
            return
        clock = time.monotonic()
        for key, item in batch:
            place = self._write_item(spool, item)
            if place is not None:
                self._places[key] = place, clock
        self._newest = batch[-1][0]

    def _write_item(self, spool: Spool, item: T) -> int | None:
        try:
            packed = self._pack(item)
        except UnicodeEncodeError:  # it is sent all the same
            return None
        # The last part of it is for statuses: of what a job has said, the end counts most.
        reserve = 0 if item.rank is not None else spool.size // 4
        place = spool.write(packed, reserve)
        if place is None:
            self._compact(spool)
            place = spool.write(packed, reserve)
        if place is None:
            self._log.warning(
                "more events wait than the spool has room for (%d do), so the newest are lost if this process is "
                "killed; see whether the broker and the history answer",
                len(self._places),
            )
        return place

    def _compact(self, spool: Spool) -> None:
        """Make room: what has been sent needs none any more."""
        unsent = [(key, spool.read(place), clock) for key, (place, clock) in self._places.items()]
        spool.clear()
        self._places = {
            key: (place, clock) for key, record, clock in unsent if (place := spool.write(record)) is not None
        }
        self._date(spool)

    def _date(self, spool: Spool) -> None:
        """Note in the spool since when something is in it that has not been sent."""
        for _, clock in self._places.values():
            spool.date(clock)
            return

    def _settle(self, batch: Batch[T]) -> None:
        spool = self._spools.mine
        if spool is None or not self._places:
            return
        for key, _ in batch:
            written = self._places.pop(key, None)
            if written is not None:
                spool.strike(written[0])
        if self._places:
            self._date(spool)
        else:
            spool.clear()
