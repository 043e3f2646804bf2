"""Load the Lua scripts of this package, and run them and other commands on Redis, in one round trip for many."""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Sequence
from importlib import resources
from typing import Any, NamedTuple

import redis

from celery_realtime.history.connection import OUTAGES

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
    """A command for Redis: its words, and the script that it runs, if it runs one."""

    words: Sequence[Any]
    script: Script | None = None


def command(*words: Any) -> Command:
    """Return a plain command, such as ``command("DEL", key)``."""
    return Command(words)


def call(script: Script, keys: Sequence[str], arguments: Sequence[Any] = ()) -> Command:
    """Return the command that runs a script."""
    return Command(["EVALSHA", script.sha, len(keys), *keys, *arguments], script)


class Runner:
    """Runs commands on a Redis.

    Loads a script only when Redis does not know it, as redis-py's ``Script`` does, but for all commands of a pipeline
    at once.

    Args:
        client: The Redis.
    """

    def __init__(self, client: redis.Redis) -> None:
        self.client = client

    def run(self, one: Command) -> Any:
        """Run one command, and return its reply.

        Raises:
            redis.RedisError: Redis cannot be reached, or refuses.
        """
        [reply] = self.run_all([one])
        if isinstance(reply, Exception):
            raise reply
        return reply

    def run_all(self, commands: Sequence[Command]) -> list[Any]:
        """Run commands in one round trip, and return their replies; a refusal is an exception among them.

        Raises:
            redis.RedisError: Redis cannot be reached. Some of the commands may have been run.
        """
        replies = self._run_once(commands)
        unknown = [place for place, reply in enumerate(replies) if isinstance(reply, redis.exceptions.NoScriptError)]
        if unknown:
            for script in {commands[place].script for place in unknown}:
                for loaded in () if script is None else (script, *script.companions):
                    self.client.script_load(loaded.source)
            for place, reply in zip(unknown, self._run_once([commands[place] for place in unknown]), strict=True):
                replies[place] = reply
        outage = next((reply for reply in replies if isinstance(reply, OUTAGES)), None)
        if outage is not None:
            raise outage
        return replies

    def _run_once(self, commands: Sequence[Command]) -> list[Any]:
        if not commands:
            return []
        with self.client.pipeline(transaction=False) as pipeline:
            for words, _ in commands:
                pipeline.execute_command(*words)  # type: ignore[no-untyped-call]
            return pipeline.execute(raise_on_error=False)
