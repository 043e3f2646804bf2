"""The client managers of servers: whole when constructed, and emitting what the channel says to the right clients."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest
import socketio

from celery_realtime.channel.kombu_manager import RealtimeKombuManager
from celery_realtime.events import Outgoing
from celery_realtime.history.store import Snapshot
from celery_realtime.sending.filtering import EventFilter
from celery_realtime.web import client_manager as module
from celery_realtime.web import listening
from celery_realtime.web.delivery import Emit
from tests.channels import Channel, async_client_manager, client_manager, step
from tests.processes import HOST, free_port
from tests.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from celery_realtime.web.client_manager import AsyncRealtimeClientManager, RealtimeClientManager
    from tests.services import Broker

SCHEMES = pytest.mark.parametrize("scheme", ["redis", "amqp"])
WIRES = pytest.mark.parametrize("stock", [False, True], ids=["frames", "stock"])


class Server(socketio.Server):  # type: ignore[misc]
    """A server that records what it sends to the clients of its manager, who have no connection.

    Args:
        manager: Its client manager.
    """

    def __init__(self, manager: RealtimeClientManager) -> None:
        self.sent: list[tuple[str, str]] = []
        super().__init__(client_manager=manager, async_mode="threading")

    def _send_eio_packet(self, eio_sid: str, packet: Any) -> None:
        self.sent.append((eio_sid, packet.data))


class AsyncServer(socketio.AsyncServer):  # type: ignore[misc]
    """The same, with asyncio."""

    def __init__(self, manager: AsyncRealtimeClientManager) -> None:
        self.sent: list[tuple[str, str]] = []
        super().__init__(client_manager=manager, async_mode="asgi")

    async def _send_eio_packet(self, eio_sid: str, packet: Any) -> None:
        self.sent.append((eio_sid, packet.data))


def let_in(manager: Any, *rooms: str) -> None:
    """Let a client without a connection into rooms."""
    manager.basic_enter_room("sid", "/", None, "eio_sid")
    for room in rooms:
        manager.basic_enter_room("sid", "/", room, "eio_sid")


def said(number: int) -> tuple[str, str]:
    """Return the packet of a step."""
    return "eio_sid", f'2["step",{{"number":{number}}}]'


@pytest.fixture
def channel(broker: Broker) -> Iterator[Channel]:
    channel = Channel(broker.url)
    yield channel
    channel.close()


@pytest.fixture
def redis_channel(redis_broker: Broker) -> Iterator[Channel]:
    channel = Channel(redis_broker.url)
    yield channel
    channel.close()


@pytest.fixture
def make_manager(channel: Channel) -> Iterator[Callable[..., RealtimeClientManager]]:
    made: list[RealtimeClientManager] = []

    def make(**options: Any) -> RealtimeClientManager:
        made.append(client_manager(channel.url, **options))
        return made[-1]

    yield make
    for manager in made:
        manager.stop_listening()
    RealtimeKombuManager(channel.url).order({"action": "wake up"})
    for manager in made:
        manager.thread.join(60)
        assert not manager.thread.is_alive()
        manager.close()


# -- construction -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [client_manager, async_client_manager])
def test_a_manager_is_whole_when_it_is_made(make: Callable[..., Any]) -> None:
    def filters(_event: str, _project: str, payload: Any, _audience: str | None) -> Any:
        return payload

    def read(*_: Any) -> Any:
        raise AssertionError("nobody has asked")

    manager = make(
        "memory://",
        audience_filter=EventFilter(filters, by_audience=True),
        read=read,
        namespace="/jobs",
        connection_options={},
    )

    assert manager.namespace == "/jobs"
    assert manager.filters
    assert [loop.name for loop in manager.loops] == ["channel reader", "catch-up from the history"]
    assert not manager.is_hearing
    assert manager.generation == 0
    assert manager.last_heard is None
    assert manager.host_id == manager.speaker.host_id
    assert not manager.write_only


@pytest.mark.parametrize("make", [client_manager, async_client_manager])
def test_without_a_history_and_a_filter_it_has_neither(make: Callable[..., Any]) -> None:
    manager = make("memory://")

    assert not manager.filters
    assert [loop.name for loop in manager.loops] == ["channel reader"]


# -- a synchronous server -----------------------------------------------------------------------------------------


@WIRES
def test_a_server_emits_what_the_channel_says_to_the_clients_of_its_room(
    channel: Channel, make_manager: Callable[..., RealtimeClientManager], stock: bool
) -> None:
    manager = make_manager()
    server = Server(manager)
    let_in(manager, "project:alpha")
    manager.start_listening()
    assert manager.wait_until_listening(60)

    events = [step(1), step(2, "beta"), Outgoing("gamma", "step", b"{}"), step(3)]
    assert channel.publisher(stock=stock).publish_events(events) == 4

    wait_for(lambda: server.sent == [said(1), said(3)])


def test_what_the_server_emits_itself_is_emitted_once_here_and_on_all_others(
    channel: Channel, make_manager: Callable[..., RealtimeClientManager]
) -> None:
    other, manager = channel.recorder(), make_manager()
    server = Server(manager)
    let_in(manager, "project:alpha")
    manager.start_listening()
    assert manager.wait_until_listening(60)

    server.emit("step", {"number": 1}, room="project:alpha")
    channel.publisher().publish_events([step(2)])

    wait_for(lambda: said(2) in server.sent)
    assert server.sent == [said(1), said(2)]
    assert [emit.data["number"] for emit in other.wait_for_count(2)] == [1, 2]


def test_pythonsocketios_own_messages_are_done_as_ever(
    channel: Channel, make_manager: Callable[..., RealtimeClientManager]
) -> None:
    manager = make_manager()
    server = Server(manager)
    let_in(manager)
    manager.start_listening()
    assert manager.wait_until_listening(60)
    publisher = channel.publisher()

    publisher.enter_room("sid", "/", "project:alpha")
    wait_for(lambda: manager.is_occupied("/", "project:alpha"))
    publisher.publish_events([step(1)])
    wait_for(lambda: server.sent == [said(1)])
    publisher.leave_room("sid", "/", "project:alpha")
    wait_for(lambda: not manager.is_occupied("/", "project:alpha"))


def test_an_event_that_cannot_be_emitted_is_logged_and_the_next_ones_are(
    channel: Channel, make_manager: Callable[..., RealtimeClientManager], caplog: pytest.LogCaptureFixture
) -> None:
    def spoil(_event: str, _project: str, payload: Any, _audience: str | None) -> Any:
        return {**payload, "odd": object()} if payload["number"] < 3 else payload

    manager = make_manager(audience_filter=EventFilter(spoil, by_audience=True))
    server = Server(manager)
    let_in(manager, "project:alpha")
    manager.start_listening()
    assert manager.wait_until_listening(60)

    channel.publisher().publish_events([step(1), step(2), step(3)])

    wait_for(lambda: server.sent == [said(3)])
    errors = [record.getMessage() for record in caplog.records if record.name == module.__name__]
    assert len(errors) == 1
    assert "step could not be emitted" in errors[0]


def test_every_observer_gets_an_order_after_the_events_before_it(
    channel: Channel, make_manager: Callable[..., RealtimeClientManager]
) -> None:
    manager = make_manager()
    server = Server(manager)
    let_in(manager, "project:alpha")
    orders: list[tuple[Any, int]] = []
    for _ in range(2):
        manager.on_order(lambda order: orders.append((order["user"], len(server.sent))))
    manager.start_listening()
    assert manager.wait_until_listening(60)

    publisher = channel.publisher()
    publisher.publish_events([step(1)])
    assert publisher.order({"action": "disconnect", "user": "ada"})

    wait_for(lambda: orders == [("ada", 1), ("ada", 1)])


# -- an asyncio server --------------------------------------------------------------------------------------------


async def serve(
    channel: Channel, use: Callable[[AsyncRealtimeClientManager, AsyncServer], Awaitable[Any]], **options: Any
) -> Any:
    """Start a server with a client in the project alpha, use it, and end its threads."""
    manager = async_client_manager(channel.url, **options)
    server = AsyncServer(manager)
    let_in(manager, "project:alpha")
    manager.initialize()
    try:
        assert await manager.wait_until_listening(60)
        return await use(manager, server)
    finally:
        manager.stop_listening()
        await asyncio.to_thread(manager.order, {"action": "wake up"})
        thread = manager.listener_thread
        assert thread is not None
        await asyncio.to_thread(thread.join, 10)
        assert not thread.is_alive()
        manager.close()
        manager.thread.cancel()


async def until(condition: Callable[[], Any], seconds: float = 15.0) -> None:
    """Wait for a condition, and let the event loop run meanwhile."""
    await asyncio.to_thread(wait_for, condition, timeout=seconds)


@WIRES
def test_an_asyncio_server_emits_the_same_in_the_same_order(channel: Channel, stock: bool) -> None:
    async def use(_manager: Any, server: AsyncServer) -> list[tuple[str, str]]:
        publisher = channel.publisher(stock=stock)
        for start in range(0, 300, 10):
            events = [step(number) for number in range(start, start + 10)]
            assert await asyncio.to_thread(publisher.publish_events, [*events, step(start, "beta")]) == 11
        await until(lambda: len(server.sent) >= 300)
        return server.sent

    assert asyncio.run(serve(channel, use)) == [said(number) for number in range(300)]


def test_an_asyncio_manager_emits_to_all_others(channel: Channel) -> None:
    other = channel.recorder()

    async def use(_manager: Any, server: AsyncServer) -> list[tuple[str, str]]:
        await server.emit("step", {"number": 1}, room="project:alpha")
        await asyncio.to_thread(channel.publisher().publish_events, [step(2)])
        await until(lambda: said(2) in server.sent)
        return server.sent

    assert asyncio.run(serve(channel, use)) == [said(1), said(2)]
    assert [emit.data["number"] for emit in other.wait_for_count(2)] == [1, 2]


def test_what_an_order_schedules_on_the_loop_goes_before_the_next_event(redis_channel: Channel) -> None:
    async def use(manager: AsyncRealtimeClientManager, server: AsyncServer) -> list[tuple[str, str]]:
        loop = asyncio.get_running_loop()

        def leave(order: dict[str, Any]) -> None:
            if order["action"] == "revoke":
                loop.call_soon_threadsafe(manager.basic_leave_room, "sid", "/", "project:alpha")

        manager.on_order(leave)
        publisher = redis_channel.publisher()

        def publish() -> None:
            publisher.publish_events([step(1)])
            publisher.order({"action": "revoke"})
            publisher.publish_events([step(2)])

        loop.call_soon(publish)  # the loop stands still meanwhile, so all of it comes at once
        manager.basic_enter_room("sid", "/", "project:beta", "eio_sid")
        await until(lambda: server.sent)
        await asyncio.to_thread(publisher.publish_events, [step(3, "beta")])
        await until(lambda: said(3) in server.sent)
        return server.sent

    assert asyncio.run(serve(redis_channel, use)) == [said(1), said(3)]


def test_orders_are_carried_out_before_the_first_client_comes(redis_channel: Channel) -> None:
    manager = async_client_manager(redis_channel.url)
    orders: list[Any] = []
    manager.on_order(orders.append)
    manager.start_listening()
    assert manager.reader.listener.wait(60)

    redis_channel.publisher().order({"action": "revoke"})

    wait_for(lambda: orders)
    manager.stop_listening()
    assert manager.listener_thread is not None
    manager.listener_thread.join(60)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_has_ended_is_started_again(redis_channel: Channel, monkeypatch: pytest.MonkeyPatch) -> None:
    async def use(manager: AsyncRealtimeClientManager, server: AsyncServer) -> list[tuple[str, str]]:
        thread = manager.listener_thread
        assert thread is not None
        monkeypatch.setattr(manager.reader, "items", _end_the_thread)
        await until(lambda: not thread.is_alive())
        monkeypatch.undo()
        assert await manager.wait_until_listening(60)
        assert manager.listener_thread is not thread
        await until(lambda: manager.generation == 2)
        await asyncio.to_thread(redis_channel.publisher().publish_events, [step(1)])
        await until(lambda: server.sent)
        return server.sent

    assert asyncio.run(serve(redis_channel, use)) == [said(1)]


def _end_the_thread(*_: Any) -> Any:
    raise SystemExit


def test_while_the_event_loop_stands_still_little_waits_and_all_is_recovered_later(
    redis_channel: Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is a history, so what there was no room for is read from it."""
    monkeypatch.setattr(module, "MAX_WAITING", 20)
    monkeypatch.setattr(listening, "ROOM_TIMEOUT", 0.1)
    total, waiting = 500, 0

    resumed = threading.Event()

    def read(_project: str, epoch: str, offset: int, _most_jobs: int) -> Snapshot:
        assert resumed.wait(60)
        missed = [{"event": "step", "data": {"number": number}} for number in range(offset + 1, total + 1)]
        return Snapshot(epoch, total, True, [], 0, [], missed)

    def event(number: int) -> Outgoing:
        mark = f'{{"project_id":"alpha","epoch":"e","offset":{number}}}'
        return Outgoing("alpha", "step", f'{{"number":{number},"_realtime":{mark}}}'.encode())

    async def use(manager: AsyncRealtimeClientManager, server: AsyncServer) -> list[tuple[str, str]]:
        nonlocal waiting
        manager.catch_up.expect("alpha")
        manager.catch_up.seed("alpha", "e", 0)
        publisher = redis_channel.publisher()
        for start in range(1, total + 1, 10):
            publisher.publish_events([event(number) for number in range(start, start + 10)])  # on the loop: it waits
        threading.Event().wait(1.0)
        waiting = manager.waiting
        resumed.set()
        await until(lambda: len(server.sent) >= total, 30)
        return server.sent

    sent = asyncio.run(serve(redis_channel, use, read=read))

    assert waiting <= 30
    numbers = sorted(int(packet.split('"number":')[1].split(",")[0].rstrip("}]")) for _, packet in sent)
    assert numbers == list(range(1, total + 1))


@SCHEMES
def test_any_number_of_clients_wait_together_for_an_asyncio_manager_that_hears_nothing(scheme: str) -> None:
    async def wait() -> list[bool]:
        manager = async_client_manager(f"{scheme}://{HOST}:{free_port()}/")
        waiting = [manager.wait_until_listening(0.5) for _ in range(500)]
        return await asyncio.wait_for(asyncio.gather(*waiting), 30)

    assert asyncio.run(wait()) == [False] * 500


# -- slow clients -------------------------------------------------------------------------------------------------


class Socket:
    """An Engine.IO socket of a client that reads nothing.

    Args:
        packets: How many packets wait.
        is_async: Whether it is closed by a coroutine.
    """

    class Queue:
        def __init__(self, packets: int) -> None:
            self.queue = ["x"] * packets

        def qsize(self) -> int:
            return len(self.queue)

    def __init__(self, packets: int, *, is_async: bool = False) -> None:
        self.queue = self.Queue(packets)
        self.closed: list[dict[str, Any]] = []
        self._is_async = is_async

    def close(self, **how: Any) -> Any:
        self.closed.append(how)
        return asyncio.sleep(0) if self._is_async else None


def test_a_client_that_is_too_slow_has_its_socket_closed_where_nobody_observes() -> None:
    manager = client_manager("memory://", max_backlog=10)
    server = Server(manager)
    let_in(manager, "project:alpha")
    server.eio.sockets["eio_sid"] = socket = Socket(11)

    for paced in manager.slow_clients.paced(Emit("step", 1, "/", "project:alpha")):
        manager.emit_here(paced)

    wait_for(lambda: socket.closed == [{"wait": False, "abort": True}])
    assert server.sent == []


def test_an_observer_disconnects_clients_that_are_too_slow_itself() -> None:
    manager = client_manager("memory://", max_backlog=10)
    server = Server(manager)
    let_in(manager)
    server.eio.sockets["eio_sid"] = socket = Socket(11)
    slow: list[tuple[str, str]] = []
    manager.on_slow_client(lambda *client: slow.append(client))

    manager.slow_clients.disconnect_overloaded()

    wait_for(lambda: slow == [("sid", "eio_sid")])
    assert socket.closed == []


@pytest.mark.parametrize("is_observed", [False, True])
def test_an_asyncio_manager_disconnects_clients_that_are_too_slow_on_its_loop(is_observed: bool) -> None:
    async def use() -> tuple[list[Any], list[Any]]:
        manager = async_client_manager("memory://", max_backlog=10)
        server = AsyncServer(manager)
        let_in(manager)
        server.eio.sockets["eio_sid"] = socket = Socket(11, is_async=True)
        slow: list[Any] = []

        async def observe(*client: str) -> None:
            slow.append(client)

        if is_observed:
            manager.on_slow_client(observe)
        manager.slow_clients.disconnect_overloaded()
        await until(lambda: slow or socket.closed)
        return slow, socket.closed

    slow, closed = asyncio.run(use())
    assert slow == ([("sid", "eio_sid")] if is_observed else [])
    assert closed == ([] if is_observed else [{"wait": False, "abort": True}])


def test_a_synchronous_manager_lets_its_servers_other_threads_write_first(monkeypatch: pytest.MonkeyPatch) -> None:
    manager = client_manager("memory://", max_backlog=10)
    server = Server(manager)
    let_in(manager, "project:alpha")
    socket = server.eio.sockets["eio_sid"] = Socket(5)
    monkeypatch.setattr(server, "sleep", lambda seconds: socket.queue.queue.clear())

    emits = list(manager.slow_clients.paced(Emit("agent_progress", {"job_id": "one"}, "/", "project:alpha")))

    assert [emit.room for emit in emits] == ["project:alpha"]
    assert emits[0].skip_sid is None
