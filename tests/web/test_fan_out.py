"""Events that are written past Engine.IO's queues: the same, in the same order, for those who read and who do not."""

from __future__ import annotations

import asyncio
import gc
import json
from typing import TYPE_CHECKING, Any

import pytest
import socketio
from wsproto.connection import Connection, ConnectionType
from wsproto.events import TextMessage

from celery_realtime.rooms import project_room
from celery_realtime.web.delivery import Emit
from celery_realtime.web.pipes import Crowd, TrackedQueue, text_frame
from tests.attacks.raw import Raw
from tests.web_servers import Web, steps

pytestmark = pytest.mark.undescribed

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

ROOM = project_room("alpha")
LONG = "x" * 1000


@pytest.fixture
def web(redis_url: str) -> Iterator[Web]:
    web = Web("asgi", redis_url, max_backlog=10_000, max_backlog_bytes=10**8)
    yield web.attach().start()
    web.stop()


class OwnServer(socketio.AsyncServer):  # type: ignore[misc]
    """A server of an application that has a look at each packet."""

    async def _send_eio_packet(self, eio_sid: str, packet: Any) -> None:
        await super()._send_eio_packet(eio_sid, packet)


@pytest.fixture
def own_web(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setattr(socketio, "AsyncServer", OwnServer)
    web = Web("asgi", redis_url)
    yield web.attach().start()
    web.stop()


def do(web: Web, doing: Coroutine[Any, Any, Any]) -> None:
    """Do something in the loop of a server."""
    assert web.loop is not None
    asyncio.run_coroutine_threadsafe(doing, web.loop).result(60)


async def emit(web: Web, number: int, room: str = ROOM, **more: Any) -> None:
    await web.manager.emit_here(Emit("step", {"number": number, **more}, "/", room))


async def emit_in_turn(web: Web, count: int) -> None:
    """Emit numbers on both roads: by this package's, and each seventh as python-socketio does."""
    for number in range(count):
        if number % 7 == 6:
            await web.manager.emit("step", {"number": number}, namespace="/", room=ROOM, ignore_queue=True)
        else:
            await emit(web, number)
        if number % 5 == 4:
            await asyncio.sleep(0)


def pipes(web: Web) -> list[Any]:
    return [connection.queue.pipe for connection in web.server.eio.sockets.values() if not connection.closed]


def test_what_goes_by_both_roads_comes_in_the_order_in_which_it_was_emitted(web: Web) -> None:
    clients = [web.subscriber("alpha") for _ in range(5)]
    assert all(pipes(web))

    do(web, emit_in_turn(web, 500))

    for client in clients:
        client.wait_for_event("step", number=499)
        assert steps(client) == [*range(500)]


def test_a_server_that_sends_in_its_own_way_is_left_to_it(own_web: Web) -> None:
    client = own_web.subscriber("alpha")
    assert own_web.manager.emitter.fan_out is None

    do(own_web, emit_in_turn(own_web, 50))

    client.wait_for_event("step", number=49)
    assert steps(client) == [*range(50)]


def test_a_client_that_polls_hears_the_same(web: Web) -> None:
    polling = web.connect(transports=["polling"])
    assert polling.subscribe("alpha")["ok"]
    assert pipes(web) == [None]

    for start in range(0, 60, 6):  # Engine.IO's own client takes no more than 16 packets at once
        for number in range(start, start + 6):
            do(web, emit(web, number))
        polling.wait_for_event("step", number=start + 5)

    assert steps(polling) == [*range(60)]


def test_what_a_client_does_not_read_waits_in_its_queue_and_comes_in_order(web: Web) -> None:
    reader = web.subscriber("alpha")
    with_long = {"text": LONG}
    slow = Raw(web.url, receive_buffer=4096)
    slow.enter(web.token("slow"))
    slow.ask("subscribe_project", {"project_id": "alpha"})

    async def emit_much() -> None:
        for number in range(5000):
            await emit(web, number, **with_long)
            if number % 50 == 49:
                await asyncio.sleep(0)

    do(web, emit_much())

    reader.wait_for_event("step", number=4999)
    assert steps(reader) == [*range(5000)]
    waiting = [connection.queue.qsize() for connection in web.server.eio.sockets.values()]
    assert max(waiting) > 1000, waiting
    assert numbers(slow, 4999) == [*range(5000)]
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
    web: Web, caplog: pytest.LogCaptureFixture
) -> None:
    staying, going = web.subscriber("alpha"), [web.subscriber("alpha") for _ in range(3)]

    async def emit_on() -> None:
        for number in range(300):
            await emit(web, number)
            if number % 100 == 50:
                eio_sid = list(web.server.eio.sockets)[-1]
                await web.server.eio.disconnect(eio_sid)
            await asyncio.sleep(0)

    do(web, emit_on())

    staying.wait_for_event("step", number=299)
    assert steps(staying) == [*range(300)]
    for client in going:
        assert steps(client) == [*range(len(steps(client)))]
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


def test_a_connection_lags_until_its_client_has_read_or_gone() -> None:
    crowd = Crowd(2)
    reader, gone = TrackedQueue(crowd), TrackedQueue(crowd)
    for queue in (reader, gone):
        for number in range(3):
            queue.put_nowait(number)
    assert crowd.lags()

    del queue, gone
    gc.collect()
    assert crowd.lags()
    reader.get_nowait()
    assert not crowd.lags()


def test_a_room_in_which_nobody_is_costs_no_packet(web: Web) -> None:
    assert web.manager.emitter.fan_out is not None
    assert asyncio.run(web.manager.emitter.fan_out.emit(Emit("step", object(), "/", "project:nobody")))


def test_what_has_attachments_is_left_to_python_socketio(web: Web) -> None:
    client = web.subscriber("alpha")

    do(web, web.manager.emit_here(Emit("picture", {"bytes": b"\x00\xff"}, "/", ROOM)))
    do(web, emit(web, 1))

    client.wait_for_event("step", number=1)
    assert client.of("picture") == [{"bytes": b"\x00\xff"}]


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536, 300_000])
@pytest.mark.parametrize("letter", ["a", "ü"])
def test_a_frame_is_a_whole_message(size: int, letter: str) -> None:
    reader = Connection(ConnectionType.CLIENT)
    reader.receive_data(text_frame(letter * size) + text_frame("next"))

    messages, text = [], ""
    for event in reader.events():
        assert isinstance(event, TextMessage)
        text += event.data
        if event.message_finished:
            messages.append(text)
            text = ""
    assert messages == [letter * size, "next"]
