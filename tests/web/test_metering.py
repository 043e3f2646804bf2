"""What web servers hand over is counted where they do; how each is bounded for real is seen in tests/attacks."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, Request, TextMessage

from celery_realtime.settings import Settings
from celery_realtime.web import metering
from celery_realtime.web.budgets import Allowance, Budget
from celery_realtime.web.metering import (
    BUDGET_KEY,
    MeteredFrames,
    MeteredSocket,
    MeteredWebSocket,
    budget_of,
    metered_upgrade,
)
from celery_realtime.web.sessions import Limits
from celery_realtime.web.shares import AsyncShares, Shares
from tests.attacks.raw import CONTINUATION, TEXT, frame

LIMITS = Limits.of(Settings())


@pytest.fixture
def budget() -> Budget:
    return Budget(Allowance.before_token(LIMITS), "peer", lambda _: None)


def test_the_budget_of_a_request_is_found_in_wsgi_and_in_asgi(budget: Budget) -> None:
    assert budget_of({BUDGET_KEY: budget}) is budget
    assert budget_of({"asgi.scope": {BUDGET_KEY: budget}}) is budget
    assert budget_of({}) is None
    assert budget_of({"asgi.scope": {}}) is None


# -- what Engine.IO reads --------------------------------------------------------------------------------------------


class Socket:
    """A WebSocket as Engine.IO has it, with these messages in it."""

    max_colour = "green"

    def __init__(self, *messages: Any) -> None:
        self._messages = deque(messages)

    def wait(self) -> Any:
        return self._messages.popleft()


class AsyncSocket(Socket):
    async def wait(self) -> Any:
        return super().wait()


@pytest.mark.parametrize("packet", ["", "hello", "0open", "7", "é", 5 * "x"])
def test_what_is_no_packet_looks_like_the_end(budget: Budget, packet: str) -> None:
    websocket = MeteredWebSocket(Socket("40", packet, "40"), budget, shares=Shares())
    assert websocket.max_colour == "green"
    assert [websocket.wait() for _ in range(3)] == ["40", None, None]
    assert budget.exceeded


def test_on_an_asyncio_server_it_is_awaited(budget: Budget) -> None:
    async def read() -> list[Any]:
        websocket = MeteredWebSocket(AsyncSocket("40", b"bytes", None), budget, shares=AsyncShares())
        return [await websocket.wait() for _ in range(3)]

    assert asyncio.run(read()) == ["40", b"bytes", None]
    assert budget.exceeded is None


def test_a_packet_that_is_too_long_is_not_handed_over(budget: Budget) -> None:
    websocket = MeteredWebSocket(Socket("4" + "x" * budget.max_message), budget, shares=Shares())
    assert websocket.wait() is None


def test_a_request_without_a_budget_is_served_as_it_was() -> None:
    made = []

    def theirs(handler: Any, server: Any) -> Any:
        made.append((handler, server))
        return lambda environ: environ

    environ = {"HTTP_SEC_WEBSOCKET_EXTENSIONS": "permessage-deflate"}
    assert metered_upgrade(theirs, print)("handler", "server")(environ) is environ  # type: ignore[arg-type]
    assert made == [("handler", "server")]
    assert environ


# -- sockets ---------------------------------------------------------------------------------------------------------


def test_no_more_is_read_from_a_socket_than_is_allowed(budget: Budget) -> None:
    here, there = socket.socketpair()
    waited: list[int] = []
    metered = MeteredSocket(here, budget, lambda: waited.append(1))
    assert metered.fileno() == here.fileno()

    def read() -> int:
        there.sendall(bytes(60_000))
        return len(metered.recv(60_000))

    with pytest.raises(OSError, match="more than it may"):
        sum(read() for _ in range(100))
    assert waited
    here.close()
    there.close()


# -- wsproto ---------------------------------------------------------------------------------------------------------


def accepted() -> WSConnection:
    client, server = WSConnection(ConnectionType.CLIENT), WSConnection(ConnectionType.SERVER)
    server.receive_data(client.send(Request(host="x", target="/")))
    assert list(server.events())
    server.send(AcceptConnection())
    return server


def fragments(metered: MeteredFrames, data: bytes) -> Iterator[TextMessage]:
    metered.receive_data(data)
    for event in metered.events():
        assert isinstance(event, TextMessage)
        yield event


def test_a_message_in_many_fragments_is_counted_whole(budget: Budget) -> None:
    metered = MeteredFrames(accepted(), budget)
    half = budget.max_message // 2
    for _ in range(2):  # the sum begins anew with each message
        first = fragments(metered, frame(TEXT, b"x" * half, fin=False))
        assert sum(len(event.data) for event in first) == half
        last = fragments(metered, frame(CONTINUATION, b"x" * half))
        assert sum(len(event.data) for event in last) == half
    assert list(fragments(metered, frame(TEXT, b"x" * half, fin=False)))
    assert list(fragments(metered, frame(CONTINUATION, b"x" * (half + 1), fin=False))) == []
    assert budget.exceeded
    assert list(fragments(metered, frame(CONTINUATION, b"x"))) == []


def test_frames_are_counted_and_bytes_where_nobody_else_does(budget: Budget) -> None:
    metered = MeteredFrames(accepted(), budget, counts_bytes=True)
    assert list(fragments(metered, frame(TEXT, b"x", fin=False)))
    assert len(list(fragments(metered, frame(CONTINUATION, b"", fin=False) * 5000))) < 1000
    assert budget.exceeded == "frames a second"

    other = Budget(Allowance.before_token(LIMITS), "peer", lambda _: None)
    metered = MeteredFrames(accepted(), other, counts_bytes=True)
    metered.receive_data(bytes(10_000_000))
    assert other.exceeded == "bytes a second"
    assert metered.state


# -- ASGI servers ----------------------------------------------------------------------------------------------------


class Protocol:
    """The bound methods of a request lead to it, as to one of uvicorn's or hypercorn's."""

    def __init__(self, **parts: Any) -> None:
        self.__dict__.update(parts)

    async def send(self, _message: Any) -> None: ...


def upgraded(protocol: Protocol, budget: Budget) -> None:
    """Let a WebSocket of such a protocol be accepted."""

    async def wait() -> None: ...

    def theirs(handler: Any, _server: Any) -> Any:
        return lambda _environ: handler(SimpleNamespace(wait=wait))

    environ = {"asgi.send": protocol.send, "asgi.scope": {BUDGET_KEY: budget}}
    respond = metered_upgrade(theirs, print)(lambda websocket: websocket.wait(), None)
    assert asyncio.run(respond(environ)) is None


def test_uvicorn_with_wsproto_is_bounded_without_changing_other_connections(budget: Budget) -> None:
    config = SimpleNamespace(ws_per_message_deflate=True)
    protocol = Protocol(conn=WSConnection(ConnectionType.SERVER), config=config)
    upgraded(protocol, budget)
    assert isinstance(protocol.conn, MeteredFrames)
    assert not protocol.config.ws_per_message_deflate
    assert config.ws_per_message_deflate


@pytest.mark.parametrize(("longest", "size"), [("max_message_size", "current_size"), ("max_size", "cur_size")])
def test_uvicorn_with_websockets_is_bounded(budget: Budget, longest: str, size: str) -> None:
    received: list[bytes] = []
    connection = SimpleNamespace(
        **{longest: 1 << 24, size: None},
        events=received,
        reader=SimpleNamespace(buffer=b""),
        extensions=["deflate"],
        receive_data=received.append,
        events_received=lambda: range(5000),
    )
    response = SimpleNamespace(headers={"Sec-WebSocket-Extensions": "permessage-deflate"})
    upgraded(Protocol(conn=connection, response=response), budget)
    assert (connection.extensions, response.headers) == ([], {})
    assert getattr(connection, longest) == budget.max_message
    budget.admit(Allowance.after_token(LIMITS, 1_000_000))
    assert getattr(connection, longest) == 1_000_000
    connection.receive_data(b"x")
    connection.receive_data(bytes(10**9))
    assert received == [b"x"]
    assert list(connection.events_received()) == []


def test_frames_are_counted_of_websockets_too(budget: Budget) -> None:
    frames: list[bytes] = []
    connection = SimpleNamespace(
        max_message_size=1,
        reader=SimpleNamespace(buffer=b""),
        events=frames,
        receive_data=frames.append,
        events_received=lambda: frames,
    )
    upgraded(Protocol(conn=connection), budget)
    connection.receive_data(b"x")
    assert list(connection.events_received()) == [b"x"]
    for _ in range(1000):
        connection.receive_data(b"x")
    assert budget.exceeded == "frames a second"
    assert len(frames) < 1000
    assert list(connection.events_received()) == []


def test_uvicorn_with_websockets_of_old_is_bounded(budget: Budget) -> None:
    protocol = Protocol(max_size=1 << 24, available_extensions=["deflate"])
    upgraded(protocol, budget)
    assert (protocol.max_size, protocol.available_extensions) == (budget.max_message, None)


def test_hypercorn_is_bounded(budget: Budget) -> None:
    handshake = SimpleNamespace(extensions=["permessage-deflate"])
    protocol = Protocol(handshake=handshake, app_put=print, connection=WSConnection(ConnectionType.SERVER))
    upgraded(protocol, budget)
    assert handshake.extensions is None
    assert isinstance(protocol.connection, MeteredFrames)


def test_a_server_that_shows_nothing_is_bounded_where_engineio_reads(budget: Budget) -> None:
    async def wait() -> str:
        return "hello"

    def theirs(handler: Any, _server: Any) -> Any:
        async def respond(_environ: dict[str, Any]) -> Any:
            return await handler(SimpleNamespace(wait=wait))

        return respond

    environ = {"asgi.send": Protocol().send, "asgi.scope": {BUDGET_KEY: budget}}
    respond = metered_upgrade(theirs, print)(lambda websocket: websocket.wait(), None)
    assert asyncio.run(respond(environ)) is None
    assert budget.exceeded == "packets that are none of Engine.IO's"


def test_masks_of_eventlet_are_removed_as_by_itself() -> None:
    eventlet = pytest.importorskip("eventlet.websocket")
    data, mask = bytes(range(256)) * 3, (1, 2, 3, 255)
    for offset in (0, 1, 7):
        theirs = eventlet.RFC6455WebSocket._apply_mask(data, mask, length=len(data), offset=offset)
        assert metering._unmasked(data, mask, length=len(data), offset=offset) == theirs
    assert metering._unmasked(b"", mask) == b""
