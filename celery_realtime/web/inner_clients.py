"""Be a client of a Socket.IO server from within its process, for what answers plain HTTP.

Engine.IO has two transports, polling and WebSockets; this is a third one, without a network: what the client says is
handed over as a message, and what is for it is taken from its queue. So it is let in, limited, subscribed, held up,
told of the end of its access and cut as any other client is, by the same code.

Seen in python-engineio 4.15.1 (``Server.sockets``, ``.generate_id``, ``._trigger_event``, ``Socket.queue``,
``.last_ping``, ``.closed``, ``.close``) and python-socketio 5.18.1 (``Server.packet_class``).
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, NamedTuple

from engineio.async_socket import AsyncSocket
from engineio.packet import CLOSE, MESSAGE
from engineio.socket import Socket

from celery_realtime.clocks import time
from celery_realtime.exceptions import SubscribeError
from celery_realtime.web.decisions import Decision
from celery_realtime.web.seams import EngineSockets, is_asyncio

#: The types of packets (Socket.IO's protocol, version 5).
CONNECT, DISCONNECT, EVENT, ACK, CONNECT_ERROR = range(5)

#: Packets that are taken at once, so that what a client does not read waits in its queue, where it is counted.
MOST_TAKEN = 50

#: Longest wait, in seconds, for an answer: the history, or a rule of the application, may hang.
ANSWER_TIMEOUT = 60.0

#: The same for what is in the queue already.
AT_ONCE = 0.01

GONE = "the connection was ended before it was answered; connect again"
NOT_BEGUN = "no connection can be begun now; try again later"

_NOTHING = object()


class Packet(NamedTuple):
    """A packet of Socket.IO: its type, its number if it is an answer or wants one, and what it says."""

    kind: int
    number: int | None
    data: Any


class InnerClient:
    """One client.

    Args:
        server: The Socket.IO server, sync or asyncio.
        sockets: The connections of the server.
        namespace: The namespace of the projects.
        environ: The request of HTTP that it is made for, as Engine.IO has it.

    Attributes:
        is_over: Whether the server has ended it.
    """

    def __init__(self, server: Any, sockets: EngineSockets, namespace: str, environ: dict[str, Any]) -> None:
        self.is_over = False
        self._server = server
        self._namespace = namespace
        self._environ = environ
        self._is_asyncio = is_asyncio(server)
        self._eio_sid: str = server.eio.generate_id()
        self._connection = (AsyncSocket if self._is_asyncio else Socket)(server.eio, self._eio_sid)
        self._connection.last_ping = None  # who is in the same process answers no pings
        self._connection.connected = True
        self._sockets = sockets
        self._stack = ExitStack()
        #: What has come while something else was waited for.
        self._early: list[tuple[str, Any]] = []
        self._asked = 0

    # -- the client's side --------------------------------------------------------------------------------------

    def connect(self, token: str | None) -> Decision[None]:
        """Connect, and show a token.

        Args:
            token: The token; None for that of the query, or none.

        Raises:
            SubscribeError: The server refuses it.
        """
        engine = self._server.eio
        engine.sockets[self._eio_sid] = self._connection
        self._stack.enter_context(self._sockets.serving(self._eio_sid, self._connection, self._environ))
        begin = functools.partial(engine._trigger_event, "connect", self._eio_sid, self._environ, run_async=False)
        if (yield begin) is False:  # nothing that it says would be answered
            raise SubscribeError(NOT_BEGUN, "unavailable")
        yield from self._say(CONNECT, {"token": token} if token is not None else None)
        deadline, is_in = time.monotonic() + ANSWER_TIMEOUT, False
        while not is_in or self._connection.queue.qsize():  # a refusal may come behind a welcome: `always_connect`
            for packet in (yield from self._receive(deadline)):
                if packet.kind in (CONNECT_ERROR, DISCONNECT):
                    raise _refusal_in(packet.data)
                is_in |= packet.kind == CONNECT
                self._note(packet)

    def ask(self, event: str, data: dict[str, Any]) -> Decision[dict[str, Any]]:
        """Send a request, and return the answer.

        Raises:
            SubscribeError: The server refuses it, or has ended the connection.
        """
        self._asked += 1
        number = self._asked
        yield from self._say(EVENT, [event, data], number)
        deadline, answer = time.monotonic() + ANSWER_TIMEOUT, None
        while answer is None:
            for packet in (yield from self._receive(deadline)):
                if packet.kind == ACK and packet.number == number:
                    answer = packet.data
                else:
                    self._note(packet)
        [said] = answer if isinstance(answer, list) and len(answer) == 1 else [None]
        if not isinstance(said, dict) or not said.get("ok"):
            raise _refusal_in(said)
        return said

    def take(self, timeout: float) -> Decision[list[tuple[str, Any]]]:
        """Return the events that have come, by name; those that come first within some seconds if none have.

        None come any more if :attr:`is_over`.
        """
        if not self._early and not self.is_over:
            for packet in (yield from self._packets(timeout)):
                self._note(packet)
        events, self._early = self._early, []
        return events

    def end(self) -> None:
        """Let whoever takes events know, in the thread or loop of the server, that the client has gone."""
        self._connection.queue.put_nowait(None)

    def close(self) -> Decision[None]:
        """Disconnect."""
        self.is_over = True
        engine = self._server.eio
        try:
            yield functools.partial(self._connection.close, wait=False, abort=True)
        finally:
            engine.sockets.pop(self._eio_sid, None)
            self._stack.close()

    # -- packets ------------------------------------------------------------------------------------------------

    def _say(self, kind: int, data: Any, id_: int | None = None) -> Decision[None]:
        packet = self._server.packet_class(kind, data=data, namespace=self._namespace, id=id_)
        engine = self._server.eio
        yield functools.partial(engine._trigger_event, "message", self._eio_sid, packet.encode(), run_async=False)

    def _note(self, packet: Packet) -> None:
        if packet.kind == EVENT and isinstance(packet.data, list) and packet.data:
            name, *arguments = packet.data
            self._early.append((str(name), arguments[0] if arguments else None))
        self.is_over |= packet.kind == DISCONNECT

    def _receive(self, deadline: float) -> Decision[list[Packet]]:
        """Return the packets that come next.

        Raises:
            SubscribeError: None come in time, or any more.
        """
        while not self.is_over and (left := deadline - time.monotonic()) > 0:
            packets = yield from self._packets(left)
            if packets:
                return packets
        raise SubscribeError(GONE, "unavailable")

    def _packets(self, timeout: float) -> Decision[list[Packet]]:
        """Return the packets of Socket.IO that come within some seconds, if any do."""
        items: list[Any] = []
        item = yield functools.partial(self._next, timeout)
        while item is not _NOTHING:
            items.append(item)
            if item is None or len(items) == MOST_TAKEN or not self._connection.queue.qsize():
                break
            item = yield functools.partial(self._next, AT_ONCE)
        return [*self._decoded(items)]

    def _decoded(self, items: list[Any]) -> Iterator[Packet]:
        for item in items:
            if item is None or item.packet_type == CLOSE:
                self.is_over = True
            elif item.packet_type == MESSAGE and isinstance(item.data, str):
                packet = self._server.packet_class(encoded_packet=item.data)
                if (packet.namespace or "/") == self._namespace:
                    yield Packet(packet.packet_type, packet.id, packet.data)

    def _next(self, timeout: float) -> Any:
        """Take the next item of the queue, or nothing if none comes in time; awaitable on an asyncio server."""
        return self._wait(timeout) if self._is_asyncio else self._block(timeout)

    def _block(self, timeout: float) -> Any:
        queue = self._connection.queue
        try:
            item = queue.get(timeout=timeout)
        except self._server.eio.get_queue_empty_exception():
            return _NOTHING
        queue.task_done()
        return item

    async def _wait(self, timeout: float) -> Any:
        queue = self._connection.queue
        try:
            item = await asyncio.wait_for(queue.get(), timeout)
        except asyncio.TimeoutError:
            return _NOTHING
        queue.task_done()
        return item


def _refusal_in(said: Any) -> SubscribeError:
    """Return the refusal in what the server says: a code and a message, if the application has not chosen others."""
    fields = said if isinstance(said, dict) else {}
    inner: dict[str, Any] = next((fields[name] for name in ("error", "data") if isinstance(fields.get(name), dict)), {})
    message = inner.get("message") or fields.get("message") or GONE
    code = inner.get("code") or ("forbidden" if "message" in fields else "unavailable")
    return SubscribeError(str(message), str(code))
