"""What metrics cost a process that sends events, and a web server that hears them."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.figures import Figure, Goal, alternate
from benchmarks.listener import BATCH, Ear
from benchmarks.speech import MESSAGE, PROJECT, outgoing, realtime, update
from benchmarks.stage import Stage
from celery_realtime.events import outgoing_progress
from tests.services import Broker

ROW = "metrics"
GOAL = Goal(1.02)

#: Fewer than the outbox has places; each has one update in it at a time, so that none replaces another.
JOBS = 8000


def measure(stage: Stage) -> Iterator[Figure]:
    """Send and hear the same with metrics and without."""
    for name in stage.brokers:
        broker = stage.broker(name)
        for what, begin in (("sent, history on", _sender), ("heard", _listener)):
            sides = [begin(stage, broker, metrics=metrics) for metrics in (True, False)]
            for side in sides:
                side()
            with_metrics, without = alternate(stage.rounds, *sides)
            yield Figure(ROW, f"CPU per event {what}; beside: no metrics", name, "s", without, with_metrics, GOAL)


def _sender(stage: Stage, broker: Broker, *, metrics: bool) -> Callable[[], float]:
    """Return what sends events, and returns the time of the processor that the process has taken for each."""
    manager = realtime(broker.url, history_url=broker.backend_url, channel=f"m{metrics}", metrics=metrics).manager
    numbers, count = itertools.count(), stage.count(16000)

    def send() -> float:
        updates = [update(number % JOBS, f"{MESSAGE} {number}") for number in itertools.islice(numbers, count)]
        before = time.process_time()
        for first in range(0, count, JOBS):
            for one in updates[first : first + JOBS]:
                manager.put(outgoing_progress(one))
            assert manager.flush(60)
        return (time.process_time() - before) / count

    return send


def _listener(stage: Stage, broker: Broker, *, metrics: bool) -> Callable[[], float]:
    """Return what publishes events, and returns what the thread that hears them has taken for each."""
    hub: Any = realtime(broker.url, channel=f"h{metrics}", metrics=metrics)
    publisher = hub.manager.publisher
    ear = Ear(hub.client_manager(), publisher._publish)
    ear.let_follow(PROJECT)

    def tell(count: int) -> None:
        for first in range(0, count, BATCH):
            assert publisher.publish_events([outgoing(number) for number in range(first, first + BATCH)]) == BATCH

    return lambda: ear.time(tell, stage.count(200) * BATCH)
