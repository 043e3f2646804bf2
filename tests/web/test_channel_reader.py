"""What the messages of a channel are to a server, whatever they are, and whatever else goes wrong meanwhile."""

from __future__ import annotations

import itertools
import json
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from celery_realtime.channel.bindings import Bindings
from celery_realtime.channel.wire import frames
from celery_realtime.events import Outgoing, numbered_chunk
from celery_realtime.history.store import Snapshot
from celery_realtime.rooms import rooms_of, streams_rooms_of
from celery_realtime.web import channel_reader
from celery_realtime.web.catchup import CatchUp
from celery_realtime.web.channel_reader import ChannelReader, OrderObservers
from celery_realtime.web.delivery import Delivery, Emit
from celery_realtime.web.stream_board import StreamBoard
from celery_realtime.web.watched_shards import WatchedShards
from tests.log_records import logged_by
from tests.stream_readers import Writer
from tests.waiting import wait_for
from tests.web.test_delivery import Members

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator


class Message(NamedTuple):
    """A message as kombu hands it over."""

    body: str
    content_type: str = "text/plain"


class Connection:
    """Stands where the listener is: yields what a test has put into each connection in turn, and then silence."""

    def __init__(self, *connections: list[Any]) -> None:
        self.generation = 0
        self.bindings = Bindings()
        self._connections = list(connections)

    def messages(self, _patience: Any = None) -> Generator[Any, None, None]:
        self.generation += 1
        for message in self._connections.pop(0) if self._connections else []:
            if isinstance(message, Exception):
                raise message
            yield message
        while True:
            threading.Event().wait(0.01)
            yield None

    def after_fork(self) -> None:
        pass


def step(offset: int, project: str = "alpha", host_id: str = "worker") -> Message:
    mark = {"job_id": "one", "project_id": project, "epoch": "e", "offset": offset}
    events = [["step", f"project:{project}", {"number": offset, "_realtime": mark}]]
    frame = {"method": "celery_realtime", "v": 1, "namespace": "/", "host_id": host_id, "events": events}
    return Message(json.dumps(frame))


ORDER = {"method": "celery_realtime_order", "host_id": "other", "action": "disconnect", "user": "ada"}


class Server:
    """A server that reads a channel; every room is occupied."""

    def __init__(self, *connections: list[Any]) -> None:
        self.hanging: set[str] = set()
        self.answer = threading.Event()
        self.last = 0
        delivery = Delivery(lambda _namespace, room: not room.startswith("batch"), None, Members())
        self.catch_up = CatchUp(self._read, delivery.is_watched, "/")
        connection: Any = Connection(*connections)
        shards = WatchedShards(1, connection.bindings, lambda _project_id: True, lambda: None)
        streams = StreamBoard(None, delivery.is_read, "/")
        self.reader = ChannelReader(connection, self.catch_up, delivery, streams=streams, shards=shards, host_id="me")
        self.emitted: list[tuple[str, Any]] = []

    def _read(self, project_id: str, epoch: str, offset: int, _most_jobs: int) -> Snapshot:
        if project_id in self.hanging:
            assert self.answer.wait(60)
        numbers = range(offset + 1, self.last + 1)
        return Snapshot(epoch, self.last, True, [], 0, [], [{"event": "step", "data": {"number": n}} for n in numbers])

    def subscribe(self, *projects: str) -> None:
        for project in projects:
            self.catch_up.expect(project)
            self.catch_up.seed(project, "e", 0)

    def take(self, items: list[Any]) -> None:
        self.emitted += [(item.room, item.data["number"]) for item in items if isinstance(item, Emit)]

    def close(self) -> None:
        self.answer.set()
        self.reader.stop()


@pytest.fixture
def servers() -> Iterator[list[Server]]:
    made: list[Server] = []
    yield made
    for server in made:
        server.close()


def test_a_frame_for_nobody_is_not_decoded() -> None:
    """All that is read of it is its head: what comes behind need not even be JSON."""
    followed = frozenset({"project:alpha"})
    delivery = Delivery(lambda _namespace, room: room in followed, None, Members())
    catch_up = CatchUp(None, delivery.is_watched, "/")
    connection: Any = Connection()
    shards = WatchedShards(1, connection.bindings, lambda _project_id: True, lambda: None)
    streams = StreamBoard(None, delivery.is_read, "/")
    reader = ChannelReader(connection, catch_up, delivery, streams=streams, shards=shards, host_id="me")
    events = [Outgoing(project, "step", b'{"number":1}') for project in ("beta", "gamma")]
    [(_, body)] = frames(events, "worker", "/")

    assert reader.items(Message(body.decode()[:-3])) == []
    assert reader.loop.failures == 0
    [(_, body)] = frames([*events, Outgoing("alpha", "step", b'{"number":2}')], "worker", "/")
    assert ("project:alpha", {"number": 2}) in [(item.room, item.data) for item in reader.items(Message(body.decode()))]
    [(_, body)] = frames([Outgoing("alpha", "step", b"{}")], "worker", "/elsewhere")
    assert [item.namespace for item in reader.items(Message(body.decode()))] == ["/elsewhere"]


def test_nor_is_one_of_streams_that_nobody_reads_though_their_project_is_followed() -> None:
    rooms = {"project:alpha"}
    delivery = Delivery(lambda _namespace, room: room in rooms, None, Members())
    catch_up = CatchUp(None, delivery.is_watched, "/")
    connection: Any = Connection()
    shards = WatchedShards(1, connection.bindings, lambda _project_id: True, lambda: None)
    streams = StreamBoard(None, delivery.is_read, "/")
    reader = ChannelReader(connection, catch_up, delivery, streams=streams, shards=shards, host_id="me")
    writer = Writer(job_id="one", project_id="alpha")
    [(_, body)] = frames([numbered_chunk(writer.part("x"), 0, 1)], "worker", "/")

    assert reader.items(Message(body.decode()[:-3])) == []
    assert (reader.loop.failures, reader.events) == (0, 0)
    delivery.expect("alpha", "one", None)
    for room in (rooms_of("alpha", "one")[0], streams_rooms_of("alpha")[0]):
        rooms.add(room)
        assert room in [item.room for item in reader.items(Message(body.decode())) if isinstance(item, Emit)]
        rooms.discard(room)
        reader = ChannelReader(
            connection,
            catch_up,
            delivery,
            streams=StreamBoard(None, delivery.is_read, "/"),
            shards=shards,
            host_id="me",
        )


def read_until(server: Server, emitted: list[tuple[str, Any]], has_room: Any = lambda: True) -> None:
    """Read the channel, in a thread, until all that is expected has been emitted."""

    def read() -> None:
        for items in server.reader.read(has_room):
            server.take(items)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    wait_for(lambda: server.emitted == emitted, message="not all was emitted, or something else")
    server.reader.stop()
    thread.join(60)
    assert not thread.is_alive()


ALPHA, BETA = "project:alpha", "project:beta"


def test_events_are_emitted_once_in_the_order_in_which_they_come(servers: list[Server]) -> None:
    server = Server([step(1), step(2), step(2), step(3)])
    servers.append(server)
    server.subscribe("alpha")

    read_until(server, [(ALPHA, 1), (ALPHA, 2), (ALPHA, 3)])


def test_what_this_server_has_published_itself_is_not_emitted_again() -> None:
    server = Server()

    assert server.reader.items(step(1, host_id="me")) == []
    assert len(server.reader.items(step(1))) == 1


def test_other_messages_pass_as_they_are() -> None:
    message = {"method": "enter_room", "sid": "s", "room": "project:alpha", "namespace": "/", "host_id": "h"}

    assert Server().reader.items(Message(json.dumps(message))) == [message]
    assert Server().reader.items(Message(json.dumps(ORDER))) == [ORDER]
    assert Server().reader.items(Message("no message")) == []


def test_after_a_new_connection_what_was_missed_comes_before_what_is_new(
    servers: list[Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel_reader, "PAUSE", 0.01)
    server = Server([step(1), ValueError("what no broker should cause")], [None, step(4)])
    servers.append(server)
    server.subscribe("alpha")
    server.last = 3

    read_until(server, [(ALPHA, 1), (ALPHA, 2), (ALPHA, 3), (ALPHA, 4)])


def test_the_reader_outlives_whatever_the_listener_raises(
    servers: list[Server], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(channel_reader, "PAUSE", 0.01)
    server = Server(*([AttributeError("sendall")] for _ in range(5)), [step(1)])
    servers.append(server)

    read_until(server, [(ALPHA, 1)])

    assert server.reader.loop.failures == 5
    assert server.reader.loop.state == "idle"  # it was stopped, and did not end by itself
    failures = [
        record for record in caplog.records if record.levelname == "ERROR" and record.name == channel_reader.__name__
    ]
    assert len(failures) == 1  # once a minute
    assert "AttributeError: sendall" in caplog.text


def test_the_reader_outlives_whatever_is_raised_in_between_and_keeps_its_connection(
    servers: list[Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Server([step(1), step(2), step(3)])
    servers.append(server)
    sort = server.catch_up.sort

    def fails_once(events: Any) -> Any:
        events = list(events)
        if [event.offset for event in events] == [2]:
            raise RuntimeError("Set changed size during iteration")
        return sort(events)

    monkeypatch.setattr(server.catch_up, "sort", fails_once)

    read_until(server, [(ALPHA, 1), (ALPHA, 3)])

    assert server.reader.loop.failures == 1
    assert server.reader.listener.generation == 1


def test_while_the_history_hangs_live_events_of_every_project_are_emitted(servers: list[Server]) -> None:
    server = Server([None, *(step(n, project) for n in (1, 2) for project in ("alpha", "beta"))])
    servers.append(server)
    server.hanging = {"alpha", "beta"}
    server.subscribe("alpha", "beta")

    read_until(server, [(ALPHA, 1), (BETA, 1), (ALPHA, 2), (BETA, 2)])


def test_on_a_channel_that_is_never_quiet_what_was_missed_is_recovered_too(servers: list[Server]) -> None:
    server = Server()
    servers.append(server)
    server.subscribe("alpha")
    server.last = 2
    server.catch_up.fall_behind()

    numbers = itertools.count(1)
    wait_for(lambda: server.take(server.reader.items(step(next(numbers), "beta"))) or (ALPHA, 2) in server.emitted)

    assert [number for room, number in server.emitted if room == ALPHA] == [1, 2]


# -- no room ------------------------------------------------------------------------------------------------------


def test_events_that_there_is_no_room_for_are_recovered_when_there_is(
    servers: list[Server], caplog: pytest.LogCaptureFixture
) -> None:
    server = Server()
    servers.append(server)
    server.subscribe("alpha", "beta")
    server.take(server.reader.items(step(1)))

    assert server.reader.items(step(2), lambda: False) == []
    assert server.reader.items(step(3), lambda: False) == []
    assert server.reader.items(None, lambda: False) == []
    assert server.emitted == [(ALPHA, 1)]
    assert len([record for record in caplog.records if "does not keep up" in record.getMessage()]) == 1

    server.last = 3
    server.take(server.reader.items(step(4)))
    wait_for(lambda: server.take(server.reader.items(None)) or len(server.emitted) == 4)
    assert server.emitted == [(ALPHA, 1), (ALPHA, 2), (ALPHA, 3), (ALPHA, 4)]


def test_an_order_is_carried_out_though_there_is_no_room() -> None:
    assert Server().reader.items(Message(json.dumps(ORDER)), lambda: False) == [ORDER]


def test_a_ping_asks_for_no_room() -> None:
    asked: list[bool] = []
    server = Server()
    server.reader.items(None)

    server.reader.items(
        Message('{"method":"callback","host_id":"celery-realtime-ping"}'), lambda: bool(asked.append(True))
    )

    assert asked == []


# -- orders -------------------------------------------------------------------------------------------------------


def test_every_observer_gets_an_order_though_one_fails(caplog: pytest.LogCaptureFixture) -> None:
    observers = OrderObservers()
    orders: list[dict[str, Any]] = []

    def fails(_order: dict[str, Any]) -> None:
        raise KeyError("user")

    observers.add(fails)
    observers.add(orders.append)
    for _ in range(3):
        observers.notify(ORDER)

    assert orders == [ORDER] * 3
    assert len(logged_by(caplog, "celery_realtime.web.channel_reader")) == 1
    assert "KeyError" in caplog.text


def test_without_observers_an_order_does_nothing() -> None:
    OrderObservers().notify(ORDER)
