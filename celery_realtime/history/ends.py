"""Tell which jobs have no end on record."""

from __future__ import annotations

from collections.abc import Sequence

from celery_realtime.encoding import legible
from celery_realtime.events import Job
from celery_realtime.history.keys import PROJECT, Keys
from celery_realtime.history.lua import Runner, Script, call

_UNSETTLED = Script("unsettled")


#: For each ended job that is kept, how many more of which it is only remembered that they have ended; see append.lua.
GONE = 10


class Ends:
    """The ends of jobs, as the history has them.

    Args:
        keys: Of the channel.
        runner: Of its Redis.
        size: Ended jobs that are kept for each project.
    """

    def __init__(self, keys: Keys, runner: Runner, size: int) -> None:
        self._keys = keys
        self._runner = runner
        self._size = size

    def unsettled(self, jobs: Sequence[Job]) -> list[int]:
        """Return the places of the jobs whose attempt has neither ended for good nor been followed by another.

        Args:
            jobs: Jobs with a project.

        Raises:
            redis.RedisError: Redis cannot be reached.
        """
        groups: dict[str, list[int]] = {}
        for place, job in enumerate(jobs):
            groups.setdefault(job.project_id or "", []).append(place)
        commands = []
        for project_id, places in groups.items():
            keys = dict(zip(PROJECT, self._keys.project(project_id), strict=True))
            described = [part for place in places for part in _describe(jobs[place])]
            commands.append(call(_UNSETTLED, [keys["jobs"], keys["gone"]], [GONE * self._size, *described]))
        unsettled: list[int] = []
        for places, reply in zip(groups.values(), self._runner.run_all(commands), strict=True):
            if isinstance(reply, Exception):
                raise reply
            unsettled += [places[index] for index in reply]
        return sorted(unsettled)


def _describe(job: Job) -> tuple[str, int, str]:
    return legible(job.job_id), job.attempt, job.run or "-"
