"""Remember of which projects each job is."""

from __future__ import annotations

import itertools
from typing import Any

from celery_realtime.clocks import time
from celery_realtime.encoding import legible
from celery_realtime.events import Outgoing
from celery_realtime.history.keys import Keys
from celery_realtime.history.lua import Command, Runner, Script, call, command

#: Bytes of the projects of one job that are remembered: an application may use one id in each of its projects.
MOST_BYTES = 16 * 1024

_PLACE = Script("place")


class Places:
    """The projects of the jobs of a channel, each known for a ``ttl`` at least.

    A job has one project for its run; of several jobs with the same id each may have another. One hash holds those of
    one period of a ``ttl``, and expires as a whole.

    Args:
        keys: Of the channel.
        runner: Of its Redis.
        ttl: Seconds that a project is remembered, at least.
    """

    def __init__(self, keys: Keys, runner: Runner, ttl: float) -> None:
        self._keys = keys
        self._runner = runner
        self._ttl = ttl

    def commands(self, events: list[Outgoing]) -> list[Command]:
        """Return the commands that note the projects of the jobs of some events."""
        pairs = [
            part
            for event in events
            if event.job_id and event.rank is not None
            for part in (legible(event.job_id), event.project_id)
        ]
        if not pairs:
            return []
        [key] = self._keys.places(self._period())
        return [call(_PLACE, [key], [max(1, int(self._ttl * 2)), MOST_BYTES, *pairs])]

    def projects_of(self, job_id: str) -> list[str]:
        """Return the projects that have a job of an id, each once, the latest first.

        Raises:
            redis.RedisError: Redis cannot be reached.
        """
        now = self._period()
        # A host whose clock is ahead may have written into the next period.
        keys = self._keys.places(now, now - 1, now + 1)
        lists = self._runner.run_all([command("HGET", key, legible(job_id)) for key in keys])
        for projects in lists:
            if isinstance(projects, Exception):
                raise projects
        named = (projects.decode(errors="replace").split("\n") for projects in lists if projects is not None)
        return list(dict.fromkeys(itertools.chain.from_iterable(named)))

    def project_of(self, job_id: str) -> str | None:
        """Return the project that has the latest job of an id, or None when none is known.

        Raises:
            redis.RedisError: Redis cannot be reached.
        """
        return next(iter(self.projects_of(job_id)), None)

    def projects(self) -> set[str]:
        """Return the projects of which there were jobs within the last ``ttl`` seconds.

        Raises:
            redis.RedisError: Redis cannot be reached.
        """
        now = self._period()
        projects: set[str] = set()
        for key in self._keys.places(now, now - 1, now + 1):
            cursor: Any = 0
            while True:
                cursor, pairs = self._runner.run(command("HSCAN", key, cursor, "COUNT", 1000))
                projects.update(*(listed.decode(errors="replace").split("\n") for listed in pairs.values()))
                if not int(cursor):
                    break
        return projects

    def _period(self) -> int:
        return int(time.time() // self._ttl)
