"""Load the Lua scripts of this package, and run them and other commands on Redis, in one round trip for many."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import redis
from redis.exceptions import (
    AskError,
    BusyLoadingError,
    ClusterCrossSlotError,
    ClusterDownError,
    MovedError,
    ReadOnlyError,
    TryAgainError,
)

#: What a node of a cluster answers that does not have the keys of a command, or not all of them, or not yet.
#: ``MovedError`` is an ``AskError``.
REDIRECTIONS = (AskError, TryAgainError, ClusterDownError)

#: What a node answers to a client that takes it for a whole Redis. Nothing of the command has been done.
ASTRAY = (*REDIRECTIONS, ClusterCrossSlotError)

#: By the first word of what a node says: redis-py up to 4.6 knows these in its own client for clusters only.
_OF_CLUSTERS: dict[str, type[Exception]] = {
    "ASK": AskError,
    "CLUSTERDOWN": ClusterDownError,
    "CROSSSLOT": ClusterCrossSlotError,
    "MASTERDOWN": ClusterDownError,
    "MOVED": MovedError,
    "TRYAGAIN": TryAgainError,
}

#: What passes by itself.
OUTAGES = (redis.ConnectionError, redis.TimeoutError, ReadOnlyError, BusyLoadingError, *REDIRECTIONS)

_INCLUDE = re.compile(r"^-- include: (\w+)$", re.MULTILINE)


class Script:
    """A script of the folder ``scripts``, read when it is first used.

    A line ``-- include: common`` in it stands for the text of ``common.lua``.

    Args:
        name: Its file name without ``.lua``.
        companions: Scripts that Redis is given with it: after an outage all processes would find at the same moment
            that Redis does not know them.
    """

    def __init__(self, name: str, *companions: Script) -> None:
        self.name = name
        self.companions = companions

    @functools.cached_property
    def source(self) -> str:
        """Its text, with what it includes."""
        return _INCLUDE.sub(lambda include: _read(include[1]).rstrip(), _read(self.name))

    @functools.cached_property
    def sha(self) -> str:
        """What Redis calls it (EVALSHA)."""
        return hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()


def _read(name: str) -> str:
    assert __package__
    return resources.files(__package__).joinpath("scripts").joinpath(f"{name}.lua").read_text(encoding="utf-8")


class Command(NamedTuple):
    """A command for Redis.

    Attributes:
        words: Its words.
        script: The script that it runs, if it runs one.
        at: In a cluster, the key whose node is meant, of a command whose first key does not say it.
        keys_in_cluster: Further keys, which a script takes in a cluster only.
        options: How redis-py reads the reply.
    """

    words: Sequence[Any]
    script: Script | None = None
    at: str | None = None
    keys_in_cluster: Sequence[str] = ()
    options: Mapping[str, Any] = MappingProxyType({})


def command(*words: Any, at: str | None = None, **options: Any) -> Command:
    """Return a plain command, such as ``command("DEL", key)``."""
    return Command(words, at=at, options=options)


def call(
    script: Script, keys: Sequence[str], arguments: Sequence[Any] = (), *, keys_in_cluster: Sequence[str] = ()
) -> Command:
    """Return the command that runs a script."""
    words = ["EVALSHA", script.sha, len(keys), *keys, *arguments]
    return Command(words, script, keys_in_cluster=keys_in_cluster)


class Nodes(Protocol):
    """The nodes of a cluster.

    Attributes:
        is_cluster: Whether they are known to be nodes of one.
    """

    is_cluster: bool

    def recognize(self) -> None:
        """Note that they are."""

    def run(self, commands: Sequence[Command]) -> list[Any]:
        """Run commands, each where its keys are, and return their replies; what went wrong is among them."""


class Runner:
    """Runs commands on a Redis, or on the nodes of a cluster.

    Loads a script only when Redis does not know it, as redis-py's ``Script`` does, but for all commands of a pipeline
    at once.

    Args:
        client: The Redis.
        nodes: Those that it may be one of: what belongs to others is run there, and all that comes later.
    """

    def __init__(self, client: redis.Redis, nodes: Nodes | None = None) -> None:
        self.client = client
        self._nodes = nodes

    def run(self, one: Command) -> Any:
        """Run one command, and return its reply.

        Raises:
            redis.RedisError: Redis cannot be reached, or refuses.
        """
        [reply] = self.read([one])
        return reply

    def read(self, commands: Sequence[Command]) -> list[Any]:
        """Run commands as :meth:`run_all` does, and return their replies.

        Raises:
            redis.RedisError: Redis cannot be reached, or refuses one of them.
        """
        replies = self.run_all(commands)
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return replies

    def run_all(self, commands: Sequence[Command]) -> list[Any]:
        """Run commands in one round trip, and return their replies; a refusal is an exception among them.

        In a cluster there is a round trip for each node, and the order is kept on each node only.

        Raises:
            redis.RedisError: Redis cannot be reached. Some of the commands may have been run.
        """
        return self.run_in_turn(commands)

    def run_in_turn(self, *stages: Sequence[Command]) -> list[Any]:
        """Run commands as :meth:`run_all` does, those of a stage before those of the next one in a cluster too.

        Raises:
            redis.RedisError: Redis cannot be reached. Some of the commands may have been run.
        """
        commands = stages[0] if len(stages) == 1 else [*itertools.chain.from_iterable(stages)]
        if self._nodes is not None and self._nodes.is_cluster:
            return self._run_on_nodes(stages, [None] * len(commands), set(range(len(commands))))
        replies = self.replies(commands)
        refused = [place for place, reply in enumerate(replies) if isinstance(reply, Exception)]
        if not refused:
            return replies
        astray = {place for place in refused if isinstance(replies[place], ASTRAY)}
        if self._nodes is None or not astray:
            return _without_outage(replies)
        self._nodes.recognize()
        return self._run_on_nodes(stages, replies, astray)

    def _run_on_nodes(self, stages: Sequence[Sequence[Command]], replies: list[Any], missing: set[int]) -> list[Any]:
        """Return replies with those that are missing."""
        assert self._nodes is not None
        start = 0
        for stage in stages:
            places = [place for place in range(start, start + len(stage)) if place in missing]
            late = self._nodes.run([stage[place - start] for place in places])
            for place, reply in zip(places, late, strict=True):
                replies[place] = reply
            _without_outage(replies[start : start + len(stage)])
            start += len(stage)
        return replies

    def replies(self, commands: Sequence[Command]) -> list[Any]:
        """Run commands on this server, and return its replies, whatever they are.

        Raises:
            redis.RedisError: It cannot be reached. Some of the commands may have been run.
        """
        replies = self._run_once(commands)
        refused = [place for place, reply in enumerate(replies) if isinstance(reply, redis.ResponseError)]
        unknown = [place for place in refused if isinstance(replies[place], redis.exceptions.NoScriptError)]
        if unknown:
            self._load({commands[place].script for place in unknown})
            for place, reply in zip(unknown, self._run_once([commands[place] for place in unknown]), strict=True):
                replies[place] = reply
        for place in refused:
            replies[place] = _understood(replies[place])
        return replies

    def _load(self, scripts: Iterable[Script | None]) -> None:
        for script in scripts:
            for loaded in () if script is None else (script, *script.companions):
                self.client.script_load(loaded.source)

    def _run_once(self, commands: Sequence[Command]) -> list[Any]:
        if not commands:
            return []
        with self.client.pipeline(transaction=False) as pipeline:
            for one in commands:
                pipeline.execute_command(*one.words, **one.options)  # type: ignore[no-untyped-call]
            return pipeline.execute(raise_on_error=False)


def _understood(reply: Any) -> Any:
    """Return a reply, or a refusal as what it says."""
    if type(reply) is redis.ResponseError:
        word, _, rest = str(reply).partition(" ")
        with contextlib.suppress(KeyError, ValueError):  # it is none of these
            return _OF_CLUSTERS[word](rest)
    return reply


def _without_outage(replies: list[Any]) -> list[Any]:
    """Return replies, or raise the first one that says that Redis cannot do it now."""
    for reply in replies:
        if isinstance(reply, OUTAGES):
            raise reply
    return replies
