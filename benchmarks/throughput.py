"""How many tasks that do nothing a worker gets through, with the extension and without."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator

from celery import Celery

from benchmarks.figures import Figure, Goal, alternate
from benchmarks.stage import Stage
from tests.processes import Worker
from tests.services import Broker

ROW = "throughput"
GOAL = Goal(0.9, is_least=True)
RESULTS = {"noop": "results ignored", "noop_kept": "results kept"}
CASES = (
    ("prefork", "on", ("noop", "noop_kept")),
    ("prefork", "off", ("noop",)),
    ("threads", "on", ("noop",)),
)


def measure(stage: Stage) -> Iterator[Figure]:
    """Let a worker with the extension, and one without, work off a queue that is full already."""
    for name in stage.brokers:
        for pool, history, kinds in CASES:
            yield from _compare(stage, stage.broker(name), pool, history, kinds)


def _compare(stage: Stage, broker: Broker, pool: str, history: str, kinds: tuple[str, ...]) -> Iterator[Figure]:
    run = Run(broker)
    many = stage.count(600)
    with (
        stage.worker(broker, pool=pool, queue="idle-1", HISTORY=history) as worker,
        stage.worker(broker, pool=pool, queue="idle-2", EXTENSION="off") as plain,
    ):
        for one in (worker, plain):
            run.rate(one, "noop_kept", stage.count(100))
        for kind in kinds:
            ours, stock = alternate(
                stage.rounds,
                functools.partial(run.rate, worker, kind, many),
                functools.partial(run.rate, plain, kind, many),
            )
            what = f"no-op tasks, {pool}, history {history}, {RESULTS[kind]}"
            yield Figure(ROW, what, broker.name, "/s", stock, ours, GOAL if history == "on" else None)


class Run:
    """Fill queues and have them worked off.

    Args:
        broker: The broker.
    """

    def __init__(self, broker: Broker) -> None:
        self._client: Celery = broker.app("client")
        self._numbers = itertools.count()

    def rate(self, worker: Worker, task: str, count: int) -> float:
        """Return how many tasks a worker gets through in a second, all of them waiting when it begins."""
        number = next(self._numbers)
        queue, headers = f"full-{number}", {"project_id": f"project-{number}"}
        first = self._client.send_task("benchmarks.app.mark", queue=queue)
        for _ in range(count):
            self._client.send_task(f"benchmarks.app.{task}", queue=queue, headers=headers)
        last = self._client.send_task("benchmarks.app.mark", queue=queue)
        self._consume(queue, worker)
        found: float = count / (last.get(timeout=120) - first.get(timeout=10))
        self._client.control.cancel_consumer(queue, destination=[worker.hostname], reply=True)
        return found

    def _consume(self, queue: str, worker: Worker) -> None:
        answers = self._client.control.add_consumer(queue, destination=[worker.hostname], reply=True, timeout=5)
        assert answers, f"{worker.name} does not answer"
