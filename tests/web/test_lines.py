"""Events are written past a queue only while nothing else is on its way to the client."""

from __future__ import annotations

import queue
import socket
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from celery_realtime.web.lines import Frames, IdleQueue, Line, LinedWebSocket, line_of, lined
from celery_realtime.web.outlets import WholeSocket
from celery_realtime.web.pipes import MOST_COLLECTED, Crowd
from tests.waiting import wait_for


class Stage:
    """A connection of Engine.IO with a WebSocket, and somebody who waits for what is put into its queue."""

    def __init__(self) -> None:
        self.here, self.there = socket.socketpair()
        self.there.settimeout(60)
        self.queue = IdleQueue(Crowd(2), queue.Queue())
        self.connection = SimpleNamespace(
            queue=self.queue,
            upgraded=True,
            upgrading=False,
            closing=False,
            closed=False,
            last_ping=None,
            server=SimpleNamespace(ping_timeout=20),
        )
        self.whole = WholeSocket(self.here)
        self.websocket = SimpleNamespace(ws=SimpleNamespace(sock=self.whole, connected=True))
        line = line_of(self.connection, self.websocket)
        assert line is not None
        self.line: Line = line
        self.queue.pipe = line
        self.taken: list[Any] = []
        self._waiter = threading.Thread(target=self._wait)

    def _wait(self) -> None:
        while (item := self.queue.get()) is not None:
            self.taken.append(item)

    def wait(self) -> Stage:
        self._waiter.start()
        wait_for(lambda: self.queue.is_idle)
        return self

    def close(self) -> None:
        self.queue.put(None)
        if self._waiter.ident is not None:
            self._waiter.join(60)
        self.here.close()
        self.there.close()


@pytest.fixture
def stage() -> Any:
    stage = Stage()
    yield stage
    stage.close()


def test_what_is_collected_is_written_together(stage: Stage) -> None:
    stage.wait()
    assert stage.line.collect(b"one") is True
    assert stage.line.collect(b"two") is False
    stage.line.flush()
    assert stage.there.recv(100) == b"onetwo"
    stage.line.flush()
    assert stage.taken == []


def test_nothing_is_collected_while_nobody_waits(stage: Stage) -> None:
    assert stage.line.collect(b"one") is None
    stage.queue.put("first")
    stage.queue.get()
    assert stage.line.collect(b"one") is None  # what was taken may not have been sent


def test_what_is_put_comes_behind_what_was_collected(stage: Stage) -> None:
    stage.wait()
    stage.line.collect(b"one")
    stage.line.collect(b"two")
    stage.queue.put("packet")
    wait_for(lambda: len(stage.taken) == 2)
    assert stage.taken[0].encode().data == b"onetwo"
    assert stage.taken[1] == "packet"
    stage.line.flush()
    stage.there.setblocking(False)
    with pytest.raises(BlockingIOError):
        stage.there.recv(1)


def test_what_the_kernel_does_not_take_is_left_to_whoever_waits(stage: Stage) -> None:
    stage.wait()
    big = bytes(4_000_000)
    stage.line.collect(big)
    stage.line.flush()
    wait_for(lambda: len(stage.taken) == 1)
    websocket = LinedWebSocket(None, stage.line)
    sender = threading.Thread(target=websocket.send, args=(stage.taken[0].encode(),))
    sender.start()
    read = 0
    while read < len(big):
        read += len(stage.there.recv(100_000))
    sender.join(60)
    assert stage.whole.outlet.write(b"next") == 4


def test_what_cannot_be_written_at_all_is_left_whole(stage: Stage) -> None:
    stage.wait()
    stage.line.collect(b"one")
    stage.whole.outlet._lock.acquire()  # somebody is sending
    stage.line.flush()
    stage.whole.outlet._lock.release()
    wait_for(lambda: len(stage.taken) == 1)
    LinedWebSocket(None, stage.line).send(stage.taken[0].encode())
    assert stage.there.recv(100) == b"one"


def test_no_more_is_collected_than_a_bound(stage: Stage) -> None:
    stage.wait()
    assert stage.line.collect(bytes(MOST_COLLECTED + 1)) is True
    assert stage.line.collect(b"one") is None


@pytest.mark.parametrize(
    "state", [{"upgraded": False}, {"upgrading": True}, {"closing": True}, {"closed": True}, {"last_ping": 1.0}]
)
def test_a_connection_in_any_other_state_is_left_to_engineio(stage: Stage, state: dict[str, Any]) -> None:
    stage.wait()
    vars(stage.connection).update(state)
    assert stage.line.collect(b"one") is None


def test_a_client_that_has_been_pinged_just_now_is_written_to(stage: Stage) -> None:
    stage.wait()
    stage.connection.last_ping = time.time()
    assert stage.line.collect(b"one") is True


def test_nothing_is_written_to_a_websocket_that_has_been_closed(stage: Stage) -> None:
    stage.wait()
    stage.line.collect(b"one")
    stage.websocket.ws.connected = False
    stage.line.flush()
    wait_for(lambda: len(stage.taken) == 1)
    with pytest.raises(OSError, match="closed"):
        LinedWebSocket(None, stage.line).send(stage.taken[0].encode())


def test_other_messages_are_sent_as_ever(stage: Stage) -> None:
    sent: list[str] = []
    websocket = LinedWebSocket(SimpleNamespace(send=sent.append, path="/x"), stage.line)
    websocket.send("message")
    assert sent == ["message"]
    assert websocket.path == "/x"


def test_a_queue_is_as_any_other(stage: Stage) -> None:
    with pytest.raises(queue.Empty):
        stage.queue.get(timeout=0.01)
    assert not stage.queue.is_idle
    with pytest.raises(queue.Empty):
        stage.queue.get(block=False)
    stage.queue.put("one")
    stage.queue.put_nowait("two")
    assert stage.queue.qsize() == 2
    assert list(stage.queue.queue) == ["one", "two"]
    assert [stage.queue.get(), stage.queue.get_nowait()] == ["one", "two"]
    stage.queue.task_done()
    stage.queue.task_done()
    stage.queue.join()


def test_a_client_for_which_much_waits_lags() -> None:
    crowd = Crowd(2)
    held = IdleQueue(crowd, queue.Queue())
    for number in range(3):
        held.put(number)
    assert crowd.lags()
    held.get()
    assert not crowd.lags()


class Eventlet:
    """A WebSocket of eventlet."""

    websocket_closed = False

    def __init__(self, held: Any, version: int) -> None:
        self.socket = held
        self.version = version


def test_a_websocket_of_eventlet_is_written_to_unless_it_has_older_frames(stage: Stage) -> None:
    websocket = Eventlet(stage.whole, 13)
    line = line_of(stage.connection, websocket)
    assert line is not None
    line.send(Frames(b"one"))
    websocket.websocket_closed = True
    with pytest.raises(OSError, match="closed"):
        line.send(Frames(b"two"))
    assert stage.there.recv(100) == b"one"
    assert line_of(stage.connection, Eventlet(stage.whole, 76)) is None


@pytest.mark.parametrize("lacks", ["queue", "connected", "sock", "whole"])
def test_where_a_part_is_missing_all_goes_by_the_queue(stage: Stage, lacks: str) -> None:
    connection, websocket = stage.connection, stage.websocket
    if lacks == "queue":
        connection = SimpleNamespace(queue=queue.Queue())
    elif lacks == "whole":
        websocket.ws.sock = stage.here
    else:
        delattr(websocket.ws, lacks)
    stage.queue.pipe = None
    with lined(connection, websocket) as ours:
        assert ours is websocket
        assert getattr(connection.queue, "pipe", None) is None


def test_the_way_is_there_while_a_websocket_is_handled(stage: Stage) -> None:
    stage.queue.pipe = None
    with lined(stage.connection, stage.websocket) as ours:
        assert isinstance(ours, LinedWebSocket)
        assert stage.queue.pipe is not None
    assert stage.queue.pipe is None  # type: ignore[unreachable]
