"""How many events a process gets rid of in a second."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

import msgspec

from benchmarks.figures import Figure, Goal, alternate
from benchmarks.speech import MESSAGE, realtime, stock_emit, stock_manager, update
from benchmarks.stage import Stage
from celery_realtime.events import ProgressUpdate, outgoing_progress
from tests.services import Broker

ROW = "sender"
GOAL = Goal(10, is_least=True)

#: Fewer than the outbox has places; each has one update in it at a time, so that none replaces another.
JOBS = 8000


def measure(stage: Stage) -> Iterator[Figure]:
    """Send progress of many jobs, and wait until all has left."""
    for name in stage.brokers:
        broker = stage.broker(name)
        for history, goal in (("off", GOAL), ("on", None)):
            ours, stock = _rates(stage, broker, broker.backend_url if history == "on" else None)
            yield Figure(ROW, f"events sent, history {history}", name, "/s", stock, ours, goal)


def _rates(stage: Stage, broker: Broker, history_url: str | None) -> list[list[float]]:
    manager = realtime(broker.url, history_url=history_url).manager
    stock = stock_manager(broker.url)
    told = itertools.count()

    def send_ours(count: int) -> float:
        updates = [_update(next(told)) for _ in range(count)]
        started = time.perf_counter()
        for first in range(0, count, JOBS):
            for one in updates[first : first + JOBS]:
                manager.put(outgoing_progress(one))
            assert manager.flush(60)
        return count / (time.perf_counter() - started)

    def send_stock(count: int) -> float:
        payloads = [msgspec.to_builtins(_update(next(told))) for _ in range(count)]
        started = time.perf_counter()
        for payload in payloads:
            stock_emit(stock, payload)
        return count / (time.perf_counter() - started)

    send_ours(200)
    send_stock(10)
    many, few = stage.count(16000 if history_url else 32000), stage.count(4000)
    found = alternate(stage.rounds, lambda: send_ours(many), lambda: send_stock(few))
    assert set(manager.outbox.counts) == {"sent"}, manager.outbox.counts
    manager.close()
    stock.publisher_connection.release()
    return found


def _update(number: int) -> ProgressUpdate:
    return update(number % JOBS, f"{MESSAGE} {number}")
