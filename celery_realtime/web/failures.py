"""Let connections of an address wait, before they cost anything, while others of it show bad tokens all the time."""

from __future__ import annotations

from celery_realtime.bounded import BoundedDict
from celery_realtime.clocks import time
from celery_realtime.web.budgets import Bucket, Budget

#: Attempts to connect of one address that may fail: so many at once, and so many a second after that.
MOST_FAILURES, FAILURE_RATE = 100, 10.0

#: Seconds for which connections of the address wait after the last one beyond.
MEMORY = 5.0

#: How many of them begin a second meanwhile, and how many seconds one may wait; beyond, it is refused.
ENTRY_RATE, LONGEST = 50.0, 1.0

#: Addresses that are remembered.
MOST_PEERS = 10_000


class _Peer:
    """What is known of one address."""

    def __init__(self) -> None:
        self.failures = Bucket(FAILURE_RATE, MOST_FAILURES)
        self.entries = Bucket(ENTRY_RATE, 1.0)
        self.fails_until = 0.0


class Failures:
    """How often connections of each address have failed to show a good token, of late."""

    def __init__(self) -> None:
        self._peers: BoundedDict[str, _Peer] = BoundedDict(MOST_PEERS)

    def note(self, peer: str) -> None:
        """Note that a connection of an address has not been let in."""
        known = self._peers.get(peer)
        if known is None:
            known = self._peers[peer] = _Peer()
        if not known.failures.take():
            known.fails_until = time.monotonic() + MEMORY

    def admit(self, budget: Budget, *, may_wait: bool) -> bool:
        """Return whether a connection may begin, and note in its budget for how long it has to wait before that.

        Args:
            budget: The budget; of a connection that has begun already, nothing is asked.
            may_wait: Whether there is room for connections that wait.
        """
        if budget.eio_sid is not None:
            return True
        pause = self.pause_before_entry(budget.peer)
        budget.pause = pause or 0.0
        return pause is not None and (may_wait or not pause)

    def pause_before_entry(self, peer: str) -> float | None:
        """Return for how many seconds a new connection of an address has to wait; None if it is refused."""
        known = self._peers.get(peer)
        if known is None or known.fails_until < time.monotonic():
            return 0.0
        pause = known.entries.reserve()
        if pause <= LONGEST:
            return pause
        known.entries.add(1.0)
        return None
