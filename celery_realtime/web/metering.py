"""Count what clients send where a web server hands it over, in front of Engine.IO; all of it private to libraries.

Seen in simple-websocket 1.1.0, wsproto 1.3.2, eventlet 0.41, uvicorn 0.54 (with wsproto, and with websockets 17.4) and
hypercorn 0.18. Granian 2.8.9 shows none of its inside: the sockets of such a server are watched instead.
"""

from __future__ import annotations

import copy
import functools
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, NamedTuple

from wsproto.utilities import RemoteProtocolError

from celery_realtime.clocks import time
from celery_realtime.web.budgets import Budget
from celery_realtime.web.exits import Exits
from celery_realtime.web.outlets import WholeSocket
from celery_realtime.web.pipes import piped, senders
from celery_realtime.web.shares import AsyncShares, Shares
from celery_realtime.web.socket_watch import WATCHED_KEY, SocketWatches, WatchedSocket

#: Under which a request has its budget.
BUDGET_KEY = "celery_realtime.budget"

#: Messages that simple-websocket may hold that no handler has taken yet; after that, it reads no more.
MOST_UNHANDLED = 32

#: The state of a connection that neither side has closed, as ``struct tcp_info`` has it.
ESTABLISHED = 1

#: Seconds between two looks whether they have been taken.
PAUSE = 0.02

#: Bytes that websockets is given at once.
SLICE_OF_DATA = 4096

#: Seconds for which a greenlet reads before others have their turn: it never waits for a client that sends quickly.
SLICE = 0.001


def budget_of(environ: dict[str, Any]) -> Budget | None:
    """Return the budget of the connection that a request belongs to."""
    scope = environ.get("asgi.scope")
    budget = (scope if isinstance(scope, dict) else environ).get(BUDGET_KEY)
    return budget if isinstance(budget, Budget) else None


def metered_upgrade(
    theirs: Callable[..., Any], sleep: Callable[[float], Any], users: Users | None = None
) -> Callable[..., Any]:
    """Return what Engine.IO makes of a WebSocket request instead: the same, with what the client sends counted.

    Args:
        theirs: The class of the asynchronous mode, ``(handler, server) -> (environ, ...) -> response``.
        sleep: Pauses a thread, or a greenlet.
        users: Which have a message that is being handled, if others know that too.
    """
    watches, users = SocketWatches(), users or Users.nobody()

    def upgrade(handler: Callable[[Any], Any], server: Any) -> Callable[..., Any]:
        def respond(environ: dict[str, Any], *rest: Any) -> Any:
            budget = budget_of(environ)
            if budget is None:
                return theirs(handler, server)(environ, *rest)
            environ.pop("HTTP_SEC_WEBSOCKET_EXTENSIONS", None)  # what is not inflated is no bomb
            inner = theirs(functools.partial(_handle, handler, budget, environ, users, Breaths(sleep)), server)
            if hasattr(inner, "server_args"):  # Engine.IO's wrapper of simple-websocket
                thread = inner.server_args.get("thread_class")
                begin = functools.partial(_begin_thread, budget, sleep, users.exits, thread)
                inner.server_args["thread_class"] = begin
            if _prepare_protocol(environ, budget) or "asgi.scope" not in environ:
                return inner(environ, *rest)
            return _watched(watches, environ["asgi.scope"], budget, functools.partial(inner, environ, *rest))

        return respond

    return upgrade


async def _watched(
    watches: SocketWatches, scope: dict[str, Any], budget: Budget, respond: Callable[[], Awaitable[Any]]
) -> Any:
    with watches.watching(scope, budget):
        return await respond()


class Users(NamedTuple):
    """Which users have a message that is being handled, and how many of those without a token are about to go."""

    shares: Shares
    async_shares: AsyncShares
    exits: Exits

    @classmethod
    def nobody(cls) -> Users:
        """Return that of a server to which nothing has come yet."""
        return cls(Shares(), AsyncShares(), Exits())


def _handle(
    handler: Callable[[Any], Any],
    budget: Budget,
    environ: dict[str, Any],
    users: Users,
    breaths: Breaths,
    websocket: Any,
) -> Any:
    """Have a WebSocket handled with what comes over it counted; awaitable on an asyncio server."""
    is_asyncio = "asgi.scope" in environ
    if hasattr(websocket, "max_frame_length"):  # eventlet's
        _meter_eventlet(websocket, budget, breaths, users.exits)
    metered = _metered(websocket, budget, environ, users, breaths)
    if is_asyncio:
        return _awaited(handler, metered, environ)
    with metered:
        return handler(metered)


async def _awaited(handler: Callable[[Any], Any], metered: MeteredWebSocket, environ: dict[str, Any]) -> Any:
    with metered, piped(getattr(handler, "__self__", None), environ, metered) as websocket:
        return await handler(websocket)


def _metered(
    websocket: Any, budget: Budget, environ: dict[str, Any], users: Users, breaths: Breaths
) -> MeteredWebSocket:
    _meter_accepted(environ, budget)
    scope = environ.get("asgi.scope")
    watched = scope.get(WATCHED_KEY) if isinstance(scope, dict) else None
    if scope is None:
        held = getattr(websocket, "socket", None)
        return MeteredWebSocket(
            websocket, budget, shares=users.shares, breaths=breaths, exits=users.exits, connection=held
        )
    held = transport_of(environ) if watched is None else watched.connection
    return MeteredWebSocket(websocket, budget, shares=users.async_shares, watched=watched, connection=held)


class MeteredWebSocket:
    """A WebSocket as Engine.IO reads from it, which seems closed by its client once it is over its budget.

    Each message is handed over when none of another connection of the same user is being handled: until the next one
    is asked for.

    Args:
        websocket: The WebSocket.
        budget: Its budget.
        shares: Of the users; awaitable on an asyncio server.
        watched: Its socket, if that is watched.
        breaths: Taken before each message; not on an asyncio server.
        exits: The room for its end; not on an asyncio server.
        connection: The socket of eventlet, or the transport of an asyncio server, if that is known.
    """

    def __init__(
        self,
        websocket: Any,
        budget: Budget,
        *,
        shares: Shares | AsyncShares,
        watched: WatchedSocket | None = None,
        breaths: Breaths | None = None,
        exits: Exits | None = None,
        connection: Any = None,
    ) -> None:
        self._websocket = websocket
        self._budget = budget
        self._shares = shares
        self._watched = watched
        self._breaths = breaths
        self._exits = exits
        self._connection = connection
        #: The user whose share this has.
        self._user: str | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._websocket, name)

    def __enter__(self) -> None:
        """Handle what is said."""

    def __exit__(self, *_: object) -> None:
        self._give()
        if self._exits is not None:
            self._exits.leave(self._budget)

    def wait(self) -> Any:
        """Return the next message, or None at the end; awaitable on an asyncio server."""
        self._give()
        if self._breaths is not None:
            self._breaths.take()
        message = self._websocket.wait()
        if hasattr(message, "__await__"):
            return self._wait(message)
        checked = self._checked(message)
        if checked is not None and self._budget.user is not None:
            self._shares.take(self._budget.user)
            self._user = self._budget.user
        return checked

    async def _wait(self, message: Any) -> Any:
        checked = self._checked(await message)
        if checked is not None and self._budget.user is not None:
            await self._shares.take(self._budget.user)  # type: ignore[misc]
            self._user = self._budget.user
        return checked

    def _give(self) -> None:
        user, self._user = self._user, None
        if user is not None:
            self._shares.give(user)

    def _is_pointless(self) -> bool:
        """Tell whether a client has gone that has shown a bad token: nobody reads whether another one is better."""
        budget = self._budget
        if budget.has_token or not budget.connects:
            return False
        return budget.has_left or _has_closed(self._connection)

    def _checked(self, message: Any) -> Any:
        budget = self._budget
        if self._watched is not None:
            self._watched.note_message()
        if message is None or budget.exceeded is not None or self._is_pointless():
            return None
        if not message or (isinstance(message, str) and message[0] not in "123456b"):
            budget.exceed("packets that are none of Engine.IO's")
        return message if budget.take_packet() and budget.take_message(len(message)) else None


def _has_closed(connection: Any) -> bool:
    """Tell whether a client has closed its socket, of which not all is read, or is not seen to have ended; on Linux."""
    if hasattr(connection, "is_closing"):  # a transport
        return bool(connection.is_closing() or _has_closed(connection.get_extra_info("socket")))
    if not hasattr(socket, "TCP_INFO") or not hasattr(connection, "getsockopt"):
        return False
    try:
        return bool(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != ESTABLISHED)
    except OSError:
        return False  # it is none of TCP


# -- simple-websocket: threads, gevent, gunicorn ---------------------------------------------------------------------


def _begin_thread(
    budget: Budget, sleep: Callable[[float], Any], exits: Exits, thread_class: Any, *, target: Any
) -> Any:
    """Count what a WebSocket's thread reads; it is made after the handshake, and has not begun yet."""
    websocket = target.__self__
    wait_for_handler, breaths = functools.partial(_wait_for_handler, websocket, budget, sleep), Breaths(sleep)
    websocket.sock = MeteredSocket(websocket.sock, budget, wait_for_handler, breaths, exits)
    websocket.ws = MeteredFrames(websocket.ws, budget)
    return (thread_class or threading.Thread)(target=target)


def _wait_for_handler(websocket: Any, budget: Budget, sleep: Callable[[float], Any]) -> None:
    """Read no more while much waits to be handled; simple-websocket itself collects as fast as a client sends."""
    while websocket.connected and budget.exceeded is None:
        unhandled = list(websocket.input_buffer)
        if len(unhandled) <= MOST_UNHANDLED and sum(map(len, unhandled)) <= budget.max_message:
            return
        sleep(PAUSE)


class Breaths:
    """Lets others have their turn while somebody reads what never ends.

    Args:
        sleep: Pauses a thread, or a greenlet.
    """

    def __init__(self, sleep: Callable[[float], Any]) -> None:
        self._sleep = sleep
        self._since = time.monotonic()

    def take(self) -> None:
        """Pause, if the last time is some while ago."""
        if time.monotonic() - self._since > SLICE:
            self.take_one()

    def take_one(self) -> None:
        """Pause now."""
        self._sleep(0)
        self._since = time.monotonic()


class MeteredSocket(WholeSocket):
    """A socket from which no more is read than a budget allows.

    Args:
        connection: The socket.
        budget: Its budget.
        wait: Called before each read.
        breaths: Taken before each read.
        exits: Waited for when the client has closed.
    """

    def __init__(
        self,
        connection: Any,
        budget: Budget,
        wait: Callable[[], None] | None = None,
        breaths: Breaths | None = None,
        exits: Exits | None = None,
    ) -> None:
        super().__init__(connection)
        self._budget = budget
        self._wait = wait
        self._breaths = breaths
        self._exits = exits

    def recv(self, size: int, *flags: int) -> bytes:
        """Read as :meth:`socket.socket.recv` does.

        Raises:
            OSError: It is over the budget.
        """
        if self._wait is not None:
            self._wait()
        if self._breaths is not None:
            self._breaths.take()
        data = self._received(size, *flags)
        if not self._budget.take_bytes(len(data)):
            raise OSError("the client sends more than it may")
        return data

    def _received(self, size: int, *flags: int) -> bytes:
        data: bytes = b""
        try:
            data = self.connection.recv(size, *flags)
        finally:
            if not data and self._exits is not None:
                self._budget.has_left = True
                if self._breaths is not None:  # a writer that has not begun would not be waited for
                    self._breaths.take_one()
                self._exits.enter(self._budget)
        return data

    def close(self) -> None:
        """Close the socket, and forget the WebSocket that refers to this: what both take is free at once."""
        self._wait = None
        self.connection.close()


# -- wsproto: simple-websocket, uvicorn, hypercorn -------------------------------------------------------------------


class MeteredFrames:
    """A connection of wsproto that yields no more than a budget allows.

    Args:
        connection: The connection.
        budget: Its budget.
        counts_bytes: Whether the bytes from the network are counted here.
    """

    def __init__(self, connection: Any, budget: Budget, *, counts_bytes: bool = False) -> None:
        self._connection = connection
        self._budget = budget
        self._counts_bytes = counts_bytes
        self._size = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def receive_data(self, data: bytes | None) -> None:
        """Take what has come from the network; nothing once it is too much."""
        if self._counts_bytes and data and not self._budget.take_bytes(len(data)):
            return
        if self._budget.exceeded is None:
            self._connection.receive_data(data)

    def events(self) -> Iterator[Any]:
        """Yield what has been received.

        Raises:
            wsproto.utilities.RemoteProtocolError: It is no WebSocket's, such as a compressed frame. This ends the
                connection, which simple-websocket would leave open with nobody to read from it.
        """
        try:
            for event in self._connection.events():
                if not self._budget.take_frame() or not self._fits(event):
                    return
                yield event
        except RemoteProtocolError:
            self._budget.exceed("frames that are none of WebSocket's")
            raise

    def _fits(self, event: Any) -> bool:
        if not hasattr(event, "message_finished"):
            return True
        self._size += len(event.data)
        fits = self._budget.take_part(self._size, is_last=event.message_finished)
        if event.message_finished:
            self._size = 0
        return fits


# -- eventlet --------------------------------------------------------------------------------------------------------


def _meter_eventlet(websocket: Any, budget: Budget, breaths: Breaths, exits: Exits) -> None:
    """Bound what eventlet collects of one message: it bounds each frame of it, and not their sum."""
    reader = _EventletReader(websocket.socket, budget, breaths=breaths, exits=exits)
    websocket.socket = reader
    if hasattr(websocket, "_apply_mask"):
        websocket._apply_mask = _unmasked
    budget.on_admitted(lambda: setattr(websocket, "max_frame_length", budget.max_message))
    websocket.max_frame_length = budget.max_message
    theirs = websocket.wait

    def wait() -> Any:
        reader.received = 0
        message = theirs()
        budget.release()
        return message

    websocket.wait = wait
    reader.on_close = lambda: vars(websocket).pop("wait", None)  # it refers to the WebSocket


def _unmasked(data: bytes, mask: tuple[int, ...], length: int | None = None, offset: int = 0) -> bytes:
    """Return data without its mask; eventlet's own way takes half a second of processor time for a megabyte."""
    size = len(data) if length is None else length
    turned = bytes(mask[offset % 4 :] + mask[: offset % 4])
    repeated = (turned * (size // 4 + 1))[:size]
    return (int.from_bytes(data[:size], "big") ^ int.from_bytes(repeated, "big")).to_bytes(size, "big")


class _EventletReader(MeteredSocket):
    """Eventlet reads a message when one is asked for, and nothing beyond it."""

    received = 0
    on_close: Callable[[], Any] | None = None

    def close(self) -> None:
        """Close the socket, and forget the WebSocket."""
        super().close()
        forget, self.on_close = self.on_close, None
        if forget is not None:
            forget()

    def recv(self, size: int, *flags: int) -> bytes:
        data = super().recv(size, *flags)
        self.received += len(data)
        # Each read is a frame's header, its length, its mask or a part of its payload.
        if not self._budget.take_frame(0.25) or not self._budget.take_part(self.received - 14):
            raise OSError("the client sends more than it may")
        return data


# -- ASGI servers ----------------------------------------------------------------------------------------------------


def transport_of(environ: dict[str, Any]) -> Any:
    """Return the transport of an ASGI server's connection, or what watches its socket; None where there is neither."""
    scope = environ.get("asgi.scope")
    if isinstance(scope, dict) and WATCHED_KEY in scope:
        return scope[WATCHED_KEY]
    receiver, server = (getattr(environ.get(name), "__self__", None) for name in ("asgi.receive", "asgi.send"))
    protocols = [receiver, *senders(server)]
    writers = (getattr(protocol, "writer", None) for protocol in protocols)
    transports = (getattr(holder, "transport", None) for holder in [*protocols, *writers])
    return next((transport for transport in transports if transport is not None), None)


def _prepare_protocol(environ: dict[str, Any], budget: Budget) -> bool:
    """Bound what an ASGI server reads of a WebSocket, before it is accepted; return whether that is possible."""
    protocol: Any = getattr(environ.get("asgi.send"), "__self__", None)
    connection = getattr(protocol, "conn", None)
    if hasattr(protocol, "handshake") and hasattr(protocol, "app_put"):  # hypercorn
        protocol.handshake.extensions = None
    elif hasattr(connection, "receive_data") and hasattr(connection, "events_received"):  # uvicorn with websockets
        _meter_websockets(protocol, connection, budget)
    elif hasattr(connection, "receive_data") and hasattr(connection, "events"):  # uvicorn with wsproto
        protocol.config = copy.copy(protocol.config)
        protocol.config.ws_per_message_deflate = False
        protocol.conn = MeteredFrames(connection, budget, counts_bytes=True)
    elif hasattr(protocol, "max_size") and hasattr(protocol, "available_extensions"):  # the same, in its old way
        protocol.available_extensions = None
        budget.on_admitted(lambda: setattr(protocol, "max_size", budget.max_message))
        protocol.max_size = budget.max_message
    else:
        return False
    return True


def _meter_accepted(environ: dict[str, Any], budget: Budget) -> None:
    """Bound what hypercorn reads: it makes its connection when the WebSocket is accepted."""
    stream: Any = getattr(environ.get("asgi.send"), "__self__", None)
    if hasattr(stream, "handshake") and hasattr(stream, "connection"):
        stream.connection = MeteredFrames(stream.connection, budget, counts_bytes=True)


def _meter_websockets(protocol: Any, connection: Any, budget: Budget) -> None:
    connection.extensions = []
    response = getattr(protocol, "response", None)
    if response is not None and "Sec-WebSocket-Extensions" in response.headers:
        del response.headers["Sec-WebSocket-Extensions"]
    longest = "max_message_size" if hasattr(connection, "max_message_size") else "max_size"  # the latter up to 15
    budget.on_admitted(lambda: setattr(connection, longest, budget.max_message))
    setattr(connection, longest, budget.max_message)
    receive_data, events_received = connection.receive_data, connection.events_received

    def receive(data: bytes) -> None:
        """Take data in slices, since all frames that are in it are parsed at once."""
        goes_on = budget.take_bytes(len(data))
        for begin in range(0, len(data), SLICE_OF_DATA):
            if not goes_on:
                return
            before = len(connection.events)
            receive_data(data[begin : begin + SLICE_OF_DATA])
            collected = getattr(connection, "current_size", None) or getattr(connection, "cur_size", None) or 0
            goes_on = all(budget.take_frame() for _ in connection.events[before:])
            goes_on = budget.take_part(collected + len(connection.reader.buffer)) and goes_on

    def events() -> Iterator[Any]:
        return iter(events_received() if budget.exceeded is None else ())

    connection.receive_data, connection.events_received = receive, events
