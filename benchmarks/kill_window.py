"""How much of what a task has said is lost when its process is killed with SIGKILL."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from celery import Celery

from benchmarks.figures import Figure, percentile
from benchmarks.stage import Stage
from celery_realtime.environments import name_in_history
from celery_realtime.history.store import History
from celery_realtime.web.client_manager import RealtimeClientManager
from celery_realtime.web.delivery import Emit
from tests.services import Broker
from tests.waiting import wait_for

ROW = "kill"
ROUNDS, MORE = 8, 40

Survivors = Callable[[str], int]


def measure(stage: Stage) -> Iterator[Figure]:
    """Kill a child that speaks five hundred times a second, and compare what it said with what is known of it."""
    for name in stage.brokers:
        for history in ("on", "off"):
            broker = stage.broker(name)
            with (
                _in_history(broker) if history == "on" else _heard(broker) as survivors,
                stage.worker(broker, concurrency=1, HISTORY=history) as _,
            ):
                windows = [_kill_once(broker, survivors) for _ in range(stage.count(ROUNDS, MORE))]
            for what, value in (("median", percentile(windows, 50)), ("longest", max(windows))):
                yield Figure(ROW, f"speech lost by a SIGKILL, history {history}: {what}", name, "s", [], [value])


@contextlib.contextmanager
def _in_history(broker: Broker) -> Iterator[Survivors]:
    history = History(broker.backend_url, name_in_history("socketio", broker.url, {}, None), 1000, 86400)
    yield lambda project: sum(event["event"] == "line" for event in _events(history, project))
    history.close()


def _events(history: History, project: str) -> list[dict[str, object]]:
    return history.read(project, history.read(project).epoch, 0).events


class _EveryRoom(RealtimeClientManager):
    """Of a server that has a client in every project."""

    def is_occupied(self, namespace: str, room: str) -> bool:  # noqa: ARG002
        return not room.startswith("batch")


@contextlib.contextmanager
def _heard(broker: Broker) -> Iterator[Survivors]:
    lines: dict[str, int] = {}
    ear = _EveryRoom(broker.url, max_backlog=1000, max_backlog_bytes=16 * 1024 * 1024)

    def listen() -> None:
        for items in ear.reader.read():
            for item in items:
                if isinstance(item, Emit) and item.event == "line":
                    project = item.room.removeprefix("project:")
                    lines[project] = lines.get(project, 0) + 1

    threading.Thread(target=listen, daemon=True).start()
    assert ear.wait_until_listening(10)
    yield lambda project: lines.get(project, 0)
    ear.stop_listening()


def _kill_once(broker: Broker, survivors: Survivors) -> float:
    """Return for how long the child had spoken in vain, in seconds."""
    project = f"project-{random.getrandbits(32):x}"
    with tempfile.TemporaryDirectory() as folder:
        ledger = Path(folder) / "ledger"
        client: Celery = broker.app("client")
        client.send_task("benchmarks.app.confess", (str(ledger),), headers={"project_id": project})
        wait_for(lambda: ledger.exists() and ledger.read_text().count("\n") > random.randint(100, 200), timeout=20)
        os.kill(int(ledger.read_text().split()[0]), signal.SIGKILL)
        said = [float(line.split()[1]) for line in ledger.read_text().splitlines()]
        known = _settled(lambda: survivors(project))
    return max(0.0, said[-1] - said[max(known, 1) - 1]) if known < len(said) else 0.0


def _settled(count: Callable[[], int]) -> int:
    """Return a count that has not changed for a quarter of a second."""
    last, since = count(), time.monotonic()
    while time.monotonic() - since < 0.25:
        time.sleep(0.02)
        if count() != last:
            last, since = count(), time.monotonic()
    return last
