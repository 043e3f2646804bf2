"""Connections that wait for a request are bounded on servers of asyncio, and those that are answered are not."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pytest

from celery_realtime.web.doors import Waiting
from celery_realtime.web.loop_doors import (
    PROTOCOLS,
    LoopDoors,
    close_protocol,
    close_writer,
    follow_hypercorn,
    follow_uvicorn,
)
from tests.waiting import wait_for

MOST, MOST_AT_ONCE = 3, 12
REQUEST = b"GET /%s HTTP/1.1\r\nHost: x\r\n\r\n"


class Application:
    """Answers at once, or when it may, and echoes over WebSockets."""

    def __init__(self) -> None:
        self.may_answer, self.asked = threading.Event(), 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            while (message := await receive())["type"] == "websocket.receive":
                await send({"type": "websocket.send", "text": message["text"]})
        elif scope["type"] == "http":
            self.asked += 1
            if scope["path"] == "/slow":
                await asyncio.to_thread(self.may_answer.wait, 60)
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
            await send({"type": "http.response.body", "body": b"seen"})


class Server:
    """A server in a thread of its own."""

    def __init__(self, application: Application) -> None:
        self.application = application
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.port = self.listening.getsockname()[1]

    def connect(self, *parts: bytes) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), 60)
        for part in parts:
            connection.sendall(part)
        return connection


@contextlib.contextmanager
def uvicorn_with(name: str) -> Iterator[Server]:
    uvicorn: Any = pytest.importorskip("uvicorn")
    module = pytest.importorskip(name)
    followed: Any = type("Followed", (getattr(module, PROTOCOLS[name]),), {})
    follow_uvicorn(followed, Waiting(MOST, close_protocol, at_once=MOST_AT_ONCE, grace=3600))
    server = Server(Application())
    running = uvicorn.Server(uvicorn.Config(server.application, http=followed, ws="wsproto", lifespan="off"))
    thread = threading.Thread(target=running.run, args=[[server.listening]], daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.application.may_answer.set()
        running.should_exit = running.force_exit = True
        thread.join(60)


@contextlib.contextmanager
def hypercorn_with(_: str) -> Iterator[Server]:
    tcp_server: Any = pytest.importorskip("hypercorn.asyncio.tcp_server")
    run: Any = pytest.importorskip("hypercorn.asyncio.run")
    config: Any = pytest.importorskip("hypercorn.config").Config()
    kind = tcp_server.TCPServer
    theirs = kind.run, kind.protocol_send
    follow_hypercorn(kind, Waiting(MOST, close_writer, at_once=MOST_AT_ONCE, grace=3600))
    server, ended = Server(Application()), threading.Event()
    config.bind = [f"fd://{server.listening.fileno()}"]

    serving = run.worker_serve(
        wrapped(server.application), config, shutdown_trigger=lambda: asyncio.to_thread(ended.wait, 600)
    )
    thread = threading.Thread(target=asyncio.run, args=[serving], daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.application.may_answer.set()
        ended.set()
        thread.join(60)
        kind.run, kind.protocol_send = theirs
        del kind.waiting_connections


def wrapped(application: Application) -> Any:
    return pytest.importorskip("hypercorn.utils").wrap_app(application, 1_000_000, "asgi")


@pytest.fixture(params=[*PROTOCOLS, "hypercorn"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    if find_spec(request.param.split(".", maxsplit=1)[0]) is None:
        pytest.skip(f"{request.param} is not installed")
    make = hypercorn_with if request.param == "hypercorn" else uvicorn_with
    with make(request.param) as server:
        yield server


def test_the_oldest_of_too_many_is_closed(server: Server) -> None:
    waiting = [server.connect(*parts) for parts in [(), (b"GET / HT",), (REQUEST % b"", b"GET / HT")] * MOST_AT_ONCE]
    # Which of those that came at once is the oldest is the server's to know.
    wait_for(lambda: sum(1 for connection in waiting if has_ended(connection)) >= len(waiting) - MOST_AT_ONCE)
    with server.connect(REQUEST % b"") as client:
        assert client.recv(12) == b"HTTP/1.1 200"
    for connection in waiting:
        connection.close()


def has_ended(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        while connection.recv(4096):
            pass
    except BlockingIOError:
        return False
    except ConnectionError:
        pass
    return True


def test_what_is_answered_is_left_alone(server: Server) -> None:
    """A request that takes long, and WebSockets, however many connections wait for a request meanwhile."""
    upgrade = (
        b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    slow = [server.connect(REQUEST % b"slow") for _ in range(MOST + 1)]
    wait_for(lambda: server.application.asked == len(slow))
    sockets = [server.connect(upgrade) for _ in range(MOST + 1)]
    for connection in sockets:
        assert b"101" in connection.recv(4096)
    waiting = [server.connect(b"GET / HT") for _ in range(2 * MOST_AT_ONCE)]
    wait_for(lambda: sum(1 for connection in waiting if has_ended(connection)) >= MOST_AT_ONCE)
    server.application.may_answer.set()
    for connection in slow:
        assert connection.recv(12) == b"HTTP/1.1 200"
    for connection in sockets:
        connection.sendall(b"\x81\x82\0\0\0\0hi")
        assert connection.recv(4) == b"\x81\x02hi"
    for connection in [*slow, *sockets, *waiting]:
        connection.close()


def test_servers_that_are_not_loaded_are_none() -> None:
    doors = LoopDoors()
    doors.install()
    doors.install()
