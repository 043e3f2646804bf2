"""Store the events of each project on Redis, and read back where a project stands and what a client has missed.

One script decides whether an event is news, gives it its offset and stores it, in one step on the server: append.lua,
where the keys of a project are described.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import redis

from celery_realtime.environments import plain_address, prefix_of
from celery_realtime.events import Outgoing
from celery_realtime.exceptions import ImproperlyConfigured
from celery_realtime.history.access import AccessRecord
from celery_realtime.history.appending import Appender, Limits, unnumbered
from celery_realtime.history.brokers import Brokers
from celery_realtime.history.connection import RedisConnection
from celery_realtime.history.ends import Ends
from celery_realtime.history.kept import KeptMessages, ToKeep
from celery_realtime.history.keys import Keys
from celery_realtime.history.leases import Leases, StepsBehind, nothing_behind
from celery_realtime.history.lua import OUTAGES, Runner, command
from celery_realtime.history.marks import Marks
from celery_realtime.history.places import Places
from celery_realtime.history.reading import MAX_ANSWER, MAX_SNAPSHOT, Reader
from celery_realtime.history.refusals import Refusals
from celery_realtime.history.snapshot import Snapshot
from celery_realtime.history.streams import StreamLimits, Streams
from celery_realtime.history.watches import Watches
from celery_realtime.logs import RateLimitedLogger, describe
from celery_realtime.urls import RedisAddress, is_sentinel, redact

logger = logging.getLogger(__name__)


class History:
    """The history of every project of a channel.

    Args:
        where: Address of the Redis, or a URL that says all of it; its ``global_keyprefix`` is that of all keys.
        channel: Keeps apart what shares a Redis.
        size: Events, and ended jobs, kept for each project.
        ttl: Seconds that they are kept.
        streams: What is kept of streams.
        to_keep: Which messages this process is to keep; None for none.

    Attributes:
        connection: What it talks to Redis through.
        keys: The names of the keys.
        leases: Which jobs each worker runs.
        marks: Which jobs were cancelled.
        access: Whose access was taken back, and which web servers have carried that out.
        ends: Which jobs have no end on record.
        places: Of which projects each job is.
        brokers: Which brokers have been marked.
        watches: Which projects somebody watches.
        streams: What jobs say bit by bit.
        kept: The messages of jobs that are kept.

    Raises:
        ImproperlyConfigured: The URL cannot be used.
    """

    def __init__(
        self,
        where: RedisAddress | str,
        channel: str,
        size: int,
        ttl: float,
        streams: StreamLimits = StreamLimits(),  # noqa: B008 - it is immutable
        to_keep: ToKeep | None = None,
    ) -> None:
        address = RedisAddress(where) if isinstance(where, str) else where
        self._url = address.url
        self._log = RateLimitedLogger(logger)
        self._refusals = Refusals(self._log, redact(address.url))
        limits = Limits(size, ttl)
        self.connection = _connect(plain_address(address))
        self._runner = Runner(self.connection.client, self.connection.cluster)
        self.keys = Keys(channel, prefix_of(address) or "")
        self.leases = Leases(self.keys, self._runner)
        self.marks = Marks(self.keys, self._runner)
        self.access = AccessRecord(self.keys, self._runner)
        self.ends = Ends(self.keys, self._runner, size)
        self.places = Places(self.keys, self._runner, ttl)
        self.brokers = Brokers(self.keys, self._runner)
        self.watches = Watches(self.keys, self._runner)
        self.streams = Streams(self.keys, self._runner, ttl, limits=streams, where=redact(address.url))
        self.kept = KeptMessages(self.keys, self._runner, to_keep)
        self._appender = Appender(
            *(self.keys, self._runner, self.leases, self.places, self.kept),
            limits=limits,
            has_sentinels=is_sentinel(address.url),
            refusals=self._refusals,
        )
        self._reader = Reader(self.keys, self._runner, limits)

    @property
    def writer(self) -> str:
        """What the history knows this process as."""
        return self._appender.writer.id

    # -- writing ------------------------------------------------------------------------------------------------

    def on_workflows_due(self, observer: Callable[[str, float], None]) -> None:
        """Call ``observer`` with a project and the seconds until an update of a workflow of it is due.

        Whatever is appended to the project then brings the update with it; if nothing is, append
        :func:`~celery_realtime.events.workflow_look`. The last update of a workflow never waits.
        """
        self._appender.on_workflows_due(observer)

    def on_watch(self, observer: Callable[[str, bool], None]) -> None:
        """Call ``observer`` with each project that something was appended to, and whether somebody watches it."""
        self._appender.on_watch(observer)

    def append(self, events: list[Outgoing], behind: StepsBehind = nothing_behind) -> list[list[Outgoing]] | None:
        """Store events, and return what to publish for each: itself with epoch and offset, and its workflow's update.

        There is nothing to publish for an event that is not news: its job has reached a higher attempt, or a higher
        rank in the same one.

        Args:
            events: The events.
            behind: Returns, of the start of a job, what its success leads to: that ends if the job is lost.

        Returns:
            What to publish, or None when Redis cannot be reached. Some events may have been stored then; appending
            the same objects again stores none a second time. When Redis refuses to store (it is full, say) the events
            come back as they are: published without an offset rather than not at all.
        """
        with self._appender.writer.lock:
            try:
                self._appender.settle_doubts(events)
                appended = self._appender.append(events, behind)
            except OUTAGES as error:
                self._log.error(
                    "cannot store events at %s, so they wait; trying again until it answers: %s", *self._where(error)
                )
                return None
            except redis.RedisError as error:
                self._refusals.events(error)
                appended = [unnumbered(event) for event in events]
            self._appender.writer.end(events)
            return appended

    # -- reading ------------------------------------------------------------------------------------------------

    def read(
        self,
        project_id: str,
        since_epoch: str = "",
        since_offset: int = -1,
        most_jobs: int = MAX_SNAPSHOT,
        most_bytes: int = MAX_ANSWER,
    ) -> Snapshot:
        """Return a project's snapshot, and what came after ``since``: all of it, or nothing.

        Args:
            project_id: The project.
            since_epoch: The epoch of the position that the caller has reached.
            since_offset: The offset of that position; -1 for none.
            most_jobs: Most jobs in the snapshot; 0 for no workflows either.
            most_bytes: Most bytes of jobs, and of missed events.

        Raises:
            redis.RedisError: Redis cannot be reached.
        """
        return self._reader.snapshot(project_id, (since_epoch, since_offset), most_jobs, most_bytes)

    def read_on(self, project_id: str, page: str, most_jobs: int = MAX_SNAPSHOT) -> Snapshot:
        """Return further jobs of a project, as of ``offset``, without workflows and events, up to ``MAX_ANSWER``.

        Args:
            project_id: The project.
            page: Where to read on: ``next`` of its snapshot, or of the page before this one.
            most_jobs: Most jobs; at least three are returned, however long they are.

        Raises:
            ValueError: ``page`` is no such place.
            redis.RedisError: Redis cannot be reached.
        """
        return self._reader.further_jobs(project_id, page, most_jobs)

    def read_some(self, project_id: str, job_ids: Sequence[str]) -> Snapshot:
        """Return jobs of a project by their ids, as of ``offset``, without workflows and events.

        Args:
            project_id: The project.
            job_ids: The ids. Jobs that are not known are left out; ``unread`` has those that there was no room for.

        Raises:
            ValueError: No job is named.
            redis.RedisError: Redis cannot be reached.
        """
        return self._reader.some_jobs(project_id, job_ids)

    def recent(self, project_id: str) -> list[dict[str, Any]]:
        """Return the events that are stored of a project, in order, as ``{event, data}``.

        Raises:
            redis.RedisError: Redis cannot be reached.
        """
        return self._reader.recent(project_id)

    def position(self, project_id: str) -> dict[str, Any] | None:
        """Return a project's epoch and offset, or None when Redis cannot be reached."""
        try:
            snapshot = self.read(project_id, most_jobs=0)
        except redis.RedisError as error:
            self._log.error(
                "cannot read the position of a project at %s, so it counts as unknown; ask again when the history "
                "answers: %s",
                *self._where(error),
                project_id=project_id,
            )
            return None
        return {"epoch": snapshot.epoch, "offset": snapshot.offset}

    def positions(self, project_ids: list[str]) -> dict[str, tuple[str, int]]:
        """Return the epoch and the newest offset of each of these projects that has one, in one cheap round trip.

        Raises:
            redis.RedisError: Redis cannot be reached.
        """
        return self._reader.positions(project_ids)

    def project_of(self, job_id: str, wanted: Collection[str] = ()) -> str | None:
        """Return the project of some that has a job of an id, else that of the latest job of it, if any is known.

        Raises:
            redis.RedisError: Redis cannot be reached.
        """
        return self.places.project_of(job_id, wanted)

    def job(self, project_id: str, job_id: str) -> dict[str, Any] | None:
        """Return the latest state of one job, as the snapshot has it, or None when it is not known.

        Raises:
            redis.RedisError: Redis cannot be reached.
        """
        return self.job_and_run(project_id, job_id)[0]

    def job_and_run(self, project_id: str, job_id: str) -> tuple[dict[str, Any] | None, str | None]:
        """Return what :meth:`job` does, and the mark of the job's latest publication, None if it has none.

        Raises:
            redis.RedisError: Redis cannot be reached.
        """
        return self._reader.job_and_run(project_id, job_id)

    def metadata(self, project_id: str, job_id: str) -> dict[str, Any]:
        """Return the metadata of one job; empty if it has none, or is not known.

        Raises:
            redis.RedisError: Redis cannot be reached.
        """
        return self._reader.metadata(project_id, job_id)

    def ping(self) -> bool:
        """Tell whether Redis answers."""
        try:
            self._runner.run(command("EXISTS", *self.keys.leases("alive")))
        except OUTAGES:
            return False
        except redis.ResponseError:  # an answer too
            return True
        return True

    def client_at(self, options: Mapping[str, Any]) -> redis.Redis | None:
        """Return the client of the history, if it is where connections with these options of redis-py lead to."""
        return self.connection.client_at(options)

    def close(self) -> None:
        """Close the connections."""
        self.connection.close()

    def _where(self, error: Exception) -> tuple[str, str]:
        return redact(self._url), describe(error)


def _connect(address: RedisAddress) -> RedisConnection:
    try:
        return RedisConnection(address)
    except (ValueError, TypeError, redis.RedisError) as error:
        raise ImproperlyConfigured(
            f"realtime_history_url {redact(address.url)!r} cannot be used ({type(error).__name__})"
        ) from None
