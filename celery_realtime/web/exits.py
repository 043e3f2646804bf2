"""Let connections without a token that are closed all at once end a few at a time, so that others have their turn."""

from __future__ import annotations

import threading

from celery_realtime.web.budgets import Budget

#: How many end at once. Each of a thousand threads that wake up for it would hold up whoever connects meanwhile.
AT_ONCE = 4

#: Longest wait, in seconds: an end that takes its time holds up no other.
LONGEST = 1.0


class Exits:
    """The room for ends on a server of threads or greenlets."""

    def __init__(self) -> None:
        self._room = threading.Semaphore(AT_ONCE)

    def enter(self, budget: Budget) -> None:
        """Wait for room to end a connection that its client has closed; one with a token ends at once."""
        if not (budget.has_token or budget.exceeded or budget.is_leaving):
            budget.is_leaving = self._room.acquire(timeout=LONGEST)

    def leave(self, budget: Budget) -> None:
        """Note that a connection has ended."""
        if budget.is_leaving:
            budget.is_leaving = False
            self._room.release()
