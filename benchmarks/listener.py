"""What hearing an event costs a web server."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import socketio

from benchmarks.figures import Figure, Goal, alternate
from benchmarks.speech import PROJECT, outgoing, payload, realtime, stock_emit, stock_manager
from benchmarks.stage import Stage
from celery_realtime.rooms import project_room
from tests.services import Broker

ROW = "listener"
GOALS = {"redis": Goal(1 / 10), "rabbitmq": Goal(1 / 3)}
BATCH = 100


def measure(stage: Stage) -> Iterator[Figure]:
    """Let a server catch up with events that wait on the broker, of a project with a client and of one without."""
    for name in stage.brokers:
        full, single, encoded, passed, stock = _times(stage, stage.broker(name))
        yield Figure(ROW, f"CPU per event heard, {BATCH} in a frame", name, "s", stock, full, GOALS[name])
        yield Figure(ROW, "CPU per event heard, 1 in a frame", name, "s", stock, single)
        what = f"CPU per event heard and encoded for browsers, {BATCH} in a frame"
        yield Figure(ROW, what, name, "s", stock, encoded)
        what = f"CPU per event of a project that nobody follows, {BATCH} in a frame"
        yield Figure(ROW, what, name, "s", stock, passed)


def _times(stage: Stage, broker: Broker) -> list[list[float]]:
    hub = realtime(broker.url, channel="ours")
    publisher, writer = hub.manager.publisher, stock_manager(broker.url)
    ours = Ear(hub.client_manager(), publisher._publish)
    ours.let_follow(PROJECT)
    stock = Ear(socketio.KombuManager(broker.url), writer._publish)

    def tell_ours(count: int, size: int, project: str = PROJECT) -> None:
        for first in range(0, count, size):
            batch = [outgoing(number, project=project) for number in range(first, first + size)]
            assert publisher.publish_events(batch) == size

    def tell_stock(count: int) -> None:
        for number in range(count):
            stock_emit(writer, payload(number))

    few, many = stage.count(2000), stage.count(200) * BATCH
    found = alternate(
        stage.rounds,
        lambda: ours.time(lambda count: tell_ours(count, BATCH), many),
        lambda: ours.time(lambda count: tell_ours(count, 1), few),
        lambda: ours.time(lambda count: tell_ours(count, BATCH), many, encodes=True),
        lambda: ours.time(lambda count: tell_ours(count, BATCH, "nobody-follows-it"), many),
        lambda: stock.time(tell_stock, few),
    )
    ours.stop()
    stock.stop()
    hub.manager.close()
    writer.publisher_connection.release()
    return found


def _do_not_emit(_emit: Any) -> None:
    """Stand for what is done with an event whose rooms have been named."""


class Ear:
    """A server's manager, listening in a thread as python-socketio lets it.

    Args:
        manager: The manager, not attached to a server yet.
        publish: Sends one of python-socketio's own messages to it.
    """

    def __init__(self, manager: Any, publish: Callable[[dict[str, Any]], Any]) -> None:
        self._manager = manager
        self._emitter = getattr(manager, "emitter", None)
        self._emit = getattr(self._emitter, "emit", None)
        self._publish = publish
        self._cpu = 0.0
        self._is_here = threading.Event()
        self._may_go_on = threading.Event()
        self._is_through = threading.Event()
        # What no event is mistaken for, and nothing needs to look for.
        manager._handle_callback = self._on_mark
        socketio.Server(async_mode="threading", client_manager=manager).manager_initialized = True
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        self._client = manager.connect("somebody", "/")
        manager.enter_room(self._client, "/", "project:another")
        self._wait_until_heard()

    def let_follow(self, project: str) -> None:
        """Let the server's one client follow a project; it has no connection, so nothing is written to it."""
        self._manager.enter_room(self._client, "/", project_room(project))
        assert self._manager.wait_until_listening(10, project)

    def time(self, tell: Callable[[int], None], count: int, *, encodes: bool = False) -> float:
        """Return the CPU time of the listening thread for each event that is published.

        Args:
            tell: Publishes so many events.
            count: How many.
            encodes: Whether this package's manager makes a frame for the clients of a room, as python-socketio's does
                for a room without any; else it is measured up to there.
        """
        if self._emitter is not None:
            self._emitter.emit = self._emit if encodes else _do_not_emit
        self._is_here.clear()
        self._may_go_on.clear()
        self._is_through.clear()
        self._mark("begin")
        assert self._is_here.wait(10)
        tell(count)
        self._mark("end")
        self._may_go_on.set()
        assert self._is_through.wait(60)
        return self._cpu / count

    def stop(self) -> None:
        """End the thread."""
        self._mark("stop")
        self._thread.join(10)

    def _listen(self) -> None:
        with contextlib.suppress(SystemExit):
            self._manager._thread()

    def _mark(self, name: str) -> None:
        self._publish({"method": "callback", "host_id": "benchmark", "name": name})

    def _on_mark(self, message: dict[str, Any]) -> None:
        if message.get("name") == "begin":
            self._is_here.set()
            self._may_go_on.wait()
            self._cpu = -time.thread_time()
        elif message.get("name") == "end":
            self._cpu += time.thread_time()
            self._is_through.set()
        elif message.get("name") == "stop":
            raise SystemExit  # python-socketio's loop goes on after whatever is an Exception
        self._is_here.set()

    def _wait_until_heard(self) -> None:
        deadline = time.monotonic() + 10
        while not self._is_here.wait(0.05):
            assert time.monotonic() < deadline, "the listener hears nothing"
            self._mark("hello")
