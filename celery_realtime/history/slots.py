"""Tell which hash slot a key is in, and which node of a cluster has that slot."""

from __future__ import annotations

import array
import binascii
import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from celery_realtime.history.lua import Command, command

SLOTS = 16384

#: Host and port of a node.
Node = tuple[str, int]

_RUNNING_SCRIPTS = ("EVALSHA", "EVAL")
_FIRST_KEY = 3


def slot_of(key: str) -> int:
    """Return the hash slot of a key, or of the part of it in braces."""
    _, _, rest = key.partition("{")
    tag, brace, _ = rest.partition("}")
    return binascii.crc_hqx((tag if tag and brace else key).encode(errors="replace"), 0) % SLOTS


@functools.lru_cache(maxsize=1)
def _tags() -> array.array[int]:
    """Return for each slot the smallest number that is in it as a text."""
    tags, missing = array.array("I", bytes(4 * SLOTS)), bytearray(b"\1" * SLOTS)
    left = SLOTS
    for number in itertools.count():
        slot = binascii.crc_hqx(b"%d" % number, 0) % SLOTS
        if missing[slot]:
            tags[slot], missing[slot], left = number, 0, left - 1
            if not left:
                break
    return tags


def in_slot(key: str, slot: int) -> str:
    """Return a key itself if it has a part in braces, else the one that stands for it in a slot.

    What is of all projects on one server, is of those of one slot in a cluster.
    """
    return key if "{" in key else f"{key}:{{{_tags()[slot]}}}"


def located(one: Command) -> tuple[int, Command]:
    """Return the slot of a command, and the command with all of its keys in that slot."""
    words = one.words
    if words[0] in _RUNNING_SCRIPTS:
        return _located_script(one)
    key = one.at or (words[1] if len(words) > 1 else "")
    slot = slot_of(key)
    if one.at is None or len(words) == 1:
        return slot, one
    return slot, one._replace(words=[words[0], in_slot(words[1], slot), *words[2:]])


def _located_script(one: Command) -> tuple[int, Command]:
    end = _FIRST_KEY + int(one.words[_FIRST_KEY - 1])
    first, *others = one.words[_FIRST_KEY:end]
    slot = slot_of(first)
    keys = [first, *(in_slot(key, slot) for key in others), *one.keys_in_cluster]
    return slot, one._replace(words=[*one.words[: _FIRST_KEY - 1], len(keys), *keys, *one.words[end:]])


def parts_of(one: Command) -> list[Command]:
    """Return a command, or those for one key each that stand for one that reads keys of several slots."""
    return [command("GET", key) for key in one.words[1:]] if one.words[0] == "MGET" else [one]


def joined(one: Command, replies: Sequence[Any]) -> Any:
    """Return the reply to a command by those to its parts."""
    failure = next((reply for reply in replies if isinstance(reply, Exception)), None)
    if one.words[0] != "MGET" or failure is not None:
        return replies[0] if failure is None else failure
    return list(replies)


class SlotMap:
    """Which node has which slot.

    Args:
        seeds: Nodes that are known before any has been asked.
        remap: Returns where a node is to be reached that is said to be elsewhere.
    """

    def __init__(self, seeds: Iterable[Node], remap: Callable[[Node], Node] | None = None) -> None:
        self._seeds = list(seeds)
        self._remap = remap
        self._owners: list[Node | None] = []
        self._listed: list[Node] = []

    @property
    def is_empty(self) -> bool:
        """Whether nothing has been read yet."""
        return not self._owners

    @property
    def nodes(self) -> set[Node]:
        """All nodes that are known, with those that have no slots."""
        return {*self._seeds, *self._listed}

    @property
    def owners(self) -> set[Node]:
        """The nodes that have slots."""
        return {node for node in self._owners if node is not None}

    def owner(self, slot: int) -> Node | None:
        """Return the node that has a slot, or None if none has it."""
        return self._owners[slot]

    def move(self, slot: int, node: Node) -> None:
        """Note that another node has a slot now."""
        self._owners[slot] = node

    def read(self, reply: Iterable[Any], asked: Node) -> None:
        """Take over what a node has replied to ``CLUSTER SLOTS``.

        Args:
            reply: The reply.
            asked: The node.
        """
        owners: list[Node | None] = [None] * SLOTS
        listed = []
        for first, last, *described in reply:
            nodes = [self.node(host, port, asked) for host, port, *_ in described]
            owners[first : last + 1] = [nodes[0]] * (last + 1 - first)
            listed += nodes
        self._owners, self._listed = owners, listed

    def node(self, host: Any, port: int, asked: Node) -> Node:
        """Return a node that another one has named; one that knows no name means its own host."""
        name = host.decode() if isinstance(host, bytes) else host
        node = (name if name and name != "?" else asked[0], int(port))
        return node if self._remap is None else self._remap(node)
