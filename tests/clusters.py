"""A Redis Cluster of real nodes on loopback: three masters with a replica each."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import redis

from celery_realtime.history.slots import SLOTS, slot_of
from tests.processes import HOST, free_port
from tests.services import RedisServer
from tests.waiting import wait_for

if TYPE_CHECKING:
    from typing_extensions import Self

MASTERS = 3

#: Milliseconds after which a node counts as dead. A busy machine may keep one from the processor for long, and a
#: cluster that loses none is not to fail over.
NODE_TIMEOUT = 30000
#: While it is made: nodes talk to each other more often then.
FIRST_NODE_TIMEOUT = 2000


class RedisCluster:
    """Six nodes, which start at once and are made a cluster then.

    Args:
        folder: For what they write.
        node_timeout: Milliseconds after which a node counts as dead.
    """

    def __init__(self, folder: Path, node_timeout: int = NODE_TIMEOUT) -> None:
        self._node_timeout = node_timeout
        self._bus_ports = [free_port() for _ in range(2 * MASTERS)]
        self.nodes = [
            RedisServer(folder / str(number), name=f"node-{number}", options=_options(bus_port))
            for number, bus_port in enumerate(self._bus_ports)
        ]

    @property
    def processes(self) -> list[RedisServer]:
        """The nodes, whose logs are shown when a test fails."""
        return self.nodes

    def start(self) -> Self:
        for node in self.nodes:
            node.start(wait=False)
        for node in self.nodes:
            node.wait_ready()
        # Each with each: it would take them seconds to hear of each other.
        for node, other in itertools.combinations(range(len(self.nodes)), 2):
            self.ask(self.nodes[node], "CLUSTER", "MEET", HOST, self.nodes[other].port, self._bus_ports[other])
        wait_for(self._have_met, timeout=120, message="the nodes have met")
        for number, node in enumerate(self.nodes[:MASTERS]):
            first, last = SLOTS * number // MASTERS, SLOTS * (number + 1) // MASTERS - 1
            self.ask(node, "CLUSTER", "ADDSLOTSRANGE", first, last)
        for master, replica in zip(self.nodes, self.nodes[MASTERS:], strict=False):
            self.ask(replica, "CLUSTER", "REPLICATE", self.ask(master, "CLUSTER", "MYID"))
        wait_for(self.is_whole, timeout=120, message="the nodes are a cluster")
        for node in self.nodes:
            self.ask(node, "CONFIG", "SET", "cluster-node-timeout", self._node_timeout)
        return self

    def _have_met(self) -> bool:
        return all(self._has_met_others(self.ask(node, "CLUSTER", "NODES").decode()) for node in self.nodes)

    def _has_met_others(self, listed: str) -> bool:
        return "handshake" not in listed and listed.count(" connected\n") == len(self.nodes)

    def kill(self) -> None:
        for node in self.nodes:
            node.kill()

    def ask(self, node: RedisServer, *words: Any) -> Any:
        """Run a command on one node."""
        with redis.Redis(HOST, node.port, socket_timeout=60) as client:
            return client.execute_command(*words)  # type: ignore[no-untyped-call]

    def is_whole(self) -> bool:
        """Tell whether all nodes that run know each other and serve all slots, and replicas follow their masters."""
        running = [node for node in self.nodes if node.running]
        return all(self._is_whole(node) for node in running)

    def _is_whole(self, node: RedisServer) -> bool:
        facts = self.ask(node, "INFO", "replication")
        state = self.ask(node, "CLUSTER INFO")
        links = facts["role"] == "master" or facts.get("master_link_status") == "up"
        listed = {port for _, _, *nodes in self.ask(node, "CLUSTER", "SLOTS") for _, port, *_ in nodes}
        return links and state["cluster_state"] == "ok" and listed == {one.port for one in self.nodes}

    # -- where things are ---------------------------------------------------------------------------------------

    def url(self, *nodes: RedisServer) -> str:
        """Return the URL of the cluster, by some of its nodes, or all."""
        return "redis+cluster://" + ",".join(f"{HOST}:{node.port}" for node in nodes or self.nodes)

    def node_at(self, port: int) -> RedisServer:
        return next(node for node in self.nodes if node.port == port)

    def master_of(self, slot: int) -> RedisServer:
        """Return the node that has a slot, as a node that runs says."""
        asked = next(node for node in self.nodes if node.running)
        for first, last, master, *_ in self.ask(asked, "CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return self.node_at(master[1])
        raise LookupError(slot)

    def masters(self) -> list[RedisServer]:
        return [node for node in self.nodes if node.running and self.ask(node, "ROLE")[0] in (b"master", "master")]

    def replica_of(self, master: RedisServer) -> RedisServer:
        """Return a replica of a node."""
        _, _, replicas = self.ask(master, "ROLE")
        return self.node_at(int(replicas[0][1]))

    # -- moving slots -------------------------------------------------------------------------------------------

    @contextmanager
    def moving(self, slot: int, target: RedisServer) -> Iterator[Callable[[], None]]:
        """Move a slot to another node: inside it has begun, and what is given moves all keys; then the node has it."""
        source = self.master_of(slot)
        names = [self.ask(node, "CLUSTER", "MYID") for node in (source, target)]
        self.ask(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", names[0])
        self.ask(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", names[1])
        try:
            yield lambda: self._move_keys(slot, source, target)
        finally:
            self._move_keys(slot, source, target)
            for node in (target, source, *self.masters()):
                self.ask(node, "CLUSTER", "SETSLOT", slot, "NODE", names[1])

    def move(self, slot: int, target: RedisServer) -> None:
        """Move a slot to another node."""
        with self.moving(slot, target):
            pass

    def move_at_once(self, slot: int, target: RedisServer) -> None:
        """Move a slot as a whole, which Valkey can from 9.0 on.

        Raises:
            redis.ResponseError: This server cannot.
        """
        name = self.ask(target, "CLUSTER", "MYID")
        self.ask(self.master_of(slot), "CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", name)
        wait_for(lambda: self.master_of(slot) is target, timeout=120, message="the slot has been moved")

    def _move_keys(self, slot: int, source: RedisServer, target: RedisServer) -> None:
        while keys := self.ask(source, "CLUSTER", "GETKEYSINSLOT", slot, 100):
            self.ask(source, "MIGRATE", HOST, target.port, "", 0, 60000, "REPLACE", "KEYS", *keys)

    def projects_on(self, node: RedisServer, names: Iterable[str]) -> list[str]:
        """Return which projects of some are on a node."""
        return [name for name in names if self.master_of(slot_of(name)) is node]


def _options(bus_port: int) -> list[str]:
    return [
        *("--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf", "--cluster-port", str(bus_port)),
        *("--cluster-node-timeout", str(FIRST_NODE_TIMEOUT), "--repl-diskless-sync-delay", "0"),
    ]
