"""What hearing an event costs a web server."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import socketio

from benchmarks.figures import Figure, Goal, alternate
from benchmarks.speech import outgoing, payload, realtime, stock_emit, stock_manager
from benchmarks.stage import Stage
from tests.services import Broker

ROW = "listener"
GOALS = {"redis": Goal(1 / 10), "rabbitmq": Goal(1 / 3)}
BATCH = 100


def measure(stage: Stage) -> Iterator[Figure]:
    """Let a server that has clients, of other projects, catch up with events that wait on the broker."""
    for name in stage.brokers:
        full, single, stock = _times(stage, stage.broker(name))
        yield Figure(ROW, f"CPU per event heard, {BATCH} in a frame", name, "s", stock, full, GOALS[name])
        yield Figure(ROW, "CPU per event heard, 1 in a frame", name, "s", stock, single)


def _times(stage: Stage, broker: Broker) -> list[list[float]]:
    hub = realtime(broker.url, channel="ours")
    publisher, writer = hub.manager.publisher, stock_manager(broker.url)
    ours = Ear(hub.client_manager(), publisher._publish)
    stock = Ear(socketio.KombuManager(broker.url), writer._publish)

    def tell_ours(count: int, size: int) -> None:
        for first in range(0, count, size):
            batch = [outgoing(number) for number in range(first, first + size)]
            assert publisher.publish_events(batch) == size

    def tell_stock(count: int) -> None:
        for number in range(count):
            stock_emit(writer, payload(number))

    few, many = stage.count(2000), stage.count(200) * BATCH
    found = alternate(
        stage.rounds,
        lambda: ours.time(lambda count: tell_ours(count, BATCH), many),
        lambda: ours.time(lambda count: tell_ours(count, 1), few),
        lambda: stock.time(tell_stock, few),
    )
    ours.stop()
    stock.stop()
    hub.manager.close()
    writer.publisher_connection.release()
    return found


class Ear:
    """A server's manager, listening in a thread as python-socketio lets it.

    Args:
        manager: The manager, not attached to a server yet.
        publish: Sends one of python-socketio's own messages to it.
    """

    def __init__(self, manager: Any, publish: Callable[[dict[str, Any]], Any]) -> None:
        self._manager = manager
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
        manager.enter_room(manager.connect("somebody", "/"), "/", "project:another")
        self._wait_until_heard()

    def time(self, tell: Callable[[int], None], count: int) -> float:
        """Return the CPU time of the listening thread for each of ``count`` events that ``tell`` publishes."""
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
