"""What a progress call costs the task that makes it."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Iterator
from typing import Any

from celery import Celery

from benchmarks.figures import Figure, Goal, alternate
from benchmarks.speech import PROJECT
from benchmarks.stage import Stage
from tests.services import Broker

ROW = "task"
GOALS = {"redis": Goal(1 / 30), "rabbitmq": Goal(1 / 10)}
TOP = Goal(100e-6, is_ratio=False)
CHILDREN = 4


def measure(stage: Stage) -> Iterator[Figure]:
    """Time ``self.update_progress`` in a prefork worker, alone and with four children at once."""
    for name in stage.brokers:
        for history in ("on", "off"):
            yield from _alone(stage, stage.broker(name), history)
        yield from _under_load(stage, stage.broker(name))


def _alone(stage: Stage, broker: Broker, history: str) -> Iterator[Figure]:
    few, many = stage.count(1000), stage.count(10000)
    with stage.worker(broker, concurrency=1, HISTORY=history):
        client = broker.app("client")
        _run(client, "ours", count=10)
        _run(client, "theirs", count=10)
        ours, stock, paced, paced_stock, held = alternate(
            stage.rounds,
            lambda: _run(client, "ours", count=many)[0],
            lambda: _run(client, "theirs", count=few)[0],
            lambda: _run(client, "ours", count=few // 3, pause=0.001)[0],
            lambda: _run(client, "theirs", count=few // 3, pause=0.001)[0],
            lambda: _run(client, "ours", count=many, interval=5.0)[0],
        )
    for what, kind, theirs, our, goal in (
        ("median call", "median", stock, ours, GOALS[broker.name]),
        ("mean call", "mean", stock, ours, None),
        ("CPU of the task's thread", "cpu", stock, ours, None),
        ("median call, calls 1 ms apart", "median", paced_stock, paced, None),
        ("mean call, updates 5 s apart", "mean", stock, held, None),
    ):
        yield Figure(
            ROW,
            f"update_progress, history {history}: {what}",
            broker.name,
            "s",
            _of(theirs, kind),
            _of(our, kind),
            goal,
        )


def _under_load(stage: Stage, broker: Broker) -> Iterator[Figure]:
    with stage.worker(broker, concurrency=CHILDREN):
        client = broker.app("client")
        for apart, pause in (("without pause", 0.0), ("1 ms apart", 0.001)):
            how = {"count": 10, "seconds": stage.count(50) / 100, "pause": pause}
            ours, stock = alternate(
                stage.rounds,
                functools.partial(_top, client, "ours", how),
                functools.partial(_top, client, "theirs", how),
            )
            what = f"update_progress, history on, {CHILDREN} children at once, calls {apart}: p99"
            yield Figure(ROW, what, broker.name, "s", stock, ours, TOP)


def _top(client: Celery, task: str, how: dict[str, Any]) -> float:
    results = _run(client, task, tasks=CHILDREN, **how)
    return statistics.mean(_of(results, "p99"))


def _run(client: Celery, task: str, *, tasks: int = 1, **how: Any) -> list[dict[str, float]]:
    start_at = time.time() + (0.3 if tasks > 1 else 0)
    sent = [
        client.send_task(
            f"benchmarks.app.{task}", kwargs={"start_at": start_at, **how}, headers={"project_id": PROJECT}
        )
        for _ in range(tasks)
    ]
    return [result.get(timeout=60) for result in sent]


def _of(results: list[dict[str, float]], kind: str) -> list[float]:
    return [result[kind] for result in results]
