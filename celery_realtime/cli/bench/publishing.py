"""What it costs to publish a job, with the extension and without."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from celery import Celery, Task

from celery_realtime.channel.connections import passing_queue
from celery_realtime.cli.bench.setup import PROJECT, Setup
from celery_realtime.clocks import time
from celery_realtime.jobs.measuring import TASK_NAME, summary

#: Rounds with and without, in turn, and the publications of each.
ROUNDS, CALLS = 5, 50


def measure(setup: Setup) -> dict[str, Any]:
    """Publish jobs to a queue that nobody reads, and delete it.

    Returns:
        ``with`` and ``without``: what :func:`~celery_realtime.jobs.measuring.summary` returns; ``extra_us``: how much
        more a call takes in the median.
    """
    app = setup.realtime.app
    plain = Celery(app.main, set_as_current=False)
    plain.conf.update(app.conf.table(censored=False))
    with _queue(app) as queue:
        publish = _publisher(app, queue)
        publish_plainly = _publisher(plain, queue)
        setup.published += [publish(), publish_plainly()]  # which connects, and loads what publishing needs
        setup.flush()
        ours: list[float] = []
        theirs: list[float] = []
        for _ in range(ROUNDS):
            ours += _time(publish, setup.published)
            setup.flush()
            theirs += _time(publish_plainly, [])
    plain.close()
    spans = {"with": summary(ours), "without": summary(theirs)}
    return {**spans, "extra_us": round(spans["with"]["p50_us"] - spans["without"]["p50_us"], 1)}


@contextlib.contextmanager
def _queue(app: Any) -> Iterator[Any]:
    queue = passing_queue(f"celery-realtime-bench-{uuid.uuid4().hex[:12]}")
    try:
        yield queue
    finally:
        with app.connection_for_write() as connection:
            bound = queue(connection.default_channel)
            bound.declare()  # a connection to a Redis deletes what it has declared
            bound.delete()


def _publisher(app: Any, queue: Any) -> Callable[[], str]:
    """Return what publishes a job that no worker knows, and returns its id."""

    class Passing(Task):
        name = TASK_NAME
        ignore_result = True

    Passing.bind(app)
    task = Passing()
    return lambda: task.apply_async(queue=queue, headers={"project_id": PROJECT}).id


def _time(publish: Callable[[], str], ids: list[str]) -> list[float]:
    spans = []
    for _ in range(CALLS):
        began = time.monotonic()
        ids.append(publish())
        spans.append(time.monotonic() - began)
    return spans
