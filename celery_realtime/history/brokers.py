"""Remember which brokers have been marked: one that has lost its mark has lost its messages."""

from __future__ import annotations

from celery_realtime.history.keys import Keys
from celery_realtime.history.lua import Runner, command

#: Seconds that a broker is remembered of which no worker has said anything.
REMEMBERED = 30 * 86400


class Brokers:
    """The brokers that bear a mark of this channel.

    Args:
        keys: Of the channel.
        runner: Of its Redis.
    """

    def __init__(self, keys: Keys, runner: Runner) -> None:
        [self._key] = keys.leases("brokers")
        self._runner = runner

    def has(self, name: str) -> bool:
        """Return whether a broker has been marked.

        Raises:
            redis.RedisError: Redis cannot be reached.
        """
        return bool(self._runner.run(command("HEXISTS", self._key, name)))

    def add(self, name: str) -> None:
        """Remember that a broker has been marked.

        Raises:
            redis.RedisError: Redis cannot be reached.
        """
        self._runner.run_all([command("HSET", self._key, name, 1), command("EXPIRE", self._key, REMEMBERED)])
