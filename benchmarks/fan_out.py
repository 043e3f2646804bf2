"""What it costs a web server to emit to many browsers, and how long it takes."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import psutil
import socketio

from benchmarks.browsers import browse
from benchmarks.figures import Figure, Goal, alternate, percentile
from benchmarks.latency import SECRET, child
from benchmarks.speech import payload, realtime
from benchmarks.stage import Stage
from celery_realtime.events import PROGRESS_EVENT
from celery_realtime.rooms import project_room
from tests.processes import HOST, free_port

if TYPE_CHECKING:
    from typing_extensions import Self

ROW = "fan-out"
#: The most events in a burst, and the most deliveries that come of one.
BURST, DELIVERIES = 200, 50_000
SINGLE, RATE = 16, 16

#: How many browsers are compared, in how many projects; and with uvicorn alone: how it is with more.
CLIENTS, PROJECTS = 100, (1, 20)
MORE = (1000, 5000)
#: A user may have 800 connections to a server.
CLIENTS_OF_A_USER = 500
#: The web servers that are measured, with what is asked of each in a burst and of single events.
HOSTS = {
    "uvicorn": (Goal(1 / 20), Goal(1 / 5)),  # with wsproto
    "websockets": (Goal(1 / 20), Goal(1 / 5)),  # uvicorn with websockets
    "threading": (Goal(1 / 5), Goal(1 / 5)),
    "gthread": (Goal(1 / 5), Goal(1 / 5)),
    "gevent": (Goal(1.0), Goal(1.0)),
    "eventlet": (Goal(1.0), Goal(1.0)),
    "hypercorn": (Goal(1.0), Goal(1.0)),
    "granian": (Goal(1.0), Goal(1.0)),
    "daphne": (Goal(1.0), Goal(1.0)),
}
#: Those that are no dependency of the tests, and left out where they are not installed.
OPTIONAL = ("websockets", "hypercorn", "granian", "daphne")
#: Those that are left out unless it may take long: they have what others have.
LONG = ("gthread", "websockets", "hypercorn", "daphne")


class Delivered(NamedTuple):
    """What came of some events.

    Attributes:
        processor: Seconds of the server's processor time for one delivery.
        rate: Deliveries a second, from the first event sent until the last was received.
        took: How long each event took to each browser, in seconds.
    """

    processor: float
    rate: float
    took: list[float]


def measure(stage: Stage) -> Iterator[Figure]:
    """Emit to browsers that offer compression, as all do, by this package's server and by python-socketio's."""
    for host in HOSTS:
        if host in OPTIONAL and importlib.util.find_spec(host) is None:
            print(f"{host} is not installed: its lines are missing", file=sys.stderr)
            continue
        if host in LONG and not stage.long:
            continue
        clients = stage.count(CLIENTS, 500)
        for projects in PROJECTS if host == "uvicorn" or stage.long else PROJECTS[:1]:
            yield from _compare(stage, host, clients, min(projects, clients), stage.few)
    yield from _grown(stage)


def _grown(stage: Stage) -> Iterator[Figure]:
    """Emit to more browsers, as many as files and memory allow."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    for clients in MORE:
        if clients + 200 > allowed:
            print(f"{clients} browsers need a higher ulimit -n: their lines are missing", file=sys.stderr)
        else:
            yield from _compare(stage, "uvicorn", stage.count(clients), 1, stage.few)


def _compare(stage: Stage, host: str, clients: int, projects: int, rounds: int) -> Iterator[Figure]:
    broker = stage.broker("redis")
    names = [f"project-{number}" for number in range(projects)]
    burst, single = HOSTS[host]
    with (
        Audience("stock", host, broker.url, names, clients) as stock,
        Audience("ours", host, broker.url, names, clients) as ours,
    ):
        what = f"{clients} browsers, {projects} project{'s' if projects > 1 else ''}, {host}"
        at_once = min(BURST, max(1, DELIVERIES // clients))
        apart = stage.count(SINGLE, 3 * SINGLE)
        kinds = ((f"a burst of {at_once}", at_once, 0, burst), ("single events", apart, RATE, single))
        for kind, count, rate, goal in kinds:
            sides = [functools.partial(side.emit, count, rate) for side in (stock, ours)]
            for side in sides:
                side()
            before, after = alternate(rounds, *sides)
            yield _figure(f"{what}, {kind}: processor time of a delivery", "s", before, after, "processor", goal)
            if not rate:
                yield _figure(f"{what}, {kind}: deliveries", "/s", before, after, "rate", None)
            for percent in (50, 99):
                stock_took, took = ([percentile(run.took, percent) for run in runs] for runs in (before, after))
                yield Figure(ROW, f"{what}, {kind}: p{percent}", "redis", "s", stock_took, took, Goal(1.0))
        memory = [[side.memory() / clients] for side in (stock, ours)]
        what = f"{what}: memory of a client"
        yield Figure(ROW, what, "redis", "B", memory[0], memory[1], Goal(64 * 1024, is_ratio=False))


def _figure(
    what: str, unit: str, before: list[Delivered], after: list[Delivered], name: str, goal: Goal | None
) -> Figure:
    stock, ours = ([float(getattr(run, name)) for run in runs] for runs in (before, after))
    return Figure(ROW, what, "redis", unit, stock, ours, goal)


@contextlib.contextmanager
def _serving(side: str, host: str, url: str) -> Iterator[tuple[str, psutil.Process]]:
    """Run a web server meanwhile; yields its address and its process."""
    port = str(free_port())
    names = {"SIDE": side, "HOST": host, "BROKER": url, "PORT": port}
    environment = {**os.environ, **{f"FAN_OUT_{name}": value for name, value in names.items()}}
    command = [sys.executable, "-m", "benchmarks.fan_out_host"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
        server = psutil.Process(process.pid)
        try:
            yield f"http://{HOST}:{port}", server
        finally:
            for child_process in server.children(recursive=True):
                child_process.kill()
            process.kill()


class Audience:
    """A web server of one side in a process of its own, and browsers in another.

    Args:
        side: ``stock`` or ``ours``.
        host: The web server, see ``HOSTS``.
        url: The broker.
        projects: The projects.
        clients: How many browsers follow them.
    """

    def __init__(self, side: str, host: str, url: str, projects: list[str], clients: int) -> None:
        self._side = side
        self._projects = projects
        self._clients = clients
        self._stack = contextlib.ExitStack()
        hub = realtime(url, channel="ours", secret_key=SECRET)
        self._emit = self._emitter(hub, url)
        address, self._server = self._stack.enter_context(_serving(side, host, url))
        with child(browse, address, [(projects[0], hub.issue_token("ada", projects))], 1) as first:
            assert first.recv() == "ready"  # the server has loaded what it needs
        self._empty = self._memory()
        users = [f"user-{number}" for number in range(-(-clients // CLIENTS_OF_A_USER))]
        tokens = [(project, hub.issue_token(user, [project])) for user in users for project in projects]
        self._browsers = self._stack.enter_context(child(browse, address, tokens, clients))
        assert self._browsers.recv() == "ready"

    def _emitter(self, hub: Any, url: str) -> Any:
        if self._side == "ours":
            return lambda project, data: hub.manager.emit_to_project(project, "told", data)
        manager = socketio.RedisManager(url, write_only=True)
        return lambda project, data: manager.emit(PROGRESS_EVENT, data, room=project_room(project))

    def emit(self, count: int, rate: int) -> Delivered:
        """Emit so many events to each project.

        Args:
            count: How many.
            rate: How many a second, one by one; 0 for all at once.
        """
        self._browsers.send(count)
        begin, worked = time.monotonic(), self._worked()
        for number in range(count):
            for project in self._projects:
                self._emit(project, payload(number, repr(time.monotonic())))
            time.sleep(1 / rate if rate else 0)
        end, took = self._browsers.recv()
        deliveries = count * self._clients
        spans = [seconds for of_name in took.values() for seconds in of_name]
        return Delivered((self._worked() - worked) / deliveries, deliveries / (end - begin), spans)

    def _processes(self) -> list[psutil.Process]:
        return [self._server, *self._server.children(recursive=True)]

    def _worked(self) -> float:
        times = [process.cpu_times() for process in self._processes()]
        return float(sum(each.user + each.system for each in times))

    def _memory(self) -> int:
        return sum(int(process.memory_info().rss) for process in self._processes())

    def memory(self) -> float:
        """Return by how many bytes the server has grown."""
        return float(self._memory() - self._empty)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
