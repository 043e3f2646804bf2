"""Run commands on the nodes of a Redis Cluster: each where its keys are, also while those move."""

from __future__ import annotations

import itertools
import logging
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import redis
from redis.exceptions import AskError, ClusterDownError, MovedError, TryAgainError

from celery_realtime.clocks import time
from celery_realtime.history.lua import OUTAGES, Command, Runner, command
from celery_realtime.history.slots import Node, SlotMap, joined, located, parts_of

logger = logging.getLogger(__name__)

#: Seconds before each try of what a node refuses since keys are on their way, or have arrived elsewhere.
PAUSES = (0.0, 0.005, 0.02, 0.05, 0.1)

#: Nodes that are asked, one after the other, where slots are.
MOST_ASKED = 3

#: Seconds in which they are not asked again because a slot was moved: then others will be, and each answer says it.
LOOK_PAUSE = 1.0


class Cluster:
    """The nodes of a cluster that have its slots; replicas are not read.

    In place of redis-py's ``RedisCluster``, which connects when it is made, keeps many connections, and tries again for
    longer than a web server can wait.

    Args:
        seeds: Nodes that are asked first where slots are.
        connect: Returns the client of a node, which connects later.
        remap: Returns where a node is to be reached that is said to be elsewhere.
        is_cluster: Whether it is known to be one.

    Attributes:
        is_cluster: Whether it is known to be one.
    """

    def __init__(
        self,
        seeds: Iterable[Node],
        connect: Callable[[Node], redis.Redis],
        *,
        remap: Callable[[Node], Node] | None = None,
        is_cluster: bool,
    ) -> None:
        self.is_cluster = is_cluster
        self._connect = connect
        self._map = SlotMap(seeds, remap)
        self._runners: dict[Node, Runner] = {}
        self._looked_at: float | None = None

    @property
    def clients(self) -> list[redis.Redis]:
        """The clients of the nodes that are talked to."""
        return [runner.client for runner in list(self._runners.values())]

    def recognize(self) -> None:
        """Note that it is one."""
        if not self.is_cluster:
            logger.info("the history is on a Redis Cluster; all of its nodes are used")
        self.is_cluster = True

    def run(self, commands: Sequence[Command]) -> list[Any]:
        """Run commands, each where its keys are, and return their replies; what went wrong is among them.

        Raises:
            redis.RedisError: No node says where slots are. None of the commands has been run.
        """
        if not commands:
            return []
        parts = [parts_of(one) for one in commands]
        replies = iter(self._run_parts([located(part) for part in itertools.chain.from_iterable(parts)]))
        taken = ([*itertools.islice(replies, len(of_one))] for of_one in parts)
        return [joined(one, of_one) for one, of_one in zip(commands, taken, strict=True)]

    def _run_parts(self, parts: Sequence[tuple[int, Command]]) -> list[Any]:
        if self._map.is_empty:
            self._look()
        replies: list[Any] = [None] * len(parts)
        left: Sequence[int] = range(len(parts))
        for pause in PAUSES:
            if pause:
                time.sleep(pause)
            left = self._try(parts, left, replies)
            if not left:
                break
        return replies

    def _try(self, parts: Sequence[tuple[int, Command]], places: Sequence[int], replies: list[Any]) -> list[int]:
        """Run some of the parts, fill in the replies, and return which are to be tried again."""
        asked: dict[Node | None, list[int]] = {}
        for place in places:
            asked.setdefault(self._map.owner(parts[place][0]), []).append(place)
        refused: dict[int, Node | None] = {}
        for node, of_node in asked.items():
            for place, reply in zip(of_node, self._ask(node, [parts[place][1] for place in of_node]), strict=True):
                replies[place] = reply
                if isinstance(reply, OUTAGES):
                    refused[place] = node
        if refused:
            self._learn({parts[place][0]: (node, replies[place]) for place, node in refused.items()})
        return [
            place
            for place, node in refused.items()
            if isinstance(replies[place], (AskError, TryAgainError)) or self._map.owner(parts[place][0]) != node
        ]

    # -- one node -----------------------------------------------------------------------------------------------

    def _runner(self, node: Node) -> Runner:
        runner = self._runners.get(node)
        # Of two threads one makes a client in vain, which has not connected.
        return self._runners.setdefault(node, Runner(self._connect(node))) if runner is None else runner

    def _ask(self, node: Node | None, commands: Sequence[Command]) -> Sequence[Any]:
        """Return what a node replies, or why it does not."""
        if node is None:
            return [ClusterDownError("CLUSTERDOWN no node has the hash slot")] * len(commands)
        try:
            replies = self._runner(node).replies(commands)
        except redis.RedisError as error:
            return [error] * len(commands)
        for number, reply in enumerate(replies):
            if isinstance(reply, AskError) and not isinstance(reply, MovedError):
                replies[number] = self._ask_next(self._map.node(reply.host, reply.port, node), commands[number])
        return replies

    def _ask_next(self, node: Node, one: Command) -> Any:
        """Run a command on the node to which its slot is being moved.

        If that does not know its script yet, it does at the next try.
        """
        try:
            return self._runner(node).replies([command("ASKING"), one])[1]
        except redis.RedisError as error:
            return error

    # -- where slots are ----------------------------------------------------------------------------------------

    def _learn(self, refusals: Mapping[int, tuple[Node | None, Exception]]) -> None:
        """Look where slots are after nodes have refused something, or have not answered."""
        moved = {slot: (node, answer) for slot, (node, answer) in refusals.items() if isinstance(answer, MovedError)}
        failed = {node for node, error in refusals.values() if not isinstance(error, (AskError, TryAgainError))}
        looked_at = self._looked_at
        if failed or (moved and (looked_at is None or time.monotonic() - looked_at > LOOK_PAUSE)):
            try:
                self._look(failed)
            except redis.RedisError as error:
                logger.debug("no node says where slots are: %s", type(error).__name__)
        for slot, (node, answer) in moved.items():
            assert node is not None
            self._map.move(slot, self._map.node(answer.host, answer.port, node))

    def _look(self, failed: Iterable[Node | None] = ()) -> None:
        """Ask nodes where slots are, those that have just failed at the end.

        Raises:
            redis.RedisError: None says it.
        """
        self._looked_at = time.monotonic()
        nodes = list(self._map.nodes)
        random.shuffle(nodes)
        reply: Any = None
        for node in sorted(nodes, key={*failed}.__contains__)[:MOST_ASKED]:
            [reply] = self._ask(node, [command("CLUSTER", "SLOTS")])
            if not isinstance(reply, Exception):
                self._map.read(reply, node)
                self._forget_others()
                return
        raise _explained(reply)

    def _forget_others(self) -> None:
        """Close the connections to nodes that have no slots."""
        for node in {*self._runners} - self._map.owners:
            runner = self._runners.pop(node, None)
            if runner is not None:
                pool: Any = runner.client.connection_pool
                pool.close_free()


def _explained(error: Exception) -> Exception:
    """Return an error of a node, with what to do if it is not a node at all."""
    if isinstance(error, redis.ResponseError) and "cluster support disabled" in str(error):
        return redis.ResponseError("it is no node of a cluster: write redis:// in place of redis+cluster://")
    return error
