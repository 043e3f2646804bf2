"""One client's events reach all of its subscriptions, and it is never left disconnected."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gc
import hashlib
import socket
import threading
import weakref
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import socketio

from celery_realtime.client import AsyncProjectSubscription, ProjectSubscription
from celery_realtime.client.hub import CHECK_INTERVAL, LONGEST_LEAVING, ClientHub, ReconnectionGuard, hub_of
from celery_realtime.client.seams import FINAL_DISCONNECT
from tests.attacks.raw import CLOSE, TEXT
from tests.waiting import wait_for
from tests.web_servers import Web

REFUSAL = {"code": "unauthorized", "message": "no"}


class Subscriber:
    """Records what a hub passes on to it."""

    def __init__(self, project_id: str | None = "p", namespace: str = "/") -> None:
        self.topic = ("project", project_id)
        self.namespace = namespace
        self.calls: list[Any] = []

    def connected(self) -> None:
        self.calls.append("connected")

    def disconnected(self) -> None:
        self.calls.append("disconnected")

    def refused(self, error: dict[str, Any]) -> None:
        self.calls.append(error)

    def heard(self, name: str, data: Any) -> None:
        self.calls.append((name, data))


class Client:
    """All of a client of python-socketio that a hub needs."""

    def __init__(self, *namespaces: str) -> None:
        self.namespaces = dict.fromkeys(namespaces, "sid")
        self.reconnection = True
        self.connected = True
        self.eio = SimpleNamespace(state="connected")
        self.reason = socketio.Client.reason
        self.reconnections = 0
        self._reconnect_task: Any = None

    def _trigger_event(self, event: str, namespace: str, *args: Any) -> Any:
        return f"handled {event}"

    def trigger(self, event: str, namespace: str | None, *args: Any) -> Any:
        return self._trigger_event(event, namespace, *args)  # type: ignore[arg-type]

    def start_background_task(self, target: Any) -> Any:
        target()

    def _handle_reconnect(self) -> None:
        self.reconnections += 1


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def made(client: Client, clock: Clock | None = None) -> ClientHub:
    clock = clock or Clock()
    hub = ClientHub(ReconnectionGuard(clock), clock)
    hub.observe(client)
    return hub


def test_events_reach_all_subscribers_of_their_namespace() -> None:
    client = Client()
    first, second, other = Subscriber(), Subscriber("q"), Subscriber(namespace="/other")
    hub = made(client)
    for subscriber in (first, second, other):
        hub.add(subscriber)
    assert client.trigger("step", "/", 1) == "handled step"
    client.trigger("connect", None)
    client.trigger("two", "/", 1, 2)
    client.trigger("none", "/")
    client.trigger("connect_error", "/", {"message": "no", "data": REFUSAL})
    client.trigger("connect_error", "/", "no route to host")
    client.trigger("disconnect", "/", "transport close")
    client.trigger(FINAL_DISCONNECT, "/")
    expected = [("step", 1), "connected", ("two", [1, 2]), ("none", None), REFUSAL, "disconnected"]
    assert first.calls == second.calls == expected
    assert other.calls == []


def test_the_last_subscriber_of_a_project_is_known_by_its_namespace() -> None:
    hub = made(Client())
    first, second, other = Subscriber(), Subscriber(), Subscriber(namespace="/other")
    for subscriber in (first, second, other):
        hub.add(subscriber)
    assert not hub.remove(first)
    assert hub.remove(second)
    assert hub.remove(other)


def leaving(hub: ClientHub, subscriber: Subscriber) -> Any:
    """Have a subscriber leave, and return what tells the hub that the server has confirmed it."""
    left = hub.remove(subscriber)
    assert left is not None
    return left


def test_who_subscribes_at_once_after_leaving_waits_until_the_server_has_confirmed_that() -> None:
    hub = made(Client())
    first, again, another = Subscriber(), Subscriber(), Subscriber("q")
    assert hub.add(first)
    left = leaving(hub, first)
    assert not hub.add(again)
    assert hub.add(another)
    assert again.calls == []
    left({"ok": True})
    assert (again.calls, another.calls) == (["connected"], [])
    assert hub.add(Subscriber())


def test_a_late_confirmation_acts_on_nobody_who_has_subscribed_since() -> None:
    client, clock = Client("/"), Clock()
    hub = made(client, clock)
    first, second, third = Subscriber(), Subscriber(), Subscriber()
    hub.add(first)
    left_first = leaving(hub, first)
    assert not hub.add(second)
    clock.now += LONGEST_LEAVING
    hub.check(client)
    assert second.calls == ["connected"]  # it waits no longer
    left_second = leaving(hub, second)
    assert not hub.add(third)
    left_first()
    assert third.calls == []
    left_second()
    assert third.calls == ["connected"]
    left_first()
    left_second()
    assert third.calls == ["connected"]


def test_over_another_connection_nothing_is_left_to_wait_for() -> None:
    client = Client("/")
    hub = made(client)
    first, second = Subscriber(), Subscriber()
    hub.add(first)
    left = leaving(hub, first)
    assert not hub.add(second)
    client.trigger("disconnect", "/", "transport close")
    client.trigger("connect", "/")
    assert second.calls == ["disconnected", "connected"]
    left()
    assert second.calls == ["disconnected", "connected"]
    assert hub.add(Subscriber())


def test_a_job_of_a_project_that_is_not_known_yet_may_be_any_of_its_id() -> None:
    hub = made(Client())
    known, unknown, other = Subscriber("p"), Subscriber(None), Subscriber("q")
    for subscriber in (known, unknown, other):
        hub.add(subscriber)
    assert hub.remove(known) is None
    unknown.topic = ("project", "p")
    assert hub.remove(other) is not None
    assert hub.remove(unknown) is not None


def test_a_client_has_one_hub_that_ends_with_it() -> None:
    client = Client()
    hub = weakref.ref(hub_of(client))
    assert hub_of(client) is hub()
    assert hub_of(Client()) is not hub()
    del client
    gc.collect()
    assert hub() is None


def stranded(client: Client) -> Client:
    client.eio.state = "disconnected"
    return client


def test_a_client_that_stays_disconnected_is_made_to_reconnect_once() -> None:
    client, clock, subscriber = Client("/"), Clock(), Subscriber()
    hub = made(client, clock)
    hub.add(subscriber)
    hub.check(stranded(client))
    assert client.reconnections == 0
    clock.now += CHECK_INTERVAL
    hub.check(client)
    hub.check(client)
    assert client.reconnections == 1
    assert subscriber.calls == ["disconnected"]
    assert (client.connected, client.namespaces) == (False, {})


def alive() -> SimpleNamespace:
    return SimpleNamespace(is_alive=lambda: True)


@pytest.mark.parametrize(
    "change",
    [
        lambda client: client.trigger(FINAL_DISCONNECT, "/"),
        lambda client: setattr(client, "reconnection", False),
        lambda client: setattr(client, "_reconnect_task", alive()),
        lambda client: setattr(client.eio, "state", "connecting"),
    ],
    ids=["ended for good", "not to reconnect", "reconnecting", "connecting"],
)
def test_a_client_that_needs_no_help_is_left_alone(change: Any) -> None:
    client, clock = Client("/"), Clock()
    hub = made(client, clock)
    change(stranded(client))
    for _ in range(3):
        hub.check(client)
        clock.now += CHECK_INTERVAL
    assert client.reconnections == 0


@pytest.mark.parametrize(("state", "reconnections"), [("disconnecting", 1), ("connected", 0)])
def test_a_client_whose_connection_the_server_closes_reconnects_and_one_that_is_sent_away_does_not(
    state: str, reconnections: int
) -> None:
    client, clock = Client("/"), Clock()
    hub = made(client, clock)
    client.eio.state = state
    client.trigger("disconnect", "/", client.reason.SERVER_DISCONNECT)
    client.trigger(FINAL_DISCONNECT, "/")
    for _ in range(2):
        hub.check(stranded(client))
        clock.now += CHECK_INTERVAL
    assert client.reconnections == reconnections
    client.trigger("connect", "/")
    client.trigger("disconnect", "/", client.reason.CLIENT_DISCONNECT)
    client.trigger(FINAL_DISCONNECT, "/")
    for _ in range(3):
        hub.check(stranded(client))
        clock.now += CHECK_INTERVAL
    assert client.reconnections == reconnections


def test_a_client_that_was_never_connected_is_left_alone() -> None:
    client, clock = Client(), Clock()
    hub = made(client, clock)
    hub.check(stranded(client))
    clock.now += CHECK_INTERVAL
    hub.check(client)
    assert client.reconnections == 0


# -- a real server ------------------------------------------------------------------------------------------------


@pytest.fixture
def web(redis_url: str) -> Iterator[Web]:
    web = Web("asgi", redis_url, history_url=redis_url).attach().start()
    yield web
    web.stop()


class Unlucky(socketio.Client):  # type: ignore[misc]
    """Loses its second connection before the task that made it has noticed that it is there."""

    times = 0

    def connect(self, *args: Any, **options: Any) -> None:
        super().connect(*args, **options)
        self.times += 1
        if self.times == 2:
            self.eio.ws.sock.shutdown(socket.SHUT_RDWR)
            wait_for(lambda: self.eio.state == "disconnected")
            self.connected = True  # a disconnection that comes earlier still is reported to nobody


def test_a_client_that_python_socketio_left_disconnected_reconnects(web: Web) -> None:
    client = Unlucky(reconnection_delay=0.05, reconnection_delay_max=0.2)
    with ProjectSubscription(client, "alpha") as project, ProjectSubscription(client, "alpha") as other:
        client.connect(web.url, auth={"token": web.token()}, transports=["websocket"])
        assert project.wait_for(lambda feed: feed.state == "subscribed")
        client.eio.ws.sock.shutdown(socket.SHUT_RDWR)
        wait_for(lambda: client.times == 3)
        for subscription in (project, other):
            assert subscription.wait_for(lambda feed: feed.state == "subscribed")
        client.disconnect()


class AsyncUnlucky(socketio.AsyncClient):  # type: ignore[misc]
    """Is to :class:`Unlucky` as its base is to that one's."""

    times = 0

    async def connect(self, *args: Any, **options: Any) -> None:
        await super().connect(*args, **options)
        self.times += 1
        if self.times == 2:
            await self.eio.ws.close()
            await asyncio.to_thread(wait_for, lambda: self.eio.state == "disconnected")


def test_a_client_in_an_event_loop_reconnects_too(web: Web) -> None:
    async def follow() -> None:
        client = AsyncUnlucky(reconnection_delay=0.05, reconnection_delay_max=0.2)
        project = AsyncProjectSubscription(client, "alpha")
        await client.connect(web.url, auth={"token": web.token()}, transports=["websocket"])
        await asyncio.to_thread(wait_for, lambda: project.feed.state == "subscribed")
        await client.eio.ws.close()
        await asyncio.to_thread(wait_for, lambda: client.times == 3 and project.feed.state == "subscribed")
        await project.close()
        await client.shutdown()

    asyncio.run(follow())


def close_all(web: Web) -> None:
    """Close each connection by a packet of Engine.IO, as the server does to those that show no token."""
    assert web.loop is not None
    for connection in list(web.server.eio.sockets.values()):
        asyncio.run_coroutine_threadsafe(connection.close(wait=False), web.loop).result(60)


def test_a_client_reconnects_whose_connection_the_server_has_closed(web: Web) -> None:
    client = socketio.Client(reconnection_delay=0.05, reconnection_delay_max=0.2)
    with ProjectSubscription(client, "alpha") as project:
        client.connect(web.url, auth={"token": web.token()}, transports=["websocket"], wait_timeout=60)
        assert project.wait_for(lambda feed: feed.state == "subscribed")
        close_all(web)
        assert project.wait_for(lambda feed: feed.state == "stale")
        assert project.wait_for(lambda feed: feed.state == "subscribed")
        client.disconnect()


def test_a_client_in_an_event_loop_reconnects_whose_connection_the_server_has_closed(web: Web) -> None:
    async def follow() -> None:
        client = socketio.AsyncClient(reconnection_delay=0.05, reconnection_delay_max=0.2)
        project = AsyncProjectSubscription(client, "alpha")
        await client.connect(web.url, auth={"token": web.token()}, transports=["websocket"], wait_timeout=60)
        await asyncio.to_thread(wait_for, lambda: project.feed.state == "subscribed")
        await asyncio.to_thread(close_all, web)
        await asyncio.to_thread(wait_for, lambda: project.feed.state == "stale")
        await asyncio.to_thread(wait_for, lambda: project.feed.state == "subscribed")
        await project.close()
        await client.shutdown()

    asyncio.run(follow())


class Closing:
    """A server of WebSockets, which closes the first when it is told to, but not the connection beneath it."""

    def __init__(self) -> None:
        self.closes = threading.Event()
        self.connections = 0
        self._sockets: list[socket.socket] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):  # the test is over
            while True:
                connection, _ = self._listening.accept()
                self._sockets.append(connection)
                self.connections += 1
                threading.Thread(target=self._handle, args=(connection, self.connections), daemon=True).start()

    def _handle(self, connection: socket.socket, number: int) -> None:
        with connection, contextlib.suppress(OSError):
            head = connection.recv(65536)
            if not head:  # the client has gone before it has said anything
                return
            key = next(line[19:] for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key: "))
            accept = base64.b64encode(hashlib.sha1(key + GUID, usedforsecurity=False).digest())
            connection.sendall(b"HTTP/1.1 101 Yes\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n")
            connection.sendall(b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n")
            connection.sendall(
                server_frame(TEXT, b'0{"sid":"s","upgrades":[],"pingInterval":25000,"pingTimeout":20000}')
            )
            connection.recv(65536)
            connection.sendall(server_frame(TEXT, b'40{"sid":"s"}'))
            if number == 1 and self.closes.wait(20):
                connection.sendall(server_frame(CLOSE, b"\x03\xe8"))
            while connection.recv(65536):
                pass

    def close(self) -> None:
        """End all connections: a client that leaves waits for that."""
        self._listening.close()
        for connection in self._sockets:
            with contextlib.suppress(OSError):  # it has ended
                connection.shutdown(socket.SHUT_RDWR)


GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def server_frame(opcode: int, payload: bytes) -> bytes:
    return bytes([0x80 | opcode, len(payload)]) + payload


def test_a_client_notices_that_its_connection_has_ended_while_it_was_sending() -> None:
    """python-engineio's own notices it after 30 seconds: its writing task gets the end with a packet, and goes on."""
    server = Closing()
    client = socketio.Client(reconnection_delay=0.05, reconnection_delay_max=0.2, randomization_factor=0)
    with ProjectSubscription(client, "alpha", ack_timeout=60):
        client.connect(server.url, transports=["websocket"], wait_timeout=60)
        websocket = client.eio.ws
        send, begun, sends = websocket.send, threading.Event(), threading.Event()

        def send_slowly(data: Any) -> Any:
            begun.set()
            assert sends.wait(60)
            return send(data)

        websocket.send = send_slowly
        client.emit("first")
        assert begun.wait(60)
        client.emit("second")
        server.closes.set()
        wait_for(lambda: None in client.eio.queue.queue)
        sends.set()
        wait_for(lambda: server.connections > 1)
    server.close()
    client.disconnect()
