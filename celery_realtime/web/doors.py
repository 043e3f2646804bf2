"""Bound the connections that have not finished a request, each of which takes a thread or a greenlet of a web server.

Only where a server lets itself be changed, and from the first request for Engine.IO on. Seen in Werkzeug 3.1, gunicorn
27 (gthread), gevent 26.9 and eventlet 0.41.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from celery_realtime.logs import RateLimitedLogger
from celery_realtime.web import capacity

logger = logging.getLogger(__name__)

#: Connections that may wait for a request, or for the rest of it; beyond, the oldest are closed.
MOST_WAITING = 200

#: The part of a fixed number of threads that they may take, and how many in any case.
PART, FEWEST = 4, 4

#: By module, the attribute of a server that makes what handles a connection, and the method that answers a request.
MAKERS = {
    "werkzeug.serving": ("RequestHandlerClass", "run_wsgi"),
    "gevent.pywsgi": ("handler_class", "handle_one_response"),
    "eventlet.wsgi": ("protocol", "handle_one_response"),
}

#: Of a worker of gunicorn with threads, what answers requests.
ANSWERING = ("handle_request", "handle_http2", "handle_h2c_upgrade")


class Waiting:
    """The connections that wait for a request.

    Args:
        most: How many there may be.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        #: The oldest first.
        self._connections: dict[int, Any] = {}
        self._log = RateLimitedLogger(logger)

    def __len__(self) -> int:
        return len(self._connections)

    def enter(self, holder: Any, connection: Any) -> None:
        """Note that a request is waited for, and close the oldest of too many.

        Args:
            holder: What handles the connection.
            connection: Its socket.
        """
        oldest = None
        with self._lock:
            self._connections[id(holder)] = connection
            if len(self._connections) > self._most:
                oldest = self._connections.pop(next(iter(self._connections)))
        if oldest is not None:
            self._log.warning("too many connections wait for a request; the oldest is closed")
            with contextlib.suppress(OSError):  # its client was quicker
                oldest.shutdown(2)

    def leave(self, *holders: Any) -> None:
        """Note that the request has come, or that the connection has ended."""
        with self._lock:
            for holder in holders:
                self._connections.pop(id(holder), None)


class Doors:
    """Bounds the connections without a request of the server that has called us."""

    def __init__(self) -> None:
        self._is_installed = False

    def install(self) -> None:
        """Do so from now on; called within a request, of which the server is known."""
        if self._is_installed:
            return
        self._is_installed = True
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            holder = frame.f_locals.get("self")
            if holder is not None and follow(holder):
                return
            frame = frame.f_back


def follow(holder: Any) -> bool:
    """Bound the server of what handles a request; return whether that is what was given."""
    if type(holder).__module__ == "gunicorn.workers.gthread" and hasattr(holder, "handle"):
        threads = capacity.requests_at_once() or MOST_WAITING * PART
        _follow_worker(holder, Waiting(min(MOST_WAITING, max(FEWEST, threads // PART))))
        return True
    for kind in type(holder).__mro__:
        attribute, answer = MAKERS.get(kind.__module__, ("", ""))
        server = getattr(holder, "server", None)
        if attribute and hasattr(kind, answer) and isinstance(getattr(server, attribute, None), type):
            theirs = getattr(server, attribute)
            if not hasattr(theirs, "waiting_connections"):
                setattr(server, attribute, _following(theirs, answer, Waiting(MOST_WAITING)))
            return True
    return False


def _following(theirs: Any, answer: str, waiting: Waiting) -> Any:
    """Return a class that handles a connection as another does, and says what it waits for."""

    def handle(self: Any) -> Any:
        waiting.enter(self, getattr(self, "connection", None) or self.socket)
        try:
            return theirs.handle(self)
        finally:
            waiting.leave(self)

    def answer_request(self: Any, *args: Any) -> Any:
        waiting.leave(self)
        return getattr(theirs, answer)(self, *args)

    members = {
        "handle": handle,
        answer: answer_request,
        "waiting_connections": waiting,
        "__module__": theirs.__module__,
    }
    return type(theirs.__name__, (theirs,), members)


def _follow_worker(worker: Any, waiting: Waiting) -> None:
    theirs = worker.handle

    def handle(connection: Any) -> Any:
        waiting.enter(connection, connection.sock)
        try:
            return theirs(connection)
        finally:
            waiting.leave(connection)

    worker.handle = handle
    for name in ANSWERING:
        if hasattr(worker, name):
            setattr(worker, name, _answering(getattr(worker, name), waiting))


def _answering(theirs: Callable[..., Any], waiting: Waiting) -> Callable[..., Any]:
    def answer(*args: Any) -> Any:
        waiting.leave(*args)
        return theirs(*args)

    return answer
