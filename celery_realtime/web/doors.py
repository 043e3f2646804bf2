"""Bound the connections that have not finished a request, each of which takes a thread or a greenlet of a web server.

Only where a server lets itself be changed, and from the first request for Engine.IO on. Seen in Werkzeug 3.1, gunicorn
27, gevent 26.9 and eventlet 0.41. Those of asyncio are in ``loop_doors``.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import weakref
from collections.abc import Callable
from types import FrameType
from typing import Any

from celery_realtime.clocks import time
from celery_realtime.logs import RateLimitedLogger
from celery_realtime.web import capacity

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

#: Connections that may wait for a request, or for the rest of it, for longer than ``GRACE``.
MOST_WAITING = 200

#: Seconds that a request may take to come: many clients may connect at once, after an outage.
GRACE = 2.0

#: Connections whose request is to come, at most: of servers of asyncio, and where each has a thread or a greenlet;
#: and the part that they may be of the files that a process may open.
MOST_AT_ONCE, MOST_THREADS, PART_OF_FILES = 1000, 400, 2

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


def most_at_once() -> int:
    """Return how many connections may wait for a request in this process, by the files that it may open."""
    if resource is None:
        return MOST_AT_ONCE
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST_AT_ONCE if files == resource.RLIM_INFINITY else min(MOST_AT_ONCE, files // PART_OF_FILES)


def shut(connection: Any) -> bool:
    """Have what waits for a request on a socket end."""
    with contextlib.suppress(OSError):  # its client was quicker
        connection.shutdown(2)
    return True


class Waiting:
    """The connections that wait for a request.

    Args:
        most: How many there may be for longer than ``grace``.
        close: Closes a connection, and returns whether it was still waiting.
        at_once: How many there may be altogether.
        grace: In seconds.
    """

    def __init__(
        self, most: int, close: Callable[[Any], bool] = shut, *, at_once: int | None = None, grace: float = GRACE
    ) -> None:
        self._most, self._close, self._grace = most, close, grace
        self._at_once = max(most, most_at_once() if at_once is None else at_once)
        self._lock = threading.Lock()
        #: Each, and since when it waits, the oldest first. An event loop that is closed ends none of its connections:
        #: they, and the app with them, would be kept for ever.
        self._connections: dict[int, tuple[Callable[[], Any], float]] = {}
        self._log = RateLimitedLogger(logger)

    def __len__(self) -> int:
        return len(self._connections)

    def enter(self, holder: Any, connection: Any) -> None:
        """Note that a request is waited for from now on, and close the oldest of too many.

        Args:
            holder: What handles the connection.
            connection: What closes it, or is closed.
        """
        now, too_many = time.monotonic(), []
        with self._lock:
            self._connections.pop(id(holder), None)
            self._connections[id(holder)] = self._reference(id(holder), connection), now
            while len(self._connections) > self._most:
                oldest, (waiting, since) = next(iter(self._connections.items()))
                if now - since < self._grace and len(self._connections) <= self._at_once:
                    break
                self._connections.pop(oldest, None)
                too_many.append(waiting())
        if sum(self._close(waiting) for waiting in too_many if waiting is not None):
            self._log.warning("too many connections wait for a request, so the oldest is closed; see who opens them")

    def _reference(self, holder: int, connection: Any) -> Callable[[], Any]:
        """Return what returns a connection, without keeping it where that can be, and forgets it when it is gone."""

        def forget(reference: weakref.ref[Any]) -> None:  # in a collection: it must not wait for the lock
            if self._connections.get(holder, (None,))[0] is reference:
                self._connections.pop(holder, None)

        try:
            return weakref.ref(connection, forget)
        except TypeError:  # some servers' are not made for it
            return lambda: connection

    def leave(self, *holders: Any) -> list[tuple[Any, Any]]:
        """Note that the request has come, or that the connection has ended; return those that have waited."""
        with self._lock:
            waited = [(holder, self._connections.pop(id(holder), None)) for holder in holders]
        found = [(holder, entry[0]()) for holder, entry in waited if entry is not None]
        return [(holder, connection) for holder, connection in found if connection is not None]


class Doors:
    """Bounds the connections without a request of the server that has called us."""

    def __init__(self) -> None:
        self._is_installed = False

    def install(self) -> None:
        """Do so from now on; called within a request, of which the server is known."""
        if self._is_installed:
            return
        self._is_installed = True
        follow_green_worker()
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            holder = frame.f_locals.get("self")
            if holder is not None and follow(holder):
                return
            frame = frame.f_back


def _waiting() -> Waiting:
    """Return what bounds the server of the request in which this is called: most of a fixed number is for requests."""
    number = capacity.requests_at_once()
    if number is None:
        return Waiting(MOST_WAITING, at_once=min(most_at_once(), MOST_THREADS))
    part = max(FEWEST, number // PART)
    return Waiting(min(MOST_WAITING, part), at_once=min(most_at_once(), part))


def follow(holder: Any) -> bool:
    """Bound the server of what handles a request; return whether that is what was given."""
    if type(holder).__module__ == "gunicorn.workers.gthread" and hasattr(holder, "handle"):
        _follow_worker(holder, _waiting())
        return True
    for kind in type(holder).__mro__:
        attribute, answer = MAKERS.get(kind.__module__, ("", ""))
        server = getattr(holder, "server", None)
        if attribute and hasattr(kind, answer) and isinstance(getattr(server, attribute, None), type):
            theirs = getattr(server, attribute)
            if not hasattr(theirs, "waiting_connections"):
                setattr(server, attribute, _following(theirs, answer, _waiting()))
            return True
    return False


def follow_green_worker() -> None:
    """Bound the worker of gunicorn with greenlets in this process, if there is one."""
    workers: Any = getattr(sys.modules.get("gunicorn.workers.base_async"), "AsyncWorker", None)
    theirs = getattr(workers, "handle", None)
    if theirs is None or hasattr(workers, "waiting_connections"):
        return
    waiting = _waiting()

    def handle(worker: Any, listener: Any, client: Any, *args: Any) -> Any:
        waiting.enter(client, client)
        try:
            return theirs(worker, listener, client, *args)
        finally:
            waiting.leave(client)

    workers.waiting_connections, workers.handle = waiting, handle
    for name in ANSWERING:
        if hasattr(workers, name):
            setattr(workers, name, _answering(getattr(workers, name), waiting))


def _following(theirs: Any, answer: str, waiting: Waiting) -> Any:
    """Return a class that handles a connection as another does, and says what it waits for."""

    def enter(self: Any) -> None:
        waiting.enter(self, getattr(self, "connection", None) or self.socket)

    def handle(self: Any) -> Any:
        enter(self)
        try:
            return theirs.handle(self)
        finally:
            waiting.leave(self)

    def answer_request(self: Any, *args: Any) -> Any:
        waiting.leave(self)
        try:
            return getattr(theirs, answer)(self, *args)
        finally:
            enter(self)  # for the next one; until ``handle`` ends

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
    def answer(*args: Any, **options: Any) -> Any:
        waited = waiting.leave(*args)
        try:
            return theirs(*args, **options)
        finally:
            for holder, connection in waited:
                waiting.enter(holder, connection)  # for the next one; until ``handle`` ends

    return answer
