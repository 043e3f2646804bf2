"""Write events straight to the WebSockets of an event loop: a frame is made once, and what comes together is one write.

Engine.IO has a task for each recipient of a packet put it into a queue, and wakes another task of the client that takes
it out, encodes it and hands it to the web server: some sixty microseconds for each delivery. Here a frame is made once
for all, collected for each client, and written to the client's transport when the event loop gets its next turn.

Only where nothing of Engine.IO's is on its way to the client: its queue is empty, its writer waits, and the transport
has sent what it was given. Otherwise the event goes behind that, into the queue. So the order is one and the same on
both roads, and a client that does not read is seen by its queue.

Seen in python-engineio 4.15.1 (``AsyncServer.create_queue``, ``AsyncSocket.queue``, ``.upgraded``, ``.upgrading``,
``.closing``, ``.closed``), uvicorn 0.54 and hypercorn 0.18 (a WebSocket's ``transport``, and the ``state`` of its
connection). Where one of them is missing, all events go by Engine.IO's queues.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
import threading
import weakref
from collections.abc import Iterator
from typing import Any

#: Bytes that are collected for one client, and that may wait in its transport, before its events go into the queue.
MOST_COLLECTED = 64 * 1024
MOST_UNSENT = 32 * 1024

#: The first byte of a WebSocket frame that is a whole message of text (RFC 6455, section 5.2).
WHOLE_TEXT = 0x81


def text_frame(text: str) -> bytes:
    """Return the frame of a message of text from a server, which is not masked (RFC 6455, section 5.2)."""
    payload = text.encode()
    size = len(payload)
    if size < 126:
        return struct.pack("!BB", WHOLE_TEXT, size) + payload
    if size < 65536:
        return struct.pack("!BBH", WHOLE_TEXT, 126, size) + payload
    return struct.pack("!BBQ", WHOLE_TEXT, 127, size) + payload


class Crowd:
    """The connections of a server for which many packets wait.

    Args:
        limit: Packets beyond which they are many.

    Attributes:
        limit: As given.
        lagging: The queues in which more wait, or did a moment ago; not those of connections that have gone.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.lagging: weakref.WeakSet[Any] = weakref.WeakSet()
        self._lock = threading.Lock()

    def add(self, queue: Any) -> None:
        """Note that more than the limit waits in a queue."""
        with self._lock:
            self.lagging.add(queue)

    def lags(self) -> bool:
        """Tell whether more than the limit waits for any connection."""
        if not self.lagging:
            return False
        with self._lock:
            lagging = list(self.lagging)
        for queue in lagging:  # whoever adds one has its lock
            if queue.qsize() <= self.limit:
                self._discard(queue)
        return bool(self.lagging)

    def _discard(self, queue: Any) -> None:
        with self._lock:
            self.lagging.discard(queue)


class TrackedQueue(asyncio.Queue[Any]):
    """Engine.IO's queue of one connection, which knows what is still on its way to the client.

    Args:
        crowd: The connections of the server.

    Attributes:
        unfinished: How many packets have been put that the writer has not taken, and noted as taken.
        pipe: What is written past the queue; None where the connection has no WebSocket of which that is possible.
    """

    def __init__(self, crowd: Crowd) -> None:
        super().__init__()
        self.unfinished = 0
        self.pipe: Pipe | None = None
        self._crowd = crowd

    def put_nowait(self, item: Any) -> None:
        """Put a packet, behind what was collected for the client before."""
        if self.pipe is not None:
            self.pipe.flush()
        super().put_nowait(item)
        self.unfinished += 1
        if self.qsize() > self._crowd.limit:
            self._crowd.add(self)

    def task_done(self) -> None:
        """Note that a packet was taken."""
        super().task_done()
        self.unfinished -= 1


class Pipe:
    """The way to one client past its queue.

    Args:
        connection: Engine.IO's connection.
        transport: The transport of its WebSocket.
        protocol: Has the state of the WebSocket.

    Attributes:
        sending: How many packets Engine.IO's writer is handing to the web server.
    """

    __slots__ = ("_collected", "_connection", "_protocol", "_queue", "_size", "_transport", "sending")

    def __init__(self, connection: Any, transport: Any, protocol: Any) -> None:
        self.sending = 0
        self._connection = connection
        self._queue: TrackedQueue = connection.queue
        self._transport = transport
        self._protocol = protocol
        self._collected: list[bytes] = []
        self._size = 0

    def collect(self, frame: bytes) -> bool | None:
        """Take a frame to write soon.

        Returns:
            Whether it is the first one that waits; None if it has to go by the queue.
        """
        if self._queue.unfinished or self.sending or self._size > MOST_COLLECTED:
            return None
        if self._size:
            self._collected.append(frame)
            self._size += len(frame)
            return False
        if not self._is_free():
            return None
        self._collected.append(frame)
        self._size = len(frame)
        return True

    def _is_free(self) -> bool:
        connection = self._connection
        return (
            connection.upgraded
            and not (connection.upgrading or connection.closing or connection.closed)
            and self._transport.get_write_buffer_size() <= MOST_UNSENT
        )

    def flush(self) -> None:
        """Write what was collected; nothing if the WebSocket is being closed."""
        if not self._size:
            return
        frames, self._collected, self._size = self._collected, [], 0
        if self._protocol.state.name == "OPEN" and not self._transport.is_closing():
            self._transport.write(b"".join(frames) if len(frames) > 1 else frames[0])


def pipe_of(connection: Any, environ: dict[str, Any]) -> Pipe | None:
    """Return the way to a client past its queue, or None where its web server shows none.

    Args:
        connection: Engine.IO's connection.
        environ: The request of its WebSocket, which has been accepted.
    """
    scope = environ.get("asgi.scope") or {}
    # With HTTP/2 the transport carries other streams, too.
    if not isinstance(getattr(connection, "queue", None), TrackedQueue) or scope.get("http_version") != "1.1":
        return None
    for transport, protocol in _ways(getattr(environ.get("asgi.send"), "__self__", None)):
        state = getattr(protocol, "state", None)
        if hasattr(transport, "get_write_buffer_size") and getattr(state, "name", None) == "OPEN":
            return Pipe(connection, transport, protocol)
    return None


@contextlib.contextmanager
def piped(connection: Any, environ: dict[str, Any], websocket: Any) -> Iterator[Any]:
    """Yield what Engine.IO is to write to in the block instead of a WebSocket, past which events are written.

    Args:
        connection: Engine.IO's connection.
        environ: The request of the WebSocket.
        websocket: The WebSocket.
    """
    pipe = pipe_of(connection, environ)
    if pipe is None:
        yield websocket
        return
    connection.queue.pipe = pipe
    try:
        yield PipedWebSocket(websocket, pipe)
    finally:
        connection.queue.pipe = None


class PipedWebSocket:
    """A WebSocket as Engine.IO writes to it: whoever else writes knows when it does.

    Args:
        websocket: The WebSocket.
        pipe: The way past it.
    """

    def __init__(self, websocket: Any, pipe: Pipe) -> None:
        self._websocket = websocket
        self._pipe = pipe

    def __getattr__(self, name: str) -> Any:
        return getattr(self._websocket, name)

    async def send(self, message: Any) -> None:
        """Send a message."""
        self._pipe.sending += 1
        try:
            await self._websocket.send(message)
        finally:
            self._pipe.sending -= 1


def _ways(server: Any) -> Iterator[tuple[Any, Any]]:
    """Yield where a web server may have a WebSocket's transport, and what has its state."""
    for holder in senders(server):
        transport = getattr(getattr(holder, "writer", holder), "transport", None)
        yield transport, getattr(server, "conn", None)  # uvicorn, with websockets or wsproto
        yield transport, server  # uvicorn, with websockets in its old way
        yield transport, getattr(server, "connection", None)  # hypercorn


def senders(server: Any) -> Iterator[Any]:
    """Yield what sends for an ASGI server: hypercorn's stream sends through its protocol, and that through another."""
    for _ in range(3):
        yield server
        server = getattr(getattr(server, "send", None), "__self__", None)
