"""Cut the connections that are being ended, once their clients have had time to read why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery_realtime.clocks import time
from celery_realtime.logs import RateLimitedLogger
from celery_realtime.web.budgets import Budget
from celery_realtime.web.decisions import Decision
from celery_realtime.web.seams import EngineSockets

#: Seconds that a client which is over its budget has to read why, before its connection is cut.
FAREWELL = 0.4


class Cuts:
    """The connections that are going to be cut.

    Args:
        sockets: The connections of the server.
        forget: Called with the Engine.IO session id of each that has been cut.
        log: Of whoever ends them.
    """

    def __init__(self, sockets: EngineSockets, forget: Callable[[str], None], log: RateLimitedLogger) -> None:
        self._sockets = sockets
        self._forget = forget
        self._log = log
        #: When each is cut, its WebSocket's request, and what is left of its budget until then.
        self._due: dict[str, tuple[float, Any, Budget | None]] = {}

    def __len__(self) -> int:
        return len(self._due)

    def put(self, eio_sid: str, budget: Budget | None) -> None:
        """Cut a connection that is about to be closed, when its client has had time to read why."""
        websocket = self._sockets.request_of(eio_sid)
        self._due.setdefault(eio_sid, (time.monotonic() + FAREWELL, websocket, budget))

    def make(self) -> Decision[None]:
        """Cut those whose time has come."""
        for eio_sid, (due, environ, budget) in list(self._due.items()):
            if due > time.monotonic():
                continue
            del self._due[eio_sid]
            with self._log.suppressing(
                "cannot close a connection that sends too much, so it is cut; its client may try again"
            ):
                yield from self._sockets.abort(eio_sid)
            self._cut(eio_sid, budget, environ)

    def _cut(self, eio_sid: str, budget: Budget | None, environ: Any) -> None:
        """Cut a connection for good, with the requests that are being answered."""
        requests = [] if budget is None else [request for _, request in budget.requests]
        for request in [*requests, environ]:
            if request is not None:
                self._sockets.cut(request)
        self._sockets.discard(eio_sid)
        self._sockets.drop(eio_sid)
        self._forget(eio_sid)
