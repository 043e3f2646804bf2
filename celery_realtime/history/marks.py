"""Remember which jobs were cancelled."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import msgspec

from celery_realtime.encoding import encode, legible
from celery_realtime.events import Cancellation
from celery_realtime.history.keys import Keys
from celery_realtime.history.lua import Runner, Script, call, command
from celery_realtime.history.snapshot import UNREADABLE

#: Seconds that a cancellation is remembered.
CANCELLED_TTL = 86400

#: Cancellations that workers can look up, the latest.
MOST_CANCELLED = 10000

_NOTE_CANCELLED = Script("note_cancelled")


class Marks:
    """The cancelled jobs of a channel.

    Args:
        keys: Of the channel.
        runner: Of its Redis.
    """

    def __init__(self, keys: Keys, runner: Runner) -> None:
        self._keys = keys
        self._runner = runner

    def cancel(self, job_id: str, cancellation: Cancellation) -> None:
        """Mark a job as cancelled, for the worker that has it or will get it; forgets what an earlier one has answered.

        Raises:
            redis.RedisError: Redis cannot be reached.
        """
        [cancellations] = self._keys.leases("cancellations")
        mark = command("SET", self._keys.cancelled(job_id), encode(cancellation), "EX", CANCELLED_TTL)
        forget = command("DEL", self._keys.cancel_answer(job_id))
        note = call(_NOTE_CANCELLED, [cancellations], [legible(job_id), CANCELLED_TTL, MOST_CANCELLED])
        # Whoever reads the list looks up the marks of those on it, and does so once.
        for reply in self._runner.run_in_turn([mark, forget], [note]):
            if isinstance(reply, Exception):
                raise reply

    def cancelled_since(self, since: float) -> tuple[dict[str, Cancellation], float]:
        """Return which runs of jobs were cancelled after a time, by the jobs' ids, and the time to ask with next.

        Args:
            since: A time of the Redis server; 0 at first.

        Raises:
            redis.RedisError: Redis cannot be reached.
        """
        [cancellations] = self._keys.leases("cancellations")
        words = ("ZRANGEBYSCORE", cancellations, f"({since!r}", "+inf", "WITHSCORES")
        listed: Any = self._runner.run(command(*words, withscores=True))
        job_ids = [job_id.decode(errors="replace") for job_id, _ in listed]
        return self.cancelled(job_ids), float(listed[-1][1]) if listed else since

    def cancelled(self, job_ids: Sequence[str]) -> dict[str, Cancellation]:
        """Return which of some jobs are cancelled, and which runs of each.

        Raises:
            redis.RedisError: Redis cannot be reached.
        """
        if not job_ids:
            return {}
        marks = self._runner.run(command("MGET", *map(self._keys.cancelled, job_ids)))
        return {job_id: _decode(mark) for job_id, mark in zip(job_ids, marks, strict=True) if mark is not None}

    def answer(self, job_id: str, answer: dict[str, Any]) -> None:
        """Note how a worker cancels a job.

        Raises:
            redis.RedisError: Redis cannot be reached.
        """
        self._runner.run(command("SET", self._keys.cancel_answer(job_id), encode(answer), "EX", CANCELLED_TTL))

    def answer_of(self, job_id: str) -> dict[str, Any] | None:
        """Return how a worker cancels a job, or None while no worker that has it has answered.

        Raises:
            redis.RedisError: Redis cannot be reached.
        """
        answer = self._runner.run(command("GET", self._keys.cancel_answer(job_id)))
        with contextlib.suppress(*UNREADABLE):
            return msgspec.json.decode(answer or b"", type=dict[str, Any]) or None
        return None


def _decode(mark: bytes) -> Cancellation:
    """Return a cancellation; one that cannot be read concerns all runs of its job."""
    with contextlib.suppress(*UNREADABLE):
        return msgspec.json.decode(mark, type=Cancellation)
    return Cancellation()
