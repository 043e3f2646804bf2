"""What a web server's part of the hearing costs, where several share the projects of a channel."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import NamedTuple

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


class Deployment(NamedTuple):
    """How projects are divided.

    Attributes:
        shards: How many shards there are.
        grouped: Whether all clients of a shard are on one server, as behind a balancer that goes by the project.
        servers: How many servers there are.
    """

    shards: int
    grouped: bool = True
    servers: int = SERVERS

    @property
    def what(self) -> str:
        """What the table calls it."""
        where = "a shard's clients on one server" if self.grouped else "clients on any server"
        return (
            f"CPU of one of {self.servers} servers an event published, {self.shards} shards, {where}; beside: 1 shard"
        )

    @property
    def goal(self) -> Goal | None:
        """What is asked of it."""
        return GOAL if self.servers == SERVERS and (self.grouped or self.shards > PROJECTS) else None


#: Those that are beside one with as many servers and one shard.
DEPLOYMENTS = (
    (Deployment(16), Deployment(64), Deployment(64, grouped=False), Deployment(4096, grouped=False)),
    (Deployment(64, servers=2),),
    (Deployment(64, servers=8),),
)


def measure(stage: Stage) -> Iterator[Figure]:
    """Let one of several servers hear 400 projects, of which its clients watch its part: one event a message."""
    for name in stage.brokers:
        for deployments in DEPLOYMENTS:
            together = Deployment(1, servers=deployments[0].servers)
            sides = [Side(stage.broker(name), deployment) for deployment in (together, *deployments)]
            count = stage.count(2000, 8000)
            one, *others = alternate(stage.rounds, *(functools.partial(side.time, count) for side in sides))
            for deployment, times in zip(deployments, others, strict=True):
                yield Figure(ROW, deployment.what, name, "s", one, times, deployment.goal)
            for side in sides:
                side.stop()


class Side:
    """One of several servers, and a publisher to all.

    Args:
        broker: The broker.
        deployment: How projects are divided.
    """

    def __init__(self, broker: Broker, deployment: Deployment) -> None:
        shards, grouped, servers = deployment
        self._hub: Realtime = realtime(broker.url, channel=f"of{shards}{grouped}{servers}", shards=shards)
        self._publisher = self._hub.manager.publisher
        self._names = [f"project_{number}" for number in range(PROJECTS)]
        self._ear = Ear(self._hub.client_manager(), self._publisher._publish)
        for number, name in enumerate(self._names):
            shard = shard_of(name, shards)
            if (shard.number if grouped and shard is not None else number) % servers == 0:
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
