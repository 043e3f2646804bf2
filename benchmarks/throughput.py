"""How many tasks that do nothing a worker gets through, with the extension, without, and with Celery's own events."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from contextlib import ExitStack
from typing import NamedTuple

import psutil
from celery import Celery

from benchmarks.figures import Figure, Goal, alternate
from benchmarks.stage import Stage
from tests.processes import Worker
from tests.services import Broker

ROW = "throughput"
GOAL = Goal(0.95, is_least=True)
EVENTS_GOAL = Goal(1.5, is_least=True)
CPU_GOAL = Goal(0.15e-3, is_ratio=False)
MANY, MORE = 800, 4000
RESULTS = {"noop": "results ignored", "noop_kept": "results kept"}
CASES = (
    ("prefork", "on", ("noop", "noop_kept")),
    ("prefork", "off", ("noop",)),
    ("threads", "on", ("noop", "noop_kept")),
)


class Drain(NamedTuple):
    """What it was like to work off a queue.

    Attributes:
        rate: Tasks a second.
        cpu: Time of all processors that the worker and all servers have taken for a task, in seconds.
    """

    rate: float
    cpu: float


def measure(stage: Stage) -> Iterator[Figure]:
    """Let workers, each in turn, work off a queue that is full already."""
    for name in stage.brokers:
        for pool, history, kinds in CASES:
            if history == "off" and not stage.long:
                continue
            yield from _compare(stage, stage.broker(name), pool, history, kinds)


def _compare(stage: Stage, broker: Broker, pool: str, history: str, kinds: tuple[str, ...]) -> Iterator[Figure]:
    run = Run(broker)
    workers = (
        stage.worker(broker, pool=pool, queue="idle-1", HISTORY=history),
        stage.worker(broker, pool=pool, queue="idle-2", EXTENSION="off"),
        stage.worker(broker, pool=pool, queue="idle-3", EXTENSION="off", EVENTS="on"),
    )
    with ExitStack() as stack:
        sides = [stack.enter_context(worker) for worker in workers]
        for side in sides:
            run.drain(side, "noop_kept", stage.count(100))
        for kind in kinds:
            count = stage.count(MANY, MORE)
            compared = sides if kind == "noop" or stage.long else sides[:2]  # Celery's events do not depend on results
            drains = alternate(stage.rounds, *(functools.partial(run.drain, side, kind, count) for side in compared))
            what = f"no-op tasks, {pool}, history {history}, {RESULTS[kind]}"
            yield from _figures(what, broker.name, drains, has_goals=history == "on")


def _figures(what: str, broker: str, drains: list[list[Drain]], *, has_goals: bool) -> Iterator[Figure]:
    ours, stock, *with_events = ([drain.rate for drain in side] for side in drains)
    yield Figure(ROW, what, broker, "/s", stock, ours, GOAL if has_goals else None)
    for rates in with_events:
        goal = EVENTS_GOAL if has_goals else None
        yield Figure(ROW, f"{what}; stock: with Celery's -E", broker, "/s", rates, ours, goal)
    more = [mine.cpu - plain.cpu for mine, plain in zip(drains[0], drains[1], strict=True)]
    goal = CPU_GOAL if has_goals else None
    yield Figure(ROW, f"{what}: CPU a task, all processes, difference", broker, "s", [], more, goal)


class Run:
    """Fill queues and have them worked off.

    Args:
        broker: The broker.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._client: Celery = broker.app("client")
        self._numbers = itertools.count()

    def drain(self, worker: Worker, task: str, count: int) -> Drain:
        """Have a worker work off a queue in which all tasks wait when it begins."""
        number = next(self._numbers)
        queue, headers = f"full-{number}", {"project_id": f"project-{number}"}
        first = self._client.send_task("benchmarks.app.mark", queue=queue)
        for _ in range(count):
            self._client.send_task(f"benchmarks.app.{task}", queue=queue, headers=headers)
        last = self._client.send_task("benchmarks.app.mark", queue=queue)
        before = self._cpu(worker)
        self._consume(queue, worker)
        took = last.get(timeout=300) - first.get(timeout=10)
        self._client.control.cancel_consumer(queue, destination=[worker.hostname], reply=True)
        return Drain(count / took, (self._cpu(worker) - before) / count)

    def _cpu(self, worker: Worker) -> float:
        """Return what the worker, its children and the servers have taken so far, in seconds."""
        main, total = psutil.Process(worker.pid), 0.0
        servers = {psutil.Process(server.pid) for server in (self._broker.server, self._broker.backend)}
        for process in {main, *main.children(recursive=True), *servers}:
            times = process.cpu_times()
            total += times.user + times.system
        return total

    def _consume(self, queue: str, worker: Worker) -> None:
        answers = self._client.control.add_consumer(queue, destination=[worker.hostname], reply=True, timeout=5)
        assert answers, f"{worker.name} does not answer"
