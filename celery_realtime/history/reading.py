"""Read back what append.lua has stored of projects and of their jobs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import msgspec

from celery_realtime.encoding import legible
from celery_realtime.history.appending import ENDED_TTL, Limits
from celery_realtime.history.entries import METADATA, add_metadata, decode_job, decode_metadata, decode_run
from celery_realtime.history.keys import Keys, new_epoch
from celery_realtime.history.lua import Command, Runner, Script, call, command
from celery_realtime.history.snapshot import Snapshot, check_page, count_jobs, decode_event

MAX_RECOVERED = 1000
MAX_SNAPSHOT = 1000

#: Bytes of jobs, and of missed events, that an answer holds. Both may be three times as long in JSON of nothing but
#: ASCII, and aiohttp, which Python's asyncio clients use, ends a connection over a message of 4 MiB.
MAX_ANSWER = 1024 * 1024

_READ = Script("read")


class Reader:
    """The way of what is stored out of a history.

    All of its methods raise a ``redis.RedisError`` if Redis cannot be reached.

    Args:
        keys: Of the channel.
        runner: Of its Redis.
        limits: What is kept of each project.
    """

    def __init__(self, keys: Keys, runner: Runner, limits: Limits) -> None:
        self._keys = keys
        self._runner = runner
        self._limits = limits

    # -- projects -----------------------------------------------------------------------------------------------

    def snapshot(self, project_id: str, since: tuple[str, int], most_jobs: int, most_bytes: int) -> Snapshot:
        """Return a project's snapshot, and what came after a position: all of it, or nothing.

        Args:
            project_id: The project.
            since: The epoch and the offset of the position; an offset of -1 for none.
            most_jobs: Most jobs in the snapshot; 0 for no workflows either.
            most_bytes: Most bytes of jobs, and of missed events.
        """
        epoch, read = self._reading(project_id, since, most_jobs, most_bytes)
        snapshot = Snapshot.of_reply(project_id, self._runner.run(read))
        if (snapshot.epoch, snapshot.offset) == (epoch, 0):
            return self._begin(project_id, read) or snapshot
        return snapshot

    def further_jobs(self, project_id: str, page: str, most_jobs: int) -> Snapshot:
        """Return further jobs of a project, without workflows and events.

        Raises:
            ValueError: ``page`` is no place to read on from.
        """
        _, read = self._reading(project_id, ("", -1), most_jobs, MAX_ANSWER, check_page(page))
        return Snapshot.of_reply(project_id, self._runner.run(read))

    def some_jobs(self, project_id: str, job_ids: Sequence[str]) -> Snapshot:
        """Return jobs of a project by their ids, without those that are not known; workflows and events are left out.

        Args:
            project_id: The project.
            job_ids: The ids; of those that had no room the snapshot says which they are.
        """
        if not job_ids:
            raise ValueError("name the jobs")
        names = [legible(name) for name in job_ids]
        _, read = self._reading(project_id, ("", -1), len(names), MAX_ANSWER, "", *names)
        reply: Any = self._runner.run(read)
        return msgspec.structs.replace(Snapshot.of_reply(project_id, reply), unread=[*job_ids[count_jobs(reply) :]])

    def _reading(self, project_id: str, position: tuple[str, int], *limits: Any) -> tuple[str, Command]:
        """Return what reads a project, and the epoch in which it is to go on if a part of it is lost."""
        epoch, (size, ttl) = new_epoch(), self._limits
        arguments = [epoch, *position, min(MAX_RECOVERED, size), max(1, int(ttl)), min(ENDED_TTL, ttl), size, *limits]
        return epoch, call(_READ, self._keys.project_and_begun(project_id), arguments)

    def _begin(self, project_id: str, read: Command) -> Snapshot | None:
        """Read again once this Redis has what tells the epochs of projects that have not begun; None if it is full."""
        ttl, begun, meta = max(1, math.ceil(self._limits.ttl)), self._keys.begun, self._keys.project(project_id)[0]
        note = [command("HSETNX", begun, "id", new_epoch(), at=meta), command("EXPIRE", begun, ttl, at=meta)]
        replies = self._runner.run_all([*note, read])
        refused = any(isinstance(reply, Exception) for reply in replies)
        return None if refused else Snapshot.of_reply(project_id, replies[-1])

    def recent(self, project_id: str) -> list[dict[str, Any]]:
        """Return the events that are stored of a project, in order, as ``{event, data}``."""
        epoch = self.snapshot(project_id, ("", -1), 0, MAX_ANSWER).epoch
        entries: Any = self._runner.run(command("XRANGE", self._keys.project(project_id)[1], "-", "+"))
        return [decode_event((name, [*itertools.chain(*fields.items())]), epoch) for name, fields in entries]

    def positions(self, project_ids: list[str]) -> dict[str, tuple[str, int]]:
        """Return the epoch and the newest offset of each of these projects that has one."""
        commands = [command("HMGET", self._keys.project(name)[0], "epoch", "offset") for name in project_ids]
        replies = zip(project_ids, self._runner.run_all(commands), strict=True)
        read = ((name, reply) for name, reply in replies if isinstance(reply, list))
        return {
            name: (epoch.decode(errors="replace"), int(offset))
            for name, (epoch, offset) in read
            if epoch is not None and offset is not None and offset.isdigit()
        }

    # -- jobs ---------------------------------------------------------------------------------------------------

    def job_and_run(self, project_id: str, job_id: str) -> tuple[dict[str, Any] | None, str | None]:
        """Return the latest state of one job and the mark of its latest publication, each None if it is not known."""
        name = legible(job_id)
        fields: Any = self._runner.run(command("HMGET", self._keys.project(project_id)[2], name, METADATA + name))
        entry, metadata = fields
        job = None if entry is None else decode_job(entry, name, project_id)
        if job is None:
            return None, None if entry is None else decode_run(entry)
        if metadata:
            add_metadata([job], {job["job_id"]: metadata})
        return job, decode_run(entry)

    def metadata(self, project_id: str, job_id: str) -> dict[str, Any]:
        """Return the metadata of one job; empty if it has none, or is not known."""
        name = METADATA + legible(job_id)
        stored: Any = self._runner.run(command("HGET", self._keys.project(project_id)[2], name))
        return decode_metadata(stored)
