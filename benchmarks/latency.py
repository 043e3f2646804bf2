"""How long an event takes from a worker to a browser when there is little to do."""

from __future__ import annotations

import collections
import contextlib
import multiprocessing
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

import socketio
from werkzeug.serving import WSGIRequestHandler, make_server

from benchmarks.figures import Figure, Goal, percentile
from benchmarks.speech import PROJECT, ROOM, outgoing, payload, realtime, stock_emit, stock_manager
from benchmarks.stage import Stage
from celery_realtime.events import PROGRESS_EVENT
from tests.client_recorder import Recorder
from tests.processes import HOST
from tests.services import Broker
from tests.waiting import wait_for

if TYPE_CHECKING:
    from typing_extensions import Self

ROW = "latency"
GOAL = Goal(1.0)
CUSTOM_EVENT = "transcribed"
RATE = 20
KINDS = ("stock", "custom event", "progress")
SECRET = "a long and random string of the benchmarks"

#: Nothing of a program that is measured is inherited from one that measures.
_processes = multiprocessing.get_context("spawn")


def measure(stage: Stage) -> Iterator[Figure]:
    """Tell a browser the time, in turn by the stock way, by a custom event and by progress."""
    for name in stage.brokers:
        for history in ("off", "on"):
            yield from _compare(stage, stage.broker(name), history)


def _compare(stage: Stage, broker: Broker, history: str) -> Iterator[Figure]:
    options = {"history_url": broker.backend_url if history == "on" else None}
    with Listeners(broker.url, options) as listeners, child(speak, broker.url, options) as emitter:
        listeners.hear(emitter, 5)
        rounds = [listeners.hear(emitter, stage.count(RATE * 3)) for _ in range(stage.rounds)]
    for kind in KINDS[1:]:
        what = f"emit to browser, {kind}, history {history}"
        stock, ours = ([percentile(heard[side], 50) for heard in rounds] for side in ("stock", kind))
        yield Figure(ROW, f"{what}: p50", broker.name, "s", stock, ours, GOAL)
        # Of all rounds together: the p99 of one would be its slowest event.
        stock, ours = ([percentile([took for heard in rounds for took in heard[side]], 99)] for side in ("stock", kind))
        yield Figure(ROW, f"{what}: p99", broker.name, "s", stock, ours, GOAL)


class Listeners:
    """A web server of each side with one browser each.

    Args:
        url: The broker.
        options: Settings of our side.
    """

    def __init__(self, url: str, options: dict[str, Any]) -> None:
        self._stack = contextlib.ExitStack()
        self._heard: dict[str, list[float]] = collections.defaultdict(list)
        token = realtime(url, secret_key=SECRET).issue_token("ada", [PROJECT])
        for serve in (serve_stock, serve_ours):
            pipe = self._stack.enter_context(child(serve, url, options))
            self._connect(pipe.recv(), token, serve.__name__.removeprefix("serve_"))

    def _connect(self, address: str, token: str, side: str) -> None:
        browser = self._stack.enter_context(Recorder())
        for event, kind in (
            (PROGRESS_EVENT, "stock" if side == "stock" else "progress"),
            (CUSTOM_EVENT, "custom event"),
        ):
            browser.sio.on(event, lambda data, kind=kind: self._note(kind, data))
        browser.connect(address, token=token, transports=["websocket"])
        assert browser.subscribe(PROJECT)["ok"]

    def _note(self, kind: str, data: dict[str, Any]) -> None:
        self._heard[kind].append(time.monotonic() - float(data["message"]))

    def hear(self, emitter: Connection, count: int) -> dict[str, list[float]]:
        """Let the emitter say ``count`` things in each way; returns how long each took, in seconds."""
        self._heard.clear()
        emitter.send(count)
        emitter.recv()
        wait_for(lambda: [len(self._heard[kind]) for kind in KINDS] == [count] * len(KINDS))
        return dict(self._heard)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


@contextlib.contextmanager
def child(target: Any, *args: Any) -> Iterator[Connection]:
    """Run a function in a process of its own meanwhile; it gets the other end of the pipe that this returns."""
    here, there = _processes.Pipe()
    process = _processes.Process(target=target, args=(there, *args), daemon=True)
    process.start()
    try:
        yield here
    finally:
        process.kill()
        process.join()


def speak(pipe: Connection, url: str, options: dict[str, Any]) -> None:
    """Be a worker that says as many things as it is asked to, and when it says them."""
    manager = realtime(url, channel="ours", **options).manager
    stock = stock_manager(url)
    number = 0
    while True:
        for _ in range(pipe.recv()):
            number += 1
            time.sleep(1 / RATE / 3)
            stock_emit(stock, payload(number, repr(time.monotonic())))
            time.sleep(1 / RATE / 3)
            manager.emit_to_project(PROJECT, CUSTOM_EVENT, payload(number, repr(time.monotonic())))
            time.sleep(1 / RATE / 3)
            manager.put(outgoing(number, repr(time.monotonic())))
        pipe.send("said")


def serve_ours(pipe: Connection, url: str, options: dict[str, Any]) -> None:
    """Be our web server."""
    hub = realtime(url, channel="ours", secret_key=SECRET, **options)
    server = socketio.Server(async_mode="threading", client_manager=hub.client_manager())
    hub.init_socketio(server)
    _serve(pipe, server)


def serve_stock(pipe: Connection, url: str, _options: dict[str, Any]) -> None:
    """Be a web server as python-socketio's documentation has it."""
    server = socketio.Server(async_mode="threading", client_manager=socketio.KombuManager(url))

    @server.on("subscribe_project")
    def subscribe(sid: str, _data: Any) -> dict[str, bool]:
        server.enter_room(sid, ROOM)
        return {"ok": True}

    _serve(pipe, server)


class _OneRequest(WSGIRequestHandler):
    """Close a connection after its request: else what a client still says on a web socket is read as the next one."""

    protocol_version = "HTTP/1.0"


def _serve(pipe: Connection, server: Any) -> None:
    http = make_server(HOST, 0, socketio.WSGIApp(server), threaded=True, request_handler=_OneRequest)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    pipe.send(f"http://{HOST}:{http.port}")
    with contextlib.suppress(EOFError):  # whoever measures has ended
        pipe.recv()
