"""How much more memory a worker's child needs when it sends events."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks.figures import Figure, Goal, alternate
from benchmarks.stage import Stage
from tests.services import Broker

ROW = "memory"
GOAL = Goal(4 * 1024 * 1024, is_ratio=False)


def measure(stage: Stage) -> Iterator[Figure]:
    """Compare a prefork child that has sent events with one of a worker without the extension."""
    if not Path("/proc/self/smaps_rollup").exists():
        return
    for name in stage.brokers:
        with_us, without = _sides(stage, stage.broker(name))
        for kind, what, goal in (
            ("private", "private memory of a prefork child", GOAL),
            ("collected", "private memory of a prefork child, after a full garbage collection", None),
        ):
            ours, stock = [one[kind] for one in with_us], [one[kind] for one in without]
            yield Figure(ROW, what, name, "B", stock, ours)
            more = [mine - theirs for mine, theirs in zip(ours, stock, strict=True)]
            yield Figure(ROW, f"{what}: difference", name, "B", [], more, goal)
        ours, stock = [one["share"] for one in with_us], [one["share"] for one in without]
        yield Figure(ROW, "proportional share of memory of a prefork child", name, "B", stock, ours)


def _sides(stage: Stage, broker: Broker) -> list[list[dict[str, int]]]:
    return alternate(stage.few, lambda: _child(stage, broker, "on"), lambda: _child(stage, broker, "off"))


def _child(stage: Stage, broker: Broker, extension: str) -> dict[str, int]:
    """Return the memory of a new worker's only child."""
    with stage.worker(broker, app="benchmarks.bare_app", concurrency=1, EXTENSION=extension):
        client = broker.app("client")
        client.send_task("benchmarks.bare_app.noop_kept").get(timeout=60)  # connects to the result backend
        result = client.send_task(
            "benchmarks.bare_app.remember", kwargs={"count": stage.count(200)}, headers={"project_id": "p"}
        )
        found: dict[str, int] = result.get(timeout=60)
        return found
