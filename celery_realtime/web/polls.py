"""Let few polls of sessions without a token wait at once: each holds a thread, or a greenlet, of the web server."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from celery_realtime.web.budgets import Budget

#: The part of a server's connections without a token, or of its fixed number of threads, that may be polls that wait.
PART = 4

#: Under which a request notes that its connection is closed after the answer.
LAST_KEY = "celery_realtime.is_last_request"


class Polls:
    """The polls that wait of sessions without a token.

    Beyond the bound, the oldest of the address with most of them is answered at once, with nothing, and its connection
    closed. A browser asks again then, and is answered what has come since: it has shown its token long before.

    Args:
        answer: Answers a poll of a session with nothing.

    Attributes:
        most: How many may wait.
    """

    def __init__(self, answer: Callable[[str], Any], most: int) -> None:
        self.most = most
        self._answer = answer
        self._lock = threading.Lock()
        #: By address, those that wait, the oldest first.
        self._waiting: dict[str, dict[int, tuple[Budget, dict[str, Any]]]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def begin(self, budget: Budget, environ: dict[str, Any]) -> None:
        """Note a poll, and have another one answered if that is one too many."""
        with self._lock:
            self._waiting.setdefault(budget.peer, {})[id(environ)] = budget, environ
            self._count += 1
            oldest = self._take_oldest() if self._count > self.most else None
        if oldest is None:
            return
        budget, environ = oldest
        environ[LAST_KEY] = True
        if budget.eio_sid is not None:
            self._answer(budget.eio_sid)

    def _take_oldest(self) -> tuple[Budget, dict[str, Any]]:
        of_one = max(self._waiting.values(), key=len)
        budget, environ = next(iter(of_one.values()))
        self._forget(budget, environ)
        return budget, environ

    def end(self, budget: Budget, environ: dict[str, Any]) -> None:
        """Note that a request has been answered, which may have been a poll."""
        with self._lock:
            self._forget(budget, environ)

    def _forget(self, budget: Budget, environ: dict[str, Any]) -> None:
        of_one = self._waiting.get(budget.peer, {})
        if of_one.pop(id(environ), None) is not None:
            self._count -= 1
        if not of_one:
            self._waiting.pop(budget.peer, None)
