"""Keep the messages of jobs, sealed, so that the jobs can be run again."""

from __future__ import annotations

from typing import NamedTuple

from celery_realtime.encoding import legible
from celery_realtime.events import Outgoing
from celery_realtime.history.keys import Keys
from celery_realtime.history.lua import Command, Runner, Script, call, command
from celery_realtime.kept_messages import Publication, WaitingMessages
from celery_realtime.sealing import Sealer

#: In place of a message that was too large; what is sealed begins otherwise.
TOO_LARGE = b"!"

_KEEP = Script("keep")


class KeptLimits(NamedTuple):
    """What is kept of the messages of each project.

    Attributes:
        ttl: Seconds that a message is kept.
        number: Messages.
        size: Bytes of them, sealed.
    """

    ttl: float = 86400.0
    number: int = 1000
    size: int = 16 * 1024 * 1024


class ToKeep(NamedTuple):
    """What a process is to keep.

    Attributes:
        waiting: Messages of this process that are to be stored with what is told of their jobs.
        sealer: Seals them; None where nothing is kept.
        limits: What is kept.
    """

    waiting: WaitingMessages
    sealer: Sealer | None
    limits: KeptLimits


class KeptMessages:
    """The messages of jobs of a channel that are kept.

    Args:
        keys: Of the channel.
        runner: Of its Redis.
        to_keep: What this process is to keep; None for nothing.
    """

    def __init__(self, keys: Keys, runner: Runner, to_keep: ToKeep | None = None) -> None:
        self._keys = keys
        self._runner = runner
        self._waiting, self._sealer, self._limits = to_keep or ToKeep(WaitingMessages(0), None, KeptLimits())

    def commands(self, events: list[Outgoing]) -> list[Command]:
        """Return the commands that keep the messages of the jobs that some events report as published."""
        if not self._waiting or self._sealer is None:
            return []
        commands = []
        for publication in map(_publication, events):
            packed = None if publication is None else self._waiting.get(publication)
            if publication is not None and packed is not None:
                kept = self._sealer.seal(packed) if packed else TOO_LARGE
                limits = [self._limits.ttl, self._limits.number, self._limits.size]
                keys = self._keys.kept(publication.project_id)
                commands.append(call(_KEEP, keys, [*limits, legible(publication.job_id), kept]))
        return commands

    def done(self, events: list[Outgoing]) -> None:
        """Note that Redis has answered to the commands for some events."""
        if self._waiting:
            for publication in map(_publication, events):
                if publication is not None:
                    self._waiting.forget(publication)

    def read(self, project_id: str, job_id: str) -> bytes | None:
        """Return what is kept of a job: sealed, or :data:`TOO_LARGE`; None if nothing is.

        Raises:
            redis.RedisError: Redis cannot be reached.
        """
        kept: bytes | None = self._runner.run(command("HGET", self._keys.kept(project_id)[0], legible(job_id)))
        return kept


def _publication(event: Outgoing) -> Publication | None:
    """Return the publication that an event reports; None of any other event."""
    if event.rank != 0 or not event.job_id or not event.standing.run:
        return None
    return Publication(event.project_id, event.job_id, event.standing.run)
