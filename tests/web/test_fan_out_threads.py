"""Events that a listening thread writes past Engine.IO's queues: the same, in the same order, whoever else writes."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

import pytest
import socketio

from celery_realtime.rooms import project_room
from celery_realtime.web import outlets
from celery_realtime.web.delivery import Emit
from tests.attacks.raw import PING, PONG, Raw, frame
from tests.waiting import wait_for
from tests.web_servers import Web, steps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [pytest.mark.service, pytest.mark.undescribed]

ROOM = project_room("alpha")
LONG = "x" * 1000


class Stage:
    """A web server of threads whose listening thread does what a test says."""

    def __init__(self, url: str) -> None:
        self.web = Web("sync", url, max_backlog=10_000, max_backlog_bytes=10**8).attach()
        self.web.server.eio.ping_interval = 10_000  # some clients here do not answer pings
        self.manager = self.web.manager
        self._to_do: list[Callable[[], Any]] = []
        self._done = threading.Event()
        self.manager.on_order(self._obey)
        self.web.start()

    def _obey(self, order: dict[str, Any]) -> None:
        if order.get("action") == "do":
            try:
                for doing in self._to_do:
                    doing()
            finally:
                self._done.set()

    def do(self, *doing: Callable[[], Any]) -> None:
        """Do something in the thread that listens, which flushes after it."""
        self._to_do = [*doing]
        self._done.clear()
        assert self.manager.wait_until_listening(60)
        assert self.web.realtime.manager.publisher.order({"action": "do"})
        assert self._done.wait(60)

    def emit(self, number: int, **more: Any) -> None:
        self.manager.emitter.emit(Emit("step", {"number": number, **more}, "/", ROOM))

    def flush(self) -> None:
        self.manager.emitter.flush()

    def by_queue(self, event: str, number: int) -> None:
        """Emit as python-socketio does, and other threads do."""
        self.manager.emit(event, {"number": number}, namespace="/", room=ROOM, ignore_queue=True)

    def queues(self) -> list[Any]:
        return [connection.queue for connection in self.web.server.eio.sockets.values() if not connection.closed]

    def pipes(self) -> list[Any]:
        return [queue.pipe for queue in self.queues()]

    def wait_until_idle(self) -> None:
        wait_for(lambda: all(queue.is_idle for queue in self.queues()))


@pytest.fixture
def stage(redis_url: str) -> Iterator[Stage]:
    stage = Stage(redis_url)
    yield stage
    stage.web.stop()


def emit_in_turn(stage: Stage, count: int) -> None:
    """Emit numbers on both roads: by this package's, and each seventh as python-socketio does."""
    for number in range(count):
        if number % 7 == 6:
            stage.by_queue("step", number)
        else:
            stage.emit(number)
        if number % 5 == 4:
            stage.flush()


def test_what_goes_by_both_roads_comes_in_the_order_in_which_it_was_emitted(stage: Stage) -> None:
    clients = [stage.web.subscriber("alpha") for _ in range(5)]
    assert all(stage.pipes())

    stage.do(lambda: emit_in_turn(stage, 500))

    for client in clients:
        client.wait_for_event("step", number=499)
        assert steps(client) == [*range(500)]


def test_an_idle_client_is_written_to_and_nothing_is_queued(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    client = stage.web.subscriber("alpha")
    stage.wait_until_idle()
    (queue,) = stage.queues()
    queued: list[Any] = []
    monkeypatch.setattr(queue, "put_locked", queued.append)

    stage.do(*(lambda number=number: stage.emit(number) for number in range(20)))  # type: ignore[misc]

    client.wait_for_event("step", number=19)
    assert queued == []
    monkeypatch.undo()


def test_what_comes_over_the_channel_is_written_so(stage: Stage) -> None:
    clients = [stage.web.subscriber("alpha") for _ in range(3)]

    for number in range(200):
        stage.web.emit("alpha", number)

    for client in clients:
        client.wait_for_event("step", number=199)
        assert steps(client) == [*range(200)]


def test_two_threads_that_emit_at_once_mix_no_frames(stage: Stage) -> None:
    client = stage.web.subscriber("alpha")
    others = threading.Thread(target=lambda: [stage.by_queue("other", number) for number in range(500)])
    others.start()

    def emit_and_flush() -> None:
        for number in range(500):
            stage.emit(number)
            stage.flush()

    stage.do(emit_and_flush)
    others.join(60)

    client.wait_for_event("step", number=499)
    client.wait_for_event("other", number=499)
    assert steps(client) == [*range(500)]
    assert [data["number"] for data in client.of("other")] == [*range(500)]


def test_pings_of_websocket_are_answered_in_between(stage: Stage) -> None:
    """simple-websocket answers them in a thread of its own."""
    pinging = Raw(stage.web.url)
    pinging.enter(stage.web.token("ada"))
    pinging.ask("subscribe_project", {"project_id": "alpha"})
    pongs = threading.Thread(target=lambda: [pinging.write(frame(PING, b"%d" % number)) for number in range(100)])
    pongs.start()

    def emit_and_flush() -> None:
        for number in range(1000):
            stage.emit(number, text=LONG)
            stage.flush()

    doing = threading.Thread(target=stage.do, args=(emit_and_flush,))
    doing.start()
    answered: list[int] = []
    pinging.on_control = lambda opcode, payload: answered.append(int(payload)) if opcode == PONG else None
    assert numbers(pinging, 999) == [*range(1000)]
    pongs.join(60)
    doing.join(60)
    while len(answered) < 100:  # a thread of the server's may not have had its turn
        pinging.ask("subscribe_project", {"project_id": "alpha"})
    assert answered == [*range(100)]
    stage.do(lambda: stage.emit(1000))
    assert numbers(pinging, 1000) == [1000]
    pinging.close()


def test_a_client_that_polls_hears_the_same(stage: Stage) -> None:
    polling = stage.web.connect(transports=["polling"])
    assert polling.subscribe("alpha")["ok"]
    assert stage.pipes() == [None]

    for start in range(0, 60, 6):  # Engine.IO's own client takes no more than 16 packets at once
        stage.do(*(lambda number=number: stage.emit(number) for number in range(start, start + 6)))  # type: ignore[misc]
        polling.wait_for_event("step", number=start + 5)

    assert steps(polling) == [*range(60)]


def test_a_client_that_begins_with_polling_is_written_to_once_it_has_a_websocket(stage: Stage) -> None:
    client = stage.web.connect(transports=["polling", "websocket"])
    assert client.subscribe("alpha")["ok"]
    wait_for(lambda: all(stage.pipes()))

    stage.do(lambda: emit_in_turn(stage, 100))

    client.wait_for_event("step", number=99)
    assert steps(client) == [*range(100)]


def test_what_a_client_does_not_read_waits_in_its_queue_and_comes_in_order(stage: Stage) -> None:
    reader = stage.web.subscriber("alpha")
    slow = Raw(stage.web.url, receive_buffer=4096)
    slow.enter(stage.web.token("slow"))
    slow.ask("subscribe_project", {"project_id": "alpha"})

    def emit_much() -> None:
        for number in range(3000):
            stage.emit(number, text=LONG)
            stage.flush()

    stage.do(emit_much)

    reader.wait_for_event("step", number=2999)
    assert steps(reader) == [*range(3000)]
    assert max(queue.qsize() for queue in stage.queues()) > 1000
    assert numbers(slow, 2999) == [*range(3000)]
    slow.close()


def numbers(client: Raw, last: int) -> list[int]:
    """Read what a client is sent until a number comes, and return the numbers."""
    heard: list[int] = []
    for message in client.messages():
        if message.startswith('42["step"'):
            heard.append(json.loads(message[2:])[1]["number"])
            if heard[-1] == last:
                break
    return heard


def test_a_client_that_goes_meanwhile_is_no_error_and_others_hear_all(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    staying, going = stage.web.subscriber("alpha"), [stage.web.subscriber("alpha") for _ in range(3)]

    def emit_on() -> None:
        for number in range(300):
            stage.emit(number)
            if number % 100 == 50:
                stage.web.server.eio.sockets[list(stage.web.server.eio.sockets)[-1]].close(wait=False)
            if number % 3:
                stage.flush()

    stage.do(emit_on)

    staying.wait_for_event("step", number=299)
    assert steps(staying) == [*range(300)]
    for client in going:
        assert steps(client) == [*range(len(steps(client)))]
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


def test_what_has_attachments_is_left_to_python_socketio(stage: Stage) -> None:
    client = stage.web.subscriber("alpha")

    stage.do(
        lambda: stage.manager.emitter.emit(Emit("picture", {"bytes": b"\x00\xff"}, "/", ROOM)), lambda: stage.emit(1)
    )

    client.wait_for_event("step", number=1)
    assert client.of("picture") == [{"bytes": b"\x00\xff"}]


class OwnServer(socketio.Server):  # type: ignore[misc]
    """A server of an application that has a look at each packet."""

    def _send_eio_packet(self, eio_sid: str, packet: Any) -> None:
        super()._send_eio_packet(eio_sid, packet)


def test_a_server_that_sends_in_its_own_way_is_left_to_it(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socketio, "Server", OwnServer)
    stage = Stage(redis_url)
    client = stage.web.subscriber("alpha")
    assert stage.manager.emitter.fan_out is None

    stage.do(lambda: emit_in_turn(stage, 50))

    client.wait_for_event("step", number=49)
    assert steps(client) == [*range(50)]
    stage.web.stop()


def test_where_no_socket_can_be_written_to_at_once_all_goes_by_the_queues(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outlets, "AT_ONCE", None)
    client = stage.web.subscriber("alpha")
    assert stage.pipes() == [None]

    stage.do(lambda: emit_in_turn(stage, 50))

    client.wait_for_event("step", number=49)
    assert steps(client) == [*range(50)]
