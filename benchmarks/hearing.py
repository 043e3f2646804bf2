"""What a web server's part of the hearing costs, where several share the projects of a channel."""

from __future__ import annotations

import functools
from collections.abc import Iterator

from benchmarks.figures import Figure, Goal, alternate
from benchmarks.listener import Ear
from benchmarks.speech import outgoing, realtime
from benchmarks.stage import Stage
from celery_realtime import Realtime
from celery_realtime.channel.shards import shard_of
from tests.services import Broker

ROW = "hearing"
SERVERS, PROJECTS = 4, 400
GOAL = Goal(0.35)

#: By number of shards, whether clients of a shard come to one server, as behind a balancer that goes by the project.
DEPLOYMENTS = ((16, True), (64, True), (64, False), (4096, False))


def measure(stage: Stage) -> Iterator[Figure]:
    """Let one of four servers hear 400 projects, of which its clients watch a quarter: one event a message."""
    for name in stage.brokers:
        sides = [Side(stage.broker(name), shards, grouped) for shards, grouped in ((1, True), *DEPLOYMENTS)]
        count = stage.count(4000)
        one, *others = alternate(stage.rounds, *(functools.partial(side.time, count) for side in sides))
        for (shards, grouped), times in zip(DEPLOYMENTS, others, strict=True):
            where = "a shard's clients on one server" if grouped else "clients on any server"
            what = f"CPU of one of {SERVERS} servers an event published, {shards} shards, {where}; beside: 1 shard"
            yield Figure(ROW, what, name, "s", one, times, GOAL if grouped or shards > PROJECTS else None)
        for side in sides:
            side.stop()


class Side:
    """One of four servers, and a publisher to all.

    Args:
        broker: The broker.
        shards: How many shards there are.
        grouped: Whether all clients of a shard are on one server.
    """

    def __init__(self, broker: Broker, shards: int, grouped: bool) -> None:
        self._hub: Realtime = realtime(broker.url, channel=f"of{shards}{grouped}", shards=shards)
        self._publisher = self._hub.manager.publisher
        self._names = [f"project_{number}" for number in range(PROJECTS)]
        self._ear = Ear(self._hub.client_manager(), self._publisher._publish)
        for number, name in enumerate(self._names):
            shard = shard_of(name, shards)
            if (shard.number if grouped and shard is not None else number) % SERVERS == 0:
                self._ear.let_follow(name)

    def time(self, count: int) -> float:
        """Return the CPU time of the server's listening thread for each of ``count`` events that are published."""
        return self._ear.time(self._publish, count)

    def _publish(self, count: int) -> None:
        for number in range(count):
            assert self._publisher.publish_events([outgoing(number, project=self._names[number % PROJECTS])]) == 1

    def stop(self) -> None:
        """End the listening thread."""
        self._ear.stop()
        self._hub.manager.close()
