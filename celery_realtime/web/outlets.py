"""Write to the socket of a WebSocket of threads or greenlets: whole frames, one caller after the other, or at once.

The listening thread writes past Engine.IO's writer, and simple-websocket's reader writes pongs: a lock keeps their
frames apart. What the kernel did not take of a frame goes before whatever is written next.

Seen in Python 3.10 to 3.14, gevent 26.9 (``_socket3.socket._sock``) and eventlet 0.41 (``GreenSocket.fd``), both of
which do not block. To other sockets, such as those of TLS, nothing is written past Engine.IO.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import Any

#: Flags of :meth:`socket.socket.send`; none where an operating system has no such flag.
AT_ONCE: int | None = getattr(socket, "MSG_DONTWAIT", None)


class Outlet:
    """The writing side of a socket.

    Args:
        connection: The socket.

    Attributes:
        is_direct: Whether :meth:`write` is possible.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._write = _write_of(connection)
        self._lock = _lock_for(connection)
        #: What is left of what was written, and has to come first.
        self._rest = b""
        self.is_direct = self._write is not None

    def send(self, data: bytes) -> int:
        """Send all of the data, however long that takes, and return how many bytes that is."""
        with self._lock:
            rest, self._rest = self._rest, b""
            self._connection.sendall(rest + data if rest else data)
        return len(data)

    def write(self, data: bytes) -> int:
        """Write what the kernel takes at once; the rest goes before what is sent next.

        Returns:
            How many bytes it took; 0 if nothing was written, and nothing is left to come, as when somebody is sending,
            or the socket is broken.
        """
        if self._write is None or not self._lock.acquire(blocking=False):
            return 0
        try:
            written = 0 if self._rest else self._write(data)
            if written:
                self._rest = data[written:]
            return written
        except OSError:  # it is full; or broken, which whoever sends next notices
            return 0
        finally:
            self._lock.release()


class WholeSocket:
    """A socket that sends all that it is given, one caller after the other.

    simple-websocket (1.1) takes for granted that ``send`` does so. That of gevent sends what fits at the moment: the
    rest of a frame is lost, and with it the connection of any client that reads slower than the server writes.

    Args:
        connection: The socket.

    Attributes:
        connection: As given.
        outlet: Through which all is written.
    """

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.outlet = Outlet(connection)

    def send(self, data: bytes) -> int:
        """Send all of the data, and return how many bytes that is."""
        return self.outlet.send(data)

    def sendall(self, data: bytes) -> None:
        """Send all of the data."""
        self.outlet.send(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.connection, name)


def _lock_for(connection: Any) -> Any:
    """Return a lock for those who write to a socket: the module of threads may not be patched."""
    kind = type(connection).__module__
    if kind.startswith("gevent."):
        from gevent.lock import BoundedSemaphore

        return BoundedSemaphore()
    if kind.startswith("eventlet."):
        from eventlet.semaphore import Semaphore

        return Semaphore()
    return threading.Lock()


def _write_of(connection: Any) -> Callable[[bytes], int] | None:
    ways = {"socket": _of_threads, "gevent._socket3": _of_gevent, "eventlet.greenio.base": _of_eventlet}
    way = ways.get(type(connection).__module__)
    return None if way is None else way(connection)


def _of_threads(connection: socket.socket) -> Callable[[bytes], int] | None:
    if AT_ONCE is None:
        return None
    flags, timeout, send = AT_ONCE, connection.gettimeout, connection.send
    # With a time-out Python itself waits.
    return lambda data: send(data, flags) if timeout() is None else 0


def _of_gevent(connection: Any) -> Callable[[bytes], int] | None:
    if not hasattr(connection, "_sock"):
        return None
    return lambda data: int(connection._sock.send(data))  # another one once it has been closed


def _of_eventlet(connection: Any) -> Callable[[bytes], int] | None:
    return connection.fd.send if hasattr(connection, "fd") else None
