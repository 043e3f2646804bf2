"""Remember of which projects each job is."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

from celery_realtime.clocks import time
from celery_realtime.encoding import legible
from celery_realtime.events import Outgoing
from celery_realtime.history.keys import Keys, stream_in
from celery_realtime.history.lua import Command, Runner, Script, call, command

#: Bytes of the list of one job's projects: an application may use one id in each of its projects. Each event of a job
#: has its list read, so those before are noted apart.
MOST_BYTES = 16 * 1024

#: Projects that are looked for in one question.
MOST_WANTED = 1000

#: Keys that are deleted in one command.
MOST_KEYS = 1000

_PLACE = Script("place")


class Places:
    """The projects of the jobs of a channel, each known for a ``ttl`` at least.

    A job has one project for its run; of several jobs with the same id each may have another. Two hashes hold those of
    one period of a ``ttl``, and expire as a whole.

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
        # Each once, in the order of the latest: the batch of a short job has its end, too.
        jobs = {
            (event.job_id, event.project_id): None
            for event in reversed(events)
            if event.job_id and event.rank is not None
        }
        if not jobs:
            return []
        period = self._period()
        keys = [*self._keys.places(period), *self._keys.older_places(period)]
        pairs = [part for job_id, project_id in reversed(jobs) for part in (legible(job_id), project_id)]
        return [call(_PLACE, keys, [max(1, int(self._ttl * 2)), MOST_BYTES, *pairs])]

    def projects_of(self, job_id: str) -> list[str]:
        """Return the projects that have a job of an id, each once, the latest first; of very many, the latest.

        Raises:
            redis.RedisError: Redis cannot be reached.
        """
        return _merged(self._ask([("HGET", key, legible(job_id)) for key in self._keys.places(*self._periods())]))

    def project_of(self, job_id: str, wanted: Collection[str] = ()) -> str | None:
        """Return the project of some that has a job of an id, else the one that has the latest job of it, or None.

        It is asked for all of them whether they are found or not, so that it takes the same time.

        Args:
            job_id: The id.
            wanted: The projects; if several have a job of the id, the latest comes first. Of more than
                :data:`MOST_WANTED`, the others are not found beyond the latest of very many that use the id.

        Raises:
            redis.RedisError: Redis cannot be reached.
        """
        name, asked = legible(job_id), list(itertools.islice(wanted, MOST_WANTED))
        periods = self._periods()
        questions: list[tuple[Any, ...]] = [("HGET", key, name) for key in self._keys.places(*periods)]
        if asked:
            fields = [f"{legible(project)}\n{name}" for project in asked]
            questions += [("HMGET", key, *fields) for key in self._keys.older_places(*periods)]
        replies = self._ask(questions)
        listed = _merged(replies[: len(periods)])
        older = (
            project
            for found in replies[len(periods) :]
            for project, is_there in zip(asked, found, strict=True)
            if is_there is not None
        )
        among = (project for project in listed if project in wanted)
        return next(itertools.chain(among, older, listed), None)

    def _ask(self, questions: Sequence[tuple[Any, ...]]) -> list[Any]:
        replies = self._runner.run_all([command(*question) for question in questions])
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return replies

    def projects(self) -> set[str]:
        """Return the projects of which there were jobs within the last ``ttl`` seconds.

        Raises:
            redis.RedisError: Redis cannot be reached.
        """
        periods = self._periods()
        projects: set[str] = set()
        for key in self._keys.places(*periods):
            for _, listed in self._entries(key):
                projects.update(listed.decode(errors="replace").split("\n"))
        for key in self._keys.older_places(*periods):
            projects.update(field.decode(errors="replace").partition("\n")[0] for field, _ in self._entries(key))
        return projects

    def forget(self, project_id: str, job_ids: Sequence[str] = ()) -> None:
        """Forget all events, jobs, workflows, streams and messages of a project; what comes now is of another epoch.

        Args:
            project_id: The project.
            job_ids: The jobs of it; of others with these ids it is forgotten too of which projects they are.

        Raises:
            redis.RedisError: Redis cannot be reached, or refuses.
        """
        names = [legible(job_id) for job_id in job_ids]
        of_jobs = [("HDEL", key, *names) for key in self._keys.places(*self._periods())] if names else []
        recent = self._keys.stream(project_id, "", "")[-1]
        [members] = self._ask([("ZRANGE", recent, 0, -1)])
        of_streams = {key for member in members for key in self._keys.stream(project_id, *stream_in(member))}
        of_streams.update(key for job_id in names for key in self._keys.stream(project_id, job_id, "")[:2])
        of_project = [*self._keys.project(project_id, "watched", "server"), *self._keys.kept(project_id)]
        keys = [*of_project, *sorted(of_streams)]
        parts = [keys[start : start + MOST_KEYS] for start in range(0, len(keys), MOST_KEYS)]
        self._ask([*(("DEL", *part) for part in parts), *of_jobs])

    def _entries(self, key: str) -> Iterator[tuple[bytes, bytes]]:
        cursor: Any = 0
        while True:
            cursor, pairs = self._runner.run(command("HSCAN", key, cursor, "COUNT", 1000))
            yield from pairs.items()
            if not int(cursor):
                break

    def _period(self) -> int:
        return int(time.time() // self._ttl)

    def _periods(self) -> tuple[int, int, int]:
        """Return the periods that are remembered; a host whose clock is ahead may have written into the next one."""
        now = self._period()
        return now, now - 1, now + 1


def _merged(lists: Iterable[bytes | None]) -> list[str]:
    named = (projects.decode(errors="replace").split("\n") for projects in lists if projects is not None)
    return list(dict.fromkeys(itertools.chain.from_iterable(named)))
