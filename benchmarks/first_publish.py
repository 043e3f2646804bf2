"""What publishing a job costs the thread that does it: the first of a process, and later ones."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from celery import Task

from benchmarks.figures import Figure, Goal, alternate
from benchmarks.stage import Stage
from tests.services import Broker

ROW = "publish"
GOAL = Goal(1.5)
ROOT = Path(__file__).resolve().parents[1]


def measure(stage: Stage) -> Iterator[Figure]:
    """Time ``apply_async`` in a new process, with the extension and without."""
    for name in stage.brokers:
        ours, stock = _sides(stage, stage.broker(name))
        for kind, goal in (("first", GOAL), ("later", None)):
            what = f"apply_async, history on, {kind} of a process"
            yield Figure(ROW, what, name, "s", [one[kind] for one in stock], [one[kind] for one in ours], goal)


def _sides(stage: Stage, broker: Broker) -> list[list[dict[str, float]]]:
    count = stage.count(200)
    return alternate(stage.rounds, lambda: _publish(broker, "on", count), lambda: _publish(broker, "off", count))


def _publish(broker: Broker, extension: str, count: int) -> dict[str, float]:
    """Publish jobs in a new process, and return how many seconds the first took, and the median of the others."""
    env = {**os.environ, **broker.env, "EXTENSION": extension}
    command = [sys.executable, "-m", "benchmarks.first_publish", str(count)]
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _main(count: int) -> None:
    from benchmarks.bare_app import EXTENSION, app, noop

    spans = [_time(noop)]
    if EXTENSION:
        assert app.realtime.flush(30)
    spans += [_time(noop) for _ in range(count)]
    print(json.dumps({"first": spans[0], "later": statistics.median(spans[1:])}))


def _time(task: Task) -> float:
    started = time.perf_counter()
    task.apply_async(headers={"project_id": "p"}, queue="benchmarks")
    return time.perf_counter() - started


if __name__ == "__main__":
    _main(int(sys.argv[1]))
