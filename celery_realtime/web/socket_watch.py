"""Count what a web server reads from a WebSocket that it does not show: the kernel knows (Linux, over TCP).

Granian reads frames in Rust, and hands over a message when it is whole: up to 64 MiB. Its sockets are those of this
process, so that they can be found, counted and shut down beside it. Seen in Granian 2.8.9.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import select
import socket
import struct
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from celery_realtime.logs import RateLimitedLogger
from celery_realtime.web.budgets import Budget

if sys.platform == "linux":
    import fcntl
    import termios

IS_POSSIBLE = sys.platform == "linux"

logger = logging.getLogger(__name__)

NOT_BOUNDED = (
    "this web server does not show its WebSockets, and the socket of one cannot be found (needed are Linux, TCP, and "
    "the client's own address and port in the scope), so what the server collects of a message that does not end is "
    "not bounded; serve with uvicorn or hypercorn instead, see docs/security.md"
)

#: Where ``struct tcp_info`` says how many bytes have come.
BYTES_RECEIVED = slice(128, 136)

#: Seconds between two looks at sockets on which something arrives all the time, and at those with what is not read yet.
PAUSE, LATER = 0.002, 0.02

#: Seconds between two looks at all sockets: those whose client reads nothing do not report arrivals.
SWEEP = 1.0

#: Each arrival is reported once, also if the server has read it by then: as a rule the socket can be written to.
ARRIVALS = 0 if sys.platform != "linux" else select.EPOLLIN | select.EPOLLOUT | select.EPOLLET

#: What a server may have read beyond the message that it has handed over.
READ_AHEAD = 128 * 1024

#: Under which a request has what watches its socket.
WATCHED_KEY = "celery_realtime.watched_socket"

_FDS = Path("/proc/self/fd")


class WatchedSocket:
    """The socket of one WebSocket, beside the server that reads from it.

    Args:
        connection: The same socket, under a number of its own.
        budget: The budget of the connection.
    """

    def __init__(self, connection: socket.socket, budget: Budget) -> None:
        self.connection = connection
        self._budget = budget
        #: Whether something has come that the server has not read.
        self.has_unread = False
        self._seen = self._handed_over = self._consumed()

    def _consumed(self) -> int:
        """Return how many bytes the server has read: those that have come, without those that still wait for it."""
        info = self.connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, BYTES_RECEIVED.stop)
        (received,) = struct.unpack("@Q", info[BYTES_RECEIVED])
        waiting = bytearray(4)
        fcntl.ioctl(self.connection, termios.FIONREAD, waiting)
        unread = int(struct.unpack("@i", waiting)[0])
        self.has_unread = unread > 0
        return int(received) - unread

    def look(self) -> None:
        """Count what has been read, and shut the connection if that is more than it may send."""
        consumed = self._consumed()
        came, self._seen = consumed - self._seen, max(consumed, self._seen)
        in_message = consumed - self._handed_over - READ_AHEAD
        if came > 0 and not (self._budget.take_bytes(came) and self._budget.take_part(max(0, in_message))):
            self.abort()

    def note_message(self) -> None:
        """Note that the server has handed over a message."""
        with contextlib.suppress(OSError):
            self._handed_over = self._consumed()
        self._budget.release()

    def abort(self) -> None:
        """End the connection: what is sent from now on is not read."""
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)


class SocketWatch:
    """Watches the sockets of WebSockets in an event loop.

    Args:
        loop: The loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._epoll = select.epoll()
        self._watched: dict[int, WatchedSocket] = {}
        #: Of what has come on these, some was not read yet; nothing reports when it is.
        self._unread: set[int] = set()
        #: The numbers under which the server has them.
        self._theirs: dict[int, WatchedSocket] = {}
        loop.add_reader(self._epoll.fileno(), self._look)
        loop.call_later(SWEEP, self._sweep)

    def __len__(self) -> int:
        return len(self._watched)

    def watch(self, scope: dict[str, Any], budget: Budget) -> WatchedSocket | None:
        """Watch the socket that a request came over; return None where it is not to be found."""
        number = self._number_of(scope, set(self._theirs)) or self._number_of(scope, set())
        connection = None if number is None else _connection(number, scope)
        if number is None or connection is None:
            return None
        watched = WatchedSocket(connection, budget)
        self._watched[connection.fileno()] = self._theirs[number] = watched
        self._epoll.register(connection.fileno(), ARRIVALS)
        return watched

    def forget(self, watched: WatchedSocket) -> None:
        """Watch a socket no more."""
        self._watched.pop(watched.connection.fileno(), None)
        for number in [number for number, other in self._theirs.items() if other is watched]:
            del self._theirs[number]
        with contextlib.suppress(OSError):
            self._epoll.unregister(watched.connection.fileno())
        watched.connection.close()

    def _look(self) -> None:
        """Look at the sockets on which something has come, and have others wait for a moment."""
        self._look_at(number for number, _ in self._epoll.poll(0))
        self._loop.remove_reader(self._epoll.fileno())
        self._loop.call_later(PAUSE, self._loop.add_reader, self._epoll.fileno(), self._look)

    def _sweep(self) -> None:
        self._look_at(list(self._watched))
        self._loop.call_later(SWEEP, self._sweep)

    def _look_again(self) -> None:
        numbers, self._unread = self._unread, set()
        self._look_at(numbers)

    def _look_at(self, numbers: Iterable[int]) -> None:
        was_quiet = not self._unread
        for number in numbers:
            watched = self._watched.get(number)
            if watched is None:
                continue
            with contextlib.suppress(OSError):
                watched.look()
                if watched.has_unread:
                    self._unread.add(number)
        if was_quiet and self._unread:
            self._loop.call_later(LATER, self._look_again)

    def _number_of(self, scope: dict[str, Any], taken: set[int]) -> int | None:
        """Return under which number this process has the socket of a request."""
        own = {*taken, *self._watched}
        numbers = (int(path.name) for path in _FDS.iterdir())
        return next((number for number in numbers if number not in own and _is_of(number, scope)), None)


def _is_of(number: int, scope: dict[str, Any]) -> bool:
    """Tell whether a file is the socket of a request."""
    try:
        connection = socket.socket(fileno=number)
    except OSError:
        return False  # it is no socket, or has been closed since
    try:
        client, server = connection.getpeername(), connection.getsockname()
        return _same(client, scope.get("client")) and _same(server[1:2], (scope.get("server") or server)[1:2])
    except OSError:
        return False
    finally:
        connection.detach()


def _same(address: Any, named: Any) -> bool:
    """Tell whether two addresses, or their ends, are one; Granian names ports as text."""
    if not isinstance(address, tuple) or not named:
        return False
    one, other = ([str(part).removeprefix("::ffff:") for part in parts[:2]] for parts in (address, named))
    return one == other


def _connection(number: int, scope: dict[str, Any]) -> socket.socket | None:
    """Return a socket under a number of its own, unless the server has closed it meanwhile."""
    try:
        connection = socket.socket(fileno=os.dup(number))
    except OSError:
        return None
    if _is_of(connection.fileno(), scope):
        return connection
    connection.close()
    return None


class SocketWatches:
    """The watch of the event loop that runs, made when it is needed."""

    def __init__(self) -> None:
        self._watch: SocketWatch | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._log = RateLimitedLogger(logger)

    def __len__(self) -> int:
        return 0 if self._watch is None else len(self._watch)

    @contextlib.contextmanager
    def watching(self, scope: dict[str, Any], budget: Budget) -> Iterator[None]:
        """Watch the socket of a request in the block; what watches it is in the scope."""
        watch, watched = self._current(), None
        if watch is not None:
            with contextlib.suppress(OSError, struct.error):
                watched = watch.watch(scope, budget)
        if watch is None or watched is None:
            self._log.warning(NOT_BOUNDED)
            yield
            return
        scope[WATCHED_KEY] = watched
        try:
            yield
        finally:
            watch.forget(watched)

    def _current(self) -> SocketWatch | None:
        """Return the watch of this loop, or None where there can be none."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._watch, self._loop = None, loop
            with contextlib.suppress(NotImplementedError):  # a loop that watches no files
                self._watch = SocketWatch(loop) if IS_POSSIBLE else None
        return self._watch
