"""What a SIGKILL costs: the time from the last event that arrived to the last one that had been accepted.

``python -m benchmarks.kill_window``: a task emits events at a steady rate, and notes each one in a file as soon as it
has been accepted. Its process, the child of a prefork worker, is killed at a random moment.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import signal
import struct
import sys
import tempfile
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from celery import Celery

from benchmarks.figures import percentile
from celery_realtime import Realtime
from celery_realtime.kombu_manager import RealtimeKombuManager
from tests.processes import Worker
from tests.programs import find
from tests.services import Broker, RabbitMQServer, RedisServer
from tests.waiting import wait_for

TASK = "benchmarks.kill_window.speak"
RATE = 1000.0
EVENT = "said"
MARK = "settled"
END = "ended"
HEADER = ("broker", "history", "seen by", "rounds", "with a loss", "median", "p95", "max", "events lost")

#: Seconds that a broker is given to read what a process that is no more had written to its socket.
SETTLING = 0.2

#: Most events of a project that are read back: one request's worth, which are more than the window holds.
LATEST = 900

#: What the file has of each event: its number, and the monotonic time.
NOTE = struct.Struct("<Qd")

app = Celery("kill_window")
app.conf.broker_connection_retry_on_startup = True
Realtime(app, **({"history_url": None} if os.environ.get("HISTORY") == "off" else {}))


@app.task(bind=True, name=TASK)
def speak(self: Any, path: str, rate: float) -> None:
    """Emit so many events a second, until the end."""
    notes = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    due = time.monotonic()
    for number in itertools.count():
        self.emit(EVENT, {"number": number, "pid": os.getpid()})
        os.write(notes, NOTE.pack(number, time.monotonic()))
        due += 1 / rate
        time.sleep(max(0.0, due - time.monotonic()))


class Loss(NamedTuple):
    """What one kill cost.

    Attributes:
        window: Seconds from the last event that arrived to the last one that was accepted.
        events: How many were accepted and did not arrive.
    """

    window: float
    events: int


class Ear:
    """Hears all that goes over a broker, as a web server does.

    Args:
        url: The broker.
    """

    def __init__(self, url: str) -> None:
        self.numbers: dict[str, list[int]] = defaultdict(list)
        self.pids: dict[str, int] = {}
        self._marks: set[str] = set()
        self._manager = RealtimeKombuManager(url)
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        assert self._manager.wait_until_listening(10)

    def _listen(self) -> None:
        for message in self._manager._listen():
            data = message["data"][0]
            if message["event"] == END:
                return
            if message["event"] == MARK:
                self._marks.add(data)
            elif message["event"] == EVENT:
                project = data["_realtime"]["project_id"]
                self.numbers[project].append(data["number"])
                self.pids[project] = data["pid"]

    def catch_up(self) -> None:
        """Wait until all that the broker has now has been heard."""
        mark = uuid.uuid4().hex
        self._say(MARK, mark)
        wait_for(lambda: mark in self._marks)

    def close(self) -> None:
        """Listen no more."""
        self._say(END)
        self._thread.join(10)
        self._manager.close()

    def _say(self, event: str, data: str = "") -> None:
        self._manager._publish({"method": "emit", "event": event, "data": [data]})


class Scene:
    """A worker whose children get killed, and those who would know of their last words.

    Args:
        broker: What they talk over.
        history: Whether there is a history, ``on`` or ``off``.
        folder: Where files go.
    """

    def __init__(self, broker: Broker, history: str, folder: Path) -> None:
        self._folder = folder
        self._client = broker.app()
        self._ear = Ear(broker.url)
        options = {} if history == "on" else {"history_url": None}
        self._history: Any = Realtime(broker.app(), **options).manager.history
        env = {**broker.env, "HISTORY": history}
        self._worker = Worker("benchmarks.kill_window", folder=folder, concurrency=3, env=env)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Let the worker run meanwhile."""
        try:
            self._worker.start()
            yield
        finally:
            self._worker.kill()
            self._ear.close()

    def kill(self, rate: float) -> dict[str, Loss]:
        """Kill a child while it speaks; returns what that cost, by who looks."""
        project = f"p-{uuid.uuid4().hex}"
        path = self._folder / project
        self._client.send_task(TASK, (str(path), rate), headers={"project_id": project}, ignore_result=True)
        pid = wait_for(lambda: self._ear.pids.get(project), timeout=30)
        time.sleep(random.uniform(0.1, 0.5))
        os.kill(pid, signal.SIGKILL)
        time.sleep(SETTLING)
        self._ear.catch_up()
        notes = path.read_bytes()
        accepted = dict(NOTE.iter_unpack(notes[: len(notes) // NOTE.size * NOTE.size]))
        found = {"listener": loss(accepted, self._ear.numbers[project])}
        if self._history is not None:
            found["history"] = loss(accepted, self._recorded(project))
        return found

    def _recorded(self, project: str) -> list[int]:
        """Return the latest numbers that the history has."""
        at = self._history.position(project)
        latest = self._history.read(project, at["epoch"], max(0, at["offset"] - LATEST)).events
        return [one["data"]["number"] for one in latest if one["event"] == EVENT]


def loss(accepted: dict[int, float], arrived: list[int]) -> Loss:
    """Return what was lost.

    Args:
        accepted: When each number was accepted.
        arrived: The numbers that arrived.

    Raises:
        AssertionError: There is a hole, or disorder, in what arrived: that would be a mistake, and no loss of a kill.
    """
    last = arrived[-1]
    assert arrived == list(range(arrived[0], last + 1)), "events are missing before others that arrived"
    lost = [at for number, at in accepted.items() if number > last]
    return Loss(lost[-1] - accepted[last], len(lost)) if lost else Loss(0.0, 0)


def measure(broker: Broker, history: str, folder: Path, *, rounds: int, rate: float) -> Iterator[tuple[str, ...]]:
    """Kill children on a broker; returns lines of the table."""
    scene = Scene(broker, history, folder)
    found: dict[str, list[Loss]] = defaultdict(list)
    with scene.running():
        for number in range(rounds):
            for who, lost in scene.kill(rate).items():
                found[who].append(lost)
                print(f"{broker.name}, history {history}, round {number + 1}: {who} {lost}", file=sys.stderr)
    for who, losses in found.items():
        yield (broker.name, history, who, *summary(losses))


def summary(losses: list[Loss]) -> Iterator[str]:
    """Return the last cells of a line."""
    windows = [lost.window * 1000 for lost in losses]
    yield str(len(losses))
    yield str(sum(1 for lost in losses if lost.events))
    for percent in (50, 95, 100):
        yield f"{percentile(windows, percent):.1f} ms"
    yield str(sum(lost.events for lost in losses))


@contextmanager
def brokers() -> Iterator[Iterator[tuple[Broker, Path]]]:
    """Start the servers; gives new brokers, and a folder."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        results = RedisServer(folder / "results", name="results").start()
        stack.callback(results.kill)
        servers: dict[str, RedisServer | RabbitMQServer] = {}
        for name, server in (("redis", RedisServer), ("rabbitmq", RabbitMQServer)):
            if find(name):
                servers[name] = server(folder / name).start()
                stack.callback(servers[name].kill)
        yield (
            (Broker(name, server, server.fresh_url(), results, results.fresh_url()), folder)
            for name, server in servers.items()
            for _ in range(2)
        )


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kill_window", description=__doc__)
    parser.add_argument("--rounds", type=int, default=30, help="how many children are killed for each line")
    parser.add_argument("--rate", type=float, default=RATE, help="events a second")
    options = parser.parse_args()
    lines: list[tuple[str, ...]] = []
    with brokers() as made:
        for (broker, folder), history in zip(made, itertools.cycle(("on", "off")), strict=False):
            lines += measure(broker, history, folder, rounds=options.rounds, rate=options.rate)
    for cells in (HEADER, ("---",) * len(HEADER), *lines):
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
