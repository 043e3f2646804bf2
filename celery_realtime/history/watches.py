"""Mark which projects somebody watches, for the processes that run their jobs."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

from celery_realtime.history.keys import Keys
from celery_realtime.history.lua import Command, Runner, command

#: Seconds that a mark lasts. Web servers renew theirs three times in that time.
MARK_TTL = 15

#: Most projects in one round trip.
MOST_AT_ONCE = 1000


class Watches:
    """The projects of a channel that somebody watches.

    Each has a key of its own, in its own slot; append.lua answers whether it is there.

    Args:
        keys: Of the channel.
        runner: Of its Redis.
    """

    def __init__(self, keys: Keys, runner: Runner) -> None:
        self._keys = keys
        self._runner = runner

    def mark(self, project_ids: Iterable[str]) -> None:
        """Mark projects as watched for the next :data:`MARK_TTL` seconds, in one round trip for many.

        Raises:
            redis.RedisError: Redis cannot be reached, or refuses.
        """
        commands = (command("SET", self._keys.watched(name), 1, "EX", MARK_TTL) for name in project_ids)
        while part := list(itertools.islice(commands, MOST_AT_ONCE)):
            for reply in self._runner.run_all(part):
                if isinstance(reply, Exception):
                    raise reply

    def of(self, project_ids: Sequence[str]) -> set[str]:
        """Return which of some projects are watched, in one round trip; what Redis refuses to say counts as not.

        Raises:
            redis.RedisError: Redis cannot be reached.
        """
        commands: list[Command] = [command("EXISTS", self._keys.watched(name)) for name in project_ids]
        replies = zip(project_ids, self._runner.run_all(commands), strict=True)
        return {name for name, reply in replies if reply == 1}
