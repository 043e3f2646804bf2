"""Read no more of a request than is wanted: web servers read on and discard the rest, for as long as it comes.

All of it is private to servers. Seen in Werkzeug 3.1, gunicorn 27, gevent 26.9 and eventlet 0.41. The first reads ten
gigabytes at most, ten megabytes at a time; the last two let nobody else have a turn while a client sends quickly.
"""

from __future__ import annotations

import contextlib
import functools
import io
import socket
import sys
from collections.abc import Callable
from typing import Any

from celery_realtime.web.budgets import Budget
from celery_realtime.web.metering import Breaths

#: Bytes of a body that are read at once.
SLICE = 16 * 1024

#: Bytes that have come of what is not wanted, which are read so that the client can read the answer: a connection that
#: is closed with something unread is reset.
MOST_DISCARDED = 64 * 1024


class Body:
    """The body of a request of WSGI, of which no more is read than it is said to have, and that in slices.

    Args:
        environ: The request. Its ``wsgi.input`` is replaced if Engine.IO is going to read from it.
        budget: Of its connection: once that is exceeded, nothing more is read.
        sleep: Pauses a thread, or a greenlet.
    """

    def __init__(self, environ: dict[str, Any], budget: Budget, sleep: Callable[[float], Any]) -> None:
        self._environ = environ
        self._budget = budget
        self._theirs = environ.get("wsgi.input")
        self._breaths = Breaths(sleep)
        #: Bytes that are still to come; None if nobody knows.
        self._left = _length_of(environ)
        if environ.get("REQUEST_METHOD") == "POST" and self._left:
            environ["wsgi.input"] = self

    @property
    def has_more(self) -> bool:
        """Whether something may come that was not read."""
        return self._left != 0

    def read(self, size: int = -1) -> bytes:
        """Read so many bytes, or all; fewer if the client sends fewer, or its connection is over its budget."""
        wanted = (self._left or 0) if size < 0 else min(size, self._left or 0)
        slices = []
        while wanted > 0 and self._budget.exceeded is None:
            self._breaths.take()
            data: bytes = self._theirs.read(min(wanted, SLICE)) if self._theirs is not None else b""
            if not data:
                break
            slices.append(data)
            wanted -= len(data)
            self._left = (self._left or 0) - len(data)
        return b"".join(slices)

    def release(self) -> None:
        """Give back the server's own ``wsgi.input``."""
        if self._theirs is not None:
            self._environ["wsgi.input"] = self._theirs


def _length_of(environ: dict[str, Any]) -> int | None:
    """Return how many bytes the body of a request has; None if that is not to be known."""
    if environ.get("HTTP_TRANSFER_ENCODING"):
        return None
    with contextlib.suppress(ValueError):
        length = int(environ.get("CONTENT_LENGTH") or 0)
        return length if length >= 0 else None
    return None


def let_others_read(sleep: Callable[[float], Any]) -> None:
    """Have servers of greenlets take breaths while they read a body, on whatever path, to discard it or not.

    Args:
        sleep: Pauses a greenlet.
    """
    for name in ("gevent.pywsgi", "eventlet.wsgi"):
        bodies: Any = getattr(sys.modules.get(name), "Input", None)
        theirs = getattr(bodies, "read", None)
        if theirs is not None and not hasattr(theirs, "__wrapped__"):
            bodies.read = _with_breaths(theirs, Breaths(sleep))


def discard_in_slices() -> None:
    """Have Werkzeug discard what is left of a request in slices, on whatever path: not ten megabytes at a time."""
    handlers: Any = getattr(sys.modules.get("werkzeug.serving"), "WSGIRequestHandler", None)
    theirs = getattr(handlers, "make_environ", None)
    if theirs is None or hasattr(theirs, "__wrapped__"):
        return

    @functools.wraps(theirs)
    def make_environ(handler: Any) -> Any:
        handler.rfile = getattr(handler.rfile, "of_requests", handler.rfile)
        environ = theirs(handler)
        # The application has got the file itself: what the handler reads from now on is what nobody wanted.
        handler.rfile = _Discarded(handler.rfile)
        return environ

    handlers.make_environ = make_environ


class _Discarded:
    """A file of which only as much memory is taken to read from it as a slice has."""

    def __init__(self, file: Any) -> None:
        self.of_requests = file

    def read(self, size: int) -> bytes:
        """Discard so many bytes, or as many as come, and return the last slice: empty if none have come."""
        data = last = b""
        while size > 0 and (data := self.of_requests.read(min(size, SLICE))):
            size, last = size - len(data), data
        return last

    def __getattr__(self, name: str) -> Any:
        return getattr(self.of_requests, name)


def _with_breaths(theirs: Callable[..., bytes], breaths: Breaths) -> Callable[..., bytes]:
    @functools.wraps(theirs)
    def read(*args: Any, **options: Any) -> bytes:
        breaths.take()
        return theirs(*args, **options)

    return read


def end_input(environ: dict[str, Any], start_response: Any, connection: Any) -> None:
    """Let the server of a request believe that its client sends nothing more, so that it closes the connection.

    Args:
        environ: The request.
        start_response: What it was called with.
        connection: Its socket, or None.
    """
    body, handler = environ.get("wsgi.input"), getattr(start_response, "__self__", None)
    with contextlib.suppress(OSError, AttributeError, ValueError):  # it has been closed by now
        if type(body).__module__.startswith("gunicorn."):
            _end_gunicorn(body, handler)
        else:
            # To a request for a WebSocket, gevent does not show what it reads the body with.
            for part in (getattr(handler, "wsgi_input", None), body):
                _end_file(part)
    if connection is not None:
        with contextlib.suppress(OSError, AttributeError, ValueError):
            _end_socket(connection)


def _end_gunicorn(body: Any, response: Any) -> None:
    """Have gunicorn close a connection after the answer; it overlooks a header that says so."""
    body.failed = True
    unreader = getattr(body.reader, "unreader", None)
    holder: Any
    for holder in (response, getattr(body.reader, "req", None)):
        if hasattr(holder, "force_close"):
            holder.force_close()
            return
    if unreader is not None:  # what calls us has put its own ``start_response`` in place of gunicorn's
        unreader.buf = io.BytesIO()
        unreader.chunk = _nothing


def _nothing(*_: Any) -> bytes:
    return b""


def _end_file(body: Any) -> None:
    """Let the file end that Werkzeug, gevent and eventlet read from; what is in its buffer is no other request."""
    if body is None:
        return
    if hasattr(body, "chunked_input"):  # gevent's and eventlet's, which would log that it ends too soon
        body.chunked_input, body.content_length = False, body.position
    file = next((found for name in ("rfile", "_rfile") if (found := getattr(body, name, None)) is not None), body)
    file.raw.readinto = _no_bytes
    while data := file.peek():
        file.read(len(data))


def _no_bytes(_: Any) -> int:
    return 0


def _end_socket(connection: Any) -> None:
    # Not by the connection itself: one of TLS would go on in plain text.
    same = socket.socket(fileno=connection.fileno())
    try:
        same.shutdown(socket.SHUT_RD)
        discarded = 0
        while discarded < MOST_DISCARDED and (data := same.recv(SLICE, socket.MSG_DONTWAIT)):
            discarded += len(data)
    finally:
        same.detach()
