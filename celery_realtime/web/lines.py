"""Write events straight to the WebSockets of threads and greenlets, past Engine.IO's queues: see ``pipes``.

Engine.IO wakes a thread, or a greenlet, of each recipient, which makes a frame of its own of the packet. Here the
listening thread writes one frame, made once for all, to the socket of each client whose writer waits for work, as much
as the kernel takes at once. Otherwise the event goes into the queue, behind what is there.

Seen in python-engineio 4.15.1 (``Server.create_queue``, ``Socket.queue``, ``.poll``, ``.upgraded``, ``.upgrading``,
``.closing``, ``.closed``, ``.last_ping``), simple-websocket 1.1.0 (``Server.sock``, ``.connected``) and eventlet 0.41
(``WebSocket.socket``, ``.websocket_closed``, ``.version``). Where one of them is missing, all events go by Engine.IO's
queues.
"""

from __future__ import annotations

import contextlib
import threading
import time as engineio_time
from collections.abc import Callable, Iterator
from typing import Any

from celery_realtime.web.outlets import Outlet, WholeSocket
from celery_realtime.web.pipes import MOST_COLLECTED, Crowd

#: The versions of WebSockets of eventlet whose frames are those of RFC 6455.
RFC_6455 = (8, 13)


class Frames:
    """Frames in a queue of Engine.IO, which only its writer to a WebSocket takes from.

    Args:
        data: The frames; none for what an outlet has left.
    """

    def __init__(self, data: bytes) -> None:
        self.data = data

    def encode(self) -> Frames:
        """Return what the writer is to write: they are frames already."""
        return self


class IdleQueue:
    """Engine.IO's queue of one connection, which knows whether somebody waits for what is put next, and only then.

    Args:
        crowd: The connections of the server.
        theirs: Engine.IO's queue, of threads or of greenlets, without a bound.

    Attributes:
        lock: Held while anything is put, or written past the queue; nobody waits for anything meanwhile.
        is_idle: Whether nothing is on its way to the client: the queue is empty, and its reader waits.
        pipe: What is written past the queue; None where the connection has no WebSocket of which that is possible.
    """

    def __init__(self, crowd: Crowd, theirs: Any) -> None:
        self.lock = threading.Lock()
        self.is_idle = False
        self.pipe: Line | None = None
        self._crowd = crowd
        self._theirs = theirs

    def __getattr__(self, name: str) -> Any:
        return getattr(self._theirs, name)

    def put(self, item: Any, *_: Any, **__: Any) -> None:
        """Put a packet, behind what was collected for the client before."""
        with self.lock:
            collected = b"" if self.pipe is None else self.pipe.take()
            if collected:
                self.put_locked(Frames(collected))
            self.put_locked(item)

    put_nowait = put

    def put_locked(self, item: Any) -> None:
        """Put a packet; the caller has the lock."""
        self.is_idle = False
        self._theirs.put(item)
        if self._theirs.qsize() > self._crowd.limit:
            self._crowd.add(self)

    def qsize(self) -> int:
        """Return how many packets wait."""
        return int(self._theirs.qsize())

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Take a packet, as from any queue."""
        if not block:
            return self._theirs.get(False)
        with self.lock:
            self.is_idle = not self._theirs.qsize()
        try:
            return self._theirs.get(True, timeout)
        finally:
            self.is_idle = False


class Line:
    """The way to one client past its queue.

    Args:
        connection: Engine.IO's connection.
        outlet: Writes to its WebSocket.
        is_open: Tells whether the WebSocket is open.
    """

    __slots__ = ("_collected", "_connection", "_is_open", "_queue", "_size", "outlet")

    def __init__(self, connection: Any, outlet: Outlet, is_open: Callable[[], bool]) -> None:
        self.outlet = outlet
        self._connection = connection
        self._queue: IdleQueue = connection.queue
        self._is_open = is_open
        self._collected: list[bytes] = []
        self._size = 0

    def collect(self, frame: bytes) -> bool | None:
        """Take a frame to write soon.

        Returns:
            Whether it is the first one that waits; None if it has to go by the queue.
        """
        queue = self._queue
        with queue.lock:
            if not queue.is_idle or self._size > MOST_COLLECTED:
                return None
            is_first = not self._size
            if is_first and not self._is_free():
                return None
            self._collected.append(frame)
            self._size += len(frame)
        return is_first

    def _is_free(self) -> bool:
        connection = self._connection
        return (
            connection.upgraded
            and not (connection.upgrading or connection.closing or connection.closed)
            # Engine.IO looks for clients that answer no ping when it sends to them.
            and not (
                connection.last_ping and engineio_time.time() - connection.last_ping > connection.server.ping_timeout
            )
        )

    def take(self) -> bytes:
        """Return what was collected, which is somebody else's to write now; the caller has the queue's lock."""
        if not self._size:
            return b""
        frames, self._collected, self._size = self._collected, [], 0
        return b"".join(frames) if len(frames) > 1 else frames[0]

    def flush(self) -> None:
        """Write what was collected; what is not taken at once is left to the queue's reader."""
        with self._queue.lock:  # so what is put meanwhile comes later
            data = self.take()
            written = self.outlet.write(data) if data and self._is_open() else 0
            if written < len(data):
                self._queue.put_locked(Frames(b"" if written else data))

    def send(self, frames: Frames) -> None:
        """Write frames from the queue, however long that takes.

        Raises:
            OSError: The WebSocket has been closed.
        """
        if not self._is_open():
            raise OSError("the WebSocket has been closed")
        self.outlet.send(frames.data)


class LinedWebSocket:
    """A WebSocket as Engine.IO writes to it, which may be given frames that were made before.

    Args:
        websocket: The WebSocket.
        line: The way past it.
    """

    def __init__(self, websocket: Any, line: Line) -> None:
        self._websocket = websocket
        self._line = line

    def __getattr__(self, name: str) -> Any:
        return getattr(self._websocket, name)

    def send(self, message: Any) -> None:
        """Send a message, or frames."""
        if isinstance(message, Frames):
            self._line.send(message)
        else:
            self._websocket.send(message)


@contextlib.contextmanager
def lined(connection: Any, websocket: Any) -> Iterator[Any]:
    """Yield what Engine.IO is to write to in the block instead of a WebSocket, past which events are written.

    Args:
        connection: Engine.IO's connection.
        websocket: The WebSocket.
    """
    line = line_of(connection, websocket)
    if line is None:
        yield websocket
        return
    connection.queue.pipe = line
    try:
        yield LinedWebSocket(websocket, line)
    finally:
        connection.queue.pipe = None


def line_of(connection: Any, websocket: Any) -> Line | None:
    """Return the way to a client past its queue, or None where its web server shows none.

    Args:
        connection: Engine.IO's connection.
        websocket: Its WebSocket, which has been accepted. One that has agreed to compression takes plain frames, too.
    """
    if not isinstance(getattr(connection, "queue", None), IdleQueue):
        return None
    inner: Any = getattr(websocket, "ws", None)  # simple-websocket's
    if hasattr(inner, "connected"):
        held, is_open = getattr(inner, "sock", None), lambda: bool(inner.connected)
    elif getattr(websocket, "version", None) in RFC_6455 and hasattr(websocket, "websocket_closed"):
        held, is_open = getattr(websocket, "socket", None), lambda: not websocket.websocket_closed
    else:
        return None
    if not isinstance(held, WholeSocket) or not held.outlet.is_direct:
        return None
    return Line(connection, held.outlet, is_open)
