"""Store the events of each project on Redis, and read back where a project stands and what a client has missed.

One script decides whether an event is news, gives it its offset and stores it, in one step on the server: append.lua,
where the keys of a project are described.
"""

from __future__ import annotations

import functools
import itertools
import logging
import math
import secrets
import time
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import redis

from celery_realtime.bounded import BoundedDict
from celery_realtime.encoding import legible
from celery_realtime.events import WORKFLOW_EVENT, Execution, Outgoing, is_workflow_look, now, stamp
from celery_realtime.exceptions import ImproperlyConfigured
from celery_realtime.history.brokers import Brokers
from celery_realtime.history.connection import OUTAGES, RedisConnection
from celery_realtime.history.ends import Ends
from celery_realtime.history.keys import Keys
from celery_realtime.history.leases import Leases
from celery_realtime.history.lua import Command, Runner, Script, call, command
from celery_realtime.history.marks import Marks
from celery_realtime.history.places import Places
from celery_realtime.history.snapshot import Snapshot, decode_event, decode_job
from celery_realtime.history.writer import Doubt, Stored, Writer
from celery_realtime.logs import RateLimitedLogger, describe
from celery_realtime.urls import RedisAddress, is_sentinel, redact

logger = logging.getLogger(__name__)

#: Seconds that a job is shown after its end.
ENDED_TTL = 3600.0
MAX_RECOVERED = 1000
MAX_SNAPSHOT = 1000

#: Bytes of jobs, and of missed events, that an answer holds. Both may be three times as long in JSON of nothing but
#: ASCII, and aiohttp, which Python's asyncio clients use, ends a connection over a message of 4 MiB.
MAX_ANSWER = 1024 * 1024

#: Jobs of a project that have not ended, beyond which the ones that were silent longest are forgotten.
MAX_LIVE = 100000

#: Seconds between two updates of a workflow, but for the last; append.lua has the same.
WORKFLOW_PAUSE = 0.25

#: Projects of which a process remembers the highest offset that it has stored.
WITNESSED = 10000

_READ, _SETTLE = Script("read"), Script("settle")
_APPEND = Script("append", _SETTLE)


class History:
    """The history of every project of a channel.

    Args:
        where: Address of the Redis, or a URL that says all of it.
        channel: Keeps apart what shares a Redis.
        size: Events, and ended jobs, kept for each project.
        ttl: Seconds that they are kept.

    Attributes:
        keys: The names of the keys.
        leases: Which jobs each worker runs.
        marks: Which jobs were cancelled, and whose access was revoked.
        ends: Which jobs have no end on record.
        places: Which project each job is of.
        brokers: Which brokers have been marked.

    Raises:
        ImproperlyConfigured: The URL cannot be used.
    """

    def __init__(self, where: RedisAddress | str, channel: str, size: int, ttl: float) -> None:
        address = RedisAddress(where) if isinstance(where, str) else where
        self._url = address.url
        self._size = size
        self._ttl = ttl
        self._log = RateLimitedLogger(logger)
        self._writer = Writer()
        self._witnessed: BoundedDict[str, tuple[str, int]] = BoundedDict(WITNESSED)
        self._due_observers: list[Callable[[str, float], None]] = []
        self._connection = _connect(address)
        self._runner = Runner(self._connection.client)
        self.keys = Keys(channel)
        self.leases = Leases(self.keys, self._runner)
        self.marks = Marks(self.keys, self._runner)
        self.ends = Ends(self.keys, self._runner, size)
        self.places = Places(self.keys, self._runner, ttl)
        self.brokers = Brokers(self.keys, self._runner)

    @property
    def writer(self) -> str:
        """What the history knows this process as."""
        return self._writer.id

    # -- writing ------------------------------------------------------------------------------------------------

    def on_workflows_due(self, observer: Callable[[str, float], None]) -> None:
        """Call ``observer`` with a project and the seconds until an update of a workflow of it is due.

        Whatever is appended to the project then brings the update with it; if nothing is, append
        :func:`~celery_realtime.events.workflow_look`. The last update of a workflow never waits.
        """
        self._due_observers.append(observer)

    def append(self, events: list[Outgoing]) -> list[list[Outgoing]] | None:
        """Store events, and return what to publish for each: itself with epoch and offset, and its workflow's update.

        There is nothing to publish for an event that is not news: its job has reached a higher attempt, or a higher
        rank in the same one.

        Returns:
            What to publish, or None when Redis cannot be reached. Some events may have been stored then; appending
            the same objects again stores none a second time. When Redis refuses to store (it is full, say) the events
            come back as they are: published without an offset rather than not at all.
        """
        with self._writer.lock:
            try:
                self._settle_doubts(events)
                appended = self._append_all(events)
            except OUTAGES as error:
                self._log.error("cannot store events at %s (they wait, and are tried again): %s", *self._where(error))
                return None
            except redis.RedisError as error:
                self._log_refusal(error)
                appended = [_unnumbered(event) for event in events]
            self._writer.end(events)
            return appended

    def _settle_doubts(self, events: list[Outgoing]) -> None:
        """Ask what became of the latest write if it was not answered, and of events that others may have stored."""
        doubts = self._writer.doubts(events)
        if not doubts:
            return
        replies = self._runner.run_all([self._settle_command(doubt) for doubt in doubts])
        for doubt, reply in zip(doubts, replies, strict=True):
            if isinstance(reply, Exception):
                raise reply
            self._witness(doubt.project_id, self._writer.settle(doubt, reply))
            self._note_due(doubt.project_id, reply[-1])

    def _settle_command(self, doubt: Doubt) -> Command:
        arguments = [_new_epoch(), self._ttl, doubt.writer, doubt.write]
        return call(_SETTLE, self.keys.project_and_begun(doubt.project_id), arguments)

    def _append_all(self, events: list[Outgoing]) -> list[list[Outgoing]]:
        stored = {place: known for place, event in enumerate(events) if (known := self._writer.stored(event))}
        answers = {place: _answer(events[place], known) for place, known in stored.items()}
        groups = _by_project((place, event) for place, event in enumerate(events) if place not in stored)
        write = self._writer.begin(events[place] for group in groups.values() for place, _ in group)
        appends = [self._append_command(name, [event for _, event in group], write) for name, group in groups.items()]
        notes_before = [*self.leases.commands_before(events), *self.places.commands(events)]
        replies = self._runner.run_all([*notes_before, *appends, *self.leases.commands_after(events)])
        start, end = len(notes_before), len(notes_before) + len(appends)
        self._check_notes([*replies[:start], *replies[end:]])
        for (project_id, group), reply in zip(groups.items(), replies[start:end], strict=True):
            answers.update(self._answers(project_id, group, reply))
        return [answers[place] for place in range(len(events))]

    def _check_notes(self, replies: list[Any]) -> None:
        """Log that notes were refused: the events themselves are stored all the same."""
        for reply in replies:
            if isinstance(reply, Exception):
                self._log.error(
                    "%s refused to note what jobs do; lost, expired and stalled ones may not be reported: %s",
                    *self._where(reply),
                )

    def _append_command(self, project_id: str, events: list[Outgoing], write: int) -> Command:
        arguments: list[Any] = [_new_epoch(), self._size, self._ttl, min(ENDED_TTL, self._ttl)]
        arguments += [msgspec.json.encode(now()), msgspec.json.encode(project_id)]
        arguments += [*self._witnessed.get(project_id, ("", 0)), MAX_LIVE]
        arguments += [self._writer.id, write, " ".join([str(event.number) for event in events])]
        arguments.append(_pack([_describe(event) for event in events]))
        arguments += [event.payload for event in events]
        server = ["server"] if is_sentinel(self._url) else []
        return call(_APPEND, self.keys.project_and_begun(project_id, *server), arguments)

    def _answers(self, project_id: str, group: list[tuple[int, Outgoing]], reply: Any) -> dict[int, list[Outgoing]]:
        """Return what to publish for the events of one project, by their places in the batch."""
        if isinstance(reply, Exception):
            self._log_refusal(reply)
            return {place: _unnumbered(event) for place, event in group}
        epoch, words, updates, has_made_due = reply
        self._note_due(project_id, has_made_due)
        stored = Stored.of_reply(epoch, words, updates)
        self._witness(project_id, stored)
        return {place: _answer(event, of_event) for (place, event), of_event in zip(group, stored, strict=True)}

    def _note_due(self, project_id: str, is_due: int) -> None:
        if is_due:
            for observer in self._due_observers:
                observer(project_id, WORKFLOW_PAUSE)

    def _witness(self, project_id: str, stored: list[Stored]) -> None:
        """Remember the offsets that have been stored: a server that has lost them does not pass for whole."""
        if stored:
            epoch, (known_epoch, highest) = stored[0].epoch, self._witnessed.get(project_id, ("", 0))
            offsets = [of_event.highest for of_event in stored]
            self._witnessed[project_id] = epoch, max(offsets + [highest] * (known_epoch == epoch))

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
        new_epoch = _new_epoch()
        arguments = [
            *(new_epoch, since_epoch, since_offset, min(MAX_RECOVERED, self._size)),
            *(max(1, int(self._ttl)), min(ENDED_TTL, self._ttl), self._size, most_jobs, most_bytes),
        ]
        read = call(_READ, self.keys.project_and_begun(project_id), arguments)
        snapshot = Snapshot.of_reply(project_id, self._runner.run(read))
        if (snapshot.epoch, snapshot.offset) == (new_epoch, 0):
            return self._begin(project_id, read) or snapshot
        return snapshot

    def _begin(self, project_id: str, read: Command) -> Snapshot | None:
        """Read again once this Redis has what tells the epochs of projects that have not begun; None if it is full."""
        ttl = max(1, math.ceil(self._ttl))
        replies = self._runner.run_all(
            [command("HSETNX", self.keys.begun, "id", _new_epoch()), command("EXPIRE", self.keys.begun, ttl), read]
        )
        refused = any(isinstance(reply, Exception) for reply in replies)
        return None if refused else Snapshot.of_reply(project_id, replies[-1])

    def recent(self, project_id: str) -> list[dict[str, Any]]:
        """Return the events that are stored of a project, in order, as ``{event, data}``.

        Raises:
            redis.RedisError: Redis cannot be reached.
        """
        epoch = self.read(project_id, most_jobs=0).epoch
        entries: Any = self._runner.client.xrange(self.keys.project(project_id)[1])
        return [decode_event((name, [*itertools.chain(*fields.items())]), epoch) for name, fields in entries]

    def position(self, project_id: str) -> dict[str, Any] | None:
        """Return a project's epoch and offset, or None when Redis cannot be reached."""
        try:
            snapshot = self.read(project_id, most_jobs=0)
        except redis.RedisError as error:
            self._log.error("cannot read the position of a project at %s: %s", *self._where(error))
            return None
        return {"epoch": snapshot.epoch, "offset": snapshot.offset}

    def positions(self, project_ids: list[str]) -> dict[str, tuple[str, int]]:
        """Return the epoch and the newest offset of each of these projects that has one, in one cheap round trip.

        Raises:
            redis.RedisError: Redis cannot be reached.
        """
        commands = [command("HMGET", self.keys.project(name)[0], "epoch", "offset") for name in project_ids]
        replies = zip(project_ids, self._runner.run_all(commands), strict=True)
        read = ((name, reply) for name, reply in replies if isinstance(reply, list))
        return {
            name: (epoch.decode(errors="replace"), int(offset))
            for name, (epoch, offset) in read
            if epoch is not None and offset is not None and offset.isdigit()
        }

    def project_of(self, job_id: str) -> str | None:
        """Return the project of a job of which an event came in the last ``ttl`` seconds, or None.

        Raises:
            redis.RedisError: Redis cannot be reached.
        """
        return self.places.project_of(job_id)

    def job(self, project_id: str, job_id: str) -> dict[str, Any] | None:
        """Return the latest state of one job, as the snapshot has it, or None when it is not known.

        Raises:
            redis.RedisError: Redis cannot be reached.
        """
        entry: Any = self._runner.client.hget(self.keys.project(project_id)[2], legible(job_id))
        return None if entry is None else decode_job(entry)

    # -- the connection -----------------------------------------------------------------------------------------

    def ping(self) -> bool:
        """Tell whether Redis answers."""
        try:
            return bool(self._runner.client.ping())
        except OUTAGES:
            return False

    def close(self) -> None:
        """Close the connections."""
        self._connection.close()

    def _log_refusal(self, error: Exception) -> None:
        self._log.error("%s refused to store history; events are sent without offsets: %s", *self._where(error))

    def _where(self, error: Exception) -> tuple[str, str]:
        return redact(self._url), describe(error)


def _connect(address: RedisAddress) -> RedisConnection:
    try:
        return RedisConnection(address)
    except (ValueError, TypeError, redis.RedisError) as error:
        raise ImproperlyConfigured(
            f"realtime_history_url {redact(address.url)!r} cannot be used ({type(error).__name__})"
        ) from None


def _new_epoch() -> str:
    return secrets.token_hex(4)


def _by_project(events: Iterable[tuple[int, Outgoing]]) -> dict[str, list[tuple[int, Outgoing]]]:
    """Return events with their places in the batch, by their projects."""
    groups: dict[str, list[tuple[int, Outgoing]]] = {}
    for place, event in events:
        groups.setdefault(event.project_id, []).append((place, event))
    return groups


def _unnumbered(event: Outgoing) -> list[Outgoing]:
    """Return what to publish for an event that could not be stored."""
    return [] if is_workflow_look(event) else [event]


def _answer(event: Outgoing, stored: Stored) -> list[Outgoing]:
    """Return what to publish for an event, by what became of it."""
    answer = [stamp(event, {"epoch": stored.epoch, "offset": stored.offset})] if stored.offset else []
    for payload, offset in stored.updates:
        update = Outgoing(event.project_id, WORKFLOW_EVENT, payload, rank=0)
        answer.append(stamp(update, {"epoch": stored.epoch, "offset": offset}))
    return answer


def _rank(event: Outgoing) -> str:
    if event.progress:
        return event.standing.gate or "p"
    if event.rank is None:
        return "c"
    return event.standing.gate or str(event.rank)


def _describe(event: Outgoing) -> list[Any]:
    """Return what append.lua has to know of an event beside its payload; see ``describe`` there."""
    standing, root = event.standing, event.standing.root_id
    # The first line of a job's entry is separated by blanks: a root with blanks would be several words.
    root = root if root and root.split() == [root] else "-"
    return [
        *(event.event, event.job_id or "", event.attempt, _rank(event), standing.percent),
        *(_word(standing.incarnation), standing.kind, root, _word(standing.run), *_start(standing.execution)),
    ]


def _start(execution: Execution | None) -> tuple[str, int, bool]:
    """Return a start's id, its age in milliseconds, and whether its message was delivered before."""
    if execution is None:
        return "-", 0, False
    return _word(execution.id), max(0, round((time.time() - execution.started) * 1000)), execution.redelivered


def _pack(descriptions: list[list[Any]]) -> bytes:
    try:
        return msgspec.msgpack.encode(descriptions)
    except UnicodeEncodeError:
        return msgspec.msgpack.encode(
            [[legible(part) if isinstance(part, str) else part for part in parts] for parts in descriptions]
        )


@functools.lru_cache(maxsize=1000)
def _word(name: str) -> str:
    """Return a name as one word, "-" for none."""
    return "".join(legible(name).split()) or "-"
