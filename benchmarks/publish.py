"""What publishing a job costs who does it: a script, web servers, a task, a group; near the servers, and far away."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks.delay import delayed
from benchmarks.figures import Figure, Goal, alternate
from benchmarks.stage import Stage
from tests.services import Broker

ROW = "publish"
FIRST = Goal(1.5)
NEAR, FAR = Goal(1.15), Goal(1.05)
ROOT = Path(__file__).resolve().parents[1]

#: Seconds from a question to the answer of a server that is far away.
DISTANCE = 0.03


class Kind(NamedTuple):
    """A way of publishing.

    Attributes:
        name: As benchmarks.producer has it; ``task`` for a job of a worker.
        what: What the table calls it.
        near: How many jobs are published near the servers.
        far: How many are, with the servers far away; 0 for none.
    """

    name: str
    what: str
    near: int
    far: int


KINDS = (
    Kind("script", "from a script", 1000, 40),
    Kind("flask", "from Flask", 500, 40),
    Kind("asyncio", "from an asyncio server, whose loop does it", 1000, 40),
    Kind("task", "from a task", 1000, 40),
    Kind("group", "each member of a group of 10,000", 10000, 0),
    Kind("chord", "each member of a chord of 1,000", 1000, 0),
    Kind("thread", "beside a thread that emits 1,000 events a second", 1000, 40),
)


def measure(stage: Stage) -> Iterator[Figure]:
    """Time ``apply_async`` of each kind, with the extension and without."""
    for name in stage.brokers:
        broker = stage.broker(name)
        ours, stock = _compare(stage, broker, "script", 10)
        yield _figure("apply_async, first of a process", name, stock, ours, "first", FIRST)
        for kind in KINDS:
            yield from _kind(stage, broker, kind, kind.near, NEAR)
        with _far(broker) as far:
            for kind in KINDS:
                if kind.far:
                    yield from _kind(stage, far, kind, kind.far, FAR)


def _kind(stage: Stage, broker: Broker, kind: Kind, count: int, goal: Goal) -> Iterator[Figure]:
    count = stage.count(count)
    ours, stock = (_compare_tasks if kind.name == "task" else _compare)(stage, broker, kind.name, count)
    where = ", servers 30 ms away" if goal is FAR else ""
    yield _figure(f"apply_async, {kind.what}{where}", broker.name, stock, ours, "later", goal)
    if kind.name == "script" and goal is NEAR:
        yield _figure("CPU of a process for each job that it publishes", broker.name, stock, ours, "cpu", None)
        yield _figure("CPU of the thread that publishes, for each job", broker.name, stock, ours, "thread", None)


def _figure(
    what: str, broker: str, stock: list[dict[str, float]], ours: list[dict[str, float]], of: str, goal: Goal | None
) -> Figure:
    return Figure(ROW, what, broker, "s", [one[of] for one in stock], [one[of] for one in ours], goal)


@contextlib.contextmanager
def _far(broker: Broker) -> Iterator[Broker]:
    """Return a broker as it is with all servers far away."""
    with delayed(broker.url, DISTANCE) as url, delayed(broker.backend_url, DISTANCE) as backend_url:
        yield dataclasses.replace(broker, url=url, backend_url=backend_url)


def _compare(stage: Stage, broker: Broker, kind: str, count: int) -> list[list[dict[str, float]]]:
    return alternate(
        stage.rounds,
        functools.partial(_publish, broker.env, "on", kind, count),
        functools.partial(_publish, broker.env, "off", kind, count),
    )


def _publish(env: dict[str, str], extension: str, kind: str, count: int) -> dict[str, float]:
    """Publish jobs in a new process, and return what the first takes, and what each of the others does on average."""
    command = [sys.executable, "-m", "benchmarks.producer", kind, str(count)]
    environment = {**os.environ, **env, "EXTENSION": extension}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _compare_tasks(stage: Stage, broker: Broker, _kind: str, count: int) -> list[list[dict[str, float]]]:
    with contextlib.ExitStack() as stack:
        sides = []
        for queue, extension in (("with", "on"), ("without", "off")):
            worker = stage.worker(broker, app="benchmarks.bare_app", concurrency=1, queue=queue, EXTENSION=extension)
            stack.enter_context(worker)
            sides.append(functools.partial(_from_task, broker, queue, count))
        for side in sides:
            side()  # connects
        return alternate(stage.rounds, *sides)


def _from_task(broker: Broker, queue: str, count: int) -> dict[str, float]:
    client = broker.app("client")
    result = client.send_task(
        "benchmarks.bare_app.publish", kwargs={"count": count}, queue=queue, headers={"project_id": "p"}
    )
    return {"later": result.get(timeout=300)}
