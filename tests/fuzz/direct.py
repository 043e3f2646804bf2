"""Clients of Socket.IO servers in the same process: they have a connection of Engine.IO's, and no socket."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import engineio
import engineio.packet
from engineio.async_socket import AsyncSocket
from engineio.socket import Socket

from tests.waiting import wait_for

if TYPE_CHECKING:
    import socketio

_CONNECT, _EVENT, _ACKNOWLEDGEMENT, _REFUSAL = "0", "2", "3", "4"
_ENVIRON = {"REQUEST_METHOD": "GET", "QUERY_STRING": "", "REMOTE_ADDR": "127.0.0.1"}
#: Seconds that an event loop has for what a client does.
_PATIENCE = 60
_numbers = itertools.count()


class DirectClient:
    """Sends packets as a browser does, and reads what waits for it.

    Args:
        server: Has ``async_handlers=False``: requests are answered before they return.

    Attributes:
        heard: The events that it has read: name and data.
        answers: The acknowledgements that it has read, by their number.
        refusal: Why it was not let in.
    """

    def __init__(self, server: socketio.Server) -> None:
        self._server = server
        self._eio_sid = f"direct-{next(_numbers)}"
        self._socket: Any = None
        self._requests = itertools.count()
        self.heard: list[list[Any]] = []
        self.answers: dict[int, Any] = {}
        self.refusal: Any = None
        self.is_connected = False

    def connect(self, token: Any) -> DirectClient:
        """Connect with a token; look at ``is_connected``."""
        self._socket = Socket(self._server.eio, self._eio_sid)
        self._server.eio.sockets[self._eio_sid] = self._socket
        self._socket.connected = True
        self._server.eio._trigger_event("connect", self._eio_sid, dict(_ENVIRON), run_async=False)
        self._send(f"{_CONNECT}{json.dumps({'token': token})}")
        self.read()
        return self

    def ask(self, event: str, data: Any) -> int:
        """Send a request, and return the number of its acknowledgement."""
        number = next(self._requests)
        self._send(f"{_EVENT}{number}{json.dumps([event, data])}")
        return number

    def tell(self, event: str, data: Any) -> None:
        """Send a request that asks for no acknowledgement."""
        self._send(_EVENT + json.dumps([event, data]))

    def answer(self, number: int) -> Any:
        """Return an acknowledgement, for which the server may need a while."""
        if number not in self.answers:
            wait_for(lambda: self.read() or number in self.answers)
        return self.answers.pop(number)

    def read(self) -> None:
        """Read what waits."""
        self.begin_to_read()()

    def begin_to_read(self) -> Callable[[], object]:
        """Begin to read, and return what waits until that is done."""
        self._read_queue()
        return lambda: None

    def _read_queue(self) -> None:
        while self._socket.queue.qsize():
            packet = self._socket.queue.get_nowait()
            self._socket.queue.task_done()
            if packet is None:
                self.is_connected = False
            elif packet.packet_type == engineio.packet.PING:
                self._socket.last_ping = None
            elif packet.packet_type == engineio.packet.MESSAGE:
                self._read(packet.data)

    def _read(self, message: str) -> None:
        kind, rest = message[0], message[1:]
        if kind == _CONNECT:
            self.is_connected = True
        elif kind == _REFUSAL:
            self.refusal = json.loads(rest)
        elif kind == _EVENT:
            self.heard.append(json.loads(rest))
        elif kind == _ACKNOWLEDGEMENT:
            number, bracket, data = rest.partition("[")
            (self.answers[int(number)],) = json.loads(bracket + data)
        else:
            self.is_connected = False

    def _send(self, message: str) -> None:
        self._server.eio._trigger_event("message", self._eio_sid, message, run_async=False)

    def close(self) -> None:
        """Go without a word, as a browser does whose network is away."""
        if self._eio_sid in self._server.eio.sockets:
            self._server.eio._trigger_event("disconnect", self._eio_sid, "test", run_async=False)
            self._server.eio.sockets.pop(self._eio_sid, None)
        self._socket.closed = True
        self.is_connected = False


class AsyncDirectClient(DirectClient):
    """The same of an asyncio server; what it sends is sent, in order, when it reads.

    Args:
        server: As that of :class:`DirectClient`.
        loop: The event loop, which runs in another thread.
    """

    def __init__(self, server: socketio.AsyncServer, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(server)
        self._loop = loop
        self._unsent: list[str] = []

    def connect(self, token: Any) -> AsyncDirectClient:
        self._unsent.append(f"{_CONNECT}{json.dumps({'token': token})}")
        self._begin(self._connect())()
        return self

    async def _connect(self) -> None:
        self._socket = AsyncSocket(self._server.eio, self._eio_sid)
        self._server.eio.sockets[self._eio_sid] = self._socket
        self._socket.connected = True
        await self._server.eio._trigger_event("connect", self._eio_sid, dict(_ENVIRON), run_async=False)
        await self._exchange()

    def _send(self, message: str) -> None:
        self._unsent.append(message)

    def begin_to_read(self) -> Callable[[], object]:
        return self._begin(self._exchange())

    async def _exchange(self) -> None:
        while self._unsent:
            await self._server.eio._trigger_event("message", self._eio_sid, self._unsent.pop(0), run_async=False)
        self._read_queue()

    def close(self) -> None:
        self._begin(self._close())()

    async def _close(self) -> None:
        if self._eio_sid in self._server.eio.sockets:
            await self._server.eio._trigger_event("disconnect", self._eio_sid, "test", run_async=False)
            self._server.eio.sockets.pop(self._eio_sid, None)
        self._socket.closed = True
        self.is_connected = False

    def _begin(self, doing: Coroutine[Any, Any, None]) -> Callable[[], object]:
        done = asyncio.run_coroutine_threadsafe(doing, self._loop)
        return lambda: done.result(_PATIENCE)
