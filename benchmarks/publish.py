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
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.delay import delayed
from benchmarks.figures import Figure, Goal, alternate
from benchmarks.stage import Stage
from tests.services import Broker

if TYPE_CHECKING:
    from typing_extensions import Self

ROW = "publish"
FIRST = Goal(1.5)
NEAR, FAR = Goal(1.15), Goal(1.05)
SIDES = ("on", "off")
ROOT = Path(__file__).resolve().parents[1]

#: Milliseconds from a question to the answer of servers that are far away; those on the way there for scripts alone.
DISTANCE, NEARER = 30, (3, 10)


class Kind(NamedTuple):
    """A way of publishing.

    Attributes:
        name: As benchmarks.producer has it; ``task`` for a job of a worker.
        what: What the table calls it.
        near: How many jobs are published near the servers in a round.
        long: How many are when it may take long.
        far: How many are with the servers far away; 0 for none.
    """

    name: str
    what: str
    near: int
    long: int
    far: int


KINDS = (
    Kind("script", "from a script", 500, 2000, 12),
    Kind("flask", "from Flask", 300, 1000, 12),
    Kind("asyncio", "from an asyncio server, whose loop does it", 500, 2000, 12),
    Kind("task", "from a task", 500, 2000, 12),
    Kind("group", "each member of a group", 2000, 10000, 0),
    Kind("chord", "each member of a chord", 500, 1000, 0),
    Kind("thread", "beside a thread that emits 1,000 events a second", 500, 2000, 12),
)


def measure(stage: Stage) -> Iterator[Figure]:
    """Time ``apply_async`` of each kind, with the extension and without."""
    for name in stage.brokers:
        broker = stage.broker(name)
        ours, stock = alternate(stage.rounds, *(functools.partial(_first, broker, side) for side in SIDES))
        yield _figure("apply_async, first of a process", name, stock, ours, "first", FIRST)
        for kind in KINDS:
            yield from _kind(stage, broker, kind)
        for distance in NEARER:
            with _far(broker, distance) as nearer:
                yield from _kind(stage, nearer, KINDS[0], distance)
        with _far(broker, DISTANCE) as far:
            for kind in KINDS:
                if kind.far:
                    yield from _kind(stage, far, kind, DISTANCE)


def _kind(stage: Stage, broker: Broker, kind: Kind, distance: int = 0) -> Iterator[Figure]:
    count = stage.count(kind.far) if distance else stage.count(kind.near, kind.long)
    rounds = stage.few if distance else stage.rounds
    ours, stock = (_compare_tasks if kind.name == "task" else _compare)(stage, broker, kind.name, count, rounds)
    where = f", servers {distance} ms away" if distance else ""
    goal = NEAR if not distance else FAR if distance == DISTANCE else None
    yield _figure(f"apply_async, {kind.what}{where}", broker.name, stock, ours, "later", goal)
    if kind.name == "script" and not distance:
        yield _figure("CPU of a process for each job that it publishes", broker.name, stock, ours, "cpu", None)
        yield _figure("CPU of the thread that publishes, for each job", broker.name, stock, ours, "thread", None)


def _figure(
    what: str, broker: str, stock: list[dict[str, float]], ours: list[dict[str, float]], of: str, goal: Goal | None
) -> Figure:
    return Figure(ROW, what, broker, "s", [one[of] for one in stock], [one[of] for one in ours], goal)


@contextlib.contextmanager
def _far(broker: Broker, distance: int) -> Iterator[Broker]:
    """Return a broker as it is with all servers so many milliseconds away."""
    seconds = distance / 1000
    with delayed(broker.url, seconds) as url, delayed(broker.backend_url, seconds) as backend_url:
        yield dataclasses.replace(broker, url=url, backend_url=backend_url)


def _compare(_stage: Stage, broker: Broker, kind: str, count: int, rounds: int) -> list[list[dict[str, float]]]:
    with contextlib.ExitStack() as stack:
        producers = [stack.enter_context(_Producer(broker, side, kind)) for side in SIDES]
        for producer in producers:
            producer.publish(min(count, 10))
        return alternate(rounds, *(functools.partial(producer.publish, count) for producer in producers))


def _first(broker: Broker, extension: str) -> dict[str, float]:
    with _Producer(broker, extension, "script") as producer:
        return producer.first


class _Producer:
    """A process that publishes jobs.

    Args:
        broker: The broker.
        extension: Whether it is one with the extension, ``on`` or ``off``.
        kind: As benchmarks.producer has it.

    Attributes:
        first: What its first job took.
    """

    def __init__(self, broker: Broker, extension: str, kind: str) -> None:
        command = [sys.executable, "-m", "benchmarks.producer", kind]
        environment = {**os.environ, **broker.env, "EXTENSION": extension}
        self._process = subprocess.Popen(
            command, env=environment, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.first = self._answer()

    def _answer(self) -> dict[str, float]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the process that publishes has ended"
        answer: dict[str, float] = json.loads(line)
        return answer

    def publish(self, count: int) -> dict[str, float]:
        """Publish so many jobs, and return what each of them takes."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{count}\n")
        self._process.stdin.flush()
        return self._answer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._process.communicate(timeout=60)
        finally:
            self._process.kill()


def _compare_tasks(stage: Stage, broker: Broker, _kind: str, count: int, rounds: int) -> list[list[dict[str, float]]]:
    with contextlib.ExitStack() as stack:
        sides = []
        for queue, extension in (("with", "on"), ("without", "off")):
            worker = stage.worker(broker, app="benchmarks.bare_app", concurrency=1, queue=queue, EXTENSION=extension)
            stack.enter_context(worker)
            sides.append(functools.partial(_from_task, broker, queue, count))
        for side in sides:
            side()  # connects
        return alternate(rounds, *sides)


def _from_task(broker: Broker, queue: str, count: int) -> dict[str, float]:
    client = broker.app("client")
    result = client.send_task(
        "benchmarks.bare_app.publish", kwargs={"count": count}, queue=queue, headers={"project_id": "p"}
    )
    return {"later": result.get(timeout=300)}
