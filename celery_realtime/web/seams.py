"""Every private or undocumented part of python-socketio, Engine.IO and web servers that the web side relies on.

Seen in python-socketio 5.18.1 and python-engineio 4.15.1. :func:`check` runs at start-up: it refuses a server that
lacks what isolation or bounded memory rest on, and names in one log line what else is missing.
``tests/web/test_seams.py`` fails when one of these parts is gone or behaves in another way.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib.metadata
import ipaddress
import json
import logging
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, NamedTuple
from urllib.parse import parse_qs

from engineio.packet import MESSAGE, NOOP, Packet

from celery_realtime.clocks import time
from celery_realtime.exceptions import ImproperlyConfigured
from celery_realtime.logs import RareErrors, RateLimitedLogger
from celery_realtime.rooms import project_of_room
from celery_realtime.web.bodies import Body, discard_in_slices, end_input, let_others_read
from celery_realtime.web.budgets import Budget
from celery_realtime.web.doors import Doors
from celery_realtime.web.lines import IdleQueue, lined
from celery_realtime.web.lingering import Lingering
from celery_realtime.web.loop_doors import LoopDoors
from celery_realtime.web.metering import BUDGET_KEY, Users, budget_of, metered_upgrade, transport_of
from celery_realtime.web.outlets import WholeSocket
from celery_realtime.web.pings import Pings
from celery_realtime.web.pipes import Crowd, TrackedQueue
from celery_realtime.web.polls import LAST_KEY
from celery_realtime.web.server_errors import ServerLogs

logger = logging.getLogger(__name__)

Step = Callable[[], Any]


class Seam(NamedTuple):
    """One private part of a library.

    Attributes:
        path: Where it is, seen from a Socket.IO server.
        reason: What cannot be done without it.
        is_required: Whether a server without it is refused; otherwise it is served with a warning.
    """

    path: str
    reason: str
    is_required: bool


SEAMS = (
    Seam("_handle_event", "clients could call the handlers of `connect` and `disconnect`", True),
    Seam("_handle_event_internal", "events could come before the acknowledgement that they are later than", False),
    Seam("handlers", "an application's `connect` handler would replace the one that checks tokens", True),
    Seam("namespace_handlers", "an application's namespace class would replace the handler that checks tokens", True),
    Seam("manager_initialized", "the server would listen to the broker twice, or not at all", True),
    Seam("eio._service_task", "a server that nobody uses any more stays, with all that belongs to it", False),
    Seam("eio.sockets", "clients that read slowly could not be seen, and would fill the memory", True),
    Seam("eio.handle_request", "requests that are too long would be read", True),
    Seam("eio._async", "WebSocket messages that are too long would be read", True),
    Seam("eio.handlers", "connections that never show a token, and slow WebSockets, stay open", False),
    Seam("eio.create_queue", "a task, or a thread, for each client of each event makes emitting slow", False),
    Seam("eio.cors_allowed_origins", "a server that is open to every web page is not warned of", False),
)

#: The place of the packet's data among the arguments of ``_handle_event_internal``.
FOLLOWED_UP = 3


def check(server: Any) -> None:
    """Refuse a server without the private parts that cannot be done without; log the others that are missing.

    Raises:
        ImproperlyConfigured: A required part is missing.
    """
    for seam in SEAMS:
        if _has(server, seam.path):
            continue
        missing = f"{_versions()} has no {type(server).__name__}.{seam.path}"
        if seam.is_required:
            raise ImproperlyConfigured(
                f"{missing}: {seam.reason}. Install the versions that celery-realtime's metadata names"
            )
        logger.warning("%s, so %s; install the versions that celery-realtime's metadata names", missing, seam.reason)


def _has(server: Any, path: str) -> bool:
    holder: Any = server
    for name in path.split("."):
        if not hasattr(holder, name):
            return False
        holder = getattr(holder, name)
    return True


def _versions() -> str:
    return " with ".join(
        f"{name} {importlib.metadata.version(name)}" for name in ("python-socketio", "python-engineio")
    )


# -- python-socketio ----------------------------------------------------------------------------------------------


def intercept_events(server: Any, change: Callable[[str, int | None, Any], list[Any] | None]) -> None:
    """Look at each event packet of a client before its handler is chosen.

    python-socketio passes an event on to whatever handler has its name, ``connect`` and ``disconnect`` included, and
    does not say whether the client asked for an acknowledgement.

    Args:
        server: The Socket.IO server, sync or asyncio.
        change: ``(namespace, acknowledgement id or None, packet data) -> data``, or None to drop the packet.
    """

    def prepare(eio_sid: str, namespace: str | None, id: int | None, data: Any) -> tuple[Any, ...] | None:
        changed = change(namespace or "/", id, data)
        return None if changed is None else (eio_sid, namespace, id, changed)

    server._handle_event = _prepared(server._handle_event, prepare, is_asyncio=is_asyncio(server))


def follow_up_events(
    server: Any, follow_up: Callable[[Any], Any], around: Callable[[Any], Any] = contextlib.nullcontext
) -> bool:
    """Do something after each event packet of a client, when its acknowledgement has been put into the client's queue.

    python-socketio sends what a handler returns, and calls nothing after that.

    Args:
        server: The Socket.IO server, sync or asyncio.
        follow_up: Called with the packet's data, in the thread or task of the handler; on an asyncio server it returns
            an awaitable, or None.
        around: Returns a context, for a packet's data, in which its handler is called.

    Returns:
        Whether that is possible.
    """
    theirs = getattr(server, "_handle_event_internal", None)
    if theirs is None:
        return False
    errors = RareErrors(logger)  # of the application's handlers, each in a thread or task of its own

    def call(*args: Any) -> None:
        try:
            with errors, around(args[FOLLOWED_UP]):
                theirs(*args)
        finally:
            follow_up(args[FOLLOWED_UP])

    async def call_async(*args: Any) -> None:
        try:
            with errors, around(args[FOLLOWED_UP]):
                await theirs(*args)
        finally:
            following = follow_up(args[FOLLOWED_UP])
            if following is not None:
                await following

    server._handle_event_internal = call_async if is_asyncio(server) else call
    return True


def queue_events(server: Any, begin: Callable[[str, Any, Callable[[], Any]], Any]) -> None:
    """Let event packets of clients wait before their handlers are called.

    Args:
        server: The Socket.IO server, sync or asyncio.
        begin: ``(Engine.IO session id, packet data, start) -> data``: returns the data to go on with now, or None; then
            ``start`` has to be called later, and awaited on an asyncio server. Asked of clients that are connected.
    """
    theirs = server._handle_event
    manager = server.manager

    def prepare(eio_sid: str, namespace: str | None, id: int | None, data: Any) -> tuple[Any, ...] | None:
        where = namespace or "/"
        if not manager.is_connected(manager.sid_from_eio_sid(eio_sid, where), where):
            return eio_sid, namespace, id, data
        going_on = begin(eio_sid, data, functools.partial(theirs, eio_sid, namespace, id, data))
        return None if going_on is None else (eio_sid, namespace, id, going_on)

    server._handle_event = _prepared(theirs, prepare, is_asyncio=is_asyncio(server))


def _prepared(
    theirs: Callable[..., Any], prepare: Callable[..., tuple[Any, ...] | None], *, is_asyncio: bool
) -> Callable[..., Any]:
    """Call a function with the arguments that ``prepare`` returns, or not at all where it returns None."""

    def call(*args: Any) -> Any:
        prepared = prepare(*args)
        return None if prepared is None else theirs(*prepared)

    async def call_async(*args: Any) -> Any:
        prepared = prepare(*args)
        return None if prepared is None else await theirs(*prepared)

    return call_async if is_asyncio else call


def is_asyncio(server: Any) -> bool:
    """Tell whether a Socket.IO server is one of asyncio."""
    return bool(server.is_asyncio_based())


def handlers_of(server: Any, namespace: str) -> dict[str, Callable[..., Any]]:
    """Return the functions that are registered in a namespace, by event."""
    return dict(server.handlers.get(namespace) or {})


def class_of(server: Any, namespace: str) -> Any:
    """Return the class-based namespace that is registered, or None."""
    return server.namespace_handlers.get(namespace)


def replace_registration(server: Any, on: Callable[..., Any], register_namespace: Callable[..., Any]) -> None:
    """Have later calls of ``server.on``, ``server.event`` and ``server.register_namespace`` come to these functions.

    python-socketio has one handler for each event, and the last to be registered wins.
    """
    server.on, server.register_namespace = on, register_namespace


def initialize_manager(server: Any) -> None:
    """Start a server's client manager now; python-socketio does so at the first connection, and only once."""
    if not server.manager_initialized:
        server.manager.initialize()
        server.manager_initialized = True


def forget_initialization(server: Any) -> None:
    """Let the client manager be started again, in a child process that has none of its parent's threads."""
    server.manager_initialized = False


def allowed_origins(server: Any) -> Any:
    """Return which origins a server was made to admit; None for its own."""
    return getattr(server.eio, "cors_allowed_origins", None)


def allows_every_origin(server: Any) -> bool:
    """Tell whether pages of every origin may connect."""
    return bool(allowed_origins(server) == "*")


def cors_headers_of(server: Any, environ: dict[str, Any]) -> list[tuple[str, str]] | None:
    """Return the headers of an answer to a page of another origin, as Engine.IO makes them; None if it is refused."""
    engine, origin = server.eio, environ.get("HTTP_ORIGIN")
    if engine.cors_allowed_origins == []:  # others see to it
        return []
    allowed = engine._cors_allowed_origins(environ)
    if origin and allowed is not None and origin not in allowed:
        return None
    return [*engine._cors_headers(environ), ("Vary", "Origin")]


async def environ_of_asgi(server: Any, scope: dict[str, Any], receive: Any, send: Any) -> dict[str, Any]:
    """Return a request of ASGI as Engine.IO has it; nothing if its client has gone."""
    translated: dict[str, Any] = await server.eio._async["translate_request"](scope, receive, send)
    return translated


#: What servers have each other do by messages of python-socketio's own.
METHODS = ("emit", "disconnect", "enter_room", "leave_room", "close_room")


def handler_of_message(manager: Any, message: Mapping[str, Any]) -> Callable[[Any], Any] | None:
    """Return what does on this server what another one's message of python-socketio says; None if that is nothing.

    On an asyncio server it returns an awaitable.
    As the thread of its ``PubSubManager`` does, which itself is not used: it keeps the manager for ever.
    """
    method = message["method"]
    # An answer to an acknowledgement comes from whoever has the client, this server included.
    is_for_us = method == "callback" or (method in METHODS and message.get("host_id") != manager.host_id)
    return getattr(manager, f"_handle_{method}") if is_for_us else None


# -- in front of Engine.IO and python-socketio ---------------------------------------------------------------------


#: Stands for the method of a request for a WebSocket.
WEBSOCKET = "WEBSOCKET"


class Request(NamedTuple):
    """A request of HTTP to a server.

    Attributes:
        environ: It, as WSGI or (as a scope) ASGI have it.
        method: Its method; ``WEBSOCKET`` if it asks for one.
        sid: The Engine.IO session that it names, or None.
        peer: The address that it comes from.
        length: Bytes of its body, as it says.
    """

    environ: dict[str, Any]
    method: str
    sid: str | None
    peer: str
    length: int

    @classmethod
    def of_wsgi(cls, environ: dict[str, Any]) -> Request:
        """Return a request of WSGI."""
        return cls(
            environ,
            WEBSOCKET if environ.get("HTTP_UPGRADE", "").lower() == "websocket" else environ.get("REQUEST_METHOD", ""),
            _sid_in(environ.get("QUERY_STRING", "")),
            peer_of(environ),
            _length_in(environ.get("CONTENT_LENGTH")),
        )

    @classmethod
    def of_asgi(cls, scope: dict[str, Any], send: Any) -> Request:
        """Return a request of ASGI."""
        headers = dict(scope.get("headers") or ())
        return cls(
            {"asgi.scope": scope, "asgi.send": send},
            WEBSOCKET if scope.get("type") == "websocket" else scope.get("method", ""),
            _sid_in((scope.get("query_string") or b"").decode("latin-1")),
            peer_of({"asgi.scope": scope}),
            _length_in(headers.get(b"content-length")),
        )


def _sid_in(query: str) -> str | None:
    return parse_qs(query).get("sid", [None])[0]


def _length_in(header: Any) -> int:
    try:
        return int(header or 0)
    except ValueError:
        return 0


def peer_of(environ: dict[str, Any]) -> str:
    """Return the address that a request comes from; of version 6, the network, which is what a subscriber has."""
    scope = environ.get("asgi.scope")
    address = str(environ.get("REMOTE_ADDR", "")) if scope is None else str((scope.get("client") or ("",))[0])
    if ":" not in address:
        return address
    with contextlib.suppress(ValueError):
        parsed = ipaddress.IPv6Address(address.partition("%")[0])
        return str(parsed.ipv4_mapped or ipaddress.IPv6Network((int(parsed) >> 64 << 64, 64)))
    return address


Begin = Callable[[Request], "Budget | None"]
End = Callable[["Budget", Request], None]


class WsgiGuard:
    """Looks at each request of HTTP to a server of threads or greenlets before it is answered.

    Those that ask more often than they may wait.

    Args:
        server: The Socket.IO server.
        begin: Returns the budget of the connection that a request is of, or None to refuse it.
        end: Called when a request that was not refused has been answered.
    """

    def __init__(self, server: Any, begin: Begin, end: End) -> None:
        self._server = server
        self._begin = begin
        self._end = end
        self._logs, self._doors = ServerLogs(), Doors()

    def install(self) -> None:
        """Stand in front of Engine.IO from now on."""
        theirs, errors = self._server.eio.handle_request, RareErrors(logger)
        Lingering().install()
        let_others_read(self._server.sleep)
        discard_in_slices()

        def call(environ: dict[str, Any], start_response: Any) -> Any:
            with self.answering(environ, start_response) as start:
                if start is None:
                    return _refuse_wsgi(start_response)
                with errors:
                    return theirs(environ, start)
                return start.fail()

        self._server.eio.handle_request = call

    @contextlib.contextmanager
    def answering(
        self, environ: dict[str, Any], start_response: Any, *, is_of_engine: bool = True
    ) -> Iterator[Start | None]:
        """Answer a request in the block, by what is yielded; None where it is to be refused: its body is not read.

        Args:
            environ: The request.
            start_response: Begins the answer to it.
            is_of_engine: Whether it may name a connection of Engine.IO that it belongs to.
        """
        self._logs.install()
        self._doors.install()
        sleep = self._server.sleep
        sleep(0)  # a client may send request upon request on one connection: others have their turn in between
        request = Request.of_wsgi(environ) if is_of_engine else Request.of_wsgi(environ)._replace(sid=None)
        budget = self._begin(request)
        if budget is None:
            end_input(environ, start_response, _socket_of(environ))
            yield None
            return
        environ[BUDGET_KEY] = budget
        body = Body(environ, budget, sleep)
        start = Start(start_response, lambda: body.has_more or budget.exceeded is not None or LAST_KEY in environ)
        try:
            _pause_poll(budget, request, sleep)
            yield start
        finally:
            body.release()
            self._end(budget, request)
            if start.is_last or body.has_more or _is_last(request):
                end_input(environ, start_response, _socket_of(environ))
            if request.sid is not None or budget.eio_sid is None:  # the first one stands for its connection
                environ.pop(BUDGET_KEY, None)  # eventlet's requests are there for longer than they last


class AsgiGuard:
    """Looks at each request of HTTP to an asyncio server before it is answered.

    Args:
        server, begin, end: As those of :class:`WsgiGuard`.
    """

    def __init__(self, server: Any, begin: Begin, end: End) -> None:
        self._server = server
        self._begin = begin
        self._end = end
        self._doors = LoopDoors()

    def install(self) -> None:
        """Stand in front of Engine.IO from now on."""
        theirs, errors = self._server.eio.handle_request, RareErrors(logger)

        async def call(*args: Any) -> Any:
            if not args or not isinstance(args[0], dict) or "type" not in args[0]:
                return await theirs(*args)  # not ASGI
            scope, _, send = args
            async with self.answering(scope, send) as may_go_on:
                if not may_go_on:
                    return await _refuse(scope, send)
                with errors:
                    return await theirs(*args)

        self._server.eio.handle_request = call

    @contextlib.asynccontextmanager
    async def answering(self, scope: dict[str, Any], send: Any, *, is_of_engine: bool = True) -> AsyncIterator[bool]:
        """Answer a request in the block, unless False is yielded: then it is to be refused.

        Args:
            scope: The request.
            send: Sends the answer to it.
            is_of_engine: As that of :meth:`WsgiGuard.answering`.
        """
        self._doors.install()
        request = Request.of_asgi(scope, send)
        request = request if is_of_engine else request._replace(sid=None)
        budget = self._begin(request)
        if budget is None:
            yield False
            return
        scope[BUDGET_KEY] = budget
        try:
            await _pause_poll_async(budget, request)
            yield True
        finally:
            self._end(budget, request)


def guard_of(server: Any, begin: Begin, end: End) -> WsgiGuard | AsgiGuard:
    """Return what looks at the requests of HTTP to a server; see :class:`WsgiGuard`."""
    return (AsgiGuard if is_asyncio(server) else WsgiGuard)(server, begin, end)


def _pause_of(budget: Budget, request: Request) -> float:
    if request.sid is None:
        return budget.pause
    return budget.pause_before_poll() if request.method == "GET" else 0.0


def _pause_poll(budget: Budget, request: Request, sleep: Callable[[float], Any]) -> None:
    pause = _pause_of(budget, request)
    if pause:
        sleep(pause)


async def _pause_poll_async(budget: Budget, request: Request) -> None:
    pause = _pause_of(budget, request)
    if pause:
        await asyncio.sleep(pause)


class Start:
    """A request's ``start_response``, which knows whether it was called, and whether another request may follow.

    Args:
        theirs: The server's.
        is_over: Tells whether nothing more is read from the connection.

    Attributes:
        is_last: Whether the answer says that the connection is closed after it.
    """

    def __init__(self, theirs: Any, is_over: Callable[[], bool]) -> None:
        self._theirs = theirs
        self._is_over = is_over
        self._was_called = False
        self.is_last = False

    def __call__(self, status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
        """Begin the answer; after one that says that something is wrong, the client does not come back over this."""
        self._was_called = True
        if status >= "4" or self._is_over():
            self.is_last = True
            headers = [*headers, ("Connection", "close")]
        return self._theirs(status, headers, *rest)

    def fail(self) -> list[bytes]:
        """Answer a request that could not be handled, as a server does whose application raises, but without a line."""
        if not self._was_called:
            with contextlib.suppress(OSError):
                self(FAILED, [("Content-Type", "text/plain")])
        return []


def _refuse_wsgi(start_response: Any) -> list[bytes]:
    """Refuse a request, whose connection is closed."""
    start_response(REFUSED, [("Content-Type", "text/plain"), ("Connection", "close")])
    return [b"too many requests"]


def _is_last(request: Request) -> bool:
    """Tell whether a connection is over with its request, though its client may keep it open.

    Werkzeug has one request to a connection, and waits for another one after a WebSocket, for ever. A worker of
    gunicorn (27) with threads waits in its only loop, for up to two seconds, until the client has closed, too.
    """
    says_so = request.environ.get("HTTP_CONNECTION", "").lower() == "close"
    return says_so or request.method == WEBSOCKET or "werkzeug.socket" in request.environ


def _shut_reading(environ: dict[str, Any]) -> None:
    connection = _socket_of(environ)
    if connection is None:
        return
    with contextlib.suppress(OSError, AttributeError, ValueError):  # the last of these where it has been closed
        # Not by the connection itself: one of TLS would go on in plain text.
        same = socket.socket(fileno=connection.fileno())
        try:
            same.shutdown(socket.SHUT_RD)
        finally:
            same.detach()


REFUSED, FAILED = "429 TOO MANY REQUESTS", "500 INTERNAL SERVER ERROR"


async def _refuse(scope: dict[str, Any], send: Any) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close"})
        return
    headers = [(b"content-type", b"text/plain"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": int(REFUSED[:3]), "headers": headers})
    await send({"type": "http.response.body", "body": b"too many requests"})


def guard_websockets(server: Any, users: Users) -> None:
    """Count what comes over each WebSocket before Engine.IO reads it.

    Args:
        server: The Socket.IO server, sync or asyncio.
        users: Which have a message that is being handled.
    """
    modes = server.eio._async
    if modes.get("websocket") is not None:
        server.eio._async = {**modes, "websocket": metered_upgrade(modes["websocket"], server.sleep, users)}


#: Where python-socketio and Engine.IO have the ways in which a packet is sent, of servers of threads and of asyncio.
SENDING = (
    ["socketio.server", "engineio.server"],
    ["socketio.async_server", "engineio.async_server"],
)


def track_queues(server: Any, limit: int) -> Crowd | None:
    """Have the queues of a server's connections know what is on its way; return None where that cannot be.

    It cannot where a class of the application, or of a test, sends in a way of its own.

    Args:
        server: The server, to which no client has connected yet.
        limit: Packets of one connection beyond which it lags.
    """
    if not _has(server, "eio.create_queue") or not _has(server, "eio.sockets"):
        return None
    ways = getattr(type(server), "_send_eio_packet", None), getattr(type(server.eio), "send_packet", None)
    is_async = is_asyncio(server)
    if [getattr(way, "__module__", None) for way in ways] != SENDING[is_async]:
        return None
    crowd, theirs = Crowd(limit), server.eio.create_queue
    server.eio.create_queue = functools.partial(TrackedQueue, crowd) if is_async else lambda: IdleQueue(crowd, theirs())
    return crowd


def guard_messages(
    server: Any,
    may_pass: Callable[[str, Any], bool],
    passed: Callable[[str, Any], None],
    *,
    users: Users,
    user_of: Callable[[str], str | None],
) -> None:
    """Look at each message of a client before python-socketio decodes it.

    Args:
        server: The Socket.IO server, sync or asyncio.
        may_pass: ``(Engine.IO session id, message) -> bool``.
        passed: Called with the same when python-socketio has handled it.
        users: Which have a message that is being handled.
        user_of: Returns whose a connection is, if it has no WebSocket: those take their turn when they read.
    """
    handlers = getattr(server.eio, "handlers", {})
    theirs = handlers.get("message")
    if theirs is None:
        return

    def call(eio_sid: str, message: Any) -> None:
        with users.shares.of(user_of(eio_sid)):
            if may_pass(eio_sid, message):
                theirs(eio_sid, message)
                passed(eio_sid, message)

    async def call_async(eio_sid: str, message: Any) -> None:
        async with users.async_shares.of(user_of(eio_sid)):
            if may_pass(eio_sid, message):
                await theirs(eio_sid, message)
                passed(eio_sid, message)

    handlers["message"] = call_async if is_asyncio(server) else call


# -- Engine.IO ----------------------------------------------------------------------------------------------------


#: What a client reads, if it reads, whose connection is ended because it sends too much.
TOO_MUCH = {"code": "too_many_requests", "message": "this connection sends more than it may"}

#: Seconds that a WebSocket may stay open when its connection has been closed.
CLOSING = 1.0


def _emptied(queue: Any, empty_error: type[Exception]) -> int:
    """Discard the packets of a queue, and return how many there were; the end that tells its writer to end stays."""
    discarded, has_end = 0, False
    while queue.qsize():
        try:
            packet = queue.get_nowait()
        except empty_error:  # another thread took the last packet
            break
        queue.task_done()
        if packet is None:
            has_end = True
        else:
            discarded += 1
    if has_end:  # a writer that has not begun yet would wait for another end, and keep what the connection takes
        queue.put_nowait(None)
    return discarded


class EngineSockets:
    """The Engine.IO connections of a server, by their Engine.IO session ids.

    Args:
        server: The Socket.IO server.
    """

    def __init__(self, server: Any) -> None:
        self._server = server
        self._log = RateLimitedLogger(logger)
        #: By Engine.IO session id, the request and the connection of each WebSocket that is open.
        self._websockets: dict[str, tuple[dict[str, Any], Any]] = {}
        #: When WebSockets were first seen open of which Engine.IO's connection is closed.
        self._closed_at: dict[str, float] = {}

    def watch(self, on_connection: Callable[..., None], on_disconnection: Callable[[str], None] | None = None) -> None:
        """Call a function with the session id and the budget of each new connection, before python-socketio handles it.

        Engine.IO has one handler for each of its events, and python-socketio has registered its own.

        Args:
            on_connection: ``(session id, budget or None)``.
            on_disconnection: Called with the session id of each connection that has ended.
        """
        handlers = getattr(self._server.eio, "handlers", {})
        is_async = is_asyncio(self._server)
        if "connect" in handlers:
            scope = functools.partial(self._connecting, on_connection)
            handlers["connect"] = _within(scope, handlers["connect"], is_asyncio=is_async)
        if "disconnect" in handlers and on_disconnection is not None:
            leaving = functools.partial(self._disconnecting, on_disconnection)
            handlers["disconnect"] = _within(leaving, handlers["disconnect"], is_asyncio=is_async)

    @contextlib.contextmanager
    def _connecting(self, on_connection: Callable[..., None], eio_sid: str, environ: Any, *_: Any) -> Iterator[None]:
        self._watch_upgrade(eio_sid)
        on_connection(eio_sid, budget_of(environ))
        yield

    @contextlib.contextmanager
    def _disconnecting(self, on_disconnection: Callable[[str], None], eio_sid: str, *_: Any) -> Iterator[None]:
        try:
            yield
        finally:
            on_disconnection(eio_sid)

    def _watch_upgrade(self, eio_sid: str) -> None:
        """Note the request that a connection's WebSocket comes with; it need not be the connection's first."""
        connection = self._server.eio.sockets.get(eio_sid)
        upgrade = getattr(connection, "_upgrade_websocket", None)
        if upgrade is None:
            self._log.warning(
                "Engine.IO shows no WebSocket upgrades, so the WebSockets of slow clients are not cut; install a "
                "version that celery-realtime's metadata names"
            )
            return
        scope = functools.partial(self._upgraded, eio_sid, connection)
        connection._upgrade_websocket = _within(scope, upgrade, is_asyncio=is_asyncio(self._server))
        handle = getattr(connection, "_websocket_handler", None)
        if handle is not None and not is_asyncio(self._server):
            connection._websocket_handler = functools.partial(_handle_whole, handle)

    def serving(self, eio_sid: str, connection: Any, environ: dict[str, Any]) -> AbstractContextManager[None]:
        """Answer a request in the block that lasts as long as a connection does, as a WebSocket's: so it can be cut."""
        return self._upgraded(eio_sid, connection, environ)

    @contextlib.contextmanager
    def _upgraded(self, eio_sid: str, connection: Any, environ: dict[str, Any], *_: Any) -> Iterator[None]:
        self._websockets[eio_sid] = environ, connection
        try:
            yield
        finally:
            self._websockets.pop(eio_sid, None)
            self._closed_at.pop(eio_sid, None)
            self._forget_closed(eio_sid, connection)

    def _forget_closed(self, eio_sid: str, connection: Any) -> None:
        """Let what a WebSocket has taken be freed at once: each refers to itself, by way of what stands in front of it.

        Engine.IO lists closed connections for up to a minute, and Python looks for such circles rarely.
        """
        if connection.closed:
            _emptied(connection.queue, self._queue_empty())
            self._server.eio.sockets.pop(eio_sid, None)
            for name in ("_upgrade_websocket", "_websocket_handler"):
                vars(connection).pop(name, None)

    def ping_from(self, pings: Pings, eio_sid: str) -> None:
        """Have a connection pinged from one place."""
        connection = self._server.eio.sockets.get(eio_sid)
        if hasattr(connection, "schedule_ping") and hasattr(connection, "last_ping"):
            pings.take_over(connection)

    def request_of(self, eio_sid: str) -> dict[str, Any] | None:
        """Return the request of a connection's WebSocket, if it has one that is open."""
        return self._websockets.get(eio_sid, (None, None))[0]

    @property
    def max_message(self) -> int:
        """Bytes that Engine.IO accepts of one message."""
        return int(getattr(self._server.eio, "max_http_buffer_size", 1_000_000))

    def all(self) -> list[str]:
        """Return the session ids of all connections."""
        return list(self._server.eio.sockets)

    def unread(self, eio_sid: str) -> tuple[int, int]:
        """Return how many packets a client has not read, and about how many bytes they have."""
        connection = self._server.eio.sockets.get(eio_sid)
        if connection is None or not connection.queue.qsize():
            return 0, 0
        packets = packets_in(connection.queue) or []
        return int(connection.queue.qsize()), sum(_length_of(packet) for packet in packets)

    def has_entered(self, eio_sid: str, namespace: str) -> bool:
        """Tell whether a connection is in a namespace, and not only about to be let in, or out."""
        manager = self._server.manager
        return bool(manager.is_connected(manager.sid_from_eio_sid(eio_sid, namespace), namespace))

    def present(self) -> set[str]:
        """Return the connections that are in any namespace."""
        manager = self._server.manager
        return {
            eio_sid
            for namespace in list(manager.get_namespaces())
            for sid, eio_sid in manager.get_participants(namespace, None)
            if manager.is_connected(sid, namespace)
        }

    def awaits_attachment(self, eio_sid: str) -> bool:
        """Tell whether python-socketio has an event of a connection whose attachments have not all come."""
        return eio_sid in getattr(self._server, "_binary_packet", ())

    def refuse(self, eio_sid: str, namespace: str) -> None:
        """Discard what waits for a client, and let its connection end with the reason; from its reader's thread."""
        connection = self._server.eio.sockets.get(eio_sid)
        if connection is None:
            return
        self.discard(eio_sid)
        getattr(self._server, "_binary_packet", {}).pop(eio_sid, None)
        prefix = "" if namespace == "/" else f"{namespace},"
        entered = self.has_entered(eio_sid, namespace)
        data = ["error", TOO_MUCH] if entered else {"message": TOO_MUCH["message"], "data": TOO_MUCH}
        packet = Packet(MESSAGE, data=f"{'2' if entered else '4'}{prefix}{json.dumps(data)}")
        for item in (packet, None):
            connection.queue.put_nowait(item)

    def has_stuck(self) -> bool:
        """Tell whether a WebSocket is open of which the connection is closed: its client does not read."""
        return any(connection.closed for _, connection in list(self._websockets.values()))

    def cut_stuck(self) -> None:
        """Cut the WebSockets that are open although their connections have been closed for a while."""
        now = time.monotonic()
        for eio_sid, (environ, connection) in list(self._websockets.items()):
            if connection.closed and self._closed_at.setdefault(eio_sid, now) < now - CLOSING:
                self._websockets.pop(eio_sid, None)
                self._closed_at.pop(eio_sid, None)
                _emptied(connection.queue, self._queue_empty())
                self.cut(environ)

    def __contains__(self, eio_sid: object) -> bool:
        return eio_sid in self._server.eio.sockets

    def are_open(self) -> bool:
        """Tell whether any connection is open; a server of threads lists closed ones for a while."""
        return any(not connection.closed for connection in list(self._server.eio.sockets.values()))

    def waiting(self, eio_sid: str) -> int:
        """Return how many packets a client has not read; 0 of one that has gone."""
        connection = self._server.eio.sockets.get(eio_sid)
        return 0 if connection is None else int(connection.queue.qsize())

    def discard(self, eio_sid: str) -> int:
        """Discard the packets that a client has not read, and return how many there were."""
        connection = self._server.eio.sockets.get(eio_sid)
        return 0 if connection is None else _emptied(connection.queue, self._queue_empty())

    def _queue_empty(self) -> type[Exception]:
        if is_asyncio(self._server):
            return asyncio.QueueEmpty
        empty: type[Exception] = self._server.eio.get_queue_empty_exception()
        return empty

    def answer_poll(self, eio_sid: str) -> None:
        """Answer a poll that waits with nothing, after which its client polls again."""
        connection = self._server.eio.sockets.get(eio_sid)
        if connection is not None and not connection.closed:
            connection.queue.put_nowait(Packet(NOOP))

    def close(self, eio_sid: str) -> Any:
        """Close a connection with a word to its client; on an asyncio server, return what has to be awaited."""
        connection = self._server.eio.sockets.get(eio_sid)
        return None if connection is None else connection.close(wait=False)

    def abort(self, eio_sid: str) -> Iterator[Step]:
        """Yield the steps that end a connection without a word to its client, once what waits has been read."""
        connection = self._server.eio.sockets.get(eio_sid)
        if connection is None:
            return
        yield functools.partial(connection.close, wait=False, abort=True)
        if is_asyncio(self._server):
            connection.queue.put_nowait(None)  # ends the writer; the other servers' ``close`` does so itself

    def stop_reading(self, eio_sid: str) -> None:
        """End a WebSocket at once, unless something is being written to it; asyncio servers end it when it is cut."""
        environ, _ = self._websockets.get(eio_sid, (None, None))
        if environ is not None and "asgi.scope" not in environ:
            _shut_reading(environ)

    def drop(self, eio_sid: str) -> None:
        """End a connection for good, and do not wait for Engine.IO to notice, which takes up to 20 seconds."""
        environ, _ = self._websockets.get(eio_sid, (None, None))
        if environ is not None:
            self.cut(environ)
        self._server.eio.sockets.pop(eio_sid, None)

    def cut(self, environ: dict[str, Any]) -> bool:
        """End a WebSocket to which somebody may be writing in vain, and would for as long as the client lives.

        Seen in uvicorn 0.54, Werkzeug 3.1, gunicorn 27, eventlet 0.41 and gevent 26.9. On another server the connection
        stays until Engine.IO's own time-out, and a line is logged.

        Args:
            environ: The request that it came with.

        Returns:
            Whether the request led to a connection.
        """
        with self._log.suppressing(
            "cannot cut the connection of a slow client, so it stays for now; it ends by Engine.IO's time-out"
        ):
            transport = transport_of(environ)
            if transport is not None:
                transport.abort()
                return True
            connection = _socket_of(environ)
            if connection is not None:
                with contextlib.suppress(OSError):  # it has been closed by now
                    connection.shutdown(socket.SHUT_RDWR)
                return True
            self._log.warning(
                "this web server (%s) shows no socket of its requests, so WebSockets of slow clients end only by "
                "Engine.IO's time-out; serve with one that docs/compatibility.md names",
                environ.get("SERVER_SOFTWARE", "of unknown name"),
            )
        return False


def _handle_whole(handle: Callable[[Any], Any], websocket: Any) -> Any:
    """Handle a WebSocket whose frames are sent as wholes, and past which events are written where that is possible."""
    server: Any = getattr(websocket, "ws", None)  # simple-websocket's, if that is used
    if type(getattr(server, "sock", None)).__module__.startswith("gevent."):  # it is not metered
        server.sock = WholeSocket(server.sock)
    with lined(getattr(handle, "__self__", None), websocket) as ours:
        return handle(ours)


class ClientBacklogs:
    """The clients of a server, and the packets that wait for each in its Engine.IO socket.

    Engine.IO keeps what a client has not read in ``server.eio.sockets[eio_sid].queue``, without a bound, and does not
    say how much that is.

    Args:
        manager: The server's client manager; its server may be attached later.
        namespace: The namespace of the projects.
    """

    def __init__(self, manager: Any, namespace: str) -> None:
        self._manager = manager
        self._namespace = namespace
        self._log = RateLimitedLogger(logger)

    def participants(self, namespace: str, room: str | None) -> list[tuple[str, str]]:
        """Return the session id, and that of the Engine.IO socket, of each client in a room; of all when None."""
        return list(self._manager.get_participants(namespace, room))

    def eio_sid_of(self, sid: str) -> str | None:
        """Return the id of a client's Engine.IO socket; None if the client is gone."""
        return self._manager.eio_sid_from_sid(sid, self._namespace)  # type: ignore[no-any-return]

    def is_in_room(self, sid: str, namespace: str, room: str) -> bool:
        """Return whether a client is in a room."""
        return sid in self._manager.rooms.get(namespace, {}).get(room, ())

    def members(self) -> list[tuple[str, str]]:
        """Return which clients are in the room of which project, by session id and project id."""
        rooms = self._manager.rooms.get(self._namespace, {})
        projects = [(room, project_id) for room in list(rooms) if (project_id := project_of_room(room)) is not None]
        return [(sid, project_id) for room, project_id in projects for sid in list(rooms.get(room, ()))]

    def is_open(self, eio_sid: str) -> bool:
        """Return whether an Engine.IO socket is there."""
        return self._socket(eio_sid) is not None

    def packets_waiting(self, eio_sid: str) -> int:
        """Return how many packets a client has not read; 0 for one that is gone."""
        held = self._socket(eio_sid)
        return 0 if held is None else int(held.queue.qsize())

    def backlog(self, eio_sid: str | None) -> tuple[int, int]:
        """Return how many packets a client has not read, and about how many bytes they have."""
        held = self._socket(eio_sid)
        if held is None or not held.queue.qsize():
            return 0, 0
        return int(held.queue.qsize()), sum(_length_of(packet) for packet in self._packets_in(held.queue))

    def close(self, eio_sid: str) -> Any:
        """Close a client's Engine.IO socket without a farewell; returns a coroutine on an asyncio server."""
        held = self._socket(eio_sid)
        return None if held is None else held.close(wait=False, abort=True)

    def _packets_in(self, queue: Any) -> list[Any]:
        packets = packets_in(queue)
        if packets is None:
            self._log.warning(
                "the bytes that wait for slow clients cannot be counted, so only the packets limit what waits; "
                "install a version that celery-realtime's metadata names: %s",
                type(queue),
            )
        return packets or []

    def _socket(self, eio_sid: str | None) -> Any:
        return self._manager.server.eio.sockets.get(eio_sid)


def packets_in(queue: Any) -> list[Any] | None:
    """Return the packets in a queue, which no kind of queue does in public; None where that is not possible.

    To count them when they are put, Engine.IO's ``send_packet`` would have to be replaced, and what has been read
    since would have to be guessed. :class:`queue.Queue` and those of eventlet and gevent have ``queue``, an
    :class:`asyncio.Queue` has ``_queue`` (Python 3.10 to 3.14); both are a deque. Without either only the packets
    are counted, so that a few very long ones are not noticed, and a line is logged.
    """
    packets = getattr(queue, "queue", None)
    if packets is None:
        packets = getattr(queue, "_queue", None)
    return None if packets is None else list(packets)


def _length_of(packet: Any) -> int:
    data = getattr(packet, "data", None)  # the end of a queue is None
    return len(data) if isinstance(data, (str, bytes, bytearray)) else 0


def _within(
    scope: Callable[..., contextlib.AbstractContextManager[None]], theirs: Callable[..., Any], *, is_asyncio: bool
) -> Callable[..., Any]:
    """Call a function inside a context that is made from its arguments."""

    def call(*args: Any) -> Any:
        with scope(*args):
            return theirs(*args)

    async def call_async(*args: Any) -> Any:
        with scope(*args):
            return await theirs(*args)

    return call_async if is_asyncio else call


# -- web servers --------------------------------------------------------------------------------------------------


def send_at_once(environ: dict[str, Any]) -> None:
    """Have what answers a request send each part as it comes: eventlet collects 4 kB (seen in 0.41)."""
    if "eventlet.input" in environ:
        environ["eventlet.minimum_write_chunk_size"] = 0


def _socket_of(environ: dict[str, Any]) -> Any:
    """Return the socket of a WSGI server's connection, from where simple-websocket takes it, too."""
    for name in ("werkzeug.socket", "gunicorn.socket"):
        if name in environ:
            return environ[name]
    if "eventlet.input" in environ:
        return environ["eventlet.input"].get_socket()
    body = environ.get("wsgi.input")
    raw = getattr(body, "raw", None) or getattr(getattr(body, "rfile", None), "raw", None)
    return getattr(raw, "_sock", None)  # gevent
