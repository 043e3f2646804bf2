"""How long an event takes from a worker to a browser: when there is little to do, and under load."""

from __future__ import annotations

import contextlib
import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, NamedTuple

import socketio
from werkzeug.serving import WSGIRequestHandler, make_server

from benchmarks.browsers import browse
from benchmarks.figures import Figure, Goal, percentile
from benchmarks.speech import PROJECT, ROOM, outgoing, payload, realtime, stock_emit, stock_manager
from benchmarks.stage import Stage
from celery_realtime.events import PROGRESS_EVENT
from tests.processes import HOST
from tests.services import Broker

if TYPE_CHECKING:
    from typing_extensions import Self

ROW = "latency"
GOAL = Goal(1.0)
CUSTOM_EVENT = "transcribed"
#: What is measured: the stock way, and this package's two.
KINDS = ("stock", "custom event", "progress")
SECRET = "a long and random string of the benchmarks"

#: Seconds that a round's last events are waited for; of one that does not keep up, two seconds' events wait by then.
LONGEST = 20.0

#: Nothing of a program that is measured is inherited from one that measures.
_processes = multiprocessing.get_context("spawn")


class Load(NamedTuple):
    """How much is said.

    Attributes:
        rate: Events a second of each kind.
        events: How many in a round.
    """

    rate: int
    events: int


#: Of little, the kinds take turns; of much, one comes after the other.
CALM, BUSY = Load(20, 80), Load(2000, 4000)


class Run(NamedTuple):
    """What came of the events of one kind in a round.

    Attributes:
        took: How long each took from the call to the browser, in seconds; what never came counts as :data:`LONGEST`.
        rate: How many came a second, from the first call on.
    """

    took: list[float]
    rate: float


def measure(stage: Stage) -> Iterator[Figure]:
    """Tell a browser the time, in turn by the stock way, by a custom event and by progress."""
    for name in stage.brokers:
        for history in ("off", "on") if stage.long else ("on",):
            yield from _compare(stage, stage.broker(name), history)


def _compare(stage: Stage, broker: Broker, history: str) -> Iterator[Figure]:
    options = {"history_url": broker.backend_url if history == "on" else None}
    with Listeners(broker.url, options) as listeners, child(speak, broker.url, options) as emitter:
        listeners.hear(emitter, KINDS, 5, CALM.rate)
        rounds = [listeners.hear(emitter, KINDS, stage.count(CALM.events), CALM.rate) for _ in range(stage.rounds)]
        yield from _figures(rounds, CALM, broker.name, history)
        if history == "on":
            listeners.hear_each(emitter, 50, BUSY.rate)
            rounds = [listeners.hear_each(emitter, stage.count(BUSY.events), BUSY.rate) for _ in range(stage.rounds)]
            yield from _figures(rounds, BUSY, broker.name, history)
            yield from _rates(rounds, broker.name, history)


def _figures(rounds: list[dict[str, Run]], load: Load, broker: str, history: str) -> Iterator[Figure]:
    for kind in KINDS[1:]:
        for percent in (50, 99):
            stock, ours = ([percentile(heard[side].took, percent) for heard in rounds] for side in ("stock", kind))
            what = f"emit to browser, {load.rate:,} a second, {kind}, history {history}: p{percent}"
            yield Figure(ROW, what, broker, "s", stock, ours, GOAL)


def _rates(rounds: list[dict[str, Run]], broker: str, history: str) -> Iterator[Figure]:
    for kind in KINDS[1:]:
        stock, ours = ([heard[side].rate for heard in rounds] for side in ("stock", kind))
        what = f"received, {BUSY.rate:,} a second to emit, {kind}, history {history}"
        yield Figure(ROW, what, broker, "/s", stock, ours)


class Listeners:
    """A web server of each side with one browser each, all in processes of their own.

    Args:
        url: The broker.
        options: Settings of our side.
    """

    def __init__(self, url: str, options: dict[str, Any]) -> None:
        self._stack = contextlib.ExitStack()
        token = realtime(url, secret_key=SECRET).issue_token("ada", [PROJECT])
        self._browsers = {}
        for side, serve in (("stock", serve_stock), ("ours", serve_ours)):
            address = self._stack.enter_context(child(serve, url, options)).recv()
            browser = self._stack.enter_context(child(browse, address, [(PROJECT, token)], 1))
            assert browser.recv() == "ready"
            self._browsers[side] = browser

    def hear(self, emitter: Connection, kinds: tuple[str, ...], count: int, rate: int) -> dict[str, Run]:
        """Let the emitter say so many things in each of several ways, in turn; returns what came of each kind.

        Args:
            emitter: See :func:`speak`.
            kinds: The ways.
            count: How many in each.
            rate: How many a second in each.
        """
        sides = {kind: "stock" if kind == "stock" else "ours" for kind in kinds}
        for side in dict.fromkeys(sides.values()):
            self._browsers[side].send(count * [*sides.values()].count(side))
        begin = time.monotonic()
        emitter.send((kinds, count, rate))
        emitter.recv()
        answers = {side: self._answer(self._browsers[side]) for side in dict.fromkeys(sides.values())}
        runs = {}
        for kind, side in sides.items():
            end, took = answers[side]
            spans = took.get(CUSTOM_EVENT if kind == "custom event" else PROGRESS_EVENT, [])
            runs[kind] = Run([*spans, *[LONGEST] * (count - len(spans))], len(spans) / (end - begin))
        return runs

    def hear_each(self, emitter: Connection, count: int, rate: int) -> dict[str, Run]:
        """Do as :meth:`hear`, with one kind after the other."""
        return {kind: self.hear(emitter, (kind,), count, rate)[kind] for kind in KINDS}

    def _answer(self, browser: Connection) -> Any:
        """Return what a browser says when it has got all, or after :data:`LONGEST` seconds, and then nothing more."""
        if browser.poll(LONGEST):
            return browser.recv()
        browser.send(0)
        answer = late = browser.recv()
        while late[1]:
            time.sleep(1)
            browser.send(0)
            late = browser.recv()
        return answer

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
    there.close()  # or nobody would notice that the process has ended
    try:
        yield here
    finally:
        process.kill()
        process.join()


def speak(pipe: Connection, url: str, options: dict[str, Any]) -> None:
    """Be a worker that says as many things as it is asked to, in the ways it is asked to, and when it says them."""
    manager = realtime(url, channel="ours", **options).manager
    stock = stock_manager(url)
    say: dict[str, Callable[[int, str], Any]] = {
        "stock": lambda number, now: stock_emit(stock, payload(number, now)),
        "custom event": lambda number, now: manager.emit_to_project(PROJECT, CUSTOM_EVENT, payload(number, now)),
        "progress": lambda number, now: manager.put(outgoing(number, now)),
    }
    while True:
        kinds, count, rate = pipe.recv()
        due = time.monotonic()
        # Each of another job: none replaces another.
        for number in range(count):
            for kind in kinds:
                due += 1 / rate / len(kinds)
                time.sleep(max(0.0, due - time.monotonic()))
                say[kind](number, repr(time.monotonic()))
        pipe.send("said")


def serve_ours(pipe: Connection, url: str, options: dict[str, Any]) -> None:
    """Be our web server."""
    _serve(pipe, our_server(url, options))


def our_server(url: str, options: dict[str, Any]) -> Any:
    """Return our server."""
    hub = realtime(url, channel="ours", secret_key=SECRET, **options)
    server = socketio.Server(async_mode="threading", client_manager=hub.client_manager())
    hub.init_socketio(server)
    return server


def serve_stock(pipe: Connection, url: str, options: dict[str, Any]) -> None:
    """Be a web server as python-socketio's documentation has it."""
    _serve(pipe, stock_server(url, options))


def stock_server(url: str, _options: dict[str, Any]) -> Any:
    """Return a server as python-socketio's documentation has it."""
    server = socketio.Server(async_mode="threading", client_manager=socketio.KombuManager(url))

    @server.on("subscribe_project")
    def subscribe(sid: str, _data: Any) -> dict[str, bool]:
        server.enter_room(sid, ROOM)
        return {"ok": True}

    return server


class _OneRequest(WSGIRequestHandler):
    """Close a connection after its request: else what a client still says on a web socket is read as the next one."""

    protocol_version = "HTTP/1.0"


def _serve(pipe: Connection, server: Any) -> None:
    pipe.send(started(server))
    with contextlib.suppress(EOFError):  # whoever measures has ended
        pipe.recv()


def started(server: Any) -> str:
    """Serve in threads from now on; returns the address."""
    http = make_server(HOST, 0, socketio.WSGIApp(server), threaded=True, request_handler=_OneRequest)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    return f"http://{HOST}:{http.port}"
